"""Evidence: soft activation, carried along the flow where it can be trusted, times motion of its own (rule f2f).

The paper's union of thresholded maps (§3.3.2) only ever adds, wrong pixels too. Here nothing is thresholded before
the last step, what the flow cannot follow there and back is not carried, and pixels that move against the camera
count for more: the search term names what the video is about, and that mostly moves.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from f2f.engine.camera import residual_motion
from f2f.engine.stage import StageClock, per_window
from f2f.engine.types import End, EvidentWindow, MovingSoftWindow
from f2f.kernels import soft_union

MOTION_PX = 2.5
"""a deviation from the camera's motion that counts"""
MOTION_SHARES, MOTION_GAINS = (0.3, 0.9), (0.8, 1.2)
"""How much of the evidence hangs on motion: little where what is active moves less than the frame does on average (a
still object among moving ones), much where it moves more, and in proportion between these ratios."""
_EPSILON = 1e-6


def weigh(windows: Iterator[MovingSoftWindow | End], clock: StageClock) -> Iterator[EvidentWindow | End]:
    """The evidence of every window, all classes of its label set at once."""
    yield from per_window("aggregate", evidence_of, windows, clock)


def evidence_of(moving: MovingSoftWindow) -> EvidentWindow:
    """The evidence of one window."""
    (union,) = soft_union(moving.maps[None], moving.flow_xy_px[None], moving.return_xy_px[None])  # [P, H, W]
    if not len(moving.flow_xy_px):
        return EvidentWindow(moving.window, share_of_peak(union), torch.zeros(moving.window.size_hw))
    moves = own_motion(residual_motion(moving.flow_xy_px[-1]))
    return EvidentWindow(moving.window, share_of_peak(by_motion(union, moves)), moves)


def own_motion(residual_px: Tensor) -> Tensor:
    """How far [H, W] px a pixel moves against the camera -> how much that counts, [H, W] in 0..1."""
    return 1 - torch.exp(-residual_px / MOTION_PX)


def by_motion(union: Tensor, moves: Tensor) -> Tensor:
    """Activation [P, H, W] weighted by motion of its own [H, W] in 0..1.

    Where nothing but the camera moves, all pixels get the same weight.
    """
    shares = motion_share(union, moves)[:, None, None]  # [P, 1, 1]
    return union * (1 - shares * (1 - moves))


def motion_share(union: Tensor, moves: Tensor) -> Tensor:
    """How much the evidence of each class hangs on motion, [P] from [P, H, W] and [H, W]."""
    weights = share_of_peak(union).square()
    gain = (weights * moves).sum((1, 2)) / (weights.sum((1, 2)) * moves.mean() + _EPSILON)
    (least, most), (low, high) = MOTION_SHARES, MOTION_GAINS
    return least + (most - least) * ((gain - low) / (high - low)).clamp(0, 1)


def share_of_peak(maps: Tensor) -> Tensor:
    """Maps [P, H, W] -> the same with a peak of 1."""
    return maps / (maps.amax(dim=(-2, -1), keepdim=True) + _EPSILON)
