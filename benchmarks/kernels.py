"""f2f's kernels beside what people would use instead, in every version that runs here.

    python benchmarks/kernels.py --quick          the headline sizes, minutes on two cores
    python benchmarks/kernels.py                  the whole grid
    python benchmarks/kernels.py --device cuda    on a GPU

One process, one number of threads for all. Of every case each contender runs once and is compared with the torch
reference (masks and labels of ours must be identical, but for `crf_refine`, an approximation; those who sample in
another precision have a stated band); only who agrees is timed, in turns A, B, C, A, B, C, ..., and torch.compile
without its compilation. The exact dense CRF takes minutes on a CPU: it is asked at a small size, and in whole frames
ours is compared with pydensecrf.

Writes benchmarks/results/kernels.csv (kernels_cuda.csv), a row per case and contender, after every case; with --ops the
rows of other operators stay as they are. Who disagrees or does not run has a row with the reason and no time. Exits 1
where one of them disagrees or one of ours fails.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import record
import torch
from kernel_baselines import COMPILE, DENSECRF, EAGER, baselines
from kernel_contenders import Absent, Contender, defined, disagreement, one_line, ours, takes_minutes
from kernel_timing import Stopwatch, alternate, copy_gbps, extra_memory_mb, percentiles, time_limit
from kernel_workloads import OPERATORS, Case, baseline_bytes, grid, make_inputs, must_move_bytes
from torch import Tensor

_PACKAGES = ("torch", "triton", "numpy", "opencv-python-headless", "kornia", "localcorr", "pydensecrf2")
_GIB = 1 << 30
Row = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured; see `parse` for the words."""

    quick: bool = False
    device: str = "cpu"
    ops: Sequence[str] = ()
    threads: int = 0
    case_seconds: float = 4.0
    compile_seconds: float = 300.0
    time_limit: float = 0.0
    memory_gib: float = 0.0


