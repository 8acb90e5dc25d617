"""Recipes for the terminal: which there are, and what one reached."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from f2f.training.recipes.files import Tables, read_recipe, shipped_recipes, whole_table
from f2f.training.recipes.plan import Row


def print_recipes(console: Console) -> None:
    """A line per recipe, with the paper's figures."""
    found = {name: read_recipe(name) for name in shipped_recipes()}
    figures = {name: _figures(recipe.tables) for name, recipe in found.items()}
    headings = dict.fromkeys(row for one in figures.values() for row in one)
    shown = Table("recipe", "what it is", box=None, pad_edge=False, title="mean IoU on VOC val in the paper, per cent")
    for heading in headings:
        shown.add_column(heading, justify="right")
    for name, recipe in found.items():
        shown.add_row(name, recipe.title, *(_figure(figures[name].get(heading)) for heading in headings))
    console.print(shown)


def _figures(tables: Tables) -> dict[str, float]:
    rows = (whole_table(tables, stage) for stage in tables)
    return {row["row"]: row.get("paper", math.nan) for row in rows if "row" in row}


def print_rows(rows: Sequence[Row], console: Console) -> None:
    """What the evaluations found beside the paper's figures."""
    shown = Table("trained on", box=None, pad_edge=False)
    for heading in ("mean IoU, %", "in the paper"):
        shown.add_column(heading, justify="right")
    for row in rows:
        shown.add_row(row.name, _figure(row.mean_iou), _figure(row.paper))
    console.print(shown)


def _figure(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.1f}"
