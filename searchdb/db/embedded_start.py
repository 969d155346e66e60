"""Starts and stops PostgreSQL on a data folder, and recognises the server that runs on it.

The folder may have been moved or copied, also while a server ran on it. Therefore the server puts its socket into its
data folder wherever that is, and a server that listens there is trusted only if its data is in that folder.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import pq

from searchdb.db.embedded_log import LOG_NAME, LOG_OPTIONS, trim_log
from searchdb.db.embedded_programs import reason, run_program, server_user
from searchdb.errors import EmbeddedServerError
from searchdb.private_folder import read_text

PORT = 5432
SOCKET_NAME = f".s.PGSQL.{PORT}"
START_OPTIONS = f"-k . -p {PORT} {LOG_OPTIONS}"
"""Options of every start, which take precedence over the configuration files: the server's working folder is its data
folder. Older versions of searchdb wrote the folder's path into postgresql.conf, where it is wrong after a move."""
_PARAMETERS: dict[str, Any] = {
    "hostaddr": "",
    "sslmode": "disable",
    "sslnegotiation": "postgres",
    "gssencmode": "disable",
    "channel_binding": "prefer",
    "require_auth": "",
    "requirepeer": "",
    "target_session_attrs": "any",
    "load_balance_hosts": "disable",
}
FOREIGN_VARIABLES = frozenset(f"PG{name.replace('_', '').upper()}" for name in _PARAMETERS)
"""Environment variables that are meant for another server: with PGHOSTADDR, for example, libpq would connect to it."""
CONNECTION_PARAMETERS = {
    option.keyword.decode(): _PARAMETERS[option.keyword.decode()]
    for option in pq.Conninfo.get_defaults()
    if option.keyword.decode() in _PARAMETERS
}
"""libpq's parameters for a connection to the socket, in their place; without those that this libpq does not know."""
LOCK_FILES = ("postmaster.pid", f"{SOCKET_NAME}.lock")
"""Files with the process and the data folder of the server that made them."""
START_TIMEOUT = 300
"""Seconds for the server to accept connections; after a crash it replays its log first."""
STOP_TIMEOUT = 300
"""Seconds for the server to write its last checkpoint and exit."""
ATTEMPTS = 5
"""Attempts to start, a second apart, while a killed server leaves traces."""
REMAINS_OF_A_SERVER = ('lock file "postmaster.pid" already exists', "shared memory block")
IN_TRANSITION = ("the database system is ", "closed the connection unexpectedly", "Connection re")
"""Parts of the errors of a server that starts, stops or was killed (the last: a connection reset or refused)."""
FULL_DISK_BYTES = 1 << 20
"""A file system with less free space than this is full: PostgreSQL cannot even log why it fails."""


@dataclass(frozen=True, kw_only=True)
class ListeningServer:
    """A server that listens in a folder: the path of its data when it started, and its own postmaster.pid."""

    data_directory: str
    pid_file: str

    @property
    def pid(self) -> str:
        """Its process id."""
        return self.pid_file.partition("\n")[0]

    def owns(self, data: Path) -> bool:
        """Whether its data is in this folder."""
        return _is_folder(self.data_directory, data)

    def was_moved_to(self, data: Path) -> bool:
        """Whether its data folder was moved here while it ran."""
        return self.pid_file == read_text(data / "postmaster.pid")


