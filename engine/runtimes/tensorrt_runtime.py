"""TensorRT: an engine, and an execution context for every shape of input, captured as a CUDA graph when it comes again.

All contexts of a network compute in one piece of memory, on one stream, one call at a time; inputs and outputs have
buffers of their own, which stay where they are, so that a captured graph finds them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from f2f.engine.errors import MachineError, NetworkError
from f2f.engine.runtimes.cuda import Queue, address, gpu_errors, upload
from f2f.engine.runtimes.network import CONTRACTS, NetworkInfo, network_failure
from f2f.engine.runtimes.telling import note
from f2f.engine.runtimes.tensorrt_api import ContextApi, EngineApi, Heard, TensorRT
from f2f.engine.runtimes.tensorrt_profiles import Profile, bucket_of

MOST_LANES = 16
"""shapes that stay set up; of more, the one that was not used for longest goes"""


class TensorRtNetwork:
    """A TensorRT engine that keeps a contract."""

    def __init__(
        self, trt: TensorRT, plan: bytes, profiles: Sequence[Profile], info: NetworkInfo, queue: Queue
    ) -> None:
        self.info = info
        self._trt, self._profiles, self._queue = trt, tuple(profiles), queue
        self._heard = Heard(trt)
        self._runtime = trt.Runtime(self._heard.logger)  # an engine needs it for as long as it lives
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise NetworkError(f"TensorRT does not load its {info.kind} engine: {self._heard}; build it anew")
        _check_bindings(trt, engine, info)
        self._engine = engine
        self._memory: Tensor | None = None
        self._lanes: OrderedDict[tuple[int, ...], _Lane] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Run the engine on a float32 batch; the outputs are on the batch's device.

        Raises:
            VideoError: the frames are too small for it.
            NetworkError: they are too large.
            MachineError: the GPU fails.
        """
        most = self._profiles[-1].most[0]
        if len(batch) > most:
            pieces = [self(batch[start : start + most]) for start in range(0, len(batch), most)]
            return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))
        with self._lock, gpu_errors(self.info.runtime), self._turn(batch) as may_capture:
            return self._queue.give(self._run(batch, may_capture), batch, owned=False)

    @contextmanager
    def _turn(self, batch: Tensor) -> Iterator[bool]:
        """Work on the queue; alone, which it gives, where the batch is of a shape that is to be captured."""
        lane = self._lanes.get(tuple(batch.shape))
        alone = lane is not None and lane.is_to_be_captured
        with self._queue.working(alone=alone):
            yield alone

    def _run(self, batch: Tensor, may_capture: bool) -> Sequence[Tensor]:
        """The buffers of the outputs, once the work that fills them is on the stream."""
        lane = self._lane(batch)
        upload(lane.input, batch)
        lane.run(self._queue, may_capture)
        return lane.outputs

    def _lane(self, batch: Tensor) -> _Lane:
        shape = tuple(batch.shape)
        lane = self._lanes.get(shape)
        if lane is None:
            lane = self._new_lane(batch)
            self._lanes[shape] = lane
            while len(self._lanes) > MOST_LANES:
                self._queue.wait()  # what it computes may be under way
                self._lanes.popitem(last=False)
        self._lanes.move_to_end(shape)
        return lane

    def _new_lane(self, batch: Tensor) -> _Lane:
        bucket = bucket_of(batch.shape, self._profiles)
        if bucket is None:
            sides = f"{self._profiles[0].least[-1]} px or more"
            raise network_failure(self.info, batch, ValueError(f"it is too small for the engine, accepted: {sides}"))
        context = self._context(bucket)
        try:
            return _Lane(context, self.info, batch.shape, self._queue)
        except (RuntimeError, _RefusedError) as error:
            why = ValueError(str(error) or str(self._heard))
            raise network_failure(self.info, batch, why) from error

    def _context(self, bucket: int) -> ContextApi:
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise MachineError(
                f"TensorRT makes no context for {self.info.runtime}: {self._heard}; free memory of the GPU and run the "
                "same command again to go on"
            )
        if self._memory is None:
            size = max(1, int(self._engine.device_memory_size_v2))
            self._memory = self._queue.empty((size,), torch.uint8)
        context.set_device_memory(address(self._memory), self._memory.numel())
        if not context.set_optimization_profile_async(bucket, self._queue.handle):
            raise MachineError(f"TensorRT does not select profile {bucket} of {self.info.runtime}: {self._heard}")
        return context


class _RefusedError(Exception):
    """TensorRT does not take a shape."""


class _Lane:
    """A context with its buffers, for inputs of one shape."""

    def __init__(self, context: ContextApi, info: NetworkInfo, shape: Sequence[int], queue: Queue) -> None:
        contract = CONTRACTS[info.kind]
        self._context, self._runtime = context, info.runtime
        if not context.set_input_shape(contract.input, tuple(shape)):
            raise _RefusedError("")
        if unknown := context.infer_shapes():
            raise _RefusedError(f"it does not say how large {', '.join(unknown)} are")
        self.input = queue.empty(shape)
        self.outputs = [queue.empty(_known(context.get_tensor_shape(name), name)) for name in contract.outputs]
        for name, tensor in zip((contract.input, *contract.outputs), (self.input, *self.outputs), strict=True):
            if not context.set_tensor_address(name, address(tensor)):
                raise _RefusedError(f"it does not take the memory of {name}")
        self._ran = self._tried = False
        self._replay: Callable[[], None] | None = None

    @property
    def is_to_be_captured(self) -> bool:
        """It ran as it is, when TensorRT set up what it needs, and was not tried to capture yet."""
        return self._ran and not self._tried

    def run(self, queue: Queue, may_capture: bool) -> None:
        """Put the work on the stream, as a graph where there is one."""
        if may_capture and self.is_to_be_captured:
            self._tried = True
            self._replay = self._captured(queue)
        if self._replay is not None:
            self._replay()
        else:
            self._start(queue)
            self._ran = True

    def _captured(self, queue: Queue) -> Callable[[], None] | None:
        try:
            return queue.capture(lambda: self._start(queue))
        except (RuntimeError, MachineError) as error:
            note(f"{self._runtime} runs without CUDA graphs for {tuple(self.input.shape)}: {error}")
            return None

    def _start(self, queue: Queue) -> None:
        if not self._context.execute_async_v3(queue.handle):
            raise MachineError(
                f"TensorRT failed to start {self._runtime}; run the same command again to go on, or give --runtime "
                "onnxruntime"
            )


def _known(found: Any, name: str) -> tuple[int, ...]:
    shape = tuple(int(size) for size in found)
    if min(shape, default=0) < 0:
        raise _RefusedError(f"the size of {name} depends on more than the size of the input")
    return shape


def _check_bindings(trt: TensorRT, engine: EngineApi, info: NetworkInfo) -> None:
    """Refuse an engine whose inputs and outputs are not the contract's, in float32."""
    contract = CONTRACTS[info.kind]
    wanted = {contract.input: (trt.TensorIOMode.INPUT, trt.DataType.FLOAT)}
    wanted |= dict.fromkeys(contract.outputs, (trt.TensorIOMode.OUTPUT, trt.DataType.FLOAT))
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {name: (engine.get_tensor_mode(name), engine.get_tensor_dtype(name)) for name in names}
    if found != wanted:
        raise NetworkError(
            f"the {info.kind} engine has {_listed(found)}; accepted: {_listed(wanted)}; export the network again"
        )


def _listed(tensors: dict[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{name} ({mode}, {kind})" for name, (mode, kind) in tensors.items())
