"""The process that decodes one costly image: bytes come by stdin, the answer goes to stdout."""

from __future__ import annotations

import json
import resource
import sys

from searchdb.errors import DecodeError, DecodeTooCostlyError
from searchdb.media.helper import pack, pack_error
from searchdb.media.image_reader import load, open_image, reduce_while_loading


def main() -> None:
    """Limit this process, then decode."""
    task = json.loads(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CPU, (task["cpu_s"], task["cpu_s"] + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (task["memory_bytes"], task["memory_bytes"]))
    data = sys.stdin.buffer.read()
    try:
        with open_image(task["name"], data, max_pixels=task["max_pixels"]) as image:
            reduce_while_loading(image, task["needed"])
            answer = pack(*load(image, task["needed"]))
    except (DecodeError, MemoryError) as exc:
        if isinstance(exc, MemoryError) or isinstance(exc.__cause__, MemoryError):
            limit = f"{task['memory_bytes']:,} bytes of memory"
            exc = DecodeTooCostlyError(f"decoding the {task['name']} takes more than {limit}, which is the limit")
        answer = (pack_error(exc),)
    for part in answer:
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
