"""Scores of a classifier for the terminal: a table, a line, or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from f2f.training.classifier_eval import ClassifierScores, MaskQuality


def classifier_scores_as_json(scores: ClassifierScores) -> str:
    """All figures; null where there is none."""
    return json.dumps(asdict(scores), indent=1)


def print_classifier_scores(scores: ClassifierScores, console: Console) -> None:
    """A row per class and the means."""
    table = Table("class", box=None, pad_edge=False)
    for heading in ("average precision", "masks", "CAM IoU", "precision", "recall"):
        table.add_column(heading, justify="right")
    for name, row in scores.classes.items():
        table.add_row(escape(name), _figure(row.average_precision), str(row.masks), *_quality(row.cams))
    mean = _figure(scores.mean_average_precision)
    table.add_row("mean", mean, str(scores.masks), *_quality(scores.cams), style="bold")
    console.print(table)
    console.print(held_out_line(scores.as_facts()))
    passing, false = _figure(scores.passing), _figure(scores.false_passing)
    console.print(f"scores above {scores.tau}: {passing} of the true tags, {false} of the others")


def held_out_line(facts: Mapping[str, Any]) -> str:
    """What `ClassifierScores.as_facts` says, in a line."""
    words = f"{facts['images']} images: mean average precision {_figure(facts['mean_average_precision'])}"
    if facts["cams"] is None:
        return f"{words}; no masks to compare CAMs with"
    at, best = (_in_words(facts[name]) for name in ("cams", "best_cams"))
    return f"{words}; CAMs above {facts['theta_f']} of their peak: {at}; best above {facts['best_theta']}: {best}"


def _in_words(cams: Mapping[str, float]) -> str:
    return f"IoU {cams['iou']:.3f}, precision {cams['precision']:.3f}, recall {cams['recall']:.3f}"


def _quality(cams: MaskQuality | None) -> list[str]:
    return ["-"] * 3 if cams is None else [f"{value:.3f}" for value in (cams.iou, cams.precision, cams.recall)]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
