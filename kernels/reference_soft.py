"""The definition of the soft warp-and-union, in plain torch.

Letters: B clips, K frames, P maps of a frame, H, W size in px.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from f2f.kernels import checks

CONSISTENT_SHARE, CONSISTENT_PX2 = 0.01, 0.5
"""Sundaram et al. 2010: |f + r|² of there and back is below this share of |f|² + |r|², plus this many px²"""


def soft_union(maps: Tensor, flow_xy_px: Tensor, return_xy_px: Tensor) -> Tensor:
    """Carry maps from frame to frame and keep the larger value at every pixel: `warp_union` for values, gated.

    `maps` is float32 [B, K, P, H, W], not negative. `flow_xy_px` float32 [B, K-1, 2, H, W]: flow k lives on frame k+1
    and points to frame k; `return_xy_px`, the same shape: entry k lives on frame k and points to frame k+1. A value is
    carried (bilinear, align_corners=True) where the flow stays in the frame and there and back again ends near the
    start. Returns float32 [B, P, H, W] on the last frame. Raises ValueError for other shapes and dtypes.
    """
    checks.check_soft_union(maps, flow_xy_px, return_xy_px)
    union = maps[:, 0]
    for step in range(maps.shape[1] - 1):
        flow, back = flow_xy_px[:, step], return_xy_px[:, step]
        grid, inside = _places(flow)
        kept = inside & _consistent(flow, _gather(back, grid))  # [B, H, W]
        union = torch.maximum(maps[:, step + 1], _gather(union, grid) * kept[:, None])
    return union


def _places(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Where flow [B, 2, H, W] points, as grid_sample wants it, [B, H, W, 2], and whether it is in frame, [B, H, W]."""
    height, width = flow.shape[-2:]
    x = flow[:, 0] + torch.arange(width, device=flow.device)
    y = flow[:, 1] + torch.arange(height, device=flow.device)[:, None]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return torch.stack([2 * x / max(1, width - 1) - 1, 2 * y / max(1, height - 1) - 1], dim=-1), inside


def _gather(values: Tensor, grid: Tensor) -> Tensor:
    """Bilinear samples of [B, C, H, W]; beyond the border, the border's."""
    return F.grid_sample(values, grid, padding_mode="border", align_corners=True)


def _consistent(flow: Tensor, back: Tensor) -> Tensor:
    """[B, H, W]."""
    lengths = flow.square().sum(1) + back.square().sum(1)
    return (flow + back).square().sum(1) < CONSISTENT_SHARE * lengths + CONSISTENT_PX2
