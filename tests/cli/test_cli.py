"""The command line: what it prints, how it ends, and how it says no."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from searchdb.config import Settings
from searchdb.db.database import Database
from searchdb.db.schema import SCHEMA_REVISION
from searchdb.media.embed import CLIPEmbedder
from tests.helpers import warm_processes
from tests.helpers.cli import output, run
from tests.helpers.image_server import ImageServer
from tests.helpers.stored_videos import StoredVideos
from tests.helpers.unsplash_files import keyword, photo, write
from tests.helpers.waiting import GIVE_UP_S


@pytest.fixture(autouse=True)
def _columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.parametrize("group", [(), ("db",), ("failures",), ("index",), ("ingest",)])
def test_the_help_of_a_group_has_whole_sentences(
    demo_settings: Settings, group: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = output(run(demo_settings, *group, "--help")).partition("Commands:")[2]
    assert said.strip()
    assert "..." not in said


def test_search_prints_a_ranked_list(demo_settings: Settings) -> None:
    lines = output(run(demo_settings, "search", "a red car", "--count", "3")).splitlines()
    assert lines[0] == "Ranked results for: a red car"
    assert lines[1].split() == ["rank", "similarity", "relevance", "image", "caption"]
    assert [line.split()[0] for line in lines[2:]] == ["1", "2", "3"]
    similarities = [float(line.split()[1]) for line in lines[2:]]
    assert similarities == sorted(similarities, reverse=True)


def test_search_as_json(demo_settings: Settings) -> None:
    document = json.loads(output(run(demo_settings, "search", "a red car", "--count", "2", "--not", "snow", "--json")))
    assert document["query"] == {
        "text": "a red car", "image": None, "like": [], "unlike": [], "not": "snow", "text_weight": None,
        "threshold": 0.0, "min_relevance": 0.0, "count": 2, "offset": 0,
        "one_per_video": False, "filters": {},
    }  # fmt: skip
    assert len(document["hits"]) == 2
    hit = document["hits"][0]
    assert list(hit)[:6] == ["id", "image", "similarity", "relevance", "parts", "source"]
    assert (0 <= hit["relevance"] <= 1, list(hit["parts"])) == (True, ["text", "not"])
    assert (hit["source"], hit["metadata"] != {}) == ("demo", True)


def test_search_prints_the_time_of_a_frame(settings: Settings, database: Database, embedder: CLIPEmbedder) -> None:
    videos = StoredVideos(database, embedder)
    videos.add("/films/clip.mp4", {0.0: "a dog", 12.5: "a red car", 3723.0: "two red cars"})
    videos.add("https://me:hush@films.example/a.webm", {61.0: "a red car and a dog"})
    printed = output(run(settings, "search", "a red car", "--threshold", "-1"))
    assert "/films/clip.mp4  0:12.5" in printed
    assert "/films/clip.mp4  1:02:03" in printed
    assert "https://***@films.example/a.webm  1:01" in printed
    best = output(run(settings, "search", "a red car", "--threshold", "-1", "--one-per-video")).splitlines()
    assert len(best) == 4
    assert best[2].endswith("/films/clip.mp4  0:12.5  (3 moments)")
    document = json.loads(output(run(settings, "search", "a red car", "--one-per-video", "--json")))
    assert [document["hits"][0][name] for name in ("video", "video_time", "moments")] == ["/films/clip.mp4", 12.5, 3]


def test_search_by_image_and_by_id(demo_settings: Settings) -> None:
    first = json.loads(output(run(demo_settings, "search", "--like", "5", "--count", "1", "--json")))["hits"][0]
    again = json.loads(output(run(demo_settings, "search", "--image", first["image"], "--count", "1", "--json")))
    assert again["hits"][0]["id"] == first["id"]


def test_search_with_filters(demo_settings: Settings) -> None:
    options = [
        "--tag", "boat", "--tag", "sunset", "--any-tag", "boat", "--orientation", "landscape", "--min-size", "64",
        "--source", "demo", "--words", "boat -cat", "--where", "width > 2 -- wide", "--exclude-id", "1",
    ]  # fmt: skip
    document = json.loads(output(run(demo_settings, "search", "a boat", *options, "--json")))
    assert document["query"]["filters"] == {
        "source": ["demo"], "tag": ["boat", "sunset"], "any_tag": ["boat"], "orientation": "landscape", "min_size": 64,
        "words": "boat -cat", "exclude_id": [1], "where": "width > 2 -- wide",
    }  # fmt: skip
    assert document["hits"]
    assert all({"boat", "sunset"} <= set(hit["tags"]) for hit in document["hits"])
    title = output(run(demo_settings, "search", "a boat", "--tag", "boat")).splitlines()[0]
    assert title == "Ranked results for: a boat (tag boat)"


def test_every_filter_is_an_option() -> None:
    from dataclasses import fields

    from searchdb.cli.search import search_command
    from searchdb.search.filters import Filters

    options = {parameter.name for parameter in search_command.params}
    assert {field.name for field in fields(Filters)} <= options


def test_search_by_several_parts_lists_them(demo_settings: Settings) -> None:
    lines = output(run(demo_settings, "search", "a red car", "--like", "3", "--not", "snow")).splitlines()
    assert lines[1].split() == ["rank", "similarity", "relevance", "text", "like", "not", "image", "caption"]
    assert "relevance" not in output(run(demo_settings, "search", "--like", "3")).splitlines()[1]


def test_search_by_several_liked_and_disliked_images(demo_settings: Settings) -> None:
    likes = ["--like", "3", "--like", "8", "--unlike", "5"]
    lines = output(run(demo_settings, "search", "snow", *likes, "--text-weight", "0.4")).splitlines()
    assert lines[0] == "Ranked results for: snow + images 3, 8, not image 5"
    assert lines[1].split() == ["rank", "similarity", "relevance", "text", "like", "unlike", "image", "caption"]
    document = json.loads(output(run(demo_settings, "search", *likes, "--count", "300", "--threshold", "-1", "--json")))
    assert (document["query"]["like"], document["query"]["unlike"]) == ([3, 8], [5])
    assert {hit["id"] for hit in document["hits"]} == set(range(1, 301)) - {3, 5, 8}


def test_the_text_weight_shifts_the_balance(demo_settings: Settings) -> None:
    def found(*options: str) -> list[int]:
        printed = output(run(demo_settings, "search", *options, "--json"))
        return [hit["id"] for hit in json.loads(printed)["hits"]]

    assert found("snow", "--like", "3", "--text-weight", "0") == found("--like", "3")
    refused = run(demo_settings, "search", "snow", "--text-weight", "0.5")
    assert refused.exit_code == 1
    assert "text_weight needs a text and an image" in refused.stderr


def test_a_minimum_relevance_is_applied(demo_settings: Settings) -> None:
    result = run(demo_settings, "search", "a submarine", "--threshold", "-1", "--min-relevance", "0.5")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "No image has a similarity of at least -1.0 and a relevance of at least 0.5 to: a submarine" in result.stderr


def test_no_match_says_so_and_exits_with_zero(demo_settings: Settings) -> None:
    result = run(demo_settings, "search", "a red car", "--threshold", "1")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "No image has a similarity of at least 1.0" in result.stderr


def test_sql_embeds_the_texts_it_names(demo_settings: Settings) -> None:
    statement = "SELECT id, image, similarity FROM match_images(text_embedding('a red car'), 0.1, 5)"
    document = json.loads(output(run(demo_settings, "sql", statement, "--json")))
    assert document["columns"] == ["id", "image", "similarity"]
    hits = json.loads(output(run(demo_settings, "search", "a red car", "--threshold", "0.1", "--count", "5", "--json")))
    assert [row["id"] for row in document["rows"]] == [hit["id"] for hit in hits["hits"]]
    assert "similarity" in output(run(demo_settings, "sql", "-", stdin=statement))


def test_sql_finds_a_text_with_blanks_around_it(demo_settings: Settings) -> None:
    assert "512" in output(run(demo_settings, "sql", "SELECT vector_dims(text_embedding('  a dog '))"))


def test_sql_prints_any_type(demo_settings: Settings) -> None:
    statement = "SELECT now(), 1.5::numeric, sha256, tags, metadata, embedding, NULL, E'a\\tb' FROM images LIMIT 1"
    assert len(json.loads(output(run(demo_settings, "sql", statement, "--json")))["rows"]) == 1
    assert "a\\tb" in output(run(demo_settings, "sql", statement))


def test_sql_is_read_only_by_default(settings: Settings) -> None:
    result = run(settings, "sql", "CREATE TABLE mine (n int)")
    assert (result.exit_code, "read-only" in result.stderr) == (1, True)
    assert run(settings, "sql", "--write", "CREATE TABLE mine (n int)").exit_code == 0


@pytest.mark.slow
def test_a_worker_ingests_what_was_only_queued(settings: Settings, album: Path) -> None:
    queued = run(
        settings, "ingest", "files", album / "*.jpg", "--limit", "20", "--chunk-size", "8", "--enqueue-only", "--json"
    )
    document = json.loads(output(queued))
    assert (document["queued"], document["stored"], document["done"]) == (20, 0, 0)
    assert "20 references are queued" in queued.stderr
    status = json.loads(output(run(settings, "status", "--json")))
    assert (status["images"], status["pending"], status["failed"]) == (0, 20, 0)
    assert {"queued", "exact", "running", "rate_per_s", "workers"} == status["queue"].keys()
    assert (status["queue"]["queued"], status["queue"]["workers"]) == (20, [])
    assert "20 queued, 0 running" in output(run(settings, "status"))

    document = json.loads(output(run(settings, "worker", "--drain", "--concurrency", "2", "--json")))
    assert (document["stored"], document["failed"]) == (20, {})
    status = json.loads(output(run(settings, "status", "--json")))
    assert (status["images"], status["pending"], status["queue"]["queued"]) == (20, 0, 0)
    assert json.loads(output(run(settings, "worker", "--drain", "--json")))["done"] == 0


@pytest.mark.slow
def test_unsplash_fills_its_tables_and_fetches_renditions(settings: Settings, tmp_path: Path) -> None:
    with ImageServer() as server:
        photos = [photo(n, photo_image_url=server.url(f"/ok.jpg?seed={n}")) for n in range(1, 4)]
        write(tmp_path, "photos.tsv000", photos)
        write(tmp_path, "keywords.tsv000", [keyword(1, "harbour"), keyword(1, "dune", suggested_by_user="t")])
        loaded = run(settings, "ingest", "unsplash", tmp_path, "--only-metadata", "--json")
        assert json.loads(output(loaded))["tables"]["written"] == {"photos": 3, "keywords": 2}
        assert "photos: 3 rows, 3 new or changed, 0 bad" in loaded.stderr
        assert server.requests.total() == 0

        document = json.loads(output(run(settings, "ingest", "unsplash", tmp_path, "--limit", "2", "--json")))
        assert (document["stored"], document["failed"], sum(document["tables"]["written"].values())) == (2, {}, 0)
        assert sorted(server.hits) == [f"/ok.jpg?seed={n}&w=640&fm=jpg&q=80&fit=max" for n in (1, 2)]
        document = json.loads(output(run(settings, "ingest", "unsplash", tmp_path, "--rendition", "w=300", "--json")))
        assert (document["stored"], document["unchanged"]) == (1, 2)
        assert server.hits["/ok.jpg?seed=3&w=336"] == 1  # no narrower than makes the short side 224

    query = "SELECT image, rendition, source, source_id, credit, tags, metadata FROM images ORDER BY source_id"
    row = json.loads(output(run(settings, "sql", query, "--json")))["rows"][0]
    assert (row["image"], row["source"], row["source_id"]) == (photos[0]["photo_image_url"], "unsplash", "photo000001")
    assert row["rendition"].endswith("/ok.jpg?seed=1&w=640&fm=jpg&q=80&fit=max")
    assert (row["credit"], row["tags"]) == ("Ann Example 1", ["dune", "harbour"])
    assert row["metadata"]["stats_downloads"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/no/such.zip"], "/no/such.zip"),
        (["--rendition", "w=wide", "."], "w"),
        (["tests"], "photos"),
    ],
)
def test_unsplash_says_what_is_wrong(settings: Settings, arguments: list[str], message: str) -> None:
    result = run(settings, "ingest", "unsplash", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_embed_fills_the_cache(settings: Settings) -> None:
    assert "stored 2 query embeddings" in run(settings, "embed", "a dog", "a cat").stderr
    document = json.loads(output(run(settings, "embed", "a dog", "--json")))
    assert len(document["embeddings"][0]["embedding"]) == 512
    count = json.loads(output(run(settings, "sql", "SELECT count(*) FROM query_embeddings", "--json")))
    assert count["rows"] == [{"count": 2}]


@pytest.mark.slow
def test_ingest_failures_status_and_retry(settings: Settings, album: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for n, path in enumerate(sorted(album.glob("*.jpg"))[:3]):
        (folder / f"{n}.jpg").write_bytes(path.read_bytes())
    (folder / "bad.jpg").write_text("<html>")
    result = run(settings, "ingest", "files", folder, "--json")
    document = json.loads(output(result))
    assert (document["stored"], document["failed"]) == (3, {"NotAnImageError": 1})
    assert "4 references: 3 stored, 0 unchanged, 1 failed" in result.stderr

    status = json.loads(output(run(settings, "status", "--json")))
    assert {"images", "pending", "failed", "model", "relevance", "index", "space", "server"} <= status.keys()
    assert (status["images"], status["pending"], status["failed"], status["model"]) == (3, 0, 1, "demo")
    assert "images    3" in output(run(settings, "status"))

    (failure,) = json.loads(output(run(settings, "failures", "list", "--json")))["failures"]
    assert {"image", "source", "error", "message", "attempts", "retryable"} <= failure.keys()
    assert (failure["source"], failure["error"], failure["attempts"]) == ("files", "NotAnImageError", 1)
    assert "looks like HTML" in output(run(settings, "failures", "list"))
    (folder / "bad.jpg").write_bytes((folder / "0.jpg").read_bytes())
    assert json.loads(output(run(settings, "failures", "retry", "--json")))["stored"] == 1
    assert json.loads(output(run(settings, "failures", "list", "--json"))) == {"failures": []}

    (folder / "1.jpg").unlink()
    gone = run(settings, "ingest", "files", folder, "--json")
    assert "the file of 1 stored image or video no longer exists" in gone.stderr
    assert (json.loads(gone.stdout)["gone"], json.loads(gone.stdout)["removed"]) == (1, 0)
    assert "removed 1 of them" in run(settings, "ingest", "files", folder, "--prune").stderr
    assert json.loads(output(run(settings, "status", "--json")))["images"] == 3


def test_decomposed_folder_names_are_found_by_typing_them(settings: Settings, album: Path, tmp_path: Path) -> None:
    """Names as macOS writes them."""
    folder = tmp_path / "photos" / "Cafe\u0301"
    folder.mkdir(parents=True)
    shutil.copy(next(album.glob("*.jpg")), folder / "a.jpg")
    assert json.loads(output(run(settings, "ingest", "files", tmp_path / "photos", "--json")))["stored"] == 1
    for typed in ("Caf\u00e9", "Cafe\u0301"):
        for option in ("--tag", "--words"):
            found = run(settings, "search", typed, option, typed, "--threshold", "-1", "--json")
            (hit,) = json.loads(output(found))["hits"]
            assert (hit["image"], hit["tags"]) == (str(folder.resolve() / "a.jpg"), ["Caf\u00e9"])
    assert json.loads(output(run(settings, "ingest", "files", tmp_path / "photos", "--json")))["unchanged"] == 1


def test_failures_are_cleared(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("bad")
    failed = run(settings, "ingest", "files", tmp_path / "bad.jpg")
    assert failed.exit_code == 1
    assert "1 reference: 0 stored" in failed.stderr
    assert json.loads(output(run(settings, "failures", "clear", "--source", "urls", "--json"))) == {"cleared": 0}
    assert json.loads(output(run(settings, "failures", "clear", "--json"))) == {"cleared": 1}


def test_known_failures_are_named_and_decide_the_exit_status_like_others(
    settings: Settings, album: Path, tmp_path: Path
) -> None:
    """It is 0 if one of the references is a searchable image, however the others failed."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "bad.jpg").write_text("<html>")
    assert run(settings, "ingest", "files", folder).exit_code == 1
    again = run(settings, "ingest", "files", folder)
    assert again.exit_code == 1
    assert "1 reference failed before and was not tried: --retry-failed tries it" in again.stderr
    assert run(settings, "ingest", "files", folder, "--retry-failed").exit_code == 1
    assert run(settings, "failures", "retry").exit_code == 1
    shutil.copy(next(album.glob("*.jpg")), folder / "good.jpg")
    assert run(settings, "ingest", "files", folder).exit_code == 0
    known = run(settings, "ingest", "files", folder)
    assert known.exit_code == 0
    assert "2 references: 0 stored, 1 unchanged, 0 failed, 1 failed before" in known.stderr
    (folder / "bad.jpg").write_bytes((folder / "good.jpg").read_bytes())
    assert run(settings, "failures", "retry").exit_code == 0
    assert run(settings, "failures", "retry").exit_code == 0


