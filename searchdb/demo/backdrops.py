"""Paints the sky of each time of day and the land of each setting, behind everything else."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from searchdb.demo.pen import CREAM, RGB, Canvas, Point, mix

# Sky colours from the zenith down to the horizon; several for each time of day, for variety.
_SKIES: dict[str, tuple[tuple[RGB, ...], ...]] = {
    "day": (
        ((92, 172, 236), (152, 206, 246), (226, 244, 250)),
        ((108, 190, 232), (170, 222, 240), (240, 246, 232)),
        ((120, 178, 240), (178, 210, 248), (236, 238, 250)),
    ),
    "sunset": (
        ((86, 62, 140), (206, 96, 130), (255, 176, 110), (255, 222, 150)),
        ((120, 74, 150), (238, 122, 122), (255, 190, 120), (255, 228, 168)),
        ((70, 72, 150), (180, 100, 150), (250, 144, 116), (255, 208, 138)),
    ),
    "night": (
        ((12, 18, 54), (30, 42, 100), (64, 82, 150)),
        ((20, 16, 58), (44, 38, 104), (84, 76, 152)),
        ((8, 24, 56), (22, 52, 98), (54, 98, 146)),
    ),
}
# The light of each time of day, as a factor for each channel: multiplying keeps the hues in the dark.
_LIGHT: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "sunset": (0.96, 0.72, 0.74),
    "night": (0.34, 0.43, 0.68),
}


@dataclass(frozen=True, kw_only=True)
class Land:
    """The image being drawn; lengths are in sides of the central square, whose upper left corner is (0, 0)."""

    canvas: Canvas
    side: float
    origin: Point
    left: float
    right: float
    top: float
    bottom: float
    horizon: float
    time: str
    dice: random.Random

    def lit(self, colour: RGB) -> RGB:
        """Return the colour in the light of the time of day."""
        light = _LIGHT[self.time]
        return (round(colour[0] * light[0]), round(colour[1] * light[1]), round(colour[2] * light[2]))

    def at(self, x: float, y: float) -> Point:
        """Return the point in pixels of the canvas."""
        return (self.origin[0] + x * self.side, self.origin[1] + y * self.side)

    def polygon(self, points: Sequence[Point], fill: RGB, alpha: int = 255) -> None:
        """Fill a polygon."""
        self.canvas.polygon([self.at(x, y) for x, y in points], fill, alpha)

    def oval(self, x: float, y: float, wide: float, high: float, fill: RGB, alpha: int = 255) -> None:
        """Fill an ellipse around (x, y) with the given radii."""
        self.canvas.oval(self.at(x, y), wide * self.side, high * self.side, fill, alpha)

    def below(self, edge: Callable[[float], float], fill: RGB, alpha: int = 255) -> None:
        """Fill everything below a curve."""
        steps = 40
        xs = [self.left + (self.right - self.left) * step / steps for step in range(steps + 1)]
        outline = [(x, edge(x)) for x in xs]
        self.polygon([*outline, (self.right, self.bottom), (self.left, self.bottom)], fill, alpha)

    def rolling(self, height: float, swing: float, length: float = 1.0) -> Callable[[float], float]:
        """Return a gently rolling skyline around a height."""
        first, second = self.dice.uniform(0, 6.3), self.dice.uniform(0, 6.3)
        pace = self.dice.uniform(2.6, 4.2) / length
        return lambda x: height + swing * (0.7 * math.sin(pace * x + first) + 0.3 * math.sin(2.3 * pace * x + second))


def sky(size: tuple[int, int], horizon: float, time: str, dice: random.Random) -> Image.Image:
    """Return a gradient from the top of the image to `horizon` (a fraction of its height), constant below it."""
    stops = dice.choice(_SKIES[time])
    strip = Image.new("RGB", (1, 64))
    for row in range(64):
        place = min(row / 63 / max(horizon, 0.05), 1) * (len(stops) - 1)
        step = min(int(place), len(stops) - 2)
        strip.putpixel((0, row), mix(stops[step], stops[step + 1], place - step))
    return strip.resize(size, Image.Resampling.BILINEAR)


def speckles(land: Land) -> None:
    """Draw the faint stars of a night sky, too small and dim to be mistaken for the `star` objects."""
    for _ in range(34):
        x, y = land.dice.uniform(land.left, land.right), land.dice.uniform(land.top, land.horizon - 0.06)
        land.oval(x, y, 0.0024, 0.0024, CREAM, land.dice.randrange(70, 190))


def meadow(land: Land) -> None:
    """Draw a meadow."""
    h, span = land.horizon, land.bottom - land.horizon
    land.below(land.rolling(h - 0.035, 0.035), land.lit((150, 202, 172)))
    land.below(land.rolling(h + 0.005, 0.03), land.lit((168, 212, 138)))
    land.below(land.rolling(h + 0.08, 0.03), land.lit((186, 220, 122)))
    land.below(land.rolling(h + 0.22, 0.025), land.lit((172, 212, 106)))
    land.below(land.rolling(h + 0.38, 0.02), land.lit((158, 202, 96)))
    blade = land.lit((118, 170, 82))
    for _ in range(46):
        x, y = land.dice.uniform(land.left, land.right), h + 0.1 + (span - 0.1) * land.dice.random()
        tall = 0.008 + 0.024 * (y - h)
        for lean in (-0.5, 0.1, 0.6):
            land.polygon([(x - 0.003, y), (x + lean * tall, y - tall), (x + 0.003, y)], blade)


def beach(land: Land) -> None:
    """Draw a beach with the sea behind it."""
    h = land.horizon
    _water(land, h, h + 0.15, ((70, 158, 206), (110, 200, 214)))
    shore = land.rolling(h + 0.125, 0.016)
    land.below(lambda x: shore(x) - 0.022, land.lit((196, 236, 234)))
    land.below(lambda x: shore(x) - 0.01, land.lit((250, 252, 248)))
    land.below(lambda x: shore(x) + 0.004, land.lit((218, 190, 142)))
    land.below(lambda x: shore(x) + 0.032, land.lit((244, 220, 170)))
    land.below(land.rolling(h + 0.3, 0.02), land.lit((248, 226, 180)))
    land.below(land.rolling(h + 0.42, 0.02), land.lit((240, 214, 162)))
    for _ in range(60):
        x, y = land.dice.uniform(land.left, land.right), land.dice.uniform(h + 0.2, land.bottom)
        land.oval(x, y, 0.004, 0.0022, land.lit((206, 174, 122)), 150)


def _water(land: Land, top: float, foot: float, shades: tuple[RGB, RGB]) -> None:
    bands = 9
    for band in range(bands):
        y = top + (foot - top) * band / bands
        colour = land.lit(mix(*shades, band / (bands - 1)))
        if band == 0:
            land.polygon([(land.left, y), (land.right, y), (land.right, land.bottom), (land.left, land.bottom)], colour)
        else:
            land.below(land.rolling(y, 0.004, 0.25), colour)
    glint = {"day": CREAM, "sunset": (255, 206, 140), "night": (176, 196, 240)}[land.time]
    for _ in range(22):
        x, y = land.dice.uniform(land.left, land.right), top + (foot - top) * land.dice.uniform(0.06, 0.95)
        wide = land.dice.uniform(0.014, 0.045)
        land.oval(x, y, wide, 0.0026, glint, 120)


def sea(land: Land) -> None:
    """Draw the open sea."""
    h = land.horizon
    _water(land, h, land.bottom, ((64, 150, 198), (24, 98, 158)))
    crest = land.lit((206, 236, 242))
    for row in range(6):
        y = h + 0.06 + (land.bottom - h) * row / 6.4
        reach = 0.02 + 0.016 * row
        x = land.left + land.dice.uniform(0, 0.2)
        while x < land.right:
            if land.dice.random() < 0.62:
                bow = [(x + reach * t, y - 0.32 * reach * math.sin(math.pi * t)) for t in (0, 0.25, 0.5, 0.75, 1)]
                back = [(px, py + 0.14 * reach) for px, py in reversed(bow[1:-1])]
                land.polygon([*bow, *back], crest, 150)
            x += reach * land.dice.uniform(1.8, 4.5)


def desert(land: Land) -> None:
    """Draw a desert."""
    h = land.horizon
    for _ in range(3):
        x, wide = land.dice.uniform(land.left, land.right), land.dice.uniform(0.07, 0.15)
        tall = land.dice.uniform(0.05, 0.1)
        mesa = [(x - wide, h + 0.03), (x - 0.72 * wide, h - tall), (x + 0.66 * wide, h - tall), (x + wide, h + 0.03)]
        land.polygon(mesa, land.lit((214, 142, 110)))
        land.polygon([(x + 0.2 * wide, h + 0.03), (x + 0.3 * wide, h - tall), *mesa[2:]], land.lit((190, 118, 96)))
    tones = ((238, 188, 128), (246, 202, 138), (240, 186, 118), (230, 170, 102))
    for step, tone in enumerate(tones):
        ridge = land.rolling(h + 0.015 + 0.115 * step, 0.03 + 0.004 * step)
        land.below(ridge, land.lit(mix(tone, (255, 240, 200), 0.4)))
        land.below(lambda x, ridge=ridge: ridge(x) + 0.008, land.lit(tone))
        lull = land.rolling(h + 0.065 + 0.12 * step, 0.02)
        land.below(lambda x, a=ridge, b=lull: max(a(x) + 0.008, b(x)), land.lit(mix(tone, (186, 110, 84), 0.16)))
    for _ in range(3):
        x, y = land.dice.uniform(land.left, land.right), h + land.dice.uniform(0.06, 0.1)
        _cactus(land, x, y, land.dice.uniform(0.05, 0.075))


def _cactus(land: Land, x: float, y: float, tall: float) -> None:
    green = land.lit((92, 144, 104))
    parts = (
        [(x, y), (x, y - tall)],
        [(x, y - 0.4 * tall), (x + 0.32 * tall, y - 0.42 * tall), (x + 0.32 * tall, y - 0.75 * tall)],
        [(x, y - 0.3 * tall), (x - 0.3 * tall, y - 0.32 * tall), (x - 0.3 * tall, y - 0.6 * tall)],
    )
    for part in parts:
        land.canvas.line([land.at(*point) for point in part], 0.2 * tall * land.side, green)
        end = part[-1]
        land.oval(*end, 0.1 * tall, 0.1 * tall, green)


def forest(land: Land) -> None:
    """Draw a forest."""
    h = land.horizon
    rows = ((-0.02, 0.17, (150, 190, 178)), (0.03, 0.24, (98, 152, 132)), (0.075, 0.3, (58, 112, 94)))
    for lift, tall, tone in rows:
        land.below(land.rolling(h + lift - 0.02, 0.008), land.lit(tone))
        x = land.left - 0.05
        while x < land.right + 0.05:
            _conifer(land, x, h + lift, tall * land.dice.uniform(0.7, 1.15), land.lit(tone))
            x += tall * land.dice.uniform(0.24, 0.48)
    land.below(land.rolling(h + 0.075, 0.008), land.lit((122, 148, 88)))
    land.below(land.rolling(h + 0.17, 0.015), land.lit((146, 168, 98)))
    land.below(land.rolling(h + 0.31, 0.02), land.lit((132, 154, 88)))
    for _ in range(34):
        x, y = land.dice.uniform(land.left, land.right), land.dice.uniform(h + 0.14, land.bottom)
        for lean in (-0.012, 0, 0.012):
            land.polygon([(x - 0.003, y), (x + lean, y - 0.018), (x + 0.003, y)], land.lit((92, 120, 66)))


def _conifer(land: Land, x: float, y: float, tall: float, tone: RGB) -> None:
    outline: list[Point] = [(x, y - tall)]
    right = ((0.13, 0.7), (0.07, 0.68), (0.2, 0.42), (0.1, 0.4), (0.26, 0.1), (0.04, 0.1), (0.04, 0))
    outline += [(x + wide * tall * 0.8, y - high * tall) for wide, high in right]
    outline += [(x - wide * tall * 0.8, y - high * tall) for wide, high in reversed(right)]
    land.polygon(outline, tone)


def city(land: Land) -> None:
    """Draw a city street."""
    h = land.horizon
    faces = ((164, 178, 206), (178, 186, 204), (150, 166, 196), (190, 180, 190), (170, 172, 196))
    window = (255, 220, 130) if land.time != "day" else (222, 236, 246)
    for far in (True, False):
        x = land.left - 0.03
        while x < land.right:
            wide = land.dice.uniform(0.09, 0.16)
            tall = land.dice.uniform(0.2, 0.36) if far else land.dice.uniform(0.08, 0.22)
            tone = mix(land.dice.choice(faces), (214, 222, 236), 0.45 if far else 0.0)
            roof = h + 0.05 - tall
            face = land.lit(tone)
            land.polygon([(x, h + 0.08), (x, roof), (x + wide, roof), (x + wide, h + 0.08)], face)
            if not far:
                edge = x + 0.78 * wide
                land.polygon(
                    [(edge, h + 0.08), (edge, roof), (x + wide, roof), (x + wide, h + 0.08)],
                    mix(face, (40, 40, 80), 0.14),
                )
                _windows(land, x, roof, wide, h + 0.05, window)
            elif land.dice.random() < 0.3:
                land.polygon(
                    [(x + wide / 2 - 0.003, roof), (x + wide / 2, roof - 0.05), (x + wide / 2 + 0.003, roof)], face
                )
            x += wide * land.dice.uniform(1.0, 1.06)
    flat = [(h + 0.05, (206, 202, 200)), (h + 0.1, (176, 172, 176)), (h + 0.112, (124, 126, 140))]
    for y, tone in (*flat, (h + 0.37, (176, 172, 176)), (h + 0.382, (208, 203, 200))):
        land.below(lambda _, y=y: y, land.lit(tone))
    y, x = h + 0.24, land.left - land.dice.uniform(0, 0.1)
    while x < land.right:
        land.polygon([(x, y), (x + 0.08, y), (x + 0.074, y + 0.014), (x - 0.006, y + 0.014)], land.lit((240, 232, 206)))
        x += 0.15
    x = land.left - land.dice.uniform(0, 0.12)
    while x < land.right:
        land.polygon(
            [(x, h + 0.382), (x + 0.004, h + 0.382), (x - 0.02, land.bottom), (x - 0.026, land.bottom)],
            land.lit((180, 176, 178)),
        )
        x += 0.16


def _windows(land: Land, x: float, roof: float, wide: float, foot: float, glow: RGB) -> None:
    glass = land.lit((206, 222, 238)) if land.time == "day" else mix(land.lit((150, 160, 190)), (20, 20, 50), 0.35)
    y = roof + 0.018
    while y < foot - 0.03:
        for column in range(3):
            left = x + wide * (0.1 + 0.23 * column)
            pane = glow if land.dice.random() < (0.3 if land.time == "day" else 0.55) else glass
            land.polygon([(left, y), (left + 0.14 * wide, y), (left + 0.14 * wide, y + 0.02), (left, y + 0.02)], pane)
        y += 0.034


def snow(land: Land) -> None:
    """Draw snowy hills."""
    h = land.horizon
    tones = ((206, 222, 242), (222, 234, 248), (234, 242, 252), (242, 248, 254), (230, 239, 250))
    for step, tone in enumerate(tones):
        ridge = land.rolling(h - 0.04 + 0.1 * step, 0.034)
        land.below(ridge, land.lit((252, 254, 255)))
        land.below(lambda x, ridge=ridge: ridge(x) + 0.009, land.lit(tone))


def snowflakes(land: Land) -> None:
    """Draw snowflakes in front of everything."""
    for _ in range(70):
        x, y = land.dice.uniform(land.left, land.right), land.dice.uniform(land.top, land.bottom)
        reach = land.dice.uniform(0.0025, 0.0065)
        land.oval(x, y, reach, reach, (255, 255, 255), 215)


SETTING_PAINTERS: dict[str, Callable[[Land], None]] = {
    "meadow": meadow,
    "beach": beach,
    "sea": sea,
    "desert": desert,
    "forest": forest,
    "city": city,
    "snow": snow,
}
