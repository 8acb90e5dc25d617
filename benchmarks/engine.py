"""The engine beside a straightforward PyTorch script for the same job, beside itself without each cause of its speed,
and beside its own ceiling: what its stages need when each runs alone.

python benchmarks/engine.py [--crawl FOLDER] [--real ../real] [--repeats 5]

The script is `engine_script.py`, plain and frugal; both sides use the same networks, options, threads and machine,
`--rule paper`, no saliency (the engine's own would have no counterpart). Every measurement is a process of its own, all
of them take turns; time counts from the first video to the last mask, for f2f with opening its networks. Masks must
agree (IoU ≥ 0.99) before a ratio is told; those of networks in 8 bits, calibrated on the same videos, are told. Rows go
to `results/engine.csv` and `results/engine_ceiling.csv`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from engine_sides import ALONE, CAUSES, INT8, SCRIPTS, Workload, side
from PIL import Image
from record import circumstances, write_rows
from worlds import DEMO_CRAWL

from f2f.engine.records import read_shards
from f2f.engine.runtimes.network import Kind
from f2f.engine.runtimes.open import bundled
from f2f.training.export import export_classifier
from f2f.training.options import ClassifierExport, PrecisionOptions
from f2f.training.precision import reduce_precision
from f2f.training.synth import SynthOptions, synth

LEAST_IOU = 0.99
_KINDS: tuple[Kind, Kind] = ("classifier", "flow")
_PACKAGES = ("torch", "onnxruntime", "opencv-python-headless", "av", "numpy")


@dataclass(frozen=True)
class Measured:
    """What the runs of one side took."""

    side: str
    results: tuple[dict[str, Any], ...]

    @property
    def seconds(self) -> list[float]:
        """Of every run."""
        return [result["seconds"] for result in self.results]

    @property
    def facts(self) -> dict[str, Any]:
        """What else the last run says of itself."""
        return self.results[-1]

    def quantile(self, share: float) -> float:
        """Seconds that this share of the runs stayed below."""
        return float(np.quantile(self.seconds, share))


def synthetic(folder: Path, crawl: Path | None) -> Workload:
    """The demo's crawl with the bundled networks."""
    crawl = crawl or folder / "crawl"
    if not (crawl / "manifest.csv").exists():
        synth(SynthOptions(out=crawl, videos=DEMO_CRAWL[0], images=0, seed=DEMO_CRAWL[1]))
    source = str(crawl / "manifest.csv")
    classifier, flow = (_in_int8(kind, bundled(kind), source, folder) or "demo" for kind in _KINDS)
    return Workload("synthetic web", source, "demo", "demo", smaller=(classifier, flow))


def real(folder: Path, root: Path) -> Workload:
    """Nine real videos with an ImageNet classifier and OpenCV's flow."""
    weights, classes = root / "squeezenet1_0_imagenet.safetensors", root / "classes.json"
    network = folder / "squeezenet.onnx"
    given = ClassifierExport(torchvision="squeezenet1_0", weights=weights, classes=str(classes), out=network)
    export_classifier(given)
    source = str(root / "videos")
    smaller = (_in_int8("classifier", network, source, folder), "dis")
    return Workload("real videos", source, str(network), "dis", str(weights), str(classes), smaller)


def _in_int8(kind: Kind, network: Path, source: str, folder: Path) -> str:
    """What `f2f export … --int8 --calibrate SOURCE` writes; nothing where it keeps float32, for its gates."""
    out = folder / f"{network.stem}.int8.onnx"
    verdict = reduce_precision(network, kind, PrecisionOptions(int8=True, calibrate=source), out)
    print(f"{network.stem}: {verdict}", flush=True)
    return "" if verdict.why_not else str(out)


def sides_of(work: Workload, causes: Sequence[str]) -> list[str]:
    """The sides that a world has: in 8 bits where a network is."""
    int8 = [INT8] if work.smaller[0] else []
    return [*SCRIPTS, "f2f", *int8, *(f"f2f without {cause}" for cause in causes)]


