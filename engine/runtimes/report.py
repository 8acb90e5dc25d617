"""What every runtime can do on this machine, and which of them would run a network: for `f2f doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from f2f.engine.errors import F2FError, UsageError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes import cuda
from f2f.engine.runtimes.cpu_choice import open_on_cpu, openvino_version
from f2f.engine.runtimes.kept_choice import LEAST_GAIN
from f2f.engine.runtimes.onnx_cuda import onnx_cuda_obstacle, open_onnx_cuda
from f2f.engine.runtimes.onnx_runtime import OnnxNetwork, import_onnxruntime
from f2f.engine.runtimes.open import bundled
from f2f.engine.runtimes.openvino_runtime import open_openvino
from f2f.engine.runtimes.tensorrt_api import load_tensorrt, tensorrt_obstacle


@dataclass(frozen=True)
class RuntimeState:
    """A runtime on this machine."""

    name: str
    """as --runtime calls it"""
    version: str
    """empty: not installed"""
    works: bool
    """it ran the bundled classifier, and where it is on a GPU agreed with the CPU; of tensorrt: it can be loaded"""
    chosen: str
    """what --runtime auto takes it for; empty: nothing"""
    why: str
    """what stands against it, or what speaks for it"""


def runtime_report() -> list[RuntimeState]:
    """The state of every runtime."""
    import torch

    version = _onnxruntime_version()
    on_gpu = _onnx_obstacle(version, gpu=True)
    on_cpu = _onnx_obstacle(version, gpu=False)
    takes_gpu = not on_gpu
    openvino = _openvino(consider=not (takes_gpu or on_cpu))
    faster = "the GPU is used, and agrees with the CPU" if takes_gpu else on_gpu
    slower = on_cpu or ("the CPU, where the GPU is not used" if takes_gpu else "the CPU")
    return [
        RuntimeState("onnxruntime-cuda", version, takes_gpu, ".onnx" if takes_gpu else "", faster),
        RuntimeState(
            "onnxruntime-cpu", version, not on_cpu, "" if takes_gpu or on_cpu or openvino.chosen else ".onnx", slower
        ),
        openvino,
        _tensorrt(),
        RuntimeState("torch", torch.__version__, True, ".pt2", "the CPU"),
    ]


def _onnxruntime_version() -> str:
    try:
        return str(import_onnxruntime().__version__)
    except UsageError:
        return ""


def _onnx_obstacle(version: str, *, gpu: bool) -> str:
    """Why ONNX Runtime does not run the bundled classifier; empty where it does."""
    if gpu and (obstacle := cuda.gpu_obstacle()):
        return obstacle
    if not version:
        return "not installed; install f2f[cpu], or f2f[gpu] on a machine with an NVIDIA GPU"
    if gpu and (obstacle := onnx_cuda_obstacle()):
        return obstacle
    try:
        (open_onnx_cuda if gpu else OnnxNetwork)(bundled("classifier"), "classifier", RuntimeOptions())
    except F2FError as error:
        return str(error)
    return ""


def _openvino(consider: bool) -> RuntimeState:
    """On the CPU; `auto` chooses for every network anew, here it is asked for the bundled classifier."""
    version, path, options = openvino_version(), bundled("classifier"), RuntimeOptions()
    if not version:
        return RuntimeState("openvino", "", False, "", "not installed; install f2f[openvino]")
    try:
        open_openvino(path, "classifier", options)
    except F2FError as error:
        return RuntimeState("openvino", version, False, "", str(error))
    chosen = consider and open_on_cpu(path, "classifier", options).info.runtime.startswith("openvino")
    why = "measured to be quicker" if chosen else f"agrees; taken for networks that it runs {LEAST_GAIN} times as fast"
    return RuntimeState("openvino", version, True, ".onnx" if chosen else "", why)


def _tensorrt() -> RuntimeState:
    obstacle = tensorrt_obstacle()
    version = "" if obstacle else load_tensorrt().__version__
    why = obstacle or (
        "with --runtime tensorrt, and where an engine is at hand that is quicker; checked against the CPU when it is "
        "built and opened"
    )
    return RuntimeState("tensorrt", version, not obstacle, "" if obstacle else ".engine", why)
