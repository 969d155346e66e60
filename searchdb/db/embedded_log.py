"""Bounds the log of the embedded server."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from searchdb.private_folder import FILE_FLAGS

LOG_NAME = "log"
"""The server's log, in its data folder."""
MAX_LOG_BYTES = 10 * 1024**2
"""More than a year of starts and stops. A larger log is emptied; the server goes on at its beginning."""
LOG_OPTIONS = "-c log_min_messages=log -c log_min_error_statement=panic -c log_checkpoints=off"
"""Options of the server: failed statements go to the client that sent them. In the log, each would be a line, and with
statements that time out visitors could fill the disk. Checkpoints would be logged every few minutes."""


def trim_log(data: Path) -> None:
    """Empty the log if it is larger than MAX_LOG_BYTES; the server may be running, which appends to it."""
    with suppress(OSError):
        descriptor = os.open(data / LOG_NAME, os.O_WRONLY | FILE_FLAGS)
        try:
            status = os.fstat(descriptor)
            # One name: the server's user could have linked a file of root's into its folder.
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_size > MAX_LOG_BYTES:
                os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)
