"""What an inspection finds, and how it refuses a file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from searchdb.errors import DecodeTooCostlyError

COSTLY_S = 3.0
"""CPU seconds from which a helper process decodes. It adds a tenth of a second and two copies of the pixels, and an
ordinary image of 100 megapixels takes less."""

MAX_EXIF_BYTES = 1024 * 1024
"""A JPEG segment holds 64 kB, and cameras rarely write more than one. Each number in it takes Pillow 4 microseconds."""

UNBOUNDED = math.inf
"""Cost of a file whose structure says nothing about it."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a file's structure tells about decoding its first image.

    `width` and `height` are in pixels, as stored; 0 where the header does not tell. `cost_s` estimates the seconds
    that one core takes, on a machine of 2023. `is_opened_here` is False where a helper process has to open the image,
    because opening it takes time or memory that nothing bounds; what is honest then costs little. `full_size` is the
    size of a photograph, of which only a preview of `width` x `height` is read; `samples` are those of a pixel of its
    sensor's data.
    """

    width: int = 0
    height: int = 0
    cost_s: float = 0.0
    is_opened_here: bool = True
    full_size: tuple[int, int] | None = None
    samples: int = 1

    @property
    def is_costly(self) -> bool:
        """Whether decoding needs a process that can be stopped."""
        return self.cost_s > COSTLY_S or not self.is_opened_here


def refuse_beyond(limit: int, count: int, kind: str, things: str) -> None:
    """Raise DecodeTooCostlyError if the file, a `kind` such as "PNG", has more than `limit` of these things."""
    if count > limit:
        raise DecodeTooCostlyError(f"the {kind} has more than {limit:,} {things}, which is the limit")
