"""Tells a full disk from other errors."""

from __future__ import annotations

import errno


def is_full(error: OSError) -> bool:
    """Whether a file could not be written because the disk, or the user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
