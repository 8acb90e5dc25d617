"""From placed sprites to pictures, label maps and exact flow. H, W: the frame; box: left, top, right, bottom px."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from f2f.training.synth.affine import Affine, inverse, mean_scale
from f2f.training.synth.sprites import Sprite

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Light:
    """The sun and the sky of a scene."""

    direction: tuple[float, float, float]
    """Unit vector to the light: x right, y down, z to the viewer."""
    sun: tuple[float, float, float]
    """Colour of the direct light, linear."""
    sky: tuple[float, float, float]
    """Colour of the light from everywhere, linear."""


@dataclass(frozen=True)
class Placed:
    """A sprite at one moment."""

    sprite: Sprite
    to_frame: Affine
    """Texel coordinates to frame pixels (continuous, the centre of the first pixel is .5, .5)."""
    label: int = 0
    """Label of its pixels: 0 or class + 1."""
    shadow: bool = False
    """A shadow darkens, but is no surface: it has no label and no flow."""

    @property
    def level(self) -> int:
        """The smaller copy whose texels are about as large as a pixel."""
        texels_per_px = 1 / mean_scale(self.to_frame)
        return min(max(0, math.floor(math.log2(texels_per_px) + 0.4)), len(self.sprite.levels) - 1)


def paint_frame(placed: Sequence[Placed], size_hw: tuple[int, int], light: Light) -> torch.Tensor:
    """Composite back to front; [3,H,W] linear light."""
    frame = torch.zeros(3, *size_hw)
    for one, box in zip(placed, _boxes(placed, size_hw), strict=True):
        if box is None:
            continue
        tile = _sample(one, box)
        part = frame[:, box[1] : box[3], box[0] : box[2]]
        colour = _shade(tile, one, light) if one.sprite.lit else tile[:3]
        part.mul_(1 - tile[3]).add_(colour)
    return frame


def front_of_pixels(placed: Sequence[Placed], size_hw: tuple[int, int]) -> torch.Tensor:
    """Which of the placed sprites is front-most at each pixel centre, [H,W] int64; -1: none."""
    front = torch.full(size_hw, -1)
    for index, (one, box) in enumerate(zip(placed, _boxes(placed, size_hw), strict=True)):
        if one.shadow or box is None:
            continue
        covered = _sample(one, box, alpha_only=True)[0] > 0.5
        front[box[1] : box[3], box[0] : box[2]].masked_fill_(covered, index)
    return front


def labels_of_pixels(placed: Sequence[Placed], size_hw: tuple[int, int]) -> torch.Tensor:
    """The label of the front-most sprite at each pixel centre, [H,W] uint8; looks only where there may be any."""
    labels = torch.zeros(size_hw, dtype=torch.uint8)
    labelled: Box | None = None  # around every labelled sprite so far
    for one in placed:
        box = None if one.shadow else _box(one, size_hw)
        if box is not None and one.label:
            labelled = box if labelled is None else _around(labelled, box)
        elif box is not None:
            box = None if labelled is None else _common(labelled, box)
        if box is not None:
            covered = _sample(one, box, alpha_only=True)[0] > 0.5
            labels[box[1] : box[3], box[0] : box[2]].masked_fill_(covered, one.label)
    return labels


def front_of_points(placed: Sequence[Placed], points: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """The same at arbitrary frame points [N,2], [N] int64."""
    front = torch.full((len(points),), -1)
    for index, one in enumerate(placed):
        if one.shadow or (box := _box(one, size_hw)) is None:
            continue
        near = _in_box(points, box)
        local = _normalised(one, points[near, 0], points[near, 1])
        alpha = _texture(one, local[None, None], alpha_only=True)[0, 0, 0]
        front[near[alpha > 0.5]] = index
    return front


def flow_between(
    placed: Sequence[Placed], placed_to: Sequence[Placed], size_hw: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Flow [H,W,2] px on the pixels of the first moment to the second, and whether the surface is still seen there.

    The two lists hold the same sprites in the same order.
    """
    h, w = size_hw
    front = front_of_pixels(placed, size_hw)
    maps = [_motion(one.to_frame, two.to_frame) for one, two in zip(placed, placed_to, strict=True)]
    table = torch.from_numpy(np.stack(maps)[:, :2])
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    steps = table[front.clamp_min(0)]  # [H,W,2,3]
    target = steps[..., 0] * x[..., None] + steps[..., 1] * y[..., None] + steps[..., 2]
    inside = (target >= 0).all(2) & (target[..., 0] < w) & (target[..., 1] < h)
    there = front_of_points(placed_to, target.reshape(-1, 2), size_hw).reshape(h, w)
    visible = inside & (there == front) & (front >= 0)
    flow = target - torch.stack([x, y], 2)
    return flow.float().numpy(), visible.numpy()


def _motion(before: Affine, after: Affine) -> Affine:
    """Frame to frame; what rests does so exactly."""
    return np.eye(3) if np.array_equal(before, after) else after @ inverse(before)


def _boxes(placed: Sequence[Placed], size_hw: tuple[int, int]) -> list[Box | None]:
    """The box of each sprite, without the rows that scenery in front of it hides."""
    boxes: list[Box | None] = []
    hidden_from = size_hw[0]
    for one in reversed(placed):
        box = _box(one, size_hw)
        if box is not None and box[3] > hidden_from:
            box = (*box[:3], hidden_from) if box[1] < hidden_from else None
        boxes.append(box)
        if one.sprite.endless:
            hidden_from = min(hidden_from, math.ceil(max(_row_heights(one, one.sprite.rows[1], size_hw))))
    return boxes[::-1]


