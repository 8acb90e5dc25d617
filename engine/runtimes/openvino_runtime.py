"""OpenVINO on the CPU."""

from __future__ import annotations

import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from f2f.engine.errors import NetworkError, UsageError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.network import CONTRACTS, Kind, Network, check_tensors, network_failure, parse_info
from f2f.engine.runtimes.onnx_graph import metadata_of, read_graph
from f2f.engine.runtimes.parity import check_outputs, small_trials


class OpenVinoNetwork:
    """An `.onnx` file compiled by OpenVINO."""

    def __init__(self, path: Path, kind: Kind, options: RuntimeOptions) -> None:
        ov = import_openvino()
        metadata = metadata_of(read_graph(path.read_bytes(), path))
        self.info = parse_info(path, metadata, kind, f"openvino {ov.__version__.partition('-')[0]} CPU")
        model = _read(ov, path)
        inputs = {value.any_name: len(value.partial_shape) for value in model.inputs}
        check_tensors(path, kind, inputs, [value.any_name for value in model.outputs])
        self._compiled = ov.Core().compile_model(model, "CPU", settings(options.thread_count))
        self._input = CONTRACTS[kind].input
        self._requests = threading.local()
        """a request belongs to one thread"""

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Run the network on a float32 batch; raises `VideoError` where OpenVINO refuses it."""
        pixels = np.ascontiguousarray(batch.cpu().numpy())
        try:
            outputs = self._request().infer({self._input: pixels}, share_inputs=True, share_outputs=False)
        except RuntimeError as error:
            raise network_failure(self.info, batch, error) from error
        return tuple(torch.from_numpy(output).to(batch.device) for output in outputs.values())

    def _request(self) -> Any:
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        return self._requests.own


def open_openvino(path: Path, kind: Kind, options: RuntimeOptions) -> Network:
    """A network that gives what ONNX Runtime gives.

    Raises:
        UsageError: OpenVINO, or ONNX Runtime to compare it with, is not installed.
        NetworkError: it gives other numbers, or the file is no network.
    """
    network = OpenVinoNetwork(path, kind, options)
    check_outputs(network, path.read_bytes(), small_trials(kind, network.info.size_multiple))
    return network


def import_openvino() -> Any:
    """OpenVINO. Raises UsageError where it is not installed."""
    try:
        return import_module("openvino")
    except ImportError as error:
        raise UsageError("OpenVINO is not installed; install f2f[openvino], or leave --runtime out") from error


def settings(threads: int) -> dict[str, Any]:
    """How the CPU plugin runs: float32 is float32, one stream, and threads that decoders may push aside."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }


def _read(ov: Any, path: Path) -> Any:
    try:
        return ov.Core().read_model(str(path))
    except RuntimeError as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise NetworkError(f"{path} cannot be opened by OpenVINO ({first_line[:300]}); export it again") from error
