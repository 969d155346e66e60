"""Which module may know which, and what may not be loaded before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BASE = {
    "errors",
    "records",
    "config",
    "database_url",
    "trusted_hosts",
    "batches",
    "bundled",
    "clock",
    "embedder",
    "plurals",
    "private_folder",
}
"""What every package may import."""
PACKAGES: dict[str, set[str]] = {
    "sources": set(),
    "media": set(),
    "video": {"media"},
    "db": set(),
    "unsplash": {"sources", "db"},
    "vector_files": {"sources"},
    "search": {"db"},
    "index": {"db", "search"},
    "ingest": {"db", "media", "index", "video"},
    "export": {"db", "media", "search"},
    "compare": {"db", "export", "media", "search", "sources", "video"},
    "watch": {"sources", "ingest", "db"},
    "switch": {"db", "media", "search", "index", "ingest", "video"},
    "demo": set(),
    "web": {"db", "media", "search", "index", "ingest", "status", "switch", "video", "watch"},
}
"""Which other packages each may import. What is not named (client, comparing, exporting, ingesting, parts,
second_model, status, switching, vector_ingesting, cli) composes them."""
FILES: dict[str, set[str]] = {
    "errors": set(),
    "records": {"errors"},
    "config": {"errors", "database_url", "trusted_hosts"},
    "database_url": set(),
    "trusted_hosts": set(),
    "bundled": set(),
    "batches": set(),
    "clock": set(),
    "embedder": {"records"},
    "plurals": set(),
    "private_folder": {"errors"},
    "media.fetch": {"media.http_replies", "media.local_files", "media.memory", "media.safe_http"},
    "media.http_replies": {"media.safe_http"},
    "media.local_files": {"media.formats", "media.memory", "media.regular_file"},
    "media.error_transfer": set(),
    "media.safe_http": set(),
    "media.sandbox": set(),
    "media.decode": {
        "media.decode_memory",
        "media.formats",
        "media.helper",
        "media.image_reader",
        "media.inspection",
        "media.memory",
        "media.pixels",
    },
    "media.decode_memory": {"media.pixels"},
    "media.memory": set(),
    "media.formats": {"media.inspection.raw"},
    "media.helper": {"media.error_transfer", "media.sandbox", "media.written.exif"},
    "media.helper_process": {"media.helper", "media.image_reader", "media.sandbox", "media.written.exif"},
    "media.heif_reader": set(),
    "media.image_reader": {
        "media.heif_reader",
        "media.jpeg_xl_reader",
        "media.libtiff",
        "media.pixels",
        "media.raw_reader",
        "media.tiff_reader",
        "media.written.exif",
        "media.written.file_metadata",
    },
    "media.inspection.avif": {"media.inspection.boxes", "media.inspection.record"},
    "media.inspection.boxes": {"media.inspection.record"},
    "media.inspection.heif": {"media.inspection.boxes", "media.inspection.record"},
    "media.inspection.jpeg": {"media.inspection.record"},
    "media.inspection.jpeg_xl": {"media.inspection.boxes", "media.inspection.record"},
    "media.inspection.png": {"media.inspection.record"},
    "media.inspection.raw": {
        "media.inspection.boxes",
        "media.inspection.jpeg",
        "media.inspection.record",
        "media.inspection.tiff",
        "media.inspection.tiff_directories",
    },
    "media.inspection.record": set(),
    "media.inspection.simple_formats": {"media.inspection.record"},
    "media.inspection.tiff": {"media.inspection.record", "media.inspection.tiff_directories"},
    "media.inspection.tiff_directories": {"media.inspection.record"},
    "media.jpeg_xl_reader": {"media.inspection.boxes"},
    "media.pixels": set(),
    "media.regular_file": set(),
    "media.written.__init__": set(),
    "media.written.combination": {"media.written.keywords", "media.written.times"},
    "media.written.companion": {
        "media.regular_file",
        "media.written.takeout",
        "media.written.xmp",
        "media.written.xmp_packet",
    },
    "media.written.exif": {"media.written.keywords", "media.written.text", "media.written.times"},
    "media.written.file_metadata": {
        "media.written.combination",
        "media.written.exif",
        "media.written.iptc",
        "media.written.text",
        "media.written.xmp",
    },
    "media.written.iptc": {"media.written.keywords", "media.written.text", "media.written.times"},
    "media.written.keywords": {"media.written.text"},
    "media.written.reader": {
        "media.formats",
        "media.image_reader",
        "media.inspection",
        "media.inspection.jpeg",
        "media.inspection.raw",
        "media.raw_reader",
        "media.regular_file",
        "media.tiff_reader",
        "media.written.exif",
        "media.written.file_metadata",
        "media.written.heif",
    },
    "media.written.heif": {"media.inspection.boxes", "media.inspection.record", "media.written.xmp_packet"},
    "media.written.takeout": {"media.written.keywords", "media.written.text", "media.written.times"},
    "media.written.text": set(),
    "media.written.times": set(),
    "media.written.xmp": {
        "media.written.exif",
        "media.written.keywords",
        "media.written.text",
        "media.written.times",
        "media.written.xmp_packet",
    },
    "media.written.xmp_packet": set(),
    "media.raw_reader": {"media.inspection.raw", "media.inspection.tiff_directories"},
    "media.tiff_reader": {"media.inspection.tiff", "media.inspection.tiff_directories"},
    "media.embed": {
        "media.model_files",
        "media.models.families",
        "media.models.folders",
        "media.models.forward",
        "media.models.geometry",
        "media.models.loading",
        "media.models.preprocessing",
    },
    "media.models.families": {"media.model_files"},
    "media.models.folders": {"media.model_files", "media.models.families"},
    "media.models.geometry": set(),
    "media.models.preprocessing": {"media.model_files", "media.models.geometry"},
    "media.models.devices": set(),
    "media.models.loading": {"media.model_files", "media.models.devices", "media.models.families"},
    "media.models.description": {
        "media.model_files",
        "media.models.families",
        "media.models.folders",
        "media.models.loading",
        "media.models.preprocessing",
    },
    "media.models.recommended": set(),
    "media.models.forward": {
        "media.models.families",
        "media.models.geometry",
        "media.models.loading",
        "media.models.preprocessing",
    },
    "sources.arguments": {"sources", "sources.exclusion"},
    "sources.companions": {"sources.takeout"},
    "sources.files": {"sources", "sources.arguments", "sources.companions", "sources.exclusion"},
    "sources.takeout": set(),
    "video.helper": {"media.sandbox", "video.messages"},
    "video.helper_process": {
        "media.sandbox",
        "video.messages",
        "video.pixels",
        "video.reader",
        "video.sampling",
    },
    "video.messages": {"media.error_transfer"},
    "video.pixels": {"video.messages"},
    "video.reader": {"video.messages", "video.timeline"},
    "video.recognition": {"media.formats"},
    "video.sampling": set(),
    "video.tags": {"media.written", "media.written.keywords", "media.written.text", "media.written.times"},
    "video.timeline": set(),
    "sources.exclusion": set(),
    "sources.json_lines": set(),
    "sources.urls": {"sources", "sources.columns", "sources.delimited", "sources.json_lines"},
    "sources.columns": {"sources"},
    "sources.delimited": {"sources"},
    "unsplash.columns": set(),
    "unsplash.photos": {"sources"},
    "unsplash.reader": {"sources", "sources.delimited", "unsplash.columns"},
    "vector_files.arrays": {"sources", "vector_files.names", "vector_files.records"},
    "vector_files.frames": {"sources", "vector_files.references"},
    "vector_files.metadata": {"sources.columns", "vector_files.nesting"},
    "vector_files.names": {"sources"},
    "vector_files.nesting": set(),
    "vector_files.opening": {
        "sources",
        "vector_files.arrays",
        "vector_files.parquet",
        "vector_files.records",
        "vector_files.sidecars",
        "vector_files.text",
    },
    "vector_files.parquet": {"sources", "vector_files.names", "vector_files.records"},
    "vector_files.records": set(),
    "vector_files.references": {"sources", "vector_files.names"},
    "vector_files.repeats": set(),
    "vector_files.sidecars": {
        "sources",
        "vector_files.arrays",
        "vector_files.parquet",
        "vector_files.records",
        "vector_files.text",
    },
    "vector_files.text": {
        "sources",
        "sources.delimited",
        "sources.json_lines",
        "vector_files.names",
        "vector_files.nesting",
        "vector_files.records",
        "vector_files.units",
    },
    "vector_files.units": set(),
    "db.tables": set(),
    "db.driver_errors": {"db.schema"},
    "db.times": set(),
    "db.connections": {"db.driver_errors", "db.extension", "db.times"},
    "db.counts": {"db.samples"},
    "db.samples": set(),
    "db.embedded_programs": set(),
    "db.embedded_log": set(),
    "db.embedded_access": {"db.embedded_programs"},
    "db.embedded_start": {"db.embedded_log", "db.embedded_programs"},
    "db.embedded": {"db.embedded_access", "db.embedded_log", "db.embedded_programs", "db.embedded_start"},
    "db.embedded_reader": set(),
    "db.sql_parser": set(),
    "db.reading": {"db.driver_errors", "db.version_table"},
    "db.reader_role": {"db.driver_errors", "db.functions", "db.schema", "db.version_table", "db.views"},
    "db.best_effort": {"db.connections"},
    "db.extension": set(),
    "db.current_model": {"db.switch_tables", "db.tables", "db.width"},
    "db.functions": {"db.vectors"},
    "db.older_snapshots": {"db.short_locks"},
    "db.open_switch": {"db.switch_tables", "db.tables", "db.vectors"},
    "db.short_locks": {"db.connections"},
    "db.stored_models": {"db.tables", "db.vectors"},
    "db.switch_tables": {"db.tables"},
    "db.vectors": {"db.tables"},
    "db.width": {"db.driver_errors", "db.functions", "db.tables", "db.vectors"},
    "db.version_table": {"db.extension"},
    "db.keys": set(),
    "db.norms": {"db.tables", "db.vectors", "db.version_table"},
    "db.schema": {
        "db.connections",
        "db.database",
        "db.functions",
        "db.keys",
        "db.switch_tables",
        "db.tables",
        "db.version_table",
        "db.views",
    },
    "db.restoration": {
        "db.functions",
        "db.keys",
        "db.schema",
        "db.tables",
        "db.vectors",
        "db.version_table",
        "db.views",
    },
    "db.views": set(),
    "search.filter_table": set(),
    "search.conditions": {"db.tables"},
    "search.filters": {"db.sql_parser", "search.filter_table", "search.conditions"},
    "search.ranking": {"db.tables"},
    "search.everyday_texts": set(),
    "search.query": set(),
    "search.moments": {"db.tables", "search.ranking"},
    "search.combination": {"db.tables", "db.best_effort", "search.image_sample", "search.ranking"},
    "search.image_sample": {"db.best_effort", "db.current_model", "db.samples", "db.tables", "db.vectors"},
    "search.relevance_scale": set(),
    "search.relevance": {
        "db.counts",
        "db.samples",
        "db.tables",
        "db.best_effort",
        "db.current_model",
        "db.vectors",
        "search.everyday_texts",
        "search.image_sample",
        "search.query_cache",
        "search.ranking",
        "search.relevance_scale",
    },
    "search.following": {"search.query"},
    "search.guarded": {"db.driver_errors", "db.reading", "search.filters"},
    "export.columns": {"db.tables"},
    "export.disk": set(),
    "export.destination": {"export.disk"},
    "export.names": set(),
    "export.report": set(),
    "export.rows": {"db.tables", "export.columns", "search.filters", "search.guarded"},
    "export.text_formats": {"export.columns", "export.destination", "export.rows"},
    "export.parquet": {"db.tables", "export.columns", "export.destination", "export.rows"},
    "export.links": set(),
    "export.npz": {"db.tables", "export.columns", "export.destination", "export.rows", "export.text_formats"},
    "export.templates": set(),
    "export.contact_sheet": {
        "export.destination",
        "export.links",
        "export.originals",
        "export.report",
        "export.rows",
        "export.templates",
    },
    "compare.agreement": set(),
    "compare.query_file": {"compare.records", "search.query", "sources", "sources.delimited", "sources.json_lines"},
    "compare.quality": {"compare.records"},
    "compare.records": set(),
    "compare.sample": {"compare.query_file", "compare.records", "db.tables", "db.vectors"},
    "compare.speed": set(),
    "compare.verdict": {"compare.quality", "compare.records"},
    "index.records": set(),
    "index.policy": {"index.records"},
    "index.status": {"db.counts", "db.tables", "db.vectors", "index.policy", "index.records"},
    "index.depth": {"db.vectors", "index.status"},
    "index.exact": {"db.tables", "db.vectors"},
    "index.recall": {
        "db.best_effort",
        "db.connections",
        "db.samples",
        "db.tables",
        "db.vectors",
        "index.exact",
        "index.records",
        "index.status",
    },
    "index.tune": {
        "db.driver_errors",
        "db.vectors",
        "index.depth",
        "index.exact",
        "index.policy",
        "index.recall",
        "index.records",
        "index.status",
    },
    "index.self_tune": {
        "db.tables",
        "db.vectors",
        "index.exact",
        "index.recall",
        "index.tune",
        "search.everyday_texts",
        "search.query_cache",
    },
    "index.build": {
        "db.connections",
        "db.driver_errors",
        "db.extension",
        "db.functions",
        "db.tables",
        "db.vectors",
        "index.depth",
        "index.exact",
        "index.policy",
        "index.recall",
        "index.self_tune",
        "index.status",
        "search.image_sample",
        "search.relevance",
    },
    "switch.forget": {
        "db.database",
        "db.driver_errors",
        "db.open_switch",
        "db.short_locks",
        "db.stored_models",
        "db.switch_tables",
        "db.tables",
        "db.vectors",
        "db.width",
        "index.status",
        "switch.obstacles",
    },
    "switch.jobs": {"db.tables", "ingest.queue", "ingest.queue_errors"},
    "switch.lease": {"db.open_switch", "db.switch_tables", "ingest.queue"},
    "switch.notice": {"db.connections"},
    "switch.obstacles": {"db.driver_errors", "index.depth"},
    "switch.report": {"db.database", "db.open_switch", "db.switch_tables", "db.tables"},
    "switch.space": {"db.database", "db.vectors"},
    "switch.state": {
        "db.counts",
        "db.open_switch",
        "db.switch_tables",
        "db.tables",
        "db.vectors",
        "switch.lease",
        "switch.space",
    },
    "switch.vectors_beside": {"db.tables", "db.vectors", "ingest.rows"},
    "index.on_demand": {"db.tables", "index.depth", "index.rebuild", "index.self_tune"},
    "index.rebuild": {
        "db.driver_errors",
        "db.extension",
        "index.build",
        "index.depth",
        "index.self_tune",
        "index.status",
    },
}
"""Files that may import less than their package: their imports beside BASE."""


@cache
def imported(path: Path) -> list[tuple[str, bool]]:
    """Return every module that a file imports, and whether only inside a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)
    }
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                assert path.is_relative_to(ROOT / "web"), (
                    f"{path}: only web, which moves in a wheel, imports relatively"
                )
                continue
            assert node.module is not None
            # Of a package, what counts is which of its modules.
            is_package = (ROOT / node.module.replace(".", "/")).is_dir()
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                exists = (ROOT / submodule.replace(".", "/")).with_suffix(".py").is_file()
                found.append((submodule if is_package and exists else node.module, id(node) in inside))
    return found


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def used_by(path: Path) -> set[str]:
    """The modules of searchdb that a file imports, as dotted names below it."""
    return {name.partition(".")[2] for name, _ in imported(path) if name.startswith("searchdb.")}


