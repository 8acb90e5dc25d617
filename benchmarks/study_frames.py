"""What the classifier says of every sampled frame of the study's videos, beside what the frames truly show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from f2f.engine.classify import Classifier, classify
from f2f.engine.options import DecodeOptions, RuntimeOptions, SourceOptions
from f2f.engine.pool import DecodePool
from f2f.engine.source import read_source
from f2f.engine.stage import StageClock
from f2f.engine.types import InputRow, ScoredFrame, VideoEnd
from f2f.training.synth import CLASSES

VISIBLE_SHARE = 0.005
"""of a frame's pixels: a class that covers less is not there"""


@dataclass(frozen=True)
class FrameScores:
    """A video's sampled frames; letters: N frames, C classes."""

    pts_seconds: npt.NDArray[np.float64]
    """[N]"""
    shots: npt.NDArray[np.int64]
    """[N]"""
    scores: npt.NDArray[np.float64]
    """[N, C]"""
    visible: npt.NDArray[np.bool_]
    """[N, C]: what the exact masks show; classes in the classifier's order"""

    def at(self, pts_seconds: float) -> int:
        """The number of the frame with this time stamp."""
        return int(np.abs(self.pts_seconds - pts_seconds).argmin())


def read_scores(crawl: Path, path: Path, threads: int) -> dict[str, FrameScores]:
    """By the videos' ids; computed and written to `path` unless they are there."""
    if not path.exists():
        pq.write_table(pa.Table.from_pylist(list(_scored(crawl, threads))), path)
    videos: dict[str, list[dict[str, Any]]] = {}
    for row in pq.read_table(path).to_pylist():
        videos.setdefault(row["input"], []).append(row)
    return {video: _joined(rows) for video, rows in videos.items()}


def _joined(rows: list[dict[str, Any]]) -> FrameScores:
    columns = {name: np.array([row[name] for row in rows]) for name in ("pts_seconds", "shot", "scores", "visible")}
    return FrameScores(columns["pts_seconds"], columns["shot"], columns["scores"], columns["visible"])


def _scored(crawl: Path, threads: int) -> Iterator[dict[str, Any]]:
    classifier = Classifier.open("demo", RuntimeOptions(threads=threads))
    rows = dict(enumerate(read_source(str(crawl / "manifest.csv"), SourceOptions())))
    with DecodePool(DecodeOptions(decoders=1)) as pool:
        frames = pool.frames(list(rows.items()))
        for item in classify(frames, classifier, 8, StageClock()):
            if not isinstance(item, VideoEnd):
                yield _row(item, rows[item.frame.video], crawl / "truth", classifier.info.classes)


def _row(scored: ScoredFrame, row: InputRow, truth: Path, classes: Sequence[str]) -> dict[str, Any]:
    frame = scored.frame
    assert scored.scores is not None
    number = round(frame.pts_seconds * frame.report.fps)
    labels = np.asarray(Image.open(truth / row.query / PurePath(row.video).stem / f"{number:05d}.png"))
    shares = [float((labels == CLASSES.index(name) + 1).mean()) for name in classes]
    return {
        "input": row.id,
        "pts_seconds": frame.pts_seconds,
        "shot": frame.shot,
        "scores": scored.scores.tolist(),
        "visible": [share > VISIBLE_SHARE for share in shares],
    }
