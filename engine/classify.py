"""Classify: frames -> frames with scores, batched across videos by frame size (paper §3.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from f2f.engine.errors import NetworkError, VideoError
from f2f.engine.options import ClassifyOptions, RuntimeOptions
from f2f.engine.resize import fit_multiple
from f2f.engine.runtimes.network import Network
from f2f.engine.runtimes.open import open_network
from f2f.engine.stage import StageClock
from f2f.engine.types import ALL_SHOTS, Failure, Frame, ImageArray, ScoredFrame, VideoEnd


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
        wanted = (len(images), len(self.info.classes))
        if tuple(scores.shape) != wanted or cams.dim() != 4 or tuple(cams.shape[:2]) != wanted:
            raise NetworkError(
                f"the classifier gives scores {list(scores.shape)} and cam {list(cams.shape)} for {wanted[0]} images "
                f"and {wanted[1]} classes (f2f.classes); accepted: [B,C] and [B,C,h,w]; export it again"
            )
        if 0 in cams.shape:
            size = "x".join(map(str, images.shape[:1:-1]))
            raise VideoError("network_failed", f"frames of {size} px are too small for the classifier")
        return scores, cams


def to_tensor(images: list[ImageArray]) -> Tensor:
    """uint8 [H, W, 3] RGB images of one size -> float32 [B, 3, H, W] in 0..1."""
    stacked = torch.from_numpy(np.stack(images))  # [B, H, W, 3]
    return stacked.permute(0, 3, 1, 2).float() / 255


class Wanted:
    """Which frames still matter: `find_windows` says which do not, `classify` asks.

    Both run in one thread, a frame at a time, so what a frame is dropped for never depends on its batch.
    """

    def __init__(self) -> None:
        self._enough: dict[int, int] = {}

    def enough_of_shot(self, video: int, shot: int) -> None:
        """No more frames of a video's shot, or of all shots."""
        self._enough[video] = shot

    def __call__(self, frame: Frame) -> bool:
        """Whether anything can come of a frame."""
        return self._enough.get(frame.video) not in {frame.shot, ALL_SHOTS}

    def forget(self, video: int) -> None:
        """The video is over."""
        self._enough.pop(video, None)


def classify(
    items: Iterator[Frame | VideoEnd],
    classifier: Classifier,
    options: ClassifyOptions,
    clock: StageClock,
    wanted: Wanted | None = None,
) -> Iterator[ScoredFrame | VideoEnd]:
    """Score every frame that is `wanted`; the frames of a video stay in order and before its end.

    Batches are always full: short ones are padded, so what shares a batch with a frame cannot change its scores.
    """
    batches = _Batches(classifier, options.batch_frames, clock, wanted or Wanted())
    for item in items:
        yield from batches.end(item) if isinstance(item, VideoEnd) else batches.add(item)


class _Batches:
    """Frames that wait for a full batch of their size."""

    def __init__(self, classifier: Classifier, batch_frames: int, clock: StageClock, wanted: Wanted) -> None:
        self._classifier, self._batch_frames, self._clock, self._wanted = classifier, batch_frames, clock, wanted
        self._buckets: dict[tuple[int, int], list[Frame]] = {}
        self._failed: dict[int, Failure] = {}

    def add(self, frame: Frame) -> Iterator[ScoredFrame]:
        if frame.video in self._failed or not self._wanted(frame):
            return
        for size_hw in self._waiting(frame.video):
            if size_hw != frame.size_hw:  # the video changes its size: what came before goes first
                yield from self._score(size_hw)
        bucket = self._buckets.setdefault(frame.size_hw, [])
        bucket.append(frame)
        if len(bucket) == self._batch_frames:
            yield from self._score(frame.size_hw)

    def end(self, end: VideoEnd) -> Iterator[ScoredFrame | VideoEnd]:
        for size_hw in self._waiting(end.video):
            yield from self._score(size_hw)
        failure = self._failed.pop(end.video, None)
        self._wanted.forget(end.video)
        yield end if end.failure or failure is None else replace(end, failure=failure)

    def _waiting(self, video: int) -> list[tuple[int, int]]:
        return [size for size, frames in self._buckets.items() if any(frame.video == video for frame in frames)]

    def _score(self, size_hw: tuple[int, int]) -> Iterator[ScoredFrame]:
        frames = self._buckets.pop(size_hw)
        with self._clock.busy("classify"):
            results = _looks(self._classifier, frames, self._batch_frames)
        for frame, result in zip(frames, results, strict=True):
            if frame.video in self._failed or not self._wanted(frame):  # those before it may have been enough
                continue
            if isinstance(result, VideoError):
                self._failed[frame.video] = Failure.of("classify", result)
            else:
                yield result


def without_scores(items: Iterator[Frame | VideoEnd]) -> Iterator[ScoredFrame | VideoEnd]:
    """Stands in for `classify` where the query is trusted and no score is asked for."""
    for item in items:
        yield item if isinstance(item, VideoEnd) else ScoredFrame(item, None)


def _looks(classifier: Classifier, frames: list[Frame], batch_frames: int) -> Sequence[ScoredFrame | VideoError]:
    """Each frame scored, or why it is not: a frame that fails must not take its batch with it."""
    try:
        return _scored(classifier, frames, batch_frames)
    except VideoError as error:
        if len(frames) == 1:
            return [error]
        return [result for frame in frames for result in _looks(classifier, [frame], batch_frames)]


def _scored(classifier: Classifier, frames: list[Frame], batch_frames: int) -> list[ScoredFrame]:
    """Up to `batch_frames` frames with their scores, float32 [C], and CAMs, float32 [C, h, w]."""
    images = [frame.image for frame in frames]
    padding = [images[-1]] * (batch_frames - len(images))
    scores, cams = classifier(to_tensor(images + padding))  # [batch_frames, C], [batch_frames, C, h, w]
    rows: npt.NDArray[np.float32] = scores[: len(images)].numpy()
    if not np.isfinite(rows).all():
        raise VideoError("network_failed", "the classifier's scores are not finite")
    # A copy each: a frame that is kept does not keep its batch.
    return [ScoredFrame(frame, row, cam.clone()) for frame, row, cam in zip(frames, rows, cams, strict=False)]
