"""Encodes an image's vector as text, so that a search by image has a URL and the image need not be stored."""

from __future__ import annotations

import base64
import binascii
import math

import numpy as np

from searchdb.errors import QueryError
from searchdb.records import MAX_DIMENSION, ModelIdentity

_MODEL_BYTES = 4
_MAX_LENGTH = math.ceil((_MODEL_BYTES + MAX_DIMENSION) * 4 / 3)
_STEPS = 127
"""Steps of a signed byte on either side of 0. They encode square roots: CLIP vectors have a few coordinates far larger
than the rest, and linear steps would be too coarse for the others. The decoded vector keeps a cosine of >= 0.9995."""


def to_text(vector: np.ndarray, model: ModelIdentity) -> str:
    """Encode a unit vector, float32 of shape (dimension,), as text that needs no quoting in a URL.

    A vector of 512 numbers takes 688 characters.
    """
    roots = np.sign(vector) * np.sqrt(np.abs(vector) / np.abs(vector).max())
    steps = np.rint(roots * _STEPS).astype(np.int8)
    return base64.urlsafe_b64encode(model.weights_sha256[:_MODEL_BYTES] + steps.tobytes()).decode("ascii").rstrip("=")


def placeholder(model: ModelIdentity) -> str:
    """Return a text as long as that of every vector, to measure a URL before the vector is known."""
    return "A" * math.ceil((_MODEL_BYTES + model.dimension) * 4 / 3)


def from_text(text: str, model: ModelIdentity) -> np.ndarray:
    """Decode the unit vector, float32 of shape (dimension,), that `to_text` encoded.

    Raises:
        QueryError: the text is malformed, or encodes a vector of another model.
    """
    try:
        padded = text + "=" * (-len(text) % 4)
        data = base64.b64decode(padded, altchars=b"-_", validate=True) if len(text) <= _MAX_LENGTH else b""
    except (binascii.Error, ValueError):
        data = b""
    steps = np.frombuffer(data[_MODEL_BYTES:], np.int8).astype(np.float32)
    if not steps.any():
        raise QueryError("the vector is malformed: search by the image again", field="vector")
    if data[:_MODEL_BYTES] != model.weights_sha256[:_MODEL_BYTES]:
        raise QueryError(
            "the vector is from another model than the collection's: search by the image again", field="vector"
        )
    if steps.shape != (model.dimension,):
        raise QueryError(
            f"the vector has {len(steps)} numbers, the collection's model gives {model.dimension}: "
            "search by the image again",
            field="vector",
        )
    vector = steps * np.abs(steps)
    return vector / np.linalg.norm(vector)
