"""What the number of frames K does to masks by the paper's rule: recall, precision, IoU of the last frame's mask.

    python benchmarks/window_frames.py synthetic
    python benchmarks/window_frames.py real --videos DIR --truth DIR --classifier squeezenet.onnx

`synthetic` renders the demo's crawl (18 videos) and labels it as it comes, with the bundled networks; `real` trusts
the queries and takes 12 frames/s at 427 px, once with OpenCV's DIS flow and once with the bundled network's. One
window starts every 7 sampled frames, whatever K is. Writes benchmarks/results/window_frames_<world>.csv.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from record import write_rows

from f2f.engine import (
    CamOptions,
    ClassifyOptions,
    DecodeOptions,
    LabelOptions,
    MaskEvaluation,
    RuleOptions,
    WindowOptions,
    evaluate_masks,
    label,
)

FRAMES = (1, 2, 3, 5, 7)
FLOWS = {"synthetic": ("demo",), "real": ("dis", "demo")}


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
    theta_f: float | None = None
    """share of the peak above which a pixel is active (default: the network's own)"""


def main(options: Options) -> None:
    """Label the world once per K and write a row each."""
    with tempfile.TemporaryDirectory(prefix="f2f-") as folder:
        run, truth = _real(options) if options.world == "real" else _synthetic(options, Path(folder))
        rows = [
            _row(options.world, frames, flow, _labelled(replace(run, flow=flow), frames, Path(folder), truth))
            for frames in FRAMES
            for flow in FLOWS[options.world]
        ]
    print(write_rows(f"window_frames_{options.world}", rows).read_text(encoding="utf-8"))


def _real(options: Options) -> tuple[LabelOptions, Path]:
    if options.videos is None or options.truth is None:
        raise SystemExit("real videos are not part of the project: give --videos and --truth")
    run = LabelOptions(
        source=str(options.videos),
        out=Path(),
        classifier=options.classifier,
        decode=DecodeOptions(sample_fps=12, max_side=427),
        classify=ClassifyOptions(trust_query=True),
        cam=CamOptions(theta_f=options.theta_f),
        aggregation=RuleOptions(rule="paper"),
    )
    return run, options.truth


def _synthetic(options: Options, folder: Path) -> tuple[LabelOptions, Path]:
    from f2f.training.synth import SynthOptions, synth

    crawl = options.crawl or folder / "crawl"
    if not (crawl / "manifest.csv").exists():
        synth(SynthOptions(out=crawl, videos=18, images=0, seed=11))
    source, cam = str(crawl / "manifest.csv"), CamOptions(theta_f=options.theta_f)
    run = LabelOptions(
        source=source, out=Path(), classifier=options.classifier, cam=cam, aggregation=RuleOptions(rule="paper")
    )
    return run, crawl / "truth"


def _labelled(run: LabelOptions, frames: int, folder: Path, truth: Path) -> MaskEvaluation:
    out = folder / f"labels-{run.flow}-{frames}"
    window = WindowOptions(window_frames=frames, window_stride=7, windows="all")
    label(replace(run, out=out, window=window))
    return evaluate_masks(out, truth)


def _row(world: str, frames: int, flow: str, scores: MaskEvaluation) -> dict[str, object]:
    mean = scores.mean
    return {
        "world": world,
        "window_frames": frames,
        "flow": flow,
        "iou": f"{mean.iou:.3f}",
        "precision": f"{mean.precision:.3f}",
        "recall": f"{mean.recall:.3f}",
        "masks": scores.masks,
        "videos": scores.videos,
    }


if __name__ == "__main__":
    main(tyro.cli(Options))
