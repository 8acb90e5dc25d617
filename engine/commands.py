"""The engine's sub-commands: options in, an exit code out. Each is a Python call with printing around it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from f2f.engine.cli import EXIT_INTERRUPTED
from f2f.engine.evaluate import evaluate_masks
from f2f.engine.options import LabelOptions
from f2f.engine.pipeline import label
from f2f.engine.progress import print_summary, show_progress
from f2f.engine.records import Summary
from f2f.engine.run import read_summary


def label_command(options: LabelOptions, *, json: bool = False) -> int:
    """Turn videos that carry a search term into pixel masks.

    Args:
        options: what to label and how.
        json: print the summary as JSON instead of a table
    """
    try:
        with show_progress() as on_progress:
            summary = label(options, on_progress)
    except KeyboardInterrupt:
        done = read_summary(options.out) if (options.out / "run.json").is_file() else None
        count = f" after {done.inputs - done.pending} of {done.inputs} inputs were committed" if done else ""
        sys.stderr.write(f"f2f: interrupted{count}; run the same command again to go on\n")
        return EXIT_INTERRUPTED
    _print(summary, json)
    if not json:
        print(f"masks: {options.out / 'voc' / 'SegmentationClass'}  table: {options.out / 'labels.parquet'}")
    return summary.exit_code


def status_command(out: Annotated[Path, tyro.conf.Positional], *, json: bool = False) -> int:
    """Say how far the run in an output folder is.

    Args:
        out: output folder of `f2f label`
        json: print JSON instead of a table
    """
    _print(read_summary(out), json)
    return 0


def eval_masks(pred: Path, truth: Path, *, json: bool = False) -> int:
    """Score the masks of a run against exact ones: IoU, precision, recall.

    Args:
        pred: output folder of `f2f label`
        truth: folder with <query>/<video>/00000.png … or <video>/00000.png …, frame 0 first
        json: print JSON instead of a table
    """
    scores = evaluate_masks(pred, truth)
    if json:
        print(_json(asdict(scores)))
    else:
        scores.print_table(Console())
    return 0


def _print(summary: Summary, as_json: bool) -> None:
    if as_json:
        print(_json(asdict(summary)))
    else:
        print_summary(summary, Console())


def _json(entry: object) -> str:
    return json.dumps(entry, indent=1)
