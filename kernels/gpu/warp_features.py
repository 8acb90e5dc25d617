"""`warp_cost_volume` in Triton: f2 is sampled into a buffer first, then `cost_volume` runs on that.

Not one kernel, because a sample serves 81 costs: computed where it is needed, it would be computed by every program
whose halo holds it, 9 rows times 2 tiles, with four scattered reads each time. The buffer is read from the L2.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

import f2f.kernels.gpu.launch as launch
from f2f.kernels import checks, reference
from f2f.kernels.gpu.cost_volume import cost_volume, cost_volume_backward
from f2f.kernels.gpu.launch import Blocks, device, kernel

_IN_FRAME_WEIGHT = tl.constexpr(reference.IN_FRAME_WEIGHT)

# A thread holds one pixel of eight channels: places and weights are computed once for eight.
SAMPLE_BLOCKS = Blocks(
    gpu={"block_channels": 8, "block_pixels": 128}, interpreter={"block_channels": 32, "block_pixels": 512}, warps=4
)
SCATTER_BLOCKS = Blocks(
    gpu={"block_channels": 8, "block_pixels": 64}, interpreter={"block_channels": 32, "block_pixels": 512}, warps=2
)


def warp_cost_volume(f1: Tensor, f2: Tensor, flow_xy_px: Tensor, max_displacement: int = 4) -> Tensor:
    """`cost_volume` of f1 and f2 sampled at p + flow, float [B, 2, H, W] in px; as `reference.warp_cost_volume`.

    Returns [B, (2d + 1)^2, H, W]. Samples in float32, stores them in f2's dtype; a flow that is not finite samples 0.
    float64 anywhere is left to the reference. Inputs that are not contiguous are copied. Raises ValueError as the
    reference does, and for tensors that are not on a GPU.
    """
    checks.check_features(f1, f2, max_displacement, flow_xy_px)
    launch.check_device("f1", f1)
    if _needs_reference(f1, flow_xy_px):
        return reference.warp_cost_volume(f1, f2, flow_xy_px, max_displacement)
    return cost_volume(f1, _sample(f2.contiguous(), flow_xy_px.float().contiguous()), max_displacement)


def warp_cost_volume_backward(
    gradient: Tensor, f1: Tensor, f2: Tensor, flow_xy_px: Tensor, max_displacement: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `warp_cost_volume` for f1, f2 and the flow from `gradient` [B, (2d + 1)^2, H, W].

    Samples that count as 0 have no gradient. f2's gradient is added up in float32 in the order in which the GPU comes
    to it: its last bits may differ from run to run.
    """
    checks.check_features(f1, f2, max_displacement, flow_xy_px)
    launch.check_device("f1", f1)
    if _needs_reference(f1, flow_xy_px):
        return reference.warp_cost_volume_backward(gradient, f1, f2, flow_xy_px, max_displacement)
    f2, flow = f2.contiguous(), flow_xy_px.float().contiguous()
    to_f1, to_sampled = cost_volume_backward(gradient, f1, _sample(f2, flow), max_displacement)
    to_f2, to_flow = _scatter(to_sampled, f2, flow)
    return to_f1, to_f2.to(f2.dtype), to_flow.to(flow_xy_px.dtype)


def _needs_reference(f1: Tensor, flow_xy_px: Tensor) -> bool:
    """Nothing to launch for, or float64."""
    return torch.float64 in (f1.dtype, flow_xy_px.dtype) or f1.numel() == 0


def _sample(features: Tensor, flow_xy_px: Tensor) -> Tensor:
    """`reference.warp_features`, [B, C, H, W]."""
    batch, channels, height, width = features.shape
    launch.check_offsets("f2", features.shape)
    sampled = torch.empty_like(features)
    tiles = (
        launch.tiles(height * width, SAMPLE_BLOCKS["block_pixels"]),
        launch.tiles(channels, SAMPLE_BLOCKS["block_channels"]),
    )
    tensors = (sampled, features, flow_xy_px)
    launch.start(sample_kernel, (*tiles, batch), SAMPLE_BLOCKS, *tensors, channels, height, width)
    return sampled


