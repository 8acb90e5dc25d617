"""What each part of the rules does to masks: IoU, precision, recall of the last frame's mask, and its cost per window.

    python benchmarks/quality.py synthetic [--crawl out/demo/crawl]
    python benchmarks/quality.py real --videos DIR --truth DIR --classifier squeezenet.onnx

`synthetic` renders the demo's crawl (18 videos) and labels it as it comes, with the bundled classifier; `real` trusts
the queries and takes 12 frames/s at 427 px. One window starts every 7 sampled frames. The parts of the rules, and other
numbers of frames, are measured with the first flow. All rules see the same activation and flow of a window; "ms" is
what they take from there, on --threads threads. Scores are means over windows, then videos. Writes
benchmarks/results/quality_<world>.csv.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
import tyro
from PIL import Image
from record import write_rows
from torch import Tensor

from f2f.engine.cam import MultiScaleCams, activate_softly
from f2f.engine.classify import classify, without_scores
from f2f.engine.evaluate import MaskScores, overlap
from f2f.engine.evidence import evidence_of, share_of_peak
from f2f.engine.flow import follow_both_ways
from f2f.engine.options import ClassifyOptions, DecodeOptions, LabelOptions, RuntimeOptions, WindowOptions
from f2f.engine.pipeline import Networks, open_networks
from f2f.engine.pool import DecodePool
from f2f.engine.refine import probabilities
from f2f.engine.source import class_of_query, read_source
from f2f.engine.stage import StageClock
from f2f.engine.types import InputRow, MovingSoftWindow, VideoEnd
from f2f.engine.window import find_windows
from f2f.kernels import pack_planes, soft_union, unpack_planes, warp_union
from f2f.training.synth import CLASSES, SynthOptions, synth

FRAMES = (1, 3, 5, 7, 9)
_USUAL_FRAMES = 5
_PACKAGES = ("torch", "onnxruntime", "opencv-python-headless", "numpy")
Rule = Callable[[MovingSoftWindow], Tensor]
"""a window -> masks of its classes on the last frame, bool [P, H, W]"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    world: Annotated[Literal["synthetic", "real"], tyro.conf.Positional]
    """rendered videos or real ones"""
    videos: Path | None = None
    """folder <query>/*.mp4 of real videos"""
    truth: Path | None = None
    """folder <video>/%05d.png of their masks"""
    crawl: Path | None = None
    """folder of the synthetic crawl where it is rendered already, as out/demo/crawl by `make demo`"""
    classifier: str = "demo"
    """network file, or demo"""
    flows: tuple[str, ...] = ("dis", "demo")
    """optical flow, as in `f2f label`"""
    threads: int = 2
    """threads of networks and kernels"""


@dataclass
class _Scores:
    """Of one rule so far."""

    by_video: dict[str, list[MaskScores]] = field(default_factory=dict)
    milliseconds: list[float] = field(default_factory=list)

    def mean(self, name: str) -> float:
        """Over windows, then videos."""
        return float(np.mean([np.nanmean([getattr(s, name) for s in scores]) for scores in self.by_video.values()]))


def main(options: Options) -> None:
    """Measure and write the rows."""
    with TemporaryDirectory(prefix="f2f-") as folder:
        run, truth = _real(options) if options.world == "real" else _synthetic(options, Path(folder))
        rows = [
            row
            for flow in options.flows
            for frames in (FRAMES if flow == options.flows[0] else (_USUAL_FRAMES,))
            for row in _rows(replace(run, flow=flow), truth, frames, in_parts=flow == options.flows[0])
        ]
    print(write_rows(f"quality_{options.world}", rows, _PACKAGES).read_text(encoding="utf-8"))


def _rows(run: LabelOptions, truth: Path, frames: int, in_parts: bool) -> list[dict[str, object]]:
    """Of every rule with one flow and number of frames; of their parts too for the usual number."""
    networks = open_networks(run)
    rules = _rules(networks.theta_f, run.aggregation.theta)
    if frames != _USUAL_FRAMES or not in_parts:
        rules = {name: rules[name] for name in ("rule paper", "rule f2f")}
    window = replace(run.window, window_frames=frames)
    scores = _measured(replace(run, window=window), networks, truth, rules)
    return [_row(name, frames, run.flow, rule_scores) for name, rule_scores in scores.items()]


