"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from f2f.engine.errors import NetworkError, UsageError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.network import CONTRACTS, Kind, check_tensors, network_failure, parse_info


class OnnxNetwork:
    """An `.onnx` file in an ONNX Runtime session."""

    def __init__(self, path: Path, kind: Kind, options: RuntimeOptions) -> None:
        ort = _onnxruntime()
        self._session = _session(ort, path, options)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.info = parse_info(path, metadata, kind, f"onnxruntime {ort.__version__} CPU")
        inputs = {value.name: len(value.shape) for value in self._session.get_inputs()}
        check_tensors(path, kind, inputs, [value.name for value in self._session.get_outputs()])
        self._input = CONTRACTS[kind].input

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Run the network on a float32 batch; raises `VideoError` where ONNX Runtime refuses it."""
        pixels = np.ascontiguousarray(batch.numpy())
        try:
            outputs = self._session.run(None, {self._input: pixels})
        except MemoryError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise network_failure(self.info, batch, error) from error
        return tuple(torch.from_numpy(output) for output in outputs)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            "no runtime for .onnx networks is installed; install f2f[cpu] (or f2f[gpu] on a CUDA machine)"
        ) from error
    return onnxruntime


def _session(ort: Any, path: Path, options: RuntimeOptions) -> Any:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.thread_count
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL  # turns the NCHWc layout on
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # decoders need the cores
    settings.log_severity_level = 3
    try:
        return ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise NetworkError(f"{path} cannot be opened as ONNX ({first_line[:300]}); export it again") from error
