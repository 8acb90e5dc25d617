"""`soft_union` in Triton: where a pixel's flow points, and whether the way back agrees, is found out once for all.

A step gathers from anywhere in the union of the step before, so every step is a launch of its own.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

import f2f.kernels.gpu.launch as launch
from f2f.kernels import checks
from f2f.kernels.gpu.launch import Blocks, device, kernel
from f2f.kernels.reference_soft import CONSISTENT_PX2, CONSISTENT_SHARE

_CONSISTENT_SHARE = tl.constexpr(CONSISTENT_SHARE)
_CONSISTENT_PX2 = tl.constexpr(CONSISTENT_PX2)

BLOCKS = Blocks(
    gpu={"block_rows": 8, "block_columns": 32}, interpreter={"block_rows": 64, "block_columns": 128}, warps=4
)


def soft_union(maps: Tensor, flow_xy_px: Tensor, return_xy_px: Tensor) -> Tensor:
    """Carry maps from frame to frame and keep the larger value; the same bits as `reference.soft_union`.

    `maps` is float32 [B, K, P, H, W], `flow_xy_px` and `return_xy_px` float32 [B, K-1, 2, H, W]; returns float32
    [B, P, H, W]. Inputs that are not contiguous are copied. Never waits for the GPU; a CUDA graph can capture it.
    Raises ValueError as the reference does, for frames of 2^30 px or more, and for tensors that are not on a GPU.
    """
    checks.check_soft_union(maps, flow_xy_px, return_xy_px)
    launch.check_device("maps", maps)
    if maps.shape[1] == 1 or maps.numel() == 0:
        return maps[:, 0].clone()
    launch.check_offsets("flow_xy_px", flow_xy_px[0].shape)
    maps, flow_xy_px, return_xy_px = maps.contiguous(), flow_xy_px.contiguous(), return_xy_px.contiguous()
    united = torch.empty(maps[:, 0].shape, dtype=maps.dtype, device=maps.device)
    chunk = launch.clips_per_chunk(maps[0, 0].numel() * maps.element_size(), maps.device)
    scratch = torch.empty_like(united[:chunk]) if maps.shape[1] > 2 else united
    for first in range(0, len(maps), chunk):
        clips = slice(first, first + chunk)
        _carry_clips(maps[clips], flow_xy_px[clips], return_xy_px[clips], united[clips], scratch)
    return united


def _carry_clips(maps: Tensor, flow_xy_px: Tensor, return_xy_px: Tensor, united: Tensor, scratch: Tensor) -> None:
    """All steps of a few clips, whose unions then stay in the L2; the two buffers alternate and end with `united`."""
    pair = united, scratch[: len(maps)]
    source = maps[:, 0]  # [B, P, H, W]
    for k, steps_left in enumerate(range(maps.shape[1] - 2, -1, -1)):
        target = pair[steps_left % 2]
        _start_step(source, flow_xy_px[:, k], return_xy_px[:, k], maps[:, k + 1], target)
        source = target


def _start_step(source: Tensor, flow_xy_px: Tensor, return_xy_px: Tensor, fresh: Tensor, target: Tensor) -> None:
    clips, planes, height, width = fresh.shape
    tensors = (source, flow_xy_px, return_xy_px, fresh, target)
    strides = (tensor.stride(0) for tensor in tensors)
    grid = (launch.tiles(width, BLOCKS["block_columns"]), launch.tiles(height, BLOCKS["block_rows"]), clips)
    launch.start(soft_step_kernel, grid, BLOCKS, *tensors, *strides, planes, height, width)


@kernel
def soft_step_kernel(
    source: tl.tensor,
    flow_xy_px: tl.tensor,
    return_xy_px: tl.tensor,
    fresh: tl.tensor,
    target: tl.tensor,
    source_stride: tl.int64,
    flow_stride: tl.int64,
    return_stride: tl.int64,
    fresh_stride: tl.int64,
    target_stride: tl.int64,
    planes: tl.int32,
    height: tl.int32,
    width: tl.int32,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
) -> None:
    """target = the larger of fresh and W(source), for one tile of one clip; strides are from clip to clip."""
    x = (tl.program_id(0) * block_columns + tl.arange(0, block_columns))[None, :]  # [1, block_columns]
    y = (tl.program_id(1) * block_rows + tl.arange(0, block_rows))[:, None]  # [block_rows, 1]
    clip = tl.program_id(2).to(tl.int64)
    source += clip * source_stride
    flow_xy_px += clip * flow_stride
    return_xy_px += clip * return_stride
    fresh += clip * fresh_stride
    target += clip * target_stride
    frame = height * width
    in_frame = (x < width) & (y < height)
    here = y * width + x
    flow_x = tl.load(flow_xy_px + here, in_frame, 0.0, eviction_policy="evict_first")
    flow_y = tl.load(flow_xy_px + frame + here, in_frame, 0.0, eviction_policy="evict_first")
    to_x, to_y = flow_x + x.to(tl.float32), flow_y + y.to(tl.float32)
    inside = in_frame & stays(to_x, width) & stays(to_y, height)
    left, right_share = first_tap(tl.where(inside, to_x, 0.0), width)
    top, low_share = first_tap(tl.where(inside, to_y, 0.0), height)
    first, right, below = top * width + left, tl.minimum(width - 1, 1), tl.where(height > 1, width, 0)
    back_x = sample(return_xy_px + first, right, below, right_share, low_share, inside)
    back_y = sample(return_xy_px + frame + first, right, below, right_share, low_share, inside)
    kept = inside & consistent(tl.where(inside, flow_x, 0.0), tl.where(inside, flow_y, 0.0), back_x, back_y)
    for _ in range(planes):
        carried = sample(source + first, right, below, right_share, low_share, kept)
        new = tl.load(fresh + here, in_frame, 0.0, eviction_policy="evict_first")
        tl.store(target + here, tl.maximum(new, carried), in_frame)
        source += frame
        fresh += frame
        target += frame


@device
def stays(place_px: tl.tensor, size: tl.int32) -> tl.tensor:
    """Whether a place is on an axis of so many pixels; not where it is NaN."""
    return (place_px >= 0) & (place_px <= (size - 1).to(tl.float32))


@device
def first_tap(place_px: tl.tensor, size: tl.int32) -> tuple[tl.tensor, tl.tensor]:
    """The first of the two pixels around a place on an axis, never the last one, and the weight of the second."""
    tap = tl.minimum(tl.floor(place_px), tl.maximum(size - 2, 0).to(tl.float32))
    return tap.to(tl.int32), place_px - tap


@device
def sample(
    first: tl.tensor,
    right: tl.tensor,
    below: tl.tensor,
    right_share: tl.tensor,
    low_share: tl.tensor,
    wanted: tl.tensor,
) -> tl.tensor:
    """Bilinear samples from the upper left taps on, along rows first; 0 where not wanted."""
    left_share = 1 - right_share
    upper = tl.load(first, wanted, 0.0) * left_share + tl.load(first + right, wanted, 0.0) * right_share
    first += below
    lower = tl.load(first, wanted, 0.0) * left_share + tl.load(first + right, wanted, 0.0) * right_share
    return upper * (1 - low_share) + lower * low_share


@device
def consistent(x: tl.tensor, y: tl.tensor, back_x: tl.tensor, back_y: tl.tensor) -> tl.tensor:
    """Whether there and back ends near the start, as `reference_soft` has it."""
    lengths = (x * x + y * y) + (back_x * back_x + back_y * back_y)
    apart = (x + back_x) * (x + back_x) + (y + back_y) * (y + back_y)
    return apart < _CONSISTENT_SHARE * lengths + _CONSISTENT_PX2
