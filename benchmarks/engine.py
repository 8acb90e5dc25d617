"""The engine beside a straightforward PyTorch script for the same job, beside itself without each cause of its speed,
and beside its own ceiling: what its stages need when each runs alone.

python benchmarks/engine.py [--crawl FOLDER] [--real ../real] [--repeats 5]

The script is `engine_script.py`, plain and frugal; both sides use the same networks, options, threads and machine,
`--rule paper`, no saliency (the engine's own would have no counterpart). Every measurement is a process of its own, all
of them take turns; time counts from the first video to the last mask, for f2f with opening its networks. Masks must
agree (IoU ≥ 0.99) before a ratio is told. Rows go to `results/engine.csv` and `results/engine_ceiling.csv`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from engine_sides import CAUSES, SCRIPTS, Workload, side
from PIL import Image
from record import circumstances, write_rows
from worlds import DEMO_CRAWL

from f2f.engine.records import read_shards
from f2f.training.export import export_classifier
from f2f.training.options import ClassifierExport
from f2f.training.synth import SynthOptions, synth

LEAST_IOU = 0.99
_PACKAGES = ("torch", "onnxruntime", "opencv-python-headless", "av", "numpy")


@dataclass(frozen=True)
class Measured:
    """What the runs of one side took."""

    side: str
    seconds: tuple[float, ...]
    facts: dict[str, Any]

    def quantile(self, share: float) -> float:
        """Seconds that this share of the runs stayed below."""
        return float(np.quantile(self.seconds, share))


def synthetic(folder: Path, crawl: Path | None) -> Workload:
    """The demo's crawl with the bundled networks."""
    crawl = crawl or folder / "crawl"
    if not (crawl / "manifest.csv").exists():
        synth(SynthOptions(out=crawl, videos=DEMO_CRAWL[0], images=0, seed=DEMO_CRAWL[1]))
    return Workload("synthetic web", str(crawl / "manifest.csv"), "demo", "demo")


def real(folder: Path, root: Path) -> Workload:
    """Nine real videos with an ImageNet classifier and OpenCV's flow."""
    weights, classes = root / "squeezenet1_0_imagenet.safetensors", root / "classes.json"
    network = folder / "squeezenet.onnx"
    given = ClassifierExport(torchvision="squeezenet1_0", weights=weights, classes=str(classes), out=network)
    export_classifier(given)
    return Workload("real videos", str(root / "videos"), str(network), "dis", str(weights), str(classes))


