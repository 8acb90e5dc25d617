"""The methods of training: which losses a segmenter learns from, of images (I) and of labelled videos (V) alike.

Letters: B images, C classes, L = 1 + C labels, H, W crop, h, w = H/8, W/8 cells, rounded up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor

from f2f.training.segmentation.dense_crf import crf_of_grid, refine
from f2f.training.segmentation.growing import grow
from f2f.training.segmentation.losses import (
    balanced_seeding_loss,
    boundary_loss,
    constrain_loss,
    expansion_loss,
    floored_shares,
    labels_loss,
    seeding_loss,
    with_floor,
)
from f2f.training.segmentation.training_options import Method

Losses = dict[str, Tensor]
Weights = Tensor | None
"""how much an image counts beside the others, float32 [B]; None: all the same"""


def sec(logits: Tensor, cells: Tensor, seeds: Tensor, tags: Tensor, weights: Weights = None) -> Losses:
    """Seed, expand, constrain (Kolesnikov & Lampert 2016). The CRF's energies are the negative logits, as in its code.

    Args:
        logits: float32 [B,L,h,w].
        cells: the images at that size, RGB 0..1, [B,3,h,w].
        seeds: int64 [B,h,w], 255 where there is none.
        tags: bool [B,C].
        weights: of the images.
    """
    shares = floored_shares(logits)
    return {
        "seed": seeding_loss(shares, seeds, weights),
        "expand": expansion_loss(shares, tags, weights),
        "constrain": constrain_loss(shares, _sec_refined(logits, cells), weights),
    }


def _sec_refined(logits: Tensor, cells: Tensor) -> Tensor:
    return _refined(-logits.detach(), cells)


def dsrg(logits: Tensor, cells: Tensor, seeds: Tensor, tags: Tensor, weights: Weights = None) -> Losses:
    """Balanced seed on grown seeds, boundary (Huang et al. 2018). The CRF's energies are minus probabilities."""
    shares = floored_shares(logits)
    refined = _dsrg_refined(shares, cells)
    grown = grow(refined, seeds, tags)
    return {"seed": balanced_seeding_loss(shares, grown, weights), "boundary": boundary_loss(shares, refined, weights)}


def _dsrg_refined(shares: Tensor, cells: Tensor) -> Tensor:
    return with_floor(_refined(-shares.detach(), cells))


def labels(logits: Tensor, cells: Tensor, seeds: Tensor, tags: Tensor, weights: Weights = None) -> Losses:
    """Cross-entropy: for exact masks, and for retraining on predicted ones.

    Where the labels are finer than the logits, these are brought to their size, as when the network is used.
    """
    if logits.shape[-2:] != seeds.shape[-2:]:
        logits = F.interpolate(logits, seeds.shape[-2:], mode="bilinear", align_corners=False)
    return {"labels": labels_loss(logits, seeds, weights)}


def _refined(energies: Tensor, cells: Tensor) -> Tensor:
    height, width = energies.shape[-2:]
    return refine(energies, cells, options=crf_of_grid((height, width)))


METHODS: Mapping[Method, Callable[[Tensor, Tensor, Tensor, Tensor, Weights], Losses]] = {
    "sec": sec,
    "dsrg": dsrg,
    "labels": labels,
}


def _sec_targets(logits: Tensor, cells: Tensor, seeds: Tensor, tags: Tensor) -> dict[str, Tensor]:
    return {"refined": _sec_refined(logits, cells).argmax(1)}


def _dsrg_targets(logits: Tensor, cells: Tensor, seeds: Tensor, tags: Tensor) -> dict[str, Tensor]:
    refined = _dsrg_refined(floored_shares(logits), cells)
    return {"grown": grow(refined, seeds, tags), "refined": refined.argmax(1)}


TARGETS: Mapping[Method, Callable[[Tensor, Tensor, Tensor, Tensor], dict[str, Tensor]]] = {
    "sec": _sec_targets,
    "dsrg": _dsrg_targets,
    "labels": lambda *_: {},
}
"""what a method makes of the seeds on the way to its losses, for pictures: names -> labels int64 [B,h,w]"""


def at_cells(image: Tensor, logits: Tensor) -> Tensor:
    """Images [B,3,H,W] at the size of logits [B,L,h,w]."""
    return F.interpolate(image.float(), logits.shape[-2:], mode="bilinear", align_corners=False, antialias=True)
