"""Standard streams that are closed, full, broken, or lack characters: one line and a status, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import sqlalchemy as sa

from searchdb.config import Settings
from searchdb.db.database import Database
from tests.helpers.warm_shell import warm_searchdb

NO_SPACE = "Error: cannot write to standard output: No space left on device\n"
CLOSED = "Error: cannot write to standard output: Bad file descriptor\n"


def shell(
    settings: Settings,
    line: str,
    *,
    folder: Path | None = None,
    encoding: str = "utf-8",
    new_interpreter: bool = False,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `$searchdb` is the command; the status is that of the first program of a pipe.

    The command is a warm process or a `new_interpreter`, as it must be where a stream is closed.
    """
    assert settings.database_url is not None
    variables = os.environ | {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "SEARCHDB_HOME": str(settings.home),
        "SEARCHDB_MODEL": "demo",
        **environment,
    }
    script = f"{line}\nexit ${{PIPESTATUS[0]}}"
    if new_interpreter:
        variables["PYTHONPATH"] = os.pathsep.join(sys.path)
    with nullcontext(f"{sys.executable} -m searchdb") if new_interpreter else warm_searchdb() as program:
        variables["searchdb"] = str(program)
        result = subprocess.run(
            ["bash", "-c", script], env=variables, cwd=folder, capture_output=True, encoding=encoding, check=False
        )
    assert "Traceback" not in result.stderr, result.stderr
    assert "Exception ignored" not in result.stderr, result.stderr
    return result


@pytest.mark.parametrize(
    ("line", "status", "error"),
    [
        ("$searchdb db url >/dev/full", 1, NO_SPACE),
        ("$searchdb db url >&-", 1, CLOSED),
        ("$searchdb --help >/dev/full", 1, NO_SPACE),
        ("$searchdb --help >&- 2>&-", 1, ""),
        ("$searchdb db url | true", 141, ""),
        ("$searchdb db shell --command='SELECT repeat($$x$$, 1000000)' | true", 141, ""),
        ("$searchdb db url 2>&- <&-", 0, ""),
        ("$searchdb nonsense 2>/dev/full", 2, ""),
        (
            "$searchdb ingest urls - <&- 2>&1 | tail -n 1 >&2",
            1,
            "Error: cannot read standard input: Bad file descriptor\n",
        ),
    ],
)
def test_streams_that_cannot_be_used(settings: Settings, line: str, status: int, error: str) -> None:
    result = shell(settings, line, new_interpreter="&-" in line)
    assert (result.returncode, result.stderr) == (status, error)


def test_an_ingest_does_not_need_its_progress_bar(settings: Settings, database: Database, album: Path) -> None:
    result = shell(settings, f"$searchdb ingest files {album} --limit 3 --json 2>/dev/full")
    assert result.returncode == 0
    assert json.loads(result.stdout)["done"] == 3
    assert shell(settings, f"$searchdb ingest files {album} --limit 3 --json >/dev/full").stderr.endswith(NO_SPACE)


@pytest.mark.parametrize(
    ("encoding", "option", "readable", "shown"),
    [
        ("latin-1", "", "latin-1", r"/é/\u65e5\u672c.jpg"),
        ("latin-1", "--json", "latin-1", r"/\u00e9/\u65e5\u672c.jpg"),
        ("ascii", "", "utf-8", "/é/日本.jpg"),  # click writes UTF-8 instead of ASCII
    ],
)
def test_output_in_other_encodings(
    settings: Settings, database: Database, encoding: str, option: str, readable: str, shown: str
) -> None:
    with database.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO ingest_failures (image, source, error, message, retryable) "
                "VALUES ('/é/日本.jpg', 'files', 'DecodeError', 'damaged', false)"
            )
        )
    line = f"$searchdb failures list {option}"
    result = shell(settings, line, encoding=readable, new_interpreter=True, PYTHONIOENCODING=encoding)
    assert result.returncode == 0
    assert shown in result.stdout


def test_a_statement_that_is_not_text(settings: Settings) -> None:
    result = shell(settings, "$searchdb sql \"SELECT '$(printf '\\377')'\"")
    assert result.returncode == 1
    [error] = [line for line in result.stderr.splitlines() if not line.startswith("WARNING")]
    assert error.startswith(r"Error: the bytes '\udcff' are not valid UTF-8")


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("ingest files .", "the current folder no longer exists"),
        ("--home relative db status", "SEARCHDB_HOME: the current folder no longer exists"),
    ],
)
def test_a_current_folder_that_was_deleted(settings: Settings, tmp_path: Path, command: str, error: str) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    result = shell(settings, f"rmdir {folder}; $searchdb {command}", folder=folder, new_interpreter=True)
    assert result.returncode == 1
    assert result.stderr.startswith(f"Error: {error}")


def test_a_user_without_a_home_folder(settings: Settings) -> None:
    result = shell(settings, "$searchdb --home '~nobody-has-this-name/x' db url")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: SEARCHDB_HOME: the home folder of this user is unknown")
