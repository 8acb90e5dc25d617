"""Closed curves in body units (x forward, y down), the silhouettes parts are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from f2f.training.synth.affine import Points

XY = tuple[float, float]


def ellipse(x: float, y: float, rx: float, ry: float, tilt: float = 0.0, count: int = 40) -> Points:
    """An ellipse around (x, y), tilted by `tilt` radians."""
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    u, v = rx * np.cos(t), ry * np.sin(t)
    return np.stack([x + u * np.cos(tilt) - v * np.sin(tilt), y + u * np.sin(tilt) + v * np.cos(tilt)], 1)


def polygon(*corners: XY) -> Points:
    """Straight edges."""
    return np.asarray(corners, np.float64)


def blob(*corners: XY, rounds: int = 3) -> Points:
    """A polygon with its corners cut again and again (Chaikin): soft organic shapes."""
    points = polygon(*corners)
    for _ in range(rounds):
        following = np.roll(points, -1, 0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1).reshape(-1, 2)
    return points


def limb(start: XY, end: XY, start_radius: float, end_radius: float) -> Points:
    """A tapered capsule."""
    (x0, y0), (x1, y1) = start, end
    along = np.arctan2(y1 - y0, x1 - x0)
    half = np.linspace(-np.pi / 2, np.pi / 2, 14)
    tip = np.stack([x1 + end_radius * np.cos(along + half), y1 + end_radius * np.sin(along + half)], 1)
    back = np.stack([x0 - start_radius * np.cos(along + half), y0 - start_radius * np.sin(along + half)], 1)
    return np.concatenate([tip, back])


def chain(points: Sequence[XY], radii: Sequence[float]) -> list[Points]:
    """A bent tapered tube as overlapping limbs."""
    pieces = zip(points, points[1:], radii, radii[1:], strict=False)
    return [limb(start, end, first, second) for start, end, first, second in pieces]


def leaves(rng: np.random.Generator, x: float, y: float, rx: float, ry: float, count: int) -> list[Points]:
    """A crown: many small discs in an ellipse."""
    angle, reach = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0, 1, count))
    size = rng.uniform(0.16, 0.34, count) * min(rx, ry)
    spots = zip(x + rx * reach * np.cos(angle), y + ry * reach * np.sin(angle), size, strict=True)
    return [ellipse(float(u), float(v), float(r), float(r), count=14) for u, v, r in spots]