def test_ingesting_nothing_readable_fails(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run(settings, "ingest", "files", tmp_path / "empty").exit_code == 1


def test_limit_and_urls_from_standard_input(settings: Settings, album: Path) -> None:
    assert json.loads(output(run(settings, "ingest", "files", album / "*.jpg", "--limit", "4", "--json")))["done"] == 4
    result = run(settings, "ingest", "urls", "-", "--json", stdin="ftp://example.org/a.jpg\n")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["failed"] == {"InvalidReferenceError": 1}


def test_index_commands(settings: Settings) -> None:
    assert "every search is exact" in output(run(settings, "index", "status"))
    built = json.loads(output(run(settings, "index", "build", "--lists", "3", "--json")))
    assert (built["method"], built["lists"], built["valid"], built["stale"]) == ("ivfflat", 3, True, False)


def test_db_commands_with_a_database_url(settings: Settings, empty_settings: Settings) -> None:
    assert f"the schema is at {SCHEMA_REVISION}" in run(empty_settings, "db", "migrate").stderr
    state = json.loads(output(run(settings, "db", "status", "--json")))
    assert (state["embedded"], state["running"], state["schema"]) == (False, True, SCHEMA_REVISION)
    assert settings.database_url is not None
    assert output(run(settings, "db", "url")).startswith("postgresql://postgres@/test_")
    for command in ("start", "stop"):
        assert run(settings, "db", command).exit_code == 2


@pytest.mark.slow
def test_db_commands_with_the_embedded_server(short_home: Path) -> None:
    def call(*arguments: str, new_interpreter: bool = False) -> subprocess.CompletedProcess[str]:
        command = ["-m", "searchdb", "--home", str(short_home), *arguments]
        if not new_interpreter:
            return warm_processes.run(command, timeout=GIVE_UP_S)
        return subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )

    assert json.loads(call("db", "status", "--json").stdout)["running"] is False
    url = call("db", "start", new_interpreter=True).stdout.strip()
    assert call("db", "url").stdout.strip() == url
    state = json.loads(call("db", "status", "--json").stdout)
    assert (state["running"], state["pinned"], state["schema"]) == (True, True, SCHEMA_REVISION)
    assert call("db", "shell", "-Atc", "SELECT count(*) FROM images").stdout == "0\n"
    assert "stopped" in call("db", "stop").stderr
    assert "not running" in call("db", "stop").stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["search"], 2, "nothing to search for"),
        (["search", "x", "--count", "many"], 2, "--count"),
        (["search", "x", "--count", "5000"], 1, "no deeper than 1,000"),
        (["search", "--like", "999999"], 1, "no image with id 999999"),
        (["search", "x", "--taken-after", "soon"], 1, "taken_after is 'soon'"),
        (["search", "x", "--where", "true; DROP TABLE images"], 1, "not one condition in SQL"),
        (["search", "x", "--where", "flavour = 1"], 1, 'column "flavour" does not exist'),
        (["search", "x", "--orientation", "wide"], 2, "--orientation"),
        (["search", "--image", "/no/such.jpg"], 1, "/no/such.jpg"),
        (["ingest", "files", "/no/such/folder"], 1, "/no/such/folder"),
        (["ingest", "urls", "/no/such/list"], 1, "/no/such/list"),
        (["sql", "SELEC 1"], 1, "syntax error"),
        (["sql", "SELECT text_embedding('a' || 'b')"], 1, "Run: searchdb embed 'ab'"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_a_users_mistake_is_one_line_and_no_traceback(
    demo_settings: Settings, arguments: list[str], status: int, message: str
) -> None:
    result = run(demo_settings, *arguments)
    assert result.exit_code == status
    assert message in result.stderr
    assert "Traceback" not in result.output
    if status == 1:  # beside the sentence that these tests connect as a superuser
        assert len([line for line in result.stderr.strip().splitlines() if "has all rights" not in line]) == 1


def test_an_unreachable_database_is_one_line_without_its_password() -> None:
    environment = os.environ | {"DATABASE_URL": "postgresql://me:hunter2@127.0.0.1:9/db"}
    result = warm_processes.run(["-m", "searchdb", "status"], env=environment, timeout=GIVE_UP_S)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: cannot reach the database postgresql://me:***@127.0.0.1:9/db")
    assert len(result.stderr.splitlines()) == 1
    assert "hunter2" not in result.stderr
