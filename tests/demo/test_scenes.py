"""The postcards: the same seed gives the same image, and words agree with contents."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat

from searchdb.demo import album
from searchdb.demo.scenes import (
    ALBUM_SEEDS,
    EVALUATION_SEEDS,
    KINDS,
    MANIFEST,
    SETTINGS,
    TIMES,
    TRAINING_SEEDS,
    Group,
    Scene,
    caption,
    compose,
    contents,
    draw,
    draw_album,
    layout,
    tags,
)

SOME_SEEDS = ALBUM_SEEDS[:300]


def a_scene(kind: str, *, setting: str = "meadow", count: int = 1, seed: int = 7) -> Scene:
    time = KINDS[kind].times[0]
    colour = KINDS[kind].colours[0] if KINDS[kind].colours else None
    return Scene(seed=seed, setting=setting, time=time, groups=(Group(kind=kind, colour=colour, count=count),))


def without_objects(scene: Scene) -> Scene:
    return Scene(seed=scene.seed, setting=scene.setting, time=scene.time, groups=())


def test_a_seed_always_gives_the_same_scene_and_image():
    assert compose(11) == compose(11)
    assert draw(compose(11), 96).tobytes() == draw(compose(11), 96).tobytes()


def test_seeds_give_different_scenes():
    assert len({(s.setting, s.time, s.groups) for s in map(compose, SOME_SEEDS)}) > 250


def test_seed_ranges_are_disjoint():
    ranges = sorted((ALBUM_SEEDS, EVALUATION_SEEDS, TRAINING_SEEDS), key=lambda seeds: seeds.start)
    assert all(before.stop <= after.start for before, after in itertools.pairwise(ranges))


def test_everything_occurs_in_an_album():
    scenes = [compose(seed) for seed in ALBUM_SEEDS[:1000]]
    assert {scene.setting for scene in scenes} == set(SETTINGS)
    assert {scene.time for scene in scenes} == set(TIMES)
    assert {group.kind for scene in scenes for group in scene.groups} == set(KINDS)
    assert {group.count for scene in scenes for group in scene.groups} == {1, 2, 3, 4}


@pytest.mark.parametrize("seed", SOME_SEEDS[:100])
def test_captions_and_tags_match_the_contents(seed: int):
    scene = compose(seed)
    exact = contents(scene)
    assert (exact["seed"], exact["setting"], exact["time"]) == (seed, scene.setting, scene.time)
    assert json.loads(json.dumps(exact)) == exact
    found = tags(scene)
    assert found == sorted(set(found))
    expected = {scene.setting, scene.time}
    sentence = caption(scene)
    for group in scene.groups:
        kind = KINDS[group.kind]
        expected |= {group.kind} | ({f"{group.colour} {group.kind}"} if group.colour else set())
        assert (kind.name if group.count == 1 else kind.plural) in sentence.lower()
        assert group.colour is None or group.colour in sentence.lower()
    if scene.setting == "forest":
        expected.add("tree")
    assert set(found) == expected
    assert scene.setting in sentence
    assert {"day": "by day", "sunset": "at sunset", "night": "at night"}[scene.time] in sentence
    assert sentence.endswith(".")
    assert sentence[0].isupper()


def test_a_caption_is_a_sentence():
    scene = Scene(
        seed=0,
        setting="beach",
        time="sunset",
        groups=(
            Group(kind="car", colour="red", count=2),
            Group(kind="umbrella", colour="orange", count=1),
            Group(kind="sun", colour=None, count=1),
        ),
    )
    assert caption(scene) == "Two red cars, an orange umbrella and the sun on the beach at sunset."


def test_scenes_are_plausible():
    for scene in map(compose, SOME_SEEDS):
        names = [group.kind for group in scene.groups]
        assert len(set(names)) == len(names)
        assert 1 <= sum(group.count for group in scene.groups) <= 7
        for group in scene.groups:
            kind = KINDS[group.kind]
            assert scene.time in kind.times
            assert 1 <= group.count <= kind.most
            assert group.colour in (kind.colours or (None,))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_visible(kind: str):
    scene = a_scene(kind)
    changed = ImageChops.difference(draw(scene, 128), draw(without_objects(scene), 128)).convert("L")
    touched = sum(changed.histogram()[24:])
    width, height = changed.size
    assert touched > 0.008 * width * height


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_and_times_of_day_differ(setting: str):
    images = {time: draw(Scene(seed=3, setting=setting, time=time, groups=()), 96, square=True) for time in TIMES}
    brightness = {time: ImageStat.Stat(image.convert("L")).mean[0] for time, image in images.items()}
    assert brightness["day"] > brightness["sunset"] > brightness["night"]


def test_all_objects_are_placed_inside_the_square_that_clip_sees():
    for scene in map(compose, SOME_SEEDS):
        placed = layout(scene)
        assert len(placed) == sum(group.count for group in scene.groups)
        for thing in placed:
            # A box is rarely filled to its corners, so a little may stand out; a range of mountains may run on.
            over = 0.1 if thing.group.kind == "mountain" else 0.04
            assert -over <= thing.x - thing.size / 2
            assert thing.x + thing.size / 2 <= 1 + over
            assert thing.y - thing.size >= -0.04
            assert thing.y <= 1


def test_a_dog_sits_on_the_bench():
    dog, bench = Group(kind="dog", colour="white", count=1), Group(kind="bench", colour="red", count=1)
    seat, rider = layout(Scene(seed=5, setting="beach", time="day", groups=(dog, bench)))
    assert (seat.group, rider.group) == (bench, dog)
    assert rider.seated
    assert rider.x == seat.x
    assert seat.y - seat.size < rider.y < seat.y


def test_shapes_vary_and_the_shorter_side_is_as_requested():
    shapes = {draw(compose(seed), 64).size for seed in SOME_SEEDS[:40]}
    assert shapes == {(64, 64), (96, 64), (64, 80)}
    assert draw(compose(SOME_SEEDS[0]), 64, square=True).size == (64, 64)


def test_album_rows_describe_the_files(tmp_path: Path):
    reported: list[tuple[int, int]] = []
    rows = draw_album(tmp_path / "album", 5, progress=lambda done, total: reported.append((done, total)))
    assert reported == [(done, 5) for done in range(1, 6)]
    lines = [json.loads(line) for line in (tmp_path / "album" / MANIFEST).read_text("utf-8").splitlines()]
    assert [line["image"] for line in lines] == [row.image for row in rows]
    for line, seed in zip(lines, ALBUM_SEEDS, strict=False):
        scene = compose(seed)
        assert set(line) == {"image", "tags", "description", "metadata"}
        assert line["tags"] == tags(scene)
        assert line["description"] == caption(scene)
        assert line["metadata"] == contents(scene)
        with Image.open(tmp_path / "album" / line["image"]) as image:
            assert image.format == "JPEG"
            assert min(image.size) == 384
    assert len(list((tmp_path / "album").iterdir())) == 6


def test_a_complete_album_is_not_redrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = draw_album(tmp_path, 4)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    monkeypatch.setattr(album, "draw", lambda *_: pytest.fail("drew an image that was there"))
    assert draw_album(tmp_path, 4) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_an_incomplete_album_is_completed(tmp_path: Path):
    rows = draw_album(tmp_path, 4)
    kept, lost = tmp_path / rows[0].image, tmp_path / rows[2].image
    before, image = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    (tmp_path / MANIFEST).unlink()
    assert draw_album(tmp_path, 4) == rows
    assert lost.read_bytes() == image
    assert kept.stat().st_mtime_ns == before
    assert (tmp_path / MANIFEST).exists()


def test_an_interrupted_image_leaves_no_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Torn:
        def save(self, path: Path, *_: object, **__: object) -> None:
            path.write_bytes(b"half a pict")
            raise OSError("disk full")

    monkeypatch.setattr(album, "draw", lambda *_: Torn())
    with pytest.raises(OSError, match="disk full"):
        draw_album(tmp_path, 1)
    assert not list(tmp_path.glob("*.jpg"))
    assert not (tmp_path / MANIFEST).exists()
    monkeypatch.undo()
    draw_album(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, "postcard-v1-00000.jpg"]


@pytest.mark.parametrize("count", [0, -1, len(ALBUM_SEEDS) + 1])
def test_an_invalid_album_size_is_refused(tmp_path: Path, count: int):
    with pytest.raises(ValueError, match="count must be"):
        draw_album(tmp_path, count)


def test_drawing_needs_no_torch():
    code = "import sys, searchdb.demo.scenes; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
