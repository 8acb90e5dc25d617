"""Builds a TensorRT engine of an ONNX graph: strongly typed, so that every layer's precision is the graph's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from f2f.engine.errors import NetworkError
from f2f.engine.runtimes.telling import note
from f2f.engine.runtimes.tensorrt_api import BuilderApi, ConfigApi, Heard, ParserApi, TensorRT
from f2f.engine.runtimes.tensorrt_profiles import Profile

FLAGS = ("STRONGLY_TYPED", "no TF32")
"""what the builder is told beyond its defaults: float32 is float32; what should be quicker is exported in float16"""


def build_plan(
    trt: TensorRT, graph: bytes, name: str, input_name: str, profiles: Sequence[Profile], timings: bytes
) -> tuple[bytes, bytes]:
    """Build an engine; minutes of work.

    Args:
        trt: TensorRT.
        graph: the ONNX file's content.
        name: what to call it in errors.
        input_name: the graph's one input.
        profiles: sizes to tune it for.
        timings: the timing cache of earlier builds; empty: none.

    Returns:
        The serialised engine, and the timing cache as it is now.

    Raises:
        NetworkError: the graph cannot be parsed or built.
    """
    heard = Heard(trt)
    builder = trt.Builder(heard.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, heard.logger)
    if not parser.parse(graph):
        raise NetworkError(f"TensorRT cannot read {name}: {_parser_errors(parser, heard)}; run it by onnxruntime")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    for profile in profiles:
        _add_profile(builder, config, input_name, profile, name)
    cache = _set_timings(config, timings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise NetworkError(f"TensorRT cannot build {name}: {heard}; run it by onnxruntime")
    return _bytes(plan), _bytes(cache.serialize())


def _add_profile(builder: BuilderApi, config: ConfigApi, input_name: str, profile: Profile, name: str) -> None:
    made = builder.create_optimization_profile()
    try:
        made.set_shape(input_name, profile.least, profile.typical, profile.most)
        accepted = config.add_optimization_profile(made) >= 0
    except ValueError:  # the bindings' word for inconsistent sizes
        accepted = False
    if not accepted:
        raise NetworkError(
            f"TensorRT does not accept {input_name} of {profile.least} to {profile.most} for {name}; export it with "
            "free axes, as `f2f export` does, or give other --engine-sides"
        )


def _set_timings(config: ConfigApi, timings: bytes) -> Any:
    """Earlier timings where they are of this GPU and version, else none; both spare nothing but time."""
    cache = config.create_timing_cache(timings)
    if not config.set_timing_cache(cache, False):
        note("TensorRT's earlier timings are of another GPU or version: measured anew")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _parser_errors(parser: ParserApi, heard: Heard) -> str:
    errors = [parser.get_error(index) for index in range(min(parser.num_errors, 5))]
    lines = [f"{error.node_operator()} {error.node_name()}: {error.desc()}".strip(" :") for error in errors]
    return "; ".join(lines)[:1000] or str(heard)


def _bytes(memory: Any) -> bytes:
    return bytes(memory)
