"""Configures gunicorn: `gunicorn --config python:web.ops.serving`; command line options take precedence."""

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
from .gate import trust_bound
from .logs import JsonLines
from .metrics import SHARED_FOLDER

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker

log = logging.getLogger(__name__)

wsgi_app = f"{__name__.removesuffix('.ops.serving')}:create_app(warm_up=False)"
"""The application of the package that contains this file: `web` in the repository, `searchdb.web` in a wheel."""

workers = int(os.environ.get("WEB_CONCURRENCY") or 1)
"""Each process loads its own model, which uses every core: several need many cores and much memory."""
worker_class = f"{__name__.removesuffix('.serving')}.worker.BufferingWorker"
"""Reads requests and sends responses without a thread each, so that slow clients hold none."""
threads = 24
"""Per worker, for complete requests. More than may wait at once for fetches, the model, decoding and the database, so
that a search whose text is cached finds a free one. Idle threads cost almost nothing."""

preload_app = sys.platform != "darwin"
"""Importing torch takes seconds, which preloading saves when a worker restarts. On macOS the system libraries do not
survive the fork."""

timeout = 120
"""Seconds without a heartbeat after which a worker is replaced; slow requests do not count."""
graceful_timeout = 30
"""Seconds that running requests get to finish when the server stops."""
keepalive = 15
"""Seconds that an idle connection stays open, because visitors look at a page before the next request."""

limit_request_line = 8190
"""Bytes, the most that gunicorn allows: an image to search by has 688 characters, the ids to exclude up to 7,750."""
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""
"""Gunicorn takes no address, scheme or variable from headers: `Forwarded` does, as far as SEARCHDB_PROXIES says. Its
defaults believe every client on this machine."""

control_socket_disable = True
"""Unused, so it would only add an attack surface."""
accesslog = None
"""The application logs every request itself."""

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

# Torch reads OMP_NUM_THREADS once, on import. Workers share the cores, and more threads than cores are slower.
_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
os.environ.setdefault("OMP_NUM_THREADS", str(max(_cores // workers, 1)))

_own_folder = None
if workers > 1 and SHARED_FOLDER not in os.environ:
    _own_folder = os.environ[SHARED_FOLDER] = tempfile.mkdtemp(prefix="searchdb-metrics-")
    values.ValueClass = values.get_value_class()  # chosen at import, before the folder was set
if SHARED_FOLDER in os.environ:
    _folder = Path(os.environ[SHARED_FOLDER])
    _folder.mkdir(parents=True, exist_ok=True)
    for _leftover in _folder.glob("*.db"):  # left over from an earlier run
        _leftover.unlink()


def on_starting(server: Arbiter) -> None:
    """Import the model's libraries once for all workers, before the server listens."""
    from searchdb.media.embed import import_libraries

    if server.cfg.workers != workers:
        log.warning("set WEB_CONCURRENCY instead of --workers: it also sets up shared metrics and threads per worker")
    if server.cfg.preload_app:
        import_libraries()


def post_worker_init(worker: Worker) -> None:
    """Trust the hosts that the server listens on; open the database and load the model in the worker process."""
    addresses = [each[0] for each in worker.cfg.address if isinstance(each, tuple)]
    trust_bound(cast(Flask, worker.app.callable), addresses)
    _backend(worker).warm_up()


def worker_exit(server: Arbiter, worker: Worker) -> None:
    """Close the connections and leave the embedded server after the last request."""
    if worker.app.callable is not None:  # None if the worker failed to start
        _backend(worker).close()


def child_exit(server: Arbiter, worker: Worker) -> None:
    """Remove the gauges of a worker that has exited."""
    if SHARED_FOLDER in os.environ:
        multiprocess.mark_process_dead(worker.pid)


def on_exit(server: Arbiter) -> None:
    """Remove the metrics folder if this process created it."""
    if _own_folder is not None:
        shutil.rmtree(_own_folder, ignore_errors=True)


def _backend(worker: Worker) -> Backend:
    return cast(Flask, worker.app.callable).extensions[EXTENSION]
