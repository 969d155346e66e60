"""Composes the contents of a postcard's scene from a seed and describes them in words."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Place = Literal["ground", "water", "sky", "horizon"]

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SETTINGS = ("meadow", "beach", "sea", "desert", "forest", "city", "snow")
TIMES = ("day", "sunset", "night")

# Three disjoint ranges: evaluation and the album use scenes that training never saw.
ALBUM_SEEDS = range(0, 100_000)
EVALUATION_SEEDS = range(100_000, 200_000)
TRAINING_SEEDS = range(1_000_000, 3_000_000)

# With more objects, each would be too small to recognise at the 96 pixels of the model's input.
MOST_OBJECTS = 7
MOST_OF_A_KIND = 4


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of object: where it is placed, its colours (none: a fixed one), and its times of day."""

    name: str
    plural: str
    place: Place
    colours: tuple[str, ...] = COLOURS
    times: tuple[str, ...] = TIMES
    most: int = MOST_OF_A_KIND


def _kind(name: str, place: Place, plural: str = "", **traits: object) -> Kind:
    return Kind(name=name, plural=plural or f"{name}s", place=place, **traits)  # type: ignore[arg-type]


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        _kind("car", "ground"),
        _kind("house", "ground"),
        _kind("tree", "ground", colours=("green", "orange", "pink")),
        _kind("flower", "ground", colours=("red", "orange", "yellow", "blue", "purple", "pink", "white")),
        _kind("cat", "ground"),
        _kind("dog", "ground"),
        _kind("bench", "ground", "benches", most=3),
        _kind("bicycle", "ground"),
        _kind("umbrella", "ground"),
        _kind("apple", "ground", colours=("red", "yellow", "green")),
        _kind("banana", "ground", colours=("yellow", "green")),
        _kind("cup", "ground"),
        _kind("boat", "water"),
        _kind("fish", "water", "fish"),
        _kind("bird", "sky"),
        _kind("butterfly", "sky", "butterflies"),
        _kind("balloon", "sky"),
        _kind("kite", "sky"),
        _kind("cloud", "sky", colours=()),
        _kind("star", "sky", colours=(), times=("night",)),
        _kind("sun", "sky", colours=(), times=("day", "sunset"), most=1),
        _kind("moon", "sky", colours=(), times=("night",), most=1),
        _kind("mountain", "horizon", colours=(), most=3),
    )
}

_NUMBERS = ("no", "a", "two", "three", "four")
SETTING_PHRASES = {
    "meadow": "in a meadow",
    "beach": "on the beach",
    "sea": "on the open sea",
    "desert": "in the desert",
    "forest": "in a forest",
    "city": "in a city street",
    "snow": "in the snow",
}
TIME_PHRASES = {"day": "by day", "sunset": "at sunset", "night": "at night"}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some objects of one kind and one colour; the colour is None for kinds with a fixed colour."""

    kind: str
    colour: str | None
    count: int


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that a postcard shows; no kind occurs in two groups, so that counts are unambiguous."""

    seed: int
    setting: str
    time: str
    groups: tuple[Group, ...]


def compose(seed: int) -> Scene:
    """Return the scene of a seed, always the same one."""
    # Composing and drawing have separate random streams, so that a change to one does not affect the other.
    dice = random.Random(seed * 3)
    setting = dice.choice(SETTINGS)
    time = dice.choices(TIMES, (40, 30, 30))[0]
    names = [kind.name for kind in KINDS.values() if time in kind.times]
    groups: list[Group] = []
    room = MOST_OBJECTS
    for name in dice.sample(names, dice.choices((1, 2, 3), (30, 45, 25))[0]):
        kind = KINDS[name]
        count = min(dice.choices((1, 2, 3, 4), (46, 22, 17, 15))[0], kind.most, room)
        if not count:
            break
        room -= count
        groups.append(Group(kind=name, colour=dice.choice(kind.colours) if kind.colours else None, count=count))
    return Scene(seed=seed, setting=setting, time=time, groups=tuple(groups))


def _phrase(group: Group) -> str:
    kind = KINDS[group.kind]
    noun = kind.name if group.count == 1 else kind.plural
    words = f"{group.colour} {noun}" if group.colour else noun
    if group.count > 1:
        return f"{_NUMBERS[group.count]} {words}"
    return f"{'the' if kind.most == 1 else 'an' if words[0] in 'aeiou' else 'a'} {words}"


def caption(scene: Scene) -> str:
    """Return a sentence that names everything in the scene, for the `description` column."""
    things = [_phrase(group) for group in scene.groups]
    listed = things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
    sentence = f"{listed} {SETTING_PHRASES[scene.setting]} {TIME_PHRASES[scene.time]}."
    return sentence[0].upper() + sentence[1:]


def tags(scene: Scene) -> list[str]:
    """Return the distinct object kinds, colours with kinds, setting and time, sorted."""
    found = {scene.setting, scene.time}
    for group in scene.groups:
        found.add(group.kind)
        if group.colour:
            found.add(f"{group.colour} {group.kind}")
    if scene.setting == "forest":
        found.add("tree")
    return sorted(found)


def contents(scene: Scene) -> dict[str, object]:
    """Return the exact contents as a JSON document, for the `metadata` column."""
    return {
        "seed": scene.seed,
        "setting": scene.setting,
        "time": scene.time,
        "objects": [{"kind": group.kind, "colour": group.colour, "count": group.count} for group in scene.groups],
    }
