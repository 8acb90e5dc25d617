"""A recipe with its data: the stages in the order in which they run, each with checked options."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from f2f.engine.errors import UsageError
from f2f.training.recipes.files import COMMANDS_OF_STAGES, OWN_KEYS, Tables, read_recipe, whole_table, with_settings
from f2f.training.recipes.options import RecipeOptions
from f2f.training.recipes.values import build, command_line, option_types, options_class
from f2f.training.segmentation.adaptation_options import SCORES

EVALUATION = "eval segmenter"
INPUTS = ("voc", "sbd", "crawl", "weights", "segmenter_weights", "flow", "saliency")
_PLACE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Stage:
    """One command of a recipe."""

    name: str
    command: str
    given: Mapping[str, Any]
    """its options as the recipe gives them, by name"""
    options: Any
    """the same, with all defaults, as the command takes them"""
    reads: tuple[str, ...]
    """stages whose folders it names, itself among them where it does"""
    row: str = ""
    """of an evaluation: the row of the table"""
    paper: float = math.nan
    """the paper's mean IoU, per cent; nan: it has none"""

    @property
    def line(self) -> str:
        """It as a command for the shell."""
        return command_line(self.command, self.given)

    @property
    def out(self) -> Path | None:
        """What it writes; None where that lies within an input."""
        return getattr(self.options, "out", None)


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    mean_iou: float | None
    """per cent; None: not evaluated yet"""
    paper: float
    """per cent; nan: the paper has none"""


@dataclass(frozen=True)
class Plan:
    """What a recipe runs."""

    title: str
    out: Path
    stages: tuple[Stage, ...]
    """in order; none whose folder is taken from elsewhere"""

    def table(self) -> list[Row]:
        """What its evaluations have found so far."""
        return [Row(stage.row, _mean_iou(stage), stage.paper) for stage in self.stages if stage.row]


def _mean_iou(stage: Stage) -> float | None:
    assert stage.out is not None
    path = stage.out / SCORES
    if not path.is_file():
        return None
    mean: float | None = json.loads(path.read_text(encoding="utf-8"))["mean_iou"]
    return None if mean is None else 100 * mean


def make_plan(options: RecipeOptions) -> Plan:
    """Read a recipe and fill in its data.

    Raises:
        UsageError: the file, a stage, an option or a setting is wrong, or data that it needs is not given.
    """
    file = read_recipe(options.recipe)
    out = options.out or Path("OUT")
    try:
        tables = with_settings(file.tables, options.set)
        whole = {stage: whole_table(tables, stage) for stage in tables}
        whole = {stage: table for stage, table in whole.items() if _is_wanted(stage, table, options)}
        used = _used(whole, options)
        folders = {stage: str(used.get(stage, out / stage)) for stage in whole}
        stages = {stage: _stage(stage, whole[stage], folders, options) for stage in whole if stage not in used}
        ordered = tuple(stages[stage] for stage in _ordered(stages))
    except UsageError as error:
        raise UsageError(f"recipe {file.source}: {error}") from error
    return Plan(file.title, out, ordered)


def _is_wanted(stage: str, table: Mapping[str, Any], options: RecipeOptions) -> bool:
    when = table.get("when")
    if when is not None and when not in INPUTS:
        raise UsageError(f"[{stage}] when is {when!r}; accepted: {', '.join(INPUTS)}")
    return when is None or getattr(options, when) is not None


def _used(tables: Tables, options: RecipeOptions) -> dict[str, Path]:
    """The folders that are taken from elsewhere."""
    found: dict[str, Path] = {}
    for entry in options.use:
        stage, _, folder = entry.partition("=")
        if stage not in tables or not folder or not Path(folder).is_dir():
            raise UsageError(
                f"--use {entry} names no stage or no folder; accepted: STAGE=FOLDER; stages: {', '.join(tables)}"
            )
        found[stage] = Path(folder)
    return found


def _stage(name: str, table: Mapping[str, Any], folders: Mapping[str, str], options: RecipeOptions) -> Stage:
    command = table.get("command")
    if command not in COMMANDS_OF_STAGES:
        raise UsageError(f"[{name}] command is {command!r}; accepted: {', '.join(COMMANDS_OF_STAGES)}")
    places: dict[str, str] = {}
    try:
        given = {key: _filled(value, folders, options, places) for key, value in table.items() if key not in OWN_KEYS}
        kind = options_class(command)
        if "out" in option_types(kind):
            given.setdefault("out", folders[name])
        made = build(kind, given)
        row, paper = _figure(command, table)
    except UsageError as error:
        raise UsageError(f"[{name}] {error}") from error
    reads = tuple(place for place in places if place in folders)
    return Stage(name, command, given, made, reads, row, paper)


def _figure(command: str, table: Mapping[str, Any]) -> tuple[str, float]:
    """The row of the table that a stage gives, and the paper's figure."""
    row, paper = table.get("row", ""), table.get("paper", math.nan)
    if not isinstance(row, str) or (row and command != EVALUATION):
        raise UsageError(f"row is {row!r}; accepted: words in quotes, of a stage with the command {EVALUATION}")
    if not isinstance(paper, int | float):
        raise UsageError(f"paper is {paper!r}; accepted: a mean IoU in per cent, or nan")
    return row, float(paper)


def _filled(value: Any, folders: Mapping[str, str], options: RecipeOptions, places: dict[str, str]) -> Any:
    """The value with every {place} filled in; `places` learns which."""
    if isinstance(value, list):
        return [_filled(one, folders, options, places) for one in value]
    return _PLACE.sub(_filler(folders, options, places), value) if isinstance(value, str) else value


def _filler(
    folders: Mapping[str, str], options: RecipeOptions, places: dict[str, str]
) -> Callable[[re.Match[str]], str]:
    def fill(match: re.Match[str]) -> str:
        name = match[1]
        places[name] = folders[name] if name in folders else _input(name, folders, options)
        return places[name]

    return fill


def _input(name: str, folders: Mapping[str, str], options: RecipeOptions) -> str:
    if name not in INPUTS:
        raise UsageError(f"{{{name}}} is neither a stage nor an input; accepted: {', '.join((*folders, *INPUTS))}")
    value = getattr(options, name)
    if value is None and not options.dry_run:
        raise UsageError(f"needs --{name.replace('_', '-')}, which is not given; give it, or --use this stage")
    return name.upper() if value is None else str(value)


def _ordered(stages: Mapping[str, Stage]) -> Iterator[str]:
    """As in the file, but each after those that it reads."""
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> Iterator[str]:
        if name in above:
            raise UsageError(
                f"the stages {' -> '.join([*above[above.index(name) :], name])} read each other; part them"
            )
        for read in stages[name].reads:
            if read in stages and read != name and read not in done:
                yield from visit(read, (*above, name))
        if name not in done:
            done.add(name)
            yield name

    for name in stages:
        yield from visit(name, ())
