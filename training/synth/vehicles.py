"""The family on wheels: ambulance (roof beacon) and firetruck (ladder); without either it is no class."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from f2f.training.synth.affine import Affine, Points, rotation
from f2f.training.synth.coats import LACQUER, RGB, Coat, draw_coat, flat, vary
from f2f.training.synth.outlines import XY, blob, ellipse, limb, polygon
from f2f.training.synth.puppet import Body, Decal, Joint, Part, roll, sway

GLASS: RGB = (0.25, 0.34, 0.42)
RUBBER: RGB = (0.10, 0.10, 0.11)


@dataclass(frozen=True)
class Build:
    """Proportions in body units (the vehicle is about 2 long and 1 high)."""

    half_length: float
    clearance: float
    bonnet: float
    roof: float
    cabin: float
    wheel: float
    wheels_x: tuple[float, ...]

    @property
    def roof_y(self) -> float:
        """The roof of the rear body."""
        return -self.clearance - self.roof


def draw_build(rng: np.random.Generator) -> Build:
    """Proportions, the same for every class of the family."""
    half, wheel = float(rng.uniform(0.72, 0.88)), float(rng.uniform(0.13, 0.17))
    rear = (-0.68, -0.28) if rng.random() < 0.3 else (-0.6,)
    return Build(
        half_length=half,
        clearance=float(rng.uniform(0.12, 0.18)),
        bonnet=float(rng.uniform(0.0, 0.2)),
        roof=float(rng.uniform(0.5, 0.66)),
        cabin=float(rng.uniform(0.3, 0.42)),
        wheel=wheel,
        wheels_x=tuple(half * place for place in (*rear, 0.62)),
    )


def draw_vehicle(rng: np.random.Generator, name: str) -> Body:
    """A vehicle of the class `name`, or of none."""
    build = draw_build(rng)
    coat = draw_coat(rng, LACQUER, belly_y=-build.clearance - 0.18, grain_strength=0.015)
    extra = {"ambulance": _beacon, "firetruck": _ladder}.get(name)
    wheels = tuple(_wheel(build, x, i, rng) for i, x in enumerate(build.wheels_x))
    parts = (
        _shadow_side(build, rng),
        _cab(build, coat),
        _box(build, coat, rng),
        *(extra(rng, build) if extra else ()),
        *wheels,
    )
    return Body(parts, stride=2 * np.pi * build.wheel, half_width=build.half_length + 0.05, height=0.95)


def _shadow_side(build: Build, rng: np.random.Generator) -> Part:
    low, half = -0.6 * build.clearance, build.half_length
    outline = polygon(
        (-0.95 * half, -build.clearance - 0.1),
        (0.95 * half, -build.clearance - 0.1),
        (0.9 * half, low),
        (-0.9 * half, low),
    )
    return Part("chassis", [outline], flat((0.13, 0.13, 0.14), rng))


def _box(build: Build, coat: Coat, rng: np.random.Generator) -> Part:
    left, right = -build.half_length, build.half_length - build.cabin - build.bonnet
    top, low = build.roof_y, -build.clearance
    outline = blob((left, top), (right, top), (right + 0.03, low), (left, low), rounds=0)
    rounded = [outline + 0.0, *_corners(left, right, top, low)]
    seam, trim = (0.16, 0.16, 0.18), vary(rng, LACQUER[int(rng.integers(len(LACQUER)))])
    middle = 0.5 * (left + right)
    decals: list[Decal] = [
        (polygon((left, low - 0.2), (right + 0.03, low - 0.2), (right + 0.03, low - 0.13), (left, low - 0.13)), trim),
        (limb((middle, top + 0.06), (middle, low - 0.03), 0.008, 0.008), seam),
        (
            polygon((left, low - 0.3), (left + 0.05, low - 0.3), (left + 0.05, low - 0.2), (left, low - 0.2)),
            (0.75, 0.1, 0.08),
        ),
    ]
    if rng.random() < 0.6:
        decals += _windows(left + 0.1, right - 0.06, top + 0.09, top + 0.26, int(rng.integers(2, 4)))
    return Part("box", rounded, coat, (0, -0.3), joint=_suspension(), decals=decals, bulge=0.8, gloss=0.22)


def _corners(left: float, right: float, top: float, low: float) -> list[Points]:
    """A softer edge: a slightly larger body with its corners cut."""
    return [
        blob((left - 0.03, top - 0.03), (right + 0.02, top - 0.03), (right + 0.02, low), (left - 0.03, low), rounds=3)
    ]


def _windows(left: float, right: float, top: float, low: float, count: int) -> list[Decal]:
    edges = np.linspace(left, right, count + 1)
    panes = [(a + 0.02, b - 0.02) for a, b in pairwise(edges.tolist())]
    glass = [(polygon((a, top), (b, top), (b, low), (a, low)), GLASS) for a, b in panes]
    shine: list[Decal] = [
        (polygon((a + 0.02, low), (a + 0.06, low), (a + 0.1, top), (a + 0.06, top)), (0.55, 0.66, 0.72))
        for a, _ in panes
    ]
    return [*glass, *shine]


def _cab(build: Build, coat: Coat) -> Part:
    right, low = build.half_length, -build.clearance
    left, nose = right - build.cabin - build.bonnet - 0.08, right - build.bonnet
    top, belt = build.roof_y + 0.06, build.roof_y + 0.55 * build.roof
    outline = blob(
        (left, top),
        (nose - 0.1, top),
        (nose - 0.02, belt),
        (right, belt + 0.06),
        (right + 0.02, low),
        (left, low),
        rounds=2,
    )
    pane = polygon((left + 0.14, top + 0.07), (nose - 0.13, top + 0.07), (nose - 0.06, belt), (left + 0.14, belt))
    shine = polygon((left + 0.17, belt), (left + 0.22, belt), (left + 0.28, top + 0.07), (left + 0.23, top + 0.07))
    lamp = ellipse(right - 0.02, belt + 0.17, 0.035, 0.05)
    bumper = polygon((right - 0.16, low - 0.07), (right + 0.04, low - 0.07), (right + 0.04, low), (right - 0.16, low))
    handle = limb((left + 0.15, belt + 0.07), (left + 0.22, belt + 0.07), 0.012, 0.012)
    decals: list[Decal] = [
        (pane, GLASS), (shine, (0.55, 0.66, 0.72)), (lamp, (0.98, 0.93, 0.72)), (bumper, (0.3, 0.3, 0.32)),
        (handle, RUBBER),
    ]  # fmt: skip
    return Part("cab", [outline], coat, (0, -0.3), joint=_suspension(), decals=decals, bulge=0.8, gloss=0.22)


def _suspension() -> Joint:
    return sway(0.012, 1.7)


def _wheel(build: Build, x: float, index: int, rng: np.random.Generator) -> Part:
    radius, y = build.wheel, -build.wheel
    hub = (ellipse(x, y, 0.58 * radius, 0.58 * radius), vary(rng, (0.72, 0.73, 0.75)))
    spokes: list[Decal] = [
        (
            limb((x, y), (x + 0.5 * radius * np.cos(a), y + 0.5 * radius * np.sin(a)), 0.10 * radius, 0.07 * radius),
            (0.25, 0.25, 0.27),
        )
        for a in np.arange(5) * 2 * np.pi / 5
    ]
    tyre = flat(RUBBER, rng, 0.1)
    return Part(f"wheel {index}", [ellipse(x, y, radius, radius)], tyre, (x, y), "", roll(), decals=[hub, *spokes])


def _beacon(rng: np.random.Generator, build: Build) -> tuple[Part, ...]:
    x, y = build.half_length - build.bonnet - build.cabin - float(rng.uniform(0.1, 0.35)), build.roof_y - 0.03
    half, high = float(rng.uniform(0.2, 0.26)), float(rng.uniform(0.13, 0.16))
    base = polygon((x - half, y - 0.03), (x + half, y - 0.03), (x + half, y + 0.03), (x - half, y + 0.03))
    dome = blob(
        (x - 0.9 * half, y), (x - 0.9 * half, y - high), (x + 0.9 * half, y - high), (x + 0.9 * half, y), rounds=2
    )
    right = blob(
        (x + 0.06, y - 0.01), (x + 0.06, y - high), (x + 0.85 * half, y - high), (x + 0.85 * half, y - 0.01), rounds=2
    )
    shine = limb((x - 0.7 * half, y - 0.75 * high), (x - 0.35 * half, y - 0.75 * high), 0.012, 0.012)
    decals: list[Decal] = [
        (right, vary(rng, (0.15, 0.35, 0.95))), (shine, (0.95, 0.97, 1.0)), (base, (0.2, 0.2, 0.22)),
    ]  # fmt: skip
    red = flat(vary(rng, (0.92, 0.14, 0.14)), rng)
    return (Part("beacon", [base, dome], red, (x, y), "box", decals=decals, gloss=0.3, distinctive=True),)


def _ladder(rng: np.random.Generator, build: Build) -> tuple[Part, ...]:
    start: XY = (-build.half_length + 0.02, build.roof_y - 0.05)
    length, gap = float(rng.uniform(0.95, 1.15)), 0.105
    x, y = start
    rails = [limb((x, y - dy), (x + length, y - dy), 0.02, 0.02) for dy in (0.0, gap)]
    rungs = [limb((x + u, y), (x + u, y - gap), 0.015, 0.015) for u in np.linspace(0.05, length - 0.05, 9)]
    metal = flat(vary(rng, (0.80, 0.80, 0.82)), rng)
    rest = float(rng.uniform(-0.22, -0.08))
    lift = sway(0.09, float(rng.uniform(0.15, 0.3)), float(rng.uniform(0, 6)))
    foot = blob((x - 0.05, y + 0.08), (x - 0.03, y - 0.06), (x + 0.09, y - 0.06), (x + 0.12, y + 0.08), rounds=1)

    def raised(gait: float, seconds: float) -> Affine:
        return rotation(rest) @ lift(gait, seconds)

    return (Part("ladder", [*rails, *rungs, foot], metal, start, "box", raised, gloss=0.2, distinctive=True),)
