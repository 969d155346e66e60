"""Draws each kind of animal, and each kind of thing in the sky or on the horizon."""

from __future__ import annotations

import math

from searchdb.demo.pen import CREAM, INK, Paint, Pen, Point, arc, mix, smooth

_GOLD = (255, 214, 84)
_NOSE = (226, 120, 132)


def cat(pen: Pen, paint: Paint) -> None:
    """Draw a cat."""
    pen.line(smooth([(0.16, -0.06), (0.4, -0.1), (0.42, -0.34), (0.33, -0.46)])[:18], 0.085, paint.dark)
    pen.oval(0.345, -0.44, 0.045, 0.045, paint.dark)
    pen.blob(
        [(0, -0.62), (0.2, -0.42), (0.27, -0.12), (0.18, 0), (-0.18, 0), (-0.27, -0.12), (-0.2, -0.42)], paint.base
    )
    pen.blob([(0, -0.46), (0.1, -0.3), (0.09, -0.1), (0, -0.05), (-0.09, -0.1), (-0.1, -0.3)], paint.light)
    for side in (-1, 1):
        pen.oval(side * 0.1, -0.035, 0.085, 0.045, paint.light)
        pen.polygon([(side * 0.3, -0.74), (side * 0.28, -1.0), (side * 0.06, -0.86)], paint.base)
        pen.polygon([(side * 0.245, -0.8), (side * 0.245, -0.93), (side * 0.13, -0.86)], _NOSE)
    pen.oval(0, -0.68, 0.31, 0.235, paint.base)
    pen.oval(0, -0.585, 0.15, 0.1, paint.light)
    eyes = (250, 236, 130) if sum(paint.base) < 330 else INK
    for side in (-1, 1):
        pen.oval(side * 0.125, -0.71, 0.042, 0.058, eyes)
        pen.oval(side * 0.125, -0.71, 0.018, 0.05, INK)
        pen.oval(side * 0.125 + 0.014, -0.73, 0.013, 0.016, CREAM)
        for drop in (-0.015, 0.035):
            pen.line([(side * 0.13, -0.6), (side * 0.4, -0.62 + drop * 2)], 0.012, mix(paint.dark, INK, 0.4))
    pen.polygon([(-0.035, -0.645), (0.035, -0.645), (0, -0.605)], _NOSE)


def dog(pen: Pen, paint: Paint) -> None:
    """Draw a dog."""
    pen.line([(-0.34, -0.44), (-0.44, -0.6), (-0.43, -0.74)], 0.075, paint.base)
    pen.oval(-0.43, -0.74, 0.037, 0.037, paint.base)
    for x, shade in ((-0.2, paint.dark), (0.22, paint.dark), (-0.3, paint.base), (0.12, paint.base)):
        pen.box(x - 0.055, -0.3, x + 0.055, 0, shade, 0.05)
        pen.oval(x + 0.025, -0.025, 0.065, 0.03, shade)
    pen.box(-0.39, -0.54, 0.25, -0.22, paint.base, 0.15)
    pen.blob([(-0.3, -0.25), (-0.05, -0.32), (0.18, -0.27), (0.1, -0.21), (-0.2, -0.2)], paint.light)
    pen.polygon([(0.06, -0.5), (0.12, -0.76), (0.34, -0.66), (0.26, -0.36)], paint.base)
    pen.polygon(
        [(0.1, -0.575), (0.305, -0.5), (0.29, -0.44), (0.085, -0.515)], (214, 56, 62) if paint.base[1] > 90 else _GOLD
    )
    pen.oval(0.225, -0.79, 0.185, 0.165, paint.base)
    pen.box(0.2, -0.81, 0.5, -0.65, paint.light, 0.075)
    pen.oval(0.465, -0.785, 0.045, 0.04, INK)
    pen.line([(0.36, -0.685), (0.46, -0.695)], 0.014, INK)
    pen.blob([(0.1, -0.93), (0.19, -0.9), (0.18, -0.68), (0.09, -0.56), (0.0, -0.66), (0.02, -0.84)], paint.dark)
    pen.oval(0.285, -0.845, 0.03, 0.035, INK if sum(paint.base) > 200 else CREAM)
    pen.oval(0.294, -0.857, 0.01, 0.01, CREAM)


def fish(pen: Pen, paint: Paint) -> None:
    """Draw a fish."""
    pen.blob([(-0.2, -0.5), (-0.42, -0.78), (-0.5, -0.76), (-0.42, -0.5), (-0.5, -0.24), (-0.42, -0.22)], paint.dark)
    pen.blob([(-0.16, -0.68), (0.02, -0.92), (0.16, -0.88), (0.2, -0.7)], paint.dark)
    pen.blob([(-0.04, -0.3), (-0.02, -0.12), (0.1, -0.14), (0.14, -0.3)], paint.dark)
    pen.blob(
        [
            (-0.28, -0.5),
            (-0.08, -0.72),
            (0.2, -0.76),
            (0.42, -0.62),
            (0.5, -0.48),
            (0.38, -0.32),
            (0.14, -0.24),
            (-0.1, -0.3),
        ],
        paint.base,
    )
    pen.blob([(-0.1, -0.34), (0.14, -0.36), (0.42, -0.4), (0.36, -0.31), (0.14, -0.245)], paint.light)
    for x in (-0.06, 0.08):
        pen.line(arc(x - 0.06, -0.5, 0.09, 0.17, -70, 70), 0.03, paint.light)
    pen.oval(0.33, -0.57, 0.068, 0.068, CREAM)
    pen.oval(0.345, -0.57, 0.036, 0.036, INK)
    pen.blob([(0.1, -0.5), (0.02, -0.36), (0.1, -0.34), (0.18, -0.44)], paint.dark)


