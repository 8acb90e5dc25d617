"""DSRG: seeds grow into what the network is sure of and what hangs together with them (Huang et al., CVPR 2018).

Letters: B images, C classes, L = 1 + C labels, h, w cells.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from f2f.engine.types import BACKGROUND, IGNORE

FOREGROUND_SHARE, BACKGROUND_SHARE = 0.85, 0.99
"""above which a cell may join a region"""
_NEIGHBOURS = np.zeros((3, 3, 3, 3), bool)
_NEIGHBOURS[1, 1] = True
"""all eight, within one label and image"""


@torch.no_grad()
def grow(
    shares: Tensor,
    seeds: Tensor,
    tags: Tensor,
    foreground_share: float = FOREGROUND_SHARE,
    background_share: float = BACKGROUND_SHARE,
) -> Tensor:
    """Grow seeds int64 [B,h,w] (255: none) by shares [B,L,h,w], refined by the CRF; returns labels like the seeds.

    Of each cell the likeliest label among background and the image's `tags` (bool [B,C]) is its candidate if its share
    is above the threshold; where there is none, a seed's own label is. Cells of one candidate that touch, corners
    included, are a region; a region with a seed of its label in it takes that label, but for cells that are seeds of
    another. Growth starts from the given seeds every time, so nothing builds up over training.
    """
    candidates = _candidates(shares, seeds, tags, foreground_share, background_share)
    labels = np.arange(shares.shape[1]).reshape(-1, 1, 1, 1)
    wanted, planted = (part.cpu().numpy()[None] == labels for part in (candidates, seeds))  # [L,B,h,w]
    regions = _touching(wanted, planted)
    grown = np.where(regions.any(0), regions.argmax(0), IGNORE)
    return torch.where(seeds == IGNORE, torch.from_numpy(grown).to(seeds), seeds)


def _candidates(
    shares: Tensor, seeds: Tensor, tags: Tensor, foreground_share: float, background_share: float
) -> Tensor:
    """The label each cell may take, [B,h,w], 255 for none."""
    allowed = torch.cat([torch.ones_like(tags[:, :1]), tags], 1).bool()  # [B,L]
    share, label = (shares * allowed[:, :, None, None]).max(1)  # [B,h,w]
    sure = share > torch.where(label == BACKGROUND, background_share, foreground_share)
    return torch.where(sure, label, seeds)


def _touching(wanted: npt.NDArray[np.bool_], planted: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The regions of `wanted` [L,B,h,w] in which something is planted."""
    regions, count = ndimage.label(wanted, _NEIGHBOURS)
    kept = np.zeros(count + 1, bool)
    kept[regions[planted]] = True
    kept[0] = False  # what is no region
    return kept[regions]  # type: ignore[no-any-return]
