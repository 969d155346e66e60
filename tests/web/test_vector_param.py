"""An image's vector in an address: what is written is read back, and nothing else is taken for one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchdb.errors import OtherModelError, QueryError
from searchdb.records import MAX_DIMENSION, MIN_DIMENSION, ModelIdentity
from web.search_url import LONGEST_SEARCH
from web.vector_param import LONGEST, from_text, placeholder, to_text

MODEL = ModelIdentity(name="a", weights_sha256=b"abcd" * 8, dimension=512)
OTHER = ModelIdentity(name="b", weights_sha256=b"bcda" * 8, dimension=512)


def unit(seed: int, *, spikes: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vector = rng.normal(size=512)
    vector[:spikes] *= 20  # CLIP's vectors have a few coordinates that are far larger than the rest
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@pytest.mark.parametrize("spikes", [0, 1, 3])
def test_is_read_back_nearly_the_same(spikes: int) -> None:
    for seed in range(50):
        vector = unit(seed, spikes=spikes)
        read = from_text(to_text(vector, MODEL), MODEL)
        assert float(np.linalg.norm(read)) == pytest.approx(1, abs=1e-6)
        assert float(read @ vector) > 0.9995


def test_needs_no_quoting_in_a_url() -> None:
    for seed in range(20):
        text = to_text(unit(seed), MODEL)
        assert len(text) == 688
        assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@pytest.mark.parametrize("dimension", [MIN_DIMENSION, 65, 66, 768, 1000, MAX_DIMENSION])
def test_vectors_of_any_width_fit_into_an_address(dimension: int) -> None:
    model = replace(MODEL, dimension=dimension)
    vector = np.random.default_rng(dimension).normal(size=dimension).astype(np.float32)
    text = to_text(vector, model)
    assert len(text) == len(placeholder(dimension)) <= LONGEST
    assert from_text(text, model).shape == (dimension,)
    assert LONGEST < LONGEST_SEARCH / 2  # there is room for filters


def test_another_models_vector_is_refused() -> None:
    with pytest.raises(OtherModelError, match="another model"):
        from_text(to_text(unit(0), OTHER), MODEL)
    wider = replace(OTHER, dimension=768)
    with pytest.raises(OtherModelError, match="512 numbers instead of 768"):
        from_text(to_text(unit(0), MODEL), wider)


@given(st.text(max_size=700))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(QueryError):
        from_text(text, MODEL)


@pytest.mark.parametrize("text", ["A" * 688, "+" * 688, "=" * 688, "A" * 687, to_text(unit(1), MODEL) + "A"])
def test_almost_valid_vectors_are_refused(text: str) -> None:
    with pytest.raises(QueryError, match="search by the image again"):
        from_text(text, MODEL)
