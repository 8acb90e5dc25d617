"""How good flow is: beside exact flow, and on videos by carrying their true masks from frame to frame.

Everything is asked for by the engine's contract: two frames in, the flow on the second that points to the first out.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from f2f.engine.classify import to_tensor
from f2f.engine.errors import UsageError
from f2f.engine.evaluate import overlap
from f2f.engine.flow import Flow
from f2f.engine.types import ImageArray
from f2f.training.flow_files import EVERY_FRAME, BoolArray, FlowPair, flow_pairs, read_pair, video_frames
from f2f.training.flow_methods import open_method
from f2f.training.flow_metrics import consistent, endpoint_error, outliers, photometric_error, propagated_mask
from f2f.training.options import FlowEvaluation

Methods = Mapping[str, Flow]
_VIDEO_SUFFIXES = {".mp4", ".mkv", ".webm", ".avi", ".mov"}


@dataclass(frozen=True)
class ExactScores:
    """A method beside exact flow; means over all pixels of all pairs."""

    source: str
    method: str
    epe_px: float
    """end-point error where flow is known"""
    fl_percent: float
    """KITTI's outlier rate there: more than 3 px and more than 5 % off"""
    epe_visible_px: float | None
    """end-point error where the point is seen in both frames; None where the source does not say"""
    fl_visible_percent: float | None
    pairs: int
    ms_per_pair: float
    """median"""


@dataclass(frozen=True)
class MaskScores:
    """A method on videos with true masks, at one stride; means over a video's pairs, then over videos."""

    source: str
    method: str
    stride: int
    """frames from a frame to the one that its mask is carried to"""
    iou: float
    """overlap of the carried mask with the true one"""
    photometric: float | None
    """mean absolute difference of colours (0..255) along the flow where it is consistent; None where it nowhere is"""
    consistent: float
    """share of pixels from which there and back again ends near the start, in frame"""
    pairs: int
    videos: int
    ms_per_pair: float
    """median"""
    per_video: dict[str, float]
    """video -> IoU"""


@dataclass(frozen=True)
class FlowScores:
    """Everything that was measured."""

    exact: tuple[ExactScores, ...] = ()
    masks: tuple[MaskScores, ...] = ()


def evaluate_flows(options: FlowEvaluation) -> FlowScores:
    """Measure every method on every source.

    Raises:
        UsageError: a method or a source that is not accepted, or a file of one that cannot be used.
    """
    methods = {name: open_method(name, options.runtimes) for name in options.methods}
    exact: list[ExactScores] = []
    masks: list[MaskScores] = []
    if options.first and options.second and options.truth:
        pair = read_pair(options.first, options.second, options.truth)
        exact += score_pairs(str(options.truth), methods, [pair])
    for source in options.sources:
        videos = _videos_with_masks(source, options.masks)
        if videos is None:
            exact += score_pairs(str(source), methods, flow_pairs(source, options.every))
        else:
            masks += score_videos(str(source), methods, videos, options)
    return FlowScores(tuple(exact), tuple(masks))


def timed_flow(flow: Flow, frame: ImageArray, source: ImageArray) -> tuple[Tensor, float]:
    """Flow [2, H, W] on `frame`, pointing to `source`, and the milliseconds it took."""
    start = time.perf_counter()
    flow_xy_px = flow([[source, frame]])[0, 0]
    return flow_xy_px, 1000 * (time.perf_counter() - start)


