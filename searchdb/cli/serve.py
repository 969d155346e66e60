"""`searchdb serve`: runs the web application with gunicorn, or with Flask's server for development."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from searchdb.bundled import import_web
from searchdb.cli import settings_of
from searchdb.trusted_hosts import hosts_of

if TYPE_CHECKING:
    from searchdb.config import Settings

HOST = "127.0.0.1"
PORT = 5000


@click.command("serve")
@click.option("--host", default=HOST, show_default=True, help="address to listen on; 0.0.0.0 for every interface")
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True, help="port to listen on")
@click.option("--workers", type=click.IntRange(1, 256), help="processes, each with its own model [WEB_CONCURRENCY; 1]")
@click.option("--debug", is_flag=True, help="run Flask's development server: reloads on changes, shows tracebacks")
@click.pass_context
def serve_command(ctx: click.Context, host: str, port: int, workers: int | None, debug: bool) -> None:
    """Serve the page and the API.

    Runs gunicorn with the configuration in web/ops/serving.py. Use --debug during development only: its server is
    neither fast nor safe to expose.
    """
    if debug and workers is not None:
        raise click.UsageError("--workers has no effect with --debug: leave one of them out")
    settings = settings_of(ctx)  # reports a malformed setting here, in one line
    if "WERKZEUG_RUN_MAIN" not in os.environ:  # the reloader's child inherits the socket of its parent
        require_free_port(host, port)
    # The server's processes read the settings from the environment.
    os.environ.update(environment_of(ctx))
    # The web application sets up its own log; the command line's handler would write every line a second time.
    logging.getLogger().handlers.clear()
    if debug:
        _run_flask(settings, host, port)
    else:
        if workers is not None:
            os.environ["WEB_CONCURRENCY"] = str(workers)
        _run_gunicorn(host, port)


def environment_of(ctx: click.Context, **overrides: Any) -> Mapping[str, str]:
    """Return the command line's settings, replaced by `overrides`, as environment variables for another process."""
    return {
        "DATABASE_URL" if name == "database_url" else f"SEARCHDB_{name.upper()}": str(value)
        for name, value in (ctx.obj | overrides).items()
    }


def require_free_port(host: str, port: int) -> None:
    """Raise a ClickException if the server cannot listen on the address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise click.ClickException(f"port {port} is taken: choose another with --port") from exc
        raise click.ClickException(f"cannot listen on {host} port {port}: {exc.strerror or exc}") from exc


def _run_gunicorn(host: str, port: int) -> None:
    web = import_web()
    from gunicorn.app.base import Application
    from gunicorn.util import import_app

    class Page(Application):
        """Gunicorn with the configuration in `web.ops.serving` and the address from the command line."""

        def load_config(self) -> None:
            self.load_config_from_module_name_or_filename(f"python:{web.__name__}.ops.serving")
            self.cfg.set("bind", f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
            self.cfg.set("proc_name", "searchdb")

        def load(self) -> Any:
            return import_app(self.cfg.wsgi_app)

    Page().run()


def _run_flask(settings: Settings, host: str, port: int) -> None:
    from searchdb.db.embedded import EmbeddedServer

    # The reloader's parent process only watches files: the model is loaded in the child.
    in_child = "WERKZEUG_RUN_MAIN" in os.environ
    hosts = f"{settings.trusted_hosts}, {hosts_of(host)}"
    app = import_web().create_app(settings.model_copy(update={"trusted_hosts": hosts}), warm_up=in_child)
    try:
        app.run(host, port, debug=True, threaded=True, load_dotenv=False)
    finally:
        if settings.url() is None and not in_child:
            # The reloader kills the child, which then leaves the server running, and does not wait for its end.
            with suppress(ChildProcessError):
                os.waitpid(-1, 0)
            EmbeddedServer.at(settings.home).stop_if_unused()
