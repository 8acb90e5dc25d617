"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from f2f.engine.errors import NetworkError, UsageError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.network import CONTRACTS, Kind, check_tensors, network_failure, parse_info

CPU_PROVIDER = "CPUExecutionProvider"


class OnnxNetwork:
    """An `.onnx` file in an ONNX Runtime session."""

    def __init__(self, path: Path, kind: Kind, options: RuntimeOptions) -> None:
        ort = import_onnxruntime()
        self._session = open_session(ort, str(path), str(path), options.thread_count)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.info = parse_info(path, metadata, kind, f"onnxruntime {ort.__version__} CPU")
        inputs = {value.name: len(value.shape) for value in self._session.get_inputs()}
        check_tensors(path, kind, inputs, [value.name for value in self._session.get_outputs()])
        self._input = CONTRACTS[kind].input

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Run the network on a float32 batch; raises `VideoError` where ONNX Runtime refuses it."""
        pixels = np.ascontiguousarray(batch.cpu().numpy())
        try:
            outputs = self._infer(pixels)
        except MemoryError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise network_failure(self.info, batch, error) from error
        return tuple(torch.from_numpy(output).to(batch.device) for output in outputs)

    def _infer(self, pixels: npt.NDArray[np.float32]) -> Sequence[npt.NDArray[np.float32]]:
        outputs: Sequence[npt.NDArray[np.float32]] = self._session.run(None, {self._input: pixels})
        return outputs


def import_onnxruntime() -> Any:
    """ONNX Runtime. Raises UsageError where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            "no runtime for .onnx networks is installed; install f2f[cpu] (or f2f[gpu] on a CUDA machine)"
        ) from error
    return onnxruntime


def open_session(
    ort: Any, model: str | bytes, name: str, threads: int, providers: Sequence[Any] = (CPU_PROVIDER,)
) -> Any:
    """A session of an ONNX file, by its path or content.

    Raises:
        NetworkError: it cannot be opened; the message calls it `name`.
    """
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL  # turns the NCHWc layout on
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # decoders need the cores
    settings.log_severity_level = 3
    settings.use_deterministic_compute = tuple(providers) != (
        CPU_PROVIDER,
    )  # on a GPU, some kernels are not unless asked
    try:
        return ort.InferenceSession(model, settings, providers=list(providers))
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise NetworkError(f"{name} cannot be opened as ONNX ({first_line[:300]}); export it again") from error