def bird(pen: Pen, paint: Paint) -> None:
    """Draw a bird."""
    pen.polygon([(-0.24, -0.42), (-0.5, -0.5), (-0.47, -0.34), (-0.5, -0.22), (-0.2, -0.3)], paint.dark)
    pen.blob([(-0.02, -0.44), (0.02, -0.7), (-0.12, -0.94), (-0.24, -0.86), (-0.2, -0.58)], paint.dark)
    pen.polygon([(0.36, -0.5), (0.5, -0.43), (0.35, -0.38)], (250, 168, 40) if paint.base[2] > 70 else (120, 76, 40))
    pen.blob(
        [
            (-0.3, -0.36),
            (-0.1, -0.5),
            (0.14, -0.54),
            (0.3, -0.6),
            (0.4, -0.47),
            (0.3, -0.3),
            (0.08, -0.16),
            (-0.14, -0.2),
        ],
        paint.base,
    )
    pen.blob([(-0.1, -0.24), (0.1, -0.3), (0.28, -0.3), (0.1, -0.17)], paint.light)
    pen.blob([(0.1, -0.42), (0.12, -0.68), (0.0, -0.98), (-0.12, -0.9), (-0.12, -0.6), (-0.1, -0.42)], paint.base)
    pen.line([(-0.05, -0.84), (0.0, -0.5)], 0.03, paint.light)
    pen.line([(-0.1, -0.72), (-0.04, -0.48)], 0.03, paint.light)
    pen.oval(0.28, -0.485, 0.04, 0.04, CREAM)
    pen.oval(0.287, -0.485, 0.023, 0.023, INK)


def butterfly(pen: Pen, paint: Paint) -> None:
    """Draw a butterfly."""
    for side in (-1, 1):
        lower = [(0, -0.46), (side * 0.22, -0.44), (side * 0.38, -0.24), (side * 0.28, -0.04), (side * 0.12, -0.12)]
        upper = [(0, -0.48), (side * 0.16, -0.86), (side * 0.4, -0.96), (side * 0.5, -0.76), (side * 0.38, -0.48)]
        pen.blob(lower, paint.dark)
        pen.blob(upper, paint.base)
        pen.blob(
            [(side * x, y) for x, y in ((0.1, -0.54), (0.2, -0.78), (0.37, -0.86), (0.42, -0.74), (0.32, -0.55))],
            paint.light,
        )
        pen.oval(side * 0.36, -0.74, 0.05, 0.05, paint.dark)
        pen.oval(side * 0.24, -0.25, 0.06, 0.06, paint.light)
        pen.line([(0, -0.7), (side * 0.08, -0.88), (side * 0.15, -0.93)], 0.02, INK)
    pen.oval(0, -0.46, 0.04, 0.28, INK)
    pen.oval(0, -0.72, 0.05, 0.05, INK)


def balloon(pen: Pen, paint: Paint) -> None:
    """Draw a balloon."""
    pen.line([(0, -0.3), (0.05, -0.2), (-0.04, -0.1), (0.02, 0)], 0.02, mix(INK, CREAM, 0.35))
    pen.polygon([(0, -0.35), (-0.06, -0.27), (0.06, -0.27)], paint.dark)
    outline = [(0, -1.0), (0.24, -0.92), (0.335, -0.7), (0.23, -0.46), (0.06, -0.32)]
    pen.blob([*outline, *[(-x, y) for x, y in outline[:0:-1]]], paint.base)
    pen.blob([(0.19, -0.93), (0.335, -0.7), (0.23, -0.46), (0.06, -0.32), (0.2, -0.62)], paint.dark, 170)
    pen.blob([(-0.2, -0.84), (-0.1, -0.92), (-0.12, -0.78), (-0.2, -0.66)], mix(paint.light, CREAM, 0.55))


def kite(pen: Pen, paint: Paint) -> None:
    """Draw a kite."""
    tail = [(-0.06, -0.36), (-0.16, -0.27), (-0.1, -0.18), (-0.22, -0.1), (-0.18, 0)]
    pen.line(tail, 0.022, mix(INK, CREAM, 0.35))
    for x, y in tail[1:4]:
        pen.polygon([(x, y), (x - 0.075, y - 0.04), (x - 0.06, y + 0.05)], paint.base)
        pen.polygon([(x, y), (x + 0.075, y + 0.04), (x + 0.06, y - 0.05)], paint.dark)
    top, left, right, foot, middle = (0.12, -1.0), (-0.28, -0.8), (0.4, -0.62), (-0.06, -0.34), (0.055, -0.72)
    pen.polygon([top, left, middle], paint.base)
    pen.polygon([top, right, middle], paint.light)
    pen.polygon([left, foot, middle], paint.light)
    pen.polygon([right, foot, middle], paint.base)
    pen.line([top, foot], 0.02, paint.dark)
    pen.line([left, right], 0.02, paint.dark)


