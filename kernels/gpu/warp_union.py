"""`warp_union` in Triton: all classes of a pixel in one integer gather, nothing but integers after the snap."""

from __future__ import annotations

from typing import Literal

import torch
import triton.language as tl
from torch import Tensor

import f2f.kernels.gpu.launch as launch
from f2f.kernels import checks, reference
from f2f.kernels.gpu.launch import Blocks, device, kernel

_MAX_FLOW_PX = tl.constexpr(reference.MAX_FLOW_PX)

# Two pixels per thread: with the loop over words, four need 80 registers and halve the warps that hide the gathers.
STEP_BLOCKS = Blocks(
    gpu={"block_rows": 8, "block_columns": 32}, interpreter={"block_rows": 64, "block_columns": 128}, warps=4
)
CLIP_BLOCKS = Blocks(gpu={"block_pixels": 1024}, interpreter={"block_pixels": 8192}, warps=16)


def warp_union(
    bits: Tensor,
    flow_xy_px: Tensor,
    *,
    return_steps: bool = False,
    launch_as: Literal["auto", "clip", "steps"] = "auto",
) -> Tensor:
    """Carry the masks of K frames to the last one and unite them; the same bits as `reference.warp_union`.

    `bits` is int32 [B, K, N, H, W], `flow_xy_px` float32 or float16 [B, K-1, 2, H, W]; returns int32 [B, N, H, W] or,
    with `return_steps`, [B, K, N, H, W]. Inputs that are not contiguous are copied. Never waits for the GPU; a CUDA
    graph can capture it. `launch_as` forces one of the two launch structures, for tests and measurements.
    Raises ValueError as the reference does, and for tensors that are not on a GPU.
    """
    checks.check_warp_union(bits, flow_xy_px)
    launch.check_device("bits", bits)
    if bits.shape[1] == 1 or bits.numel() == 0:
        return (bits if return_steps else bits[:, 0]).clone()
    bits, flow_xy_px = bits.contiguous(), flow_xy_px.contiguous()
    structure = launch.warp_structure(bits.shape[0], bits.device) if launch_as == "auto" else launch_as
    return (_by_clip if structure == "clip" else _by_steps)(bits, flow_xy_px, return_steps)


def _by_clip(bits: Tensor, flow_xy_px: Tensor, return_steps: bool) -> Tensor:
    """One launch, one program per clip: no program waits for another, and unions stay in its own L1 and the L2."""
    clips, frames, words, height, width = bits.shape
    united = _empty_union(bits, return_steps)
    scratch = united if return_steps or frames == 2 else torch.empty_like(united)
    arguments = (bits, flow_xy_px, united, scratch, frames, words, height, width)
    launch.start(clip_kernel, (clips,), CLIP_BLOCKS, *arguments, keep_steps=return_steps)
    return united


def _by_steps(bits: Tensor, flow_xy_px: Tensor, return_steps: bool) -> Tensor:
    """A launch per step over all pixels of a few clips, whose unions then stay in the L2 from step to step."""
    united = _empty_union(bits, return_steps)
    chunk = launch.clips_per_chunk(bits[0, 0].numel() * bits.element_size(), bits.device)
    scratch = united if return_steps else torch.empty_like(united[:chunk])
    for first in range(0, bits.shape[0], chunk):
        clips = slice(first, first + chunk)
        _chunk_by_steps(bits[clips], flow_xy_px[clips], united[clips], scratch, return_steps)
    return united


def _empty_union(bits: Tensor, return_steps: bool) -> Tensor:
    """Room for the result; of all steps, the first one is there from the start."""
    if not return_steps:
        return torch.empty(bits[:, 0].shape, dtype=bits.dtype, device=bits.device)
    united = torch.empty_like(bits)
    united[:, 0] = bits[:, 0]
    return united


def _chunk_by_steps(bits: Tensor, flow_xy_px: Tensor, united: Tensor, scratch: Tensor, return_steps: bool) -> None:
    pair = united, scratch[: len(bits)]
    source = bits[:, 0]  # [B, N, H, W]
    for k, steps_left in enumerate(range(bits.shape[1] - 2, -1, -1)):
        # Without `return_steps` the two alternate, so that the last step ends in `united`.
        target = united[:, k + 1] if return_steps else pair[steps_left % 2]
        _start_step(source, flow_xy_px[:, k], bits[:, k + 1], target)
        source = target


def _start_step(source: Tensor, flow_xy_px: Tensor, fresh: Tensor, target: Tensor) -> None:
    clips, words, height, width = fresh.shape
    tensors = (source, flow_xy_px, fresh, target)
    strides = (tensor.stride(0) for tensor in tensors)
    grid = (launch.tiles(width, STEP_BLOCKS["block_columns"]), launch.tiles(height, STEP_BLOCKS["block_rows"]), clips)
    launch.start(step_kernel, grid, STEP_BLOCKS, *tensors, *strides, words, height, width)


