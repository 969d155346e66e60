"""The process that decodes one costly image: bytes come by stdin, the answer goes to stdout."""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

from PIL import AvifImagePlugin, Image

from searchdb.errors import DecodeError, DecodeTooCostlyError
from searchdb.media.exif import Exif
from searchdb.media.helper import pack, pack_error
from searchdb.media.image_reader import load, open_image, reduce_while_loading
from searchdb.media.sandbox import enter_sandbox


def main() -> None:
    """Limit this process, then decode."""
    task = json.loads(sys.argv[1])
    _limit(task)
    try:
        answer = pack(*_decoded(task, sys.stdin.buffer.read()))
    except (DecodeError, MemoryError) as exc:
        if isinstance(exc, MemoryError) or _ran_out_of_memory(exc.__cause__):
            limit = f"{task['memory_bytes']:,} bytes of memory"
            exc = DecodeTooCostlyError(f"decoding the {task['name']} takes more than {limit}, which is the limit")
        answer = (pack_error(exc),)
    for part in answer:
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


def _decoded(task: dict[str, Any], data: bytes) -> tuple[Image.Image, Exif]:
    with open_image(task["name"], data, max_pixels=task["max_pixels"]) as image:
        reduce_while_loading(image, task["needed"])
        return load(image, task["needed"])


def _limit(task: dict[str, Any]) -> None:
    """Limit time and memory, give way to all others, and end when the parent ends."""
    resource.setrlimit(resource.RLIMIT_CPU, (task["cpu_s"], task["cpu_s"] + 1))
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each takes address space, and all together share the processor time
    enter_sandbox(parent=task["parent"], memory_bytes=task["memory_bytes"], niceness=task["niceness"])


def _ran_out_of_memory(cause: BaseException | None) -> bool:
    return isinstance(cause, MemoryError) or "out of memory" in str(cause).lower()


if __name__ == "__main__":
    main()
