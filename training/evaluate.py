"""How good a network is: end-point error beside two baselines, average precision, and how CAMs cover their objects.

Letters: C classes, H, W frame size, h, w CAM size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from f2f.engine.errors import UsageError
from f2f.engine.flow import DisFlow, Flow
from f2f.training.flow_methods import ZeroFlow
from f2f.training.pairs import Pair

Image = NDArray[np.uint8]
FlowPredictor = Callable[[Image, Image], NDArray[np.float32]]
"""(first, second), [H,W,3] RGB each -> flow [H,W,2] px on the first, pointing to the second"""
ClassifierPredictor = Callable[[Tensor], tuple[Tensor, Tensor]]
"""[B,3,H,W] RGB 0..1 -> scores [B,C], cam [B,C,h,w]: the classifier contract"""


@dataclass(frozen=True)
class FlowErrors:
    """Mean end-point errors over all pixels of all pairs, px; `visible` where the point is seen in both frames."""

    network_all: float
    network_visible: float
    zero_all: float
    zero_visible: float
    dis_all: float
    """OpenCV DIS, medium preset; nan without OpenCV"""
    dis_visible: float
    pairs: int

    def as_dict(self) -> dict[str, float]:
        """The figures, rounded for a report."""
        return {name: round(float(value), 3) for name, value in asdict(self).items()}


def evaluate_flow(predict: FlowPredictor, pairs: Iterable[Pair], with_dis: bool = True) -> FlowErrors:
    """End-point error of a predictor beside zero flow and OpenCV DIS, on the same pairs."""
    methods: dict[str, FlowPredictor] = {"network": predict, "zero": engine_predictor(ZeroFlow())}
    if with_dis:
        methods["dis"] = engine_predictor(DisFlow())
    sums = dict.fromkeys([f"{name}_{part}" for name in ("network", "zero", "dis") for part in ("all", "visible")], 0.0)
    pixels, seen, count = 0, 0, 0
    for pair in pairs:
        for name, method in methods.items():
            error = np.linalg.norm(method(pair.first, pair.second) - pair.flow_xy_px, axis=-1)
            sums[f"{name}_all"] += float(error.sum())
            sums[f"{name}_visible"] += float(error[pair.visible].sum())
        pixels, seen, count = pixels + pair.visible.size, seen + int(pair.visible.sum()), count + 1
    if count == 0:
        raise UsageError("there are no pairs to evaluate flow on; give at least one")
    means = {name: value / (seen if name.endswith("visible") else pixels) for name, value in sums.items()}
    if not with_dis:
        means |= {"dis_all": float("nan"), "dis_visible": float("nan")}
    return FlowErrors(**means, pairs=count)


def engine_predictor(flow: Flow) -> FlowPredictor:
    """What the engine takes as flow as a predictor: flow lives on the later frame, so `first` is handed over last."""
    return lambda first, second: flow([[second, first]])[0, 0].permute(1, 2, 0).numpy()


def flow_predictor(network: Callable[[Tensor], Tensor]) -> FlowPredictor:
    """A network by the flow contract as a predictor: flow lives on the later frame, so `first` is handed over last."""

    def predict(first: Image, second: Image) -> NDArray[np.float32]:
        frames = torch.from_numpy(np.stack([second, first])).permute(0, 3, 1, 2)[None].float() / 255
        with torch.inference_mode():
            flow: NDArray[np.float32] = network(frames)[0, 0].permute(1, 2, 0).numpy()
        return flow

    return predict


@dataclass(frozen=True)
class ClassifierQuality:
    """How well tags are told, and how the CAM masks of the true classes cover their objects."""

    mean_average_precision: float
    """mean over classes, 0..1"""
    average_precision: tuple[float, ...]
    """per class, 0..1"""
    passing: float
    """share of the true tags whose score exceeds tau"""
    false_passing: float
    """share of the absent tags whose score exceeds tau"""
    images: int

    def as_dict(self) -> dict[str, float]:
        """The headline figures, rounded for a report."""
        names = ("mean_average_precision", "passing", "false_passing", "images")
        return {name: round(float(getattr(self, name)), 4) for name in names}


def evaluate_classifier(
    predict: ClassifierPredictor, samples: Iterable[tuple[Tensor, Tensor]], tau: float = 0.9
) -> ClassifierQuality:
    """Average precision over (image [3,H,W] RGB 0..1, tags [C]) samples."""
    scores, tags = [], []
    with torch.inference_mode():
        for image, truth in samples:
            scores.append(predict(image[None])[0][0])
            tags.append(truth)
    if not scores:
        raise UsageError("there are no images to evaluate a classifier on; give at least one")
    given, true = torch.stack(scores).numpy(), torch.stack(tags).numpy() > 0.5  # [N,C]
    per_class = tuple(average_precision(given[:, c], true[:, c]) for c in range(true.shape[1]))
    return ClassifierQuality(
        mean_average_precision=float(np.nanmean(per_class)),
        average_precision=per_class,
        passing=float((given[true] > tau).mean()),
        false_passing=float((given[~true] > tau).mean()),
        images=len(scores),
    )


def average_precision(scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
    """Mean precision at the ranks of the true ones; nan where none is true."""
    if not truth.any():
        return float("nan")
    ranked = truth[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return float(precision[ranked].mean())


@dataclass(frozen=True)
class MaskQuality:
    """Intersection over union, precision and recall of masks, each a mean over masks."""

    iou: float
    precision: float
    recall: float
    masks: int

    def as_dict(self) -> dict[str, float]:
        """The figures, rounded for a report."""
        return {name: round(float(value), 4) for name, value in asdict(self).items()}


def evaluate_cams(
    predict: ClassifierPredictor,
    samples: Iterable[tuple[Tensor, Sequence[tuple[int, NDArray[np.bool_]]]]],
    theta_f: float,
) -> MaskQuality:
    """Single-scale CAM masks, thresholded at theta_f of their peak, against exact masks.

    A sample is an image [3,H,W] RGB 0..1 and its (channel, mask [H,W]) pairs.
    """
    rows = []
    with torch.inference_mode():
        for image, objects in samples:
            cam = predict(image[None])[1].relu()
            cam = F.interpolate(cam, size=image.shape[-2:], mode="bilinear", align_corners=False)[0]
            rows += [_overlap(_active(cam[channel], theta_f), mask) for channel, mask in objects]
    if not rows:
        raise UsageError("there are no masks to evaluate CAMs on; give at least one")
    iou, precision, recall = np.mean(rows, axis=0)
    return MaskQuality(float(iou), float(precision), float(recall), len(rows))


def _active(cam: Tensor, theta_f: float) -> NDArray[np.bool_]:
    active: NDArray[np.bool_] = (cam > theta_f * (cam.max() + 1e-5)).numpy()
    return active


def _overlap(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[float, float, float]:
    both = float((mask & truth).sum())
    return both / max(1, (mask | truth).sum()), both / max(1, mask.sum()), both / max(1, truth.sum())
