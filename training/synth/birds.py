"""The family of ground birds: peacock (fan tail) and rooster (comb and wattle); without either it is no class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from f2f.training.synth.affine import Points
from f2f.training.synth.coats import PLUMAGE, RGB, Coat, darker, draw_coat, flat, vary
from f2f.training.synth.outlines import XY, blob, ellipse, limb
from f2f.training.synth.puppet import Body, Decal, Part, flap, sway, swing
from f2f.training.synth.sprites import Paint


@dataclass(frozen=True)
class Build:
    """Proportions in body units (the bird is about 1 high)."""

    leg: float
    length: float
    girth: float
    neck: float
    head: float
    beak: float
    tail: float

    @property
    def middle(self) -> XY:
        """Centre of the body."""
        return 0.0, -self.leg - 0.8 * self.girth

    @property
    def head_xy(self) -> XY:
        """Centre of the head."""
        return self.length * 0.85, self.middle[1] - 0.5 * self.girth - self.neck


def draw_build(rng: np.random.Generator) -> Build:
    """Proportions, the same for every class of the family."""
    ranges = {"leg": (0.2, 0.3), "length": (0.34, 0.44), "girth": (0.22, 0.29), "neck": (0.16, 0.28)}
    ranges |= {"head": (0.10, 0.125), "beak": (0.09, 0.15), "tail": (0.16, 0.3)}
    return Build(**{name: float(rng.uniform(*limits)) for name, limits in ranges.items()})


def draw_bird(rng: np.random.Generator, name: str) -> Body:
    """A bird of the class `name`, or of none."""
    build = draw_build(rng)
    coat = draw_coat(rng, PLUMAGE, belly_y=build.middle[1] + 0.4 * build.girth)
    skin = vary(rng, (0.80, 0.56, 0.22))
    beat = float(rng.uniform(0.5, 1.4))
    fan = _fan(rng, build) if name == "peacock" else ()
    comb = _comb(rng, build) if name == "rooster" else ()
    parts = (
        *fan,
        *_leg(build, skin, rng, "far leg", 0.08, 0.0, 0.65),
        _tail(build, coat),
        _wing(build, darker(coat, 0.6), "far wing", beat, 0.3, (0.03, -0.04)),
        *_leg(build, skin, rng, "leg", -0.03, np.pi, 1.0),
        _torso(build, coat),
        *comb[:1],
        *_head(rng, build, coat, skin),
        *comb[1:],
        _wing(build, darker(coat, 0.84), "wing", beat, 0.0, (0.0, 0.0)),
    )
    return Body(parts, stride=1.6 * build.leg, half_width=0.62, height=1.05)


def _torso(build: Build, coat: Coat) -> Part:
    (x, y), length, girth = build.middle, build.length, build.girth
    outline = blob(
        (x - 1.15 * length, y - 0.35 * girth), (x - 0.5 * length, y - 0.75 * girth),
        (x + 0.4 * length, y - 0.85 * girth), (x + 1.05 * length, y - 0.9 * girth), (x + 1.2 * length, y),
        (x + 0.6 * length, y + 0.95 * girth), (x - 0.4 * length, y + 0.85 * girth),
        (x - 0.95 * length, y + 0.2 * girth),
    )  # fmt: skip
    return Part("torso", [outline], coat, build.middle, joint=swing(0.05, 0.4))


def _tail(build: Build, coat: Coat) -> Part:
    x, y = -0.95 * build.length, build.middle[1] - 0.25 * build.girth
    tail = build.tail
    outline = blob(
        (x + 0.12, y - 0.08),
        (x - tail, y - 0.9 * tail),
        (x - 1.1 * tail, y - 0.25 * tail),
        (x + 0.1, y + 0.12),
        rounds=2,
    )
    return Part("tail", [outline], darker(coat, 0.78), (x, y), "torso", sway(0.12, 0.9))


def _wing(build: Build, paint: Paint, name: str, beat: float, phase: float, shift: XY) -> Part:
    x, y = build.middle[0] + 0.35 * build.length + shift[0], build.middle[1] - 0.3 * build.girth + shift[1]
    length, girth = 1.35 * build.length, build.girth
    outline = blob((x + 0.06, y - 0.1 * girth), (x - 0.5 * length, y - 0.3 * girth),
                   (x - 1.15 * length, y + 0.35 * girth), (x - 0.6 * length, y + 0.85 * girth),
                   (x, y + 0.75 * girth))  # fmt: skip
    feathers: list[Decal] = []
    for i in range(3):
        root = (x - (0.3 + 0.17 * i) * length, y + 0.62 * girth - 0.03 * i)
        tip = (x - (0.62 + 0.15 * i) * length, y + 0.42 * girth)
        feathers.append((limb(root, tip, 0.008, 0.006), (0.16, 0.13, 0.12)))
    return Part(name, [outline], paint, (x, y), "torso", flap(0.45, beat, phase), decals=feathers)


def _leg(
    build: Build, skin: RGB, rng: np.random.Generator, name: str, x: float, phase: float, shade: float
) -> tuple[Part, Part]:
    top, knee, paint = -build.leg - 0.12, -0.5 * build.leg, darker(flat(skin, rng), shade)
    thigh = Part(
        f"{name} thigh", [limb((x, top), (x - 0.02, knee), 0.06, 0.03)], paint, (x, top), "", swing(0.5, phase)
    )
    toes = [limb((x - 0.01, -0.02), (x + dx, -0.015), 0.02, 0.013) for dx in (0.12, -0.07)]
    shin = Part(
        f"{name} shin", [limb((x - 0.02, knee), (x - 0.01, -0.02), 0.028, 0.022), *toes], paint, (x - 0.02, knee),
        f"{name} thigh", swing(0.3, phase + 1.2, 0.2),
    )  # fmt: skip
    return shin, thigh


def _head(rng: np.random.Generator, build: Build, coat: Coat, skin: RGB) -> tuple[Part, ...]:
    (x, y), size = build.head_xy, build.head
    base = (0.68 * build.length, build.middle[1] - 0.3 * build.girth)
    neck = limb(base, (x, y), 0.62 * build.girth, 0.78 * size)
    beak = blob(
        (x + 0.7 * size, y - 0.4 * size),
        (x + size + build.beak, y + 0.15 * size),
        (x + 0.65 * size, y + 0.5 * size),
        rounds=1,
    )
    eye = ellipse(x + 0.32 * size, y - 0.18 * size, 0.2 * size, 0.21 * size)
    glint = ellipse(x + 0.39 * size, y - 0.27 * size, 0.07 * size, 0.07 * size, count=10)
    nod = swing(0.14, 0.6)
    return (
        Part("beak", [beak], flat(skin, rng), (x, y), "head", gloss=0.1),
        Part("neck", [neck], coat, base, "torso", sway(0.1, float(rng.uniform(0.3, 0.7)))),
        Part("head", [ellipse(x, y, 1.05 * size, size)], coat, (x, y), "neck", nod,
             decals=[(eye, (0.07, 0.05, 0.05)), (glint, (0.95, 0.95, 0.95))]),
    )  # fmt: skip


def _fan(rng: np.random.Generator, build: Build) -> tuple[Part, ...]:
    x, y = -0.8 * build.length, build.middle[1] - 0.25 * build.girth
    reach, plume = float(rng.uniform(0.44, 0.52)), vary(rng, (0.10, 0.46, 0.44), hue=0.05)
    angles = np.deg2rad([205, 222, 239, 256])
    return tuple(
        Part(f"fan {i}", _feather((x, y), float(angle), reach), darker(flat(plume, rng), 0.75 + 0.08 * i), (x, y),
             "torso", sway(0.06, 0.8, 0.7 * i), decals=_eyespot((x, y), float(angle), reach), distinctive=True)
        for i, angle in enumerate(angles)
    )  # fmt: skip


def _feather(root: XY, angle: float, reach: float) -> list[Points]:
    tip = (root[0] + reach * np.cos(angle), root[1] + reach * np.sin(angle))
    return [limb(root, tip, 0.02, 0.034), ellipse(*tip, 0.085, 0.058, angle)]


def _eyespot(root: XY, angle: float, reach: float) -> list[Decal]:
    tip = (root[0] + 1.03 * reach * np.cos(angle), root[1] + 1.03 * reach * np.sin(angle))
    return [
        (ellipse(*tip, 0.048, 0.036, angle), (0.80, 0.62, 0.18)),
        (ellipse(*tip, 0.027, 0.021, angle), (0.10, 0.14, 0.50)),
    ]


def _comb(rng: np.random.Generator, build: Build) -> tuple[Part, ...]:
    (x, y), size = build.head_xy, build.head
    red = flat(vary(rng, (0.82, 0.12, 0.12)), rng)
    grow = float(rng.uniform(1.0, 1.25))
    lobes = ((-0.75, 0.0, -0.5), (-0.25, 0.3, -0.15), (0.3, 0.3, 0.15), (0.72, 0.0, 0.4))
    bumps = [
        ellipse(x + dx * size, y - (0.95 + lift) * size, 0.36 * size * grow, 0.52 * size * grow, tilt)
        for dx, lift, tilt in lobes
    ]
    wattle = ellipse(x + 0.62 * size, y + 1.05 * size, 0.3 * size * grow, 0.55 * size * grow)
    top = (x, y - 0.6 * size)
    return (
        Part("comb", bumps, red, top, "head", sway(0.08, 1.6), distinctive=True),
        Part("wattle", [wattle], red, (x + 0.6 * size, y + 0.6 * size), "head", sway(0.3, 1.5), distinctive=True),
    )
