"""The family that walks on four legs: deer (antlers) and elephant (trunk); without either it is no class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from f2f.training.synth.affine import Points
from f2f.training.synth.coats import FUR, Coat, darker, draw_coat, flat, vary
from f2f.training.synth.outlines import XY, blob, chain, ellipse, limb
from f2f.training.synth.puppet import Body, Part, sway, swing


@dataclass(frozen=True)
class Build:
    """Proportions in body units (the animal is about 1 high)."""

    half_length: float
    leg: float
    girth: float
    leg_radius: float
    neck: XY
    head: float
    muzzle: float
    ear: float
    step: float

    @property
    def back_y(self) -> float:
        """Height of the spine's middle."""
        return -self.leg - 0.55 * self.girth

    @property
    def head_xy(self) -> XY:
        """Centre of the head."""
        return self.half_length * 0.85 + self.neck[0], self.back_y - self.neck[1]


def draw_build(rng: np.random.Generator) -> Build:
    """Proportions, the same for every class of the family."""
    return Build(
        half_length=float(rng.uniform(0.40, 0.54)),
        leg=float(rng.uniform(0.34, 0.50)),
        girth=float(rng.uniform(0.22, 0.32)),
        leg_radius=float(rng.uniform(0.055, 0.085)),
        neck=(float(rng.uniform(0.12, 0.22)), float(rng.uniform(0.16, 0.34))),
        head=float(rng.uniform(0.105, 0.14)),
        muzzle=float(rng.uniform(0.10, 0.17)),
        ear=float(rng.uniform(0.07, 0.13)),
        step=float(rng.uniform(0.35, 0.55)),
    )


def draw_quadruped(rng: np.random.Generator, name: str) -> Body:
    """A quadruped of the class `name`, or of none."""
    build = draw_build(rng)
    coat = draw_coat(rng, FUR, belly_y=build.back_y + 0.45 * build.girth)
    extra = {"deer": _antlers, "elephant": _trunk}.get(name)
    distinctive = extra(rng, build, coat) if extra else ()
    parts = (
        *_leg(build, coat, "far fore", 0.62, 0.0, far=True),
        *_leg(build, coat, "far hind", -0.72, np.pi * 0.6, far=True),
        _tail(rng, build, coat),
        _torso(build, coat),
        *_leg(build, coat, "fore", 0.70, np.pi, far=False),
        *_leg(build, coat, "hind", -0.64, np.pi * 1.6, far=False),
        *_head(rng, build, coat),
        *distinctive,
    )
    half_width = build.half_length + 0.5 * (build.neck[0] + build.muzzle)
    return Body(parts, stride=4 * build.leg * build.step, half_width=half_width, height=1.1)


def _torso(build: Build, coat: Coat) -> Part:
    length, girth, y = build.half_length, build.girth, build.back_y
    outline = blob(
        (-length, y - 0.55 * girth), (-0.4 * length, y - 0.85 * girth), (0.3 * length, y - 0.7 * girth),
        (0.95 * length, y - 0.95 * girth), (1.1 * length, y - 0.1 * girth), (0.8 * length, y + 0.8 * girth),
        (0, y + 0.75 * girth), (-0.6 * length, y + 0.65 * girth), (-1.05 * length, y + 0.5 * girth),
    )  # fmt: skip
    return Part("torso", [outline], coat, (0, y), joint=swing(0.025, 0.5))


def _leg(build: Build, coat: Coat, name: str, along: float, phase: float, *, far: bool) -> tuple[Part, Part]:
    paint = darker(coat, 0.62) if far else coat
    x, top, knee = along * build.half_length, build.back_y + 0.15 * build.girth, -0.47 * build.leg
    bend = 0.05 if "hind" in name else -0.02
    radius = build.leg_radius
    upper = limb((x, top), (x - bend, knee), 1.75 * radius, 0.85 * radius)
    lower = limb((x - bend, knee), (x, -0.04), 0.85 * radius, 0.6 * radius)
    hoof = blob((x - 0.07, -0.09), (x + 0.06, -0.09), (x + 0.11, 0.0), (x - 0.07, 0.0), rounds=2)
    hoof_colour = (0.16, 0.13, 0.12)
    shin = Part(
        f"{name} shin", [lower, hoof], paint, (x - bend, knee), f"{name} thigh",
        swing(0.55 * build.step, phase + 1.3, 0.45 * build.step), decals=[(hoof, hoof_colour)],
    )  # fmt: skip
    thigh = Part(f"{name} thigh", [upper], paint, (x, top), "", swing(build.step, phase, -0.2 * build.step))
    return shin, thigh


def _tail(rng: np.random.Generator, build: Build, coat: Coat) -> Part:
    x, y = -build.half_length, build.back_y - 0.35 * build.girth
    length = float(rng.uniform(0.14, 0.4))
    tube = chain([(x + 0.05, y), (x - 0.12, y + 0.3 * length), (x - 0.15, y + length)], [0.045, 0.035, 0.03])
    tuft = ellipse(x - 0.15, y + length, 0.045, 0.075)
    return Part("tail", [*tube, tuft], darker(coat, 0.85), (x, y), "torso", sway(0.35, float(rng.uniform(0.6, 1.4))))


