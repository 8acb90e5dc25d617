"""A stand-in for TensorRT that records what it is asked for, in order, and computes by ONNX Runtime.

Addresses are real ones of the CPU's memory, so what is bound wrongly gives wrong numbers here too. What crashes a real
TensorRT fails the test. `test_tensorrt_api.py` compares the methods with those of the real bindings.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Sequence
from enum import IntEnum
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from fake_gpu import FakeGpu

PLAN = b"plan"


class BuilderFlag(IntEnum):
    TF32 = 6


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class TensorIOMode(IntEnum):
    NONE, INPUT, OUTPUT = 0, 1, 2


class DataType(IntEnum):
    FLOAT, HALF = 0, 1


class ExecutionContextAllocationStrategy(IntEnum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = 0, 1, 2


class ILogger:
    """Base of loggers."""

    def __init__(self) -> None:
        self.opened = True

    def log(self, severity: int, message: str) -> None:
        raise AssertionError("a logger overrides this")


class Memory(bytes):
    """IHostMemory."""

    @property
    def nbytes(self) -> int:
        return len(self)


class Profile:
    def __init__(self) -> None:
        self.shapes: tuple[Any, ...] = ()

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:  # noqa: A002
        if any(not low <= middle <= high for low, middle, high in zip(min, opt, max, strict=True)):
            raise ValueError("inconsistent dimensions")
        self.shapes = (input, list(min), list(opt), list(max))


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> Memory:
        return Memory(self.content)


class Config:
    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt, self.profiles = trt, list[Profile]()
        self.cache: TimingCache | None = None

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._trt.gpu.record("clear_flag", flag)

    def add_optimization_profile(self, profile: Profile) -> int:
        self._trt.gpu.record("profile", *profile.shapes)
        if self._trt.refuses_profiles:
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        self._trt.gpu.record("timings", bytes(serialized_timing_cache))
        return TimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.content and cache.content != self._trt.timings:
            return False
        self.cache = cache
        return True


class Builder:
    def __init__(self, trt: FakeTensorRT, logger: Any) -> None:
        assert logger.opened, "the base class of the logger was not initialised"
        self._trt, self._logger = trt, logger

    def create_network(self, flags: int = 0) -> SimpleNamespace:
        self._trt.gpu.record("create_network", flags)
        return SimpleNamespace(graph=b"")

    def create_builder_config(self) -> Config:
        return Config(self._trt)

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: SimpleNamespace, config: Config) -> Memory | None:
        self._trt.gpu.record("build")
        if self._trt.build_error:
            self._logger.log(1, self._trt.build_error)
            return None
        assert config.cache is not None
        config.cache.content = self._trt.timings
        self._trt.builds += 1
        facts = {"profiles": [profile.shapes for profile in config.profiles], "build": self._trt.builds}
        return Memory(PLAN + json.dumps(facts).encode() + b"\n" + network.graph)


class ParserError:
    def __init__(self, operator: str, name: str, what: str) -> None:
        self._operator, self._name, self._what = operator, name, what

    def node_operator(self) -> str:
        return self._operator

    def node_name(self) -> str:
        return self._name

    def desc(self) -> str:
        return self._what


class Parser:
    def __init__(self, trt: FakeTensorRT, network: SimpleNamespace, logger: Any) -> None:
        self._trt, self._network = trt, network

    @property
    def num_errors(self) -> int:
        return len(self._trt.parser_errors)

    def parse(self, model: bytes, path: str | None = None) -> bool:
        self._trt.gpu.record("parse", path)
        self._network.graph = bytes(model)
        return not self._trt.parser_errors

    def get_error(self, index: int) -> ParserError:
        return ParserError(*self._trt.parser_errors[index])


class Runtime:
    def __init__(self, trt: FakeTensorRT, logger: Any) -> None:
        self._trt, self._logger = trt, logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        self._trt.gpu.record("load")
        assert serialized_engine.startswith(PLAN), "TensorRT crashes on what is no plan"
        if self._trt.refuses_plans:
            self._logger.log(1, "the engine plan file is not compatible")
            return None
        return Engine(self._trt, serialized_engine)


class Engine:
    def __init__(self, trt: FakeTensorRT, plan: bytes) -> None:
        self.trt = trt
        header, graph = plan.removeprefix(PLAN).split(b"\n", 1)
        self.profiles = [shapes for _, *shapes in json.loads(header)["profiles"]]
        model = onnx.load_from_string(graph)
        self.inputs = [value.name for value in model.graph.input]
        self.outputs = [value.name for value in model.graph.output]
        self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    @property
    def device_memory_size_v2(self) -> int:
        return 1000

    def get_tensor_name(self, index: int) -> str:
        names: list[str] = [*self.inputs, *self.outputs]
        return names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.trt.tensor_type

    def create_execution_context(self, strategy: Any = ExecutionContextAllocationStrategy.STATIC) -> Context | None:
        self.trt.gpu.record("context", strategy)
        return Context(self) if self.trt.makes_contexts else None


class Context:
    def __init__(self, engine: Engine) -> None:
        self._engine, self._trt = engine, engine.trt
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._has_memory = self._ran = False

    def set_device_memory(self, memory: int, size: int) -> None:
        self._trt.gpu.record("memory", memory)
        assert memory, "no memory"
        assert size >= self._engine.device_memory_size_v2
        self._has_memory = True

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._trt.gpu.record("select", profile_index, stream_handle)
        self._profile = profile_index
        return profile_index < len(self._engine.profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._trt.gpu.record("shape", name, shape)
        assert self._profile is not None, "a shape before a profile"
        low, _, high = self._engine.profiles[self._profile]
        if name not in self._engine.inputs or any(
            not least <= size <= most for least, size, most in zip(low, shape, high, strict=True)
        ):
            return False
        self._shapes[name] = shape
        return True

    def infer_shapes(self) -> list[str]:
        missing = [name for name in self._engine.inputs if name not in self._shapes]
        if not missing:
            inputs = {name: np.zeros(shape, np.float32) for name, shape in self._shapes.items()}
            outputs = self._run(inputs)
            self._shapes |= {name: found.shape for name, found in zip(self._engine.outputs, outputs, strict=True)}
        return missing

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = self._shapes[name]
        return (-1, *shape[1:]) if name == self._trt.unknown_size else shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._trt.gpu.record("address", name, memory)
        self._addresses[name] = memory
        return memory != 0 and name in self._shapes

    def execute_async_v3(self, stream_handle: int) -> bool:
        self._trt.gpu.record("execute", stream_handle)
        assert stream_handle, "the default stream"
        ready = self._has_memory and self._addresses.keys() >= {*self._engine.inputs, *self._engine.outputs}
        if not ready or self._trt.fails:
            return False
        assert self._ran or self._trt.gpu.capturing is None, "captured before it ran once"
        self._ran = True
        addresses, shapes = dict(self._addresses), dict(self._shapes)  # a graph keeps those of its capture
        self._trt.gpu.submit(lambda: self._compute(addresses, shapes))
        return True

    def _compute(self, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
        inputs = {name: _floats(addresses[name], shapes[name]).copy() for name in self._engine.inputs}
        for name, output in zip(self._engine.outputs, self._run(inputs), strict=True):
            drift = self._trt.drifts.get(self._profile, 0) * max(1e-6, float(np.abs(output).max(initial=0)))
            _floats(addresses[name], shapes[name])[...] = output + drift

    def _run(self, inputs: dict[str, npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]:
        try:
            found: list[npt.NDArray[np.float32]] = self._engine.session.run(None, inputs)
        except Exception as error:
            raise RuntimeError(f"shape inference failed: {error}") from error
        return found


def _floats(address: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)


class FakeTensorRT(ModuleType):
    """The module; what goes wrong is set from outside."""

    def __init__(self, gpu: FakeGpu, version: str = "11.4.0.106") -> None:
        super().__init__("tensorrt")
        self.__spec__ = ModuleSpec("tensorrt", None)  # others look for it
        self.gpu, self.__version__ = gpu, version
        self.ILogger, self.BuilderFlag, self.DataType = ILogger, BuilderFlag, DataType
        self.NetworkDefinitionCreationFlag, self.TensorIOMode = NetworkDefinitionCreationFlag, TensorIOMode
        self.ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
        self.builds = 0
        self.timings = b"timings of this GPU"
        self.tensor_type = DataType.FLOAT
        self.unknown_size = ""
        self.build_error = ""
        self.parser_errors: list[tuple[str, str, str]] = []
        self.refuses_profiles = self.refuses_plans = self.fails = False
        self.makes_contexts = True
        self.drifts: dict[int | None, float] = {}
        """profile -> how far its outputs are off, as a share of the largest"""

    def Builder(self, logger: Any) -> Builder:  # noqa: N802
        return Builder(self, logger)

    def OnnxParser(self, network: Any, logger: Any) -> Parser:  # noqa: N802
        return Parser(self, network, logger)

    def Runtime(self, logger: Any) -> Runtime:  # noqa: N802
        return Runtime(self, logger)


CLASSES = {
    "Builder": Builder,
    "IBuilderConfig": Config,
    "IOptimizationProfile": Profile,
    "ITimingCache": TimingCache,
    "IHostMemory": Memory,
    "OnnxParser": Parser,
    "ParserError": ParserError,
    "Runtime": Runtime,
    "ICudaEngine": Engine,
    "IExecutionContext": Context,
}


def install_tensorrt(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """Let the engine import the stand-in of TensorRT."""
    made = FakeTensorRT(gpu)
    monkeypatch.setitem(sys.modules, "tensorrt", made)
    return made
