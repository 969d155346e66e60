"""The process that those of `warm_processes` are forked from: it imports what commands import, and waits for them."""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

LARGEST_REQUEST = 1 << 20

STARTED = "started "
"""Begins the message with the process id; that with the exit status is a number."""

LIBRARIES = (
    "PIL.Image",
    "alembic.config",
    "cachetools",
    "defusedxml.ElementTree",
    "flask_openapi3",
    "numpy.random",
    "pathspec",
    "pgvector.psycopg",
    "pgvector.sqlalchemy",
    "pi_heif",
    "platformdirs",
    "procrastinate.worker",
    "psycopg_pool",
    "pydantic_settings",
    "requests",
    "rich.console",
    "rich.progress",
    "rich.table",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlglot",
    "tenacity",
    "watchfiles",
)
"""What commands import besides torch and transformers. Not gunicorn and prometheus_client, which read the environment
when they are imported. Modules of searchdb are left to each process, as far as these need none: tests replace constants
of one module before others import it, and `web` reads the environment."""


@dataclass(frozen=True, kw_only=True)
class Child:
    """A forked process; `ended` can be read once it has ended, `status` goes to the process that asked for it."""

    pid: int
    ended: int
    status: socket.socket

    def report(self) -> None:
        """Send its exit status, then forget the process, so that its id is not given to another one before."""
        result = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        assert result is not None
        code = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        with suppress(BrokenPipeError):  # the process that asked has ended
            self.status.send(str(code).encode())
        os.waitpid(self.pid, 0)
        self.close()

    def close(self) -> None:
        os.close(self.ended)
        self.status.close()


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a forked process runs: Python's arguments, its environment, folder and session."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str
    new_session: bool
    paths: Sequence[str]
    interrupt: Any

    def prepare(self, descriptors: Sequence[int], status: socket.socket) -> None:
        """Make the process what a new interpreter would be, and tell its id to the one who waits for it."""
        if self.new_session:
            os.setsid()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(self.folder)
        os.environ.clear()
        os.environ.update(self.environment)
        # Torch begins with the same numbers in every process, and `random` seeds itself again after a fork.
        if numpy_random := sys.modules.get("numpy.random"):
            numpy_random.seed()
        signal.signal(signal.SIGINT, self.interrupt)
        with status:
            status.send(f"{STARTED}{os.getpid()}".encode())

    def run(self) -> None:
        """Run the module or the code as the interpreter would."""
        option, program, *rest = self.arguments
        sys.orig_argv[:] = [sys.executable, *self.arguments]
        sys.argv[:] = [option, *rest]
        if option == "-m":
            sys.path[:] = [os.getcwd(), *self.paths]  # noqa: PTH109 - a string
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            sys.path[:] = ["", *self.paths]
            main = types.ModuleType("__main__")
            main.__dict__["__builtins__"] = __builtins__
            sys.modules["__main__"] = main
            exec(compile(program, "<string>", "exec", dont_inherit=True), main.__dict__)  # noqa: S102 - as `python -c`


def run_to_the_end(command: Command) -> None:
    """Run a command, and end the process as an interpreter ends, but without taking the modules down.

    Destroying torch's objects takes half a second of each process, because their memory is copied first. Uncaught
    exceptions, and output that cannot be written, are left to the interpreter.
    """
    try:
        command.run()
        status = 0
    except SystemExit as exc:
        if not isinstance(exc.code, int | None):
            raise
        status = exc.code or 0
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.exit(status)
    os._exit(status & 0xFF)


def import_libraries() -> None:
    """Import the libraries. None of them may start a thread or open a file, or keep the value of a variable."""
    for name in LIBRARIES:
        importlib.import_module(name)
    importlib.import_module("searchdb.media.embed").import_libraries()


def serve(control: socket.socket, paths: Sequence[str], interrupt: Any) -> Command | None:
    """Fork a process for each request until nobody can send more; returns None then, and in each process its command.

    The process leaves this function as the server does, so that it ends as any other: with what was registered for its
    end, the threads that it waits for, and the streams that it flushes.
    """
    children: list[Child] = []
    with selectors.PollSelector() as selector:  # which has no descriptor of its own, as epoll has
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.data is not None:
                    selector.unregister(key.fileobj)
                    key.data.report()
                    children.remove(key.data)
                    continue
                request, descriptors, _, _ = socket.recv_fds(control, LARGEST_REQUEST, 4)
                if not request:
                    return None
                assert threading.active_count() == 1
                *streams, last = descriptors
                status = socket.socket(fileno=last)
                if pid := os.fork():
                    for descriptor in streams:
                        os.close(descriptor)
                    child = Child(pid=pid, ended=os.pidfd_open(pid), status=status)
                    children.append(child)
                    selector.register(child.ended, selectors.EVENT_READ, child)
                else:
                    control.close()
                    for child in children:
                        child.close()
                    command = Command(**json.loads(request), paths=paths, interrupt=interrupt)
                    command.prepare(streams, status)
                    return command


def main() -> None:
    # Ctrl-C in a terminal is for pytest, and for the processes of tests.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    paths = sys.path[1:]  # without the folder of this file
    sys.path[0] = str(ROOT)
    if sys.argv[2:] != ["--empty"]:
        import_libraries()
    gc.collect()
    gc.freeze()  # otherwise each process would copy the memory of all these objects when it first looks for garbage
    if command := serve(socket.socket(fileno=int(sys.argv[1])), paths, interrupt):
        run_to_the_end(command)


if __name__ == "__main__":
    main()