@kernel
def step_kernel(
    source: tl.tensor,
    flow_xy_px: tl.tensor,
    fresh: tl.tensor,
    target: tl.tensor,
    source_stride: tl.int64,
    flow_stride: tl.int64,
    fresh_stride: tl.int64,
    target_stride: tl.int64,
    words: tl.int32,
    height: tl.int32,
    width: tl.int32,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
) -> None:
    """target = fresh | W(source) for one tile of one clip; strides are from clip to clip."""
    x = (tl.program_id(0) * block_columns + tl.arange(0, block_columns))[None, :]  # [1, block_columns]
    y = (tl.program_id(1) * block_rows + tl.arange(0, block_rows))[:, None]  # [block_rows, 1]
    clip = tl.program_id(2).to(tl.int64)
    source += clip * source_stride
    flow_xy_px += clip * flow_stride
    fresh += clip * fresh_stride
    target += clip * target_stride
    carry_pixels(source, flow_xy_px, fresh, target, x, y, (x < width) & (y < height), words, height, width)


@kernel
def clip_kernel(
    bits: tl.tensor,
    flow_xy_px: tl.tensor,
    united: tl.tensor,
    scratch: tl.tensor,
    frames: tl.int32,
    words: tl.int32,
    height: tl.int32,
    width: tl.int32,
    keep_steps: tl.constexpr,
    block_pixels: tl.constexpr,
) -> None:
    """All steps of one clip. The pixels of a step wait for all of the step before at the barrier."""
    clip = tl.program_id(0).to(tl.int64)
    frame = height * width  # px
    step_size = words.to(tl.int64) * frame
    source = bits + clip * frames * step_size
    fresh = source
    flow_xy_px += clip * (frames - 1) * 2 * frame
    for step in range(frames - 1):
        fresh += step_size
        if keep_steps:
            target = united + (clip * frames + step + 1) * step_size
        elif (frames - step) % 2 == 0:  # alternate, so that the last step ends in `united`
            target = united + clip * step_size
        else:
            target = scratch + clip * step_size
        carry_frame(source, flow_xy_px, fresh, target, words, height, width, block_pixels)
        tl.debug_barrier()
        source = target
        flow_xy_px += 2 * frame


@device
def carry_frame(
    source: tl.tensor,
    flow_xy_px: tl.tensor,
    fresh: tl.tensor,
    target: tl.tensor,
    words: tl.int32,
    height: tl.int32,
    width: tl.int32,
    block_pixels: tl.constexpr,
) -> None:
    """One step of a whole frame, block by block in reading order; (x, y) move on by additions, not by division."""
    y = tl.arange(0, block_pixels) // width  # [block_pixels]
    x = tl.arange(0, block_pixels) - y * width
    for _ in range(0, height * width, block_pixels):
        carry_pixels(source, flow_xy_px, fresh, target, x, y, y < height, words, height, width)
        x += block_pixels % width
        y += block_pixels // width + (x >= width).to(tl.int32)
        x = tl.where(x >= width, x - width, x)


@device
def carry_pixels(
    source: tl.tensor,
    flow_xy_px: tl.tensor,
    fresh: tl.tensor,
    target: tl.tensor,
    x: tl.tensor,
    y: tl.tensor,
    inside: tl.tensor,
    words: tl.int32,
    height: tl.int32,
    width: tl.int32,
) -> None:
    """target = fresh | W(source) at the pixels (x, y); see `reference._warp_planes` for the rule.

    Flow and fresh masks are read once and may leave the caches first; the union is read again by the next step.
    """
    frame = height * width
    here = y * width + x
    x_px = tl.load(flow_xy_px + here, inside, 0.0, eviction_policy="evict_first").to(tl.float32)
    y_px = tl.load(flow_xy_px + frame + here, inside, 0.0, eviction_policy="evict_first").to(tl.float32)
    valid = inside & (tl.abs(x_px) <= _MAX_FLOW_PX) & (tl.abs(y_px) <= _MAX_FLOW_PX)  # False for NaN
    x_near, x_far, x_weight = nearest_taps(tl.where(valid, x_px, 0.0), x)
    y_near, y_far, y_weight = nearest_taps(tl.where(valid, y_px, 0.0), y)
    alone = x_weight * y_weight > 2**17
    x_near_in, x_far_in = (x_near >= 0) & (x_near < width), (x_far >= 0) & (x_far < width)
    y_near_in = valid & (y_near >= 0) & (y_near < height)
    y_far_in = valid & (y_far >= 0) & (y_far < height)
    near_row, far_row = y_near * width, y_far * width
    for _ in range(words):
        n = tl.load(source + (near_row + x_near), y_near_in & x_near_in, 0)
        h = tl.load(source + (near_row + x_far), y_near_in & x_far_in, 0)
        v = tl.load(source + (far_row + x_near), y_far_in & x_near_in, 0)
        d = tl.load(source + (far_row + x_far), y_far_in & x_far_in, 0)
        carried = n & (h | v | d) | tl.where(alone, n, h & v & d)
        new = tl.load(fresh + here, inside, 0, eviction_policy="evict_first")
        tl.store(target + here, new | carried, inside)
        source += frame
        fresh += frame
        target += frame


@device
def nearest_taps(flow_px: tl.tensor, pixel: tl.tensor) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Nearer tap, farther tap and the nearer one's weight in 1/512, as `reference._nearest_taps`."""
    q = 2 * tl.floor(256 * flow_px).to(tl.int32) + 1  # unit 1/512 px
    low = pixel + (q >> 9)
    rest = q & 511
    upper = (rest >= 256).to(tl.int32)
    weight = tl.where(rest < 256, 512 - rest, rest)
    return low + upper, low + 1 - upper, weight
