"""Networks by every runtime and precision that works here, beside torch, eager and compiled.

python benchmarks/runtimes.py --calibrate SOURCE [--repeats 15] [--only "bundled flow"]

All contenders of a case take turns, each after an untimed call; what differs from float32 in ONNX Runtime by more than
stated is not timed. int8 is what `f2f export … --int8 --calibrate SOURCE` writes; where its gates fail it has no row
(networks with random weights have no gates). Memory is what a process of its own grows by that opens and runs it. Rows
go to `results/runtimes.csv`, the quickest of each case in float32 and of all is marked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from record import read_rows, write_rows
from runtime_subjects import RUNTIMES, SUBJECTS, Run, Shape, opened, write_files

from f2f.engine.runtimes.trial import relative_difference, trial_input

MOST_DIFFERENCE = {"float32": 1e-3, "int8": 0.5}
"""of an output's largest value; int8 has gates of its own, on real frames"""
PRECISIONS = ("float32", "int8")


@dataclass(frozen=True)
class Contender:
    """Something that runs a network."""

    runtime: str
    precision: str
    run: Run
    memory_mb: float


def contenders(name: str, files: Mapping[str, Path]) -> Iterator[Contender]:
    """All that work here; the first is the one that others are compared with."""
    for precision in PRECISIONS:
        for runtime in RUNTIMES:
            if (run := opened(name, runtime, precision, files)) is not None:
                yield Contender(runtime, precision, run, memory_mb(name, runtime, precision, files))


def memory_mb(name: str, runtime: str, precision: str, files: Mapping[str, Path]) -> float:
    """What a process grows by that opens a contender and runs it on the first shape."""
    job = json.dumps([name, runtime, precision, {key: str(path) for key, path in files.items()}])
    command = [sys.executable, __file__, "--calibrate", "", "--memory-of", job]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def _growth_mb(name: str, runtime: str, precision: str, files: Mapping[str, str]) -> float:
    before = _own_mb("VmRSS:")
    run = opened(name, runtime, precision, {key: Path(path) for key, path in files.items()})
    assert run is not None
    run(trial_input(SUBJECTS[name].shapes[0]))
    return _own_mb("VmHWM:") - before


def _own_mb(entry: str) -> float:
    """From the kernel's account of this process; `getrusage` counts what it was before it became this program, too."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(entry))


def measure(name: str, shape: Shape, runners: Sequence[Contender], repeats: int) -> list[dict[str, object]]:
    """A row per contender."""
    batch = trial_input(shape)
    expected = runners[0].run(batch)
    differences = {
        one: max(relative_difference(e, f) for e, f in zip(expected, one.run(batch), strict=True)) for one in runners
    }
    good = [one for one in runners if differences[one] <= MOST_DIFFERENCE[one.precision]]
    for one in set(runners) - set(good):
        print(f"{name}, {one.runtime}, {one.precision}: differs by {differences[one]:.1e}, and is not timed")
    seconds: dict[Contender, list[float]] = {one: [] for one in good}
    for _ in range(repeats):
        for one in good:
            one.run(batch)  # untimed: the threads of the one before may still spin, its own may sleep
            start = time.perf_counter()
            one.run(batch)
            seconds[one].append(time.perf_counter() - start)
    medians = {one: float(np.median(times)) for one, times in seconds.items()}
    best = {min((m, one.runtime, one.precision) for one, m in medians.items() if one.precision in of) for of in _PODIUM}
    frames = shape[0] * (shape[1] if SUBJECTS[name].kind == "flow" else 1)
    return [
        {
            "network": name,
            "shape": "x".join(map(str, shape)),
            "runtime": one.runtime,
            "precision": one.precision,
            **{f"p{p}_ms": round(1e3 * float(np.quantile(seconds[one], p / 100)), 2) for p in (20, 50, 80)},
            "frames_per_second": round(frames / medians[one], 1),
            "times_onnxruntime_float32": round(medians[runners[0]] / medians[one], 2),
            "memory_mb": round(one.memory_mb),
            "difference": f"{differences[one]:.1e}",
            "best": "yes" if (medians[one], one.runtime, one.precision) in best else "",
        }
        for one in good
    ]


_PODIUM = (("float32",), PRECISIONS)


def main() -> None:
    """Measure and write; rows of networks that are not measured this time stay."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calibrate", required=True, help="videos that int8 is calibrated on, a SOURCE of f2f label")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", choices=tuple(SUBJECTS))
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory_of:
        print(_growth_mb(*json.loads(given.memory_of)))
        return
    for name in [given.only] if given.only else SUBJECTS:
        with tempfile.TemporaryDirectory(prefix="f2f-runtimes-") as folder:
            runners = list(contenders(name, write_files(name, Path(folder), given.calibrate)))
            rows = [row for shape in SUBJECTS[name].shapes for row in measure(name, shape, runners, given.repeats)]
        for row in rows:
            print(row, flush=True)
        kept = [row for row in _measured() if row["network"] != name]
        everything: list[Mapping[str, object]] = [*kept, *rows]
        everything.sort(key=lambda row: [*SUBJECTS].index(str(row["network"])))
        print(write_rows("runtimes", everything, ("torch", "onnxruntime", "openvino", "numpy")))


def _measured() -> list[dict[str, str]]:
    try:
        return read_rows("runtimes")
    except FileNotFoundError:
        return []


if __name__ == "__main__":
    main()