def is_listening(data: Path) -> bool:
    """Whether some server accepts connections on the socket in this folder."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(data / SOCKET_NAME))
        except OSError:
            return False
        return True


def find_server(data: Path) -> ListeningServer | None:
    """Return the server that listens in this folder, None if none does; wait while it starts or stops.

    Raises:
        EmbeddedServerError: a server listens, but does not accept our connection.
    """
    give_up_at = time.monotonic() + START_TIMEOUT
    while is_listening(data):
        try:
            with psycopg.connect(
                host=str(data), port=PORT, user="postgres", dbname="postgres", **CONNECTION_PARAMETERS
            ) as connection:
                row = connection.execute("SELECT current_setting('data_directory'), pg_read_file('postmaster.pid')")
                directory, pid_file = row.fetchone() or ("", "")
                return ListeningServer(data_directory=directory, pid_file=pid_file)
        except psycopg.Error as exc:
            # Without a connection psycopg knows no SQLSTATE.
            if not any(phrase in str(exc) for phrase in IN_TRANSITION) or time.monotonic() > give_up_at:
                refusal = reason(str(exc)) or str(exc)
                raise EmbeddedServerError(f"the server in {data} does not accept connections: {refusal}") from exc
        time.sleep(0.1)
    return None


def initialise(home: Path, data: Path) -> None:
    """Make the data folder under another name and rename it, so that a killed start leaves no partial folder.

    Raises:
        EmbeddedServerError: initdb failed; nothing is left behind.
    """
    fresh = home / "postgres.new"
    shutil.rmtree(fresh, ignore_errors=True)
    user = server_user()
    # No path: the folder may be moved.
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": ".",
        "unix_socket_permissions": "0700",
        "log_destination": "stderr",
        "logging_collector": "off",
    }
    try:
        fresh.mkdir(mode=0o700)
        if user is not None:
            os.chown(fresh, user.pw_uid, user.pw_gid, follow_symlinks=False)
        run_program(
            "initdb",
            "--pgdata", str(fresh), "--username=postgres", "--auth=trust", "--encoding=UTF8",
            "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C",
            *(f"--set={name}={value}" for name, value in settings.items()),
            timeout=START_TIMEOUT,
        )  # fmt: skip
        fresh.rename(data)
    except (EmbeddedServerError, OSError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise EmbeddedServerError(f"cannot make the database in {home}: {_with_full_disk(why or '', home)}") from exc
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def start(data: Path) -> None:
    """Start the server on a data folder, in which no server listens, and wait until it accepts connections.

    Raises:
        EmbeddedServerError: it does not start; the message says why, as PostgreSQL logged it, and no server is left.
    """
    _discard_stale_lock_files(data)
    before = _pid(data)
    if before is not None:
        # As process 1 of a container we are the parent of a killed server: until we reap it, it seems alive.
        with suppress(ChildProcessError):
            os.waitpid(before, os.WNOHANG)
    # Of a server that was killed just now, the process may still be listed, and its backends hold the shared memory.
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _start_once(data, before)
        except EmbeddedServerError as exc:
            if attempt == ATTEMPTS or not any(remains in str(exc) for remains in REMAINS_OF_A_SERVER):
                raise
            time.sleep(1)
        else:
            return


def stop(data: Path, how: str = "fast") -> None:
    """Stop the server on a data folder; `how` is one of pg_ctl's modes.

    Raises:
        EmbeddedServerError: it does not stop.
    """
    try:
        _pg_ctl("stop", data, "-m", how, timeout=STOP_TIMEOUT)
    except EmbeddedServerError as exc:
        raise EmbeddedServerError(f"the embedded server does not stop: {exc}. See {data / LOG_NAME}") from exc


def _start_once(data: Path, before: int | None) -> None:
    trim_log(data)
    log = data / LOG_NAME
    logged = _size(log)
    try:
        _pg_ctl("start", data, "-l", str(log), "-o", START_OPTIONS, timeout=START_TIMEOUT)
        server = find_server(data)
        if server is None or not server.owns(data):
            raise EmbeddedServerError("it does not listen in its folder")
    except BaseException as exc:
        if _pid(data) not in (None, before):
            with suppress(EmbeddedServerError):  # the first error is the one to report
                stop(data, "immediate")
        if not isinstance(exc, EmbeddedServerError):
            raise
        why = _with_full_disk(reason(read_text(log, logged)) or str(exc), data)
        raise EmbeddedServerError(f"the embedded server does not start: {why}. See {log}") from exc


def _pg_ctl(action: str, data: Path, *arguments: str, timeout: float) -> None:
    """Run pg_ctl and wait up to `timeout` seconds for it, with ten more for it to say why it failed."""
    run_program("pg_ctl", action, "-w", "-t", str(int(timeout)), "-D", str(data), *arguments, timeout=timeout + 10)


def _discard_stale_lock_files(data: Path) -> None:
    """Delete the lock files that name another folder, or a process that is not a server on this one.

    Those of a folder that was copied or moved here name the server of the original, which may be alive. After a loss of
    power, any process may have the number of the server that was lost. PostgreSQL would refuse to start. If a server
    does run on this very folder, PostgreSQL still refuses, because it finds the shared memory by the folder's inode.
    """
    for path in (data / name for name in LOCK_FILES):
        lines = read_text(path).splitlines()
        if len(lines) > 1 and (not _is_folder(lines[1], data) or _works_elsewhere(lines[0].strip().lstrip("-"), data)):
            path.unlink(missing_ok=True)


def _works_elsewhere(pid: str, data: Path) -> bool:
    """Whether a process is alive and has another working folder than a server on this one; only Linux tells."""
    try:
        return pid.isdecimal() and not data.samefile(f"/proc/{pid}/cwd")
    except OSError:
        return False


def _pid(data: Path) -> int | None:
    first = read_text(data / "postmaster.pid").partition("\n")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _is_folder(path: str, folder: Path) -> bool:
    with suppress(OSError, ValueError):
        return Path(path).samefile(folder)
    return False


def _with_full_disk(why: str, folder: Path) -> str:
    with suppress(OSError):
        if "No space left" not in why and shutil.disk_usage(folder).free < FULL_DISK_BYTES:
            return f"no space is left on the device of {folder} ({why})"
    return why
