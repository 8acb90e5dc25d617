"""Opens TensorRT networks: an `.onnx`, whose engine is built on first use and kept, or an `.engine` built ahead.

No engine is stored or used before all its sizes gave what ONNX Runtime gives on the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from f2f.engine.errors import NetworkError, UsageError
from f2f.engine.options import EngineOptions, RuntimeOptions
from f2f.engine.runtimes import cuda
from f2f.engine.runtimes.cuda import Queue
from f2f.engine.runtimes.network import CONTRACTS, Kind, Network, NetworkInfo, check_tensors, parse_info
from f2f.engine.runtimes.onnx_graph import fixed_axes, read_graph
from f2f.engine.runtimes.parity import check_outputs, small_trials
from f2f.engine.runtimes.telling import tell
from f2f.engine.runtimes.tensorrt_api import TensorRT, load_tensorrt, tensorrt_obstacle, version_numbers
from f2f.engine.runtimes.tensorrt_build import build_plan
from f2f.engine.runtimes.tensorrt_cache import EngineCache, EngineFile, facts_of, read_engine_file, write_engine_file
from f2f.engine.runtimes.tensorrt_graph import check_graph
from f2f.engine.runtimes.tensorrt_profiles import profiles_of
from f2f.engine.runtimes.tensorrt_runtime import TensorRtNetwork


def open_tensorrt(path: Path, kind: Kind, options: RuntimeOptions) -> Network:
    """A network that TensorRT runs.

    Raises:
        UsageError: TensorRT cannot be used here, or the file is code from elsewhere.
        NetworkError: the file breaks its contract, is not for TensorRT, or gives other numbers than on the CPU.
    """
    trt = load_tensorrt()
    queue = cuda.open_queue()
    if path.suffix == ".engine":
        return _open_engine(trt, path, kind, queue, trust_code=options.trust_code)
    source = _Source.read(path, kind)
    engine, network = _built(trt, source, options.engines, queue, trust_code=options.trust_code)
    if network is None:  # it comes from the cache: checked when it was built, and now briefly
        network = _run_engine(trt, engine, source, queue)
        source.check(network, _trials(engine, source, thorough=options.trust_code))
    return network


def engine_at_hand(path: Path, kind: Kind, options: RuntimeOptions) -> EngineFile | None:
    """The engine that `open_tensorrt` would take for an .onnx without building one.

    Raises:
        NetworkError: the file breaks its contract.
    """
    if tensorrt_obstacle():
        return None
    source = _Source.read(path, kind)
    facts = _facts(load_tensorrt(), source, options.engines, cuda.open_queue())
    return EngineCache(options.engines).read(facts, trust_code=options.trust_code)[0]


def refuse_without_tensorrt(out: Path) -> None:
    """Before a network is exported with `--engine`.

    Raises:
        UsageError: `out` is no .onnx, or TensorRT cannot be used here.
    """
    if out.suffix != ".onnx":
        raise UsageError(f"--engine is built from .onnx, and --out is {out}; give --out {out.with_suffix('.onnx')}")
    load_tensorrt()


def write_engine(path: Path, kind: Kind, options: EngineOptions) -> Path:
    """Build the engine of an .onnx ahead, on the GPU that will run it: an .engine beside it, signed as ours.

    Raises:
        UsageError: TensorRT cannot be used here.
        NetworkError: see `open_tensorrt`.
    """
    trt, source = load_tensorrt(), _Source.read(path, kind)
    engine, _ = _built(trt, source, options, cuda.open_queue(), trust_code=False)
    return write_engine_file(path.with_suffix(".engine"), engine)


@dataclass(frozen=True)
class _Source:
    """An ONNX graph, and what it says of itself."""

    path: Path
    kind: Kind
    graph: bytes
    model: ModelProto
    info: NetworkInfo

    @classmethod
    def read(cls, path: Path, kind: Kind, graph: bytes | None = None) -> _Source:
        data = path.read_bytes() if graph is None else graph
        model = read_graph(data, path)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        info = parse_info(path, metadata, kind, "TensorRT")
        inputs = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.input}
        check_tensors(path, kind, inputs, [value.name for value in model.graph.output])
        return cls(path, kind, data, model, info)

    def check(self, network: Network, shapes: Sequence[tuple[int, ...]]) -> None:
        check_outputs(network, self.graph, shapes)


def _built(
    trt: TensorRT, source: _Source, options: EngineOptions, queue: Queue, *, trust_code: bool
) -> tuple[EngineFile, TensorRtNetwork | None]:
    """The engine from the cache, or a new one, kept there; the network where it had to be opened to be checked."""
    check_graph(source.model, source.path, version_numbers(trt.__version__))
    facts, cache = _facts(trt, source, options, queue), EngineCache(options)
    found, _ = cache.read(facts, trust_code=trust_code)
    if found is not None:
        return found, None
    with cache.building():  # another process may have built it meanwhile
        found, why = cache.read(facts, trust_code=trust_code)
        if found is not None:
            return found, None
        if why:
            tell(f"{why}; the engine is built anew")
        return _build(trt, source, facts, cache, queue)


def _facts(trt: TensorRT, source: _Source, options: EngineOptions, queue: Queue) -> dict[str, Any]:
    profiles = profiles_of(source.kind, source.info.size_multiple, options, fixed_axes(source.model))
    return facts_of(source.graph, profiles, trt.__version__, queue.gpu)


def _build(
    trt: TensorRT, source: _Source, facts: dict[str, object], cache: EngineCache, queue: Queue
) -> tuple[EngineFile, TensorRtNetwork]:
    started = time.monotonic()
    profiles = EngineFile(facts, b"", b"").profiles
    tell(
        f"building the TensorRT engine of {source.path.name} for {queue.gpu}, {len(profiles)} sizes; takes minutes, "
        f"once: it is kept in {cache.folder}"
    )
    input_name = CONTRACTS[source.kind].input
    timings = cache.timings(facts)
    plan, timings = build_plan(trt, source.graph, str(source.path), input_name, profiles, timings)
    engine = EngineFile(facts, source.graph, plan)
    network = _run_engine(trt, engine, source, queue)
    source.check(network, _trials(engine, source, thorough=True))
    cache.write(engine)
    cache.write_timings(facts, timings)
    tell(f"built the engine of {source.path.name} in {time.monotonic() - started:.0f} s; it agrees with ONNX Runtime")
    return engine, network


def _trials(engine: EngineFile, source: _Source, *, thorough: bool) -> list[tuple[int, ...]]:
    """Input shapes to check; thoroughly: of every profile, for each has kernels of its own, which could be wrong."""
    small = small_trials(source.kind, source.info.size_multiple)
    return [*small, *((1, *profile.typical[1:]) for profile in engine.profiles if thorough)]


def _open_engine(trt: TensorRT, path: Path, kind: Kind, queue: Queue, *, trust_code: bool) -> Network:
    engine = read_engine_file(path, trt.__version__, queue.gpu, trust_code=trust_code)
    source = _Source.read(path, kind, engine.graph)
    network = _run_engine(trt, engine, source, queue)
    source.check(network, _trials(engine, source, thorough=trust_code))
    return network


def _run_engine(trt: TensorRT, engine: EngineFile, source: _Source, queue: Queue) -> TensorRtNetwork:
    try:
        info = replace(source.info, runtime=_description(trt, engine, queue))
        return TensorRtNetwork(trt, engine.plan, engine.profiles, info, queue)
    except (KeyError, TypeError) as error:
        raise NetworkError(f"{source.path} is no engine that f2f wrote ({error}); build it again") from error


def _description(trt: TensorRT, engine: EngineFile, queue: Queue) -> str:
    """What `run.json` pins: two builds of one network may round differently, so their digest belongs to it."""
    return f"TensorRT {trt.__version__} {queue.gpu}, engine {engine.digest[:16]}"