def _row_heights(one: Placed, row: float, size_hw: tuple[int, int]) -> tuple[float, float]:
    """Where a texel row of scenery crosses the left and the right border of the frame: y in px, kept in the frame."""
    h, w = size_hw
    back = inverse(one.to_frame)
    left, right = ((row - float(back[1, 2] + back[1, 0] * x)) / float(back[1, 1]) for x in (0, w))
    return min(max(left, 0.0), h), min(max(right, 0.0), h)


def _box(one: Placed, size_hw: tuple[int, int]) -> Box | None:
    """The part of the frame the sprite may touch."""
    h, w = size_hw
    if one.sprite.endless:
        top = math.floor(min(_row_heights(one, one.sprite.rows[0], size_hw)))
        return (0, top, w, h) if top < h else None
    (a, b, x), (c, d, y) = one.to_frame[0].tolist(), one.to_frame[1].tolist()
    tw, th = one.sprite.size_wh
    xs, ys = (x, x + a * tw, x + b * th, x + a * tw + b * th), (y, y + c * tw, y + d * th, y + c * tw + d * th)
    left, right = max(0, math.floor(min(xs))), min(w, math.ceil(max(xs)))
    top, bottom = max(0, math.floor(min(ys))), min(h, math.ceil(max(ys)))
    return (left, top, right, bottom) if left < right and top < bottom else None


def _around(first: Box, second: Box) -> Box:
    """The smallest box that holds both."""
    low, high = np.minimum(first, second).tolist(), np.maximum(first, second).tolist()
    return low[0], low[1], high[2], high[3]


def _common(first: Box, second: Box) -> Box | None:
    """What both boxes hold."""
    low, high = np.minimum(first, second).tolist(), np.maximum(first, second).tolist()
    box = high[0], high[1], low[2], low[3]
    return box if box[0] < box[2] and box[1] < box[3] else None


def _in_box(points: torch.Tensor, box: Box) -> torch.Tensor:
    x, y = points[:, 0], points[:, 1]
    return ((x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])).nonzero()[:, 0]


def _normalised(one: Placed, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Frame points (broadcast against each other) to grid_sample's -1..1 on the sprite, [...,2] float32."""
    back = inverse(one.to_frame)
    scale_x, scale_y = 2 / one.sprite.size_wh[0], 2 / one.sprite.size_wh[1]
    grid = torch.empty(*np.broadcast_shapes(x.shape, y.shape), 2)
    for axis, scale in enumerate((scale_x, scale_y)):
        along_x = (x * back[axis, 0] + back[axis, 2]) * scale - 1
        torch.add(along_x, y * (back[axis, 1] * scale), out=grid[..., axis])
    return grid


def _texture(one: Placed, grid: torch.Tensor, *, alpha_only: bool = False) -> torch.Tensor:
    level = one.sprite.levels[one.level]
    if one.sprite.endless:
        _fold(grid[..., 0])
    padding = "border" if one.sprite.endless else "zeros"
    channels = level[:, 3:4] if alpha_only else level
    sampled: torch.Tensor = F.grid_sample(channels, grid, "bilinear", padding, align_corners=False)
    return sampled


def _fold(u: torch.Tensor) -> None:
    """Mirror coordinates into -1..1, in place: scenery goes on to the sides, its upper edge stays its edge."""
    u += 1
    if not ((u >= 0) & (u <= 2)).all():
        u.remainder_(4)
        torch.minimum(u, 4 - u, out=u)
    u -= 1


def _sample(one: Placed, box: Box, *, alpha_only: bool = False) -> torch.Tensor:
    """The sprite in the box, [C,h,w]."""
    x = torch.arange(box[0], box[2], dtype=torch.float64) + 0.5
    y = torch.arange(box[1], box[3], dtype=torch.float64)[:, None] + 0.5
    return _texture(one, _normalised(one, x, y)[None], alpha_only=alpha_only)[0]


def _shade(tile: torch.Tensor, one: Placed, light: Light) -> torch.Tensor:
    """Wrapped diffuse light, a little more sky from above, and a highlight; premultiplied in and out."""
    normal = tile[4:7] / tile[3].clamp_min(1e-3)
    linear = one.to_frame[:2, :2] / max(1e-6, mean_scale(one.to_frame))
    lx, ly = (linear.T @ np.asarray(light.direction[:2])).tolist()
    facing = (normal[0] * lx).add_(normal[1] * ly).add_(normal[2] * light.direction[2])
    ux, uy = (linear.T @ np.asarray([0.0, -1.0])).tolist()
    above = (normal[0] * ux).add_(normal[1] * uy).mul_(0.25).add_(0.75)
    direct = (facing * 0.65).add_(0.35).clamp_min_(0)
    sun, sky = torch.tensor(light.sun)[:, None, None], torch.tensor(light.sky)[:, None, None]
    colour: torch.Tensor = (sun * direct).add_(sky * above).mul_(tile[:3])
    if one.sprite.gloss:
        colour.add_((one.sprite.gloss * tile[3] * sun).mul_(facing.clamp_min_(0).pow_(18)))
    return colour
