"""Brings a database to an old revision of the schema, as the version of searchdb left it that went with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from searchdb.bundled import migrations_folder
from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db.database import Database
from tests.helpers import warm_processes
from tests.helpers.vectors import clustered
from tests.helpers.waiting import GIVE_UP_S

ROOT = Path(__file__).parents[2]
FIRST_RELEASED = "0006"


def released_revisions() -> list[str]:
    """Return the revisions, oldest first, that a database of an earlier version may have."""
    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    return sorted(script.revision for script in scripts if script.revision >= FIRST_RELEASED and not script.is_head)


def upgrade_to(database: Database, revision: str) -> None:
    """Upgrade a database to a revision, in this process."""
    config = _config()
    with database.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    database.engine.dispose()  # older connections do not know the vector type


def fill_at_0009(database: Database, rows: int) -> None:
    """Store made-up vectors in a database of revision 0009."""
    model = "INSERT INTO embedding_models (name, weights_sha256, current) VALUES ('test', '\\x01', true)"
    image = (
        "INSERT INTO images (image, source, sha256, width, height, byte_size, embedding_model_id, embedding) "
        "VALUES (:image, 'test', '', 1, 1, 1, 1, :vector)"
    )
    with database.begin() as connection:
        connection.execute(sa.text(model))
        values = [{"image": f"/{n}", "vector": vector} for n, vector in enumerate(clustered(rows))]
        connection.execute(sa.text(image), values)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    return config


def alembic(settings: Settings, *arguments: str, new_interpreter: bool = False) -> subprocess.CompletedProcess[str]:
    """Run Alembic's command line in the repository, on a database of the tests."""
    url = settings.url()
    assert url is not None
    environment = os.environ | {"DATABASE_URL": libpq_url(url)}
    command = ["-m", "alembic", *arguments]
    if not new_interpreter:
        return warm_processes.run(command, cwd=ROOT, env=environment, timeout=GIVE_UP_S)
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
