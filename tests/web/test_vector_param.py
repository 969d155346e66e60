"""An image's vector in an address: what is written is read back, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchdb.errors import QueryError
from searchdb.records import ModelIdentity
from web.vector_param import from_text, to_text

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


def test_another_models_vector_is_refused() -> None:
    with pytest.raises(QueryError, match="another model"):
        from_text(to_text(unit(0), OTHER), MODEL)


@given(st.text(max_size=700))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(QueryError):
        from_text(text, MODEL)


@pytest.mark.parametrize("text", ["A" * 688, "+" * 688, "=" * 688, "A" * 687, to_text(unit(1), MODEL) + "A"])
def test_almost_valid_vectors_are_refused(text: str) -> None:
    with pytest.raises(QueryError, match="search by the image again"):
        from_text(text, MODEL)
