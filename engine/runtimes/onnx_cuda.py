"""ONNX Runtime on an NVIDIA GPU: tensors bound where they lie, a stream of its own, graphs of shapes that come again.

Where the GPU cannot be used, the CPU is, which is said once and stands in the network's `runtime`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from f2f.engine.errors import F2FError, MachineError, NetworkError, UsageError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes import cuda
from f2f.engine.runtimes.cuda import Queue, address, gpu_errors, upload
from f2f.engine.runtimes.network import CONTRACTS, Kind, Network, check_tensors, network_failure, parse_info
from f2f.engine.runtimes.onnx_runtime import CPU_PROVIDER, import_onnxruntime, open_session
from f2f.engine.runtimes.onnx_sections import open_on_onnxruntime
from f2f.engine.runtimes.parity import check_outputs, small_trials
from f2f.engine.runtimes.telling import note, tell_once

CUDA_PROVIDER = "CUDAExecutionProvider"
MOST_GRAPHS = 16
"""shapes that are captured; ONNX Runtime keeps a graph for ever"""
_NO_GRAPH = -1


class OnnxCudaNetwork:
    """An `.onnx` file in an ONNX Runtime session on a GPU."""

    def __init__(self, path: Path, kind: Kind, options: RuntimeOptions, queue: Queue, *, graphs: bool) -> None:
        ort = import_onnxruntime()
        provider = (CUDA_PROVIDER, provider_options(queue, graphs=graphs))
        self._session = open_session(ort, str(path), str(path), options.thread_count, (provider, CPU_PROVIDER))
        if CUDA_PROVIDER not in self._session.get_providers():
            raise GpuUnusedError("its CUDA provider does not load; install the CUDA and cuDNN that it was built for")
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.info = parse_info(path, metadata, kind, f"onnxruntime {ort.__version__} CUDA {queue.gpu}")
        inputs = {value.name: len(value.shape) for value in self._session.get_inputs()}
        check_tensors(path, kind, inputs, [value.name for value in self._session.get_outputs()])
        self._ort, self._queue, self._graphs = ort, queue, graphs
        self._captures = graphs
        self._contract = CONTRACTS[kind]
        self._shapes: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        self._captured: dict[tuple[int, ...], _Captured] = {}
        self._lock = threading.Lock()

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Run the network on a float32 batch; the outputs are on the batch's device.

        Raises:
            VideoError: ONNX Runtime refuses it.
            MachineError: the GPU fails.
        """
        with self._lock, gpu_errors(self.info.runtime):
            if self._captures and (replayed := self._replay(batch)):
                return replayed
            try:
                with self._queue.working():
                    return self._run(batch)
            except (F2FError, torch.OutOfMemoryError, torch.AcceleratorError):
                raise
            except Exception as error:  # ONNX Runtime's exceptions share no base class
                _refuse_gpu_failure(self.info.runtime, error)
                raise network_failure(self.info, batch, error) from error

    def _replay(self, batch: Tensor) -> tuple[Tensor, ...] | None:
        """By a captured graph; None where the shape has none, or is seen for the first time."""
        shape, thread = tuple(batch.shape), threading.get_ident()
        captured = self._captured.get(shape)
        if captured is None and (shape not in self._shapes or len(self._captured) == MOST_GRAPHS):
            return None
        first = captured is None or thread not in captured.threads  # ONNX Runtime captures for every thread anew
        try:
            with self._queue.working(alone=first):
                captured = captured or self._capture(shape)
                captured.threads.add(thread)
                upload(captured.input, batch)
                self._session.run_with_iobinding(captured.binding, captured.options)
                return self._queue.give(captured.outputs, batch, owned=False)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            note(f"{self.info.runtime} goes on without CUDA graphs: {error}")
            self._captures = False
            return None

    def _run(self, batch: Tensor) -> tuple[Tensor, ...]:
        shape = tuple(batch.shape)
        if shape not in self._shapes:
            self._shapes[shape] = self._output_shapes(self._on_gpu(batch))
        images = self._on_gpu(batch)
        outputs = [self._queue.empty(size) for size in self._shapes[shape]]
        self._session.run_with_iobinding(self._bound(images, outputs), self._run_options(_NO_GRAPH))
        return self._queue.give(outputs, batch, owned=True)

    def _on_gpu(self, batch: Tensor) -> Tensor:
        """The batch itself where it is there already, in order."""
        there = batch.device.type == self._queue.type and batch.dtype == torch.float32
        if there and batch.is_contiguous() and batch.numel():
            return batch
        images = self._queue.empty(batch.shape)
        upload(images, batch)
        return images

    def _output_shapes(self, images: Tensor) -> list[tuple[int, ...]]:
        """How large the outputs are for such an input: ONNX Runtime is let to allocate them, once."""
        binding = self._bound(images, None)
        self._session.run_with_iobinding(binding, self._run_options(_NO_GRAPH))
        return [tuple(value.shape()) for value in binding.get_outputs()]

    def _capture(self, shape: tuple[int, ...]) -> _Captured:
        """Buffers that stay where they are; ONNX Runtime captures the first run of a graph number."""
        images = self._queue.empty(shape)
        outputs = [self._queue.empty(size) for size in self._shapes[shape]]
        options = self._run_options(len(self._captured) + 1)
        captured = _Captured(self._bound(images, outputs), options, images, outputs)
        self._captured[shape] = captured
        return captured

    def _bound(self, images: Tensor, outputs: Sequence[Tensor] | None) -> Any:
        binding, place = self._session.io_binding(), (self._queue.type, self._queue.index)
        binding.bind_input(self._contract.input, *place, np.float32, tuple(images.shape), address(images))
        for number, name in enumerate(self._contract.outputs):
            if outputs is None:
                binding.bind_output(name, *place)
            else:
                output = outputs[number]
                binding.bind_output(name, *place, np.float32, tuple(output.shape), address(output))
        return binding

    def _run_options(self, graph: int) -> Any:
        options = self._ort.RunOptions()
        if self._graphs:
            options.add_run_config_entry("gpu_graph_id", str(graph))
        return options


