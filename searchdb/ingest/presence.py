"""Tells files that were deleted or moved from files that only cannot be seen, such as on a disk that is not mounted."""

# Strings and os.path instead of Path objects, which would take most of the time in a large collection.
# ruff: noqa: PTH116, PTH120, PTH208

from __future__ import annotations

import os
import re
import stat
from datetime import datetime

_HOLDS_MOUNT_POINTS = re.compile(r"/(mnt|media(/[^/]+)?|run/media(/[^/]+)?|Volumes)?")
"""Folders whose folders may be disks: one that is missing there was perhaps unplugged. In a container, / is one too."""


def is_gone(path: str) -> bool:
    """Whether the file certainly does not exist, or a folder has its name.

    What cannot be read may still exist, and so may the target of a broken symbolic link, on a disk that is not there.
    """
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode)


def was_moved(path: str, *, stored_at: datetime) -> bool:
    """Whether a file that was there at some time was moved or deleted, and is not on a disk that is away.

    The innermost folder of its path that is left must hold something, or must have changed since then: the mount point
    of a disk that is not mounted is empty and as old as the disk's first use.
    """
    if not is_gone(path):
        return False
    folder = os.path.dirname(path)
    while True:
        try:
            return not _HOLDS_MOUNT_POINTS.fullmatch(folder) and (
                bool(os.listdir(folder)) or os.stat(folder).st_mtime > stored_at.timestamp()
            )
        except (FileNotFoundError, NotADirectoryError):
            folder = os.path.dirname(folder)
        except OSError:
            return False
