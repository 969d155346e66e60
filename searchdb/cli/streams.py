"""Prepares the standard streams: closed ones, a full disk behind one, a reader that has left, characters it lacks."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

BROKEN_PIPE_STATUS = 128 + signal.SIGPIPE
"""The exit status that a shell shows for a program whose reader has left, as in `searchdb search car | head -1`."""

_INPUT, _OUTPUT, _ERRORS = 0, 1, 2


class OutputError(Exception):
    """Standard output cannot be written; `errno` says why. Not an OSError, whose cause could be any file."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to standard output: {error.strerror}")
        self.errno = error.errno


@contextmanager
def standard_streams() -> Generator[None]:
    """Let a command use the standard streams, whatever they are.

    What cannot be printed on standard output ends the program with one line and status 1, or without a line and with
    BROKEN_PIPE_STATUS if the reader has left. Messages that cannot be written to standard error are lost.
    """
    _open_closed_ones()
    sys.stdin, sys.stdout, sys.stderr = (
        _text(sys.stdin, io.BufferedReader(_Input(_INPUT, closefd=False))),
        _text(sys.stdout, io.BufferedWriter(_Output(_OUTPUT, "w", closefd=False))),
        _text(sys.stderr, io.BufferedWriter(_Errors(_ERRORS, "w", closefd=False)), line_buffering=True),
    )
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OutputError as exc:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - it is flushed again at the exit
        if exc.errno == errno.EPIPE:
            sys.exit(BROKEN_PIPE_STATUS)
        click.echo(f"Error: {exc}", err=True)
        sys.exit(1)


class _Input(io.FileIO):
    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as exc:
            raise OSError(exc.errno, f"cannot read standard input: {exc.strerror}") from exc

    def readall(self) -> bytes:
        try:
            return super().readall()
        except OSError as exc:
            raise OSError(exc.errno, f"cannot read standard input: {exc.strerror}") from exc


class _Output(io.FileIO):
    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as exc:
            raise OutputError(exc) from exc


class _Errors(io.FileIO):
    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _open_closed_ones() -> None:
    """Open closed streams, so that no other file takes their number, in a way that using them is still an error."""
    for number, flags in ((_INPUT, os.O_WRONLY), (_OUTPUT, os.O_RDONLY), (_ERRORS, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened == number:
                os.set_inheritable(number, True)
            else:
                os.dup2(opened, number)
                os.close(opened)


def _text(
    former: Any, binary: io.BufferedReader | io.BufferedWriter, *, line_buffering: bool = False
) -> io.TextIOWrapper:
    """Return a stream with the encoding of the former one; characters that the encoding lacks are escaped."""
    encoding = getattr(former, "encoding", None) or "utf-8"
    errors = "surrogateescape" if isinstance(binary, io.BufferedReader) else "backslashreplace"
    line_buffering = line_buffering or getattr(former, "line_buffering", False)
    return io.TextIOWrapper(binary, encoding=encoding, errors=errors, line_buffering=line_buffering)
