"""The type of the fixture `make_app`."""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask

MakeApp = Callable[..., Flask]
"""Makes an application; keyword arguments are settings of the test's own."""
