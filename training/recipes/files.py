"""Recipe files: TOML, a table per stage.

title = "SEC on VGG-16"              what the recipe is, in one line
base = "dsrg-vgg16"                  a recipe that this one changes: its tables come first, key by key
[train-iv]                           a stage, and the name of its folder
like = "train-i"                     has the options of another stage, and changes some
command = "train segmenter"          the command of `f2f` that it is
when = "sbd"                         run only where this input is given
row = "I + V"                        of an evaluation: the row of the table, and
paper = 59.5                         the paper's mean IoU on VOC val, per cent (nan: it has none)
videos = ["{label}"]                 all else: options of the command; {label} is the folder of the stage `label`,
                                     {voc} what is given as --voc
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from f2f.engine.errors import UsageError
from f2f.training.recipes.values import option_types, options_class

COMMANDS_OF_STAGES = (
    *("data voc-aug", "data sec-cues", "train classifier", "export classifier", "label", "cues", "train segmenter"),
    *("adapt", "retrain", "eval segmenter", "export segmenter", "train flow", "export flow", "train saliency"),
    "export saliency",
)
OWN_KEYS = ("command", "like", "when", "row", "paper")
"""keys of a stage that are no options"""
_NOT_INHERITED = ("like", "when", "row", "paper")
Tables = Mapping[str, Mapping[str, Any]]
_SHIPPED = Path(__file__).parent
_RUNNABLE = "[!_]*.toml"
"""the others are nothing but bases"""


@dataclass(frozen=True)
class RecipeFile:
    """A recipe as its file has it, those that it is based on included."""

    source: str
    """for messages"""
    title: str
    tables: Tables
    """stage -> key -> value"""


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with f2f."""
    return sorted(path.stem for path in _SHIPPED.glob(_RUNNABLE))


def read_recipe(name: str, folder: Path = Path(), above: tuple[Path, ...] = ()) -> RecipeFile:
    """A recipe by its name or file, relative to `folder`; `above` are the files that it is a base of.

    Raises:
        UsageError: there is none, or it is no recipe.
    """
    shipped = {path.stem: path for path in _SHIPPED.glob("*.toml" if above else _RUNNABLE)}
    path = folder / name if name.endswith(".toml") else shipped.get(name)
    if path is None or not path.is_file():
        raise UsageError(f"{name} is no recipe; accepted: {', '.join(shipped_recipes())}, or a .toml file")
    if path in above:
        raise UsageError(f"{path} is its own base; accepted: another recipe; correct `base`")
    content = _content(path)
    base, title = content.pop("base", None), content.pop("title", "")
    strange = [key for key, value in content.items() if not isinstance(value, dict)]
    if strange:
        raise UsageError(f"{path} has the key {strange[0]}; accepted: title, base, and tables [STAGE]; correct it")
    own = {stage: {key.replace("-", "_"): value for key, value in table.items()} for stage, table in content.items()}
    if base is None:
        return RecipeFile(str(path), title, own)
    below = read_recipe(str(base), path.parent, (*above, path)).tables
    return RecipeFile(str(path), title, merged(below, own))


def _content(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}); accepted: a recipe in TOML; correct it") from error


def merged(below: Tables, above: Tables) -> Tables:
    """Stages of both; of a key in both, the value from `above`."""
    return {stage: {**below.get(stage, {}), **above.get(stage, {})} for stage in {**below, **above}}


def with_settings(tables: Tables, settings: Sequence[str]) -> Tables:
    """The tables after `STAGE.OPTION=VALUE` and `OPTION=VALUE`.

    Raises:
        UsageError: no stage has it.
    """
    for setting in settings:
        target, equals, text = setting.partition("=")
        stage, _, option = target.strip().rpartition(".")
        option = option.replace("-", "_")
        stages = [stage] if stage else [one for one in tables if option in _options(tables, one)]
        if not equals or not stages or stages[0] not in tables:
            raise UsageError(
                f"--set {setting} names no stage's option; accepted: STAGE.OPTION=VALUE, or OPTION=VALUE for all "
                f"stages that have it; stages: {', '.join(tables)}"
            )
        tables = merged(tables, {one: {option: _value(text)} for one in stages})
    return tables


def _options(tables: Tables, stage: str) -> Mapping[str, Any]:
    command = whole_table(tables, stage).get("command")
    return option_types(options_class(command)) if command in COMMANDS_OF_STAGES else {}


def _value(text: str) -> Any:
    """As TOML reads it; what is no TOML is a word."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def whole_table(tables: Tables, stage: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The keys of a stage, those of the stage that it is like included.

    Raises:
        UsageError: there is no such stage, or it is like itself.
    """
    own = dict(tables[stage])
    like = own.get("like")
    if like is None:
        return own
    if like not in tables or like in (*above, stage):
        raise UsageError(f"[{stage}] is like {like!r}; accepted: another stage, of {', '.join(tables)}; correct it")
    inherited = whole_table(tables, like, (*above, stage))
    return {key: value for key, value in inherited.items() if key not in _NOT_INHERITED} | own