@dataclass
class _ExactSums:
    """Sums over pixels so far: [all, visible] each."""

    error_px: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    outliers: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    pixels: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    milliseconds: list[float] = field(default_factory=list)

    def add(self, pair: FlowPair, flow_xy_px: Tensor, milliseconds: float) -> None:
        truth = torch.from_numpy(pair.flow_xy_px).permute(2, 0, 1)
        known = torch.from_numpy(pair.known)
        visible = torch.zeros_like(known) if pair.visible is None else known & torch.from_numpy(pair.visible)
        where = torch.stack([known, visible])  # [2, H, W]
        self.pixels += where.sum((1, 2))
        self.error_px += (endpoint_error(flow_xy_px, truth).double() * where).sum((1, 2))
        self.outliers += (outliers(flow_xy_px, truth) & where).sum((1, 2))
        self.milliseconds.append(milliseconds)

    def scores(self, source: str, method: str) -> ExactScores:
        epe, fl = self.error_px / self.pixels, 100 * self.outliers / self.pixels  # nan where nothing is said visible
        visible = bool(self.pixels[1])
        return ExactScores(
            source=source,
            method=method,
            epe_px=float(epe[0]),
            fl_percent=float(fl[0]),
            epe_visible_px=float(epe[1]) if visible else None,
            fl_visible_percent=float(fl[1]) if visible else None,
            pairs=len(self.milliseconds),
            ms_per_pair=median(self.milliseconds),
        )


def score_pairs(source: str, methods: Methods, pairs: Iterable[FlowPair]) -> list[ExactScores]:
    """Every method on pairs with exact flow; pairs of which nothing is known, as across a cut, are passed over."""
    sums = {name: _ExactSums() for name in methods}
    count = 0
    for pair in pairs:
        if not pair.known.any():
            continue
        count += 1
        for name, flow in methods.items():
            sums[name].add(pair, *timed_flow(flow, pair.first, pair.second))
    if not count:
        raise UsageError(f"{source} holds no pair whose flow is known; give another source")
    return [sums[name].scores(source, name) for name in methods]


@dataclass(frozen=True)
class MaskVideo:
    """A video and the folder of its true masks."""

    name: str
    video: Path
    masks: Path


def _videos_with_masks(source: Path, masks: Path | None) -> list[MaskVideo] | None:
    """The videos of a source that have masks; None where it is a source of exact flow."""
    if not source.is_dir():
        raise UsageError(f"{source} is not a folder; accepted: a folder of pairs with flow, or of videos with masks")
    if masks is None and not ((source / "videos").is_dir() and (source / "masks").is_dir()):
        return None
    videos = source / "videos" if (source / "videos").is_dir() else source
    return mask_videos(videos, masks or source / "masks")


def mask_videos(videos: Path, masks: Path) -> list[MaskVideo]:
    """The videos below a folder whose masks lie in <masks>/<video>/%05d.png or <masks>/<query>/<video>/%05d.png.

    Raises:
        UsageError: none has masks.
    """
    paths = sorted(path for path in videos.rglob("*") if path.suffix in _VIDEO_SUFFIXES)
    names = [(path, name) for path in paths for name in (path.stem, f"{path.parent.name}/{path.stem}")]
    found = [MaskVideo(name, path, masks / name) for path, name in names if (masks / name / "00000.png").is_file()]
    if not found:
        raise UsageError(
            f"none of the {len(paths)} videos in {videos} has masks in {masks}; accepted: <video>/00000.png … or "
            "<query>/<video>/00000.png …, numbered by frame"
        )
    return found


@dataclass(frozen=True)
class MaskedFrame:
    """A frame and its true mask."""

    number: int
    image: ImageArray
    """[H,W,3] RGB"""
    mask: BoolArray
    """[H,W]"""


def masked_frames(video: MaskVideo, max_side: int) -> Iterator[MaskedFrame]:
    """The frames that have a mask, both scaled to at most `max_side` px (0: as they are)."""
    options = replace(EVERY_FRAME, max_side=max_side) if max_side else EVERY_FRAME
    for number, image in video_frames(video.video, options):
        path = video.masks / f"{number:05d}.png"
        if path.is_file():
            yield MaskedFrame(number, image, _read_mask(path, image.shape[:2]))


def _read_mask(path: Path, size_hw: Sequence[int]) -> BoolArray:
    try:
        with Image.open(path) as image:
            return np.array(image.resize((size_hw[1], size_hw[0]), Image.Resampling.NEAREST), np.bool_)
    except OSError as error:
        raise UsageError(f"{path} cannot be read as an image ({error}); restore it, or remove it") from error