def sun(pen: Pen, paint: Paint) -> None:
    """Draw the sun."""
    core, glow = ((255, 206, 60), (255, 236, 150)) if paint.time == "day" else ((255, 150, 60), (255, 196, 110))
    for reach, alpha in ((0.72, 34), (0.6, 44), (0.48, 60)):
        pen.oval(0, -0.5, reach, reach, glow, alpha)
    for turn in range(12):
        angle = turn * math.pi / 6
        along, across = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
        far = 0.5 if turn % 2 else 0.45
        tip = (along[0] * far, along[1] * far - 0.5)
        feet = [(along[0] * 0.34 + s * across[0] * 0.06, along[1] * 0.34 + s * across[1] * 0.06 - 0.5) for s in (-1, 1)]
        pen.polygon([tip, *feet], core)
    pen.oval(0, -0.5, 0.31, 0.31, core)
    pen.oval(-0.03, -0.53, 0.24, 0.24, mix(core, CREAM, 0.3))


def moon(pen: Pen, paint: Paint) -> None:
    """Draw the moon."""
    for reach, alpha in ((0.66, 16), (0.54, 20)):
        pen.oval(0.02, -0.5, reach, reach, CREAM, alpha)
    outer, inner = arc(0, -0.5, 0.46, 0.46, 62, 298), arc(0.2, -0.5, 0.36, 0.4, 288, 72)
    pen.polygon([*outer, *inner], (255, 244, 204))
    pen.polygon([*arc(0, -0.5, 0.46, 0.46, 70, 250), *arc(0.04, -0.52, 0.45, 0.44, 250, 70)], (232, 214, 160))
    for x, y, reach in ((-0.26, -0.6, 0.05), (-0.2, -0.36, 0.035), (-0.1, -0.78, 0.03)):
        pen.oval(x, y, reach, reach, (236, 220, 170))


def star(pen: Pen, paint: Paint) -> None:
    """Draw a star."""
    pen.oval(0, -0.5, 0.5, 0.5, _GOLD, 26)
    pen.oval(0, -0.5, 0.36, 0.36, _GOLD, 30)
    points: list[Point] = []
    for turn in range(10):
        reach, angle = (0.48 if turn % 2 == 0 else 0.21), -math.pi / 2 + turn * math.pi / 5
        points.append((reach * math.cos(angle), reach * math.sin(angle) - 0.5))
    pen.polygon(points, _GOLD)
    for turn in range(0, 10, 2):
        pen.polygon([points[turn], points[turn + 1], (0, -0.5)], (255, 236, 160))


def cloud(pen: Pen, paint: Paint) -> None:
    """Draw a cloud."""
    body, belly = {
        "day": ((255, 255, 255), (222, 234, 246)),
        "sunset": ((255, 226, 208), (244, 178, 172)),
        "night": ((172, 182, 222), (130, 142, 194)),
    }[paint.time]
    puffs = ((-0.3, -0.34, 0.17), (0.31, -0.33, 0.16), (-0.09, -0.5, 0.22), (0.15, -0.44, 0.19))
    for x, y, reach in puffs:
        pen.oval(x, y + 0.035, reach, reach, belly)
    pen.box(-0.46, -0.4, 0.46, -0.16, belly, 0.12)
    for x, y, reach in puffs:
        pen.oval(x, y, reach, reach * 0.97, body)
    pen.box(-0.45, -0.41, 0.45, -0.22, body, 0.09)


def mountain(pen: Pen, paint: Paint) -> None:
    """Draw a mountain."""
    rock, shade, snow = {
        "day": ((132, 142, 172), (104, 112, 148), (252, 253, 255)),
        "sunset": ((148, 100, 132), (112, 74, 116), (255, 222, 206)),
        "night": ((78, 84, 134), (58, 62, 108), (188, 198, 234)),
    }[paint.time]
    top = (0.03, -0.96)
    pen.polygon([(-0.62, 0.04), (-0.34, -0.42), (-0.24, -0.5), top, (0.28, -0.48), (0.36, -0.42), (0.64, 0.04)], rock)
    pen.polygon(
        [top, (0.28, -0.48), (0.36, -0.42), (0.64, 0.04), (0.16, 0.04), (0.02, -0.3), (0.12, -0.5), (0.03, -0.7)], shade
    )
    pen.polygon(
        [top, (-0.16, -0.64), (-0.09, -0.6), (-0.04, -0.67), (0.02, -0.56), (0.08, -0.66), (0.14, -0.58), (0.2, -0.63)],
        snow,
    )
    pen.polygon([top, (0.2, -0.63), (0.14, -0.58), (0.08, -0.66), (0.05, -0.75)], mix(snow, shade, 0.3))
