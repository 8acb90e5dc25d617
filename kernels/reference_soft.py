"""The definition of the soft warp-and-union, in plain torch.

Letters: B clips, K frames, P maps of a frame, H, W size in px.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from f2f.kernels import checks

CONSISTENT_SHARE, CONSISTENT_PX2 = 0.01, 0.5
"""Sundaram et al. 2010: |f + r|² of there and back is below this share of |f|² + |r|², plus this many px²"""


def soft_union(maps: Tensor, flow_xy_px: Tensor, return_xy_px: Tensor) -> Tensor:
    """Carry maps from frame to frame and keep the larger value at every pixel: `warp_union` for values, gated.

    `maps` is float32 [B, K, P, H, W], finite and not negative. `flow_xy_px` float32 [B, K-1, 2, H, W]: flow k lives on
    frame k+1 and points to frame k; `return_xy_px`, the same shape: entry k lives on frame k and points to frame k+1. A
    value is carried (bilinear, align_corners=True) where the flow stays in the frame and there and back again ends near
    the start. Returns float32 [B, P, H, W] on the last frame. Raises ValueError for other shapes and dtypes.
    """
    checks.check_soft_union(maps, flow_xy_px, return_xy_px)
    union = maps[:, 0]
    for step in range(maps.shape[1] - 1):
        flow, back = flow_xy_px[:, step], return_xy_px[:, step]
        places = _places(flow)
        kept = places.inside & _consistent(flow, _sample(back, places))  # [B, H, W]
        carried = torch.where(kept[:, None], _sample(union, places), 0.0)
        union = torch.maximum(maps[:, step + 1], carried)
    return union.clone() if maps.shape[1] == 1 else union


class _Places(NamedTuple):
    """Where the flow points, each [B, H, W]; (0, 0) where that is not in the frame."""

    inside: Tensor
    left: Tensor
    top: Tensor
    right_share: Tensor
    """weight of the taps to the right"""
    low_share: Tensor
    """weight of the taps below"""


def _places(flow: Tensor) -> _Places:
    """Of flow [B, 2, H, W]."""
    height, width = flow.shape[-2:]
    x = flow[:, 0] + torch.arange(width, device=flow.device)
    y = flow[:, 1] + torch.arange(height, device=flow.device)[:, None]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x, y = torch.where(inside, x, 0.0), torch.where(inside, y, 0.0)
    left, top = x.floor().clamp_max(max(0, width - 2)), y.floor().clamp_max(max(0, height - 2))
    return _Places(inside, left.long(), top.long(), x - left, y - top)


def _sample(values: Tensor, places: _Places) -> Tensor:
    """Bilinear samples of [B, C, H, W], along rows first."""
    batch, channels, height, width = values.shape
    first = (places.top * width + places.left)[:, None].expand(batch, channels, height, width).flatten(2)
    flat, right, below = values.flatten(2), min(1, width - 1), width if height > 1 else 0
    taps = [flat.gather(2, first + step).view_as(values) for step in (0, right, below, below + right)]
    x, y = places.right_share[:, None], places.low_share[:, None]
    return (taps[0] * (1 - x) + taps[1] * x) * (1 - y) + (taps[2] * (1 - x) + taps[3] * x) * y


def _consistent(flow: Tensor, back: Tensor) -> Tensor:
    """[B, H, W]."""
    (x, y), (back_x, back_y) = flow.unbind(1), back.unbind(1)
    lengths = (x * x + y * y) + (back_x * back_x + back_y * back_y)
    apart = (x + back_x) * (x + back_x) + (y + back_y) * (y + back_y)
    return apart < CONSISTENT_SHARE * lengths + CONSISTENT_PX2
