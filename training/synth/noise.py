"""Smooth random fields: the material of every texture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]


@dataclass(frozen=True)
class Waves:
    """A smooth random function of the plane: a sum of sines, so it can be asked anywhere and parts of a body agree."""

    wave_numbers: Field
    """[N,2] radians per unit."""
    phases: Field
    """[N] radians."""

    @classmethod
    def draw(cls, rng: np.random.Generator, wavelength: float, count: int = 14) -> Waves:
        """Waves of about `wavelength` units, in all directions."""
        length = 2 * np.pi / wavelength * rng.uniform(0.6, 1.5, count)
        angle = rng.uniform(0, 2 * np.pi, count)
        numbers = np.stack([length * np.cos(angle), length * np.sin(angle)], 1)
        return cls(numbers.astype(np.float32), rng.uniform(0, 2 * np.pi, count).astype(np.float32))

    def __call__(self, xy: Field) -> Field:
        """Values of about unit variance at the points xy [..., 2]."""
        angles = xy @ self.wave_numbers.T + self.phases
        return np.asarray(np.sin(angles).sum(-1) * np.sqrt(2 / len(self.phases)), np.float32)


def octaves(
    rng: np.random.Generator, size_hw: tuple[int, int], cell_hw: tuple[float, float], count: int = 4, fall: float = 0.55
) -> Field:
    """Multi-octave noise [H,W] of zero mean and unit variance; `cell_hw` is the size of the largest blobs in pixels."""
    total = np.zeros(size_hw, np.float32)
    for octave in range(count):
        grid = [
            max(2, round(side / max(1.0, cell / 2**octave)) + 2) for side, cell in zip(size_hw, cell_hw, strict=True)
        ]
        small = Image.fromarray(rng.standard_normal(grid, np.float32))
        large = small.resize(size_hw[::-1], Image.Resampling.BICUBIC)
        total += fall**octave * np.asarray(large, np.float32)
    return np.asarray((total - total.mean()) / (total.std() + 1e-6), np.float32)


def smoothstep(low: float, high: float, value: Field) -> Field:
    """0 below `low`, 1 above `high`, smooth between."""
    x = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(x * x * (3 - 2 * x), np.float32)


def mix(first: Field, second: Field, weight: Field) -> Field:
    """`first` where weight is 0, `second` where it is 1; colours [..., 3] with a weight [...]."""
    return np.asarray(first + (second - first) * weight[..., None], np.float32)