def measure(work: Workload, sides: Sequence[str], repeats: int, folder: Path) -> list[Measured]:
    """Run all sides `repeats` times by turns."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name in sides:
            result = _in_own_process(work, name, folder / _folder_name(name))
            found[name].append(result)
            print(f"{work.name}, {name}, run {turn + 1}: {result['seconds']:.2f} s", flush=True)
    return [Measured(name, tuple(results)) for name, results in found.items()]


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


def agreement(script: Path, ours: Path) -> tuple[float, float]:
    """Mean IoU, over masks and their classes, of the script's masks and f2f's; share of masks that both have."""
    named = {
        f"{Path(mask.video).stem}-{mask.window:04d}": mask.id for shard in read_shards(ours) for mask in shard.masks
    }
    written = {path.stem for path in script.glob("*.png")}
    both = named.keys() & written
    ious = [
        iou
        for name in sorted(both)
        for iou in _ious(script / f"{name}.png", ours / "voc" / "SegmentationClass" / f"{named[name]}.png")
    ]
    return statistics.mean(ious), len(both) / len(named.keys() | written)


def _ious(one: Path, other: Path) -> Iterator[float]:
    a, b = np.asarray(Image.open(one)), np.asarray(Image.open(other))
    for label in np.union1d(a, b):
        if label not in {0, 255}:
            yield float(((a == label) & (b == label)).sum() / ((a == label) | (b == label)).sum())


def agreements(work: Workload, folder: Path) -> dict[str, tuple[float, float]]:
    """How f2f's masks agree with the script's; in float32 they must.

    Raises:
        SystemExit: they do not.
    """
    names = [name for name in sides_of(work, ()) if name not in SCRIPTS]
    found = {name: agreement(folder / "script", folder / _folder_name(name)) for name in names}
    for name, (iou, share) in found.items():
        print(f"{work.name}, {name}: masks agree with IoU {iou:.4f}, {share:.1%} are of the same windows", flush=True)
    iou, share = found["f2f"]
    if iou < LEAST_IOU or share < 1:
        raise SystemExit(f"{share:.1%} of the masks agree with an IoU of {iou:.4f} only: no ratio is told")
    return found


def rows_of(
    work: Workload, measured: Sequence[Measured], agree: Mapping[str, tuple[float, float]]
) -> list[dict[str, object]]:
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
            "iou_with_script": round(agree[one.side][0], 4) if one.side in agree else "",
            "masks_shared": round(agree[one.side][1], 4) if one.side in agree else "",
            "cores_busy": one.facts.get("cores_busy", ""),
            "held_up_by": one.facts.get("held_up_by", ""),
        }
        for one in measured
    ]


def ceiling_rows(work: Workload, whole: Measured, alone: Measured) -> list[dict[str, object]]:
    """CPU seconds of every stage alone, and their sum as a share of what the cores had while f2f ran whole."""
    seconds = whole.quantile(0.5) * (os.cpu_count() or 1)
    cpu = {stage: statistics.median(r["stages"][stage] for r in alone.results) for stage in alone.facts["stages"]}
    cpu["all"] = sum(cpu.values())
    return [
        {"world": work.name, "stage": stage, "cpu_seconds_alone": round(one, 2), "share": round(one / seconds, 3)}
        for stage, one in cpu.items()
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
    with tempfile.TemporaryDirectory(prefix="f2f-engine-") as name:
        folder = Path(name)
        works = [synthetic(folder, given.crawl)] + ([real(folder, given.real)] if given.real else [])
        for work in works:
            causes = CAUSES if given.causes and work is works[0] else ()
            *measured, alone = measure(work, [*sides_of(work, causes), ALONE], given.repeats, folder)
            rows += rows_of(work, measured, agreements(work, folder))
            ceilings += ceiling_rows(work, measured[len(SCRIPTS)], alone)
    print(write_rows("engine", rows, _PACKAGES), write_rows("engine_ceiling", ceilings, _PACKAGES))
    print(circumstances(_PACKAGES))


if __name__ == "__main__":
    main()
