"""The collection's model: which one is recorded, and which ones are refused."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import sqlalchemy as sa

from searchdb.db.current_model import check_model, claim_model, current_model, model_to_use
from searchdb.db.database import Database
from searchdb.db.tables import images
from searchdb.errors import ModelMismatchError
from searchdb.records import ModelIdentity

ONE = ModelIdentity(name="one", weights_sha256=b"1" * 32, dimension=512)
TWO = ModelIdentity(name="two", weights_sha256=b"2" * 32, dimension=512)


def add_image(connection: sa.Connection, model_id: int) -> None:
    vector = np.zeros(512, np.float32)
    vector[0] = 1
    connection.execute(
        sa.insert(images).values(
            image="/a.jpg", source="test", embedding=vector, embedding_model_id=model_id,
            sha256=b"", width=1, height=1, byte_size=1,
        )
    )  # fmt: skip


def test_an_empty_collection_accepts_any_model(database: Database) -> None:
    with database.begin() as connection:
        assert current_model(connection) is None
        first = claim_model(connection, ONE)
        assert claim_model(connection, ONE) == first
        assert current_model(connection) == ONE
        assert claim_model(connection, TWO) != first
        assert current_model(connection) == TWO
        check_model(connection, ONE)


def test_a_collection_with_images_refuses_another_model_and_names_both(database: Database) -> None:
    with database.begin() as connection:
        add_image(connection, claim_model(connection, ONE))
    with database.connect() as connection:
        check_model(connection, ONE)
        for refuse in (check_model, claim_model):
            with pytest.raises(ModelMismatchError, match=r"one \(weights 3131.*two \(weights 3232"):
                refuse(connection, TWO)


def test_the_same_weights_under_another_name_are_the_same_model(database: Database) -> None:
    copy = ModelIdentity(name="/models/one", weights_sha256=ONE.weights_sha256, dimension=512)
    with database.begin() as connection:
        model_id = claim_model(connection, ONE)
        add_image(connection, model_id)
        check_model(connection, copy)
        assert claim_model(connection, copy) == model_id


def test_the_model_is_the_configured_or_the_stored_or_the_default(database: Database) -> None:
    with database.begin() as connection:
        assert model_to_use(connection, None, "default") == "default"
        model_id = claim_model(connection, ONE)
        assert model_to_use(connection, None, "default") == "default"
        add_image(connection, model_id)
        assert model_to_use(connection, None, "default") == "one"
        assert model_to_use(connection, "two", "default") == "two"


def test_concurrent_writers_cannot_store_vectors_of_two_models(database: Database) -> None:
    """The second waits for the first one's rows, then sees them and is refused."""
    outcome: list[BaseException | int] = []

    def second() -> None:
        try:
            with database.begin() as connection:
                outcome.append(claim_model(connection, TWO))
        except ModelMismatchError as exc:
            outcome.append(exc)

    with database.begin() as connection:
        claim_model(connection, ONE)
    with database.begin() as connection:
        model_id = claim_model(connection, ONE)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.5)
        assert outcome == []
        add_image(connection, model_id)
    thread.join()
    assert isinstance(outcome[0], ModelMismatchError)
