"""Acts as another user of the machine, where the tests run as root."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

import pytest

OTHER_ID = 65534
"""A user and group without rights: `nobody` on most systems."""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


def run_as(uid: int, action: Callable[[], object]) -> str:
    """Run an action in a process of another user, without other groups; return the traceback of what it raised.

    A fork, not a new interpreter, whose files may be in a folder that is closed to the user.
    """
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            action()
        except BaseException:  # noqa: BLE001 - reported to the parent
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:  # noqa: PTH123 - a descriptor, not a path
        raised = pipe.read()
    os.waitpid(child, 0)
    return raised
