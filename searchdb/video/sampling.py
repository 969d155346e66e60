"""Chooses the times at which a video's frames are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from searchdb.errors import ConfigError

DEFAULT_EVERY_S = 1.0
"""Seconds between two frames: a scene is rarely shorter, and what shows nothing new is not stored."""
KEY_FRAMES = 0.0
"""In place of seconds: the video's key frames."""
LEAST_EVERY_S, MOST_EVERY_S = 0.04, 86_400.0
"""Bounds of the seconds between two frames: from each frame of a film to one a day."""


def frame_times(duration_s: float, every_s: float, most: int) -> list[float]:
    """Return the seconds at which frames are read: 0, `every_s` and so on, or `most` spread over the duration."""
    count = max(1, math.ceil(round(duration_s / every_s, 6)))
    step = every_s if count <= most else duration_s / most
    return [step * index for index in range(min(count, most))]


def spread(times: Sequence[float], most: int) -> list[float]:
    """Return at most `most` of the times, evenly chosen, the first among them."""
    if len(times) <= most:
        return list(times)
    return [times[index * len(times) // most] for index in range(most)]


def parse_every(every: float | Literal["key"] | None) -> float | None:
    """Return the seconds between two frames as `SourceItem.every_s` has them, KEY_FRAMES for `"key"`.

    Raises:
        ConfigError: it is another text, or out of bounds.
    """
    if every is None:
        return None
    if every == "key":
        return KEY_FRAMES
    if isinstance(every, str) or not LEAST_EVERY_S <= every <= MOST_EVERY_S:
        raise ConfigError(
            f"every is {every!r}, but must be the seconds between two frames, from {LEAST_EVERY_S} to "
            f"{MOST_EVERY_S:,.0f}, or 'key' for key frames"
        )
    return float(every)
