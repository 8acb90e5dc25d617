"""A sprite: one rigid piece of the world as a texture with alpha and, if it is lit, normals; with smaller copies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from f2f.training.synth.affine import Affine, Points, scaling, translation
from f2f.training.synth.noise import Field

SUPERSAMPLING = 3
MARGIN_TEXELS = 3
LEVELS = 4

Paint = Callable[[Field], Field]
"""Colour of a material: points [...,2] in body units -> sRGB [...,3] in 0..1."""


@dataclass(frozen=True)
class Sprite:
    """A texture at several sizes and where it lies in the space it was drawn in."""

    levels: tuple[torch.Tensor, ...]
    """Each [1,C,h,w] float32, premultiplied: linear r, g, b, alpha; lit: also the normal x, y, z. Halved each time."""
    to_body: Affine
    """Texel coordinates of level 0 (continuous, corner origin) to body units."""
    endless: bool = False
    """Repeats mirrored beyond its border: the layers of the scenery."""
    gloss: float = 0.0
    """Strength of the highlight."""
    rows: tuple[float, float] = (-math.inf, math.inf)
    """Of scenery, in texels of level 0: above the first row nothing is seen, below the second nothing shows through."""

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height of level 0 in texels."""
        return self.levels[0].shape[3], self.levels[0].shape[2]

    @property
    def lit(self) -> bool:
        """Whether it carries normals."""
        return self.levels[0].shape[1] == 7


def to_linear(srgb: Field) -> Field:
    """Display values to light, by a square: compositing and blur happen in light."""
    return srgb * srgb


def sprite_from_rgba(rgb: Field, alpha: Field, to_body: Affine, *, endless: bool = False) -> Sprite:
    """An unlit sprite from sRGB [h,w,3] in 0..1 and alpha [h,w]."""
    planes = np.concatenate([to_linear(rgb) * alpha[..., None], alpha[..., None]], 2)
    return Sprite(_levels(planes), to_body, endless, rows=_rows(alpha) if endless else (-math.inf, math.inf))


def draw_sprite(
    outlines: Sequence[Points],
    paint: Paint,
    texels_per_unit: float,
    *,
    decals: Sequence[tuple[Points, tuple[float, float, float]]] = (),
    bulge: float = 1.0,
    gloss: float = 0.0,
) -> Sprite:
    """Draw the union of the outlines (body units), inflate it to a rounded relief, paint it, put the decals on."""
    origin, size_hw = _canvas(outlines, texels_per_unit)
    alpha = rasterise(outlines, origin, texels_per_unit, size_hw)
    rgb = paint(_grid(origin, texels_per_unit, size_hw))
    for outline, colour in decals:
        cover = rasterise([outline], origin, texels_per_unit, size_hw)[..., None]
        rgb = rgb * (1 - cover) + np.asarray(colour, np.float32) * cover
    normals = inflate(alpha, bulge)
    occlusion = 0.62 + 0.38 * normals[..., 2:]
    planes = np.concatenate([to_linear(np.clip(rgb, 0, 1)) * occlusion, np.ones_like(alpha)[..., None], normals], 2)
    to_body = translation(*origin) @ scaling(1 / texels_per_unit)
    return Sprite(_levels(planes * alpha[..., None]), to_body, gloss=gloss)


def rasterise(
    outlines: Sequence[Points], origin: tuple[float, float], texels_per_unit: float, size_hw: tuple[int, int]
) -> Field:
    """Coverage [h,w] in 0..1 of the union of the outlines, anti-aliased by supersampling."""
    h, w = size_hw
    image = Image.new("L", (w * SUPERSAMPLING, h * SUPERSAMPLING))
    pen = ImageDraw.Draw(image)
    for outline in outlines:
        # PIL's polygon takes pixel centres: the corner of the image is at -0.5.
        corners = (outline - origin) * (texels_per_unit * SUPERSAMPLING) - 0.5
        pen.polygon([(float(x), float(y)) for x, y in corners], fill=255)
    return np.asarray(np.asarray(image.reduce(SUPERSAMPLING)) / np.float32(255), np.float32)


def inflate(alpha: Field, bulge: float) -> Field:
    """Normals [h,w,3] of the relief that the silhouette swells to: steep at the rim, flat in the middle."""
    edges = max(1.0, *(float(np.abs(np.diff(alpha, axis=axis)).sum()) for axis in (0, 1)))
    thickness = max(2.0, float(alpha.sum()) / edges)
    height = np.zeros_like(alpha)
    for part in (0.35, 0.7, 1.4):
        inside = np.clip(2 * _blur(alpha, thickness * part) - 1, 0, 1)
        height += np.sqrt(inside) * np.float32(thickness * part)
    dy, dx = np.gradient(_blur(height, max(1.0, 0.12 * thickness)))
    normals = np.stack([-bulge * dx, -bulge * dy, np.ones_like(dx)], 2)
    return np.asarray(normals / np.linalg.norm(normals, axis=2, keepdims=True), np.float32)


def _blur(field: Field, radius: float) -> Field:
    """Two box blurs of [h,w] by running sums: the cost does not grow with the radius."""
    reach = max(1, round(radius))
    for axis in (0, 1, 0, 1):
        margin = [(reach + 1, reach) if side == axis else (0, 0) for side in (0, 1)]
        sums = np.cumsum(np.pad(field, margin), axis=axis, dtype=np.float64)
        length = field.shape[axis]
        ends, starts = (sums.take(range(first, first + length), axis) for first in (2 * reach + 1, 0))
        field = ((ends - starts) / (2 * reach + 1)).astype(np.float32)
    return field


def _canvas(outlines: Sequence[Points], texels_per_unit: float) -> tuple[tuple[float, float], tuple[int, int]]:
    corners = np.concatenate(list(outlines))
    low, high = corners.min(0), corners.max(0)
    texels = np.ceil((high - low) * texels_per_unit).astype(int) + 2 * MARGIN_TEXELS
    width, height = ((int(side) + 7) // 8 * 8 for side in texels)
    origin = (float(low[0] - MARGIN_TEXELS / texels_per_unit), float(low[1] - MARGIN_TEXELS / texels_per_unit))
    return origin, (height, width)


def _grid(origin: tuple[float, float], texels_per_unit: float, size_hw: tuple[int, int]) -> Field:
    y, x = np.mgrid[: size_hw[0], : size_hw[1]].astype(np.float32) + 0.5
    return np.asarray(np.stack([x, y], 2) / np.float64(texels_per_unit) + np.asarray(origin), np.float32)


def _rows(alpha: Field) -> tuple[float, float]:
    """`Sprite.rows` of alpha [h,w], with room for what the smaller copies mix in."""
    room = 2 ** (LEVELS + 1)
    seen, open_ = alpha.max(1) > 0, alpha.min(1) < 1
    first = float(np.argmax(seen)) - room if seen.any() and not seen[0] else -math.inf
    last_open = len(open_) - 1 - int(np.argmax(open_[::-1])) if open_.any() else -room
    return first, math.inf if open_[-1] else float(last_open + 1 + room)


def _levels(planes: NDArray[np.float32]) -> tuple[torch.Tensor, ...]:
    level = torch.from_numpy(np.ascontiguousarray(planes.transpose(2, 0, 1), np.float32))[None]
    levels = [level]
    while len(levels) < LEVELS and min(level.shape[2:]) >= 8:
        height, width = (side // 2 * 2 for side in level.shape[2:])
        rows = level[:, :, 0:height:2] + level[:, :, 1:height:2]
        level = (rows[..., 0:width:2] + rows[..., 1:width:2]) / 4
        levels.append(level)
    return tuple(levels)
