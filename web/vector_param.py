"""A picture's vector as a piece of text, so that a search by picture has an address and nobody's picture is kept."""

from __future__ import annotations

import base64
import binascii

import numpy as np

from searchdb.errors import QueryError
from searchdb.records import EMBEDDING_DIMENSION, ModelIdentity

_MODEL_BYTES = 4
_LENGTH = (_MODEL_BYTES + EMBEDDING_DIMENSION) * 4 // 3
_STEPS = 127
"""Of a signed byte on either side of 0. They hold square roots, for CLIP's vectors have a few coordinates far larger
than the rest, and even steps would be too coarse for these: what is read back has a cosine of 0.9995 at least."""


def to_text(vector: np.ndarray, model: ModelIdentity) -> str:
    """Return a unit vector, float32 of shape (512,), as 688 characters that need no quoting in a URL."""
    roots = np.sign(vector) * np.sqrt(np.abs(vector) / np.abs(vector).max())
    steps = np.rint(roots * _STEPS).astype(np.int8)
    return base64.urlsafe_b64encode(model.weights_sha256[:_MODEL_BYTES] + steps.tobytes()).decode("ascii")


def from_text(text: str, model: ModelIdentity) -> np.ndarray:
    """Return the unit vector, float32 of shape (512,), that `to_text` wrote.

    Raises:
        QueryError: it is not from there, or from another model.
    """
    try:
        data = base64.b64decode(text, altchars=b"-_", validate=True) if len(text) == _LENGTH else b""
    except (binascii.Error, ValueError):
        data = b""
    steps = np.frombuffer(data[_MODEL_BYTES:], np.int8).astype(np.float32)
    if steps.shape != (EMBEDDING_DIMENSION,) or not steps.any():
        raise QueryError("the vector is not one that a search by picture gave: search by the picture again")
    if data[:_MODEL_BYTES] != model.weights_sha256[:_MODEL_BYTES]:
        raise QueryError("the vector is from another model than the collection's: search by the picture again")
    vector = steps * np.abs(steps)
    return vector / np.linalg.norm(vector)
