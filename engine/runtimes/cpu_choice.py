"""Which runtime runs an `.onnx` file on this machine where none is asked for; on a CPU, ONNX Runtime or OpenVINO.

Only where OpenVINO is installed is there a choice on a CPU. It has to agree with ONNX Runtime, and to be quicker.
"""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from f2f.engine.errors import F2FError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.cuda import gpu_obstacle
from f2f.engine.runtimes.gpu_choice import open_on_gpu
from f2f.engine.runtimes.kept_choice import KeptChoice
from f2f.engine.runtimes.network import CONTRACTS, Kind, Network
from f2f.engine.runtimes.onnx_runtime import import_onnxruntime
from f2f.engine.runtimes.onnx_sections import open_on_onnxruntime
from f2f.engine.runtimes.openvino_runtime import OpenVinoNetwork, open_openvino
from f2f.engine.runtimes.trial import times_as_fast, trial_input

_TRIALS = {4: (2, 3, 240, 320), 5: (1, 5, 3, 240, 320)}
"""rank of a network's input -> shape that is timed"""
_TRIAL = "cost volumes in C++; flow in 8 bits rounded once, compared by its mean; 5 frames"
"""what a choice depends on besides versions: other words where networks are read, compared or timed in another way"""


def open_here(path: Path, kind: Kind, options: RuntimeOptions) -> Network:
    """An `.onnx` file on the GPU where there is one that works, else on the CPU; by what is quickest there."""
    if not gpu_obstacle():
        return open_on_gpu(path, kind, options)
    return open_on_cpu(path, kind, options) if openvino_version() else open_on_onnxruntime(path, kind, options)


def open_on_cpu(path: Path, kind: Kind, options: RuntimeOptions) -> Network:
    """By OpenVINO, which is installed, where that agrees and is quicker, else by ONNX Runtime."""
    versions = import_onnxruntime().__version__, openvino_version()
    kept = KeptChoice(path, *versions, _processor(), options.thread_count, _TRIAL)
    choice = kept.read("openvino")
    if choice:
        return (
            OpenVinoNetwork(path, kind, options) if choice == "openvino" else open_on_onnxruntime(path, kind, options)
        )
    plain: Network = open_on_onnxruntime(path, kind, options)  # a file that is at fault is refused here
    try:
        other = open_openvino(path, kind, options)
    except F2FError as error:
        kept.refuse(error)
        return plain
    return other if kept.decide("openvino", _gain(plain, other)) else plain


def openvino_version() -> str:
    """Empty where it is not installed."""
    with suppress(PackageNotFoundError):
        return version("openvino")
    return ""


def _gain(plain: Network, other: Network) -> float:
    """How many times as fast `other` is."""
    return times_as_fast(plain, other, trial_input(_TRIALS[CONTRACTS[plain.info.kind].input_rank]))


def _processor() -> str:
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as stream:
        return next((line for line in stream if line.startswith("model name")), "")
    return platform.processor()
