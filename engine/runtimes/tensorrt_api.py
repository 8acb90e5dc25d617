"""The part of TensorRT's Python API that f2f uses, and TensorRT itself, opened.

The bindings ship no types. These are written by hand, for what exists alike in TensorRT 10.13 to 11: no precision
flags, no calibrators, networks strongly typed. `tests/make_tensorrt_api.py` compares them with the real bindings of
both majors.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from f2f.engine.errors import UsageError
from f2f.engine.runtimes import cuda
from f2f.engine.runtimes.telling import note

LEAST, BEYOND = (10, 13), (12,)
"""versions that this code is written for: from the first to below the second"""

ENUMERATIONS: dict[str, tuple[str, ...]] = {
    "BuilderFlag": ("TF32",),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "TensorIOMode": ("INPUT", "OUTPUT"),
    "DataType": ("FLOAT",),
    "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
}
"""members of enumerations that are used"""


class MemoryApi(Protocol):
    """IHostMemory: bytes that TensorRT made; `bytes(…)` copies them."""

    @property
    def nbytes(self) -> int:
        """How many."""
        ...


class ProfileApi(Protocol):
    """IOptimizationProfile: sizes that an engine is tuned for."""

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:  # noqa: A002
        """Of an input."""
        ...


class TimingCacheApi(Protocol):
    """ITimingCache: how long kernels took, for the next build."""

    def serialize(self) -> MemoryApi:
        """As bytes."""
        ...


class ConfigApi(Protocol):
    """IBuilderConfig."""

    def clear_flag(self, flag: Any) -> None:
        """Of BuilderFlag."""
        ...

    def add_optimization_profile(self, profile: Any) -> int:
        """Its number; below 0: refused."""
        ...

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCacheApi:
        """From what was serialised, or from nothing."""
        ...

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        """False: it is another GPU's or version's."""
        ...


class BuilderApi(Protocol):
    """Builder."""

    def create_network(self, flags: int) -> Any:
        """Flags: bits by NetworkDefinitionCreationFlag."""
        ...

    def create_builder_config(self) -> ConfigApi:
        """The defaults."""
        ...

    def create_optimization_profile(self) -> ProfileApi:
        """An empty one."""
        ...

    def build_serialized_network(self, network: Any, config: Any) -> MemoryApi | None:
        """None: it failed; the logger has heard why."""
        ...


class ParserErrorApi(Protocol):
    """ParserError."""

    def desc(self) -> str:
        """What is wrong."""
        ...

    def node_name(self) -> str:
        """Where."""
        ...

    def node_operator(self) -> str:
        """In an operator of which kind."""
        ...


class ParserApi(Protocol):
    """OnnxParser."""

    @property
    def num_errors(self) -> int:
        """How many things stood against parsing."""
        ...

    def parse(self, model: bytes) -> bool:
        """Fill the network; False: `get_error` says why not."""
        ...

    def get_error(self, index: int) -> ParserErrorApi:
        """One of `num_errors`."""
        ...


class ContextApi(Protocol):
    """IExecutionContext."""

    def set_device_memory(self, memory: int, size: int) -> None:
        """Where it computes, for contexts whose memory is the user's."""
        ...

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Which sizes it is for."""
        ...

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """False: the profile does not admit it."""
        ...

    def infer_shapes(self) -> list[str]:
        """Names of tensors that are not known well enough."""
        ...

    def get_tensor_shape(self, name: str) -> Any:
        """As far as inputs tell; -1: they do not."""
        ...

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Where an input or output lies."""
        ...

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Start it on a stream."""
        ...


class EngineApi(Protocol):
    """ICudaEngine."""

    @property
    def num_io_tensors(self) -> int:
        """Inputs and outputs."""
        ...

    @property
    def device_memory_size_v2(self) -> int:
        """Bytes that a context computes in, whatever the sizes."""
        ...

    def get_tensor_name(self, index: int) -> str:
        """Of an input or output."""
        ...

    def get_tensor_mode(self, name: str) -> Any:
        """Of TensorIOMode."""
        ...

    def get_tensor_dtype(self, name: str) -> Any:
        """Of DataType."""
        ...

    def create_execution_context(self, strategy: Any) -> ContextApi | None:
        """Of ExecutionContextAllocationStrategy."""
        ...


class RuntimeApi(Protocol):
    """Runtime."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> EngineApi | None:
        """None: it is no engine of this version and GPU. Anything else than an engine may crash the process."""
        ...


class TensorRT(Protocol):
    """The module."""

    __version__: str
    ILogger: Any
    Builder: Callable[[Any], BuilderApi]
    OnnxParser: Callable[[Any, Any], ParserApi]
    Runtime: Callable[[Any], RuntimeApi]
    BuilderFlag: Any
    NetworkDefinitionCreationFlag: Any
    TensorIOMode: Any
    DataType: Any
    ExecutionContextAllocationStrategy: Any


CLASSES: dict[str, type] = {
    "Builder": BuilderApi,
    "IBuilderConfig": ConfigApi,
    "IOptimizationProfile": ProfileApi,
    "ITimingCache": TimingCacheApi,
    "IHostMemory": MemoryApi,
    "OnnxParser": ParserApi,
    "ParserError": ParserErrorApi,
    "Runtime": RuntimeApi,
    "ICudaEngine": EngineApi,
    "IExecutionContext": ContextApi,
}
"""TensorRT's name of each"""


def tensorrt_obstacle() -> str:
    """Why TensorRT cannot be used here, and what to do; empty where it can."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:  # or a library of its own is missing
        return f"it is not installed ({error}); install f2f[gpu]"
    version = version_numbers(tensorrt.__version__)
    if not LEAST <= version < BEYOND:
        return f"version {tensorrt.__version__} is installed; accepted: 10.13 to 11; install f2f[gpu]"
    return cuda.gpu_obstacle()  # its runtime crashes without a GPU, where it should refuse


def load_tensorrt() -> TensorRT:
    """TensorRT, where it can be used.

    Raises:
        UsageError: it is missing, too old or too new, or there is no GPU.
    """
    if obstacle := tensorrt_obstacle():
        raise UsageError(f"TensorRT cannot be used: {obstacle}, or leave it out (--runtime auto)")
    import tensorrt

    return cast(TensorRT, tensorrt)


def version_numbers(version: str) -> tuple[int, ...]:
    """`11.4.0.106` -> (11, 4, 0, 106)."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


class Heard:
    """What TensorRT said while it was at work, for errors; warnings are details."""

    def __init__(self, trt: TensorRT) -> None:
        self.errors: deque[str] = deque(maxlen=3)
        self.logger = _logger(trt, self._hear)

    def _hear(self, severity: int, message: str) -> None:
        if severity <= 1:  # INTERNAL_ERROR, ERROR
            self.errors.append(message.strip())
        elif severity == 2:  # WARNING
            note(f"TensorRT: {message.strip()}")

    def __str__(self) -> str:
        return "; ".join(self.errors)[:600] or "it does not say why"


def _logger(trt: TensorRT, hear: Callable[[int, str], None]) -> Any:
    base: Any = trt.ILogger

    class Logger(base):  # type: ignore[misc]  # known at run time alone
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            hear(int(severity), message)

    return Logger()
