"""Switches collections to twins of their model, from the first image to the last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.db.current_model import current_model
from searchdb.db.vectors import current_column, other_columns
from searchdb.errors import SwitchError
from searchdb.media.embed import CLIPEmbedder
from searchdb.switch.state import SwitchStatus
from tests.switch.conftest import FEW


def vectors(collection: SearchDB, column: str = "embedding") -> dict[str, np.ndarray]:
    """Return the vectors of a column by reference, of the images that have one in it."""
    with collection.database.connect() as connection:
        rows = connection.execute(sa.text(f"SELECT image, {column}::vector AS vector FROM images ORDER BY image")).all()
    return {row.image: np.asarray(row.vector.to_numpy()) for row in rows if row.vector is not None}


def similarities(found: dict[str, np.ndarray]) -> np.ndarray:
    """Return the cosines of all pairs, in the order of references."""
    matrix = np.stack(list(found.values()))
    return matrix @ matrix.T


def test_a_switch_gives_every_image_a_vector_by_the_new_model(filled: SearchDB, twin: Path) -> None:
    before = vectors(filled)
    hits = filled.search("a red car", count=FEW)
    seen: list[SwitchStatus] = []
    report = filled.switch_model(str(twin), progress=seen.append)
    assert report.changed
    assert report.images == FEW
    assert report.unembedded == []
    assert {"fill", "texts", "index", "change"} <= {status.phase for status in seen}
    after = vectors(filled)
    assert after.keys() == before.keys()
    assert {vector.shape for vector in after.values()} == {(768,)}
    assert np.abs(similarities(after) - similarities(before)).max() < 1e-5
    with filled.database.connect() as connection:
        assert current_column(connection).dimension == 768
        assert [column.dimension for column in other_columns(connection)] == [512]
        model = current_model(connection)
        assert model is not None
        assert model.name == str(twin)
        assert connection.scalar(sa.text("SELECT count(*) FROM procrastinate_jobs")) == 0
    assert filled.switch_status() is None
    with SearchDB(filled.settings.model_copy(update={"model": str(twin)})) as again:
        found = again.search("a red car", count=FEW)
        assert [hit.image for hit in found] == [hit.image for hit in hits]
        assert all(hit.relevance is not None for hit in found)  # measured before the change-over


def test_switching_back_embeds_only_what_came_meanwhile(
    filled: SearchDB, twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = vectors(filled)
    filled.search("a boat")
    filled.switch_model(str(twin))
    with SearchDB(filled.settings.model_copy(update={"model": str(twin)})) as again:
        with again.database.connect() as connection:
            builds = connection.scalar(sa.text("SELECT count(*) FROM index_builds"))
        monkeypatch.setattr(CLIPEmbedder, "_model", lambda _self: pytest.fail("the model was loaded"))
        report = again.switch_model("demo")
        assert report.changed
        with again.database.connect() as connection:
            assert connection.scalar(sa.text("SELECT count(*) FROM index_builds")) == builds
        after = vectors(again)
        assert all(np.array_equal(after[image], before[image]) for image in before)


def test_a_switch_to_the_current_model_is_refused(filled: SearchDB) -> None:
    with pytest.raises(SwitchError, match="there is nothing to switch"):
        filled.switch_model("demo")
    with pytest.raises(SwitchError, match="there is nothing to switch"):
        filled.plan_switch("demo")


def test_an_empty_collection_takes_a_model_at_once(collection: SearchDB, twin: Path) -> None:
    report = collection.switch_model(str(twin))
    assert (report.images, report.changed) == (0, True)
    with collection.database.connect() as connection:
        assert current_column(connection).dimension == 768
