"""Run a recipe: its stages one after another, each once, and the table of what they reach.

OUT/<stage>/      what a stage writes
OUT/recipe.json   the stages that are finished, with their options: another recipe does not go on with them
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from f2f.engine.cli import EXIT_INTERRUPTED
from f2f.engine.errors import RunMismatchError, UsageError
from f2f.engine.files import write_aside
from f2f.training.fit import RESUMABLE, SHAPELESS
from f2f.training.progress import hours_minutes
from f2f.training.recipes.checks import check_augmentation, check_inputs
from f2f.training.recipes.options import RecipeOptions
from f2f.training.recipes.plan import Plan, Row, Stage, make_plan
from f2f.training.recipes.values import command_function

_FREE = {*SHAPELESS, *RESUMABLE, "threads", "decoders", "decode_timeout_seconds", "debug_dir"}
"""options that may change when a stage is finished, for it would be the same"""
_AUGMENT = "data voc-aug"


def run_recipe(options: RecipeOptions, say: Callable[[str], None] = lambda _: None) -> list[Row]:
    """Run the stages that are not finished; what `f2f recipe` does. `say` is told what happens. Returns the table.

    Raises:
        UsageError: the recipe or its data cannot be used, or a stage fails.
        RunMismatchError: a finished stage of OUT was another one.
        MachineError: the machine stopped a stage; running again goes on.
    """
    plan = make_plan(options)
    book = Book.open(plan.out)
    finished = [stage for stage in plan.stages if book.has(stage)]
    pending = _pending(plan, finished, options.only)
    checked = False
    for number, stage in enumerate(plan.stages, 1):
        place = f"{number}/{len(plan.stages)} {stage.name}"
        if stage not in pending:
            say(f"{place}: {'finished before' if stage in finished else 'not asked for'}")
            continue
        if stage.command == _AUGMENT:
            check_augmentation(stage.options.voc, stage.options.sbd)
        elif not checked:  # the rest, with the list that was just made
            check_inputs([one for one in pending if one.command != _AUGMENT], plan.out)
            checked = True
        say(f"{place}: {stage.line}")
        say(f"{stage.name} took {hours_minutes(_run(stage))}")
        if not _is_whole(stage):
            say(f"{stage.name} stopped at step {stage.options.stop_at_step}; run again without stop_at_step to go on")
            break
        book.finish(stage)
    return plan.table()


def _pending(plan: Plan, finished: Sequence[Stage], only: Sequence[str]) -> list[Stage]:
    """The stages to run.

    Raises:
        UsageError: a stage that is asked for is not there, or reads one that is not finished.
    """
    names = [stage.name for stage in plan.stages]
    for name in only:
        if name not in names:
            raise UsageError(f"--only {name} is no stage that runs; accepted: {', '.join(names)}")
    pending = [stage for stage in plan.stages if stage not in finished and (not only or stage.name in only)]
    there = {stage.name for stage in (*finished, *pending)}
    for stage in pending:
        lacking = [read for read in stage.reads if read in names and read not in there]
        if lacking:
            raise UsageError(
                f"the stage {stage.name} reads {lacking[0]}, which is not finished; add it to --only, or give its "
                f"folder as --use {lacking[0]}=FOLDER"
            )
    return pending


def _run(stage: Stage) -> float:
    """Run a stage; returns how long it took, in seconds."""
    begun, threads = time.monotonic(), torch.get_num_threads()
    try:
        code = command_function(stage.command)(stage.options)
    finally:
        torch.set_num_threads(threads)  # some commands set them, which would change how those that follow round
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    return time.monotonic() - begun


def _is_whole(stage: Stage) -> bool:
    stop = getattr(stage.options, "stop_at_step", 0)
    return bool(stop == 0 or stop == stage.options.steps)


@dataclass(frozen=True)
class Book:
    """OUT/recipe.json: what is finished."""

    out: Path
    stages: dict[str, dict[str, Any]]
    """stage -> its command and options"""

    @classmethod
    def open(cls, out: Path) -> Book:
        """That of a folder; of a new one it is empty.

        Raises:
            UsageError: it cannot be read.
        """
        path = out / "recipe.json"
        if not path.exists():
            return cls(out, {})
        try:
            return cls(out, dict(json.loads(path.read_text(encoding="utf-8"))["stages"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} cannot be read ({error}); give another --out") from error

    def has(self, stage: Stage) -> bool:
        """Whether a stage is finished and its output is there.

        Raises:
            RunMismatchError: it is, but with other options.
        """
        kept = self.stages.get(stage.name)
        if kept is None or (stage.out is not None and not stage.out.exists()):
            return False
        wanted = self._facts(stage)
        differing = sorted(key for key in kept.keys() | wanted.keys() if kept.get(key) != wanted.get(key))
        if differing:
            lines = "\n".join(f"  {key}: {kept.get(key)} -> {wanted.get(key)}" for key in differing)
            raise RunMismatchError(
                f"the stage {stage.name} in {self.out} is finished and was another one (there -> asked for):\n"
                f"{lines}\naccepted: the same recipe and data; give them, or another --out, and --use STAGE=FOLDER "
                "for what is to be kept"
            )
        return True

    def finish(self, stage: Stage) -> None:
        """Note that a stage is finished."""
        self.stages[stage.name] = self._facts(stage)
        content = {"f2f": version("f2f"), "stages": self.stages}
        write_aside(self.out / "recipe.json", (json.dumps(content, indent=1) + "\n").encode())

    def _facts(self, stage: Stage) -> dict[str, Any]:
        """What decides a stage's result; paths below OUT as they are seen from there."""
        flat = {name: self._plain(value) for name, value in _flat(asdict(stage.options)).items() if name not in _FREE}
        return {"command": stage.command, **flat}

    def _plain(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._plain(one) for one in value]
        is_path = isinstance(value, Path) or (isinstance(value, str) and "/" in value and "://" not in value)
        if not is_path:
            return value
        absolute, root = os.path.abspath(value), os.path.abspath(self.out)  # noqa: PTH100 - links stay as they are
        return absolute.replace(root, "OUT", 1) if absolute.startswith(root + os.sep) else absolute


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without the classes within the class."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        found |= _flat(value) if isinstance(value, dict) else {name: value}
    return found
