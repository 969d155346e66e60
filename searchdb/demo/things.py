"""Draws each kind of thing that stands on the ground or floats on water."""

from __future__ import annotations

from searchdb.demo.pen import CREAM, INK, Paint, Pen, arc, mix

_GLASS = (196, 230, 244)
_LAMP = (255, 224, 120)
_WOOD = (132, 86, 56)
_LEAF = (70, 156, 74)


def car(pen: Pen, paint: Paint) -> None:
    """Draw a car."""
    glass = _LAMP if paint.time == "night" else paint.lit(_GLASS)
    pen.polygon([(-0.34, -0.38), (-0.2, -0.6), (0.13, -0.6), (0.33, -0.38)], paint.base)
    pen.oval(-0.2, -0.565, 0.045, 0.035, paint.base)
    pen.polygon([(-0.265, -0.38), (-0.17, -0.55), (-0.045, -0.55), (-0.045, -0.38)], glass)
    pen.polygon([(0.0, -0.38), (0.0, -0.55), (0.11, -0.55), (0.245, -0.38)], glass)
    pen.polygon([(0.05, -0.38), (0.11, -0.55), (0.14, -0.512), (0.1, -0.38)], CREAM, 110)
    pen.box(-0.5, -0.42, 0.5, -0.12, paint.base, 0.11)
    pen.box(-0.5, -0.22, 0.5, -0.12, paint.dark, 0.05)
    pen.box(-0.46, -0.395, 0.42, -0.365, paint.light, 0.015)
    pen.box(-0.035, -0.32, 0.045, -0.295, paint.dark)
    pen.oval(0.465, -0.315, 0.035, 0.05, _LAMP)
    pen.box(-0.5, -0.35, -0.465, -0.27, (200, 48, 52))
    for x in (-0.28, 0.28):
        pen.oval(x, -0.13, 0.13, 0.13, INK)
        pen.oval(x, -0.13, 0.065, 0.065, (206, 208, 216))
        pen.oval(x, -0.13, 0.028, 0.028, INK)


def house(pen: Pen, paint: Paint) -> None:
    """Draw a house."""
    roof = mix(paint.dark, (92, 48, 48), 0.45)
    glass = _LAMP if paint.time == "night" else paint.lit(_GLASS)
    pen.box(0.16, -0.96, 0.27, -0.6, mix(roof, INK, 0.25))
    pen.box(-0.4, -0.58, 0.4, 0, paint.base)
    pen.polygon([(-0.4, -0.55), (0.4, -0.55), (0.4, -0.47), (-0.4, -0.51)], paint.dark)
    pen.polygon([(0.27, -0.58), (0.4, -0.58), (0.4, 0), (0.27, 0)], paint.dark, 90)
    pen.polygon([(-0.5, -0.54), (0, -1.0), (0.5, -0.54)], roof)
    pen.polygon([(-0.5, -0.54), (0, -1.0), (-0.07, -0.86), (-0.4, -0.54)], mix(roof, CREAM, 0.22))
    pen.oval(0, -0.71, 0.075, 0.075, CREAM)
    pen.oval(0, -0.71, 0.052, 0.052, glass)
    pen.box(-0.3, -0.36, -0.12, 0, _WOOD, 0.03)
    pen.box(-0.275, -0.335, -0.145, 0, mix(_WOOD, INK, 0.25))
    pen.oval(-0.165, -0.16, 0.014, 0.014, _LAMP)
    pen.box(0.03, -0.39, 0.31, -0.15, CREAM, 0.02)
    pen.box(0.055, -0.365, 0.285, -0.175, glass)
    pen.line([(0.17, -0.37), (0.17, -0.17)], 0.022, CREAM)
    pen.line([(0.05, -0.27), (0.29, -0.27)], 0.022, CREAM)


def tree(pen: Pen, paint: Paint) -> None:
    """Draw a tree."""
    bark = paint.lit(_WOOD)
    pen.polygon([(-0.075, 0), (-0.045, -0.5), (0.045, -0.5), (0.08, 0)], bark)
    pen.line([(0, -0.32), (0.16, -0.5)], 0.045, bark)
    pen.line([(0, -0.4), (-0.15, -0.54)], 0.04, bark)
    for x, y, reach in ((-0.22, -0.52, 0.2), (0.23, -0.54, 0.2), (0, -0.5, 0.2), (-0.14, -0.74, 0.2)):
        pen.oval(x, y, reach, reach * 0.92, paint.dark)
    for x, y, reach in ((0.13, -0.73, 0.21), (-0.2, -0.58, 0.17), (0.0, -0.83, 0.17), (0.03, -0.6, 0.2)):
        pen.oval(x, y, reach, reach * 0.92, paint.base)
    for x, y, reach in ((-0.09, -0.82, 0.085), (0.13, -0.72, 0.09), (-0.2, -0.61, 0.07), (0.04, -0.58, 0.05)):
        pen.oval(x, y, reach, reach * 0.8, paint.light)


