"""The bundled networks by every runtime and precision that works here, beside torch.

python benchmarks/runtimes.py --calibrate SOURCE [--repeats 15]

All contenders take turns, after an untimed call each; what differs from float32 in ONNX Runtime by more than stated is
not timed. int8 is what `f2f export … --int8 --calibrate SOURCE` writes; where its gates fail it has no row. Rows go to
`results/runtimes.csv`, the quickest of each case is marked.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from engine_networks import bundled_classifier, bundled_flow
from record import write_rows
from torch import Tensor, nn

from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.network import Kind
from f2f.engine.runtimes.open import bundled, open_network
from f2f.engine.runtimes.trial import relative_difference, trial_input
from f2f.training.card import NetworkCard
from f2f.training.export import export_network
from f2f.training.int8 import quantise
from f2f.training.options import Int8Options

CASES: tuple[tuple[Kind, tuple[int, ...]], ...] = (
    ("classifier", (1, 3, 240, 426)),
    ("classifier", (8, 3, 240, 426)),
    ("classifier", (1, 3, 375, 500)),
    ("flow", (1, 5, 3, 240, 426)),
)
MOST_DIFFERENCE = {"float32": 1e-3, "int8": 0.5}
"""of an output's largest value; int8 has gates of its own, on real frames"""
Run = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Contender:
    """Something that runs a network."""

    runtime: str
    precision: str
    run: Run


def contenders(kind: Kind, files: dict[str, Path]) -> Iterator[Contender]:
    """All that work here; the first is the one that others are compared with."""
    threads = torch.get_num_threads()
    module = bundled_classifier(files["float32"]) if kind == "classifier" else bundled_flow(files["float32"])
    for precision in ("float32", "int8"):
        if precision in files:
            options = RuntimeOptions(runtime="onnxruntime-cpu", threads=threads)
            yield Contender("onnxruntime", precision, open_network(str(files[precision]), kind, options))
    yield Contender("torch eager", "float32", _eager(module))
    yield Contender("torch compile", "float32", _eager(torch.compile(module)))
    options = RuntimeOptions(runtime="torch", threads=threads, trust_code=True)
    yield Contender("torch .pt2", "float32", open_network(str(files["pt2"]), kind, options))


def _eager(module: Callable[[Tensor], Tensor | tuple[Tensor, ...]]) -> Run:
    def run(batch: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            found = module(batch)
        return (found,) if isinstance(found, Tensor) else tuple(found)

    return run


def exports(kind: Kind, folder: Path, calibrate: str) -> dict[str, Path]:
    """The network's files by precision, and its .pt2."""
    whole, smaller, program = bundled(kind), folder / f"{kind}.int8.onnx", folder / f"{kind}.pt2"
    found = {"float32": whole, "pt2": program}
    verdict = quantise(whole, kind, Int8Options(int8=True, calibrate=calibrate), smaller)
    print(f"{kind}: {verdict}")
    if not verdict.why_not:
        found["int8"] = smaller
    network: nn.Module = bundled_classifier(whole) if kind == "classifier" else bundled_flow(whole)
    info = open_network(str(whole), kind, RuntimeOptions()).info
    card = NetworkCard(kind, info.classes, dict(info.defaults), {})
    export_network(network.to(memory_format=torch.contiguous_format), card, program)
    return found


def measure(kind: Kind, shape: tuple[int, ...], runners: list[Contender], repeats: int) -> list[dict[str, object]]:
    """A row per contender."""
    batch = trial_input(shape)
    expected = runners[0].run(batch)
    differences = {}
    for one in runners:
        found = one.run(batch)
        differences[one] = max(relative_difference(e, f) for e, f in zip(expected, found, strict=True))
    good = [one for one in runners if differences[one] <= MOST_DIFFERENCE[one.precision]]
    seconds: dict[Contender, list[float]] = {one: [] for one in good}
    for _ in range(repeats):
        for one in good:
            start = time.perf_counter()
            one.run(batch)
            seconds[one].append(time.perf_counter() - start)
    medians = {one: float(np.median(times)) for one, times in seconds.items()}
    best = min(medians.values())
    frames = shape[0] * (shape[1] if kind == "flow" else 1)
    return [
        {
            "network": kind,
            "shape": "x".join(map(str, shape)),
            "runtime": one.runtime,
            "precision": one.precision,
            **{f"p{p}_ms": round(1e3 * float(np.quantile(seconds[one], p / 100)), 2) for p in (20, 50, 80)},
            "frames_per_second": round(frames / medians[one], 1),
            "times_onnxruntime_float32": round(medians[runners[0]] / medians[one], 2),
            "difference": f"{differences[one]:.1e}",
            "best": "yes" if medians[one] == best else "",
        }
        for one in good
    ]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calibrate", required=True, help="videos that int8 is calibrated on, a SOURCE of f2f label")
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("classifier", "flow"):
            runners = list(contenders(kind, exports(kind, Path(folder), given.calibrate)))
            for _, shape in (case for case in CASES if case[0] == kind):
                rows += measure(kind, shape, runners, given.repeats)
                for row in rows[-len(runners) :]:
                    print(row, flush=True)
    print(write_rows("runtimes", rows))


if __name__ == "__main__":
    main()
