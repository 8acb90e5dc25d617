"""Refine: evidence -> probabilities of background and classes that follow the image's edges -> a mask (rule f2f)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from f2f.engine.classify import to_tensor
from f2f.engine.quality import estimated_iou
from f2f.engine.stage import StageClock, per_window
from f2f.engine.types import IGNORE, End, EvidentWindow, ImageArray, LabelledWindow
from f2f.kernels import crf_refine

follow_edges = partial(
    crf_refine,
    steps=5,
    gaussian_px=3.0,
    gaussian_weight=3.0,
    bilateral_px=60.0,
    bilateral_rgb=5.0,
    bilateral_weight=4.0,
)
_LEAST = 1e-5


def refine(
    windows: Iterator[EvidentWindow | End], theta: float, sure: float, clock: StageClock
) -> Iterator[LabelledWindow | End]:
    """The masks of windows. Pixels whose likeliest label is less probable than `sure` are ignored."""
    yield from per_window("refine", partial(_labelled, theta, sure), windows, clock)


def _labelled(theta: float, sure: float, evident: EvidentWindow) -> LabelledWindow:
    refined = probabilities(evident.evidence, evident.window.frames[-1].image, theta)  # [1 + P, H, W]
    confidence, likeliest = refined.max(dim=0)  # [H, W] each
    numbers = torch.tensor([0, *(channel + 1 for channel in evident.window.classes)], dtype=torch.uint8)
    labels = torch.where(confidence >= sure, numbers[likeliest], IGNORE)
    qualities = estimated_iou(refined[1:], evident.moves)
    return LabelledWindow(evident.window, labels.numpy(), _to_bytes(confidence), qualities)


def probabilities(evidence: Tensor, image: ImageArray, theta: float) -> Tensor:
    """Evidence [P, H, W] and its frame, uint8 [H, W, 3] RGB -> [1 + P, H, W], background first, along its edges."""
    unary = -prior(evidence, theta).clamp_min(_LEAST).log()  # [1 + P, H, W]
    refined: Tensor = follow_edges(unary[None], to_tensor([image]))[0]
    return refined


def prior(evidence: Tensor, theta: float) -> Tensor:
    """Evidence [P, H, W] -> probabilities [1 + P, H, W], background first.

    Each class's own is evidence^(log ½ / log theta): ½ at theta, 1 at the peak. Background is where no class is.
    """
    single = evidence.clamp(0, 1) ** (math.log(0.5) / math.log(theta))  # [P, H, W]
    together = torch.cat([(1 - single).prod(dim=0, keepdim=True), single])
    return together / together.sum(dim=0, keepdim=True)


def _to_bytes(confidence: Tensor) -> ImageArray:
    pixels: ImageArray = (255 * confidence).round().clamp(0, 255).to(torch.uint8).numpy()
    return pixels