class _Captured:
    """What a captured graph reads and writes, and the threads that ran it."""

    def __init__(self, binding: Any, options: Any, images: Tensor, outputs: Sequence[Tensor]) -> None:
        self.binding, self.options, self.input, self.outputs = binding, options, images, outputs
        self.threads: set[int] = set()


class GpuUnusedError(Exception):
    """ONNX Runtime does not use the GPU; says why."""


def provider_options(queue: Queue, *, graphs: bool) -> dict[str, str]:
    """How the CUDA provider runs: float32 is float32, and kernels are chosen by rule, not by timing, run after run."""
    return {
        "device_id": str(queue.index),
        "user_compute_stream": str(queue.handle),
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "enable_cuda_graph": "1" if graphs else "0",
    }


def open_onnx(path: Path, kind: Kind, options: RuntimeOptions) -> Network:
    """On the GPU where that works and gives what the CPU gives, else on the CPU; why is said once."""
    if cuda.gpu_obstacle():
        return open_on_onnxruntime(path, kind, options)
    try:
        return _open_cuda(path, kind, options)
    except (GpuUnusedError, NetworkError) as error:
        network = open_on_onnxruntime(path, kind, options)  # a file that is at fault is refused here
        tell_once(f"networks run on the CPU although there is a GPU: {error}")
        return network


def open_onnx_cpu(path: Path, kind: Kind, options: RuntimeOptions) -> Network:
    """On the CPU."""
    return open_on_onnxruntime(path, kind, options)


def open_onnx_cuda(path: Path, kind: Kind, options: RuntimeOptions) -> Network:
    """On the GPU.

    Raises:
        UsageError: it cannot be used.
        NetworkError: it gives other numbers than the CPU.
    """
    if obstacle := cuda.gpu_obstacle():
        raise UsageError(f"--runtime onnxruntime-cuda cannot be met: {obstacle}; leave --runtime out")
    try:
        return _open_cuda(path, kind, options)
    except GpuUnusedError as error:
        raise UsageError(f"--runtime onnxruntime-cuda cannot be met: {error}; or leave --runtime out") from error


def onnx_cuda_obstacle() -> str:
    """Why ONNX Runtime cannot use a GPU; empty where nothing is known to stand against it."""
    if obstacle := cuda.gpu_obstacle():
        return obstacle
    ort = import_onnxruntime()
    if CUDA_PROVIDER in ort.get_available_providers():
        return ""
    return f"onnxruntime {ort.__version__} is built for the CPU alone; install f2f[gpu] instead of f2f[cpu]"


def _open_cuda(path: Path, kind: Kind, options: RuntimeOptions) -> Network:
    if obstacle := onnx_cuda_obstacle():
        raise GpuUnusedError(obstacle)
    queue = cuda.open_queue()
    with suppress(_NoGraphsError):
        return _checked(path, kind, lambda: OnnxCudaNetwork(path, kind, options, queue, graphs=True), graphs=True)
    return _checked(path, kind, lambda: OnnxCudaNetwork(path, kind, options, queue, graphs=False), graphs=False)


class _NoGraphsError(Exception):
    """A network cannot be captured."""


def _checked(path: Path, kind: Kind, make: Callable[[], OnnxCudaNetwork], *, graphs: bool) -> Network:
    try:
        network = make()
        trials = small_trials(kind, network.info.size_multiple)
        check_outputs(network, path.read_bytes(), [*trials, *trials, *trials] if graphs else trials)
    except (NetworkError, MachineError) as error:
        if not graphs:
            raise
        note(f"{path} runs without CUDA graphs: {error}")
        raise _NoGraphsError from error
    return network


def _refuse_gpu_failure(runtime: str, error: Exception) -> None:
    """A GPU that fails is no fault of an input. Raises MachineError."""
    text = str(error)
    if isinstance(error, MemoryError) or "CUDA failure" in text or "Failed to allocate memory" in text:
        first_line = next(iter(text.splitlines()), type(error).__name__)
        raise MachineError(
            f"the GPU failed while it ran {runtime} ({first_line[:300]}); give smaller --batch-frames or --max-side "
            "where memory is short, and run the same command again to go on"
        ) from error
