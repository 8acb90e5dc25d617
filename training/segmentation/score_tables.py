"""Scores of label maps for the terminal: tables, or JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, astuple
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from f2f.training.segmentation.scores import SegmentationScores
from f2f.training.segmentation.youtube_scores import YoutubeRow, YoutubeScores


def as_json(scores: SegmentationScores | YoutubeScores) -> str:
    """All figures; null where there is none."""
    return json.dumps(_numbers(asdict(scores)), indent=1)


def _numbers(entry: Any) -> Any:
    """The same without nan, which JSON has not."""
    if isinstance(entry, dict):
        return {key: _numbers(value) for key, value in entry.items()}
    return None if isinstance(entry, float) and math.isnan(entry) else entry


def print_voc_scores(scores: SegmentationScores, console: Console) -> None:
    """A row per label and the mean."""
    table = _table("class", "IoU")
    for name, iou in scores.iou.items():
        table.add_row(escape(name), "-" if iou is None else f"{iou:.3f}")
    table.add_row("mean", f"{scores.mean_iou:.3f}", style="bold")
    console.print(table)
    console.print(f"{scores.images} images; {scores.pixel_accuracy:.1%} of the pixels right")
    if scores.absent:
        console.print(f"not in the mean, as no pixel is or is predicted to be: {escape(', '.join(scores.absent))}")


def print_youtube_scores(scores: YoutubeScores, console: Console) -> None:
    """A row per class and the mean."""
    table = _table("class", "by frame: tag", "any class", "pooled: as predicted", "tag", "any class")
    for name, row in scores.per_class.items():
        table.add_row(escape(name), *_figures(row))
    table.add_row("mean", *_figures(scores.mean), style="bold")
    console.print(table)
    console.print(f"{scores.frames} frames of {scores.sequences} clips; IoU")


def _figures(row: YoutubeRow) -> list[str]:
    return [f"{value:.3f}" for value in astuple(row)]


def _table(first: str, *headings: str) -> Table:
    table = Table(first, box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table