def parse(words: Sequence[str] | None = None) -> Options:
    """Options of a command line. Plain argparse: a GPU machine may have nothing but torch."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only the headline sizes")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--ops", nargs="+", default=(), choices=OPERATORS, help="only these; rows of others are kept")
    parser.add_argument("--threads", type=int, default=0, help="for everyone (default: as many as torch takes)")
    parser.add_argument("--case-seconds", type=float, default=4.0, help="repetitions of one case, s")
    parser.add_argument("--compile-seconds", type=float, default=300.0, help="torch.compile is given up after this, s")
    parser.add_argument("--time-limit", type=float, default=0.0, help="no case is started after this, s (0: no limit)")
    parser.add_argument(
        "--memory-gib", type=float, default=0.0,
        help="cases whose torch forms need more are left out, GiB (default: a third of what is free)",
    )  # fmt: skip
    return Options(**vars(parser.parse_args(words)))


@dataclass(frozen=True)
class Bench:
    """What all cases share."""

    options: Options
    stopwatch: Stopwatch
    copy_gbps: float
    memory_bytes: float


def main(options: Options) -> int:
    """Measure the grid and write the rows."""
    bench = _set_up(options)
    rows: list[Row] = []
    started = time.perf_counter()
    for case in _cases(bench):
        if options.time_limit and time.perf_counter() - started > options.time_limit:
            print(f"not run, out of time: {case.op} {case.mode} {case.shape} {case.flow}")
            continue
        try:
            rows += _shown(measure(case, bench))
        except torch.OutOfMemoryError as error:
            print(f"left out, {one_line(error)}: {case.op} {case.shape}")
            torch.cuda.empty_cache()
        _write(options, rows)
    wrong = [row for row in rows if is_wrong(row)]
    for row in wrong:
        print(f"{row['op']} {row['mode']} {row['shape']} {row['backend']}: {row['status']}")
    return int(bool(wrong))


def _set_up(options: Options) -> Bench:
    if options.threads:
        torch.set_num_threads(options.threads)
    stopwatch = Stopwatch(options.device)
    bandwidth = copy_gbps(stopwatch)
    memory = options.memory_gib * _GIB or _free_bytes(options.device) / 3
    print(f"{torch.get_num_threads()} threads, copy {bandwidth:.1f} GB/s, torch forms up to {memory / _GIB:.1f} GiB")
    return Bench(options, stopwatch, bandwidth, memory)


def _free_bytes(device: str) -> float:
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _cases(bench: Bench) -> Iterator[Case]:
    for case in grid(bench.options.quick, bench.options.device):
        if bench.options.ops and case.op not in bench.options.ops:
            continue
        if baseline_bytes(case) > bench.memory_bytes:
            print(f"left out, its torch forms need {baseline_bytes(case) / _GIB:.0f} GiB: {case.op} {case.shape}")
            continue
        yield case


def measure(case: Case, bench: Bench) -> list[Row]:
    """The rows of one case."""
    device = bench.options.device
    inputs = make_inputs(case, device)
    everyone = [*ours(case, inputs, device), *baselines(case, inputs, device)]
    expected = expected_of(case, inputs, everyone, device)
    checked = [check(who, expected, _compile_seconds(case, bench.options)) for who in everyone]
    able = [who for who, (status, _) in zip(everyone, checked, strict=True) if status == "ok"]
    contenders = [who for who in able if isinstance(who, Contender)]
    memory = [extra_memory_mb(who.call, device) for who in contenders]
    samples = alternate([who.call for who in contenders], bench.stopwatch, bench.options.case_seconds)
    times = {id(who): (ms, mb) for who, ms, mb in zip(contenders, samples, memory, strict=True)}
    usual = (EAGER, DENSECRF)  # speed-ups are over these
    usual_ms = next((percentiles(times[id(who)][0])[1] for who in contenders if who.backend in usual), None)
    return [
        {
            **_description(case, who),
            **_figures(case, *times.get(id(who), ([], None)), usual_ms, bench.copy_gbps),
            "disagreement": "" if share is None else f"{share:.2g}",
            "status": status,
        }
        for who, (status, share) in zip(everyone, checked, strict=True)
    ]


def expected_of(case: Case, inputs: Any, everyone: Sequence[Contender | Absent], device: str) -> Sequence[Tensor]:
    """What all are compared with: the reference's result or, where that takes minutes, pydensecrf's if it is here."""
    peers = [who for who in everyone if isinstance(who, Contender) and who.backend == DENSECRF]
    if peers and takes_minutes(case, device):
        return peers[0].finish(peers[0].call())
    return defined(case, inputs)


def _compile_seconds(case: Case, options: Options) -> float:
    """torch.compile of the 81 slices takes minutes with gradients or with the warp: not in a quick run."""
    heavy = case.op == "warp_cost_volume" or (case.op == "cost_volume" and case.mode != "forward")
    return 0.0 if options.quick and heavy else options.compile_seconds


def check(
    who: Contender | Absent, expected: Sequence[Tensor], compile_seconds: float = 300.0
) -> tuple[str, float | None]:
    """("ok", disagreement) of one who agrees with the reference; otherwise ("why it has no time", disagreement)."""
    if isinstance(who, Absent):
        return f"not run: {who.reason}", None
    if who.backend == COMPILE and not compile_seconds:
        return "not run: compiling takes minutes, done without --quick only", None
    try:
        with time_limit(compile_seconds, "compiling") if who.backend == COMPILE else nullcontext():
            result = who.call()
        share = disagreement(who.finish(result), expected)
    except Exception as error:  # whatever a library raises is its row's reason
        return f"failed: {one_line(error)}", None
    return ("ok" if share <= who.band else f"disagrees: {share:.2g}, accepted {who.band:g}"), share


def is_wrong(row: Row) -> bool:
    """Whether a row is a reason to fail: somebody disagrees, or one of ours fails."""
    status = str(row["status"])
    return status.startswith("disagrees") or (status.startswith("failed") and str(row["backend"]).startswith("f2f"))


def _description(case: Case, who: Contender | Absent) -> Row:
    return {
        "op": case.op,
        "mode": case.mode,
        "backend": who.backend,
        "form": who.form,
        "shape": case.shape,
        "dtype": str(case.dtype).removeprefix("torch."),
        "flow": case.flow,
        "threads": torch.get_num_threads(),
    }


def _figures(case: Case, samples: Sequence[float], memory_mb: float | None, usual_ms: float | None, copy: float) -> Row:
    """The measured columns; empty for who was not timed."""
    p20, p50, p80 = percentiles(samples) if samples else (None, None, None)
    gbps = must_move_bytes(case) / p50 / 1e6 if p50 else None
    return {
        "runs": len(samples),
        "p20_ms": _number(p20),
        "p50_ms": _number(p50),
        "p80_ms": _number(p80),
        "speedup": _number(usual_ms / p50 if usual_ms and p50 else None),
        "gbps": _number(gbps),
        "copy_gbps": _number(copy),
        "pct_of_copy": _number(100 * gbps / copy if gbps else None),
        "peak_memory_mb": "" if memory_mb is None else f"{memory_mb:.1f}",
    }


def _number(value: Any) -> str:
    """Four significant digits, never as a power of ten; empty for None."""
    return "" if value is None else f"{value:.4g}" if value < 1e4 else f"{value:.0f}"


def _shown(rows: list[Row]) -> list[Row]:
    for row in rows:
        head = f"{row['op']:16} {row['mode']:16} {row['shape']:20} {row['flow']:7} {row['backend']:14}"
        figures = f"{row['p50_ms']:>9} ms {row['speedup']:>7}x {row['pct_of_copy']:>8} % of copy "
        print(head, figures if row["runs"] else row["status"], row["form"], flush=True)
    return rows


def _write(options: Options, rows: Sequence[Row]) -> None:
    gpu = torch.cuda.get_device_name() if options.device == "cuda" else ""
    name = "kernels_cuda" if options.device == "cuda" else "kernels"
    if rows:
        record.write_rows(name, [*_kept(name, options.ops), *rows], _PACKAGES, gpu)


def _kept(name: str, measured: Sequence[str]) -> list[dict[str, str]]:
    """The rows of `results/<name>.csv` of operators that this run leaves out."""
    if not measured or not (record.RESULTS / f"{name}.csv").exists():
        return []
    return [row for row in record.read_rows(name) if row["op"] not in measured]


if __name__ == "__main__":
    raise SystemExit(main(parse()))
