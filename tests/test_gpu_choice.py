"""What `--runtime auto` takes on a GPU: ONNX Runtime, or TensorRT where an engine is at hand and quicker.

On a stand-in for TensorRT and its GPU, and ONNX Runtime on the CPU in place of the GPU's.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from fake_gpu import FakeGpu, install_gpu
from fake_tensorrt import FakeTensorRT, install_tensorrt
from material import TinyNetworks

from f2f.engine.errors import MachineError, NetworkError
from f2f.engine.options import EngineOptions, RuntimeOptions
from f2f.engine.runtimes import gpu_choice
from f2f.engine.runtimes.gpu_choice import open_on_gpu
from f2f.engine.runtimes.onnx_cuda import open_onnx_cpu
from f2f.engine.runtimes.open import open_network


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    monkeypatch.setattr(gpu_choice, "open_onnx", open_onnx_cpu)
    return install_gpu(monkeypatch)


@pytest.fixture
def trt(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return install_tensorrt(gpu, monkeypatch)


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RuntimeOptions:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    engines = EngineOptions(engine_sides=(128,), engine_batch=4, engine_cache=tmp_path / "engines")
    return RuntimeOptions(threads=1, engines=engines)


def build(networks: TinyNetworks, options: RuntimeOptions) -> None:
    open_network(str(networks.classifier), "classifier", replace(options, runtime="tensorrt"))


def chosen(networks: TinyNetworks, options: RuntimeOptions) -> str:
    return open_on_gpu(networks.classifier, "classifier", options).info.runtime.partition(" ")[0]


def kept(tmp_path: Path) -> dict[str, object]:
    (path,) = (tmp_path / "cache" / "f2f" / "runtimes").glob("*.json")
    found: dict[str, object] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize(("gain", "wanted"), [(3.0, "TensorRT"), (1.1, "onnxruntime")])
def test_an_engine_at_hand_is_taken_where_it_is_quicker(
    gain: float,
    wanted: str,
    networks: TinyNetworks,
    trt: FakeTensorRT,
    options: RuntimeOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured: list[tuple[int, ...]] = []

    def times(plain: object, other: object, batch: object) -> float:
        measured.append(tuple(batch.shape))  # type: ignore[attr-defined]
        return gain

    monkeypatch.setattr(gpu_choice, "times_as_fast", times)
    assert chosen(networks, options) == "onnxruntime", "nobody asked for minutes of building"
    assert (trt.builds, measured) == (0, [])
    build(networks, options)
    assert chosen(networks, options) == wanted
    assert measured == [(4, 3, 96, 128)]
    assert kept(tmp_path) == {"runtime": "tensorrt" if wanted == "TensorRT" else "onnxruntime", "gain": gain}
    assert chosen(networks, options) == wanted
    assert len(measured) == 1, "once is enough"
    assert trt.builds == 1


def test_the_gain_is_measured(
    networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions, tmp_path: Path
) -> None:
    build(networks, options)
    chosen(networks, options)
    assert 0 < float(str(kept(tmp_path)["gain"])) < 1000


@pytest.mark.parametrize(
    ("error", "stays"), [(NetworkError("gives another cam"), True), (MachineError("the GPU is full"), False)]
)
def test_an_engine_that_fails_leaves_onnx_runtime(
    error: Exception,
    stays: bool,
    networks: TinyNetworks,
    trt: FakeTensorRT,
    options: RuntimeOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: object) -> None:
        raise error

    build(networks, options)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(gpu_choice, "open_tensorrt", fails)
        assert chosen(networks, options) == "onnxruntime"
    assert f"classifier.onnx is run by ONNX Runtime: {error}" in caplog.text
    monkeypatch.setattr(gpu_choice, "times_as_fast", lambda *_: 2.0)
    assert chosen(networks, options) == ("onnxruntime" if stays else "TensorRT")


def test_another_engine_is_another_choice(
    networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_choice, "times_as_fast", lambda *_: 2.0)
    build(networks, options)
    assert chosen(networks, options) == "TensorRT"
    smaller = replace(options, engines=replace(options.engines, engine_batch=8))
    assert chosen(networks, smaller) == "onnxruntime", "that engine is not built"
    monkeypatch.setattr(gpu_choice, "times_as_fast", lambda *_: 0.5)
    build(networks, smaller)
    assert chosen(networks, smaller) == "onnxruntime"
    assert chosen(networks, options) == "TensorRT"


def test_without_tensorrt(networks: TinyNetworks, gpu: FakeGpu, options: RuntimeOptions) -> None:
    assert chosen(networks, options) == "onnxruntime"


def test_auto_asks(
    networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("F2F_ONNX_RUNTIME", raising=False)
    monkeypatch.setattr("f2f.engine.runtimes.cpu_choice.gpu_obstacle", lambda: "")
    monkeypatch.setattr(gpu_choice, "times_as_fast", lambda *_: 2.0)
    build(networks, options)
    network = open_network(str(networks.classifier), "classifier", options)
    assert network.info.runtime.startswith("TensorRT 11.4")
