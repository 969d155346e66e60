"""Recognises the frames of videos among the rows of an export."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from searchdb.errors import InvalidReferenceError
from searchdb.records import MAX_REFERENCE_BYTES
from searchdb.sources import printable
from searchdb.vector_files.references import reference_of

_ENDING = re.compile(r"#t=[0-9.e+-]{1,30}")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A frame's reference, the reference of its video, and the seconds from the start of the video."""

    reference: str
    video: str
    time_s: float


def frame_of(own: Any, video: Any, time: Any, base: str | None) -> Frame | None:
    """Return the frame that a row is of, by its reference, its video and its time; None if it is no frame.

    A frame's reference is its video's, with the time behind it: `/a/b.mp4#t=12.5`.

    Raises:
        InvalidReferenceError: the time is missing or malformed, or a reference is.
    """
    if not isinstance(own, str) or not isinstance(video, str) or not video or not own.startswith(f"{video}#"):
        return None
    try:
        time_s = math.nan if time is None or isinstance(time, bool) else float(time)
    except (ValueError, TypeError, OverflowError):
        time_s = math.nan
    if not 0 <= time_s < math.inf:
        raise InvalidReferenceError(
            f"the row is a frame of a video, but its video_time {printable(str(time))[:40]!r} is no time in seconds"
        )
    ending = own.removeprefix(video)
    if not _ENDING.fullmatch(ending):
        raise InvalidReferenceError(
            f"the row is a frame of a video, but its reference ends in {printable(ending)[:40]!r} instead of a time"
        )
    # The video's reference alone is made clean: in a URL, the time would be dropped as a fragment.
    reference = reference_of(video, base)
    if (size := len((reference + ending).encode())) > MAX_REFERENCE_BYTES:
        raise InvalidReferenceError(f"the reference is {size:,} bytes long, the limit is {MAX_REFERENCE_BYTES:,}")
    return Frame(reference=reference + ending, video=reference, time_s=time_s)
