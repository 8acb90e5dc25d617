"""How good a classifier is: average precision of its tags, and how its CAMs cover the objects where masks are known.

Letters: N images, C classes, T thresholds, H, W image size, h, w CAM size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from f2f.engine.types import IGNORE, ImageArray
from f2f.training.checkpoint import OWN_DEFAULTS
from f2f.training.classifier_data import read_classifier_images
from f2f.training.classifier_files import channels_of, open_classifier
from f2f.training.data import read_image, tag_vector
from f2f.training.options import ClassifierEvaluation
from f2f.training.segmentation.images import LabelledImage, LabelledSet

Predictor = Callable[[Tensor], tuple[Tensor, Tensor]]
"""[B,3,H,W] RGB 0..1 -> scores [B,C], cam [B,C,h,w]: the classifier contract"""
THETAS = tuple(round(0.05 * place, 2) for place in range(1, 20))
"""among which the best is looked for"""


@dataclass(frozen=True)
class MaskQuality:
    """Masks beside exact ones, each figure a mean over masks, 0..1."""

    iou: float
    precision: float
    recall: float


@dataclass(frozen=True)
class ClassScores:
    """Of one class."""

    average_precision: float | None
    """None where no image shows it"""
    masks: int
    """objects that its CAMs are compared with"""
    cams: MaskQuality | None
    """CAMs thresholded at theta_f, None where there are no masks"""


@dataclass(frozen=True)
class ClassifierScores:
    """How well tags are told, and how the CAMs of the tagged classes cover their objects."""

    mean_average_precision: float | None
    """mean over the classes that an image shows, 0..1"""
    passing: float | None
    """share of the true tags whose score exceeds tau"""
    false_passing: float | None
    """share of the absent tags whose score exceeds tau"""
    images: int
    tau: float
    masks: int
    theta_f: float
    cams: MaskQuality | None
    """CAMs of one scale, thresholded at theta_f of their peak; None where there are no masks"""
    best_theta: float | None
    """with the highest IoU"""
    best_cams: MaskQuality | None
    """thresholded there"""
    classes: Mapping[str, ClassScores]

    def as_facts(self) -> dict[str, Any]:
        """All figures but those per class, rounded, for the metadata of a network."""
        return {name: _rounded(value) for name, value in asdict(self).items() if name != "classes"}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return round(value, 4) if isinstance(value, float) else value


OnImage = Callable[[object, int], None]
"""is told of every image that is done, and how many there are"""


def evaluate_classifier(options: ClassifierEvaluation, on_image: OnImage = lambda *_: None) -> ClassifierScores:
    """What `f2f eval classifier` does.

    Raises:
        UsageError: the network, an image, tag or mask is missing or broken, or the classes do not fit.
    """
    torch.set_num_threads(options.runtimes.thread_count)
    images = read_classifier_images(options.images, options.list, options.list).val
    classifier = open_classifier(options.model, options.runtimes)
    channels = channels_of(images.classes, classifier.info.classes)
    given = {"tau": options.tau, "theta_f": options.theta_f}
    thresholds = {**OWN_DEFAULTS, **classifier.info.defaults}
    thresholds |= {name: value for name, value in given.items() if value is not None}
    return score_classifier(classifier, images, channels, thresholds, on_image)


def score_classifier(
    predict: Predictor,
    images: LabelledSet,
    channels: Sequence[int],
    thresholds: Mapping[str, float],
    on_image: OnImage = lambda *_: None,
) -> ClassifierScores:
    """Run a classifier over images once, each at its own size.

    Args:
        predict: the classifier.
        images: with tags, and masks where there are any; pixels without a label do not count.
        channels: the classifier's channel of each of the images' classes.
        thresholds: tau and theta_f.
        on_image: is told of every image.

    Raises:
        UsageError: an image or mask cannot be read.
    """
    thetas = (thresholds["theta_f"], *(theta for theta in THETAS if theta != thresholds["theta_f"]))
    scores, tags = [], []
    overlaps: dict[int, list[NDArray[np.float64]]] = {tag: [] for tag in range(len(channels))}  # [T,3] each
    with torch.inference_mode():
        for one in images.images:
            found, cam = predict(read_image(one.image)[None])
            scores.append(found[0, list(channels)].numpy())
            tags.append(tag_vector(one, len(channels)).numpy() > 0.5)
            for tag, rows in _cam_overlaps(cam[0, list(channels)], images, one, thetas):
                overlaps[tag].append(rows)
            on_image(one, len(images.images))
    return _summed_up(np.stack(scores), np.stack(tags), overlaps, images.classes, thresholds["tau"], thetas)


def _cam_overlaps(
    cams: Tensor, images: LabelledSet, image: LabelledImage, thetas: Sequence[float]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Tag and `mask_overlaps` of every tagged class that the image's mask shows; CAMs [C,h,w]."""
    if image.labels is None or not image.tags:
        return
    labels = images.labels(image)  # [H,W]
    tags = [tag for tag in image.tags if (labels == tag + 1).any()]
    full = F.interpolate(cams[None, tags].relu(), size=labels.shape, mode="bilinear", align_corners=False)[0]
    for tag, cam in zip(tags, full, strict=True):
        yield tag, mask_overlaps(cam.numpy(), labels, tag + 1, thetas)


