"""Scores of flow for the terminal: tables, or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from f2f.engine.source import printable
from f2f.training.flow_eval import ExactScores, FlowScores, MaskScores


def scores_as_json(scores: FlowScores) -> str:
    """{"exact": [a row per source and method], "masks": [a row per source, stride and method]}."""
    return json.dumps(asdict(scores), indent=1)


def print_scores(scores: FlowScores, console: Console) -> None:
    """A table per source: exact flow first, then videos with masks."""
    for source in dict.fromkeys(row.source for row in scores.exact):
        console.print(_exact_table(source, (row for row in scores.exact if row.source == source)))
    for source in dict.fromkeys(row.source for row in scores.masks):
        console.print(_mask_table(source, (row for row in scores.masks if row.source == source)))


def _exact_table(source: str, rows: Iterable[ExactScores]) -> Table:
    table = _table(source, "flow", "EPE px", "Fl %", "EPE px, visible", "Fl %, visible", "pairs", "ms per pair")
    for row in rows:
        measures = (row.epe_px, row.fl_percent, row.epe_visible_px, row.fl_visible_percent)
        table.add_row(
            escape(row.method), *(_figure(value, 3) for value in measures), str(row.pairs), _figure(row.ms_per_pair, 1)
        )
    return table


def _mask_table(source: str, rows: Iterable[MaskScores]) -> Table:
    table = _table(source, "stride", "flow", "mask IoU", "colour error", "consistent", "pairs", "videos", "ms per pair")
    for row in rows:
        table.add_row(
            str(row.stride),
            escape(row.method),
            _figure(row.iou, 3),
            _figure(row.photometric, 2),
            _figure(row.consistent, 3),
            str(row.pairs),
            str(row.videos),
            _figure(row.ms_per_pair, 1),
        )
    return table


def _table(source: str, *columns: str) -> Table:
    return Table(*columns, title=escape(printable(source)), title_justify="left", box=None, pad_edge=False)


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
