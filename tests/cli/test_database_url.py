"""DATABASE_URL at the command line: libpq's forms of it work, and its secrets stay out of messages and of `ps`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from searchdb.config import Settings
from searchdb.database_url import libpq_url, parameters
from searchdb.db.embedded_programs import program_path
from tests.helpers import warm_processes
from tests.helpers.cli import output, run
from tests.helpers.waiting import GIVE_UP_S


def address(settings: Settings) -> dict[str, str]:
    """libpq's parameters of a database of the tests."""
    url = settings.url()
    assert url is not None
    return parameters(url)


@pytest.fixture(autouse=True)
def _no_variables_of_libpq(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PG"):
            monkeypatch.delenv(name)


def call(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run searchdb in a new interpreter with these variables."""
    command = [sys.executable, "-m", "searchdb", *arguments]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)


def schema(process: subprocess.CompletedProcess[str]) -> Mapping[str, object]:
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_every_form_of_address_leads_to_the_database(settings: Settings) -> None:
    at = address(settings)
    socket, name = at["host"].replace("/", "%2F"), at["dbname"]
    for text in (
        f"postgresql://postgres@{socket}/{name}",
        f"postgresql://postgres@127.0.0.1:1,{socket}:{at['port']}/{name}?target_session_attrs=read-write",
        f"host={at['host']} port={at['port']} user=postgres dbname={name}",
    ):
        state = json.loads(output(run(settings.model_copy(update=given(text)), "db", "status", "--json")))
        assert state["schema"] == state["expected_schema"]


def given(text: str) -> dict[str, object]:
    return {"database_url": Settings(database_url=text).database_url}


def test_the_environment_names_the_database(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    at = address(settings)
    for variable, name in {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGDATABASE": "dbname"}.items():
        monkeypatch.setenv(variable, at[name])
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    environment = settings.model_copy(update=given("postgresql://"))
    state = json.loads(output(run(environment, "db", "status", "--json")))
    assert (state["embedded"], state["schema"]) == (False, state["expected_schema"])
    assert conninfo_to_dict(state["url"]) == at
    assert conninfo_to_dict(output(run(environment, "db", "url")).strip()) == at
    assert run(environment, "status").exit_code == 0


def test_the_printed_url_is_one_for_psql(settings: Settings) -> None:
    at = address(settings)
    hosts = f"host=127.0.0.1,{at['host']} port=1,{at['port']} user=postgres dbname={at['dbname']}"
    printed = output(run(settings.model_copy(update=given(hosts)), "db", "url")).strip()
    psql = [str(program_path("psql")), printed, "-Atc", "SELECT current_database()"]
    assert subprocess.run(psql, capture_output=True, text=True, check=True).stdout.strip() == at["dbname"]


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        (["status"], "postgresql://u@127.0.0.1:1/d?password=S3CRET&sslpassword=S3CRET"),
        (["db", "status", "--json"], "host=127.0.0.1 port=1 user=u dbname=d password=S3CRET sslpassword=S3CRET"),
        (["--debug", "search", "a boat"], "postgresql://u:S3CRET@127.0.0.1:1/d?sslpassword=S3CRET"),
        (["--debug", "worker"], "postgresql://u:S3CRET@127.0.0.1:1/d?S3CRET"),
    ],
)
def test_no_message_has_a_secret(arguments: list[str], url: str) -> None:
    environment = os.environ | {"DATABASE_URL": url}
    process = warm_processes.run(["-m", "searchdb", *arguments], env=environment, timeout=GIVE_UP_S)
    assert process.returncode == 1
    assert "S3CRET" not in process.stdout + process.stderr


def test_a_host_name_that_cannot_be_one_is_one_line() -> None:
    process = call("status", DATABASE_URL=f"postgresql://u@{'h' * 80}/d")
    assert process.returncode == 1
    assert process.stderr.startswith("Error: cannot reach the database")
    assert len(process.stderr.splitlines()) == 1


SHOW_ARGUMENTS = r"""#!/bin/sh
for each in "$@"; do echo "$each"; done
echo "password=$PGPASSWORD"
cat "$PGSERVICEFILE"
tr '\0' ' ' < /proc/$PPID/cmdline
"""


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads command lines in /proc")
@pytest.mark.parametrize("joined", [True, False])
def test_no_command_line_has_a_secret(settings: Settings, tmp_path: Path, joined: bool) -> None:
    """Not our own, where the option brought it, nor that of a child process; the child gets it nevertheless."""
    psql = tmp_path / "psql"
    psql.write_text(SHOW_ARGUMENTS)
    psql.chmod(0o755)
    url = settings.url()
    assert url is not None
    secret = f"{libpq_url(url.set(password='S3CRET'))}&sslpassword=S3CRET"
    option = [f"--database-url={secret}"] if joined else ["--database-url", secret]
    process = call("--model", "demo", *option, "db", "shell", "-X", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert lines[:2] == ["-X", libpq_url(url)]
    assert lines[2:5] == ["password=S3CRET", "[searchdb]", "sslpassword=S3CRET"]
    assert lines[5].split()[-4:] == ["demo", "db", "shell", "-X"]
    assert "S3CRET" not in lines[5]
