"""Sizes that networks accept."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate, pad


def resize(images: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Bilinear resize of [B, C, H, W] to [B, C, h, w], anti-aliased where it shrinks; the same object if it fits."""
    if tuple(images.shape[-2:]) == size_hw:
        return images
    return interpolate(images, size_hw, mode="bilinear", align_corners=False, antialias=True)


def fit_multiple(images: Tensor, multiple: int) -> Tensor:
    """[B, 3, H, W] with height and width brought up to the next multiple of `multiple`."""
    height, width = (-(-side // multiple) * multiple for side in images.shape[-2:])
    return resize(images, (height, width))


def pad_multiple(images: Tensor, multiple: int) -> Tensor:
    """[B, 3, H, W] with height and width brought up to the next multiple of `multiple`: the border's pixels go on."""
    right, below = (-images.shape[-1] % multiple, -images.shape[-2] % multiple)
    return pad(images, [0, right, 0, below], mode="replicate") if right or below else images
