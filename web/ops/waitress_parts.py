"""The parts of waitress that the HTTP server extends, untyped: typeshed's stubs of them have many errors."""

from __future__ import annotations

from typing import Any

import waitress.adjustments
import waitress.channel
import waitress.parser
import waitress.server
import waitress.task
import waitress.wasyncore

Adjustments: Any = waitress.adjustments.Adjustments
BaseWSGIServer: Any = waitress.server.BaseWSGIServer
ErrorTask: Any = waitress.task.ErrorTask
HTTPChannel: Any = waitress.channel.HTTPChannel
HTTPRequestParser: Any = waitress.parser.HTTPRequestParser
ThreadedTaskDispatcher: Any = waitress.task.ThreadedTaskDispatcher
WSGITask: Any = waitress.task.WSGITask
wasyncore: Any = waitress.wasyncore
