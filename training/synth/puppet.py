"""A puppet: parts on a tree of joints, drawn once, moved by a gait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from f2f.training.synth.affine import Affine, Points, about, rotation, scaling
from f2f.training.synth.coats import RGB
from f2f.training.synth.sprites import Paint, Sprite, draw_sprite

Decal = tuple[Points, RGB]
"""A painted detail: its outline and its colour."""

Joint = Callable[[float, float], Affine]
"""(gait in radians, time in seconds) -> the part's linear map about its pivot."""


@dataclass(frozen=True)
class Part:
    """One rigid piece of a body, drawn where it sits in the resting pose."""

    name: str
    outlines: Sequence[Points]
    paint: Paint
    pivot: tuple[float, float] = (0.0, 0.0)
    parent: str = ""
    """The part it hangs on; must be listed under `Body.parts` too. Empty: the body's own frame."""
    joint: Joint = field(default=lambda gait, seconds: np.eye(3))
    decals: Sequence[Decal] = ()
    bulge: float = 1.0
    gloss: float = 0.0
    distinctive: bool = False
    """Belongs to what tells the class apart."""


@dataclass(frozen=True)
class Body:
    """Parts from back to front; y = 0 is the ground, a stride moves it `stride` units per turn of the gait."""

    parts: tuple[Part, ...]
    stride: float
    half_width: float
    height: float


@dataclass(frozen=True)
class Puppet:
    """A body with its sprites."""

    body: Body
    sprites: tuple[Sprite, ...]

    def pose(self, gait: float, seconds: float) -> list[Affine]:
        """Part by part: body units of the resting pose to body units now."""
        own = {part.name: about(part.pivot, part.joint(gait, seconds)) for part in self.body.parts}
        parents = {part.name: part.parent for part in self.body.parts}
        moved: dict[str, Affine] = {"": np.eye(3)}

        def place(name: str) -> Affine:
            if name not in moved:
                moved[name] = place(parents[name]) @ own[name]
            return moved[name]

        return [place(part.name) for part in self.body.parts]


def draw_puppet(body: Body, texels_per_unit: float) -> Puppet:
    """Draw every part."""
    sprites = (
        draw_sprite(part.outlines, part.paint, texels_per_unit, decals=part.decals, bulge=part.bulge, gloss=part.gloss)
        for part in body.parts
    )
    return Puppet(body, tuple(sprites))


def swing(amplitude: float, phase: float = 0.0, rest: float = 0.0) -> Joint:
    """Swings by `amplitude` radians with the gait."""
    return lambda gait, seconds: rotation(rest + amplitude * np.sin(gait + phase))


def sway(amplitude: float, hertz: float, phase: float = 0.0) -> Joint:
    """Swings by `amplitude` radians with time, standing or walking."""
    return lambda gait, seconds: rotation(amplitude * np.sin(2 * np.pi * hertz * seconds + phase))


def roll(turns: float = 1.0) -> Joint:
    """Turns with the gait: wheels."""
    return lambda gait, seconds: rotation(gait * turns)


def flap(amplitude: float, hertz: float, phase: float = 0.0) -> Joint:
    """A wing seen from the side: its height swells and shrinks."""

    def joint(gait: float, seconds: float) -> Affine:
        beat = np.sin(2 * np.pi * hertz * seconds + phase)
        return rotation(-0.25 * amplitude * beat) @ scaling(1, 1 - amplitude * (0.5 + 0.5 * beat))

    return joint
