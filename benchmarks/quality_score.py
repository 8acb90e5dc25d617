"""How well `quality` of labels.parquet, the estimate of a mask's IoU, ranks masks and measures them.

    python benchmarks/quality_score.py calibrate [--crawl DIR]              prints the weights of engine/quality.py
    python benchmarks/quality_score.py synthetic [--crawl out/demo/crawl]   the demo's crawl
    python benchmarks/quality_score.py real --videos DIR --truth DIR --classifier squeezenet.onnx
    python benchmarks/quality_score.py picture                              all results -> docs/quality.png

Rule f2f, K = 5, masks of the last frame. `calibrate` renders another crawl (60 videos, or --crawl), fits a logistic
function of the signs to the IoU and prints it; nothing else looks at that crawl, and it looks at nothing else. Each
writes benchmarks/results/quality_score_<world>.csv: what is left when only the best 10, 20, … 100 % of the masks are
kept (part `kept`), and the masks in five groups of rising quality (part `group`). Every mask counts once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from quality_picture import draw
from record import read_rows, write_rows
from torch import Tensor
from worlds import DEMO_CRAWL, JudgedWindow, WorldOptions, judged_windows, real_world, synthetic_world

from f2f.engine.evaluate import overlap
from f2f.engine.evidence import evidence_of
from f2f.engine.job import open_networks
from f2f.engine.options import LabelOptions
from f2f.engine.quality import estimated_iou, signs
from f2f.engine.refine import probabilities

CALIBRATION_CRAWL = 60, 77
"""number of videos and seed; a seed of its own"""
SHARES_PCT = tuple(range(10, 101, 10))
GROUPS = 5
DOCS = Path(__file__).parents[1] / "docs"
_RIDGE, _STEPS = 0.01, 50
_PACKAGES = ("torch", "onnxruntime", "opencv-python-headless", "numpy")


@dataclass(frozen=True, kw_only=True)
class Options(WorldOptions):
    """What is done."""

    what: Annotated[Literal["calibrate", "synthetic", "real", "picture"], tyro.conf.Positional]
    """fit the weights, measure a world, or draw what was measured"""
    flow: str = "dis"
    """optical flow, as in `f2f label`"""


@dataclass(frozen=True)
class Judged:
    """A mask, what is said of it, and what is so."""

    video: str
    """id of the input"""
    signs: Tensor
    """float32 [3]"""
    quality: float
    iou: float
    precision: float


def main(options: Options) -> None:
    """Do it."""
    if options.what == "picture":
        draw({world: read_rows(f"quality_score_{world}") for world in ("real", "synthetic", "calibration")}, DOCS)
        return
    with TemporaryDirectory(prefix="f2f-") as folder:
        masks = list(judged_masks(*_world(options, Path(folder)), options.flow))
    if options.what == "calibrate":
        _print_weights(masks)
    world = "calibration" if options.what == "calibrate" else options.what
    print(write_rows(f"quality_score_{world}", rows(masks), _PACKAGES).read_text(encoding="utf-8"))


def _world(options: Options, folder: Path) -> tuple[LabelOptions, Path]:
    if options.what == "real":
        return real_world(options)
    return synthetic_world(options, folder, *(CALIBRATION_CRAWL if options.what == "calibrate" else DEMO_CRAWL))


def judged_masks(run: LabelOptions, truth: Path, flow: str) -> Iterator[Judged]:
    """Every mask of a world that has a truth, of its query's class."""
    run = replace(run, flow=flow)
    networks = open_networks(run)
    for judged in judged_windows(run, networks, truth):
        yield _judged(judged, run.aggregation.theta)


