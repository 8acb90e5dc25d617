"""Classify: frames -> frames with scores, batched across videos by frame size (paper §3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from f2f.engine.errors import NetworkError, VideoError
from f2f.engine.options import RuntimeOptions
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
    """Which frames still matter: `find_windows` says which do not, `scout` and `classify` ask.

    All run in one thread, a frame at a time, so what a frame is dropped for never depends on its batch.
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


Look = ScoredFrame | VideoError
"""a frame's scores, or why it has none"""


@dataclass(frozen=True)
class Probed:
    """A frame that was looked at already."""

    frame: Frame
    look: Look


def classify(
    items: Iterator[Frame | Probed | VideoEnd],
    classifier: Classifier,
    batch_frames: int,
    clock: StageClock,
    wanted: Wanted | None = None,
) -> Iterator[ScoredFrame | VideoEnd]:
    """Score every frame that is `wanted` and was not looked at; frames of a video stay in order, before its end.

    The first frame that fails fails its video; those before it stay.
    """
    wanted = wanted or Wanted()
    failed: dict[int, Failure] = {}
    batches = Batches[Frame | Probed](classifier, batch_frames, clock, _unknown)

    def settled(results: Sequence[tuple[Frame | Probed, Look | None]]) -> Iterator[ScoredFrame]:
        for item, found in results:
            frame, look = (item.frame, item.look) if isinstance(item, Probed) else (item, found)
            if frame.video in failed or not wanted(frame):  # those before it may have been enough
                continue
            if isinstance(look, VideoError):
                failed[frame.video] = Failure.of("classify", look)
            else:
                assert look is not None, "what is not known was looked at"
                yield look

    for item in items:
        if not isinstance(item, VideoEnd):
            frame = item.frame if isinstance(item, Probed) else item
            if frame.video not in failed and wanted(frame):
                yield from settled(batches.add(item, frame.video, frame.size_hw))
            continue
        yield from settled(batches.end(item.video))
        failure = failed.pop(item.video, None)
        wanted.forget(item.video)
        yield item if item.failure or failure is None else replace(item, failure=failure)


def _unknown(item: Frame | Probed) -> Frame | None:
    return item if isinstance(item, Frame) else None


def without_scores(items: Iterator[Frame | VideoEnd]) -> Iterator[ScoredFrame | VideoEnd]:
    """Stands in for `classify` where the query is trusted and no score is asked for."""
    for item in items:
        yield item if isinstance(item, VideoEnd) else ScoredFrame(item, None)


Item = TypeVar("Item")


class Batches(Generic[Item]):
    """Items, each with a frame to be looked at or none, that wait for a full batch of one frame size.

    Batches are always full: short ones are padded, so what shares a batch with a frame cannot change its scores. The
    items of a video come out in the order in which they were added.
    """

    def __init__(
        self,
        classifier: Classifier,
        batch_frames: int,
        clock: StageClock,
        frame_of: Callable[[Item], Frame | None],
    ) -> None:
        self._classifier, self._batch_frames, self._clock, self._frame_of = classifier, batch_frames, clock, frame_of
        self._buckets: dict[tuple[int, int], list[_Waiting[Item]]] = {}

    def add(self, item: Item, video: int, size_hw: tuple[int, int]) -> list[tuple[Item, Look | None]]:
        """Add an item; items that are done now, with what was found."""
        done = []
        for other in self._sizes(video):
            if other != size_hw:  # the video changes its size: what came before goes first
                done += self._empty(other)
        frame = self._frame_of(item)
        if frame is None and not self._sizes(video):
            return [*done, (item, None)]
        bucket = self._buckets.setdefault(size_hw, [])
        bucket.append(_Waiting(video, item, frame))
        if sum(one.frame is not None for one in bucket) == self._batch_frames:
            done += self._empty(size_hw)
        return done

    def end(self, video: int) -> list[tuple[Item, Look | None]]:
        """The video is over: its items that still waited, and what shared a batch with them."""
        return [one for size_hw in self._sizes(video) for one in self._empty(size_hw)]

    def _sizes(self, video: int) -> list[tuple[int, int]]:
        return [size for size, waiting in self._buckets.items() if any(one.video == video for one in waiting)]

    def _empty(self, size_hw: tuple[int, int]) -> list[tuple[Item, Look | None]]:
        waiting = self._buckets.pop(size_hw)
        frames = [one.frame for one in waiting if one.frame is not None]
        with self._clock.busy("classify"):
            looks = iter(_looks(self._classifier, frames, self._batch_frames) if frames else ())
        return [(one.item, None if one.frame is None else next(looks)) for one in waiting]


@dataclass(frozen=True)
class _Waiting(Generic[Item]):
    video: int
    item: Item
    frame: Frame | None


def _looks(classifier: Classifier, frames: list[Frame], batch_frames: int) -> Sequence[Look]:
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
