"""Keeps libtiff, which Pillow decodes TIFF with, from writing to stderr."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache

from PIL import Image


@cache
def silence_libtiff() -> None:
    """Turn off libtiff's own messages in this process; Pillow raises an error for what cannot be read.

    libtiff would print a line about each unknown tag and each damaged strip, thousands of lines for some files. The
    lines name no file, and would end up in the progress bar or in the server's log.
    """
    # The functions are looked up in what Pillow's extension is linked with. A libtiff that it contains keeps printing.
    with suppress(OSError, AttributeError):
        pillow = ctypes.CDLL(Image.core.__file__)
        for handler in (pillow.TIFFSetErrorHandler, pillow.TIFFSetWarningHandler):
            handler.argtypes, handler.restype = (ctypes.c_void_p,), ctypes.c_void_p
            handler(None)
