"""Connection strings: every form that libpq takes, with secrets masked wherever one is shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from searchdb.config import Settings
from searchdb.database_url import (
    SECRETS,
    effective_url,
    for_a_command_line,
    libpq_url,
    masked_url,
    parameters,
    parse_url,
)

STRINGS = [
    "postgresql://u:pw@h:1/d",
    "postgres://u:pw@h/d?sslmode=require&application_name=a%20b",
    "postgresql://h1:1,h2:2/d?target_session_attrs=read-write",
    "postgresql://h1,h2/d?port=1",
    "postgresql://u@%2Frun%2Fa%20socket/d",
    "postgresql:///d?host=/a%20folder/x%2By",
    "postgresql://[::1]:5433/d",
    "postgresql://u@h/a@b",
    "postgresql://h/a%40b",
    "postgresql://u:a+b%2Bc%40%3F%2F%25@/d",
    "postgresql://u@h/d?password=p%26w&sslpassword=x%3Dy&options=-csearch_path%3Da%2Cb",
    "postgresql://h/d?hostaddr=127.0.0.1&connect_timeout=3&load_balance_hosts=random",
    "host=/run/postgresql dbname=d",
    r"host=h1,h2 port=1,2 user='a \'b' password=c\ d dbname=d",
    "service=photos",
    "dbname=d",
    "postgresql://",
]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PG"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("text", STRINGS)
def test_what_libpq_reads_is_kept(text: str) -> None:
    expected = conninfo_to_dict(text)
    url = parse_url(text)
    assert parameters(url) == expected
    assert conninfo_to_dict(libpq_url(url)) == expected
    assert parameters(parse_url(libpq_url(url))) == expected


def test_sqlalchemys_name_of_the_driver_is_taken_too() -> None:
    assert libpq_url(parse_url("postgresql+psycopg://u:pw@h:1/d")) == "postgresql://u:pw@h:1/d"


def test_the_parts_of_one_address_are_where_sqlalchemy_has_them() -> None:
    url = parse_url("host=h port=5433 user=u password=pw dbname=d sslmode=disable")
    assert (url.host, url.port, url.username, url.password, url.database) == ("h", 5433, "u", "pw", "d")
    assert libpq_url(url.set(database="e")) == "postgresql://u:pw@h:5433/e?sslmode=disable"


def test_spaces_are_written_for_libpq() -> None:
    url = parse_url("postgresql://u:a+b%2Bc@/d?host=/a%20folder/x%2By")
    assert libpq_url(url) == "postgresql://u:a+b+c@/d?host=%2Fa%20folder%2Fx%2By"
    assert masked_url(url) == "postgresql://u:***@/d?host=%2Fa%20folder%2Fx%2By"


@pytest.mark.parametrize("name", sorted(SECRETS))
@pytest.mark.parametrize("text", ["postgresql://u@h/d?{name}=S3CRET", "host=h dbname=d {name}=S3CRET"])
def test_secrets_are_masked_however_they_are_given(name: str, text: str) -> None:
    url = parse_url(text.format(name=name))
    assert "S3CRET" in libpq_url(url)
    assert "S3CRET" not in masked_url(url)
    assert "***" in masked_url(url)
    with for_a_command_line(url) as (address, _):
        assert "S3CRET" not in address


def test_libpq_has_no_secret_that_we_do_not_mask() -> None:
    from psycopg import pq

    assert {option.keyword.decode() for option in pq.Conninfo.get_defaults() if option.dispchar == b"*"} <= SECRETS


def test_the_environment_fills_in_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "/run/x")
    monkeypatch.setenv("PGUSER", "me")
    monkeypatch.setenv("PGPORT", "5433")
    monkeypatch.setenv("PGPASSWORD", "S3CRET")
    assert masked_url(parse_url("postgresql:///d")) == "postgresql://me@/d?host=%2Frun%2Fx&port=5433"
    assert masked_url(parse_url("postgresql://you@h:1/d")) == "postgresql://you@h:1/d"
    assert libpq_url(effective_url(parse_url("postgresql://"))) == "postgresql://me@/?host=%2Frun%2Fx&port=5433"


def test_a_service_file_fills_in_what_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    services = tmp_path / "pg_service.conf"
    services.write_text("[photos]\nhost=h\ndbname=d\npassword=S3CRET\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv("PGSERVICE", "photos")
    shown = masked_url(parse_url("postgresql://u@"))
    assert (shown[:16], shown[-2:]) == ("postgresql://u@h", "/d")
    assert masked_url(parse_url("service=photos")) == "postgresql:///?service=photos"


def test_a_program_gets_the_secrets_without_its_command_line(tmp_path: Path) -> None:
    with for_a_command_line(parse_url("postgresql://u:pw@h/d?sslpassword=a%20b%3D%23")) as (address, variables):
        assert address == "postgresql://u@h/d"
        assert variables["PGPASSWORD"] == "pw"
        file = Path(variables["PGSERVICEFILE"])
        assert file.read_text() == f"[{variables['PGSERVICE']}]\nsslpassword=a b=#\n"
        assert file.stat().st_mode & 0o077 == 0
    assert not file.exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mysql://u:S3CRET@h/d", "this is a mysql:// URL"),
        ("S3CRET is no url", "key=value"),
        ("postgresql://u:S3CRET@h:port/d", "the port is not a number"),
        ("postgresql://u:S3CRET@h:70000/d", "the port is not a number"),
        ("postgresql://u@h/d?password=S3CRET&S3CRET=1", "a parameter that libpq does not know"),
        ("postgresql://u@h/d?S3CRET", "a parameter without a value"),
        ("postgresql://u:%S3CRET@h/d", "write %25"),
        ("postgresql://u:S3CRET x@h/d", "write %20"),
        ("postgresql://u:S3CRET@[::1/d", r"a \[ without a \]"),
        ("host=h S3CRET", "key=value"),
        ("postgresql://u:pw@S3CRET@h/d", "write %40"),
        ("postgresql://u:1/S3CRET@h/d", "%2F for a /"),
        ("postgresql://u:S3CRET\udcff@h/d", "UTF-8"),
    ],
)
def test_an_error_says_why_without_quoting_the_text(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_url(text)
    assert "S3CRET" not in str(caught.value)


def test_psycopg_connects_with_the_parameters(settings: Settings) -> None:
    url = settings.url()
    assert url is not None
    arguments: dict[str, Any] = {**parameters(url)}
    with psycopg.connect(**arguments) as connection:
        assert connection.info.dbname == url.database
