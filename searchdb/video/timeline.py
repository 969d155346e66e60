"""Turns a stream's timestamps, which may be missing or jump, into seconds from the start."""

from __future__ import annotations

JUMP_S = 1.0
"""Timestamps that go back by more are those of another recording, as in joined MPEG streams."""


class Timeline:
    """The times of one stream's packets or frames, in the order in which they come.

    Args:
        time_base: seconds of one unit of the timestamps.
        start_s: the time that becomes 0.
        step_s: seconds from one frame to the next, for those without a timestamp.
    """

    def __init__(self, *, time_base: float, start_s: float, step_s: float) -> None:
        self._time_base = time_base
        self._start_s = start_s
        self._step_s = step_s
        self._shift_s = 0.0
        self.last: float | None = None
        self.latest_s: float | None = None
        """Times after it are not believed: the end of the video, once it is known."""

    @property
    def shifted(self) -> bool:
        """Whether times differ from the timestamps, so that a time cannot be sought."""
        return self._shift_s != 0

    def reset(self) -> None:
        """Forget the last time, after a seek."""
        self.last = None

    def at(self, timestamp: int | None) -> float:
        """Return the time of the next one in seconds, 0 or more."""
        following = 0.0 if self.last is None else self.last + self._step_s
        if timestamp is None:
            time = following
        else:
            raw = timestamp * self._time_base - self._start_s
            if self.last is not None and raw >= self.last:
                self._shift_s = 0.0
            elif self.last is not None and raw + self._shift_s < self.last - JUMP_S:
                self._shift_s = following - raw
            time = raw + self._shift_s
            if self.latest_s is not None and time > self.latest_s + JUMP_S:
                time = following
        self.last = max(time, 0.0)
        return self.last
