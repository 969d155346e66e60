"""Finds references that occurred before, in eight bytes for each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


class Repeats:
    """Remembers the references of all rows of a run as sorted hashes of 64 bits: 8 MB for a million.

    The probability that two of a million different references share one is 3e-8.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, references: Sequence[str]) -> list[bool]:
        """Add references; return for each whether it was there, or occurs earlier among them."""
        keys = np.array([_hash(each) for each in references], np.uint64)
        if not len(keys):
            return []
        repeated = np.ones(len(keys), bool)
        repeated[np.unique(keys, return_index=True)[1]] = False
        for run in self._runs:
            at = np.searchsorted(run, keys)
            at[at == len(run)] = 0
            repeated |= run[at] == keys
        new = np.sort(keys[~repeated])
        while self._runs and len(self._runs[-1]) <= len(new):  # a few runs, each at least twice as long as the next
            new = np.sort(np.concatenate([self._runs.pop(), new]))
        if len(new):
            self._runs.append(new)
        return repeated.tolist()


def _hash(reference: str) -> int:
    return int.from_bytes(hashlib.blake2b(reference.encode("utf-8", "surrogatepass"), digest_size=8).digest())
