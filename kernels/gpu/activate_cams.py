"""`activate_cams` in Triton: upsampled values live in registers only, first for the peaks, then again for the masks.

Computing them twice costs four cached reads per map; keeping [B, P, H, W] floats would cost eight bytes of memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton.language as tl
from torch import Tensor

import f2f.kernels.gpu.launch as launch
from f2f.kernels import checks, reference
from f2f.kernels.checks import BITS_PER_WORD, words_for
from f2f.kernels.gpu.launch import Blocks, device, kernel

_BITS_PER_WORD = tl.constexpr(BITS_PER_WORD)
_PEAK_EPSILON = tl.constexpr(reference.PEAK_EPSILON)

# A thread holds one pixel of four planes, so that one look at the tap tables serves four planes.
BLOCKS = Blocks(
    gpu={"block_planes": 4, "block_rows": 1, "block_columns": 128},
    interpreter={"block_planes": 4, "block_rows": 32, "block_columns": 128},
    warps=4,
)


def activate_cams(
    cams: Sequence[Tensor], flips: Sequence[bool], classes: Tensor, size_hw: tuple[int, int], theta: float
) -> tuple[Tensor, Tensor]:
    """Turn the CAMs of all scales and flips into thresholded class masks; the same bits as `reference.activate_cams`.

    `cams[i]` is float32 [B, C, h_i, w_i], mirrored where `flips[i]`; `classes` is int64 [B, P], -1 = none. Returns bit
    planes, int32 [B, ceil(P / 32), H, W], and peaks, float32 [B, P]. Raises ValueError as the reference does, and for
    tensors that are not on a GPU.

    Does not wait for the GPU, except to copy tap tables the first time it sees these sizes. For that reason class
    numbers on a GPU are not checked: those outside 0..C-1 count as -1.
    """
    checks.check_cams(cams, flips, classes, size_hw)
    checks.check_fraction("theta", theta)
    launch.check_device("classes", classes)
    images, planes = classes.shape
    bits = torch.empty(images, words_for(planes), *size_hw, dtype=torch.int32, device=classes.device)
    peaks = torch.zeros(images, planes, device=classes.device)
    if classes.numel() == 0:
        return bits, peaks
    flat = torch.cat([cam.flatten() for cam in cams])
    sizes = tuple((int(cam.shape[-2]), int(cam.shape[-1])) for cam in cams)
    places = _places(sizes, images * cams[0].shape[1], classes.device)
    taps = _taps(sizes, tuple(flips), size_hw, classes.device)
    _run(bits, peaks, (flat, *places, *taps, classes.contiguous()), cams[0].shape[1], theta)
    return bits, peaks


def _run(bits: Tensor, peaks: Tensor, inputs: tuple[Tensor, ...], channels: int, theta: float) -> None:
    """Peaks first, by a maximum over all programs, then the masks that depend on them."""
    (images, planes), (height, width) = peaks.shape, bits.shape[-2:]
    numbers = (inputs[1].shape[0], channels, planes, height, width)
    tiles = (launch.tiles(width, BLOCKS["block_columns"]), launch.tiles(height, BLOCKS["block_rows"]))
    groups = launch.tiles(planes, BLOCKS["block_planes"])
    launch.start(peak_kernel, (*tiles, images * groups), BLOCKS, peaks.view(torch.int32), *inputs, *numbers)
    words = bits.shape[1]
    launch.start(mask_kernel, (*tiles, images * words), BLOCKS, bits, peaks, *inputs, *numbers, words, float(theta))


@lru_cache(maxsize=64)
def _places(sizes: tuple[tuple[int, int], ...], cams_per_map: int, where: torch.device) -> tuple[Tensor, Tensor]:
    """Where each map starts in the joined CAMs, and how long one CAM of it is; both int64 [M]."""
    areas = torch.tensor([height * width for height, width in sizes])
    return (areas.cumsum(0) - areas).mul(cams_per_map).to(where), areas.to(where)


@lru_cache(maxsize=64)
def _taps(
    sizes: tuple[tuple[int, int], ...], flips: tuple[bool, ...], size_hw: tuple[int, int], where: torch.device
) -> tuple[Tensor, Tensor]:
    """`reference.cam_taps` of all maps along x, int32 [M, 4, W], and along y, [M, 4, H]; weights by their bits.

    The x taps of a mirrored map are mirrored; the y taps are row starts, row * w.
    """
    along_x, along_y = [], []
    for (height, width), flip in zip(sizes, flips, strict=True):
        along_x.append(_table(*reference.cam_taps(width, size_hw[1], flip)))
        low, high, *weights = reference.cam_taps(height, size_hw[0])
        along_y.append(_table(low * width, high * width, *weights))
    return torch.stack(along_x).to(where), torch.stack(along_y).to(where)


def _table(low: Tensor, high: Tensor, low_weight: Tensor, high_weight: Tensor) -> Tensor:
    return torch.stack([low.int(), high.int(), low_weight.view(torch.int32), high_weight.view(torch.int32)])


@kernel
def peak_kernel(
    peak_bits: tl.tensor,
    cams: tl.tensor,
    starts: tl.tensor,
    areas: tl.tensor,
    x_taps: tl.tensor,
    y_taps: tl.tensor,
    classes: tl.tensor,
    maps: tl.int32,
    channels: tl.int32,
    planes: tl.int32,
    height: tl.int32,
    width: tl.int32,
    block_planes: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
) -> None:
    """Raise the peaks of one group of planes by one tile. A peak is never negative, so its bits order as integers."""
    groups = tl.cdiv(planes, block_planes)
    image, group = tl.program_id(2) // groups, tl.program_id(2) % groups
    plane = group * block_planes + tl.arange(0, block_planes)  # [block_planes]
    x = (tl.program_id(0) * block_columns + tl.arange(0, block_columns))[None, None, :]
    y = (tl.program_id(1) * block_rows + tl.arange(0, block_rows))[None, :, None]
    classes += image.to(tl.int64) * planes
    best = strongest(
        cams, starts, areas, x_taps, y_taps, classes, image, plane, x, y, maps, channels, planes, height, width
    )
    highest = tl.max(tl.max(best, 2), 1)  # [block_planes]
    place = peak_bits + image.to(tl.int64) * planes + plane
    tl.atomic_max(place, highest.to(tl.int32, bitcast=True), plane < planes, sem="relaxed")


@kernel
def mask_kernel(
    bits: tl.tensor,
    peaks: tl.tensor,
    cams: tl.tensor,
    starts: tl.tensor,
    areas: tl.tensor,
    x_taps: tl.tensor,
    y_taps: tl.tensor,
    classes: tl.tensor,
    maps: tl.int32,
    channels: tl.int32,
    planes: tl.int32,
    height: tl.int32,
    width: tl.int32,
    words: tl.int32,
    theta: tl.float32,
    block_planes: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
) -> None:
    """Threshold and pack one word of one tile: group by group of its 32 planes."""
    image, word = tl.program_id(2) // words, tl.program_id(2) % words
    x = (tl.program_id(0) * block_columns + tl.arange(0, block_columns))[None, None, :]
    y = (tl.program_id(1) * block_rows + tl.arange(0, block_rows))[None, :, None]
    classes += image.to(tl.int64) * planes
    peaks += image.to(tl.int64) * planes
    packed = tl.zeros([1, block_rows, block_columns], tl.int32)
    for first in range(0, tl.minimum(planes - word * _BITS_PER_WORD, _BITS_PER_WORD), block_planes):
        bit = first + tl.arange(0, block_planes)
        plane = word * _BITS_PER_WORD + bit
        best = strongest(
            cams, starts, areas, x_taps, y_taps, classes, image, plane, x, y, maps, channels, planes, height, width
        )
        peak = tl.load(peaks + plane, plane < planes, 0.0)
        active = best > (theta * (peak + _PEAK_EPSILON))[:, None, None]  # [block_planes, block_rows, block_columns]
        packed |= tl.sum(active.to(tl.int32) << bit[:, None, None], 0, keep_dims=True)
    bits += (image.to(tl.int64) * words + word) * height * width
    tl.store(bits + (y * width + x), packed, (x < width) & (y < height))


@device
def strongest(
    cams: tl.tensor,
    starts: tl.tensor,
    areas: tl.tensor,
    x_taps: tl.tensor,
    y_taps: tl.tensor,
    classes: tl.tensor,
    image: tl.tensor,
    plane: tl.tensor,
    x: tl.tensor,
    y: tl.tensor,
    maps: tl.int32,
    channels: tl.int32,
    planes: tl.int32,
    height: tl.int32,
    width: tl.int32,
) -> tl.tensor:
    """Largest upsampled value over all maps, and 0; [block_planes, block_rows, block_columns].

    Operations in the reference's order. A plane without a class, and a pixel outside the frame, reads zeros.
    """
    number = tl.load(classes + plane, plane < planes, -1)[:, None, None]  # [block_planes, 1, 1]
    x_in, y_in = x < width, y < height
    read = (number >= 0) & (number < channels) & x_in & y_in
    cam = image.to(tl.int64) * channels + number
    best = tl.zeros(read.shape, tl.float32)
    for _ in range(maps):
        upper = cams + tl.load(starts) + cam * tl.load(areas)
        x_low, x_high = tl.load(x_taps + x, x_in, 0), tl.load(x_taps + width + x, x_in, 0)
        left = tl.load(x_taps + 2 * width + x, x_in, 0).to(tl.float32, bitcast=True)
        right = tl.load(x_taps + 3 * width + x, x_in, 0).to(tl.float32, bitcast=True)
        y_low, y_high = tl.load(y_taps + y, y_in, 0), tl.load(y_taps + height + y, y_in, 0)
        top = tl.load(y_taps + 2 * height + y, y_in, 0).to(tl.float32, bitcast=True)
        bottom = tl.load(y_taps + 3 * height + y, y_in, 0).to(tl.float32, bitcast=True)
        lower = upper + y_high
        upper += y_low
        above = tl.load(upper + x_low, read, 0.0) * left + tl.load(upper + x_high, read, 0.0) * right
        below = tl.load(lower + x_low, read, 0.0) * left + tl.load(lower + x_high, read, 0.0) * right
        value = above * top + below * bottom
        best = tl.where(value > best, value, best)  # a NaN is passed over
        starts += 1
        areas += 1
        x_taps += 4 * width
        y_taps += 4 * height
    return best
