"""Videos on the page and in the API: the file with ranges, previews, tiles, moments, and no path of this server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from searchdb.db.database import Database
from searchdb.db.tables import frame_previews, images
from searchdb.media.embed import CLIPEmbedder
from searchdb.search.moments import MAX_PREVIEW_BYTES
from tests.helpers.stored_images import StoredImages
from tests.helpers.stored_videos import StoredVideos, webp
from tests.helpers.videos import draw_video
from web.files.frames import video_type_of
from web.page.moments import STRIP_SIZE

FRAMES = {0.0: "a dog", 12.5: "a red boat", 40.0: "a tree"}
TYPES = {
    "clip.mp4": "video/mp4",
    "clip.mov": "video/quicktime",
    "clip.mkv": "video/x-matroska",
    "clip.webm": "video/webm",
    "clip.avi": "video/x-msvideo",
    "clip.mpg": "video/mpeg",
    "clip.ts": "video/mp2t",
}


@pytest.fixture
def videos(database: Database, embedder: CLIPEmbedder) -> StoredVideos:
    return StoredVideos(database, embedder)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    folder = tmp_path / "My secret films"
    folder.mkdir()
    return draw_video(folder / "clip.mp4", [((200, 40, 40), 2.0)], size=(64, 48))


def tiles(text: str) -> list[str]:
    return re.findall(r'id="image-(\d+)"', text)


# --- Files and previews ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "mimetype"), TYPES.items())
def test_the_type_of_a_video_comes_from_its_content(tmp_path: Path, name: str, mimetype: str) -> None:
    container = {"mov": "mov", "mkv": "matroska", "ts": "mpegts", "mpg": "mpeg"}.get(name.rpartition(".")[2])
    video = draw_video(tmp_path / name, [((200, 40, 40), 1.0)], size=(64, 48), container=container)
    assert video_type_of(video.read_bytes()[:1024]) == mimetype


def test_the_file_of_a_frame_is_its_video_with_ranges(client: FlaskClient, videos: StoredVideos, clip: Path) -> None:
    ids = videos.add(clip, FRAMES)
    content = clip.read_bytes()
    url = f"/images/{ids[1]}/file"
    with client.get(url) as whole:
        assert (whole.status_code, whole.mimetype, whole.data) == (200, "video/mp4", content)
        assert whole.headers["Accept-Ranges"] == "bytes"
        assert whole.headers["X-Content-Type-Options"] == "nosniff"
        assert "media-src 'self' https: http:;" in whole.headers["Content-Security-Policy"]
    with client.get(url, headers={"Range": "bytes=100-"}) as rest:
        assert (rest.status_code, rest.data) == (206, content[100:])
        assert rest.headers["Content-Range"] == f"bytes 100-{len(content) - 1}/{len(content)}"
    with client.get(url, headers={"Range": "bytes=100-199", "If-Range": whole.headers["ETag"]}) as part:
        assert (part.status_code, part.data) == (206, content[100:200])


@pytest.mark.parametrize("content", [b"<!doctype html><script>alert(1)</script>", b"\xff\xd8\xff\xe0", b"", None])
def test_a_video_that_is_gone_is_shown_by_its_preview(
    client: FlaskClient, videos: StoredVideos, clip: Path, content: bytes | None
) -> None:
    ids = videos.add(clip, FRAMES)
    if content is None:
        clip.unlink()
    else:
        clip.write_bytes(content)
    with client.get(f"/images/{ids[0]}/file") as response:
        assert response.status_code == 404
        assert b"The file of this video" in response.data
        assert b"secret" not in response.data
    with client.get(f"/images/{ids[0]}/thumbnail") as preview:
        assert (preview.status_code, preview.data) == (200, webp("a dog"))
    page = client.get(f"/images/{ids[0]}").text
    assert "<video" not in page
    assert "This is the stored preview." in page
    assert f'src="/images/{ids[0]}/thumbnail' in page


def test_previews_are_cached_by_frame(client: FlaskClient, videos: StoredVideos, clip: Path) -> None:
    ids = videos.add(clip, FRAMES)
    urls = [client.get(f"/api/images/{each}").get_json()["thumbnail_url"] for each in ids]
    assert len({url.partition("?")[2] for url in urls}) == len(ids)
    with client.get(urls[0]) as first:
        assert first.mimetype == "image/webp"
        assert "immutable" in first.headers["Cache-Control"]
    with client.get(urls[0].replace("?v=", "?v=0")) as other:
        assert other.headers["Cache-Control"] == "private, no-cache"
    with client.get(urls[0], headers={"If-None-Match": first.headers["ETag"]}) as again:
        assert again.status_code == 304
    with client.get(urls[1]) as second:
        assert second.headers["ETag"] != first.headers["ETag"]


def test_a_missing_or_huge_preview_is_not_found(
    client: FlaskClient, videos: StoredVideos, database: Database, clip: Path
) -> None:
    missing, huge, _ = videos.add(clip, FRAMES, previews=False)
    with database.begin() as connection:
        big = {"image_id": huge, "webp": bytes(MAX_PREVIEW_BYTES + 1)}
        connection.execute(sa.insert(frame_previews).values(big))
    for each in (missing, huge):
        with client.get(f"/images/{each}/thumbnail") as response:
            assert response.status_code == 404
            assert b"no preview" in response.data


def test_a_video_at_a_url_is_loaded_from_its_host(client: FlaskClient, videos: StoredVideos) -> None:
    frame = videos.add("https://me:hush@films.example/a.mp4?x=1", FRAMES)[1]
    with client.get(f"/images/{frame}/file") as response:
        assert (response.status_code, response.location) == (302, "https://films.example/a.mp4?x=1")
    with client.get(f"/images/{frame}/thumbnail") as preview:
        assert preview.data == webp("a red boat")
    answer = client.get(f"/api/images/{frame}")
    assert answer.get_json()["url"] == "https://films.example/a.mp4?x=1#t=12.5"
    assert answer.get_json()["video"] == answer.get_json()["metadata"]["video"] == "https://***@films.example/a.mp4?x=1"
    assert "hush" not in answer.text + client.get(f"/images/{frame}").text + client.get("/?q=a+red+boat").text


# --- The API ----------------------------------------------------------------------------------------


def test_the_api_describes_a_frame_without_a_path(
    client: FlaskClient, videos: StoredVideos, stored_images: StoredImages, clip: Path
) -> None:
    frame = videos.add(clip, FRAMES)[1]
    answer = client.get(f"/api/images/{frame}")
    expected = {
        "kind": "frame",
        "name": "clip.mp4",
        "video": "clip.mp4",
        "video_time": 12.5,
        "duration": 60.0,
        "url": f"/images/{frame}/file#t=12.5",
        "metadata": {"video": "clip.mp4", "time": 12.5, "duration": 60.0, "codec": "h264"},
    }
    assert {name: answer.get_json()[name] for name in expected} == expected
    paired = stored_images.add("a boat", metadata={"raw": f"{clip.parent}/boat.cr2"})
    image = client.get(f"/api/images/{paired}").get_json()
    assert image["metadata"] == {"raw": "boat.cr2"}
    assert [image[name] for name in ("kind", "video", "video_time", "duration")] == ["image", None, None, None]
    pages = [f"/api/images/{frame}", "/api/search?q=a+red+boat", "/api/random", f"/images/{frame}?q=a+red+boat", "/"]
    for url in pages:
        text = client.get(url).text
        assert "secret" not in text
        assert str(clip.parent.parent) not in text


def test_the_api_returns_one_hit_per_video_on_request(client: FlaskClient, videos: StoredVideos, clip: Path) -> None:
    ids = videos.add(clip, FRAMES)
    other = videos.add("https://films.example/a.webm", {3.0: "a boat at sea"})
    every = client.get("/api/search?q=a+red+boat&threshold=-1").get_json()
    assert len(every["hits"]) == 4
    first = client.get("/api/search?q=a+red+boat&threshold=-1&one_per_video=true&count=1").get_json()
    assert [(hit["id"], hit["moments"]) for hit in first["hits"]] == [(ids[1], 3)]
    following = client.get(first["next"]).get_json()
    assert [hit["id"] for hit in following["hits"]] == other
    assert following["next"] is None
    assert client.get("/api/search?q=a+red+boat&one_per_video=perhaps").status_code == 422


def test_times_and_lengths_that_are_none_are_not_shown(
    client: FlaskClient, videos: StoredVideos, database: Database
) -> None:
    odd, sound = videos.add("https://films.example/odd.mp4", {0.0: "a boat", 1.0: "a red boat"}, duration=None)
    with database.begin() as connection:
        metadata = {"duration": "long", "codec": 7, "video": 3}
        changed = {"video_time": float("nan"), "metadata": metadata}
        connection.execute(sa.update(images).where(images.c.id == odd).values(changed))
    answer = client.get(f"/api/images/{odd}").get_json()
    assert (answer["video_time"], answer["duration"]) == (0.0, None)
    for url in (f"/images/{odd}", f"/images/{sound}", "/?q=a+boat"):
        assert client.get(url).status_code == 200


# --- Pages ------------------------------------------------------------------------------------------


def test_results_show_each_video_once_with_its_time(
    client: FlaskClient, videos: StoredVideos, stored_images: StoredImages, clip: Path
) -> None:
    ids = videos.add(clip, FRAMES, duration=225.0)
    image = stored_images.add("two dogs and a red boat")
    text = client.get("/?q=a+red+boat&threshold=-1").text
    assert sorted(map(int, tiles(text))) == sorted([ids[1], image])
    label = re.sub(r"<[^>]+>|\s+", " ", text[text.index('class="time"') : text.index("more moments")])
    assert re.search(r", video at\s+0:12\s+/ 3:45\s.*, and\s+\+2", label)
    assert tiles(client.get(f"/?like={ids[0]}&threshold=-1").text) == [str(image)]
    assert tiles(client.get(f"/images/{ids[0]}").text) == [str(image)]
    assert len(tiles(client.get("/").text)) == 2


def test_the_page_of_a_frame_has_a_player_and_the_moments(
    client: FlaskClient, videos: StoredVideos, clip: Path
) -> None:
    ids = videos.add(clip, FRAMES)
    text = client.get(f"/images/{ids[2]}?q=a+red+boat").text
    player = text[text.index("<video") : text.index("</video>")]
    assert f'src="/images/{ids[2]}/file#t=40"' in player
    assert f'poster="/images/{ids[2]}/thumbnail?v=' in player
    assert "controls" in player
    assert "playsinline" in player
    assert 'preload="metadata"' in player
    assert "autoplay" not in player
    strip = text[text.index('class="moments"') : text.index("</nav>", text.index('class="moments"'))]
    assert [int(each) for each in re.findall(r'data-moment="(\d+)"', strip)] == ids
    assert re.findall(r'href="/images/(\d+)\?q=a\+red\+boat"', strip) == [str(each) for each in ids]
    assert re.search(rf'data-moment="{ids[2]}" aria-current="true"', strip)
    assert strip.count("among the best matches") == 1
    assert "among the best matches" in strip[strip.index(f'data-moment="{ids[1]}"') : strip.index(f'moment="{ids[2]}"')]
    back = client.get(f"/images/{ids[2]}?q=a+red+boat").text
    assert f"#image-{ids[1]}" in back  # the tile of the video


def test_every_moment_of_a_long_video_can_be_reached(client: FlaskClient, videos: StoredVideos, clip: Path) -> None:
    ids = videos.add(clip, {float(second): f"a boat {second}" for second in range(STRIP_SIZE * 2)}, previews=False)
    seen, shown = set[int](), ids[0]
    while True:
        listed = [int(each) for each in re.findall(r'data-moment="(\d+)"', client.get(f"/images/{shown}").text)]
        assert len(listed) == STRIP_SIZE
        seen.update(listed)
        if shown == listed[-1]:
            break
        shown = listed[-1]
    assert seen == set(ids)
