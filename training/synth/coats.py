"""What covers bodies. All classes of a family draw from the same coats: a coat says nothing about the class."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from f2f.training.synth.noise import Field, Waves, mix, smoothstep
from f2f.training.synth.sprites import Paint

RGB = tuple[float, float, float]
PATTERNS = ("plain", "striped", "spotted", "patched", "two-tone")

FUR: tuple[RGB, ...] = (
    (0.55, 0.36, 0.20), (0.72, 0.55, 0.36), (0.42, 0.40, 0.40), (0.85, 0.78, 0.68), (0.30, 0.22, 0.18),
    (0.66, 0.63, 0.60), (0.76, 0.47, 0.26), (0.48, 0.52, 0.56),
)  # fmt: skip
PLUMAGE: tuple[RGB, ...] = (
    (0.80, 0.74, 0.62), (0.50, 0.30, 0.16), (0.30, 0.42, 0.55), (0.90, 0.88, 0.84), (0.28, 0.26, 0.28),
    (0.74, 0.55, 0.28), (0.36, 0.48, 0.36), (0.62, 0.40, 0.36),
)  # fmt: skip
LACQUER: tuple[RGB, ...] = (
    (0.85, 0.84, 0.80), (0.75, 0.20, 0.16), (0.18, 0.36, 0.62), (0.88, 0.68, 0.18), (0.22, 0.48, 0.36),
    (0.30, 0.32, 0.36), (0.84, 0.46, 0.18), (0.46, 0.62, 0.70),
)  # fmt: skip


@dataclass(frozen=True)
class Coat:
    """A pattern in two colours with a belly and a grain; the same function of body space for every part of a body."""

    pattern: str
    base: Field
    second: Field
    belly: Field
    broad: Waves
    fine: Waves
    grain: Waves
    stripes_per_unit: float
    belly_y: float
    grain_strength: float

    def __call__(self, xy: Field) -> Field:
        """The colour at body points [...,2] as sRGB [...,3]."""
        rgb = mix(np.broadcast_to(self.base, (*xy.shape[:-1], 3)), self.second, self._cover(xy))
        below = smoothstep(self.belly_y - 0.1, self.belly_y + 0.1, xy[..., 1] + 0.04 * self.broad(xy))
        rgb = mix(rgb, self.belly, below * 0.75)
        light = 1 + self.grain_strength * (self.fine(xy) * 0.6 + self.grain(xy))
        return np.clip(rgb * light[..., None], 0.02, 1)

    def _cover(self, xy: Field) -> Field:
        if self.pattern == "striped":
            bend = xy[..., 0] + 0.06 * self.broad(xy) + 0.15 * xy[..., 1]
            return smoothstep(-0.15, 0.25, np.sin(2 * np.pi * self.stripes_per_unit * bend) - 0.1)
        if self.pattern == "spotted":
            return smoothstep(0.75, 1.0, self.fine(xy))
        if self.pattern == "patched":
            return smoothstep(-0.1, 0.15, self.broad(xy))
        if self.pattern == "two-tone":
            return smoothstep(0.0, 0.12, xy[..., 0] + 0.05 * self.broad(xy))
        return np.asarray(0.25 * smoothstep(-1, 1.5, self.broad(xy)), np.float32)


def draw_coat(
    rng: np.random.Generator, colours: tuple[RGB, ...], *, belly_y: float, grain_strength: float = 0.05
) -> Coat:
    """A coat of one family: colours from its table, jittered."""
    first, second = rng.choice(len(colours), 2, replace=False)
    base, other = vary(rng, colours[first]), vary(rng, colours[second])
    return Coat(
        pattern=str(rng.choice(PATTERNS)),
        base=np.asarray(base, np.float32),
        second=np.asarray(other, np.float32),
        belly=np.asarray([0.5 * c + 0.45 for c in base], np.float32),
        broad=Waves.draw(rng, float(rng.uniform(0.45, 0.8))),
        fine=Waves.draw(rng, float(rng.uniform(0.13, 0.22))),
        grain=Waves.draw(rng, 0.035),
        stripes_per_unit=float(rng.uniform(4, 8)),
        belly_y=belly_y,
        grain_strength=grain_strength,
    )


def vary(rng: np.random.Generator, colour: RGB, hue: float = 0.02, rest: float = 0.08) -> RGB:
    """A colour near `colour`."""
    h, s, v = colorsys.rgb_to_hsv(*colour)
    s, v = (float(np.clip(x * rng.uniform(1 - 2 * rest, 1 + 2 * rest), 0, 1)) for x in (s, v))
    return colorsys.hsv_to_rgb((h + rng.uniform(-hue, hue)) % 1, s, v)


def flat(colour: RGB, rng: np.random.Generator, grain_strength: float = 0.04) -> Paint:
    """One colour with a little grain."""
    base, waves = np.asarray(colour, np.float32), Waves.draw(rng, 0.05)
    return lambda xy: np.clip(base * (1 + grain_strength * waves(xy))[..., None], 0, 1)


def darker(paint: Paint, factor: float) -> Paint:
    """The same paint in the shade: limbs on the far side."""
    return lambda xy: paint(xy) * np.float32(factor)
