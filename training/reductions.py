"""Means over an image that an exported network gives bit for bit alike, wherever in a batch the image stands."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def spatial_mean(maps: Tensor) -> Tensor:
    """[B,C,H,W] -> [B,C], by pooling.

    `mean((2, 3))` is exported as ReduceMean, whose sums in ONNX Runtime depend on where the image starts in memory:
    with maps of odd sizes the last bits would change with the batch, and with them a run's records.
    """
    return F.adaptive_avg_pool2d(maps, 1).flatten(1)


def mean_square(images: Tensor) -> Tensor:
    """[B,3,H,W] -> [B], likewise."""
    red, green, blue = spatial_mean(images.square()).unbind(1)
    return (red + green + blue) / 3
