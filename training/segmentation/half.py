"""What float16 costs a segmenter: where its labels change, and its mIoU beside the one in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from f2f.engine.errors import F2FError, VideoError
from f2f.engine.segmenter import Segmenter
from f2f.engine.types import ImageArray
from f2f.training.segmentation.images import LabelledSet, label_table
from f2f.training.segmentation.inference import read_pixels
from f2f.training.segmentation.scores import Confusion

OnImage = Callable[[object, int], None]
"""is told of every image that is done, and how many there are"""


@dataclass(frozen=True)
class HalfCost:
    """Labels of a network in float16 beside those in float32: images as large as in its training, no CRF."""

    images: int
    agreement: float
    """share of all pixels whose label is the same"""
    mean_iou: tuple[float, float] | None = None
    """in float32 and in float16; None where exact labels are not known"""

    def facts(self) -> dict[str, Any]:
        """The same for the metadata of a file."""
        facts = {"precision": "float16", "compared_images": self.images, "label_agreement": self.agreement}
        if self.mean_iou is None:
            return facts
        whole, half = self.mean_iou
        return facts | {"miou_float32": whole, "miou_float16": half, "miou_cost": whole - half}

    def __str__(self) -> str:
        agreement = f"float16 leaves {self.agreement:.3%} of the labels of {self.images} images as they are in float32"
        if self.mean_iou is None:
            return agreement
        whole, half = self.mean_iou
        return f"{agreement}; mIoU {half:.4f}, in float32 {whole:.4f}: it costs {whole - half:.4f}"


def cost_on_pictures(whole: Segmenter, half: Segmenter, pictures: Sequence[ImageArray]) -> HalfCost:
    """Of two forms of a network, on images [H,W,3] without labels.

    Raises:
        F2FError: one of them gives no finite numbers.
    """
    agreement = _Agreement()
    for picture in pictures:
        agreement.add(_labels(whole, picture), _labels(half, picture))
    return HalfCost(len(pictures), agreement.share)


def cost_on_images(
    whole: Segmenter, half: Segmenter, images: LabelledSet, on_image: OnImage = lambda *_: None
) -> HalfCost:
    """Of two forms of a network, on images with exact labels.

    Raises:
        UsageError: a label map is missing or does not fit, or the images lack a class of the network.
        F2FError: one of them gives no finite numbers.
    """
    table = label_table("the network", whole.info.classes, images.need_image_files().need_labels().classes)
    agreement, in_whole, in_half = _Agreement(), Confusion(images.classes), Confusion(images.classes)
    for one in images.images:
        pixels, truth = read_pixels(one.image), images.labels(one)
        labels, halved = _labels(whole, pixels), _labels(half, pixels)
        agreement.add(labels, halved)
        in_whole.add(table[labels], truth)
        in_half.add(table[halved], truth)
        on_image(one, len(images.images))
    return HalfCost(len(images.images), agreement.share, (in_whole.scores().mean_iou, in_half.scores().mean_iou))


class _Agreement:
    """Share of all pixels with the same label twice."""

    def __init__(self) -> None:
        self._same = self._pixels = 0

    def add(self, labels: ImageArray, others: ImageArray) -> None:
        """Count an image."""
        self._same += int(np.count_nonzero(labels == others))
        self._pixels += labels.size

    @property
    def share(self) -> float:
        """So far."""
        return self._same / self._pixels


def _labels(segmenter: Segmenter, pixels: ImageArray) -> ImageArray:
    try:
        return segmenter(pixels)
    except VideoError as error:
        raise F2FError(f"the network cannot be compared in float32 and float16: {error.detail}") from error
