"""Pairs of frames drawn as textured layers that move affinely and bend, with exact flow: fast, varied, and unlike the
renderer. Made for generalisation: textures of every scale and contrast, small and large motions, occlusion.

Letters: H, W frame size; a layer has its own plane, in px around its middle. A 3×3 matrix maps (x, y, 1) to (x, y, 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from f2f.training.pairs import Pair
from f2f.training.textures import TEXTURE_PX, draw_texture

Matrix = NDArray[np.float64]
BEARINGS = 2048
OBJECTS = (4, 11)
"""fewest and most objects before the background"""
USUAL_HEIGHT_PX = 240
"""higher frames have longer motions, larger outlines and coarser textures, up to proportion"""
CAMERA_REACH, OBJECT_REACH = 0.1, 1 / 6
"""the longest shifts, in frame heights"""
UNBENDING_STEPS = 12
"""of the fixed-point iteration; a step at least halves the error"""


@dataclass(frozen=True)
class Wave:
    """A smooth push on a layer's plane: `push_xy_px` * sin(`pace_per_px` · (x, y) + phase)."""

    push_xy_px: tuple[float, float]
    pace_per_px: tuple[float, float]
    phase: float


@dataclass(frozen=True)
class Layer:
    """A textured piece of plane that moves affinely between two frames, and bends."""

    texture: Tensor
    """[1,3,256,256], 0..1"""
    radii_px: Tensor | None
    """[2048] distance of the outline from the middle by angle; None covers the frame"""
    to_frames: tuple[Matrix, Matrix]
    """3x3, layer plane -> first frame, second frame"""
    bend: tuple[Wave, ...]
    """in the second frame the plane's point p shows what is at p + the sum of these at p; together they change
    distances by less than half, so that this can be undone"""


def layer_pairs(seed: tuple[int, ...], count: int, size_hw: tuple[int, int] = (USUAL_HEIGHT_PX, 427)) -> Iterator[Pair]:
    """`count` pairs of moving textured layers."""
    return (draw_layers_pair((*seed, number), size_hw) for number in range(count))


def draw_layers_pair(seed: tuple[int, ...], size_hw: tuple[int, int]) -> Pair:
    """One pair of frames of `size_hw` with the exact flow of the first."""
    rng = np.random.default_rng(seed)
    layers = _draw_layers(rng, size_hw)
    first, owner = _paint(layers, 0, size_hw)
    second, owner_there = _paint(layers, 1, size_hw)
    flow = torch.zeros(2, *size_hw)
    grid = _pixels(size_hw)
    for number, layer in enumerate(layers):
        mine = owner == number
        here = _apply(np.linalg.inv(layer.to_frames[0]), grid[:, mine][:, None])  # [2,1,n], on the layer's plane
        moved = _apply(layer.to_frames[1], _unbent(layer, here))[:, 0]
        flow[:, mine] = moved - grid[:, mine]
    return Pair(_to_bytes(first), _to_bytes(second), flow.permute(1, 2, 0).numpy(), _seen(flow, owner, owner_there))


def _draw_layers(rng: np.random.Generator, size_hw: tuple[int, int]) -> list[Layer]:
    height, width = size_hw
    camera = _motion(rng, (width / 2, height / 2), CAMERA_REACH * height)
    placed = _placement(rng, (width / 2, height / 2), height)
    layers = [Layer(draw_texture(rng), None, (placed, camera @ placed), _bend(rng, placed))]
    for _ in range(int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))):
        middle = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
        placed = _placement(rng, middle, height)
        moved = _motion(rng, middle, OBJECT_REACH * height) @ camera
        layers.append(Layer(draw_texture(rng), _outline(rng, height), (placed, moved @ placed), _bend(rng, placed)))
    return layers


def _placement(rng: np.random.Generator, middle: tuple[float, float], height: int) -> Matrix:
    coarsest = 0.7 + np.log(max(1, height / USUAL_HEIGHT_PX))
    return _affine(middle, rng.uniform(-np.pi, np.pi), float(np.exp(rng.uniform(-0.5, coarsest))), 0.0)


def _motion(rng: np.random.Generator, middle: tuple[float, float], reach_px: float) -> Matrix:
    """Turn, zoom and shear a little about `middle`, and shift: mostly by a few px, at times by up to `reach_px`."""
    shift = reach_px * rng.uniform(0, 1) ** 3.5
    angle = rng.uniform(-np.pi, np.pi)
    about = _affine(middle, rng.normal(0, 0.06), float(np.exp(rng.normal(0, 0.05))), float(rng.normal(0, 0.03)))
    about[:2, 2] += shift * np.array([np.cos(angle), 0.7 * np.sin(angle)])
    back = np.eye(3)
    back[:2, 2] = (-middle[0], -middle[1])
    return about @ back


def _affine(middle: tuple[float, float], turn: float, zoom: float, shear: float) -> Matrix:
    cos, sin = zoom * np.cos(turn), zoom * np.sin(turn)
    return np.array([[cos, -sin + shear, middle[0]], [sin, cos, middle[1]], [0, 0, 1]])


def _outline(rng: np.random.Generator, height: int) -> Tensor:
    """A closed outline: an ellipse-like blob, its wobbles drawn by frequency."""
    angle = torch.linspace(-torch.pi, torch.pi, BEARINGS, dtype=torch.float64)
    radii = torch.ones(BEARINGS, dtype=torch.float64)
    for frequency in range(1, 9):
        radii += rng.normal(0, 0.35 / frequency) * torch.cos(frequency * angle + rng.uniform(0, 6.3))
    stretch = float(np.exp(rng.uniform(0, 1.5)))
    radii = radii.clamp_min(0.15) / torch.sqrt((angle.cos() / stretch) ** 2 + angle.sin() ** 2 * stretch)
    return (radii * height * rng.uniform(0.06, 0.28)).float()