def _real(options: Options) -> tuple[LabelOptions, Path]:
    if options.videos is None or options.truth is None:
        raise SystemExit("real videos are not part of the project: give --videos and --truth")
    decode, trusted = DecodeOptions(sample_fps=12, max_side=427), ClassifyOptions(trust_query=True)
    return replace(_run(options, options.videos), decode=decode, classify=trusted), options.truth


def _synthetic(options: Options, folder: Path) -> tuple[LabelOptions, Path]:
    crawl = options.crawl or folder / "crawl"
    if not (crawl / "manifest.csv").exists():
        synth(SynthOptions(out=crawl, videos=18, images=0, seed=11))
    return _run(options, crawl / "manifest.csv"), crawl / "truth"


def _run(options: Options, source: Path) -> LabelOptions:
    return LabelOptions(
        source=str(source),
        out=Path(),
        classifier=options.classifier,
        window=WindowOptions(window_stride=7, windows="all"),
        runtimes=RuntimeOptions(threads=options.threads),
    )


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


def _measured(run: LabelOptions, networks: Networks, truth: Path, rules: Mapping[str, Rule]) -> dict[str, _Scores]:
    rows = dict(enumerate(read_source(run.source, run.sources)))
    scores, names = {name: _Scores() for name in rules}, networks.classifier.info.classes
    for moving, fps in _windows(run, networks, rows):
        row = rows[moving.window.video]
        query = class_of_query(row.query, names, {})
        assert query is not None, "a window contains its query"
        place = moving.window.classes.index(query)
        true = _true_mask(truth, row, names[query], round(moving.window.frames[-1].pts_seconds * fps), moving)
        if true is None:
            continue
        for name, rule in rules.items():
            start = time.perf_counter()
            mask = rule(moving)[place].numpy()
            scores[name].milliseconds.append(1000 * (time.perf_counter() - start))
            scores[name].by_video.setdefault(row.id, []).append(overlap(mask, true))
    return scores


def _windows(
    run: LabelOptions, networks: Networks, rows: Mapping[int, InputRow]
) -> Iterator[tuple[MovingSoftWindow, float]]:
    """Every window with its activation and flow, and its video's frames per second."""
    names = networks.classifier.info.classes
    queries = {number: class_of_query(row.query, names, {}) for number, row in rows.items()}
    known = {number: query for number, query in queries.items() if query is not None}
    clock = StageClock()
    with DecodePool(run.decode) as pool:
        frames = pool.frames([(number, rows[number]) for number in known if not rows[number].problem])
        trusted = networks.tau is None
        scored = without_scores(frames) if trusted else classify(frames, networks.classifier, run.classify, clock)
        windows = find_windows(scored, known, networks.tau, run.window, enough=pool.cancel)
        soft = activate_softly(windows, MultiScaleCams(networks.classifier, run.cam.scales), clock)
        for item in follow_both_ways(soft, networks.flow, run.motion, clock):
            if not isinstance(item, VideoEnd):
                yield item, item.window.frames[-1].report.fps


def _true_mask(
    truth: Path, row: InputRow, name: str, number: int, moving: MovingSoftWindow
) -> npt.NDArray[np.bool_] | None:
    stem = PurePath(row.video).stem
    for folder in (truth / row.query / stem, truth / stem):
        with suppress(FileNotFoundError):
            image = Image.open(folder / f"{number:05d}.png")
            height, width = moving.window.size_hw
            pixels = np.asarray(image.resize((width, height), Image.Resampling.NEAREST))
            return np.asarray(pixels if image.mode == "1" else pixels == CLASSES.index(name) + 1, np.bool_)
    return None


def _row(name: str, frames: int, flow: str, scores: _Scores) -> dict[str, object]:
    return {
        "rule": name,
        "window_frames": frames,
        "flow": flow,
        **{measure: f"{scores.mean(measure):.3f}" for measure in ("iou", "precision", "recall")},
        "masks": sum(len(of_video) for of_video in scores.by_video.values()),
        "videos": len(scores.by_video),
        "ms": f"{median(scores.milliseconds):.0f}",
    }


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main(tyro.cli(Options))
