"""Quality: how much of a mask is right, estimated from what is known when it is made (rule f2f).

The estimate is of the mask's IoU with the truth: a logistic function of three things that are cheap, and that rise or
fall with the IoU of rendered and of real masks alike. The weights are fitted to masks of 60 rendered videos, none of
which is measured in the README, by

    python benchmarks/quality_score.py calibrate

It ranks masks better than it measures them: where masks are better than those of the synthetic web, as on the README's
real videos, the estimates are too low together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor

from f2f.engine.types import End, LabelledWindow, PartEnd, VideoEnd

OFFSET, WEIGHTS = -5.21, (1.12, 5.61, -6.71)
"""of the logistic function; the weights are those of `signs`, in its order"""
_SURELY, _PERHAPS = 0.9, 0.1
_DECIMALS = 3
_LEAST = 1e-6


def estimated_iou(classes: Tensor, moves: Tensor) -> tuple[float, ...]:
    """The estimated IoU of each of P masks, which are where their class is more likely than not; 0 for an empty one.

    Args:
        classes: float32 [P, H, W] in 0..1: the probability of each class, without background's.
        moves: float32 [H, W] in 0..1: motion against the camera.
    """
    estimates = torch.sigmoid(OFFSET + signs(classes, moves) @ torch.tensor(WEIGHTS))  # [P]
    some = _masks(classes).flatten(1).any(1)  # [P]
    return tuple(round(float(estimate), _DECIMALS) for estimate in torch.where(some, estimates, 0.0))


def signs(classes: Tensor, moves: Tensor) -> Tensor:
    """What tells of each mask how right it is, float32 [P, 3]; arguments as above.

    - how its probability correlates with motion of its own over the frame, -1..1; 0 where nothing moves;
    - how decided it is: the IoU of where it is almost sure and where it is at all possible, 0..1;
    - the share of the frame's border that it covers, 0..1: background is what touches the border.
    """
    return torch.stack([_correlation(classes, moves), _decidedness(classes), _on_border(_masks(classes))], dim=1)


def keep_good(
    items: Iterator[LabelledWindow | End],
    queries: Mapping[int, int],
    least: float,
    begun: Mapping[int, PartEnd] = MappingProxyType({}),
) -> Iterator[LabelledWindow | End]:
    """The masks whose estimated IoU is `least` or more for the query's class; ends count the others.

    `queries` maps a video to the channel of its query's class, `begun` a video to the part of it that was done before.
    With `least` 0 all are kept.
    """
    left_out: dict[int, tuple[int, float]] = {}
    for item in items:
        video = item.video if isinstance(item, End) else item.window.video
        before = left_out.get(video) or _before(begun.get(video))
        if isinstance(item, VideoEnd):
            left_out.pop(video, None)
            yield _with_count(item, *before, least)
        elif isinstance(item, PartEnd):
            yield replace(item, left_out=before[0], best_left_out=before[1])
        else:
            quality = item.quality(queries[video])
            if quality is None or quality >= least:
                yield item
            else:
                left_out[video] = before[0] + 1, max(before[1], quality)


def _before(part: PartEnd | None) -> tuple[int, float]:
    """Masks that are left out in a part of a video, and the highest quality among them."""
    return (part.left_out, part.best_left_out) if part else (0, 0.0)


def _with_count(end: VideoEnd, count: int, best: float, least: float) -> VideoEnd:
    """The end of a video; its note is read where no mask is left."""
    if end.failure or not count:
        return end
    detail = f"the best of {count} masks has an estimated IoU of {best}; --min-quality is {least}"
    return replace(end, note=end.note or ("low_quality", detail), left_out=count)


def _masks(classes: Tensor) -> Tensor:
    return classes > 0.5


def _correlation(classes: Tensor, moves: Tensor) -> Tensor:
    """Pearson's, of each class [P, H, W] with motion [H, W]: [P]."""
    one = classes - classes.mean((1, 2), keepdim=True)
    other = moves - moves.mean()
    scale = (one.square().mean((1, 2)) * other.square().mean()).sqrt()
    correlation: Tensor = (one * other).mean((1, 2)) / (scale + _LEAST)
    return correlation


def _decidedness(classes: Tensor) -> Tensor:
    surely, perhaps = ((classes > bound).sum((1, 2)) for bound in (_SURELY, _PERHAPS))  # [P] each
    return surely / perhaps.clamp_min(1)


def _on_border(masks: Tensor) -> Tensor:
    border = torch.cat([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]], dim=1)  # [P, 2W + 2H]
    return border.float().mean(dim=1)
