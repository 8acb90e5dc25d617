"""Evaluate: masks of a run against exact masks of the same videos.

A pixel is positive where the mask carries the query's label; 255 and other classes count as not the query. Scores
are averaged over a video's masks, then over a query's videos, then over queries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from f2f.engine.errors import UsageError
from f2f.engine.layout import Layout, layout_of
from f2f.engine.picture import open_image
from f2f.engine.records import MaskRecord, VideoRecord, read_shards
from f2f.engine.run import read_run
from f2f.engine.source import printable

BoolArray = npt.NDArray[np.bool_]
IGNORE = 255


@dataclass(frozen=True)
class MaskScores:
    """Overlap of predicted with true pixels, each in 0..1."""

    iou: float
    precision: float
    recall: float


@dataclass(frozen=True)
class MaskEvaluation:
    """Scores of a run."""

    mean: MaskScores
    masks: int
    """masks that have a truth"""
    videos: int
    """videos with such a mask"""
    without_truth: int
    """masks whose video or frame has no truth"""
    per_query: dict[str, MaskScores]
    per_video: dict[str, MaskScores]

    def print_table(self, console: Console) -> None:
        """A row per query and the mean."""
        table = Table("query", "IoU", "precision", "recall", box=None, pad_edge=False)
        for name, scores in [*self.per_query.items(), ("mean", self.mean)]:
            table.add_row(
                escape(printable(name)), f"{scores.iou:.3f}", f"{scores.precision:.3f}", f"{scores.recall:.3f}"
            )
        console.print(table)
        console.print(f"{self.masks} masks of {self.videos} videos; {self.without_truth} masks without truth")


def evaluate_masks(pred: Path, truth: Path) -> MaskEvaluation:
    """Score the run in `pred` against the masks in `truth`.

    Truth lies in `<truth>/<query>/<video>/%05d.png` or `<truth>/<video>/%05d.png`, video being the file's name
    without suffix and the number the frame's, from 0. 1-bit masks mean the query; palette masks carry the classes of
    `<truth>/classes.json`, else those of the run, from 1.

    Raises:
        UsageError: no run, no truth folder, or no mask that has a truth.
    """
    run = read_run(pred)
    if not truth.is_dir():
        raise UsageError(f"--truth {truth} is not a folder; accepted: a folder with a folder of masks per video")
    shards = read_shards(pred)
    videos = {video.id: video for shard in shards for video in shard.videos}
    masks = [mask for shard in shards for mask in shard.masks]
    names = _truth_classes(truth, run["classes"])
    layout = layout_of(pred, run["options"])
    scored = [(mask, _score(layout, truth, mask, videos[mask.input], run["classes"], names)) for mask in masks]
    found = [(mask, scores) for mask, scores in scored if scores is not None]
    if not found:
        raise UsageError(
            f"none of the {len(masks)} masks in {pred} has a truth in {truth}; accepted: <query>/<video>/00000.png "
            "or <video>/00000.png, numbered by frame"
        )
    return _average(found, len(masks) - len(found))


def overlap(predicted: BoolArray, true: BoolArray) -> MaskScores:
    """IoU, precision and recall of two masks; what has no pixels to be judged on is NaN, but empty = empty is 1."""
    both, either = int((predicted & true).sum()), int((predicted | true).sum())
    if not either:
        return MaskScores(1.0, 1.0, 1.0)
    return MaskScores(both / either, _ratio(both, int(predicted.sum())), _ratio(both, int(true.sum())))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _truth_classes(truth: Path, fallback: Sequence[str]) -> list[str]:
    path = truth / "classes.json"
    if not path.is_file():
        return list(fallback)
    try:
        return [str(name) for name in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{path} is not a JSON list of class names ({error}); accepted: [name of label 1, …]"
        ) from error


def _score(
    layout: Layout,
    truth: Path,
    mask: MaskRecord,
    video: VideoRecord,
    classes: Sequence[str],
    truth_classes: Sequence[str],
) -> MaskScores | None:
    path = truth_file(truth, mask, video)
    if path is None:
        return None
    true = _true_mask(path, truth_classes.index(mask.query_class) + 1 if mask.query_class in truth_classes else None)
    labels = open_image(layout.find(mask.id, "mask"))
    predicted = np.asarray(labels.resize((true.shape[1], true.shape[0]), Image.Resampling.NEAREST))
    return overlap(predicted == list(classes).index(mask.query_class) + 1, true)


def truth_file(truth: Path, mask: MaskRecord, video: VideoRecord) -> Path | None:
    """The truth of the mask's frame, found by its time stamp."""
    frame = round((mask.pts_seconds[-1] - video.start_seconds) * video.fps)
    name = PurePath(mask.video).stem
    candidates = (truth / mask.query / name, truth / name)
    return next((path for folder in candidates if (path := folder / f"{frame:05d}.png").is_file()), None)


def _true_mask(path: Path, label: int | None) -> BoolArray:
    image = open_image(path)
    pixels = np.asarray(image)
    values = set(np.unique(pixels).tolist()) - {0, IGNORE}
    one_bit = image.mode != "P" and len(values) <= 1
    positive = pixels != 0 if one_bit or label is None else pixels == label
    return np.asarray(positive, dtype=np.bool_)


def _average(found: Sequence[tuple[MaskRecord, MaskScores]], without_truth: int) -> MaskEvaluation:
    by_video: dict[tuple[str, str], list[MaskScores]] = {}
    for mask, scores in found:
        by_video.setdefault((mask.query, mask.input), []).append(scores)
    videos = {key: _mean(scores) for key, scores in by_video.items()}
    queries = {query: _mean([s for (q, _), s in videos.items() if q == query]) for query in _sorted_queries(videos)}
    per_video = {input_id: scores for (_, input_id), scores in sorted(videos.items())}
    return MaskEvaluation(_mean(list(queries.values())), len(found), len(videos), without_truth, queries, per_video)


def _sorted_queries(videos: dict[tuple[str, str], MaskScores]) -> Iterator[str]:
    yield from sorted({query for query, _ in videos})


def _mean(scores: Sequence[MaskScores]) -> MaskScores:
    """Mean of each score over those that have it; 0 where none has."""
    columns = np.array([[s.iou, s.precision, s.recall] for s in scores])  # [n, 3]
    counts = np.isfinite(columns).sum(axis=0)
    means = np.nansum(columns, axis=0) / np.maximum(counts, 1)
    return MaskScores(*map(float, means))