def _bend(rng: np.random.Generator, placed: Matrix) -> tuple[Wave, ...]:
    """Half of the layers are rigid; the others bend by up to a few frame px over waves of 30 px and more."""
    if rng.random() < 0.5:
        return ()
    scale = float(np.linalg.norm(placed[:2, 0]))  # frame px per plane px
    waves = []
    for _ in range(3):
        length, angle = float(np.exp(rng.uniform(np.log(30), np.log(300)))) / scale, float(rng.uniform(0, 2 * np.pi))
        pace = 2 * np.pi / length
        push = rng.normal(0, 1, 2) * min(1.5 / scale, 0.1 / pace)  # the slope, pace * push, stays well below one
        push = push.clip(-0.16 / pace, 0.16 / pace)
        pace_xy = (pace * float(np.cos(angle)), pace * float(np.sin(angle)))
        waves.append(Wave((float(push[0]), float(push[1])), pace_xy, float(rng.uniform(0, 2 * np.pi))))
    return tuple(waves)


def _pushes(layer: Layer, place: Tensor) -> Tensor:
    """The bend's sum of waves at [2,H,W]."""
    total = torch.zeros_like(place)
    for wave in layer.bend:
        swing = torch.sin(wave.pace_per_px[0] * place[0] + wave.pace_per_px[1] * place[1] + wave.phase)
        total += torch.tensor(wave.push_xy_px)[:, None, None] * swing
    return total


def _unbent(layer: Layer, shown: Tensor) -> Tensor:
    """Where on the bent plane the points `shown` [2,H,W] of the flat one are: p with p + pushes(p) = shown."""
    place = shown
    for _ in range(UNBENDING_STEPS if layer.bend else 0):
        place = shown - _pushes(layer, place)
    return place


def _paint(layers: list[Layer], frame: int, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Frame [3,H,W] and the number of the front layer, [H,W]."""
    grid = _pixels(size_hw)
    picture = torch.zeros(3, *size_hw)
    owner = torch.zeros(size_hw, dtype=torch.long)
    for number, layer in enumerate(layers):
        rows, columns = _box(layer, frame, size_hw)
        place = _apply(
            np.linalg.inv(layer.to_frames[frame]), grid[:, rows, columns]
        )  # [2,h,w], px of the layer's plane
        if frame == 1:
            place = place + _pushes(layer, place)
        alpha = _alpha(layer, place)
        unit = (place / (TEXTURE_PX / 2)).permute(1, 2, 0)[None]
        colour = F.grid_sample(layer.texture, unit, padding_mode="reflection", align_corners=False)[0]
        behind = picture[:, rows, columns]
        behind += alpha * (colour - behind)
        owner[rows, columns][alpha > 0.5] = number
    return picture, owner


def _box(layer: Layer, frame: int, size_hw: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns that a layer may touch; at least one of each."""
    height, width = size_hw
    if layer.radii_px is None:
        return slice(0, height), slice(0, width)
    matrix = layer.to_frames[frame]
    reach = (float(layer.radii_px.max()) + 2 + _bend_px(layer)) * float(np.linalg.norm(matrix[:2, :2], 2))
    x, y = (int(matrix[axis, 2]) for axis in (0, 1))
    left, top = min(max(0, int(x - reach)), width - 1), min(max(0, int(y - reach)), height - 1)
    return slice(top, max(top + 1, int(y + reach) + 2)), slice(left, max(left + 1, int(x + reach) + 2))


def _bend_px(layer: Layer) -> float:
    """How far the bend can move a point of the plane."""
    return sum(float(np.hypot(*wave.push_xy_px)) for wave in layer.bend)


def _alpha(layer: Layer, place: Tensor) -> Tensor:
    """Coverage [H,W], 0..1, soft over about a pixel."""
    if layer.radii_px is None:
        return torch.ones(place.shape[1:])
    bearing = torch.atan2(place[1], place[0])
    radius = layer.radii_px[((bearing / torch.pi + 1) * ((BEARINGS - 1) / 2)).round().long()]
    alpha: Tensor = (radius - place.norm(dim=0) + 0.5).clamp(0, 1)
    return alpha


def _pixels(size_hw: tuple[int, int]) -> Tensor:
    """[2,H,W]: x and y of every pixel's centre, px."""
    y, x = torch.meshgrid(*(torch.arange(size, dtype=torch.float32) for size in size_hw), indexing="ij")
    return torch.stack([x, y])


def _apply(matrix: NDArray[Any], points: Tensor) -> Tensor:
    """Map [2,H,W] by a 3×3 matrix."""
    linear = torch.from_numpy(matrix).float()
    moved: Tensor = torch.einsum("ij,jhw->ihw", linear[:2, :2], points) + linear[:2, 2, None, None]
    return moved


def _seen(flow: Tensor, owner: Tensor, owner_there: Tensor) -> NDArray[np.bool_]:
    """Where a pixel's point is in frame and in front in the second frame."""
    height, width = owner.shape
    x, y = (_pixels((height, width)) + flow).round().long()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    there = owner_there[y.clamp(0, height - 1), x.clamp(0, width - 1)]
    seen: NDArray[np.bool_] = (inside & (there == owner)).numpy()
    return seen


def _to_bytes(picture: Tensor) -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = (picture * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return image
