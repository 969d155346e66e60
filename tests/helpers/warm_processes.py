"""Starts Python processes that need not import torch and transformers, which takes several seconds of each new one.

A server imports them once per run of pytest, and forks a process for each command. Such a process is a real one: it has
its own id, memory, threads, signals, environment, folder and streams, and its own session if asked for; it can be
killed; it ends as every interpreter does. It runs the same code on the same database. It does not test the start:

- that a module can be imported at all, and what its import does or reads: environment variables such as HF_HOME or
  OMP_NUM_THREADS, the options of the interpreter. Therefore a test cannot give a process other variables than those in
  FREE, nor change for the whole run of pytest those in READ.
- the time until a process is ready, and the memory of a new one.
- the order of sets of strings, which is the same in all processes of a server.
- what objects do when the interpreter destroys them at its end; functions that `atexit` knows are called.

Each command has tests that start a new interpreter, too.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from tests.helpers import warm_server

FREE = ("SEARCHDB_", "DATABASE_URL", "FLASK_APP", "PYTEST_CURRENT_TEST")
"""Beginnings of the names of variables that a test may set for a process: no module reads them when it is imported."""
READ = ("HF_", "LANG", "LC_", "LD_", "MKL_", "OMP_", "OPENBLAS_", "PYTHON", "TMPDIR", "TORCH_", "TRANSFORMERS_", "TZ")
"""Those of variables that imports do read, or the start of an interpreter. Others may change in the course of a run of
pytest, as when torch sets TORCHINDUCTOR_CACHE_DIR in its process, and are passed on."""


class WarmProcess:
    """A process of the server; its methods are those of `subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], pid: int, status: socket.socket) -> None:
        self.args = arguments
        self.pid = pid
        self.returncode: int | None = None
        self._status = status
        weakref.finalize(self, status.close)

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""
        if self.returncode is None:
            try:
                # The message remains there for other threads that ask.
                answer = self._status.recv(16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            if not answer:
                raise ChildProcessError("the server of warm processes has ended: its processes' status is unknown")
            self.returncode = int(answer)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status when the process has ended; raises `subprocess.TimeoutExpired`."""
        poll = select.poll()
        poll.register(self._status, select.POLLIN)
        poll.poll(None if timeout is None else timeout * 1000)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended since
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Process = WarmProcess | subprocess.Popen[bytes]


class _Server:
    """The server, which ends with this process. With `empty`, it imports nothing."""

    def __init__(self, *, empty: bool = False) -> None:
        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, warm_server.__file__, str(other.fileno()), *(["--empty"] if empty else [])],
                cwd=warm_server.ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
            )
        self._environment = dict(os.environ)
        atexit.register(self.stop)

    def stop(self) -> None:
        self._control.close()
        self._process.wait()

    def start(
        self, arguments: Sequence[str], streams: Sequence[int], environment: Mapping[str, str], **options: Any
    ) -> WarmProcess:
        given = {name for name in _differ(environment, os.environ) if not name.startswith(FREE)}
        changed = {name for name in _differ(environment, self._environment) if name.startswith(READ)}
        if unfit := sorted(given | changed):
            raise ValueError(f"{', '.join(unfit)} may be read by an import: start a new interpreter")
        request = {"arguments": arguments, "environment": dict(environment), **options}
        status, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            socket.send_fds(self._control, [json.dumps(request).encode()], [*streams, other.fileno()])
        _, started, pid = status.recv(64).decode().partition(warm_server.STARTED)
        if not started:
            status.close()
            raise ChildProcessError(f"no process was started for {arguments}")
        return WarmProcess(arguments, int(pid), status)


def _differ(one: Mapping[str, str], other: Mapping[str, str]) -> Iterator[str]:
    """Yield the names of variables that only one has, or that have different values."""
    for name in one.keys() | other.keys():
        if one.get(name) != other.get(name):
            yield name


_lock = threading.Lock()
_servers: list[_Server] = []


def _server() -> _Server:
    with _lock:
        if not _servers:
            _servers.append(_Server())
        return _servers[0]


def start(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int | IO[Any] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    start_new_session: bool = False,
) -> Process:
    """Start Python with `-m MODULE ARGUMENTS` or `-c CODE ARGUMENTS`; the options are those of `subprocess.Popen`.

    The streams are files or descriptors, DEVNULL or STDOUT, or this process's own; pipes are not made. Only Linux has
    the server: elsewhere, the libraries of the system do not survive a fork, and the process is a new interpreter.
    """
    if sys.platform != "linux":
        return start_interpreter(
            arguments,
            env=env,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=start_new_session,
        )
    with open(os.devnull, "r+b") as nothing:  # noqa: PTH123 - devnull is a string
        descriptors: list[int] = []
        for number, stream in enumerate((stdin, stdout, stderr)):
            if stream is None:
                descriptors.append(number)
            elif stream == subprocess.DEVNULL:
                descriptors.append(nothing.fileno())
            elif stream == subprocess.STDOUT:
                descriptors.append(descriptors[1])
            else:
                descriptors.append(stream if isinstance(stream, int) else stream.fileno())
        return _server().start(
            list(arguments),
            descriptors,
            os.environ if env is None else env,
            folder=str(Path.cwd() if cwd is None else cwd.absolute()),
            new_session=start_new_session,
        )


def start_interpreter(arguments: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a new interpreter, for a test that includes its start; arguments and options are those of `start`."""
    return cast("subprocess.Popen[bytes]", subprocess.Popen([sys.executable, *arguments], **options))


def run(
    arguments: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Start Python, without input, and return what it printed when it has ended; see `start`."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = start(arguments, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        try:
            process.wait(timeout)
        finally:
            process.kill()
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(arguments, process.wait(), stdout.read(), stderr.read())
