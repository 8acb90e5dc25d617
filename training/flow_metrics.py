"""Measures of flow: against exact flow, against true masks carried along, and against the frames themselves.

Flow is float32 [2, H, W] in px, x first; it lives on a frame and points to another one, its source.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from f2f.kernels import warp_union

OUTLIER_PX, OUTLIER_SHARE = 3.0, 0.05
_CONSISTENT_SHARE, _CONSISTENT_PX2 = 0.01, 0.5


def endpoint_error(flow_xy_px: Tensor, truth_xy_px: Tensor) -> Tensor:
    """Length of the difference, [H, W] px."""
    return (flow_xy_px - truth_xy_px).square().sum(0).sqrt()


def outliers(flow_xy_px: Tensor, truth_xy_px: Tensor) -> Tensor:
    """Where KITTI counts an outlier, bool [H, W]: more than 3 px off, and more than 5 % of the true length."""
    error = endpoint_error(flow_xy_px, truth_xy_px)
    return (error > OUTLIER_PX) & (error > OUTLIER_SHARE * truth_xy_px.square().sum(0).sqrt())


def propagated_mask(mask: Tensor, flow_xy_px: Tensor) -> Tensor:
    """The source's mask, bool [H, W], on the frame that the flow lives on: as the engine's union carries it."""
    words = torch.stack([mask, torch.zeros_like(mask)]).int()[None, :, None]  # [1, 2, 1, H, W]: bit 0; frame 2 is empty
    return warp_union(words, flow_xy_px[None, None])[0, 0] != 0


def places(flow_xy_px: Tensor) -> tuple[Tensor, Tensor]:
    """x and y in px that every pixel points to, [H, W] each."""
    height, width = flow_xy_px.shape[-2:]
    return flow_xy_px[0] + torch.arange(width), flow_xy_px[1] + torch.arange(height)[:, None]


def in_frame(flow_xy_px: Tensor) -> Tensor:
    """Where the flow points into the source frame, bool [H, W]."""
    height, width = flow_xy_px.shape[-2:]
    x, y = places(flow_xy_px)
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def gather(values: Tensor, flow_xy_px: Tensor) -> Tensor:
    """Bilinear samples of the source's values [C, H, W] where the flow points; beyond its border, the border's."""
    height, width = flow_xy_px.shape[-2:]
    x, y = places(flow_xy_px)
    grid = torch.stack([2 * x / max(1, width - 1) - 1, 2 * y / max(1, height - 1) - 1], dim=-1)  # [H, W, 2]
    return F.grid_sample(values[None], grid[None], padding_mode="border", align_corners=True)[0]


def consistent(flow_xy_px: Tensor, return_xy_px: Tensor) -> Tensor:
    """Where there and back again ends near the start, bool [H, W] (Sundaram et al. 2010); not where out of frame.

    `return_xy_px` lives on the source and points to the frame that `flow_xy_px` lives on.
    """
    back = gather(return_xy_px, flow_xy_px)
    gap = (flow_xy_px + back).square().sum(0)
    allowed = _CONSISTENT_SHARE * (flow_xy_px.square().sum(0) + back.square().sum(0)) + _CONSISTENT_PX2
    return (gap < allowed) & in_frame(flow_xy_px)


def photometric_error(frame: Tensor, source: Tensor, flow_xy_px: Tensor) -> Tensor:
    """Mean absolute difference over colours between a frame and its source gathered along the flow, [H, W].

    `frame` and `source` are float32 [3, H, W]; the result is in their unit.
    """
    return (frame - gather(source, flow_xy_px)).abs().mean(0)
