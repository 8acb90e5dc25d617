"""Resizing as matrix products: what every exporter and runtime knows, anti-aliased as Pillow and torch have it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resampling(given: int, wanted: int) -> Tensor:
    """[wanted,given]: how much every pixel of a row counts in every pixel of the resized one, bilinear.

    Where it shrinks, the triangle is as wide as what a new pixel covers, so nothing is passed over.
    """
    scale = given / wanted
    middles = (torch.arange(wanted) + 0.5) * scale  # [wanted], in px of the given row
    reach = (torch.ones(1) * scale).clamp_min(1)  # no `max`: the sizes are unknown when a graph is written
    weights = (1 - (torch.arange(given) + 0.5 - middles[:, None]).abs() / reach).clamp_min(0)
    return weights / weights.sum(1, keepdim=True)


def warped(maps: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """[B,C,H,W] -> [B,C,h,w]."""
    rows, columns = (
        resampling(given, wanted).to(maps.device) for given, wanted in zip(maps.shape[-2:], size_hw, strict=True)
    )
    return resampled(maps, rows, columns)


def resampled(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Maps [B,C,H,W] by the weights of `resampling`, [h,H] and [w,W] -> [B,C,h,w]."""
    wide = F.linear(maps, columns).transpose(2, 3)  # [B,C,w,H]; `@` would make graphs that refuse one image
    return F.linear(wide, rows).transpose(2, 3)
