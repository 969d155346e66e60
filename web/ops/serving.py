"""How gunicorn serves the application: `gunicorn --config python:web.ops.serving`; its own options count more."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flask import Flask
from prometheus_client import multiprocess, values

from searchdb.config import Settings
from searchdb.errors import ConfigError

from ..backend import EXTENSION, Backend
from .logs import JsonLines
from .metrics import SHARED_FOLDER

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker

log = logging.getLogger(__name__)

wsgi_app = f"{__name__.removesuffix('.ops.serving')}:create_app(warm_up=False)"
"""Of the `web` in which this file is: `web` in the repository, `searchdb.web` where the wheel is installed."""

workers = int(os.environ.get("WEB_CONCURRENCY") or 1)
"""Each loads the model for itself, which uses every core: several are for machines with many cores, and memory."""
worker_class = "gthread"
threads = 8
"""Of each worker: they share one model, at which they take turns, and while one is there the others serve pictures."""

preload_app = sys.platform != "darwin"
"""Importing torch takes seconds, which a worker that is started anew need not spend again. On macOS the system's own
libraries do not survive the fork."""

timeout = 120
"""Seconds without a sign of life after which a worker is replaced; slow requests are none of its business."""
graceful_timeout = 30
"""Seconds that requests have to end in when the server stops."""
keepalive = 15
"""Seconds that a connection is kept for the next request: people look at a page before they go on."""

control_socket_disable = True
"""A way in that nobody uses is one to watch for nothing."""
accesslog = None
"""The application writes a line for every request itself."""

try:
    _settings = Settings()
except ConfigError as exc:
    sys.exit(f"Error: {exc}")

if _settings.log_format == "json":
    _to_stderr = {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}
    logconfig_dict: dict[str, Any] = {
        "formatters": {"json": {"()": JsonLines}},
        "handlers": {"stderr": _to_stderr},
        "loggers": {"gunicorn.error": {"level": "INFO", "handlers": ["stderr"], "propagate": False}},
        "root": {"level": "WARNING", "handlers": []},
    }

# Before torch is imported, which reads it once. Workers share the cores, and more threads than cores are slower.
_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
os.environ.setdefault("OMP_NUM_THREADS", str(max(_cores // workers, 1)))

_own_folder = None
if workers > 1 and SHARED_FOLDER not in os.environ:
    _own_folder = os.environ[SHARED_FOLDER] = tempfile.mkdtemp(prefix="searchdb-metrics-")
    values.ValueClass = values.get_value_class()  # decided at its import, when nothing was shared yet
if SHARED_FOLDER in os.environ:
    _folder = Path(os.environ[SHARED_FOLDER])
    _folder.mkdir(parents=True, exist_ok=True)
    for _leftover in _folder.glob("*.db"):  # of a run that has ended
        _leftover.unlink()


def on_starting(server: Arbiter) -> None:
    """Import what the model needs, once for all workers, before there is anything to connect to."""
    from searchdb.media.embed import import_libraries

    if server.cfg.workers != workers:
        log.warning("set WEB_CONCURRENCY instead of --workers: metrics and cores are shared out by it")
    if server.cfg.preload_app:
        import_libraries()


def post_worker_init(worker: Worker) -> None:
    """Open the database and load the model, in the process that uses them."""
    _collection(worker).warm_up()


def worker_exit(server: Arbiter, worker: Worker) -> None:
    """Close the connections, and leave the embedded server, when the last request has ended."""
    if worker.app.callable is not None:  # it has started
        _collection(worker).close()


def child_exit(server: Arbiter, worker: Worker) -> None:
    """Forget the gauges of a worker that has ended."""
    if SHARED_FOLDER in os.environ:
        multiprocess.mark_process_dead(worker.pid)


def on_exit(server: Arbiter) -> None:
    """Remove what the workers counted in, if nobody else named the folder."""
    if _own_folder is not None:
        shutil.rmtree(_own_folder, ignore_errors=True)


def _collection(worker: Worker) -> Backend:
    return cast(Flask, worker.app.callable).extensions[EXTENSION]
