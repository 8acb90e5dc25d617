"""The study: what labelled videos are worth to a segmenter, on the synthetic web (paper, table 5 and figure 5).

    python benchmarks/study.py [--work runs/study] [--experiments table frames samples filter] [--seeds 3] [--hours 2]

Small networks, half of each batch images and half videos, as many steps for all; each training is a row of
benchmarks/results/study.csv, and one that is there already is not done again. So a run that is stopped goes on, and
more seeds are added by asking for more. Beside them: study_labels.csv, the masks of the videos at every K beside exact
ones; study_filter.csv, how well frames are chosen. Writes docs/study.png.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import torch
import tyro
from record import RESULTS, circumstances, read_rows, write_rows
from study_cases import FRAMES, RULES, Case, Experiment, cases
from study_material import Material
from study_picture import draw_study
from study_training import measure, train

from f2f.training.checkpoint import read_network
from f2f.training.segmentation.scores import SegmentationScores

ALL: tuple[Experiment, ...] = ("table", "frames", "samples", "filter")
_PACKAGES = ("torch", "onnxruntime", "numpy")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is trained."""

    work: Path = Path("runs/study")
    """folder of material and networks"""
    experiments: tuple[Experiment, ...] = ALL
    """table: methods × data (table 5); frames: K (figure 5a); samples: masks of V (figure 5b); filter: §3.2"""
    seeds: int = 3
    """trainings of each kind"""
    hours: float = 0.0
    """begin no training after so long (0: train all)"""
    threads: int = 1
    """threads of networks and kernels"""


def main(options: Options) -> None:
    """Train what is missing, then draw."""
    torch.set_num_threads(options.threads)
    material = Material(options.work, options.threads)
    until = time.monotonic() + 3600 * options.hours if options.hours else float("inf")
    for case in cases(options.experiments, options.seeds):
        if time.monotonic() > until:
            break
        if not _is_done(case):
            start = time.monotonic()
            network = train(case, material)
            scores = measure(network, material)
            _add_row("study", _row(case, network, scores, time.monotonic() - start))
            print(f"{case.name}: mean IoU {scores.mean_iou:.3f}", flush=True)
    else:
        _measure_labels(options.experiments, material)
    draw_study(_rows("study"), _rows("study_labels"), RESULTS.parents[1] / "docs")


def _row(case: Case, network: Path, scores: SegmentationScores, seconds: float) -> dict[str, object]:
    return {
        **asdict(case),
        "masks": read_network(network, "segmenter")["training"].get("train_videos", 0),
        "miou": f"{scores.mean_iou:.4f}",
        "iou_by_class": " ".join(f"{name} {iou or 0:.3f}" for name, iou in scores.iou.items()),
        "minutes": f"{seconds / 60:.1f}",
    }


def _is_done(case: Case) -> bool:
    key = {name: str(value) for name, value in asdict(case).items()}
    return any(all(row[name] == value for name, value in key.items()) for row in _rows("study"))


def _rows(name: str) -> list[dict[str, str]]:
    return read_rows(name) if (RESULTS / f"{name}.csv").exists() else []


def _add_row(name: str, row: dict[str, object]) -> None:
    write_rows(name, [*_rows(name), {**row, **circumstances(_PACKAGES)}], _PACKAGES)


def _measure_labels(experiments: Sequence[Experiment], material: Material) -> None:
    """Proxy masks and filters beside the truth, where they are not measured yet."""
    if "frames" in experiments:
        done = {(row["rule"], int(row["frames"])) for row in _rows("study_labels")}
        for rule, frames in sorted({*product(RULES, FRAMES)} - done):
            _add_row("study_labels", _label_row(rule, frames, material))
    if "filter" in experiments and not _rows("study_filter"):
        write_rows("study_filter", material.filter_rows(), _PACKAGES)


def _label_row(rule: str, frames: int, material: Material) -> dict[str, object]:
    found = material.scores_of(material.labelled(rule, frames))
    scores = {name: f"{value:.3f}" for name, value in asdict(found.mean).items()}
    return {"rule": rule, "frames": frames, "masks": found.masks, **scores}


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
