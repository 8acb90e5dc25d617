"""Clocks of the kernel benchmark: alternating repetitions, the machine's copy bandwidth, extra memory of one call."""

from __future__ import annotations

import ctypes
import gc
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

Call = Callable[[], Any]
PAUSE_SECONDS = 0.005
TURN_SECONDS, TURN_CALLS = 0.01, 20
MAX_SAMPLES, MIN_SAMPLES, PATIENCE = 400, 5, 10
_MB = 1e6


class Stopwatch:
    """Milliseconds of one call on the CPU (wall clock) or on a GPU (events around it, L2 cache overwritten before)."""

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cuda":
            cache_bytes = torch.cuda.get_device_properties(device).L2_cache_size
            self._flush = torch.empty(4 * cache_bytes, dtype=torch.uint8, device=device)

    def __call__(self, call: Call) -> float:
        """Run `call` once."""
        return self._gpu_ms(call) if self.device == "cuda" else self._wall_ms(call)

    def _wall_ms(self, call: Call) -> float:
        start = time.perf_counter()
        result = call()
        elapsed = time.perf_counter() - start
        del result  # freed outside the time
        return elapsed * 1e3

    def _gpu_ms(self, call: Call) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        self._flush.zero_()
        start.record()
        result = call()
        end.record()
        torch.cuda.synchronize()
        del result
        return float(start.elapsed_time(end))


def alternate(calls: Sequence[Call], stopwatch: Stopwatch, seconds: float) -> list[list[float]]:
    """Time `calls` in turns A, B, C, A, B, C, ... for about `seconds`; the samples of each in ms.

    A turn is a pause (the threads of torch's pool spin on for a while after their work, and would take the core from
    whoever comes next), a call that is not timed, then one call, or as many as fit 10 ms (at most 20), so that slow and
    fast ones share the machine's good and bad moments. Everyone has the same number of turns: as many as fit, but at
    least 5 (3 where even those would take ten times `seconds`), at most until everyone has 400 samples.
    """
    samples: list[list[float]] = [[] for _ in calls]
    started = time.perf_counter()
    while calls and not _enough(samples, time.perf_counter() - started, seconds):
        for call, times in zip(calls, samples, strict=True):
            times.extend(_turn(call, stopwatch))
    return samples


def _enough(samples: Sequence[Sequence[float]], elapsed: float, seconds: float) -> bool:
    fewest = min(map(len, samples))
    if elapsed >= seconds:
        return fewest >= (MIN_SAMPLES if elapsed < PATIENCE * seconds else 3)
    return fewest >= MAX_SAMPLES


def _turn(call: Call, stopwatch: Stopwatch) -> list[float]:
    times: list[float] = []
    time.sleep(PAUSE_SECONDS)
    call()
    started = time.perf_counter()
    while not times or (len(times) < TURN_CALLS and time.perf_counter() - started < TURN_SECONDS):
        times.append(stopwatch(call))
    return times


def percentiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """(p20, p50, p80) of the samples."""
    p20, p50, p80 = torch.tensor(samples, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8]).double()).tolist()
    return p20, p50, p80


def copy_gbps(stopwatch: Stopwatch) -> float:
    """GB/s of a large `copy_`, bytes read + bytes written, with the threads that everything else runs with."""
    source = torch.ones((1 << 31 if stopwatch.device == "cuda" else 1 << 28) // 4, device=stopwatch.device)
    target = torch.zeros_like(source)
    samples = [stopwatch(lambda: target.copy_(source)) for _ in range(12)]
    return 2 * source.nbytes / percentiles(samples[2:])[1] / 1e6


def extra_memory_mb(call: Call, device: str) -> float | None:
    """Most memory in MB that one call holds beyond what was held before it, its result included.

    On CUDA the caching allocator's peak. On the CPU the peak of the process's resident memory (VmHWM, reset through
    /proc/self/clear_refs), after the C allocator has given back what it kept; None where the kernel does not allow it.
    """
    gc.collect()
    return _extra_gpu_mb(call) if device == "cuda" else _extra_resident_mb(call)


def _extra_gpu_mb(call: Call) -> float:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    del result
    return float(torch.cuda.max_memory_allocated() - before) / _MB


def _extra_resident_mb(call: Call) -> float | None:
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, AttributeError):
        return None
    before = _status_mb("VmRSS")
    result = call()
    peak = _status_mb("VmHWM")
    del result
    return max(0.0, peak - before)


def _status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 / _MB for line in lines if line.startswith(f"{field}:"))


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raise TimeoutError inside the block once it has taken `seconds`."""

    def ring(signal_number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{what} had not ended after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
