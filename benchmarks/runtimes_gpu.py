"""Networks on a GPU by every runtime and precision that works there, and the share of its matrix units' peak reached.

python benchmarks/runtimes_gpu.py [--repeats 30] [--batches 1 8 32] [--only "VGG-16 classifier"] [--no-compile]

Inputs and outputs stay on the GPU; all contenders of a case take turns, each after an untimed call, timed by events.
Peaks are those of a product of two large square matrices in the same precision, measured in the same run; arithmetic is
counted by torch (a multiplication with its addition is two). What differs from ONNX Runtime on the CPU by more than
stated is not timed. Rows go to `results/runtimes_cuda.csv`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from record import write_rows
from runtime_subjects import SUBJECTS, Run, Shape, exported, without_gradients
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from f2f.engine.errors import F2FError
from f2f.engine.options import RuntimeOptions, TorchOptions
from f2f.engine.runtimes.cuda import gpu_name
from f2f.engine.runtimes.open import open_network
from f2f.engine.runtimes.trial import relative_difference, trial_input
from f2f.training.float16 import write_float16

Precision = Literal["float32", "float16", "bfloat16"]
MOST_DIFFERENCE: Mapping[Precision, float] = {"float32": 1e-3, "float16": 3e-2, "bfloat16": 5e-2}
"""of an output's largest value"""
_OF_FILES: tuple[Precision, ...] = ("float32", "float16")
"""precisions that `f2f export` writes into a graph"""
_OF_PT2: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
"""precisions of `--torch-precision`"""
_OF_ONNX: tuple[Literal["onnxruntime-cuda", "tensorrt"], ...] = ("onnxruntime-cuda", "tensorrt")
_PEAK_SIDE = 8192


@dataclass(frozen=True)
class Contender:
    """Something that runs a network on the GPU."""

    runtime: str
    precision: Precision
    run: Run


def contenders(name: str, files: Mapping[str, Path], compiled: bool) -> Iterator[Contender]:
    """All that work here."""
    kind, module = SUBJECTS[name].kind, SUBJECTS[name].module().cuda().to(memory_format=torch.channels_last)
    for runtime, precision in product(_OF_ONNX, _OF_FILES):
        try:
            network = open_network(str(files[precision]), kind, RuntimeOptions(runtime=runtime))
            yield Contender(runtime, precision, network)
        except F2FError as error:
            print(f"{name}, {runtime}, {precision}: {error}", flush=True)
    for precision in MOST_DIFFERENCE:
        yield Contender("torch eager", precision, _in_precision(module, precision))
        if compiled:
            yield Contender("torch compile", precision, _in_precision(torch.compile(module), precision))
    for asked in _OF_PT2:
        options = RuntimeOptions(runtime="torch", trust_code=True, torch=TorchOptions(torch_precision=asked))
        try:
            yield Contender("torch .pt2", asked, open_network(str(files["pt2"]), kind, options))
        except F2FError as error:
            print(f"{name}, torch .pt2, {asked}: {error}", flush=True)


