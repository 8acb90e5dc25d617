"""Procedural textures for flow: noise of all scales, patterns, and dead leaves (shapes of all sizes, one over another).

Dead leaves have what natural images have and noise lacks: edges, flat parts, and junctions at every scale.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

TEXTURE_PX = 256
LEAVES = 160
LEAF_RADII_PX = (3.0, 90.0)
"""smallest and largest; equally many in every octave between"""


def draw_texture(rng: np.random.Generator) -> Tensor:
    """[1,3,256,256], 0..1: dead leaves or noise, at times with a pattern over it, of any contrast."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    noise = _noise(rng, generator)
    if rng.random() < 0.4:
        noise[:, :1] += float(rng.uniform(0.5, 2)) * _pattern(rng)
    colours = torch.randn(3, 3, generator=generator) * float(rng.uniform(0.01, 0.07))
    colours[:, 0] += float(rng.uniform(0.05, 0.2))  # what all three share: light and dark
    base = 0.5 + 0.25 * torch.randn(1, 1, 1, generator=generator) + 0.12 * torch.randn(3, 1, 1, generator=generator)
    grain = torch.einsum("ij,bjhw->bihw", colours, noise)
    if rng.random() < 0.5:
        return (_dead_leaves(rng) * float(rng.uniform(0.4, 1)) + grain * float(rng.uniform(0, 0.7))).clamp(0, 1)
    return (grain + base).clamp(0, 1)


def _noise(rng: np.random.Generator, generator: torch.Generator) -> Tensor:
    """[1,3,256,256]: octaves of noise, deviation 1."""
    roughness = rng.uniform(0.4, 1.0)
    noise = torch.zeros(1, 3, TEXTURE_PX, TEXTURE_PX)
    for octave in range(1, 8):
        coarse = torch.randn(1, 3, 2**octave, 2**octave, generator=generator)
        noise += roughness**octave * F.interpolate(coarse, TEXTURE_PX, mode="bilinear", align_corners=False)
    return noise / noise.std()


def _pattern(rng: np.random.Generator) -> Tensor:
    """[256,256] stripes, checks or spots, -1..1 with soft edges."""
    y, x = torch.meshgrid(torch.arange(TEXTURE_PX), torch.arange(TEXTURE_PX), indexing="ij")
    waves = 2 * torch.pi / float(rng.uniform(10, 50))
    along, across = torch.sin(waves * x), torch.sin(waves * y)
    kind = rng.integers(3)
    wave = along if kind == 0 else along * across if kind == 1 else along + across - 1
    return torch.tanh(4 * wave)


def _dead_leaves(rng: np.random.Generator) -> Tensor:
    """[1,3,256,256], 0..1: discs and boxes with shaded insides, large ones first so that small ones are seen."""
    picture = np.full((TEXTURE_PX, TEXTURE_PX, 3), rng.uniform(0.1, 0.9, 3), np.float32)
    palette = rng.uniform(0, 1, (int(rng.integers(2, 7)), 3)).astype(np.float32)
    low, high = np.log(LEAF_RADII_PX)
    for radius in sorted(np.exp(rng.uniform(low, high, LEAVES)), reverse=True):
        _draw_leaf(picture, radius, palette[rng.integers(len(palette))] + rng.normal(0, 0.08, 3), rng)
    return torch.from_numpy(picture.clip(0, 1)).permute(2, 0, 1)[None].contiguous()


def _draw_leaf(
    picture: NDArray[np.float32], radius: float, colour: NDArray[np.float64], rng: np.random.Generator
) -> None:
    x, y = rng.uniform(0, TEXTURE_PX, 2)
    rows = slice(max(0, int(y - radius)), int(y + radius) + 2)
    columns = slice(max(0, int(x - radius)), int(x + radius) + 2)
    inside = picture[rows, columns]
    down = np.arange(rows.start, rows.start + inside.shape[0])[:, None] - y
    right = np.arange(columns.start, columns.start + inside.shape[1]) - x
    turn, squeeze = rng.uniform(0, np.pi), rng.uniform(0.3, 1)
    along = right * np.cos(turn) + down * np.sin(turn)
    across = (down * np.cos(turn) - right * np.sin(turn)) / squeeze
    far = np.maximum(abs(along), abs(across)) * 1.4 if rng.random() < 0.4 else np.hypot(along, across)
    cover = (radius - far + 0.5).clip(0, 1)[..., None]
    shade = 1 + rng.normal(0, 0.25) * along[..., None] / radius
    inside += cover * (colour * shade - inside)