def measure(work: Workload, sides: Sequence[str], repeats: int, folder: Path) -> list[Measured]:
    """Run all sides `repeats` times by turns."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name in sides:
            result = _in_own_process(work, name, folder / _folder_name(name))
            found[name].append(result)
            print(f"{work.name}, {name}, run {turn + 1}: {result['seconds']:.2f} s", flush=True)
    return [Measured(name, tuple(r["seconds"] for r in results), results[-1]) for name, results in found.items()]


def _in_own_process(work: Workload, name: str, out: Path) -> dict[str, Any]:
    job = json.dumps({"side": name, "work": asdict(work), "out": str(out)})
    kernels = {"F2F_KERNELS": "torch"} if name in {*SCRIPTS, "f2f without kernels"} else {}
    command = [sys.executable, __file__, "--side", job]
    done = subprocess.run(command, env={**os.environ, **kernels}, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _folder_name(name: str) -> str:
    return name.replace(" ", "-")


def agreement(script: Path, ours: Path) -> float:
    """Mean IoU, over masks and their classes, of the script's masks and f2f's; both must have labelled the same."""
    named = {
        f"{Path(mask.video).stem}-{mask.window:04d}": mask.id for shard in read_shards(ours) for mask in shard.masks
    }
    written = {path.stem for path in script.glob("*.png")}
    if named.keys() != written or not named:
        raise RuntimeError(f"the sides labelled other windows: {sorted(named.keys() ^ written)[:5]}")
    ious = [
        iou
        for name, id_ in named.items()
        for iou in _ious(script / f"{name}.png", ours / "voc" / "SegmentationClass" / f"{id_}.png")
    ]
    return statistics.mean(ious)


def _ious(one: Path, other: Path) -> Iterator[float]:
    a, b = np.asarray(Image.open(one)), np.asarray(Image.open(other))
    for label in np.union1d(a, b):
        if label not in {0, 255}:
            yield float(((a == label) & (b == label)).sum() / ((a == label) | (b == label)).sum())


def rows_of(work: Workload, measured: Sequence[Measured], iou: float) -> list[dict[str, object]]:
    """A row per side; ratios to f2f: how many times as long a side took."""
    ours = next(one for one in measured if one.side == "f2f").quantile(0.5)
    return [
        {
            "world": work.name,
            "side": one.side,
            "videos": one.facts["videos"],
            "masks": one.facts["masks"],
            "repeats": len(one.seconds),
            **{f"p{percent}_s": round(one.quantile(percent / 100), 2) for percent in (20, 50, 80)},
            "videos_per_hour": round(3600 * one.facts["videos"] / one.quantile(0.5)),
            "times_f2f": round(one.quantile(0.5) / ours, 2),
            "iou_with_script": round(iou, 4) if one.side == "f2f" else "",
            "cores_busy": one.facts.get("cores_busy", ""),
            "held_up_by": one.facts.get("held_up_by", ""),
        }
        for one in measured
    ]


def ceiling_rows(work: Workload, whole: Measured, folder: Path) -> list[dict[str, object]]:
    """CPU seconds of every stage alone, and their sum as a share of what the cores had while f2f ran whole."""
    stages = _in_own_process(work, "stages alone", folder / "stages")["stages"]
    seconds = whole.quantile(0.5) * (os.cpu_count() or 1)
    rows: list[dict[str, object]] = [
        {"world": work.name, "stage": stage, "cpu_seconds_alone": round(cpu, 2), "share": round(cpu / seconds, 3)}
        for stage, cpu in stages.items()
    ]
    total = sum(stages.values())
    return [
        *rows,
        {"world": work.name, "stage": "all", "cpu_seconds_alone": round(total, 2), "share": round(total / seconds, 3)},
    ]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--crawl", type=Path, help="the demo's crawl, where it is rendered already")
    parser.add_argument("--real", type=Path, help="folder with videos/, classes.json and SqueezeNet's weights")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--causes", action=argparse.BooleanOptionalAction, default=True, help="also without each cause")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        job = json.loads(given.side)
        print(json.dumps(side(job["side"], Workload(**job["work"]), Path(job["out"]))))
        return
    rows: list[dict[str, object]] = []
    ceilings: list[dict[str, object]] = []
    sides = [*SCRIPTS, "f2f", *(f"f2f without {cause}" for cause in CAUSES if given.causes)]
    with tempfile.TemporaryDirectory(prefix="f2f-engine-") as name:
        folder = Path(name)
        works = [synthetic(folder, given.crawl)] + ([real(folder, given.real)] if given.real else [])
        for work in works:
            own = sides if work is works[0] else sides[: len(SCRIPTS) + 1]
            measured = measure(work, own, given.repeats, folder)
            iou = agreement(folder / "script", folder / "f2f")
            print(f"{work.name}: masks agree with IoU {iou:.4f}")
            if iou < LEAST_IOU:
                raise SystemExit(f"the masks agree with an IoU of {iou:.4f} only: no ratio is told")
            rows += rows_of(work, measured, iou)
            ceilings += ceiling_rows(work, measured[len(SCRIPTS)], folder)
    print(write_rows("engine", rows, _PACKAGES), write_rows("engine_ceiling", ceilings, _PACKAGES))
    print(circumstances(_PACKAGES))


if __name__ == "__main__":
    main()
