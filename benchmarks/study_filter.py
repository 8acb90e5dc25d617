"""Which windows deserve a mask (§3.2): what agreement of K frames says of one, and what a single frame does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from study_frames import FrameScores

from f2f.engine.records import MaskRecord, read_shards
from f2f.engine.run import read_run

LabelSets = list[frozenset[int]]


def kept_masks(
    kept: str, masks: Sequence[MaskRecord], videos: Mapping[str, FrameScores], classes: Sequence[str], tau: float
) -> list[MaskRecord]:
    """The masks of trusted queries that a filter leaves."""

    def label_sets(mask: MaskRecord) -> LabelSets:
        video = videos[mask.input]
        return [frozenset(np.flatnonzero(video.scores[video.at(pts)] > tau)) for pts in mask.pts_seconds]

    keep = _FILTERS[kept]
    return [mask for mask in masks if keep(classes.index(mask.query_class), label_sets(mask))]


_FILTERS: dict[str, Callable[[int, LabelSets], bool]] = {
    "none": lambda query, sets: True,
    "single": lambda query, sets: query in sets[-1],
    "agreed": lambda query, sets: query in sets[-1] and len({*sets}) == 1,
}


def is_right(mask: MaskRecord, videos: Mapping[str, FrameScores], classes: Sequence[str]) -> bool:
    """Whether the last frame truly shows the query."""
    video = videos[mask.input]
    return bool(video.visible[video.at(mask.pts_seconds[-1]), classes.index(mask.query_class)])


def filter_row(
    kept: str, masks: Sequence[MaskRecord], videos: Mapping[str, FrameScores], classes: Sequence[str], tau: float
) -> dict[str, object]:
    """How many windows a filter leaves, how many of them show their query, and how many of those that do are left."""
    left = kept_masks(kept, masks, videos, classes, tau)
    right = sum(is_right(mask, videos, classes) for mask in left)
    wanted = sum(is_right(mask, videos, classes) for mask in masks)
    return {
        "filter": kept,
        "windows": len(left),
        "precision": f"{right / len(left):.3f}",
        "recall": f"{right / wanted:.3f}",
    }


def write_kept(run: Path, out: Path, masks: Sequence[MaskRecord]) -> None:
    """A folder like that of `f2f label` with some of a run's masks, files shared with it."""
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for mask in masks:
        for name in (f"JPEGImages/{mask.id}.jpg", f"SegmentationClass/{mask.id}.png"):
            (partial / "voc" / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(run / "voc" / name, partial / "voc" / name)
    shutil.copy(run / "voc" / "labels.txt", partial / "voc")
    table = pq.read_table(run / "labels.parquet")
    chosen = pc.is_in(table["id"], pc.cast([mask.id for mask in masks], table["id"].type))
    pq.write_table(table.filter(chosen), partial / "labels.parquet")
    partial.rename(out)


def masks_of(run: Path) -> list[MaskRecord]:
    """All masks of a run."""
    return [mask for shard in read_shards(run) for mask in shard.masks]


def classes_of(run: Path) -> list[str]:
    """The classes of a run, in the classifier's order."""
    return [str(name) for name in read_run(run)["classes"]]