def _judged(judged: JudgedWindow, theta: float) -> Judged:
    evident, place = evidence_of(judged.moving), judged.place
    classes = probabilities(evident.evidence, judged.moving.window.frames[-1].image, theta)[1:]  # [P, H, W]
    scores = overlap((classes[place] > 0.5).numpy(), judged.true)
    precision = 0.0 if np.isnan(scores.precision) else scores.precision  # an empty mask
    estimate = estimated_iou(classes, evident.moves)[place]
    return Judged(judged.video, signs(classes, evident.moves)[place], estimate, scores.iou, precision)


# ---- weights


def _print_weights(masks: Sequence[Judged]) -> None:
    weights, offset = fitted(torch.stack([mask.signs for mask in masks]), torch.tensor([mask.iou for mask in masks]))
    print(f"OFFSET, WEIGHTS = {offset:.2f}, ({', '.join(f'{weight:.2f}' for weight in weights)})")


def fitted(signs: Tensor, ious: Tensor) -> tuple[list[float], float]:
    """The weights of signs [n, m] and the offset of the logistic function that is nearest to IoU [n].

    Cross entropy, by Newton's method; a little of the squared weights of standardised signs keeps them small.
    """
    middle, spread = signs.double().mean(0), signs.double().std(0)
    ones = torch.ones(len(signs), 1, dtype=torch.float64)
    inputs = torch.cat([(signs.double() - middle) / spread, ones], dim=1)  # [n, m + 1]
    ridge = torch.tensor([_RIDGE] * signs.shape[1] + [0.0], dtype=torch.float64)
    found = torch.zeros(inputs.shape[1], dtype=torch.float64)
    for _ in range(_STEPS):
        estimates = torch.sigmoid(inputs @ found)
        slope = inputs.T @ (estimates - ious.double()) / len(inputs) + ridge * found
        curvature = (inputs.T * (estimates * (1 - estimates))) @ inputs / len(inputs) + ridge.diag()
        found = found - torch.linalg.solve(curvature, slope)
    weights = found[:-1] / spread
    return weights.tolist(), float(found[-1] - (weights * middle).sum())


# ---- rows


def rows(masks: Sequence[Judged]) -> list[dict[str, object]]:
    """What keeping the best leaves, then groups of rising quality."""
    best_first = sorted(masks, key=lambda mask: -mask.quality)
    in_truth = sorted(masks, key=lambda mask: -mask.iou)
    rho = rank_correlation([mask.quality for mask in masks], [mask.iou for mask in masks])
    kept = [(share, max(1, round(len(masks) * share / 100))) for share in SHARES_PCT]
    groups = np.array_split(np.arange(len(masks)), GROUPS)
    return [
        *(_row("kept", share, best_first[:count], in_truth[:count], rho) for share, count in kept),
        *(
            _row("group", 100 * (number + 1) // GROUPS, [best_first[-1 - place] for place in places], [], rho)
            for number, places in enumerate(groups)
        ),
    ]


def _row(part: str, share: int, masks: Sequence[Judged], ideal: Sequence[Judged], rho: float) -> dict[str, object]:
    qualities, ious = ([getattr(mask, name) for mask in masks] for name in ("quality", "iou"))
    return {
        "part": part,
        "share_pct": share,
        "masks": len(masks),
        "videos": len({mask.video for mask in masks}),
        "least_quality": f"{min(qualities):.3f}",
        "mean_quality": f"{np.mean(qualities):.3f}",
        "iou": f"{np.mean(ious):.3f}",
        "iou_standard_error": f"{np.std(ious, ddof=1) / len(ious) ** 0.5:.3f}" if len(ious) > 1 else "",
        "precision": f"{np.mean([mask.precision for mask in masks]):.3f}",
        "iou_of_the_truly_best": f"{np.mean([mask.iou for mask in ideal]):.3f}" if ideal else "",
        "rank_correlation": f"{rho:.2f}",
    }


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's: Pearson's of the ranks; equals share their mean rank."""
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    ranks: np.ndarray[tuple[int], np.dtype[np.float64]] = mean_ranks[places]
    return ranks


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main(tyro.cli(Options))
