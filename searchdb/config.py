"""Reads the settings from the environment into one frozen object with masked secrets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from platformdirs import user_data_path
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import URL

from searchdb.database_url import parse_url
from searchdb.errors import ConfigError
from searchdb.trusted_hosts import TrustedHosts

DEFAULT_MODEL = "openai/clip-vit-base-patch32"
ROOT_HOME = Path("/var/lib/searchdb")
"""Default home for root: the embedded server runs as its own user, which cannot reach folders under /root."""
UPLOADS, THUMBNAILS, DOWNLOADS = "uploads", "thumbnails", "downloads"
"""Names of the folders in the home for uploaded images, for thumbnails, and for videos while they are ingested."""
DEFAULT_MAX_IMAGE_BYTES = 64 * 1024 * 1024
"""Large enough for any camera's JPEG; three of them fit in the memory for files (`FILES_BYTES`)."""
DEFAULT_MAX_IMAGE_PIXELS = 100_000_000
"""A 100-megapixel image takes 0.1 to 1.6 GB while it is decoded."""
DEFAULT_DECODE_MEMORY = 1024 * 1024 * 1024
"""Enough for one image of 100 megapixels in most formats, or for two in those with the smallest buffers; a process then
stays within 1.5 GB of what it takes when idle."""
DEFAULT_MAX_UPLOADS_BYTES = 10 * 1024**3
"""About 2,500 photos of 4 MB, and less than most disks have free."""
DEFAULT_MAX_CACHE_BYTES = 2 * 1024**3
"""About 80,000 thumbnails and 12,000 texts. Above it the oldest are deleted; they are made again when needed."""
DEFAULT_MAX_VIDEO_FRAMES = 2000
"""One every 3.6 seconds of a two-hour film. Their vectors and previews take 30 MB, their embedding minutes on a CPU."""
DEFAULT_MAX_VIDEO_BYTES = 2 * 1024**3
"""About an hour of a phone's video in 1080p. Two of them may lie on the disk for each process."""
QUERY_CACHE_SHARE = 1 / 64
"""Share of SEARCHDB_MAX_CACHE_BYTES for the vectors of query texts, by default 32 MiB; the rest is for thumbnails."""
DEFAULT_RECALL = 0.98
"""One in fifty of the nearest images is missed, with a search ten times as fast as one that reads all of them."""
DEFAULT_RATE_LIMIT = "20000 per minute"
"""Stops a runaway client. A page with its 40 thumbnails, or scrolling through a whole album, stays far below it."""
DEFAULT_WORK_LIMIT = "120 per minute"
"""Two a second: more than a person needs, and low enough that one program does not monopolise the model."""

URL_PREFIX = r"^(/[A-Za-z0-9._~-]+)*$"
"""Pattern of the path that the page is under; it cannot begin with `//`, which would name another host."""
_RATE = r"^([1-9][0-9]{0,8} per (second|minute|hour|day))?$"


def default_home() -> Path:
    """Return the data folder that is used when SEARCHDB_HOME is unset."""
    return ROOT_HOME if os.geteuid() == 0 else user_data_path("searchdb", appauthor=False)