def package(module: str) -> str:
    """The package of searchdb that a dotted name belongs to."""
    return module.partition(".")[0]


def wrong(found: dict[Path, set[str]]) -> dict[str, set[str]]:
    """The files that import something they may not, with what it is."""
    return {str(path.relative_to(ROOT)): names for path, names in found.items() if names}


def forbidden(path: Path) -> set[str]:
    """What a file of searchdb imports and may not."""
    found = {name for name, _ in imported(path) if name.split(".")[0] in ("web", "flask")}
    own = ".".join(path.relative_to(ROOT / "searchdb").with_suffix("").parts)
    used = used_by(path)
    if own in FILES:
        found |= used - FILES[own] - BASE
    if (allowed := PACKAGES.get(package(own))) is not None:
        found |= {name for name in used if package(name) not in allowed | BASE | {package(own)}}
    return found


def test_directions_within_searchdb() -> None:
    assert wrong({path: forbidden(path) for path in modules("searchdb")}) == {}


def test_every_row_names_what_exists() -> None:
    found = {".".join(path.relative_to(ROOT / "searchdb").with_suffix("").parts) for path in modules("searchdb")}
    assert set(FILES) <= found
    assert set(PACKAGES) <= {package(name) for name in found} | {"web"}


def test_only_the_models_and_training_know_torch() -> None:
    heavy = {"torch", "transformers", "tokenizers", "safetensors"}
    others = [path for path in modules("searchdb") if not path.is_relative_to(ROOT / "searchdb" / "media" / "models")]
    known = {path: {name.split(".")[0] for name, _ in imported(path)} & heavy for path in others}
    assert wrong({path: names for path, names in known.items() if path.parent.name != "demo"}) == {}
    assert any(known.values()), "training"


