"""Sizes that networks accept, and back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def resize(images: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Bilinear resize of [B, C, H, W] to [B, C, h, w], anti-aliased where it shrinks; the same object if it fits."""
    if tuple(images.shape[-2:]) == size_hw:
        return images
    return interpolate(images, size_hw, mode="bilinear", align_corners=False, antialias=True)


def fit_multiple(images: Tensor, multiple: int) -> Tensor:
    """[B, 3, H, W] with height and width brought up to the next multiple of `multiple`."""
    height, width = (-(-side // multiple) * multiple for side in images.shape[-2:])
    return resize(images, (height, width))


def resize_flow(flow_xy_px: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Flow [B, 2, H, W] brought to another size; displacements are scaled with it, so they stay px."""
    height, width = flow_xy_px.shape[-2:]
    factors = torch.tensor([size_hw[1] / width, size_hw[0] / height], dtype=flow_xy_px.dtype)
    return resize(flow_xy_px, size_hw) * factors.view(1, 2, 1, 1)
