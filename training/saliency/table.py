"""Scores of saliency for the terminal: a table, a line, or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from f2f.training.saliency.scores import SaliencyScores


def saliency_scores_as_json(scores: SaliencyScores) -> str:
    """All figures; null where there is none."""
    return json.dumps(asdict(scores), indent=1)


def print_saliency_scores(scores: SaliencyScores, console: Console) -> None:
    """The two figures of the field, then a row per theta_b: what the engine makes of the maps."""
    facts = scores.as_facts()
    console.print(held_out_line(facts))
    table = Table("saliency below it is background", box=None, pad_edge=False)
    for heading in ("theta_b", "objects lost", "ground found"):
        table.add_column(heading, justify="right")
    rows = {
        "as given, or the method's own": ("theta_b", "objects_lost", "ground_found"),
        "the highest with at most 4 % of the objects lost": ("safe_theta_b", "safe_objects_lost", "safe_ground_found"),
    }
    for name, columns in rows.items():
        table.add_row(name, *(_figure(facts[column]) for column in columns))
    console.print(table)


def held_out_line(facts: Mapping[str, Any]) -> str:
    """What `SaliencyScores.as_facts` says of the maps, in a line."""
    at = "" if facts["max_f"] is None else f" (from {facts['max_f_threshold']:.3f} on)"
    return f"{facts['images']} images: MAE {_figure(facts['mae'])}, max F {_figure(facts['max_f'])}{at}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
