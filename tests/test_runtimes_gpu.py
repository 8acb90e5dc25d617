"""The runtimes on a real GPU: the bundled networks give what they give on the CPU, call after call, on any device."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from f2f.engine.options import EngineOptions, RuntimeOptions
from f2f.engine.runtimes.network import Network
from f2f.engine.runtimes.onnx_cuda import onnx_cuda_obstacle
from f2f.engine.runtimes.open import open_network
from f2f.engine.runtimes.parity import FLOAT32_TOLERANCE
from f2f.engine.runtimes.trial import relative_difference, trial_input

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


def opened(kind: str, options: RuntimeOptions) -> Network:
    return open_network("demo", kind, options)  # type: ignore[arg-type]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["classifier", "flow"])
def test_it_gives_what_the_cpu_gives(kind: str, options: RuntimeOptions) -> None:
    network, plain = opened(kind, options), opened(kind, RuntimeOptions(runtime="onnxruntime-cpu"))
    for _ in range(3):  # as it is, captured, replayed
        for shape in SHAPES[kind]:
            batch = trial_input(shape).contiguous()
            wanted = plain(batch)
            for place in (batch, batch.cuda()):
                for given, expected in zip(network(place), wanted, strict=True):
                    assert given.device == place.device
                    assert relative_difference(expected, given.cpu()) <= FLOAT32_TOLERANCE


@pytest.mark.timeout(900)
def test_the_same_bytes_call_after_call(options: RuntimeOptions) -> None:
    network, batch = opened("classifier", options), trial_input((8, 3, 96, 128)).cuda()
    first = [output.clone() for output in network(batch)]
    for _ in range(5):
        assert all(torch.equal(one, other) for one, other in zip(first, network(batch), strict=True))
