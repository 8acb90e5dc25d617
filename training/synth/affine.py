"""2-D affine maps as 3×3 float64 matrices acting on continuous (x, y, 1), y pointing down."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]
Points = NDArray[np.float64]


def affine(a: float, b: float, x: float, c: float, d: float, y: float) -> Affine:
    """The matrix [[a, b, x], [c, d, y], [0, 0, 1]]."""
    return np.array([[a, b, x], [c, d, y], [0.0, 0.0, 1.0]])


def translation(x: float, y: float) -> Affine:
    """Shift by (x, y)."""
    return affine(1, 0, x, 0, 1, y)


def scaling(x: float, y: float | None = None) -> Affine:
    """Scale about the origin; one number scales both axes."""
    return affine(x, 0, 0, 0, x if y is None else y, 0)


def rotation(radians: float) -> Affine:
    """Rotate about the origin, clockwise on screen."""
    cos, sin = math.cos(radians), math.sin(radians)
    return affine(cos, -sin, 0, sin, cos, 0)


def shear(amount: float) -> Affine:
    """Push x by `amount` per unit of y: how plants sway about their root."""
    return affine(1, amount, 0, 0, 1, 0)


def about(pivot_xy: tuple[float, float], matrix: Affine) -> Affine:
    """The same linear map with `pivot_xy` as its fixed point."""
    x, y = pivot_xy
    return translation(x, y) @ matrix @ translation(-x, -y)


def inverse(matrix: Affine) -> Affine:
    """The inverse map."""
    (a, b, x), (c, d, y) = matrix[0].tolist(), matrix[1].tolist()
    det = a * d - b * c
    return affine(d / det, -b / det, (b * y - d * x) / det, -c / det, a / det, (c * x - a * y) / det)


def mean_scale(matrix: Affine) -> float:
    """Length of a unit after the map: sqrt |det|."""
    return math.sqrt(abs(float(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0])))


def transform(matrix: Affine, points: Points) -> Points:
    """Map points [N,2]."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]