def flower(pen: Pen, paint: Paint) -> None:
    """Draw a flower."""
    stem = paint.lit(_LEAF)
    pen.line([(0.02, 0), (-0.015, -0.25), (0, -0.6)], 0.05, stem)
    pen.blob([(0, -0.1), (0.13, -0.27), (0.31, -0.31), (0.2, -0.15)], stem)
    pen.blob([(0, -0.06), (-0.14, -0.2), (-0.31, -0.22), (-0.2, -0.08)], mix(stem, INK, 0.15))
    for angle in range(0, 360, 60):
        ((x, y), *_) = arc(0, -0.66, 0.205, 0.205, angle + 30, angle + 30)
        pen.oval(x, y, 0.145, 0.145, paint.dark)
        pen.oval(x, y - 0.008, 0.127, 0.127, paint.base)
    for angle in range(0, 360, 60):
        ((x, y), *_) = arc(0, -0.66, 0.17, 0.17, angle + 30, angle + 30)
        pen.oval(x, y, 0.06, 0.06, paint.light)
    heart = (150, 84, 36) if paint.base[0] > 225 and paint.base[2] < 80 else (252, 204, 60)
    pen.oval(0, -0.66, 0.125, 0.125, mix(heart, INK, 0.25))
    pen.oval(0, -0.67, 0.108, 0.108, heart)


def umbrella(pen: Pen, paint: Paint) -> None:
    """Draw an umbrella."""
    handle = paint.lit(_WOOD)
    pen.line([(0, -0.95), (0, -0.1)], 0.035, handle)
    pen.line(arc(0.06, -0.1, 0.06, 0.08, 180, 0), 0.035, handle)
    pen.oval(0, -0.965, 0.022, 0.035, handle)
    rim = [point for middle in (0.4, 0.2, 0, -0.2, -0.4) for point in arc(middle, -0.46, 0.1, 0.06, 0, -180)]
    pen.polygon([*arc(0, -0.46, 0.5, 0.49, 180, 360), *rim], paint.base)
    inner = arc(0.2, -0.46, 0.1, 0.06, 0, -180) + arc(0, -0.46, 0.1, 0.06, 0, -180)
    centre = arc(-0.2, -0.46, 0.1, 0.06, 0, -180)
    pen.polygon([*arc(0, -0.46, 0.3, 0.49, 180, 360), *inner, *centre], paint.light)
    pen.polygon([*arc(0, -0.46, 0.1, 0.49, 180, 360), *arc(0, -0.46, 0.1, 0.06, 0, -180)], paint.base)
    pen.polygon([*arc(0, -0.46, 0.5, 0.49, 300, 360), *arc(0.4, -0.46, 0.1, 0.06, 0, -180)], paint.dark, 130)


def apple(pen: Pen, paint: Paint) -> None:
    """Draw an apple."""
    pen.line([(0, -0.72), (0.02, -0.86), (0.07, -0.95)], 0.05, _WOOD)
    outline = [(0, -0.74), (0.2, -0.8), (0.4, -0.66), (0.43, -0.4), (0.3, -0.12), (0.12, -0.01), (0, -0.04)]
    pen.blob([*outline, *[(-x, y) for x, y in outline[5:0:-1]]], paint.base)
    pen.blob([(0.3, -0.74), (0.41, -0.6), (0.42, -0.38), (0.3, -0.13), (0.12, -0.02), (0.27, -0.3)], paint.dark)
    pen.blob([(-0.31, -0.6), (-0.22, -0.68), (-0.19, -0.55), (-0.27, -0.42)], paint.light)
    pen.blob([(0.03, -0.82), (0.16, -0.98), (0.33, -0.94), (0.2, -0.82)], paint.lit(_LEAF))


def banana(pen: Pen, paint: Paint) -> None:
    """Draw a banana."""
    outer = arc(0.02, -0.62, 0.46, 0.6, 172, 20)
    inner = arc(0.05, -0.74, 0.38, 0.46, 28, 168)
    pen.polygon([*outer, *inner], paint.base)
    pen.polygon([*arc(0.02, -0.62, 0.46, 0.6, 150, 24), *arc(0.03, -0.64, 0.43, 0.5, 24, 150)], paint.dark)
    pen.line(arc(0.04, -0.68, 0.41, 0.5, 148, 40), 0.03, paint.light)
    pen.polygon([(-0.44, -0.72), (-0.43, -0.9), (-0.34, -0.91), (-0.32, -0.66)], mix(paint.dark, _WOOD, 0.55))
    pen.oval(0.435, -0.45, 0.05, 0.05, mix(paint.dark, INK, 0.6))


