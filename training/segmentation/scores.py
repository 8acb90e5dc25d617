"""Scores of label maps: one table of counts over all pixels of a data set, and what follows from it.

Letters: C classes; rows of the table are true labels, columns predicted ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from f2f.engine.types import IGNORE, ImageArray


@dataclass(frozen=True)
class SegmentationScores:
    """Pascal VOC's measures over a data set."""

    mean_iou: float
    """over background and all classes that have one"""
    pixel_accuracy: float
    """share of the pixels with a true label that are predicted right"""
    iou: dict[str, float | None]
    """background and each class: right / (true + predicted - right); None where no pixel is either"""
    absent: tuple[str, ...]
    """labels that no pixel has, in truth or prediction: they are left out of the mean"""
    images: int


class Confusion:
    """Counts of (true, predicted) labels; pixels without a true label (255) do not count.

    A pixel that is predicted as 255 is wrong: it counts as true and as no label's prediction.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.names = ("background", *classes)
        self.counts: NDArray[np.int64] = np.zeros((len(self.names), len(self.names) + 1), np.int64)
        """[1+C, 1+C+1]; the last column: predicted as 255"""
        self.images = 0

    def add(self, predicted: ImageArray, truth: ImageArray) -> None:
        """Count an image: label maps [H,W] each, 0..C or 255."""
        assert predicted.shape == truth.shape, (predicted.shape, truth.shape)
        rows, columns = self.counts.shape
        known = truth != IGNORE
        guesses = np.where(predicted == IGNORE, columns - 1, predicted)[known].astype(np.int64)
        found = np.bincount(truth[known].astype(np.int64) * columns + guesses, minlength=rows * columns)
        self.counts += found.reshape(rows, columns)
        self.images += 1

    def scores(self) -> SegmentationScores:
        """The measures so far; nan where no pixel has a true label."""
        right = np.diag(self.counts).astype(np.float64)  # [1+C]
        true, predicted = self.counts.sum(1), self.counts[:, :-1].sum(0)
        either = true + predicted - right
        iou = [float(r / e) if e else None for r, e in zip(right, either, strict=True)]
        there = [value for value in iou if value is not None]
        return SegmentationScores(
            mean_iou=float(np.mean(there)) if there else float("nan"),
            pixel_accuracy=float(right.sum() / true.sum()) if true.sum() else float("nan"),
            iou=dict(zip(self.names, iou, strict=True)),
            absent=tuple(name for name, value in zip(self.names, iou, strict=True) if value is None),
            images=self.images,
        )