def test_directions_of_web() -> None:
    allowed = PACKAGES["web"] | BASE
    used = {path: {name for name in used_by(path) if package(name) not in allowed} for path in modules("web")}
    assert wrong(used) == {}
    eager = {path: {name for name, inside in imported(path) if not inside} for path in modules("web")}
    embedder = {"searchdb.media.embed"}
    assert wrong({path: names & embedder for path, names in eager.items()}) == {}, "inside functions only"


WEB_PACKAGES: dict[str, set[str]] = {"page": {"files"}, "api": {"files"}, "files": set(), "ops": set()}
"""Which of web's other packages each may import."""
WEB_BASE = {"backend", "background_model", "search_url", "slots", "timed_cache", "work_limit"}
"""Modules of web below its packages; they may use the metrics, the counters, the thumbnail cache and the fetcher for
visitors, which import none of them."""


def used_within_web(path: Path) -> set[str]:
    """The modules and packages of web that a file imports from outside its own package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == len(path.relative_to(ROOT / "web").parts):
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("name", WEB_PACKAGES)
def test_directions_within_web(name: str) -> None:
    for path in modules(f"web/{name}"):
        others = used_within_web(path) & WEB_PACKAGES.keys() - {name}
        assert others <= WEB_PACKAGES[name], f"{path}: {name} may not import {others - WEB_PACKAGES[name]}"


@pytest.mark.parametrize("name", sorted(WEB_BASE))
def test_directions_below_web_packages(name: str) -> None:
    assert not used_within_web(ROOT / "web" / f"{name}.py") & {"page", "api"}


def loaded_after(code: str) -> set[str]:
    script = f"import sys; {code}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split("\n")[-2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import searchdb.client",
        "import web",
        "from searchdb.cli import cli; [cli([name, '--help'], standalone_mode=False) for name in ('search', 'export')]",
    ],
)
@pytest.mark.slow
def test_nothing_heavy_is_loaded_early(code: str) -> None:
    assert not loaded_after(code) & {"torch", "transformers", "procrastinate", "pyarrow"}


def test_the_help_loads_hardly_anything() -> None:
    loaded = loaded_after("from searchdb.cli import cli; cli(['--help'], standalone_mode=False)")
    assert not loaded & {"sqlalchemy", "numpy", "PIL", "pydantic", "rich", "requests", "sqlglot", "alembic"}
    assert not loaded & {"torch", "transformers", "procrastinate", "pyarrow"}
