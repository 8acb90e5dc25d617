"""The public operators: one function per operator, whichever version of it runs.

Each is defined, argument by argument, by the function of the same name in `f2f.kernels.reference`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from f2f.kernels import dispatch, native, reference


def activate_cams(
    cams: Sequence[Tensor], flips: Sequence[bool], classes: Tensor, size_hw: tuple[int, int], theta: float
) -> tuple[Tensor, Tensor]:
    """Upsample, maximise over scales and flips, threshold and pack the listed classes' CAMs: (bits, peaks).

    `cams[i]` float32 [B, C, h_i, w_i] (pre-ReLU, mirrored where `flips[i]`), `classes` int64 [B, P] (-1 = none);
    bits int32 [B, ceil(P / 32), H, W], peaks float32 [B, P]. Defined by `reference.activate_cams`.
    """
    dispatch.choose("activate_cams", classes.device.type)
    return reference.activate_cams(cams, flips, classes, size_hw, theta)


def warp_union(bits: Tensor, flow_xy_px: Tensor, *, return_steps: bool = False) -> Tensor:
    """Carry bit-plane masks along the flow, frame by frame, uniting them: int32 [B, N, H, W].

    `bits` int32 [B, K, N, H, W]; `flow_xy_px` float32 or float16 [B, K-1, 2, H, W], from frame k + 1 to frame k;
    `return_steps` gives every frame's union, [B, K, N, H, W]. Defined by `reference.warp_union`.
    """
    united: Tensor = _warp_union_op(bits, flow_xy_px, return_steps)
    return united


def cost_volume(f1: Tensor, f2: Tensor, max_displacement: int = 4) -> Tensor:
    """PWC-Net's correlation, float [B, C, H, W] twice -> [B, (2d + 1)^2, H, W]; see `reference.cost_volume`."""
    dispatch.choose("cost_volume", f1.device.type)
    return reference.cost_volume(f1, f2, max_displacement)


def warp_cost_volume(f1: Tensor, f2: Tensor, flow_xy_px: Tensor, max_displacement: int = 4) -> Tensor:
    """`cost_volume` with f2 sampled at p + flow, float [B, 2, H, W] in px; see `reference.warp_cost_volume`."""
    dispatch.choose("warp_cost_volume", f1.device.type)
    return reference.warp_cost_volume(f1, f2, flow_xy_px, max_displacement)


def compose_labels(bits: Tensor, classes: Tensor, saliency: Tensor | None, theta_b: float) -> Tensor:
    """One label per pixel, uint8 [B, H, W]: class + 1, 0 = background, 255 = ignore.

    `bits` int32 [B, N, H, W], `classes` int64 [B, P], `saliency` float32 [B, 1, H, W] in 0..1 or None. Defined by
    `reference.compose_labels`.
    """
    dispatch.choose("compose_labels", bits.device.type)
    return reference.compose_labels(bits, classes, saliency, theta_b)


def minimum_barrier(channels: Tensor, passes: int = 3) -> Tensor:
    """Minimum barrier distance to the image border: float32 [B, C, H, W] -> [B, H, W], summed over channels.

    Defined by `reference.minimum_barrier`.
    """
    if dispatch.choose("minimum_barrier", channels.device.type) == dispatch.CPP:
        return native.minimum_barrier(channels, passes)
    return reference.minimum_barrier(channels, passes)


@torch.library.custom_op("f2f::warp_union", mutates_args=())
def _warp_union_op(bits: Tensor, flow_xy_px: Tensor, return_steps: bool) -> Tensor:
    if dispatch.choose("warp_union", bits.device.type) == dispatch.CPP:
        return native.warp_union(bits, flow_xy_px, return_steps=return_steps)
    return reference.warp_union(bits, flow_xy_px, return_steps=return_steps)


@_warp_union_op.register_fake
def _warp_union_shape(bits: Tensor, flow_xy_px: Tensor, return_steps: bool) -> Tensor:
    del flow_xy_px
    batch, _, words, height, width = bits.shape
    return bits.new_empty(bits.shape if return_steps else (batch, words, height, width))
