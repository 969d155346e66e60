"""What the documentation promises exists, and what exists is documented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from searchdb.cli import cli
from searchdb.config import Settings, variable_of
from searchdb.media.embed import CLIPEmbedder
from web import create_app
from web.backend import EXTENSION

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def commands(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


COMMANDS = dict(commands(cli, "searchdb"))


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_in_the_table(name: str) -> None:
    variable = variable_of(name)
    assert re.search(rf"^\| `{variable}` \|", README, re.MULTILINE), f"{variable} is not in README.md's table"


def test_no_setting_is_made_up() -> None:
    known = {f"SEARCHDB_{name.upper()}" for name in Settings.model_fields}
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        assert set(re.findall(r"SEARCHDB_[A-Z_]+", path.read_text(encoding="utf-8"))) <= known, path


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented_and_says_what_it_does(name: str) -> None:
    assert name in README, f"`{name}` is not in README.md"
    assert COMMANDS[name].help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name: str) -> None:
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts[0]}"


def test_no_command_is_made_up() -> None:
    mentioned = re.findall(r"\bsearchdb ((?:[a-z]+)(?: [a-z]+)?)", "\n".join(re.findall(r"`([^`\n]+)`", README)))
    known = {name.removeprefix("searchdb ") for name in COMMANDS}
    groups = {name.split()[0] for name in known}
    for words in mentioned:
        assert words in known or words.split()[0] in known or words in groups, f"`searchdb {words}`"


def test_documented_endpoints_are_the_existing_ones(settings: Settings, embedder: CLIPEmbedder) -> None:
    app = create_app(settings, embedder=embedder)
    document = app.test_client().get("/api/openapi.json").get_json()
    app.extensions[EXTENSION].close()
    endpoints = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert set(re.findall(r"^\| `([A-Z]+ /api/\S*)` \|", README, re.MULTILINE)) == endpoints


def test_documented_metrics_are_the_existing_ones(settings: Settings, embedder: CLIPEmbedder) -> None:
    app = create_app(settings, embedder=embedder)
    shown = app.test_client().get("/metrics").text
    app.extensions[EXTENSION].close()
    metrics = set(re.findall(r"^# TYPE (searchdb_\w+?)(?:_total|_created)? ", shown, re.MULTILINE))
    documented = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`searchdb_.*?) \|", documented, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(searchdb_\w+?)(?:_total)?`", row)} == metrics


def test_the_makefile_has_what_the_readme_names() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "serve", "test", "test-fast", "coverage", "lint", "bench", "clean"} <= targets
    for path in PAGES:
        named = re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(named) <= targets, path


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_and_images_exist(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", page):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            linked = path.parent / name if name else path
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked.read_text(encoding="utf-8")), target


def test_no_option_is_made_up() -> None:
    known = {"--help"} | {
        option for command in [cli, *COMMANDS.values()] for param in command.params for option in param.opts
    }
    for line in README.splitlines():
        if "searchdb" in line and "pip" not in line:
            assert set(re.findall(r"(?<![\w-])--[a-z-]+", line)) <= known, line


def test_where_to_change_what_names_real_files_and_functions() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = page.partition("## Where to change what")[2].partition("## ")[0]
    for path in re.findall(r"`([\w.-]+/[\w./-]*)`", section):
        assert (ROOT / path).exists(), path
    for name, path in re.findall(r"`(\w+)`\s+in\s+`([\w/]+\.py)`", section):
        assert re.search(rf"^(?:class |def )?{name}\b", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), name


def test_the_version_is_in_the_changelog() -> None:
    version = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    assert f"## {version[1]}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


PROMISES = re.findall(
    r"^\| (?!promise |---)(.+?) \| (.+) \|$", (ROOT / "docs" / "security.md").read_text("utf-8"), re.MULTILINE
)


@pytest.mark.parametrize(("promise", "tests"), PROMISES)
def test_each_promise_of_security_names_tests_that_exist(promise: str, tests: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", tests)
    assert len(named) == len(tests.split(", ")) >= 1, f"not a list of tests: {tests}"
    for path, name in named:
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), f"{path}::{name}"


def test_promises_are_found() -> None:
    assert len(PROMISES) >= 20
