"""Motions as smooth functions of time: drifts, hand-held shake, paths, cameras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from f2f.training.synth.affine import Affine, rotation, scaling, translation

Curve = Callable[[float], float]


def ease(start: float, end: float, duration_seconds: float) -> Curve:
    """From `start` to `end`, gently at both ends."""

    def curve(seconds: float) -> float:
        x = min(max(seconds / duration_seconds, -0.2), 1.2)
        return start + (end - start) * (0.6 * x + 0.4 * (0.5 - 0.5 * float(np.cos(np.pi * min(max(x, 0.0), 1.0)))))

    return curve


def wobble(rng: np.random.Generator, reach: float, hertz: float) -> Curve:
    """Three sines: hand-held cameras, gusts."""
    rate = 2 * np.pi * hertz * rng.uniform(0.4, 1.3, 3)
    phase, weight = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.3, 1.0, 3)
    weight *= reach / weight.sum()
    return lambda seconds: float(weight @ np.sin(rate * seconds + phase))


@dataclass(frozen=True)
class Camera:
    """Where the camera looks, in world units (frame heights)."""

    x: Curve
    y: Curve
    zoom: Curve
    roll: Curve

    def view(self, seconds: float, size_hw: tuple[int, int], parallax: float) -> Affine:
        """World to frame pixels for what lies at this parallax; far things move and zoom less."""
        h, w = size_hw
        zoom = 1 + (self.zoom(seconds) - 1) * (0.3 + 0.7 * parallax)
        look = translation(-parallax * self.x(seconds), -parallax * self.y(seconds))
        return translation(w / 2, h / 2) @ scaling(h * zoom) @ rotation(self.roll(seconds)) @ look


def draw_camera(rng: np.random.Generator, duration_seconds: float) -> Camera:
    """A camera that pans, tracks, zooms or is held by hand."""
    style = rng.choice(["still", "pan", "zoom", "hand"], p=[0.2, 0.35, 0.2, 0.25])
    reach = {"still": 0.0, "pan": 0.28, "zoom": 0.06, "hand": 0.1}[style] * duration_seconds / 2.5
    zoom_end = float(rng.choice([0.85, 1.2])) if style == "zoom" else float(rng.uniform(0.96, 1.06))
    shake = {"still": 0.0008, "pan": 0.003, "zoom": 0.002, "hand": 0.010}[style]
    side = float(rng.choice([-1.0, 1.0]))
    pan, tilt = ease(-0.5 * side * reach, 0.5 * side * reach, duration_seconds), wobble(rng, 1.6 * shake, 0.5)
    shake_x, shake_y = wobble(rng, shake, 1.2), wobble(rng, 0.8 * shake, 1.4)
    return Camera(
        x=lambda seconds: pan(seconds) + shake_x(seconds),
        y=lambda seconds: tilt(seconds) + shake_y(seconds),
        zoom=ease(1.06, 1.06 * zoom_end, duration_seconds),
        roll=wobble(rng, 1.2 * shake, 0.6),
    )


@dataclass(frozen=True)
class Path:
    """How an actor moves over the ground, in world units."""

    x: Curve
    y: Curve
    scale: Curve
    facing: float
    """1 looks right, -1 left."""
    turns_per_unit: float
    """Turns of the gait per world unit along x."""
    idle_hertz: float = 0.0
    """Turns of the gait per second on the spot."""

    def place(self, seconds: float) -> Affine:
        """Body units to world units."""
        size = self.scale(seconds)
        return translation(self.x(seconds), self.y(seconds)) @ scaling(size * self.facing, size)

    def gait(self, seconds: float) -> float:
        """Angle of the gait in radians."""
        walked = self.facing * (self.x(seconds) - self.x(0.0)) * self.turns_per_unit
        return float(2 * np.pi * (walked + self.idle_hertz * seconds))
