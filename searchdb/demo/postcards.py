"""Draws postcards: places the objects of a scene and paints them on the backdrop."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from searchdb.demo import backdrops, creatures, things
from searchdb.demo.composition import KINDS, Group, Scene
from searchdb.demo.pen import Canvas, Paint, Pen, mix

_PAINTERS: dict[str, Callable[[Pen, Paint], None]] = {
    name: getattr(things if hasattr(things, name) else creatures, name) for name in KINDS
}
# Width over height, and weight. All objects stay inside the central square, because CLIP crops to it.
_SHAPES = ((1.0, 4), (1.5, 6), (0.8, 2))
# Images are drawn at this multiple of their size and reduced, for smooth edges.
_OVERSAMPLING = 2
_HORIZONS = (0.46, 0.54)
# With more objects on the ground everything is smaller, and a cat on a bench would be a dot.
_MOST_WITH_SEAT = 4


@dataclass(frozen=True, kw_only=True)
class Placed:
    """The place of one object in sides of the central square: `x` of its middle, `y` of its foot, `size` of its box."""

    group: Group
    x: float
    y: float
    size: float
    mirrored: bool
    seated: bool = False


def _row(dice: random.Random, count: int, foot: float, size: float) -> list[tuple[float, float, float]]:
    """Return evenly spread places (x, y, size) along a row, with random offsets but without overlap."""
    step = 0.94 / count
    size = min(size, step * 0.96)
    slack = (step - size) / 2
    return [
        (
            0.03 + step * (index + 0.5) + dice.uniform(-slack, slack) * 0.8,
            foot - dice.uniform(0, 0.03),
            size * dice.uniform(0.9, 1.0),
        )
        for index in range(count)
    ]


def _ground_slots(
    dice: random.Random, count: int, horizon: float, sky_is_free: bool
) -> list[tuple[float, float, float]]:
    if count == 1:
        size = dice.uniform(0.4, 0.52) if sky_is_free else dice.uniform(0.34, 0.42)
        return [(dice.uniform(0.28, 0.72), dice.uniform(0.84, 0.95), size)]
    if count <= 3:
        return _row(dice, count, dice.uniform(0.86, 0.95), {2: 0.4, 3: 0.305}[count])
    back = count // 2
    rear = _row(dice, back, horizon + 0.215, 0.225)
    return rear + _row(dice, count - back, 0.965, 0.24)


def _sky_slots(dice: random.Random, count: int, ground_is_free: bool) -> list[tuple[float, float, float]]:
    if count == 1:
        size = dice.uniform(0.26, 0.34) if ground_is_free else dice.uniform(0.22, 0.28)
        return [(dice.uniform(0.2, 0.8), dice.uniform(0.32, 0.4), size)]
    if count <= 3:
        return _row(dice, count, dice.uniform(0.3, 0.4), 0.25)
    back = count // 2
    return _row(dice, back, 0.22, 0.19) + _row(dice, count - back, 0.44, 0.19)


def _horizon_slots(dice: random.Random, count: int, foot: float) -> list[tuple[float, float, float]]:
    middles = {1: (dice.uniform(0.25, 0.75),), 2: (0.24, 0.74), 3: (0.18, 0.5, 0.82)}[count]
    return [(x + dice.uniform(-0.03, 0.03), foot, min(dice.uniform(0.36, 0.46), foot)) for x in middles]


def layout(scene: Scene) -> list[Placed]:
    """Return the places of all objects, the farthest first."""
    dice = random.Random(scene.seed * 3 + 1)
    horizon = dice.uniform(*_HORIZONS)
    far: list[Group] = []
    sky: list[Group] = []
    ground: list[Group] = []
    rows = {"horizon": far, "sky": sky, "ground": ground, "water": ground}
    for group in scene.groups:
        rows[KINDS[group.kind].place].extend([group] * group.count)
    seated = _seated(ground)
    if seated:
        ground.remove(seated)
    # Raised, because a skyline or a forest would hide too much of a mountain.
    rise = 0.1 if scene.setting in ("city", "forest") else -0.03
    slots = _horizon_slots(dice, len(far), horizon - rise) if far else []
    slots += _sky_slots(dice, len(sky), not ground) if sky else []
    slots += _ground_slots(dice, len(ground), horizon, not sky) if ground else []
    placed = [
        Placed(group=group, x=x, y=y, size=size, mirrored=dice.random() < 0.5)
        for group, (x, y, size) in zip([*far, *sky, *ground], slots, strict=True)
    ]
    if seated:
        at = next(index for index, each in enumerate(placed) if each.group.kind == "bench")
        seat = placed[at]
        rider = Placed(
            group=seated,
            x=seat.x,
            y=seat.y - 0.31 * seat.size,
            size=0.66 * seat.size,
            mirrored=seat.mirrored,
            seated=True,
        )
        placed.insert(at + 1, rider)
    return placed


def _seated(ground: list[Group]) -> Group | None:
    """Return the dog or cat that sits on the bench, if there is a bench and few other objects."""
    if len(ground) > _MOST_WITH_SEAT or not any(group.kind == "bench" for group in ground):
        return None
    return next((group for group in ground if group.kind in ("dog", "cat")), None)


def draw(scene: Scene, size: int = 384, *, square: bool = False) -> Image.Image:
    """Return the RGB image of a scene with a shorter side of `size` pixels; `square` draws only the central square."""
    dice = random.Random(scene.seed * 3 + 1)
    horizon = dice.uniform(*_HORIZONS)
    shape = 1.0 if square else dice.choices([s for s, _ in _SHAPES], [w for _, w in _SHAPES])[0]
    dice = random.Random(scene.seed * 3 + 2)
    side = size * _OVERSAMPLING
    width, height = round(side * max(shape, 1)), round(side / min(shape, 1))
    origin = ((width - side) / 2, (height - side) / 2)
    above, beside = origin[1] / side, origin[0] / side
    image = backdrops.sky((width, height), (horizon + above) * side / height, scene.time, dice)
    land = backdrops.Land(
        canvas=Canvas(image),
        side=side,
        origin=origin,
        left=-beside,
        right=1 + beside,
        top=-above,
        bottom=1 + above,
        horizon=horizon,
        time=scene.time,
        dice=dice,
    )
    placed = layout(scene)
    if scene.time == "night":
        backdrops.speckles(land)
    for thing in (each for each in placed if KINDS[each.group.kind].place == "horizon"):
        _paint(land, scene, thing)
    backdrops.SETTING_PAINTERS[scene.setting](land)
    for thing in (each for each in placed if KINDS[each.group.kind].place != "horizon"):
        _paint(land, scene, thing)
    if scene.setting == "snow":
        backdrops.snowflakes(land)
    return image.reduce(_OVERSAMPLING)


def _paint(land: backdrops.Land, scene: Scene, thing: Placed) -> None:
    place = KINDS[thing.group.kind].place
    if place == "ground" and not thing.seated:
        _stand(land, scene, thing)
    elif place == "water" and scene.setting != "sea":
        _pond(land, thing)
    x, y = land.at(thing.x, thing.y)
    pen = Pen(canvas=land.canvas, x=x, y=y, scale=thing.size * land.side, mirrored=thing.mirrored)
    _PAINTERS[thing.group.kind](pen, Paint.of(thing.group.colour, scene.time))
    if place == "water":
        _ripples(land, thing)


def _stand(land: backdrops.Land, scene: Scene, thing: Placed) -> None:
    """Draw a soft shadow under the object, and at sea a small island that it stands on."""
    if scene.setting == "sea":
        land.oval(thing.x, thing.y + 0.012, thing.size * 0.6, thing.size * 0.15, land.lit((222, 244, 240)), 170)
        land.oval(thing.x, thing.y + 0.004, thing.size * 0.55, thing.size * 0.125, land.lit((214, 182, 130)))
        land.oval(thing.x, thing.y - 0.004, thing.size * 0.53, thing.size * 0.11, land.lit((246, 222, 172)))
    shade = mix(land.lit((70, 70, 90)), (20, 20, 50), 0.4)
    for reach, alpha in ((0.5, 34), (0.43, 40), (0.36, 46)):
        land.oval(thing.x, thing.y, thing.size * reach, thing.size * reach * 0.15, shade, alpha)


def _pond(land: backdrops.Land, thing: Placed) -> None:
    land.oval(thing.x, thing.y, thing.size * 0.56, thing.size * 0.16, land.lit((146, 190, 190)))
    land.oval(thing.x, thing.y + 0.003, thing.size * 0.53, thing.size * 0.14, land.lit((92, 180, 210)))
    land.oval(thing.x, thing.y + 0.006, thing.size * 0.42, thing.size * 0.09, land.lit((122, 202, 222)))


def _ripples(land: backdrops.Land, thing: Placed) -> None:
    foam = land.lit((236, 248, 250))
    for offset, wide, alpha in ((0.0, 0.42, 235), (0.05, 0.3, 170)):
        land.oval(thing.x, thing.y + offset * thing.size, thing.size * wide, thing.size * 0.022, foam, alpha)
