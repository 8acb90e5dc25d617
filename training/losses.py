"""Losses, each one function. Letters: B, C, H, W."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from f2f.kernels import cost_volume
from f2f.training.options import FlowLoss
from f2f.training.pwcnet import FLOW_UNIT_PX

LEVEL_WEIGHTS = (0.32, 0.08, 0.02, 0.01, 0.005)
"""of levels 6..2 (Sun et al. 2018, §4.1)"""
ROBUST_OFFSET, ROBUST_POWER = 0.01, 0.4
"""epsilon and q of the fine-tuning loss (Sun et al. 2018, eq. 2)"""
MATCHED_LEVELS = (2, 3, 4, 5)
MATCHING_SHARPNESS = 10.0


def classifier_loss(cam: Tensor, tags: Tensor) -> Tensor:
    """Mean binary cross-entropy of the pooled CAM [B,C,h,w] against tags [B,C] in {0,1}."""
    return F.binary_cross_entropy_with_logits(cam.mean((2, 3)), tags)


def multiscale_flow_loss(
    flows: list[Tensor], target_px: Tensor, known: Tensor, penalty: FlowLoss = "epe", least_known: float = 0.5
) -> Tensor:
    """Weighted errors of levels 6..2, summed over pixels, mean over the batch (Sun et al. 2018, eq. 1 and 2).

    `flows` are [B,2,H/2^l,W/2^l] in units of 20 px, `target_px` [B,2,H,W], `known` [B,1,H,W] in {0,1}. A coarse
    pixel's target is the mean over the known pixels below it; it counts where they are more than `least_known` of all.
    """
    total = target_px.new_zeros(())
    for weight, flow in zip(LEVEL_WEIGHTS, flows, strict=True):
        size_hw = (flow.shape[-2], flow.shape[-1])
        share = F.adaptive_avg_pool2d(known, size_hw)
        target = F.adaptive_avg_pool2d(target_px * known, size_hw) / share.clamp_min(1e-6) / FLOW_UNIT_PX
        error = _robust(flow - target) if penalty == "robust" else _length(flow - target)  # [B,1,h,w]
        total = total + weight * (error * (share > least_known)).sum()
    return total / target_px.shape[0]


def _length(error: Tensor) -> Tensor:
    """[B,2,h,w] -> end-point error [B,1,h,w]."""
    return error.square().sum(1, keepdim=True).add(1e-8).sqrt()


def _robust(error: Tensor) -> Tensor:
    """[B,2,h,w] -> (|du| + |dv| + 0.01)^0.4, [B,1,h,w]: grows slowly, so that outliers count for less."""
    return error.abs().sum(1, keepdim=True).add(ROBUST_OFFSET).pow(ROBUST_POWER)


def matching_loss(features: list[Tensor], others: list[Tensor], target_px: Tensor, known: Tensor) -> Tensor:
    """How badly the cost volumes of levels 2..5 point at the true displacement: cross-entropy over its 9×9 cells.

    Features come to be worth matching within some hundred steps with it; without it the decoders sit at zero flow for
    thousands. `features`, `others` are the pyramids of both frames, targets as in `multiscale_flow_loss`. Cells whose
    flow is not known throughout do not count, so of sparse truth none does.
    """
    total = target_px.new_zeros(())
    for level in MATCHED_LEVELS:
        here, there = features[level - 1].float(), others[level - 1].float()
        size_hw = (here.shape[-2], here.shape[-1])
        target = F.adaptive_avg_pool2d(target_px, size_hw) / 2**level  # [B,2,h,w] cells
        usable = (F.adaptive_avg_pool2d(known, size_hw) > 0.99).squeeze(1) & (target.abs() <= 4).all(1)
        log_shares = (MATCHING_SHARPNESS * cost_volume(here, there)).log_softmax(1)
        wanted = _bilinear_cells(target)
        loss = -(wanted * log_shares).sum(1)
        total = total + (loss * usable).sum() / usable.sum().clamp_min(1)
    return total


def _bilinear_cells(target: Tensor) -> Tensor:
    """Bilinear weights [B,81,h,w] of displacements [B,2,h,w] on the 9×9 cells, x fastest."""
    cells = torch.arange(-4, 5, device=target.device, dtype=target.dtype).view(1, 9, 1, 1)
    x, y = ((1 - (target[:, axis, None] - cells).abs()).clamp_min(0) for axis in (0, 1))  # [B,9,h,w]
    return (y.unsqueeze(2) * x.unsqueeze(1)).flatten(1, 2)
