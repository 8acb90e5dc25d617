"""How good saliency maps are: against exact masks as the field measures, and for what the engine does with them.

Letters: H, W image size, L = 256 levels, T thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2f.engine.types import IGNORE, ImageArray

BETA_SQUARED = 0.3
LEVELS = 256
THETAS = tuple(place / 100 for place in range(101))
"""among which the safe theta_b is looked for"""
SAFE_SHARE = 0.04
"""of the objects' pixels, which may be lost: what the classical saliency's theta_b was chosen by"""


@dataclass(frozen=True)
class SaliencyScores:
    """Figures in 0..1; None where there is nothing to measure them on."""

    images: int
    mae: float | None
    """mean absolute error of a map, mean over images"""
    max_f: float | None
    """highest F of mean precision and mean recall, beta² = 0.3, over 256 thresholds; of images that show an object"""
    max_f_threshold: float | None
    """the lowest that reaches it"""
    theta_b: float
    """saliency below which a pixel of no class is background"""
    objects_lost: float | None
    """share of all objects' pixels that lie below it"""
    ground_found: float | None
    """share of all other pixels that do"""
    safe_theta_b: float | None
    """highest, in steps of 0.01, at which at most 4 % of the objects' pixels are lost"""
    safe_objects_lost: float | None
    safe_ground_found: float | None

    def as_facts(self) -> dict[str, Any]:
        """All figures, rounded, for the metadata of a network."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


class SaliencyTally:
    """Takes maps with their masks, one after the other, and keeps counts."""

    def __init__(self, theta_b: float) -> None:
        self.theta_b, self.images = theta_b, 0
        self._errors: list[float] = []
        self._curves: list[NDArray[np.float64]] = []  # of each image precision and recall, [2,L]
        self._below = np.zeros((2, 1 + len(THETAS)), np.int64)  # ground and objects, at theta_b and at THETAS
        self._pixels = np.zeros(2, np.int64)

    def add(self, values: NDArray[np.float32], mask: ImageArray) -> None:
        """A map [H,W] in 0..1 with its mask [H,W]: 0 ground, 1 salient, 255 does not count."""
        known = mask != IGNORE
        parts = [values[mask == kind] for kind in (0, 1)]  # ground, objects
        self.images += 1
        if known.any():
            self._errors.append(float(np.abs(values[known].astype(np.float64) - mask[known]).mean()))
        if len(parts[1]):
            self._curves.append(precision_and_recall(*parts))
        self._pixels += [len(part) for part in parts]
        self._below += [[np.count_nonzero(part < theta) for theta in (self.theta_b, *THETAS)] for part in parts]

    def scores(self) -> SaliencyScores:
        """Of all maps that were added."""
        (ground, *grounds), (lost, *losses) = (
            [None] * len(row) if count == 0 else (row / count).tolist()
            for row, count in zip(self._below, self._pixels, strict=True)
        )
        safe = max(
            (place for place, share in enumerate(losses) if share is not None and share <= SAFE_SHARE), default=-1
        )
        max_f, threshold = _best_f(self._curves)
        return SaliencyScores(
            images=self.images,
            mae=float(np.mean(self._errors)) if self._errors else None,
            max_f=max_f,
            max_f_threshold=threshold,
            theta_b=self.theta_b,
            objects_lost=lost,
            ground_found=ground,
            safe_theta_b=THETAS[safe] if safe >= 0 else None,
            safe_objects_lost=losses[safe] if safe >= 0 else None,
            safe_ground_found=grounds[safe] if safe >= 0 else None,
        )


def precision_and_recall(ground: NDArray[np.float32], objects: NDArray[np.float32]) -> NDArray[np.float64]:
    """[2,L] of saying "salient" from level t/255 on, t = 0 … 255; precision is 0 where nothing is said."""
    said_ground, said_objects = (
        np.bincount(np.rint(part * (LEVELS - 1)).astype(np.int64), minlength=LEVELS)[::-1].cumsum()[::-1]
        for part in (ground, objects)
    )
    return np.stack([said_objects / np.maximum(1, said_objects + said_ground), said_objects / len(objects)])


def _best_f(curves: Sequence[NDArray[np.float64]]) -> tuple[float | None, float | None]:
    if not curves:
        return None, None
    precision, recall = np.mean(curves, axis=0)  # [L]
    f = (1 + BETA_SQUARED) * precision * recall / np.maximum(1e-12, BETA_SQUARED * precision + recall)
    return float(f.max()), int(f.argmax()) / (LEVELS - 1)