class Settings(BaseSettings):
    """The validated settings from the environment.

    Keyword arguments override the environment: `Settings(model="demo")`.

    Raises:
        ConfigError: a value is malformed; the message names the variable.
    """

    model_config = SettingsConfigDict(
        env_prefix="SEARCHDB_", frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True
    )

    database_url: Annotated[SecretStr | None, NoDecode] = Field(
        default=None,
        validation_alias=AliasChoices("database_url", "DATABASE_URL"),
        description="the URL of a PostgreSQL 15+ with pgvector 0.8+, or unset for the embedded server",
    )
    database_url_read: Annotated[SecretStr | None, NoDecode] = Field(
        default=None,
        validation_alias=AliasChoices("database_url_read", "DATABASE_URL_READ"),
        description="the same database by a role that may only read, as `searchdb db reader` prints it, or unset",
    )
    prepared_statements: str = Field(
        default="auto",
        pattern=r"^(auto|off)$",
        description="auto, to prepare statements unless a pooler such as PgBouncer is in between, or off",
    )
    home: Path = Field(default_factory=default_home, description="the folder of the embedded server and of caches")
    model: str = Field(
        default=DEFAULT_MODEL, min_length=1, description="a hub name, a folder in Hugging Face layout, or demo"
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:0 or mps"
    )
    dtype: str = Field(
        default="auto",
        pattern=r"^(auto|float32|bfloat16|float16)$",
        description="auto, float32, bfloat16 or float16",
    )
    api_token: SecretStr | None = Field(default=None, description="the bearer token of the writing HTTP endpoints")
    allow_private_addresses: bool = Field(
        default=False, description="1 where images may be fetched from private networks, else 0"
    )
    max_image_bytes: int = Field(
        default=DEFAULT_MAX_IMAGE_BYTES, gt=0, description="the size of the largest file read, in bytes"
    )
    max_image_pixels: int = Field(
        default=DEFAULT_MAX_IMAGE_PIXELS, gt=0, description="the size of the largest image decoded, in pixels"
    )
    max_video_frames: int = Field(
        default=DEFAULT_MAX_VIDEO_FRAMES, gt=0, le=10_000, description="the most frames stored of a video, up to 10,000"
    )
    max_video_bytes: int = Field(
        default=DEFAULT_MAX_VIDEO_BYTES, gt=0, description="the size of the largest video downloaded, in bytes"
    )
    max_uploads_bytes: int = Field(
        default=DEFAULT_MAX_UPLOADS_BYTES, gt=0, description="the size of all uploaded images together, in bytes"
    )
    max_cache_bytes: int = Field(
        default=DEFAULT_MAX_CACHE_BYTES, gt=0, description="the size of thumbnails and cached texts together, in bytes"
    )
    decode_memory: int = Field(
        default=DEFAULT_DECODE_MEMORY,
        gt=0,
        description="the memory that the images being decoded in a process may take together, in bytes",
    )
    recall: float = Field(
        default=DEFAULT_RECALL,
        gt=0,
        le=1,
        description="the share of the nearest images that the index is tuned to find, above 0 and at most 1",
    )
    rate_limit: str = Field(
        default=DEFAULT_RATE_LIMIT,
        pattern=_RATE,
        description="like 20000 per minute (second, hour, day), or empty for none",
    )
    work_limit: str = Field(
        default=DEFAULT_WORK_LIMIT,
        pattern=_RATE,
        description="like 120 per minute (second, hour, day), or empty for none",
    )
    trusted_hosts: str = Field(
        default="",
        description="a list such as photos.example.org, .example.net, 192.168.0.0/16, or * for any host",
    )
    proxies: int = Field(default=0, ge=0, le=10, description="the number of proxies in front of the page")
    url_prefix: str = Field(
        default="",
        pattern=URL_PREFIX,
        description="the path that the page is under, like /photos, or empty",
    )
    log_format: str = Field(default="text", pattern=r"^(text|json)$", description="text or json")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as exc:
            raise ConfigError("; ".join(_explain(error["loc"], error["msg"]) for error in exc.errors())) from exc

    @field_validator("database_url", "database_url_read", "api_token", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("home", mode="before")
    @classmethod
    def _empty_is_default(cls, value: object) -> object:
        return default_home() if value == "" else value  # not the current folder

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        try:
            return value.expanduser().absolute()
        except RuntimeError as exc:
            raise ValueError("the home folder of this user is unknown: set this to a folder") from exc
        except FileNotFoundError as exc:
            raise ValueError("the current folder no longer exists: change to another one, or set a full path") from exc

    @field_validator("database_url", "database_url_read")
    @classmethod
    def _postgresql_only(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_url(value.get_secret_value())
        return value

    @field_validator("trusted_hosts")
    @classmethod
    def _hosts(cls, value: str) -> str:
        TrustedHosts.parse(value)
        return value

    @property
    def explicit_model(self) -> str | None:
        """The model if it was set explicitly; None if it is the default."""
        return self.model if "model" in self.model_fields_set else None

    @property
    def max_query_cache_bytes(self) -> int:
        """The size of the cached vectors of query texts, in bytes."""
        return int(QUERY_CACHE_SHARE * self.max_cache_bytes)

    @property
    def max_thumbnails_bytes(self) -> int:
        """The size of all thumbnails together, in bytes."""
        return self.max_cache_bytes - self.max_query_cache_bytes

    def url(self) -> URL | None:
        """Return the database that DATABASE_URL names; None if it is unset."""
        return None if self.database_url is None else parse_url(self.database_url.get_secret_value())

    def reader_url(self) -> URL | None:
        """Return the database that DATABASE_URL_READ names; None if it is unset."""
        return None if self.database_url_read is None else parse_url(self.database_url_read.get_secret_value())


def variable_of(name: str) -> str:
    """Return the environment variable of a setting."""
    return name.upper() if name.startswith("database_url") else f"SEARCHDB_{name.upper()}"


def _explain(location: tuple[int | str, ...], message: str) -> str:
    name = str(location[0]).lower() if location else ""
    if name not in Settings.model_fields:
        return f"there is no setting {name!r}"
    return (
        f"{variable_of(name)}: {message.removeprefix('Value error, ')}; it is {Settings.model_fields[name].description}"
    )
