"""The runtimes on a real GPU: the bundled networks give what they give on the CPU, call after call, on any device."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from f2f.engine.errors import NetworkError
from f2f.engine.options import EngineOptions, RuntimeOptions
from f2f.engine.runtimes.network import Kind, Network
from f2f.engine.runtimes.onnx_cuda import onnx_cuda_obstacle
from f2f.engine.runtimes.open import bundled, open_network
from f2f.engine.runtimes.parity import FLOAT32_TOLERANCE, REDUCED_TOLERANCE
from f2f.engine.runtimes.tensorrt_graph import MIXED_SAMPLING_FROM
from f2f.engine.runtimes.trial import relative_difference, trial_input
from f2f.training.float16 import write_float16

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
SHAPES = {
    "classifier": ((8, 3, 96, 128), (3, 3, 120, 72), (20, 3, 96, 128)),
    "flow": ((2, 3, 3, 96, 128), (1, 5, 3, 72, 120)),
}


@pytest.fixture(params=["onnxruntime-cuda", "tensorrt"])
def options(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RuntimeOptions:
    if request.param == "tensorrt" and importlib.util.find_spec("tensorrt") is None:
        pytest.skip("f2f[gpu] is not installed: no TensorRT")
    if request.param == "onnxruntime-cuda" and onnx_cuda_obstacle():
        pytest.skip("f2f[gpu] is not installed: ONNX Runtime is built for the CPU alone")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    engines = EngineOptions(engine_sides=(128,), engine_cache=tmp_path / "engines")
    return RuntimeOptions(runtime=request.param, engines=engines)


def opened(kind: Kind, options: RuntimeOptions, name: str = "demo") -> Network:
    return open_network(name, kind, options)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "half"), [("classifier", False), ("classifier", True), ("flow", False)])
def test_it_gives_what_the_cpu_gives(kind: Kind, half: bool, options: RuntimeOptions, tmp_path: Path) -> None:
    network, most = opened(kind, options), FLOAT32_TOLERANCE
    if half:
        write_float16(bundled(kind), tmp_path / "half.onnx")
        network, most = opened(kind, options, str(tmp_path / "half.onnx")), REDUCED_TOLERANCE
    plain = opened(kind, RuntimeOptions(runtime="onnxruntime-cpu"))
    for _ in range(3):  # as it is, captured, replayed
        for shape in SHAPES[kind]:
            batch = trial_input(shape).contiguous()
            wanted = plain(batch)
            for place in (batch, batch.cuda()):
                for given, expected in zip(network(place), wanted, strict=True):
                    assert given.device == place.device
                    assert relative_difference(expected, given.cpu()) <= most


@pytest.mark.timeout(900)
def test_flow_in_float16(options: RuntimeOptions, tmp_path: Path) -> None:
    """Right, or refused: TensorRT from 10.14.1 samples wrongly beside float16."""
    half = tmp_path / "half.onnx"
    write_float16(bundled("flow"), half)
    plain, batch = opened("flow", RuntimeOptions(runtime="onnxruntime-cpu")), trial_input(SHAPES["flow"][0])
    if options.runtime == "tensorrt" and tuple(map(int, version("tensorrt").split(".")[:3])) >= MIXED_SAMPLING_FROM:
        with pytest.raises(NetworkError, match="samples in float32 within a network in float16"):
            opened("flow", options, str(half))
    else:
        (found,) = opened("flow", options, str(half))(batch)
        assert relative_difference(plain(batch)[0], found) <= REDUCED_TOLERANCE


@pytest.mark.timeout(900)
def test_the_same_bytes_call_after_call(options: RuntimeOptions) -> None:
    network, batch = opened("classifier", options), trial_input((8, 3, 96, 128)).cuda()
    first = [output.clone() for output in network(batch)]
    for _ in range(5):
        assert all(torch.equal(one, other) for one, other in zip(first, network(batch), strict=True))
