"""Which module may know which, and what may not be loaded before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BASE = {"errors", "records"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "records": {"errors"},
    "config": {"errors"},
    "postgres": {"errors"},
    "tables": {"records"},
    "models": {"errors", "records", "tables"},
    "database": {"config", "errors", "postgres"},
    "sources": {*BASE, "sources"},
    "connections": BASE,
    "fetch": {*BASE, "connections"},
    "decode": BASE,
    "embed": BASE,
    "store": {*BASE, "models", "tables"},
    "filters": {*BASE, "tables"},
    "ranking": {*BASE, "tables"},
    "readonly": {"errors"},
    "relevance": {*BASE, "readonly", "tables"},
    "facets": {*BASE, "filters", "tables"},
    "query_cache": {*BASE, "models", "readonly", "tables"},
    "search": {*BASE, "facets", "filters", "models", "query_cache", "ranking", "relevance", "tables"},
    "index": {*BASE, "index_status", "relevance", "tables"},
    "index_status": {"tables"},
    "recall": {*BASE, "index_status", "tables"},
    "tune": {*BASE, "index", "index_status", "recall"},
    "charts": {*BASE, "models", "tables"},
    "as_sql": {*BASE, "filters", "search"},
    "sql": BASE,
    "outage": {"errors"},
    "queue": {*BASE, "store", "tables"},
    "ingest": {*BASE, "decode", "fetch", "outage", "queue", "store"},
    "adding": {*BASE, "decode", "fetch", "index", "store", "tables"},
    "unsplash_tables": {"sources", "tables"},
    "unsplash": {*BASE, "sources", "tables", "unsplash_tables"},
    "demo": {"demo"},
}
"""What each module of searchdb may import of searchdb; those not named here compose everything."""
COMPOSERS = {"__init__", "__main__", "cli", "collection", "jobs", "status"}
WEB = {
    *("config", "database", "decode", "errors", "facets", "fetch", "filters", "models", "records", "search", "embed"),
    *("adding", "as_sql", "charts", "query_cache", "readonly", "status"),
}


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield every module that a file imports, and whether only inside a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in inside
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "searchdb" else [node.module]
            )
            for name in names:
                yield name, id(node) in inside


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def part(name: str) -> str:
    """The part of searchdb that a dotted name belongs to."""
    return name.split(".")[1]


@pytest.mark.parametrize("path", modules("searchdb"), ids=lambda path: str(path.relative_to(ROOT)))
def test_directions_within_searchdb(path: Path) -> None:
    own = path.relative_to(ROOT / "searchdb").with_suffix("").parts[0]
    names = {name for name, _ in imported(path)}
    assert not {name for name in names if name.split(".")[0] in ("web", "flask")}
    if own in COMPOSERS:
        return
    used = {part(name) for name in names if name.startswith("searchdb.")}
    assert used <= ALLOWED[own] | ({own} if own == "sources" else set()), f"{own} may not know {used - ALLOWED[own]}"


@pytest.mark.parametrize("path", modules("searchdb"), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_embed_and_training_know_torch(path: Path) -> None:
    heavy = {name.split(".")[0] for name, _ in imported(path)} & {"torch", "transformers", "tokenizers", "safetensors"}
    if path.parent.name != "demo":
        assert not heavy or path.name == "embed.py"


@pytest.mark.parametrize("path", modules("web"), ids=lambda path: str(path.relative_to(ROOT)))
def test_directions_of_web(path: Path) -> None:
    for name, inside in imported(path):
        if name.startswith("searchdb."):
            assert part(name) in WEB
            if part(name) == "embed":
                assert inside, "web imports embed inside create_app only"


def loaded_after(code: str) -> set[str]:
    script = f"import sys; {code}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split("\n")[-2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import searchdb",
        "import searchdb.collection",
        "import web",
        "from searchdb.cli import cli; cli(['--help'], standalone_mode=False)",
        "from searchdb.cli import cli; cli(['search', '--help'], standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_loaded_early(code: str) -> None:
    assert not loaded_after(code) & {"torch", "transformers", "procrastinate"}


def test_the_help_loads_hardly_anything() -> None:
    loaded = loaded_after("from searchdb.cli import cli; cli(['--help'], standalone_mode=False)")
    assert not loaded & {"sqlalchemy", "numpy", "PIL", "pydantic", "rich", "requests", "sqlglot", "alembic"}
