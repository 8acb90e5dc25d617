"""Things of no class: plants, posts, fences, rocks, balls, balloons. Each is a puppet like any other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from f2f.training.synth.affine import Affine, Points, shear, translation
from f2f.training.synth.coats import LACQUER, Coat, darker, draw_coat, flat, vary
from f2f.training.synth.outlines import blob, chain, ellipse, leaves, limb, polygon
from f2f.training.synth.puppet import Body, Joint, Part, roll, sway
from f2f.training.synth.themes import Theme

DrawProp = Callable[[np.random.Generator, Theme], Body]


def bending(amount: float, hertz: float, phase: float) -> Joint:
    """Plants lean in the wind."""
    return lambda gait, seconds: shear(amount * np.sin(2 * np.pi * hertz * seconds + phase))


def bobbing(reach: float, hertz: float) -> Joint:
    """Floats up and down."""

    def joint(gait: float, seconds: float) -> Affine:
        return translation(
            0.5 * reach * np.sin(2 * np.pi * 0.6 * hertz * seconds), reach * np.sin(2 * np.pi * hertz * seconds)
        )

    return joint


def _wind(rng: np.random.Generator, amount: float) -> Joint:
    return bending(amount, float(rng.uniform(0.3, 0.8)), float(rng.uniform(0, 6)))


def _foliage(rng: np.random.Generator, theme: Theme) -> Coat:
    """Leafy paint: light and dark tufts."""
    base = vary(rng, theme.plant, hue=0.03, rest=0.12)
    red, green, blue = (min(1.0, 1.35 * channel + 0.03) for channel in base)
    return draw_coat(rng, (base, (red, green, blue)), belly_y=9.0, grain_strength=0.16)


def tree(rng: np.random.Generator, theme: Theme) -> Body:
    """A trunk and a crown of leaves, about 1 high."""
    bark = flat(vary(rng, (0.34, 0.25, 0.18)), rng, 0.15)
    trunk = [
        *chain([(0, 0), (0.01, -0.3), (-0.02, -0.6)], [0.06, 0.045, 0.03]),
        *chain([(0, -0.35), (0.13, -0.55)], [0.03, 0.015]),
    ]
    width, paint, wind = float(rng.uniform(0.22, 0.34)), _foliage(rng, theme), _wind(rng, 0.04)
    back = leaves(rng, 0.0, -0.68, width, 0.24, 26)
    front = leaves(rng, float(rng.uniform(-0.06, 0.06)), -0.62, 0.8 * width, 0.17, 20)
    parts = (
        Part("trunk", trunk, bark, joint=wind),
        Part("crown", back, darker(paint, 0.78), joint=wind, bulge=1.4),
        Part("front", front, paint, (0, -0.4), "trunk", _wind(rng, 0.05), bulge=1.4),
    )
    return Body(parts, 1.0, width, 1.0)


def fir(rng: np.random.Generator, theme: Theme) -> Body:
    """A conifer in tiers."""
    paint, width = _foliage(rng, theme), float(rng.uniform(0.2, 0.28))
    tiers = [
        blob(
            (-width * s, y),
            (0, y - 0.42 * s - 0.12),
            (width * s, y),
            (0.4 * width * s, y + 0.03),
            (-0.4 * width * s, y + 0.03),
            rounds=1,
        )
        for s, y in ((1.0, -0.12), (0.8, -0.34), (0.58, -0.56), (0.34, -0.76))
    ]
    trunk = Part("trunk", [limb((0, 0), (0, -0.3), 0.045, 0.04)], flat((0.3, 0.21, 0.15), rng, 0.15))
    wind = _wind(rng, 0.03)
    crown = tuple(
        Part(f"tier {i}", [tier], darker(paint, 0.8 + 0.08 * i), joint=wind, bulge=1.2) for i, tier in enumerate(tiers)
    )
    return Body((trunk, *crown), 1.0, width, 1.0)


def bush(rng: np.random.Generator, theme: Theme) -> Body:
    """A low round shrub."""
    paint, width = _foliage(rng, theme), float(rng.uniform(0.5, 0.7))
    back, front = leaves(rng, 0, -0.4, 0.75 * width, 0.3, 30), leaves(rng, 0.05, -0.27, 0.8 * width, 0.2, 26)
    parts = (
        Part("back", back, darker(paint, 0.75), joint=_wind(rng, 0.05), bulge=1.4),
        Part("front", front, paint, joint=_wind(rng, 0.07), bulge=1.4),
    )
    return Body(parts, 1.0, width, 0.8)


def grass(rng: np.random.Generator, theme: Theme) -> Body:
    """A tuft of blades."""
    parts = []
    for i in range(3):
        paint = darker(flat(vary(rng, theme.plant, rest=0.15), rng, 0.1), 0.7 + 0.15 * i)
        blades = []
        for x in rng.uniform(-0.5, 0.5, 11):
            lean, high = float(rng.uniform(-0.25, 0.25)), float(rng.uniform(0.45, 1.0))
            blades += chain([(x, 0.05), (x + 0.35 * lean, -0.55 * high), (x + lean, -high)], [0.035, 0.024, 0.004])
        parts.append(Part(f"blades {i}", blades, paint, joint=_wind(rng, 0.10)))
    return Body(tuple(parts), 1.0, 0.6, 0.9)


def post(rng: np.random.Generator, theme: Theme) -> Body:
    """A wooden post or a lamp post."""
    if theme.road:
        metal = flat((0.20, 0.23, 0.24), rng, 0.06)
        pole, foot = limb((0, 0), (0, -2.2), 0.045, 0.03), limb((0, 0), (0, -0.22), 0.085, 0.06)
        return Body((Part("post", [pole, foot], metal, bulge=1.2, gloss=0.1),), 1.0, 0.12, 2.2)
    wood, half = flat(vary(rng, (0.46, 0.36, 0.26)), rng, 0.16), float(rng.uniform(0.06, 0.1))
    outline = polygon(
        (-half, 0.1), (-half, -1.1), (-0.6 * half, -1.16), (0.7 * half, -1.14), (half, -1.08), (half, 0.1)
    )
    return Body((Part("post", [outline], wood, bulge=1.2),), 1.0, half, 1.1)


def fence(rng: np.random.Generator, theme: Theme) -> Body:
    """Pickets and two rails."""
    wood = flat(vary(rng, (0.80, 0.77, 0.70) if theme.road else (0.50, 0.38, 0.26)), rng, 0.1)
    step = float(rng.uniform(0.3, 0.45))
    rails = [polygon((-1.6, y - 0.035), (1.6, y - 0.035), (1.6, y + 0.035), (-1.6, y + 0.035)) for y in (-0.22, -0.58)]
    pickets = [
        polygon((x - 0.05, 0.05), (x - 0.05, -0.72), (x, -0.82), (x + 0.05, -0.72), (x + 0.05, 0.05))
        for x in np.arange(-1.5, 1.6, step)
    ]
    return Body((Part("rails", rails, darker(wood, 0.8)), Part("pickets", pickets, wood)), 1.0, 1.6, 0.8)


def rock(rng: np.random.Generator, theme: Theme) -> Body:
    """A boulder."""
    angles = np.linspace(np.pi, 2 * np.pi, 7)
    radius = rng.uniform(0.35, 0.5, 7)
    corners = [(float(r * np.cos(a)) * 1.25, float(r * np.sin(a)) * 1.1) for a, r in zip(angles, radius, strict=True)]
    stone = draw_coat(
        rng, ((0.52, 0.50, 0.48), (0.42, 0.40, 0.38), (0.60, 0.55, 0.48)), belly_y=9.0, grain_strength=0.12
    )
    outline = blob(*corners, (0.55, 0.06), (-0.55, 0.06), rounds=1)
    return Body((Part("rock", [outline], stone, bulge=1.5),), 1.0, 0.6, 0.5)


def ball(rng: np.random.Generator, theme: Theme) -> Body:
    """A rolling ball with coloured segments."""
    first, second = (vary(rng, LACQUER[int(i)]) for i in rng.choice(len(LACQUER), 2, replace=False))
    segments: list[tuple[Points, tuple[float, float, float]]] = []
    for turn in (0.0, 2.1, 4.2):
        a, b = turn, turn + 1.05
        rim = [(0.4 * np.cos(t), -0.4 + 0.4 * np.sin(t)) for t in np.linspace(a, b, 8)]
        segments.append((polygon((0, -0.4), *((float(x), float(y)) for x, y in rim)), second))
    part = Part(
        "ball",
        [ellipse(0, -0.4, 0.4, 0.4)],
        flat(first, rng),
        (0, -0.4),
        joint=roll(),
        decals=segments,
        bulge=0.2,
        gloss=0.25,
    )
    return Body((part,), 2 * np.pi * 0.4, 0.4, 0.8)


def balloon(rng: np.random.Generator, theme: Theme) -> Body:
    """A balloon on a string, hovering."""
    colour = vary(rng, LACQUER[int(rng.integers(len(LACQUER)))])
    hover = bobbing(0.05, float(rng.uniform(0.25, 0.5)))
    thread, white = chain([(0, -0.75), (0.02, -0.45), (-0.02, -0.15)], [0.012, 0.01, 0.01]), flat((0.8, 0.8, 0.78), rng)
    string = Part("string", thread, white, (0, -0.75), "skin", sway(0.12, 0.4))
    skin = blob((0, -0.74), (0.3, -1.0), (0.3, -1.4), (0, -1.6), (-0.3, -1.4), (-0.3, -1.0))
    return Body((string, Part("skin", [skin], flat(colour, rng), (0, -1.2), joint=hover, gloss=0.4)), 1.0, 0.3, 1.6)


STANDING: tuple[DrawProp, ...] = (tree, fir, bush, rock, post)
MOVING: tuple[DrawProp, ...] = (ball, balloon)
FOREGROUND: tuple[DrawProp, ...] = (grass, grass, bush, post, fence)