def masked_pairs(
    frames: Iterable[MaskedFrame], strides: Sequence[int], every: int
) -> Iterator[tuple[int, MaskedFrame, MaskedFrame]]:
    """(stride, frame t, frame t + stride), for every `every`-th t."""
    recent: deque[MaskedFrame] = deque(maxlen=max(strides) + 1)
    for frame in frames:
        recent.append(frame)
        by_number = {earlier.number: earlier for earlier in recent if earlier.number % every == 0}
        for stride in strides:
            if frame.number - stride in by_number:
                yield stride, by_number[frame.number - stride], frame


@dataclass(frozen=True)
class PairScores:
    """A method on one pair of a video."""

    iou: float
    photometric: float
    """nan where no pixel is consistent"""
    consistent: float
    milliseconds: float


def score_masked_pair(flow: Flow, source: MaskedFrame, frame: MaskedFrame) -> PairScores:
    """Carry the mask of `source` to `frame` along the flow, and look at what the flow says of the frames."""
    flow_xy_px, milliseconds = timed_flow(flow, frame.image, source.image)
    return_xy_px, _ = timed_flow(flow, source.image, frame.image)
    carried = propagated_mask(torch.from_numpy(source.mask), flow_xy_px).numpy()
    valid = consistent(flow_xy_px, return_xy_px)
    colours = 255 * to_tensor([source.image, frame.image])  # [2, 3, H, W]
    error = photometric_error(colours[1], colours[0], flow_xy_px)[valid]
    return PairScores(overlap(carried, frame.mask).iou, float(error.mean()), float(valid.float().mean()), milliseconds)


def score_videos(
    source: str, methods: Methods, videos: Sequence[MaskVideo], options: FlowEvaluation
) -> list[MaskScores]:
    """Every method at every stride on videos with masks."""
    scores: dict[tuple[str, int], dict[str, list[PairScores]]] = {}
    for video in videos:
        frames = masked_frames(video, options.max_side)
        for stride, before, frame in masked_pairs(frames, options.strides, options.every):
            for name, flow in methods.items():
                per_video = scores.setdefault((name, stride), {})
                per_video.setdefault(video.name, []).append(score_masked_pair(flow, before, frame))
    if not scores:
        raise UsageError(
            f"no two frames of {source} that are {_listed(options.strides)} apart have masks; give smaller --strides"
        )
    return [_mask_scores(source, *key, scores[key]) for key in _in_order(scores, methods)]


def _in_order(scores: Mapping[tuple[str, int], object], methods: Methods) -> list[tuple[str, int]]:
    order = list(methods)
    return sorted(scores, key=lambda key: (key[1], order.index(key[0])))


def _mask_scores(source: str, method: str, stride: int, per_video: Mapping[str, list[PairScores]]) -> MaskScores:
    pairs = [pair for scores in per_video.values() for pair in scores]
    photometric = _mean_over_videos(per_video, "photometric")
    return MaskScores(
        source=source,
        method=method,
        stride=stride,
        iou=_mean_over_videos(per_video, "iou"),
        photometric=None if np.isnan(photometric) else photometric,
        consistent=_mean_over_videos(per_video, "consistent"),
        pairs=len(pairs),
        videos=len(per_video),
        ms_per_pair=median(pair.milliseconds for pair in pairs),
        per_video={video: _mean([pair.iou for pair in scores]) for video, scores in per_video.items()},
    )


def _mean_over_videos(per_video: Mapping[str, list[PairScores]], name: str) -> float:
    return _mean([_mean([getattr(pair, name) for pair in scores]) for scores in per_video.values()])


def _mean(values: Sequence[float]) -> float:
    """Mean of the numbers among the values; nan where there is none."""
    numbers = [value for value in values if not np.isnan(value)]
    return float(np.mean(numbers)) if numbers else float("nan")


def _listed(strides: Sequence[int]) -> str:
    return " or ".join(map(str, strides)) + " frames"
