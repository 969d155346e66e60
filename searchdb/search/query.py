"""What a search looks for, and what is wrong with a query that cannot be searched for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from PIL import Image

from searchdb.errors import ImageNotFoundError, QueryError
from searchdb.records import LARGEST_ID, nfc

MAX_QUERY_CHARACTERS = 2000
"""Longest query text: CLIP reads about the first 60 words, PostgreSQL keeps keys of at most 2,704 bytes."""
MAX_QUERY_BYTES = 2600
MAX_EXAMPLES = 100
"""Most liked, and most disliked images: their mean hardly changes with more, and as many fit into a URL."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """What to search for: at least one of `text`, `image` (RGB) and `like`, without `exclude` (a text) and `unlike`.

    `like` and `unlike` are the ids of stored images: one, or several, whose mean is what counts. Instead of the image
    its unit `vector` may be given, float32 of shape (dimension,), from the same model. `text_weight`, 0 to 1, is what
    the text counts beside the images; None is the middle.
    """

    text: str | None = None
    image: Image.Image | None = None
    vector: np.ndarray | None = None
    like: int | Collection[int] | None = None
    unlike: int | Collection[int] | None = None
    exclude: str | None = None
    text_weight: float | None = None

    @property
    def liked(self) -> tuple[int, ...]:
        """The ids in `like`, each once."""
        return _ids(self.like)

    @property
    def unliked(self) -> tuple[int, ...]:
        """The ids in `unlike`, each once."""
        return _ids(self.unlike)

    def check(self) -> None:
        """Check all that can be checked without the collection.

        Raises:
            QueryError: there is nothing to look for, a text is empty or too long, there are too many ids, one is both
                liked and disliked, or the text weight is out of range or has nothing to weigh.
            ImageNotFoundError: an id is out of range.
        """
        for field, text in (("text", self.text), ("exclude", self.exclude)):
            if text is not None:
                checked_text(text, field)
        for field, ids in (("like", self.liked), ("unlike", self.unliked)):
            if len(ids) > MAX_EXAMPLES:
                raise QueryError(f"{field} has {len(ids):,} images, the limit is {MAX_EXAMPLES}", field=field)
            for each in ids:
                checked_id(each)
        if both := set(self.liked) & set(self.unliked):
            raise QueryError(f"image {min(both)} is in like and in unlike: leave it out of one of them", field="unlike")
        has_image = self.image is not None or self.vector is not None or bool(self.liked)
        if self.text is None and not has_image:
            raise QueryError("there is nothing to look for: give a text, an image or the id of a stored image")
        if self.text_weight is None:
            return
        if not 0 <= self.text_weight <= 1:
            raise QueryError(
                f"text_weight is {self.text_weight}, but a weight lies between 0 and 1", field="text_weight"
            )
        if self.text is None or not has_image:
            raise QueryError(
                "text_weight needs a text and an image, between which it shifts the balance", field="text_weight"
            )


def checked_text(text: str, field: str) -> str:
    """Return a text as the query cache keys it, but for blanks around it.

    Raises:
        QueryError: it is empty or too long.
    """
    storable = nfc(text.replace("\x00", "").encode("utf-8", "replace").decode())
    if not storable.strip():
        raise QueryError("the query text is empty", field=field)
    if len(storable) > MAX_QUERY_CHARACTERS or len(storable.encode()) > MAX_QUERY_BYTES:
        raise QueryError(
            f"the query text has {len(storable):,} characters, the limit is {MAX_QUERY_CHARACTERS:,} "
            f"({MAX_QUERY_BYTES:,} bytes); CLIP reads about the first 60 words",
            field=field,
        )
    return storable


def checked_id(image_id: int) -> int:
    """Return an id that an image can have.

    Raises:
        ImageNotFoundError: it is out of range.
    """
    if not 0 < image_id <= LARGEST_ID:
        raise ImageNotFoundError(image_id)
    return image_id


def _ids(given: int | Collection[int] | None) -> tuple[int, ...]:
    if given is None:
        return ()
    return tuple(dict.fromkeys(given)) if isinstance(given, Collection) else (given,)
