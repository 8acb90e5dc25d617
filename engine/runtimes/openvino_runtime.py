"""OpenVINO on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto
from torch import Tensor

from f2f.engine.errors import NetworkError, UsageError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.network import CONTRACTS, Kind, Network, check_tensors, network_failure, parse_info
from f2f.engine.runtimes.onnx_graph import metadata_of, read_graph
from f2f.engine.runtimes.parity import check_outputs, is_coarse_flow, small_trials


class OpenVinoNetwork:
    """An `.onnx` file compiled by OpenVINO."""

    def __init__(self, path: Path, kind: Kind, options: RuntimeOptions) -> None:
        ov = import_openvino()
        graph = read_graph(path.read_bytes(), path)
        self.info = parse_info(path, metadata_of(graph), kind, f"openvino {ov.__version__.partition('-')[0]} CPU")
        model = _read(ov, graph.SerializeToString() if round_late(graph) else str(path), path)
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
    graph = read_graph(path.read_bytes(), path)
    round_late(graph)
    trials = small_trials(kind, network.info.size_multiple, enlarged=2 if is_coarse_flow(kind, graph) else 1)
    check_outputs(network, graph.SerializeToString(), trials)
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


def round_late(model: ModelProto) -> bool:
    """Round to 8 bits behind a LeakyReLU only, no longer before it too; whether there was anything to change.

    ONNX Runtime needs both; OpenVINO has LeakyReLUs within convolutions then, and the result is nearer to float32's.
    """
    graph = model.graph
    source = {output: node for node in graph.node for output in node.output}
    late = False
    for node in graph.node:
        wide = _before_rounding(node.input[0], source) if node.op_type == "LeakyRelu" else ""
        if wide:
            node.input[0], late = wide, True
    return late


def _before_rounding(tensor: str, source: Mapping[str, NodeProto]) -> str:
    """The tensor that a quantised and dequantised one was; empty where it is none."""
    for operation in ("DequantizeLinear", "QuantizeLinear"):
        node = source.get(tensor)
        if node is None or node.op_type != operation:
            return ""
        tensor = node.input[0]
    return tensor


def _read(ov: Any, model: str | bytes, path: Path) -> Any:
    try:
        return ov.Core().read_model(model)
    except RuntimeError as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise NetworkError(f"{path} cannot be opened by OpenVINO ({first_line[:300]}); export it again") from error
