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
from f2f.engine.runtimes.sections import Array, Sections, sections_of, uncut


class OpenVinoNetwork:
    """An `.onnx` file compiled by OpenVINO; the cost volumes of a flow network by f2f's kernel."""

    def __init__(self, path: Path, kind: Kind, options: RuntimeOptions) -> None:
        ov = import_openvino()
        graph = read_graph(path.read_bytes(), path)
        changed = round_late(graph)
        sections = sections_of(graph)
        runtime = f"openvino {ov.__version__.partition('-')[0]}{', C++ cost volumes,' if sections else ''} CPU"
        self.info = parse_info(path, metadata_of(graph), kind, runtime)
        inputs = {one.name: len(one.type.tensor_type.shape.dim) for one in graph.graph.input}
        check_tensors(path, kind, inputs, [one.name for one in graph.graph.output])
        self._input = CONTRACTS[kind].input
        threads = options.thread_count
        self._run = Sections(
            sections or (uncut(graph, graph.SerializeToString() if changed else str(path)),),
            lambda section: _Compiled(ov, section.model, path, threads),
            threads,
        )

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Run the network on a float32 batch; raises `VideoError` where OpenVINO refuses it."""
        pixels = np.ascontiguousarray(batch.cpu().numpy())
        try:
            outputs = self._run(self._input, pixels)
        except RuntimeError as error:
            raise network_failure(self.info, batch, error) from error
        return tuple(torch.tensor(output, device=batch.device) for output in outputs)  # copies what OpenVINO keeps


class _Compiled:
    """A graph compiled by OpenVINO."""

    def __init__(self, ov: Any, model: str | bytes, path: Path, threads: int) -> None:
        core = ov.Core()
        try:
            self._compiled = core.compile_model(core.read_model(model), "CPU", settings(threads))
        except RuntimeError as error:
            first_line = next(iter(str(error).splitlines()), type(error).__name__)
            raise NetworkError(f"{path} cannot be opened by OpenVINO ({first_line[:300]}); export it again") from error
        self._requests = threading.local()
        """a request belongs to one thread"""

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Outputs in the graph's order, as they lie in the request: until this thread's next call."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        return list(self._requests.own.infer(dict(inputs), share_inputs=True, share_outputs=True).values())


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
