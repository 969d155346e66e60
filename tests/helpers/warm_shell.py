"""A `searchdb` program for lines of bash that starts in tens of milliseconds, by `warm_processes`."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers import warm_client, warm_processes

LARGEST_REQUEST = 1 << 20
FROM_THE_START = (*warm_processes.FREE, *warm_processes.READ)
"""Beginnings of the names of variables that a process has from its start."""
PROGRAM = """
import os
os.environ.update({libpq})
from searchdb.cli import main
main()
"""
"""The command. Libpq reads its variables when it connects; others, such as PATH, are those of the tests."""


@contextmanager
def warm_searchdb() -> Iterator[Path]:
    """Yield the path of a program that runs `searchdb` with its caller's environment, folder and streams.

    Closed streams and a deleted working directory cannot be passed on: they need a new interpreter. So do variables
    that an import may read; those are refused, see `warm_processes`.
    """
    if sys.platform != "linux":
        with tempfile.TemporaryDirectory(prefix="sdb-") as folder:
            yield _program(Path(folder), [sys.executable, "-m", "searchdb"])
        return
    with (
        tempfile.TemporaryDirectory(prefix="sdb-") as folder,  # a short path, as a socket needs one
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
    ):
        address = f"{folder}/socket"
        listener.bind(address)
        listener.listen()
        thread = threading.Thread(target=_serve, args=[listener])
        thread.start()
        client = [sys.executable, "-I", "-S", warm_client.__file__, address]
        try:
            yield _program(Path(folder), client)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _program(folder: Path, command: list[str]) -> Path:
    program = folder / "searchdb"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    program.chmod(0o755)
    return program


def _serve(listener: socket.socket) -> None:
    """Answer each request in a thread, since programs of one line may run at once."""
    threads: list[threading.Thread] = []
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # it was shut down
            break
        threads.append(threading.Thread(target=_answer, args=[connection]))
        threads[-1].start()
    for thread in threads:
        thread.join()


def _answer(connection: socket.socket) -> None:
    with connection:
        message, streams, _, _ = socket.recv_fds(connection, LARGEST_REQUEST, 3)
        try:
            request = json.loads(message)
            variables = request["environment"]
            ours = {name: variables[name] for name in variables if name.startswith(FROM_THE_START)}
            libpq = {name: variables[name] for name in variables if name.startswith("PG")}
            process = warm_processes.start(
                ["-c", PROGRAM.format(libpq=libpq), *request["arguments"]],
                env=os.environ | ours,
                cwd=Path(request["folder"]),
                stdin=streams[0],
                stdout=streams[1],
                stderr=streams[2],
            )
        finally:
            for stream in streams:
                os.close(stream)
        connection.send(str(process.wait()).encode())
