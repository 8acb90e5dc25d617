"""Running an engine: contexts, graphs, threads, errors, and the self-check.

On a stand-in for TensorRT and its GPU. Nothing here shows that TensorRT itself does what it is asked for.
"""

from __future__ import annotations

import threading
from pathlib import Path

import onnx
import pytest
import torch
from fake_gpu import FakeGpu, install_gpu
from fake_tensorrt import FakeTensorRT, install_tensorrt
from material import TinyNetworks
from onnx import TensorProto, helper

from f2f.engine.errors import MachineError, NetworkError, VideoError
from f2f.engine.options import EngineOptions, RuntimeOptions
from f2f.engine.runtimes.network import Network
from f2f.engine.runtimes.open import open_network
from f2f.engine.runtimes.tensorrt_cache import EngineCache
from f2f.engine.runtimes.tensorrt_runtime import MOST_LANES, TensorRtNetwork

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


# ---- running


def test_order_of_a_call(networks: TinyNetworks, trt: FakeTensorRT, gpu: FakeGpu, options: RuntimeOptions) -> None:
    network = opened(networks, options)
    batch = torch.rand(1, 3, 160, 96)
    gpu.calls.clear()
    network(batch)
    assert [call if call[0] != "address" else call[:2] for call in gpu.calls if call[0] != "memory"] == [
        ("begin",),
        ("context", 2),
        ("select", 1, 4711),  # 160 px: the second bucket
        ("shape", "image", (1, 3, 160, 96)),
        ("address", "image"),
        ("address", "scores"),
        ("address", "cam"),
        ("execute", 4711),  # the first time as it is
        ("give",),
        ("end",),
    ]
    gpu.calls.clear()
    network(batch)
    assert gpu.names() == ["begin alone", "capture", "execute", "replay", "give", "end"]
    gpu.calls.clear()
    network(batch)
    assert gpu.names() == ["begin", "replay", "give", "end"]


def test_contexts_share_their_memory(
    networks: TinyNetworks, trt: FakeTensorRT, gpu: FakeGpu, options: RuntimeOptions
) -> None:
    network = opened(networks, options)
    gpu.calls.clear()
    for width in (64, 72, 80):
        network(torch.rand(1, 3, 64, width))
    places = [call[1] for call in gpu.calls if call[0] == "memory"]
    assert len(places) == 3
    assert len(set(places)) == 1


def test_every_shape_has_buffers_of_its_own(networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions) -> None:
    """Graphs of several shapes, in any order, give what each shape's input asks for."""
    network = opened(networks, options)
    batches = [torch.rand(count, 3, 64, width) for width in (64, 80, 128) for count in (1, 3)]
    for _ in range(3):
        for batch in (*batches, *batches[::-1]):
            for given, wanted in zip(network(batch), by_onnx(networks.classifier, batch), strict=True):
                assert torch.allclose(given, wanted, atol=1e-5)


def test_shapes_that_were_not_used_for_longest_go(
    networks: TinyNetworks, trt: FakeTensorRT, gpu: FakeGpu, options: RuntimeOptions
) -> None:
    network = opened(networks, options)
    first, second, *others, last = range(32, 32 + 2 * (MOST_LANES + 1), 2)
    for width in (first, second, *others, first, last):
        network(torch.rand(1, 3, 64, width))
    gpu.calls.clear()
    for width in (first, *others, last):  # kept
        network(torch.rand(1, 3, 64, width))
    assert gpu.count("context") == 0
    network(torch.rand(1, 3, 64, second))  # gone
    assert gpu.count("context") == 1
    assert gpu.names()[gpu.names().index("context") :].count("wait") == 1  # before another one goes


def test_what_cannot_be_captured_runs_as_it_is(
    networks: TinyNetworks, trt: FakeTensorRT, gpu: FakeGpu, options: RuntimeOptions
) -> None:
    gpu.refuses_capture = True
    network = opened(networks, options)
    batch = torch.rand(1, 3, 64, 64)
    gpu.calls.clear()
    for _ in range(4):
        assert torch.allclose(network(batch)[0], by_onnx(networks.classifier, batch)[0], atol=1e-5)
    assert gpu.count("capture") == 1
    assert gpu.count("execute") == 4


def test_larger_batches_become_several_calls(
    networks: TinyNetworks, trt: FakeTensorRT, gpu: FakeGpu, options: RuntimeOptions
) -> None:
    network = opened(networks, options)
    gpu.calls.clear()
    batch = torch.rand(10, 3, 64, 64)
    for given, wanted in zip(network(batch), by_onnx(networks.classifier, batch), strict=True):
        assert torch.allclose(given, wanted, atol=1e-5)
    assert [call[2][0] for call in gpu.calls if call[0] == "shape"] == [4, 2]


