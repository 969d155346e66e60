"""Draws shapes in an object's own coordinates, and provides the colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Point = tuple[float, float]

INK: RGB = (44, 42, 58)
CREAM: RGB = (255, 248, 232)
_WHITE: RGB = (255, 255, 255)
_SHADE: RGB = (38, 34, 74)

_BASES: dict[str, RGB] = {
    "red": (218, 42, 48),
    "orange": (248, 130, 24),
    "yellow": (252, 212, 40),
    "green": (38, 150, 78),
    "blue": (34, 96, 212),
    "purple": (128, 58, 184),
    "pink": (250, 130, 182),
    "white": (250, 250, 248),
}
# The light of each time of day, blended thinly over objects: enough to fit the scene, too little to change the colour.
_LIGHT: dict[str, tuple[RGB, float]] = {
    "day": ((255, 255, 255), 0.0),
    "sunset": ((196, 84, 92), 0.07),
    "night": ((30, 36, 92), 0.13),
}


def mix(one: RGB, other: RGB, share: float) -> RGB:
    """Return `one` blended with a `share` (0 to 1) of `other`."""
    return (
        round(one[0] + (other[0] - one[0]) * share),
        round(one[1] + (other[1] - one[1]) * share),
        round(one[2] + (other[2] - one[2]) * share),
    )


@dataclass(frozen=True, kw_only=True)
class Paint:
    """The shades of one colour at one time of day."""

    base: RGB
    light: RGB
    dark: RGB
    time: str

    @classmethod
    def of(cls, colour: str | None, time: str) -> Paint:
        """Make the shades of a colour, white if None, at a time of day."""
        base = _BASES[colour] if colour else _WHITE
        tint, share = _LIGHT[time]
        shade = 0.20 if colour in ("white", None) else 0.30
        return cls(
            base=mix(base, tint, share),
            light=mix(mix(base, _WHITE, 0.34), tint, share),
            dark=mix(mix(base, _SHADE, shade), tint, share),
            time=time,
        )

    def lit(self, colour: RGB) -> RGB:
        """Return another colour under the same light."""
        tint, share = _LIGHT[self.time]
        return mix(colour, tint, share)


class Canvas:
    """An image to draw on, with opaque or translucent colour."""

    def __init__(self, image: Image.Image) -> None:
        # In RGBA mode Pillow blends every pixel even for opaque colours, which is three times slower.
        self._opaque = ImageDraw.Draw(image)
        self._glaze = ImageDraw.Draw(image, "RGBA")

    def polygon(self, points: Sequence[Point], fill: RGB, alpha: int = 255) -> None:
        """Fill a polygon."""
        if alpha == 255:
            self._opaque.polygon(points, fill=fill)
        else:
            self._glaze.polygon(points, fill=(*fill, alpha))

    def oval(self, centre: Point, wide: float, high: float, fill: RGB, alpha: int = 255) -> None:
        """Fill an ellipse around the centre with the given radii."""
        around = (centre[0] - wide, centre[1] - high, centre[0] + wide, centre[1] + high)
        if alpha == 255:
            self._opaque.ellipse(around, fill=fill)
        else:
            self._glaze.ellipse(around, fill=(*fill, alpha))

    def ring(self, centre: Point, radius: float, width: float, fill: RGB) -> None:
        """Draw a circle's outline."""
        around = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
        self._opaque.ellipse(around, outline=fill, width=max(1, round(width)))

    def box(self, one: Point, other: Point, fill: RGB, round_by: float = 0) -> None:
        """Fill a rectangle with corners rounded by `round_by`."""
        corners = (min(one[0], other[0]), one[1], max(one[0], other[0]), other[1])
        if round_by:
            self._opaque.rounded_rectangle(corners, radius=round_by, fill=fill)
        else:
            self._opaque.rectangle(corners, fill=fill)

    def line(self, points: Sequence[Point], width: float, fill: RGB, alpha: int = 255) -> None:
        """Draw a line through the points."""
        wide = max(1, round(width))
        if alpha == 255:
            self._opaque.line(points, fill=fill, width=wide, joint="curve")
        else:
            self._glaze.line(points, fill=(*fill, alpha), width=wide, joint="curve")


@dataclass(frozen=True, kw_only=True)
class Pen:
    """Draws in an object's box: x from -0.5 to 0.5, y from -1 (top) to 0 (where it stands)."""

    canvas: Canvas
    x: float
    y: float
    scale: float
    mirrored: bool = False

    def _at(self, point: Point) -> Point:
        x = -point[0] if self.mirrored else point[0]
        return (self.x + x * self.scale, self.y + point[1] * self.scale)

    def polygon(self, points: Sequence[Point], fill: RGB, alpha: int = 255) -> None:
        """Fill a polygon."""
        self.canvas.polygon([self._at(point) for point in points], fill, alpha)

    def blob(self, points: Sequence[Point], fill: RGB, alpha: int = 255) -> None:
        """Fill a closed shape with a smooth edge through the points."""
        self.polygon(smooth(points), fill, alpha)

    def oval(self, x: float, y: float, wide: float, high: float, fill: RGB, alpha: int = 255) -> None:
        """Fill an ellipse around (x, y) with the given radii."""
        self.canvas.oval(self._at((x, y)), wide * self.scale, high * self.scale, fill, alpha)

    def ring(self, x: float, y: float, radius: float, width: float, fill: RGB) -> None:
        """Draw a circle's outline."""
        self.canvas.ring(self._at((x, y)), radius * self.scale, width * self.scale, fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: RGB, round_by: float = 0) -> None:
        """Fill a rectangle with corners rounded by `round_by`."""
        self.canvas.box(self._at((left, top)), self._at((right, bottom)), fill, round_by * self.scale)

    def line(self, points: Sequence[Point], width: float, fill: RGB, alpha: int = 255) -> None:
        """Draw a line through the points."""
        self.canvas.line([self._at(point) for point in points], width * self.scale, fill, alpha)


def arc(x: float, y: float, wide: float, high: float, start: float, end: float) -> list[Point]:
    """Return the points of an ellipse's arc; angles in degrees, clockwise from the right as in Pillow."""
    steps = 14
    angles = [math.radians(start + (end - start) * step / steps) for step in range(steps + 1)]
    return [(x + wide * math.cos(angle), y + high * math.sin(angle)) for angle in angles]


def smooth(points: Sequence[Point], steps: int = 6) -> list[Point]:
    """Return a closed Catmull-Rom curve through the points."""
    curve: list[Point] = []
    count = len(points)
    for index in range(count):
        before, here = points[index - 1], points[index]
        there, after = points[(index + 1) % count], points[(index + 2) % count]
        for step in range(steps):
            t = step / steps
            weights = (
                -0.5 * t + t * t - 0.5 * t**3,
                1 - 2.5 * t * t + 1.5 * t**3,
                0.5 * t + 2 * t * t - 1.5 * t**3,
                -0.5 * t * t + 0.5 * t**3,
            )
            nearby = (before, here, there, after)
            curve.append(
                (
                    sum(weight * point[0] for weight, point in zip(weights, nearby, strict=True)),
                    sum(weight * point[1] for weight, point in zip(weights, nearby, strict=True)),
                )
            )
    return curve
