"""Limits the processes that decode hostile files: what they see of the environment, their priority, memory and life."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from searchdb.errors import DecoderLostError

NICENESS = 10
"""Helpers give way to searches: they get a tenth of a processor that others want."""

_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR")
"""The rest of the environment, with passwords and tokens, is not for a process that reads hostile files."""
_PR_SET_PDEATHSIG = 1


def start_helper(module: str, task: str, *, stdin: int, purpose: str) -> subprocess.Popen[bytes]:
    """Start a module as a helper process, with pipes for what it writes.

    `task` is its argument, `stdin` a descriptor or `subprocess.PIPE`, and `purpose` ends the message of the error.

    Raises:
        DecoderLostError: it cannot be started.
    """
    try:
        # -P: modules are not taken from the current folder. A session of its own: Ctrl-C is for this process only.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module, task],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=helper_environment(),
            start_new_session=True,
        )
    except OSError as exc:  # too many processes, or no memory for one
        raise DecoderLostError(f"no process can be started now to {purpose} ({exc.strerror})") from exc


def helper_environment() -> dict[str, str]:
    """Return the environment for a helper process."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    # A thread or an arena per core would take address space for nothing.
    few = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    return kept | few | {"PYTHONPATH": os.pathsep.join(filter(os.path.isabs, sys.path))}


def enter_sandbox(*, parent: int, memory_bytes: int, niceness: int = NICENESS) -> None:
    """Give way to all others, end when the process `parent` ends, and limit the memory beyond what is loaded already.

    Only Linux ends the process with its parent, and limits its memory; elsewhere the limits of time end it.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(niceness)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before
            sys.exit(1)
        own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = own + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
