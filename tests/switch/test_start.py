"""What must hold before a switch begins, what it makes, and how it is ended."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import text

from searchdb.cli.switch_prose import describe_switch, describe_switched
from searchdb.client import SearchDB
from searchdb.db.vectors import other_columns
from searchdb.errors import DatabaseError, SwitchError
from searchdb.media.embed import CLIPEmbedder
from searchdb.search.everyday_texts import EVERYDAY_TEXTS
from searchdb.switch import space
from searchdb.switch.feed import Feeder
from searchdb.switch.report import SwitchReport
from searchdb.switch.start import start_switch
from searchdb.switch.state import SwitchStatus, set_phase
from searchdb.switch.texts import embed_texts
from tests.switch.conftest import FEW


@pytest.fixture
def other(twin: Path) -> CLIPEmbedder:
    return CLIPEmbedder(str(twin), dtype="float32")


def leftovers(collection: SearchDB) -> list[str]:
    """Return what a switch has made and not dropped."""
    with collection.database.connect() as connection:
        found = [column.name for column in other_columns(connection)]
        found += connection.scalars(text("SELECT relname FROM pg_class WHERE relname ~ 'images_embedding_[0-9]'")).all()
        found += connection.scalars(text("SELECT proname FROM pg_proc WHERE proname ~ 'match_images_[0-9]'")).all()
        if connection.scalar(text("SELECT count(*) FROM procrastinate_jobs")):
            found.append("jobs")
        tables = ("query_embeddings", "image_sample", "relevance_scale", "index_builds", "switch_failures")
        for table in tables:
            condition = "embedding_model_id NOT IN (SELECT id FROM embedding_models WHERE current)"
            if connection.scalar(text(f"SELECT count(*) FROM {table} WHERE {condition}")):
                found.append(table)
    return found


@pytest.mark.parametrize(
    "definition",
    [
        "CREATE VIEW mine AS SELECT id, embedding FROM images",
        "CREATE MATERIALIZED VIEW mine AS SELECT id FROM images WHERE embedding_model_id = 1",
        "ALTER TABLE images ADD COLUMN mine integer GENERATED ALWAYS AS (vector_dims(embedding)) STORED",
    ],
)
def test_what_would_keep_the_old_vectors_is_named(filled: SearchDB, other: CLIPEmbedder, definition: str) -> None:
    with filled.database.begin() as connection:
        connection.execute(text(definition))
    with pytest.raises(SwitchError, match="mine"):
        start_switch(filled.database, filled.settings, other.identity)
    assert leftovers(filled) == []


def test_a_view_of_other_columns_is_no_obstacle(filled: SearchDB, other: CLIPEmbedder) -> None:
    with filled.database.begin() as connection:
        connection.execute(text("CREATE VIEW mine AS SELECT id, image, tags FROM images"))
    assert start_switch(filled.database, filled.settings, other.identity).phase == "fill"


def test_a_full_disk_is_noticed_before(filled: SearchDB, other: CLIPEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(type(filled.database), "embedded", True)
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _path: Usage)
    with pytest.raises(SwitchError, match="free some space"):
        start_switch(filled.database, filled.settings, other.identity)


def test_it_is_begun_twice_with_the_same_result(filled: SearchDB, other: CLIPEmbedder) -> None:
    first = start_switch(filled.database, filled.settings, other.identity)
    second = start_switch(filled.database, filled.settings, other.identity)
    assert first == second
    with filled.database.connect() as connection:
        valid = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
        assert connection.scalar(valid, {"name": first.column.missing_index})
        check = text("SELECT convalidated FROM pg_constraint WHERE conname = :name")
        assert connection.scalar(check, {"name": first.column.norm_check})
    with filled.database.connect() as connection, pytest.raises(DatabaseError, match="norm_check"):
        connection.execute(text(f"UPDATE images SET {first.column.name} = :v"), {"v": str([0.0] * 768)})


@pytest.mark.parametrize("phase", ["begun", "queued", "texts"])
def test_an_abort_leaves_nothing(filled: SearchDB, other: CLIPEmbedder, phase: str) -> None:
    switch = start_switch(filled.database, filled.settings, other.identity)
    if phase != "begun":
        assert Feeder(filled.database, switch, since=None).feed()
    if phase == "texts":
        with filled.database.connect() as connection:
            assert embed_texts(connection, switch, other, commit=True) == len(EVERYDAY_TEXTS)
    assert filled.abort_switch() == str(other.identity.name)
    assert leftovers(filled) == []
    assert filled.switch_status() is None
    with pytest.raises(SwitchError, match="nothing to abort"):
        filled.abort_switch()


def test_names_are_quoted_in_commands(filled: SearchDB, twin: Path, other: CLIPEmbedder, other_twin: Path) -> None:
    spaced = dataclasses.replace(other.identity, name="/my models/twin")
    start_switch(filled.database, filled.settings, spaced)
    with pytest.raises(SwitchError, match="`searchdb model switch '/my models/twin'`"):
        filled.switch_model(str(other_twin))
    with filled.database.begin() as connection:
        connection.execute(text("UPDATE model_switches SET seen_at = now() - interval '1 hour'"))
    status = filled.switch_status()
    assert status is not None
    assert "`searchdb model switch '/my models/twin'` goes on" in describe_switch(status)
    report = SwitchReport(model="demo", from_model=spaced.name, images=1)
    assert describe_switched(report) == (
        "1 image has the vectors of demo now; `searchdb model switch '/my models/twin'` goes back"
    )


def test_an_abort_during_the_work_is_quiet(filled: SearchDB, twin: Path) -> None:
    """A worker that is at it, and the command, end without an error of the database."""
    aborted: list[str] = []

    def abort(_status: object) -> None:
        if not aborted:
            aborted.append(filled.abort_switch())

    with pytest.raises(SwitchError, match="aborted"):
        filled.switch_model(str(twin), progress=abort)
    filled.work(drain=True)
    assert leftovers(filled) == []


@pytest.mark.parametrize("phase", ["texts", "index", "change"])
def test_an_abort_ends_the_command_in_each_phase(filled: SearchDB, twin: Path, phase: str) -> None:
    def abort(status: SwitchStatus) -> None:
        if status.phase == phase and filled.switch_status() is not None:
            filled.abort_switch()

    hits = [hit.image for hit in filled.search("a red car")]
    with pytest.raises(SwitchError, match=r"aborted|ended"):
        filled.switch_model(str(twin), progress=abort)
    assert leftovers(filled) == []
    assert [hit.image for hit in filled.search("a red car")] == hits


def test_an_abort_that_was_interrupted_is_repeated(filled: SearchDB, other: CLIPEmbedder, twin: Path) -> None:
    switch = start_switch(filled.database, filled.settings, other.identity)
    set_phase(filled.database.engine, switch, "abort")
    with filled.database.begin() as connection:
        connection.execute(text("UPDATE model_switches SET seen_at = now() - interval '1 hour'"))
    with pytest.raises(SwitchError, match="model switch --abort` once more"):
        filled.switch_model(str(twin))
    status = filled.switch_status()
    assert status is not None
    assert "`searchdb model switch --abort` goes on" in describe_switch(status)
    filled.abort_switch()
    assert leftovers(filled) == []


def test_texts_are_embedded_with_the_new_model(filled: SearchDB, other: CLIPEmbedder) -> None:
    filled.search("a red car")
    switch = start_switch(filled.database, filled.settings, other.identity)
    with filled.database.connect() as connection:
        embed_texts(connection, switch, other, commit=True)
        rows = connection.execute(
            sa.text(
                "SELECT old.query FROM query_embeddings old JOIN query_embeddings new USING (query) WHERE "
                "new.embedding_model_id = :new AND old.embedding_model_id = :old "
                "AND vector_dims(new.embedding) = 768 AND old.last_used_at = new.last_used_at"
            ),
            {"old": switch.from_model_id, "new": switch.model_id},
        ).all()
        assert "a red car" in {row.query for row in rows}
        assert embed_texts(connection, switch, other, commit=True) == 0


def test_a_plan_measures_a_sample_and_changes_nothing(filled: SearchDB, twin: Path, pictures: Path) -> None:
    sorted(pictures.iterdir())[0].unlink()
    plan = filled.plan_switch(str(twin))
    assert (plan.images, plan.to_embed, plan.dimension) == (FEW, FEW, 768)
    assert (plan.missing_files, plan.sample_failed, plan.sampled) == (1, 1, FEW)
    assert plan.seconds is not None
    assert plan.seconds > 0
    assert plan.space.column == FEW * (4 * 768 + 8)
    assert plan.obstacles == []
    assert leftovers(filled) == []
    assert filled.switch_status() is None
