"""How good flow is, method by method: zero flow, OpenCV's classical methods, the bundled network, and given ones.

    python benchmarks/flow.py --real DIR [--flow NETWORK.onnx …] [--quick]

Three materials: 60 held-out pairs of the synthetic web, 1/6 s apart (the pairs of networks.py); two Sintel frames
beside the flow of the released PWC-Net (DIR/flow/<name>_<from>_to_<to>.flo with frame_<number>.png); real videos with
masks (DIR/videos, DIR/masks), whose true masks are carried over 1, 2 and 4 frames. Without --real only the first.
A row per method and material, of the videos one per stride and video and their mean. Times are medians over pairs of
one call with two frames, on --threads threads; they mean something only where nothing else runs. Writes
benchmarks/results/flow.csv.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import tyro
from record import write_rows

from f2f.engine.options import RuntimeOptions
from f2f.training.flow_eval import ExactScores, MaskScores, Methods, mask_videos, score_pairs, score_videos
from f2f.training.flow_files import FlowPair, read_pair
from f2f.training.flow_methods import OPENCV_METHODS, open_method
from f2f.training.options import FlowEvaluation
from f2f.training.synth import exact_flow, random_scene

_PAIRS, _GAP_SECONDS, _SEED = 60, 1 / 6, 2020
_QUICK_PAIRS, _QUICK_VIDEOS, _QUICK_EVERY = 6, 3, 12
_DIRECTION = re.compile(r"_(\d+)_to_(\d+)$")
_PACKAGES = ("torch", "onnxruntime", "opencv-python-headless", "numpy")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    real: Path | None = None
    """folder with flow/, videos/ and masks/ of real material"""
    flow: tuple[str, ...] = ()
    """networks measured beside the bundled one: .onnx or .pt2 files"""
    threads: int = 2
    """threads of every method"""
    strides: tuple[int, ...] = (1, 2, 4)
    """distances, in frames, that masks are carried over"""
    every: int = 1
    """carry the masks of every N-th frame"""
    quick: bool = False
    """few pairs of few videos: to see that it runs"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the results; empty where a material has no such measure."""

    method: str
    material: str
    stride: int | str = ""
    video: str = ""
    pairs: int | str = ""
    epe_px: str = ""
    epe_visible_px: str = ""
    fl_percent: str = ""
    mask_iou: str = ""
    colour_error: str = ""
    consistent: str = ""
    ms_per_pair: str = ""


def main(options: Options) -> None:
    """Measure and write the rows."""
    torch.set_num_threads(options.threads)
    runtimes = RuntimeOptions(threads=options.threads)
    methods = {name: open_method(name, runtimes) for name in ("zero", *OPENCV_METHODS, "demo")}
    methods |= {Path(name).stem: open_method(name, runtimes) for name in options.flow}
    pairs = _QUICK_PAIRS if options.quick else _PAIRS
    rows = exact_rows(score_pairs("synthetic web", methods, web_pairs(pairs)))
    if options.real is not None:
        rows += exact_rows(score_pairs("Sintel", methods, sintel_pairs(options.real / "flow")))
        rows += mask_rows(_carried(options, options.real, methods))
    print(write_rows("flow", [asdict(row) for row in rows], _PACKAGES).read_text(encoding="utf-8"))


def web_pairs(count: int) -> Iterator[FlowPair]:
    """Rendered pairs that no network was trained on: the flow lives on the later frame, points to the earlier one."""
    for number in range(count):
        scene = random_scene([_SEED, number], (240, 426))
        before, now = 1.0, 1.0 + _GAP_SECONDS
        flow, visible = exact_flow(scene, now, before)
        later, earlier = scene.render(now).image, scene.render(before).image
        yield FlowPair(f"pair {number}", later, earlier, flow, np.ones_like(visible), visible)


def sintel_pairs(folder: Path) -> Iterator[FlowPair]:
    """Frames with the released network's flow, both ways."""
    for path in sorted(folder.glob("*.flo")):
        direction = _DIRECTION.search(path.stem)
        if direction is not None:
            first, second = (folder / f"frame_{number}.png" for number in direction.groups())
            yield read_pair(first, second, path)


def _carried(options: Options, real: Path, methods: Methods) -> list[MaskScores]:
    videos = mask_videos(real / "videos", real / "masks")
    every = max(options.every, _QUICK_EVERY) if options.quick else options.every
    settings = FlowEvaluation(sources=(real,), strides=options.strides, every=every)
    chosen = list(islice(videos, _QUICK_VIDEOS)) if options.quick else videos
    return score_videos("real videos", methods, chosen, settings)


def exact_rows(scores: Sequence[ExactScores]) -> list[Row]:
    """A row per method."""
    return [
        Row(
            method=score.method,
            material=score.source,
            pairs=score.pairs,
            epe_px=f"{score.epe_px:.3f}",
            epe_visible_px="" if score.epe_visible_px is None else f"{score.epe_visible_px:.3f}",
            fl_percent=f"{score.fl_percent:.2f}",
            ms_per_pair=f"{score.ms_per_pair:.1f}",
        )
        for score in scores
    ]


def mask_rows(scores: Sequence[MaskScores]) -> list[Row]:
    """Per method and stride the mean over videos, then every video's IoU."""
    return [row for score in scores for row in (_mean_row(score), *_video_rows(score))]


def _mean_row(score: MaskScores) -> Row:
    return Row(
        method=score.method,
        material=score.source,
        stride=score.stride,
        video="mean",
        pairs=score.pairs,
        mask_iou=f"{score.iou:.4f}",
        colour_error="" if score.photometric is None else f"{score.photometric:.2f}",
        consistent=f"{score.consistent:.3f}",
        ms_per_pair=f"{score.ms_per_pair:.1f}",
    )


def _video_rows(score: MaskScores) -> list[Row]:
    return [
        Row(method=score.method, material=score.source, stride=score.stride, video=video, mask_iou=f"{iou:.4f}")
        for video, iou in score.per_video.items()
    ]


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main(tyro.cli(Options))
