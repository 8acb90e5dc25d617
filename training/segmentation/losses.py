"""What SEC and DSRG ask of a segmenter; each loss one function, a mean over the batch's images.

SEC (Kolesnikov & Lampert, ECCV 2016): seed, expand, constrain. DSRG (Huang et al., CVPR 2018): balanced seed, boundary.
Letters: B images, C classes, L = 1 + C labels, h, w cells, N = h * w.

`shares` are the network's probabilities, float32 [B,L,h,w], of `floored_shares`. `seeds` are labels int64 [B,h,w], 255
where there is none. `tags` are the classes of an image, bool [B,C]. `refined` is what the CRF makes of the shares,
[B,L,h,w], and a constant: no gradient goes through it. `weights` say how much an image counts beside the others, 0 or
more, [B]: equal ones change nothing, one of 0 leaves it out. An image without seeds, or without tags, adds nothing to
the terms about them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from f2f.engine.types import BACKGROUND, IGNORE

SHARE_FLOOR = 1e-4
"""added to every probability; keeps logarithms and their gradients bounded"""
LEAST_SHARE = 1e-7
"""logarithms are taken of no less, should shares come without the floor"""
FOREGROUND_DECAY, BACKGROUND_DECAY = 0.996, 0.999
"""d+ and d_bg of the weighted rank pooling, for maps of 41 x 41 cells"""
LEAST_RATIO, MOST_RATIO = 0.05, 20.0
"""of refined to own shares in the boundary loss"""
_LEAST_WEIGHT = 1e-12
"""weights that add up to less count as none"""


def floored_shares(logits: Tensor) -> Tensor:
    """Softmax of [B,L,h,w] with a floor, in float32."""
    return with_floor(logits.float().softmax(1))


def with_floor(shares: Tensor) -> Tensor:
    """Shares [B,L,h,w] + 1e-4, normalised anew."""
    raised = shares + SHARE_FLOOR
    return raised / raised.sum(1, keepdim=True)


def seeding_loss(shares: Tensor, seeds: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean -log p of an image's seeds, those of the background and of classes in one mean (SEC)."""
    return _mean(_mean_surprise(shares, seeds, seeds != IGNORE), weights)


def balanced_seeding_loss(shares: Tensor, seeds: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean -log p of an image's class seeds plus that of its background seeds (DSRG)."""
    background = seeds == BACKGROUND
    classes = (seeds != IGNORE) & ~background
    surprise = _mean_surprise(shares, seeds, classes) + _mean_surprise(shares, seeds, background)  # [B]
    return _mean(surprise, weights)


def _mean_surprise(shares: Tensor, seeds: Tensor, counted: Tensor) -> Tensor:
    """Mean -log p of the seeds over the cells `counted` [B,h,w], [B]; 0 where there are none."""
    surprise = F.nll_loss(_log(shares), seeds, ignore_index=IGNORE, reduction="none")  # [B,h,w]
    return (surprise * counted).sum((1, 2)) / counted.sum((1, 2)).clamp_min(1)


def expansion_loss(
    shares: Tensor,
    tags: Tensor,
    weights: Tensor | None = None,
    foreground_decay: float = FOREGROUND_DECAY,
    background_decay: float = BACKGROUND_DECAY,
) -> Tensor:
    """What is tagged is seen somewhere, what is not is seen nowhere, background is seen widely (SEC).

    Tagged classes and the background are pooled by weighted rank, the others by their maximum (d- = 0).
    """
    seen = -_log(rank_pool(shares[:, 1:], foreground_decay))  # [B,C]
    unseen = -_log(1 - shares[:, 1:].amax((2, 3)))  # [B,C]
    background = -_log(rank_pool(shares[:, :1], background_decay))  # [B,1]
    return _mean(_mean_where(seen, tags) + _mean_where(unseen, ~tags) + background[:, 0], weights)


def rank_pool(shares: Tensor, decay: float) -> Tensor:
    """Global weighted rank pooling, [B,K,h,w] -> [B,K]: the j-th largest counts decay^j, j = 0.., of the sum of all.

    Decay 0 is the maximum, decay 1 the mean.
    """
    ranked = shares.flatten(2).sort(2, descending=True).values  # [B,K,N]
    weights = decay ** torch.arange(ranked.shape[2], device=shares.device, dtype=shares.dtype)  # 0^0 is 1
    return ranked @ (weights / weights.sum())


def constrain_loss(shares: Tensor, refined: Tensor, weights: Tensor | None = None) -> Tensor:
    """Kullback-Leibler divergence of the shares from the refined ones, mean over cells (SEC)."""
    target = with_floor(refined.detach().float())
    return _mean((target * (target.log() - _log(shares))).sum(1).mean((1, 2)), weights)


def boundary_loss(shares: Tensor, refined: Tensor, weights: Tensor | None = None) -> Tensor:
    """The same with the ratio of refined to own shares kept within .05..20 (DSRG); where it is not, no gradient."""
    target = with_floor(refined.detach().float())
    ratio = (target / shares.clamp_min(LEAST_SHARE)).clamp(LEAST_RATIO, MOST_RATIO)
    return _mean((target * ratio.log()).sum(1).mean((1, 2)), weights)


def labels_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of logits [B,L,h,w] with labels int64 [B,h,w], mean over the batch's cells that are not 255."""
    losses = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")  # [B,h,w]
    counts = (labels != IGNORE).float().sum((1, 2))  # [B]
    return _mean(losses.sum((1, 2)) / counts.clamp_min(1), counts if weights is None else counts * weights)


def _mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of losses [B] of images, 0 where none counts."""
    if weights is None:
        return losses.mean()
    return (losses * weights).sum() / weights.sum().clamp_min(_LEAST_WEIGHT)


def _mean_where(values: Tensor, counted: Tensor) -> Tensor:
    """Mean over the classes `counted` of [B,C], [B]; 0 where there are none."""
    return (values * counted).sum(1) / counted.sum(1).clamp_min(1)


def _log(shares: Tensor) -> Tensor:
    return shares.clamp_min(LEAST_SHARE).log()