def _scatter(to_sampled: Tensor, features: Tensor, flow_xy_px: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `_sample` for the features [B, C, H, W] and the flow [B, 2, H, W], both float32."""
    batch, channels, height, width = features.shape
    to_features, to_flow = torch.zeros_like(features, dtype=torch.float32), torch.empty_like(flow_xy_px)
    grid = (launch.tiles(height * width, SCATTER_BLOCKS["block_pixels"]), batch)
    tensors = (to_features, to_flow, to_sampled, features, flow_xy_px)
    launch.start(scatter_kernel, grid, SCATTER_BLOCKS, *tensors, channels, height, width)
    return to_features, to_flow


@kernel
def sample_kernel(
    sampled: tl.tensor,
    features: tl.tensor,
    flow_xy_px: tl.tensor,
    channels: tl.int32,
    height: tl.int32,
    width: tl.int32,
    block_channels: tl.constexpr,
    block_pixels: tl.constexpr,
) -> None:
    """Sample block_channels channels at block_pixels pixels."""
    frame = height * width
    pixel = (tl.program_id(0) * block_pixels + tl.arange(0, block_pixels))[None, :]  # [1, block_pixels]
    channel = (tl.program_id(1) * block_channels + tl.arange(0, block_channels))[:, None]  # [block_channels, 1]
    image = tl.program_id(2).to(tl.int64)
    x0, y0, right, below, kept = places(flow_xy_px + image * 2 * frame, pixel, height, width)
    start = image * channels * frame
    listed = kept & (channel < channels)
    nw, ne, sw, se = taps(features + start + channel * frame, x0, y0, listed, height, width)
    above = nw * (1 - right) + ne * right
    under = sw * (1 - right) + se * right
    value = above * (1 - below) + under * below
    inside = (pixel < frame) & (channel < channels)
    tl.store(sampled + start + (channel * frame + pixel), value.to(sampled.dtype.element_ty), inside)


@kernel
def scatter_kernel(
    to_features: tl.tensor,
    to_flow: tl.tensor,
    to_sampled: tl.tensor,
    features: tl.tensor,
    flow_xy_px: tl.tensor,
    channels: tl.int32,
    height: tl.int32,
    width: tl.int32,
    block_channels: tl.constexpr,
    block_pixels: tl.constexpr,
) -> None:
    """Give the gradient of block_pixels samples to the features under them, channels by channels, and to the flow."""
    frame = height * width
    pixel = (tl.program_id(0) * block_pixels + tl.arange(0, block_pixels))[None, :]  # [1, block_pixels]
    image = tl.program_id(1).to(tl.int64)
    x0, y0, right, below, kept = places(flow_xy_px + image * 2 * frame, pixel, height, width)
    left, above = 1 - right, 1 - below
    west, east, north, south = x0 >= 0, x0 + 1 < width, y0 >= 0, y0 + 1 < height
    start = image * channels * frame
    to_x, to_y = tl.zeros([1, block_pixels], tl.float32), tl.zeros([1, block_pixels], tl.float32)
    for first in range(0, channels, block_channels):
        channel = first + tl.arange(0, block_channels)[:, None]  # [block_channels, 1]
        listed = kept & (channel < channels)
        plane = start + channel * frame  # [block_channels, 1]
        gradient = tl.load(to_sampled + plane + pixel, listed, 0.0).to(tl.float32)
        nw, ne, sw, se = taps(features + plane, x0, y0, listed, height, width)
        to_x += tl.sum(gradient * ((ne - nw) * above + (se - sw) * below), 0, keep_dims=True)
        to_y += tl.sum(gradient * ((sw - nw) * left + (se - ne) * right), 0, keep_dims=True)
        corner = to_features + plane + (y0 * width + x0)
        tl.atomic_add(corner, gradient * left * above, listed & west & north, sem="relaxed")
        tl.atomic_add(corner + 1, gradient * right * above, listed & east & north, sem="relaxed")
        tl.atomic_add(corner + width, gradient * left * below, listed & west & south, sem="relaxed")
        tl.atomic_add(corner + width + 1, gradient * right * below, listed & east & south, sem="relaxed")
    to_flow += image * 2 * frame + pixel
    tl.store(to_flow, tl.where(width > 1, to_x, 0.0), pixel < frame)  # a one-pixel axis does not move samples
    tl.store(to_flow + frame, tl.where(height > 1, to_y, 0.0), pixel < frame)


@device
def places(
    flow_xy_px: tl.tensor, pixel: tl.tensor, height: tl.int32, width: tl.int32
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Upper left tap (x0, y0), weights of its right and lower neighbours, and whether the sample counts."""
    inside = pixel < height * width
    y = pixel // width
    x = pixel - y * width
    x_px = tl.load(flow_xy_px + pixel, inside, 0.0) + x.to(tl.float32)
    y_px = tl.load(flow_xy_px + height * width + pixel, inside, 0.0) + y.to(tl.float32)
    kept = inside & (in_frame(x_px, width) * in_frame(y_px, height) >= _IN_FRAME_WEIGHT)
    x_seen, y_seen = tl.where(kept, through_grid(x_px, width), 0.0), tl.where(kept, through_grid(y_px, height), 0.0)
    x_floor, y_floor = tl.floor(x_seen), tl.floor(y_seen)
    return x_floor.to(tl.int32), y_floor.to(tl.int32), x_seen - x_floor, y_seen - y_floor, kept


@device
def taps(
    plane: tl.tensor, x0: tl.tensor, y0: tl.tensor, listed: tl.tensor, height: tl.int32, width: tl.int32
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The four features around a sample, float32; 0 outside the frame."""
    corner = plane + (y0 * width + x0)
    west, east = listed & (x0 >= 0), listed & (x0 + 1 < width)
    north, south = y0 >= 0, y0 + 1 < height
    nw = tl.load(corner, west & north, 0.0).to(tl.float32)
    ne = tl.load(corner + 1, east & north, 0.0).to(tl.float32)
    sw = tl.load(corner + width, west & south, 0.0).to(tl.float32)
    se = tl.load(corner + width + 1, east & south, 0.0).to(tl.float32)
    return nw, ne, sw, se


@device
def through_grid(place_px: tl.tensor, size: tl.int32) -> tl.tensor:
    """A place as it comes back from grid_sample's coordinates -1..1, rounding included, so that taps are the same."""
    span = (size - 1).to(tl.float32)
    grid = tl.div_rn(2 * place_px, tl.maximum(span, 1.0)) - 1
    return (grid + 1) * 0.5 * span


@device
def in_frame(place_px: tl.tensor, size: tl.int32) -> tl.tensor:
    """The share of the linear weight at a place that falls on pixels 0..size-1; 0 for NaN."""
    share = tl.minimum(place_px + 1, size.to(tl.float32) - place_px)
    return tl.minimum(tl.maximum(share, 0.0), 1.0)