def _in_precision(module: Callable[[Tensor], Tensor | tuple[Tensor, ...]], precision: Precision) -> Run:
    plain = without_gradients(module)

    def run(batch: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast("cuda", getattr(torch, precision), enabled=precision != "float32"):
            return plain(batch)

    return run


def peak_tflops(precision: Precision) -> float:
    """What a product of two large matrices reaches, TFLOP/s."""
    matrix = torch.randn(_PEAK_SIDE, _PEAK_SIDE, device="cuda", dtype=getattr(torch, precision))
    return 2 * _PEAK_SIDE**3 / min(_milliseconds(torch.matmul, matrix, matrix) for _ in range(10)) / 1e9


def _milliseconds(work: Callable[..., object], *batch: Tensor) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    work(*batch)
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def operations(name: str, shape: Shape) -> float:
    """Floating-point operations of one call."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        SUBJECTS[name].module()(torch.zeros(1, *shape[1:]))
    return float(counter.get_total_flops() * shape[0])


def measure(
    name: str,
    shape: Shape,
    runners: Sequence[Contender],
    files: Mapping[str, Path],
    repeats: int,
    peaks: Mapping[Precision, float],
) -> list[dict[str, object]]:
    """A row per contender."""
    batch, kind = trial_input(shape), SUBJECTS[name].kind
    expected = open_network(str(files["float32"]), kind, RuntimeOptions(runtime="onnxruntime-cpu"))(batch[:1])
    batch = batch.cuda()
    differences, memory = {}, {}
    for one in runners:
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info()[0]
        found = [output[:1].float().cpu() for output in one.run(batch)]
        memory[one] = (free - torch.cuda.mem_get_info()[0]) / 2**20
        differences[one] = max(relative_difference(e, f) for e, f in zip(expected, found, strict=True))
    good = [one for one in runners if differences[one] <= MOST_DIFFERENCE[one.precision]]
    for one in set(runners) - set(good):
        print(f"{name}, {one.runtime}, {one.precision}: differs by {differences[one]:.1e}, and is not timed")
    ms: dict[Contender, list[float]] = {one: [] for one in good}
    for _ in range(repeats):
        for one in good:
            one.run(batch)
            torch.cuda.synchronize()
            ms[one].append(_milliseconds(one.run, batch))
    best = min(good, key=lambda one: float(np.median(ms[one])))
    frames, work = shape[0] * (shape[1] if kind == "flow" else 1), operations(name, shape)
    return [
        _row(name, shape, one, ms[one], frames, work, peaks)
        | {
            "memory_mb": round(memory[one]),
            "difference": f"{differences[one]:.1e}",
            "best": "yes" if one is best else "",
        }
        for one in good
    ]


def _row(
    name: str,
    shape: Shape,
    one: Contender,
    ms: Sequence[float],
    frames: int,
    work: float,
    peaks: Mapping[Precision, float],
) -> dict[str, object]:
    reached = work / float(np.median(ms)) / 1e9
    return {
        "network": name,
        "shape": "x".join(map(str, shape)),
        "runtime": one.runtime,
        "precision": one.precision,
        **{f"p{p}_ms": round(float(np.quantile(ms, p / 100)), 3) for p in (20, 50, 80)},
        "frames_per_second": round(1e3 * frames / float(np.median(ms))),
        "tflops": round(reached, 2),
        "pct_of_peak": round(100 * reached / peaks[one.precision], 1),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--only", choices=tuple(SUBJECTS))
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes minutes")
    parser.add_argument("--time-limit", type=float, default=float("inf"), help="begin no network after so many seconds")
    given = parser.parse_args()
    peaks = {precision: peak_tflops(precision) for precision in MOST_DIFFERENCE}
    print(gpu_name(), peaks, flush=True)
    rows: list[Mapping[str, object]] = []
    for name in [given.only] if given.only else reversed([*SUBJECTS]):  # the largest first
        if time.monotonic() - _STARTED > given.time_limit:
            print(f"{name}: no time left", flush=True)
            continue
        with tempfile.TemporaryDirectory(prefix="f2f-runtimes-") as folder:
            files = exported(name, Path(folder))
            files["float16"] = Path(folder) / "half.onnx"
            write_float16(files["float32"], files["float16"])
            runners = list(contenders(name, files, not given.no_compile))
            for shape in SUBJECTS[name].shapes:
                for batch in given.batches:
                    made = measure(name, (batch, *shape[1:]), runners, files, given.repeats, peaks)
                    print(*made, sep="\n", flush=True)
                    rows += made
    print(write_rows("runtimes_cuda", rows, ("torch", "onnxruntime-gpu", "tensorrt"), gpu_name()))


_STARTED = time.monotonic()

if __name__ == "__main__":
    main()