def mask_overlaps(
    cam: NDArray[np.float32], labels: ImageArray, label: int, thetas: Sequence[float]
) -> NDArray[np.float64]:
    """IoU, precision and recall [T,3] of where a CAM [H,W] exceeds each share of its peak, against a label's pixels."""
    known = labels != IGNORE
    truth, values = labels[known] == label, cam[known]
    rows = []
    for theta in thetas:
        active = values > theta * (cam.max() + 1e-5)
        both = float((active & truth).sum())
        rows.append(both / np.maximum(1, [(active | truth).sum(), active.sum(), truth.sum()]))
    return np.stack(rows)


def _summed_up(
    scores: NDArray[np.float32],
    tags: NDArray[np.bool_],
    overlaps: Mapping[int, list[NDArray[np.float64]]],
    names: Sequence[str],
    tau: float,
    thetas: Sequence[float],
) -> ClassifierScores:
    """Scores and tags [N,C]; of every tag, what `mask_overlaps` gave for its masks; `thetas` begins with theta_f."""
    precisions = [_number(average_precision(scores[:, place], tags[:, place])) for place in range(len(names))]
    means = [_mean_overlap([rows for tag in overlaps for rows in overlaps[tag]], place) for place in range(len(thetas))]
    best = max(range(len(thetas)), key=lambda place: means[place].iou if means[place] else -1.0)  # type: ignore[union-attr]
    return ClassifierScores(
        mean_average_precision=_number(np.mean([value for value in precisions if value is not None] or [math.nan])),
        passing=_number(np.mean(scores[tags] > tau)) if tags.any() else None,
        false_passing=_number(np.mean(scores[~tags] > tau)) if not tags.all() else None,
        images=len(scores),
        tau=tau,
        masks=sum(map(len, overlaps.values())),
        theta_f=thetas[0],
        cams=means[0],
        best_theta=thetas[best] if means[best] else None,
        best_cams=means[best],
        classes={
            name: ClassScores(precisions[place], len(overlaps[place]), _mean_overlap(overlaps[place], 0))
            for place, name in enumerate(names)
        },
    )


def _mean_overlap(overlaps: Sequence[NDArray[np.float64]], place: int) -> MaskQuality | None:
    """Means over masks at one of the thresholds."""
    if not overlaps:
        return None
    iou, precision, recall = np.mean([rows[place] for rows in overlaps], axis=0)
    return MaskQuality(float(iou), float(precision), float(recall))


def _number(value: float | np.floating[Any]) -> float | None:
    return None if math.isnan(value) else float(value)


def average_precision(scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
    """Mean precision at the ranks of the true ones; nan where none is true."""
    if not truth.any():
        return float("nan")
    ranked = truth[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return float(precision[ranked].mean())