def _head(rng: np.random.Generator, build: Build, coat: Coat) -> tuple[Part, ...]:
    x, y = build.head_xy
    size, base = build.head, (0.78 * build.half_length, build.back_y - 0.15 * build.girth)
    neck = limb(base, (x - 0.2 * size, y), 0.68 * build.girth, 0.85 * size)
    skull, nose = ellipse(x, y, 1.1 * size, 0.95 * size, 0.2), (x + build.muzzle + 0.5 * size, y + 0.5 * size)
    muzzle = limb((x, y + 0.1 * size), nose, 0.82 * size, 0.52 * size)
    tip = ellipse(nose[0] + 0.32 * size, nose[1] - 0.1 * size, 0.2 * size, 0.26 * size)
    eye = ellipse(x + 0.42 * size, y - 0.22 * size, 0.17 * size, 0.19 * size)
    glint = ellipse(x + 0.48 * size, y - 0.29 * size, 0.06 * size, 0.06 * size, count=10)
    mouth = limb(
        (nose[0] - 0.25 * size, nose[1] + 0.3 * size), (nose[0] + 0.35 * size, nose[1] + 0.24 * size), 0.012, 0.012
    )
    dark = (0.08, 0.06, 0.06)
    nod, ear = sway(0.09, float(rng.uniform(0.25, 0.6)), float(rng.uniform(0, 6))), build.ear
    ear_shape = blob((x - 0.75 * size, y - 0.4 * size), (x - 1.3 * size - ear, y - 0.9 * size - 0.6 * ear),
                     (x - 0.9 * size - 0.3 * ear, y - size - ear), (x - 0.25 * size, y - 0.75 * size))  # fmt: skip
    return (
        Part("neck", [neck], coat, base, "torso", nod),
        Part("head", [skull, muzzle], coat, (x, y), "neck", swing(0.05, 1.0),
             decals=[(tip, dark), (eye, dark), (glint, (0.95, 0.95, 0.95)), (mouth, (0.25, 0.16, 0.14))]),
        Part("ear", [ear_shape], darker(coat, 0.8), (x - 0.6 * size, y - 0.5 * size), "head", sway(0.15, 1.1)),
    )  # fmt: skip


def _antlers(rng: np.random.Generator, build: Build, coat: Coat) -> tuple[Part, ...]:
    bone = vary(rng, (0.66, 0.54, 0.38))
    reach = float(rng.uniform(0.30, 0.38))
    return tuple(
        Part(
            name,
            _antler(rng, build, reach, lean),
            darker(flat(bone, rng), shade),
            _crown(build),
            "head",
            distinctive=True,
        )
        for name, lean, shade in (("far antler", 0.30, 0.72), ("antler", -0.32, 1.0))
    )


def _crown(build: Build) -> XY:
    return build.head_xy[0] - 0.1 * build.head, build.head_xy[1] - 0.75 * build.head


def _antler(rng: np.random.Generator, build: Build, reach: float, lean: float) -> list[Points]:
    x, y = _crown(build)
    side = float(np.sign(lean))
    beam = [
        (x, y + 0.03),
        (x + 0.45 * lean, y - 0.42 * reach),
        (x + 0.75 * lean, y - 0.75 * reach),
        (x + 0.5 * lean, y - 1.1 * reach),
    ]
    pieces = chain(beam, [0.032, 0.029, 0.025, 0.014])
    for (u, v), length in zip(beam[1:3], rng.uniform(0.13, 0.19, 2), strict=True):
        pieces += chain([(u, v), (u - 0.7 * side * length, v - 0.8 * length)], [0.025, 0.012])
    u, v = beam[2]
    return [*pieces, *chain([(u, v), (u + 0.09 * side, v - 0.13)], [0.023, 0.012])]


def _trunk(rng: np.random.Generator, build: Build, coat: Coat) -> tuple[Part, ...]:
    size, (x, y) = build.head, build.head_xy
    start = (x + build.muzzle + 0.45 * size, y + 0.45 * size)
    reach = float(rng.uniform(0.14, 0.18))
    knots = [start, (start[0] + 0.11, start[1] + 0.6 * reach), (start[0] + 0.13, start[1] + 1.6 * reach),
             (start[0] + 0.07, start[1] + 2.5 * reach)]  # fmt: skip
    radii, rate = (0.078, 0.066, 0.054, 0.044), float(rng.uniform(0.35, 0.7))
    parents, tone = ("head", "trunk 0", "trunk 1"), darker(coat, 0.95)
    return tuple(
        Part(f"trunk {i}", chain(knots[i : i + 2], radii[i : i + 2]), tone, knots[i], parents[i],
             sway(0.20 + 0.1 * i, rate, -0.9 * i), distinctive=True)
        for i in range(3)
    )  # fmt: skip
