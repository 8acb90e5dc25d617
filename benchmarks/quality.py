"""What each part of the rules does to masks: IoU, precision, recall of the last frame's mask, and its cost per window.

    python benchmarks/quality.py synthetic [--crawl out/demo/crawl]
    python benchmarks/quality.py real --videos DIR --truth DIR --classifier squeezenet.onnx

`synthetic` renders the demo's crawl (18 videos) and labels it as it comes, with the bundled classifier; `real` trusts
the queries and takes 12 frames/s at 427 px. One window starts every 7 sampled frames. The parts of the rules, and other
numbers of frames, are measured with the first flow. All rules see the same activation and flow of a window; "ms" is
what they take from there, on --threads threads. Scores are means over windows, then videos. Writes
benchmarks/results/quality_<world>.csv and, of five frames with the first flow, quality_<world>_videos.csv with every
video's IoU and docs/rules_<world>.png; of rendered videos also docs/steps.png, a window per class.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
import tyro
from record import read_rows, write_rows
from rules_picture import Example, draw_rules, draw_steps
from torch import Tensor
from worlds import DEMO_CRAWL, JudgedWindow, WorldOptions, judged_windows, real_world, synthetic_world

from f2f.engine.evaluate import MaskScores, overlap
from f2f.engine.evidence import evidence_of, share_of_peak
from f2f.engine.job import open_networks
from f2f.engine.options import LabelOptions
from f2f.engine.refine import probabilities
from f2f.engine.types import MovingSoftWindow
from f2f.kernels import pack_planes, soft_union, unpack_planes, warp_union

FRAMES = (1, 3, 5, 7, 9)
_USUAL_FRAMES = 5
_PACKAGES = ("torch", "onnxruntime", "opencv-python-headless", "numpy")
Rule = Callable[[MovingSoftWindow], Tensor]
"""a window -> masks of its classes on the last frame, bool [P, H, W]"""


@dataclass(frozen=True, kw_only=True)
class Options(WorldOptions):
    """What is measured."""

    world: Annotated[Literal["synthetic", "real"], tyro.conf.Positional]
    """rendered videos or real ones"""
    flows: tuple[str, ...] = ("dis", "demo")
    """optical flow, as in `f2f label`"""


@dataclass
class _Scores:
    """Of one rule with one flow and number of frames."""

    rule: str
    window_frames: int
    flow: str

    by_video: dict[str, list[MaskScores]] = field(default_factory=dict)
    milliseconds: list[float] = field(default_factory=list)

    def mean(self, name: str) -> float:
        """Over windows, then videos."""
        return float(np.mean([np.nanmean([getattr(s, name) for s in scores]) for scores in self.by_video.values()]))


def main(options: Options) -> None:
    """Measure, write the rows and draw."""
    with TemporaryDirectory(prefix="f2f-") as folder:
        if options.world == "real":
            run, truth = real_world(options)
        else:
            run, truth = synthetic_world(options, Path(folder), *DEMO_CRAWL)
        examples: dict[str, Example] = {}
        scores = [
            score
            for flow in options.flows
            for frames in (FRAMES if flow == options.flows[0] else (_USUAL_FRAMES,))
            for score in _scores(replace(run, flow=flow), truth, frames, flow == options.flows[0], examples)
        ]
    usual = [score for score in scores if (score.window_frames, score.flow) == (_USUAL_FRAMES, options.flows[0])]
    world = f"quality_{options.world}"
    print(write_rows(world, [_row(score) for score in scores], _PACKAGES).read_text(encoding="utf-8"))
    write_rows(f"{world}_videos", [row for score in usual for row in _video_rows(score)], _PACKAGES)
    draw_rules(options.world, read_rows(f"{world}_videos"))
    if options.world == "synthetic":  # real frames are not ours to show
        draw_steps(list(examples.values()))


def _scores(run: LabelOptions, truth: Path, frames: int, in_parts: bool, examples: dict[str, Example]) -> list[_Scores]:
    """Of every rule with one flow and number of frames; of their parts too for the usual number."""
    networks = open_networks(run)
    rules = _rules(networks.theta_f, run.aggregation.theta)
    if frames != _USUAL_FRAMES or not in_parts:
        rules = {name: rules[name] for name in ("rule paper", "rule f2f")}
        examples = {}
    window = replace(run.window, window_frames=frames)
    scores = [_Scores(name, frames, run.flow) for name in rules]
    for judged in judged_windows(replace(run, window=window), networks, truth):
        masks = [_timed(rules[score.rule], judged, score) for score in scores]
        name = networks.classifier.info.classes[judged.moving.window.classes[judged.place]]
        if name not in examples:
            image = judged.moving.window.frames[-1].image
            examples[name] = Example(name, image, dict(zip(rules, masks, strict=True)), judged.true)
    return scores


def _timed(rule: Rule, judged: JudgedWindow, score: _Scores) -> npt.NDArray[np.bool_]:
    """The mask of a rule, bool [H, W]; its time and quality go into `score`."""
    start = time.perf_counter()
    mask: npt.NDArray[np.bool_] = rule(judged.moving)[judged.place].numpy()
    score.milliseconds.append(1000 * (time.perf_counter() - start))
    score.by_video.setdefault(judged.video, []).append(overlap(mask, judged.true))
    return mask


def _rules(theta_f: float, theta: float) -> Mapping[str, Rule]:
    def refined(evidence: Tensor, moving: MovingSoftWindow) -> Tensor:
        return probabilities(evidence, moving.window.frames[-1].image, theta)[1:] > 0.5

    return {
        "single frame": lambda moving: moving.maps[-1] > theta_f,
        "single frame, CRF": lambda moving: refined(moving.maps[-1], moving),
        "rule paper": lambda moving: _united(moving, theta_f),
        "soft gated union": lambda moving: share_of_peak(_soft(moving)) > theta,
        "soft gated union, CRF": lambda moving: refined(share_of_peak(_soft(moving)), moving),
        "soft gated union, motion": lambda moving: evidence_of(moving).evidence > theta,
        "rule f2f": lambda moving: refined(evidence_of(moving).evidence, moving),
    }


def _soft(moving: MovingSoftWindow) -> Tensor:
    return soft_union(moving.maps[None], moving.flow_xy_px[None], moving.return_xy_px[None])[0]


def _united(moving: MovingSoftWindow, theta_f: float) -> Tensor:
    (bits,) = warp_union(pack_planes(moving.maps > theta_f)[None], moving.flow_xy_px[None])
    return unpack_planes(bits, moving.maps.shape[1])


def _row(score: _Scores) -> dict[str, object]:
    return {
        "rule": score.rule,
        "window_frames": score.window_frames,
        "flow": score.flow,
        **{measure: f"{score.mean(measure):.3f}" for measure in ("iou", "precision", "recall")},
        "masks": sum(len(of_video) for of_video in score.by_video.values()),
        "videos": len(score.by_video),
        "ms": f"{median(score.milliseconds):.0f}",
    }


def _video_rows(score: _Scores) -> list[dict[str, object]]:
    return [
        {"rule": score.rule, "video": video, "masks": len(scores), "iou": f"{np.mean([s.iou for s in scores]):.3f}"}
        for video, scores in sorted(score.by_video.items())
    ]


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main(tyro.cli(Options))
