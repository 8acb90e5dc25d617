"""Engines as files: kept, damaged, from elsewhere, built ahead.

On a stand-in for TensorRT and its GPU. Nothing here shows that TensorRT itself does what it is asked for.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_gpu import FakeGpu, FakeQueue, install_gpu
from fake_tensorrt import FakeTensorRT, install_tensorrt
from material import CLASSES, TinyNetworks, classifier_file

from f2f.engine.errors import NetworkError, UsageError
from f2f.engine.options import EngineOptions, RuntimeOptions
from f2f.engine.runtimes import cuda
from f2f.engine.runtimes.network import Network
from f2f.engine.runtimes.open import open_network
from f2f.engine.runtimes.tensorrt_cache import EngineCache, EngineFile
from f2f.engine.runtimes.tensorrt_open import write_engine

SIDES = (128, 192)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return install_gpu(monkeypatch)


@pytest.fixture
def trt(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return install_tensorrt(gpu, monkeypatch)


@pytest.fixture(autouse=True)
def own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def options(tmp_path: Path) -> RuntimeOptions:
    engines = EngineOptions(engine_sides=SIDES, engine_batch=4, engine_cache=tmp_path / "engines")
    return RuntimeOptions(runtime="tensorrt", threads=1, engines=engines)


def opened(networks: TinyNetworks, options: RuntimeOptions) -> Network:
    return open_network(str(networks.classifier), "classifier", options)


def by_onnx(path: Path, batch: torch.Tensor, kind: str = "classifier") -> tuple[torch.Tensor, ...]:
    return open_network(str(path), kind, RuntimeOptions(threads=1, runtime="onnxruntime-cpu"))(batch)  # type: ignore[arg-type]


def cached(options: RuntimeOptions) -> list[Path]:
    return sorted(EngineCache(options.engines).folder.glob("*.engine"))


# ---- the cache


def test_an_engine_is_built_once(
    networks: TinyNetworks, trt: FakeTensorRT, gpu: FakeGpu, options: RuntimeOptions
) -> None:
    first, second = opened(networks, options), opened(networks, options)
    assert trt.builds == 1
    assert first.info == second.info


@pytest.mark.parametrize("what", ["graph", "sides", "batch", "version", "gpu"])
def test_another_engine_for_other_facts(
    networks: TinyNetworks,
    trt: FakeTensorRT,
    gpu: FakeGpu,
    options: RuntimeOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    opened(networks, options)
    path = networks.classifier
    if what == "graph":
        path = classifier_file(tmp_path / "other.onnx", gain=0.5)
    elif what == "sides":
        options = replace(options, engines=replace(options.engines, engine_sides=(128, 256)))
    elif what == "batch":
        options = replace(options, engines=replace(options.engines, engine_batch=8))
    elif what == "version":
        trt.__version__ = "11.4.0.107"
    else:
        monkeypatch.setattr(cuda, "open_queue", lambda: FakeQueue(gpu, "Other GPU (9.0)"))
    open_network(str(path), "classifier", options)
    assert trt.builds == 2
    assert len(cached(options)) == 2


@pytest.mark.parametrize("damage", ["flipped", "cut", "unsigned", "empty"])
def test_a_damaged_engine_is_built_anew_and_never_loaded(
    networks: TinyNetworks,
    trt: FakeTensorRT,
    options: RuntimeOptions,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    opened(networks, options)
    (path,) = cached(options)
    data = path.read_bytes()
    if damage == "unsigned":
        path.with_name(path.name + ".sig").unlink()
    else:
        path.write_bytes({"flipped": data[:-1] + bytes([data[-1] ^ 1]), "cut": data[:-9], "empty": b""}[damage])
    opened(networks, options)
    assert trt.builds == 2
    assert "is not as this installation wrote it; the engine is built anew" in caplog.text
    opened(networks, options)
    assert trt.builds == 2


def test_an_engine_from_elsewhere_is_loaded_on_demand_and_checked_at_every_size(
    networks: TinyNetworks,
    trt: FakeTensorRT,
    gpu: FakeGpu,
    options: RuntimeOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened(networks, options)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "another installation"))
    gpu.calls.clear()
    opened(networks, replace(options, trust_code=True))
    assert trt.builds == 1
    assert ("shape", "image", (1, 3, 144, 192)) in gpu.calls
    trt.drifts = {1: 0.5}
    with pytest.raises(NetworkError, match="gives another scores"):
        opened(networks, replace(options, trust_code=True))


def test_a_trusted_engine_that_is_damaged_is_not_loaded(
    networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions
) -> None:
    opened(networks, options)
    (path,) = cached(options)
    data = bytearray(path.read_bytes())
    for place in (5, 60, len(data) // 2, len(data) - 1):  # mark, header, graph, engine
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        builds = trt.builds
        opened(networks, replace(options, trust_code=True))
        assert trt.builds == builds + 1


def test_a_header_that_was_changed_is_noticed(
    networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions
) -> None:
    """It says which GPU and TensorRT an engine is for, and TensorRT crashes on what it does not know."""
    opened(networks, options)
    data = cached(options)[0].read_bytes()
    assert EngineFile.unpack(data).facts["gpu"] == "Fake GPU (9.0)"
    with pytest.raises(ValueError, match="its digest differs"):
        EngineFile.unpack(data.replace(b"Fake GPU (9.0)", b"Fake GPU (9.1)"))


def test_timings_from_elsewhere_are_not_read(
    networks: TinyNetworks, trt: FakeTensorRT, gpu: FakeGpu, options: RuntimeOptions
) -> None:
    opened(networks, options)
    (timings,) = EngineCache(options.engines).folder.glob("*.timings")
    timings.write_bytes(b"timings of somebody")
    open_network(str(networks.saliency), "saliency", options)
    assert [call[1] for call in gpu.calls if call[0] == "timings"] == [b"", b""]


def test_processes_that_need_one_engine_get_the_same(
    networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions
) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(opened(networks, options).info.runtime)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert trt.builds == 1


# ---- engines built ahead


@pytest.fixture
def engine(tmp_path: Path, trt: FakeTensorRT, options: RuntimeOptions) -> Path:
    return write_engine(classifier_file(tmp_path / "ahead.onnx"), "classifier", options.engines)


def test_an_engine_built_ahead_runs(engine: Path, trt: FakeTensorRT) -> None:
    assert engine.name == "ahead.engine"
    network = open_network(str(engine), "classifier", RuntimeOptions(threads=1))
    assert network.info.classes == CLASSES
    assert network.info.runtime.startswith("TensorRT 11.4.0.106 Fake GPU (9.0), engine ")
    batch = torch.rand(3, 3, 64, 80)
    for given, wanted in zip(network(batch), by_onnx(engine.with_suffix(".onnx"), batch), strict=True):
        assert torch.allclose(given, wanted, atol=1e-5)
    assert trt.builds == 1


def test_an_engine_from_elsewhere_is_refused(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "another installation"))
    loads = gpu.count("load")
    with pytest.raises(UsageError, match=r"ahead\.engine is code .* --trust-code"):
        open_network(str(engine), "classifier", RuntimeOptions(threads=1))
    assert gpu.count("load") == loads
    trusted = RuntimeOptions(threads=1, trust_code=True)
    assert open_network(str(engine), "classifier", trusted).info.classes == CLASSES


def test_an_engine_for_another_machine_is_refused_before_it_is_loaded(
    engine: Path, trt: FakeTensorRT, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = gpu.count("load")
    trt.__version__ = "11.3.0.99"
    words = r"was built for TensorRT 11\.4\.0\.106 on Fake GPU.*; this is TensorRT 11\.3\.0\.99 on Fake GPU"
    with pytest.raises(NetworkError, match=words):
        open_network(str(engine), "classifier", RuntimeOptions(threads=1))
    trt.__version__ = "11.4.0.106"
    monkeypatch.setattr(cuda, "open_queue", lambda: FakeQueue(gpu, "Other GPU (8.6)"))
    with pytest.raises(NetworkError, match=r"this is TensorRT 11\.4\.0\.106 on Other GPU"):
        open_network(str(engine), "classifier", RuntimeOptions(threads=1))
    assert gpu.count("load") == loads


@pytest.mark.parametrize("content", [b"", b"ftrt", b"f2f TensorRT engine 1\n" + b"\xff" * 40])
def test_what_is_no_engine_is_refused(tmp_path: Path, trt: FakeTensorRT, content: bytes) -> None:
    path = tmp_path / "x.engine"
    path.write_bytes(content)
    with pytest.raises(NetworkError, match=r"x\.engine cannot be opened as an engine"):
        open_network(str(path), "classifier", RuntimeOptions(threads=1, trust_code=True))


def test_an_engine_of_another_kind_is_refused(engine: Path) -> None:
    with pytest.raises(NetworkError, match="is a classifier network; --saliency accepts"):
        open_network(str(engine), "saliency", RuntimeOptions(threads=1))