def test_threads_take_turns(networks: TinyNetworks, trt: FakeTensorRT, gpu: FakeGpu, options: RuntimeOptions) -> None:
    network = opened(networks, options)
    gpu.calls.clear()
    batches = [torch.rand(1, 3, 64, 64 + 8 * (number % 2)) for number in range(4)]
    wanted = [by_onnx(networks.classifier, batch)[1] for batch in batches]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            if not torch.allclose(network(batches[number])[1], wanted[number], atol=1e-5):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    turns = [name.split()[0] for name in gpu.names() if name.startswith(("begin", "end"))]
    assert turns == ["begin", "end"] * 80


def test_sizes_beyond_the_engine(networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions) -> None:
    network = opened(networks, options)
    with pytest.raises(
        NetworkError, match=r"frames of 200 x 64 px are beyond .* sides of 32 to 192 px; give --engine-"
    ):
        network(torch.rand(1, 3, 64, 200))
    with pytest.raises(VideoError, match="network refused a 1x3x16x64 input: it is too small for the engine") as failed:
        network(torch.rand(1, 3, 16, 64))
    assert failed.value.reason == "network_failed"


def test_windows_beyond_the_engine(networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions) -> None:
    network = open_network(str(networks.flow), "flow", options)
    with pytest.raises(NetworkError, match=r"in windows of 11 are beyond .*, in windows of up to 10; give"):
        network(torch.rand(1, 11, 3, 64, 64))


def test_a_size_that_tensorrt_does_not_know_is_refused(
    networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions
) -> None:
    trt.unknown_size = "cam"
    with pytest.raises(NetworkError, match=r"does not do what ONNX Runtime .*: the size of cam depends on more than"):
        opened(networks, options)


def test_a_gpu_that_fails_stops_the_run(networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions) -> None:
    network = opened(networks, options)
    trt.fails = True
    with pytest.raises(MachineError, match="TensorRT failed to start TensorRT 11"):
        network(torch.rand(1, 3, 64, 64))
    trt.fails, trt.makes_contexts = False, False
    with pytest.raises(MachineError, match="makes no context"):
        network(torch.rand(1, 3, 64, 72))


def test_a_gpu_without_memory_stops_the_run(
    networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = opened(networks, options)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TensorRtNetwork, "_run", full)
    with pytest.raises(MachineError, match=r"no memory left for TensorRT .* --engine-batch"):
        network(torch.rand(1, 3, 64, 64))


# ---- the self-check


@pytest.mark.parametrize("profile", [0, 1])
def test_drift_in_any_size_is_refused_and_not_kept(
    networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions, profile: int
) -> None:
    trt.drifts = {profile: 2e-3}
    words = r"gives another scores than ONNX Runtime on the CPU.*by 2\.\de-03 of its largest value; accepted: 1e-03"
    with pytest.raises(NetworkError, match=words):
        opened(networks, options)
    assert cached(options) == []


def test_an_engine_from_the_cache_is_checked_again(
    networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions
) -> None:
    opened(networks, options)
    trt.drifts = {0: 2e-3}
    with pytest.raises(NetworkError, match="it is not used"):
        opened(networks, options)


def test_values_that_are_not_finite_are_drift(
    networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions
) -> None:
    trt.drifts = {0: float("nan")}
    with pytest.raises(NetworkError, match="by nan of its largest value"):
        opened(networks, options)


def halved(path: Path, out: Path) -> Path:
    """The same saliency network, in float16 inside."""
    model = onnx.load(path)
    (node,) = model.graph.node
    node.input[0], node.output[0] = "half", "half_saliency"
    before = helper.make_node("Cast", ["image"], ["half"], to=TensorProto.FLOAT16)
    after = helper.make_node("Cast", ["half_saliency"], ["saliency"], to=TensorProto.FLOAT)
    del model.graph.node[:]
    model.graph.node.extend([before, node, after])
    onnx.save(model, out)
    return out


def test_networks_in_float16_have_a_wider_tolerance(
    networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions, tmp_path: Path
) -> None:
    half = halved(networks.saliency, tmp_path / "half.onnx")
    trt.drifts = {0: 2e-2, 1: 2e-2}
    assert open_network(str(half), "saliency", options).info.kind == "saliency"
    trt.drifts = {0: 4e-2}
    with pytest.raises(NetworkError, match=r"by 4\.\de-02 of its largest value; accepted: 3e-02"):
        open_network(str(half), "saliency", options)
    with pytest.raises(NetworkError, match="accepted: 1e-03"):
        open_network(str(networks.saliency), "saliency", options)
