"""A GPU as runtimes use it: a stream of their own, memory that stays where it is, and captured graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor

from f2f.engine.errors import MachineError


class Queue(Protocol):
    """A GPU and a stream on it; what a runtime starts on the stream runs there in order."""

    type: str
    """kind of device, as torch and ONNX Runtime call it"""
    index: int
    """which of them"""
    gpu: str
    """name and compute capability, as `NVIDIA H100 (9.0)`"""
    handle: int
    """the stream's CUDA handle; never that of the default stream"""

    def working(self, *, alone: bool = False) -> AbstractContextManager[None]:
        """Within it, tensors' work goes to the stream, after all that the caller started and before what it starts.

        Args:
            alone: no other queue of the process works meanwhile: for captures.
        """
        ...

    def empty(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory on the GPU, with an address even where the shape holds nothing."""
        ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` starts on the stream, without running it; gives what replays it."""
        ...

    def give(self, outputs: Sequence[Tensor], batch: Tensor, *, owned: bool) -> tuple[Tensor, ...]:
        """While working: what a network's caller gets, on the device of its batch and never written to again.

        Args:
            outputs: on the GPU, written by work that is on the stream.
            batch: what the network was given.
            owned: nobody else will write to the outputs.
        """
        ...

    def wait(self) -> None:
        """Return when all on the stream is done."""
        ...


class Turns:
    """Some work together, or one works alone; who waits to be alone comes before who comes later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together = self._waiting = 0
        self._alone = False

    @contextmanager
    def taken(self, *, alone: bool) -> Iterator[None]:
        """A turn, from when it can begin."""
        with self._changed:
            self._waiting += alone
            self._changed.wait_for(lambda: not self._alone and not (self._together if alone else self._waiting))
            self._waiting -= alone
            self._alone, self._together = alone, self._together + (not alone)
        try:
            yield
        finally:
            with self._changed:
                self._alone, self._together = False, self._together - (not alone)
                self._changed.notify_all()


_TURNS = Turns()  # what other threads allocate while a graph is captured breaks the capture, or fails itself


class CudaQueue:
    """A new stream on torch's current CUDA device."""

    type = "cuda"

    def __init__(self) -> None:
        self.index = torch.cuda.current_device()
        self._device = torch.device("cuda", self.index)
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self.handle = int(self._stream.cuda_stream)
        self.gpu = gpu_name(self.index)
        self._caller = torch.cuda.current_stream(self._device)

    @contextmanager
    def working(self, *, alone: bool = False) -> Iterator[None]:
        """See `Queue`."""
        with _TURNS.taken(alone=alone):
            self._caller = caller = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(caller)
            with torch.cuda.stream(self._stream):
                yield
            caller.wait_stream(self._stream)

    def empty(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """See `Queue`."""
        return empty_on(self._device, shape, dtype)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """See `Queue`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):  # others may allocate
            work()
        return graph.replay

    def give(self, outputs: Sequence[Tensor], batch: Tensor, *, owned: bool) -> tuple[Tensor, ...]:
        """See `Queue`."""
        given = hand_back(outputs, batch, owned=owned)
        if batch.is_cuda:
            for output in given:
                output.record_stream(self._caller)  # their memory is not used anew while the caller's work reads it
        return given

    def wait(self) -> None:
        """See `Queue`."""
        self._stream.synchronize()


def open_queue() -> Queue:
    """A stream of its own for a network."""
    return CudaQueue()


def gpu_obstacle() -> str:
    """Why no GPU can be used; empty where one can."""
    if torch.cuda.is_available():
        return ""
    return "torch sees no NVIDIA GPU on this machine"


def gpu_name(index: int = 0) -> str:
    """Name and compute capability of a GPU."""
    major, minor = torch.cuda.get_device_capability(index)
    return f"{torch.cuda.get_device_name(index)} ({major}.{minor})"


def empty_on(device: torch.device, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Uninitialised memory that has an address even where the shape holds nothing."""
    count = int(torch.Size(shape).numel())
    return torch.empty(max(1, count), dtype=dtype, device=device)[:count].view(*shape)


def address(tensor: Tensor) -> int:
    """Where the memory of a tensor of `empty_on` begins, which `data_ptr` does not tell of one that holds nothing."""
    return tensor.untyped_storage().data_ptr() + int(tensor.storage_offset()) * tensor.element_size()


def upload(target: Tensor, batch: Tensor) -> None:
    """Copy a batch into `target`; from the CPU to a GPU by way of pinned memory, so that nobody waits for the copy.

    torch keeps the pinned memory until the copy, which is in the order of the current stream, is done.
    """
    if target.is_cuda and not batch.is_cuda:
        batch = batch.pin_memory()
    target.copy_(batch, non_blocking=True)


def hand_back(outputs: Sequence[Tensor], batch: Tensor, *, owned: bool) -> tuple[Tensor, ...]:
    """The outputs on the device of the batch, in memory of their own; see `Queue.give`."""
    if batch.device.type == outputs[0].device.type:
        return tuple(outputs) if owned else tuple(output.clone() for output in outputs)
    return tuple(output.to(batch.device) for output in outputs)  # to the CPU: returns when they are there


@contextmanager
def gpu_errors(what: str) -> Iterator[None]:
    """Turn a GPU that fails or has no memory left into an error that stops the run: no input is at fault."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"the GPU has no memory left for {what}; free it, or give smaller --batch-frames, --max-side or "
            "--engine-batch, and run the same command again to go on"
        ) from error
    except torch.AcceleratorError as error:
        raise MachineError(
            f"the GPU failed while it ran {what} ({_first_line(error)}); run the same command again to go on"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
