"""The OpenAPI document lists what there is, and the API keeps to it, whatever is sent."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import schemathesis
from flask.testing import FlaskClient
from pydantic import SecretStr
from schemathesis.engine import from_schema
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished
from schemathesis.engine.recorder import CheckNode, ScenarioRecorder
from werkzeug.serving import WSGIRequestHandler, make_server

from searchdb.config import Settings
from searchdb.media.fetch import Fetcher
from web import create_app
from web.api.images import REBUILDER
from web.backend import EXTENSION

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from searchdb.media.embed import CLIPEmbedder
    from tests.helpers.stored_images import StoredImages

TOKEN = "a token for tests"
EXAMPLES = 8
"""Requests of each kind to each operation."""

OPERATIONS = {
    ("GET", "/api/search"),
    ("POST", "/api/search"),
    ("GET", "/api/images/{image_id}"),
    ("POST", "/api/images"),
    ("DELETE", "/api/images/{image_id}"),
    ("GET", "/api/model"),
    ("POST", "/api/embeddings"),
    ("GET", "/api/random"),
}


@pytest.fixture
def served(settings: Settings, embedder: CLIPEmbedder, stored_images: StoredImages) -> Iterator[str]:
    """The URL of a server with a token, over a few images."""
    for description in ("a boat at sunset", "a dog on a bench", "red flowers"):
        stored_images.add(description)
    changes = {"api_token": SecretStr(TOKEN), "allow_private_addresses": False, "rate_limit": "", "work_limit": ""}
    settings = settings.model_copy(update=changes)
    app = create_app(settings, embedder=embedder)
    collection = app.extensions[EXTENSION]
    # No host that is asked for exists: once is enough to find out.
    collection.fetcher = Fetcher(max_bytes=settings.max_image_bytes, attempts=1)
    with make_server("127.0.0.1", 0, app, threaded=True, request_handler=SilentHandler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.port}"
        running.shutdown()
        thread.join()
    app.extensions[REBUILDER].join()
    collection.close()


class SilentHandler(WSGIRequestHandler):
    """Leaves the lines of thousands of requests unwritten."""

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - werkzeug's name
        pass


CONFIGURATION = {
    "headers": {"Authorization": f"Bearer {TOKEN}"},
    "generation": {"max-examples": EXAMPLES, "deterministic": True},
    "checks": {
        # What goes together (near and radius_km), and what an image is, no schema can say: valid ones may be refused.
        "positive_data_acceptance": {"expected-statuses": ["2xx", 404, 414, 415, 422]},
        # A long URL is refused before anybody looks at what it says.
        "negative_data_rejection": {"expected-statuses": [400, 401, 403, 404, 405, 413, 414, 415, 422]},
    },
}


def test_document_lists_all_operations_and_no_others(client: FlaskClient) -> None:
    response = client.get("/api/openapi.json")
    assert response.json is not None
    paths = response.json["paths"]
    assert {(method.upper(), path) for path, methods in paths.items() for method in methods} == OPERATIONS


def test_no_input_breaks_the_api(served: str) -> None:
    config = schemathesis.Config.from_dict(CONFIGURATION)
    schema = schemathesis.openapi.from_url(f"{served}/api/openapi.json", config=config)
    failures: dict[str, str] = {}
    requests = Counter[str]()
    checks = Counter[str]()
    for event in from_schema(schema).execute():
        assert not isinstance(event, NonFatalError | FatalError), event
        if isinstance(event, ScenarioFinished):
            requests[event.phase.name] += len(event.recorder.cases)
            for case_id, check in _checks(event.recorder):
                form = event.recorder.cases[case_id].value.media_type == "multipart/form-data"
                # A form holds texts only: what is of a wrong type in its schema is sent as one of the right type.
                vacuous = form and check.name == "negative_data_rejection"
                checks[check.name] += not vacuous
                if check.failure_info is not None and not vacuous:
                    failure = check.failure_info.failure
                    said = f"{failure.operation}: {failure.title}: {failure.message}"
                    failures.setdefault(said, check.failure_info.code_sample)
    assert not failures, "\n\n".join(f"{said}\n{sample}" for said, sample in failures.items())
    assert requests.total() > 300
    assert min(checks.values()) > 100


def _checks(recorder: ScenarioRecorder) -> Iterator[tuple[str, CheckNode]]:
    for case_id, checks in recorder.checks.items():
        yield from ((case_id, check) for check in checks)
