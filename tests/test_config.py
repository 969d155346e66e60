"""Settings: read from the environment, validated, with masked secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from searchdb.config import DEFAULT_MODEL, Settings, default_home
from searchdb.errors import ConfigError


def test_defaults() -> None:
    settings = Settings()
    assert settings.url() is None
    assert settings.model == DEFAULT_MODEL
    assert settings.explicit_model is None
    assert not settings.allow_private_addresses
    assert (settings.proxies, settings.url_prefix, settings.log_format) == (0, "", "text")


def test_arguments_override_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCHDB_MODEL", "some/model")
    monkeypatch.setenv("SEARCHDB_MAX_IMAGE_BYTES", "1000")
    assert Settings().explicit_model == "some/model"
    assert Settings(model="demo").explicit_model == "demo"
    assert Settings().max_image_bytes == 1000


def test_home_expands_and_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings(home="~/pictures").home == tmp_path / "pictures"
    monkeypatch.chdir(tmp_path)
    assert Settings(home="here").home == tmp_path / "here"


@pytest.mark.parametrize("url", ["postgresql://u:pw@h:1/d", "postgres://u:pw@h:1/d", "postgresql+psycopg://u:pw@h:1/d"])
def test_database_url_gets_the_driver(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    parsed = Settings().url()
    assert parsed is not None
    assert parsed.drivername == "postgresql+psycopg"
    assert (parsed.password, parsed.host, parsed.database) == ("pw", "h", "d")


def test_an_empty_database_url_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    assert Settings().url() is None


def test_an_empty_home_is_the_default_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCHDB_HOME", "")
    assert Settings().home == default_home()


def test_secrets_are_masked() -> None:
    settings = Settings(database_url="postgresql://u:hunter2@h/d", api_token="hunter3")
    assert "hunter" not in f"{settings!r} {settings} {settings.url()}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://u:hunter2@h/d"),
        ("DATABASE_URL", "hunter2 is no url"),
        ("DATABASE_URL", "postgresql://u:hunter2@h:port/d"),
        ("DATABASE_URL", "postgresql://u@h/d?password=hunter2&hunter2=x"),
        ("DATABASE_URL", "host=h password=hunter2 hunter2"),
        ("DATABASE_URL", "postgresql://u:%hunter2@h/d"),
        ("SEARCHDB_PREPARED_STATEMENTS", "on"),
        ("SEARCHDB_DEVICE", "tpu"),
        ("SEARCHDB_DTYPE", "int4"),
        ("SEARCHDB_MODEL", ""),
        ("SEARCHDB_MAX_IMAGE_BYTES", "many"),
        ("SEARCHDB_MAX_IMAGE_PIXELS", "0"),
        ("SEARCHDB_ALLOW_PRIVATE_ADDRESSES", "perhaps"),
        ("SEARCHDB_RATE_LIMIT", "0 per minute"),
        ("SEARCHDB_RATE_LIMIT", "20000"),
        ("SEARCHDB_WORK_LIMIT", "many per minute"),
        ("SEARCHDB_WORK_LIMIT", "5 per fortnight"),
        ("SEARCHDB_PROXIES", "-1"),
        ("SEARCHDB_URL_PREFIX", "photos"),
        ("SEARCHDB_URL_PREFIX", "/photos/"),
        ("SEARCHDB_URL_PREFIX", "/../photos?"),
        ("SEARCHDB_LOG_FORMAT", "xml"),
    ],
)
def test_the_error_for_a_bad_value_names_the_variable_without_secrets(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name) as caught:
        Settings()
    assert "hunter2" not in str(caught.value)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="modle"):
        Settings(modle="demo")


def test_the_error_for_a_bad_limit_shows_the_format_and_limits_can_be_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCHDB_RATE_LIMIT", "fast")
    with pytest.raises(ConfigError, match="like 20000 per minute"):
        Settings()
    monkeypatch.setenv("SEARCHDB_RATE_LIMIT", "")
    assert Settings().rate_limit == ""
    assert Settings(work_limit="3 per hour").work_limit == "3 per hour"