def cup(pen: Pen, paint: Paint) -> None:
    """Draw a cup."""
    for x, lean in ((-0.17, 0.04), (0.0, -0.04), (0.17, 0.04)):
        pen.line([(x, -0.68), (x + lean, -0.76), (x - lean, -0.86), (x + lean / 2, -0.97)], 0.035, CREAM, 170)
    pen.ring(0.32, -0.36, 0.18, 0.075, paint.dark)
    pen.polygon([(-0.38, -0.62), (-0.3, -0.06), (-0.22, 0), (0.22, 0), (0.3, -0.06), (0.38, -0.62)], paint.base)
    pen.polygon([(0.2, -0.62), (0.16, 0), (0.22, 0), (0.3, -0.06), (0.38, -0.62)], paint.dark)
    pen.polygon([(-0.3, -0.54), (-0.245, -0.12), (-0.19, -0.12), (-0.22, -0.54)], paint.light)
    pen.oval(0, -0.62, 0.38, 0.075, paint.light)
    pen.oval(0, -0.615, 0.33, 0.052, (88, 52, 34))


def bicycle(pen: Pen, paint: Paint) -> None:
    """Draw a bicycle."""
    for x in (-0.29, 0.29):
        pen.ring(x, -0.22, 0.215, 0.04, INK)
        pen.ring(x, -0.22, 0.165, 0.012, (190, 192, 204))
        pen.line([(x - 0.13, -0.35), (x + 0.13, -0.09)], 0.012, (190, 192, 204))
        pen.line([(x - 0.13, -0.09), (x + 0.13, -0.35)], 0.012, (190, 192, 204))
    pen.line([(0.14, -0.66), (0.2, -0.55), (0.29, -0.22)], 0.07, paint.base)
    pen.line([(-0.29, -0.22), (-0.14, -0.53), (0.19, -0.53), (-0.02, -0.2), (-0.29, -0.22)], 0.07, paint.base)
    pen.line([(-0.16, -0.6), (-0.02, -0.2)], 0.07, paint.base)
    pen.line([(0.14, -0.53), (-0.04, -0.24)], 0.02, paint.light)
    pen.line([(0.07, -0.71), (0.14, -0.66), (0.25, -0.7)], 0.04, INK)
    pen.box(-0.27, -0.65, -0.07, -0.59, INK, 0.03)
    pen.oval(-0.02, -0.2, 0.06, 0.06, paint.dark)
    pen.line([(-0.06, -0.12), (0.04, -0.28)], 0.025, INK)


def bench(pen: Pen, paint: Paint) -> None:
    """Draw a bench."""
    metal = (66, 66, 82)
    for x in (-0.38, 0.38):
        pen.line([(x, 0), (x, -0.66)], 0.055, metal)
        pen.line([(x, -0.27), (x * 1.16, 0)], 0.055, metal)
        pen.line([(x, -0.4), (x * 1.2, -0.4), (x * 1.2, -0.25)], 0.045, metal)
    for top in (-0.67, -0.53):
        pen.box(-0.48, top, 0.48, top + 0.11, paint.base, 0.03)
        pen.box(-0.46, top, 0.46, top + 0.03, paint.light, 0.015)
    pen.box(-0.5, -0.34, 0.5, -0.21, paint.base, 0.03)
    pen.box(-0.5, -0.26, 0.5, -0.21, paint.dark, 0.02)


def boat(pen: Pen, paint: Paint) -> None:
    """Draw a boat."""
    pen.line([(0, -0.2), (0, -1.0)], 0.035, paint.lit(_WOOD))
    pen.polygon([(0.035, -0.96), (0.16, -0.62), (0.4, -0.31), (0.035, -0.31)], paint.light)
    pen.polygon([(0.035, -0.52), (0.22, -0.52), (0.4, -0.31), (0.035, -0.31)], paint.base)
    pen.polygon([(-0.035, -0.86), (-0.12, -0.55), (-0.32, -0.31), (-0.035, -0.31)], CREAM)
    pen.polygon([(0, -1.0), (0.14, -0.96), (0, -0.92)], paint.base)
    pen.polygon([(-0.48, -0.26), (0.5, -0.26), (0.36, 0), (-0.32, 0)], paint.base)
    pen.polygon([(-0.42, -0.15), (0.44, -0.15), (0.36, 0), (-0.32, 0)], paint.dark)
    pen.polygon([(-0.48, -0.26), (0.5, -0.26), (0.475, -0.215), (-0.46, -0.215)], CREAM)
    for x in (-0.2, 0, 0.2):
        pen.oval(x, -0.175, 0.026, 0.026, CREAM)
