"""Classify: frames -> frames with scores, batched across videos by frame size (paper §3.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from f2f.engine.errors import VideoError
from f2f.engine.options import ClassifyOptions, RuntimeOptions
from f2f.engine.resize import fit_multiple
from f2f.engine.runtimes.network import Network, open_network
from f2f.engine.stage import StageClock
from f2f.engine.types import Failure, Frame, ImageArray, ScoredFrame, VideoEnd


class Classifier:
    """The classifier network: scores of a batch of images, and their CAMs."""

    def __init__(self, network: Network) -> None:
        self.info = network.info
        self._network = network

    @classmethod
    def open(cls, name: str, options: RuntimeOptions) -> Classifier:
        """Open the file `name`, or `demo`."""
        return cls(open_network(name, "classifier", options))

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] float32 in 0..1 -> scores [B, C] in 0..1, CAMs [B, C, h, w] before ReLU."""
        scores, cams = self._network(fit_multiple(images, self.info.size_multiple))
        return scores, cams


def to_tensor(images: list[ImageArray]) -> Tensor:
    """uint8 [H, W, 3] RGB images of one size -> float32 [B, 3, H, W] in 0..1."""
    stacked = torch.from_numpy(np.stack(images))  # [B, H, W, 3]
    return stacked.permute(0, 3, 1, 2).float() / 255


def classify(
    items: Iterator[Frame | VideoEnd], classifier: Classifier, options: ClassifyOptions, clock: StageClock
) -> Iterator[ScoredFrame | VideoEnd]:
    """Score every frame; the frames of a video stay in order and before its end.

    Batches are always full: short ones are padded, so what shares a batch with a frame cannot change its scores.
    """
    buckets: dict[tuple[int, int], list[Frame]] = {}
    failed: dict[int, Failure] = {}

    def scored(size_hw: tuple[int, int]) -> Iterator[ScoredFrame]:
        frames = buckets.pop(size_hw)
        try:
            with clock.busy("classify"):
                scores = _scores(classifier, frames, options.batch_frames)
        except VideoError as error:
            failed.update({frame.video: Failure.of("classify", error) for frame in frames})
            return
        yield from (ScoredFrame(frame, row) for frame, row in zip(frames, scores, strict=True))

    for item in items:
        if isinstance(item, VideoEnd):
            for size_hw in [size for size, frames in buckets.items() if any(f.video == item.video for f in frames)]:
                yield from scored(size_hw)
            failure = item.failure or failed.pop(item.video, None)
            yield replace(item, failure=failure)
        elif item.video not in failed:
            bucket = buckets.setdefault(item.size_hw, [])
            bucket.append(item)
            if len(bucket) == options.batch_frames:
                yield from scored(item.size_hw)


def without_scores(items: Iterator[Frame | VideoEnd]) -> Iterator[ScoredFrame | VideoEnd]:
    """Stands in for `classify` where the query is trusted and no score is asked for."""
    for item in items:
        yield item if isinstance(item, VideoEnd) else ScoredFrame(item, None)


def _scores(classifier: Classifier, frames: list[Frame], batch_frames: int) -> npt.NDArray[np.float32]:
    """Scores of up to `batch_frames` frames, float32 [len(frames), C]."""
    images = [frame.image for frame in frames]
    padding = [images[-1]] * (batch_frames - len(images))
    scores, _ = classifier(to_tensor(images + padding))  # [batch_frames, C]
    rows: npt.NDArray[np.float32] = scores[: len(images)].numpy()
    if not np.isfinite(rows).all():
        raise VideoError("network_failed", "the classifier's scores are not finite")
    return rows
