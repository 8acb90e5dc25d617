"""TensorRT's part of the engine, on a stand-in for TensorRT and its GPU: build, cache, trust, run, self-check, errors.

Nothing here shows that TensorRT itself does what it is asked for.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import onnx
import pytest
import torch
from fake_tensorrt import BuilderFlag, DataType, FakeGpu, FakeQueue, FakeTensorRT
from material import (
    CLASSES,
    TinyNetworks,
    classifier_file,
    crawl,
    flags,
    flow_file,
    masks,
    saliency_file,
    segmenter_file,
)
from onnx import TensorProto, helper

from f2f.engine.cli import main
from f2f.engine.errors import MachineError, NetworkError, UsageError, VideoError
from f2f.engine.options import EngineOptions, RuntimeOptions
from f2f.engine.runtimes import cuda
from f2f.engine.runtimes.network import Network
from f2f.engine.runtimes.open import open_network
from f2f.engine.runtimes.report import RuntimeState, runtime_report
from f2f.engine.runtimes.tensorrt_cache import EngineCache, EngineFile
from f2f.engine.runtimes.tensorrt_open import refuse_without_tensorrt, write_engine
from f2f.engine.runtimes.tensorrt_profiles import profiles_of
from f2f.engine.runtimes.tensorrt_runtime import MOST_LANES, TensorRtNetwork
from f2f.training.checkpoint import save_network
from f2f.training.classifier import CamClassifier
from f2f.training.commands import export_classifier, export_flow
from f2f.training.options import ClassifierExport, FlowExport

SIDES = (128, 192)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    made = FakeGpu()
    monkeypatch.setattr(cuda, "open_queue", lambda: FakeQueue(made))
    monkeypatch.setattr(cuda, "gpu_obstacle", lambda: "")
    return made


@pytest.fixture
def trt(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    made = FakeTensorRT(gpu)
    monkeypatch.setitem(sys.modules, "tensorrt", made)
    return made


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


# ---- what it gives


@pytest.mark.parametrize("kind", ["classifier", "flow", "saliency", "segmenter"])
def test_it_gives_what_onnx_runtime_gives(
    kind: str, trt: FakeTensorRT, options: RuntimeOptions, tmp_path: Path
) -> None:
    make = {"classifier": classifier_file, "flow": flow_file, "saliency": saliency_file, "segmenter": segmenter_file}
    path = make[kind](tmp_path / f"{kind}.onnx")
    network = open_network(str(path), kind, options)  # type: ignore[arg-type]
    for shape in ((2, 3, 64, 96), (1, 3, 128, 40), (9, 3, 40, 192), (2, 3, 64, 96), (2, 3, 64, 96)):
        batch = torch.rand(shape if kind != "flow" else (shape[0], 4, *shape[1:]))
        for given, wanted in zip(network(batch), by_onnx(path, batch, kind), strict=True):
            assert given.shape == wanted.shape
            assert torch.allclose(given, wanted, atol=1e-5)


def test_it_says_what_runs(networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions) -> None:
    info = opened(networks, options).info
    plan = EngineFile.unpack(cached(options)[0].read_bytes())
    assert info.runtime == f"TensorRT 11.4.0.106 Fake GPU (9.0), engine {plan.digest[:16]}"
    assert info.fingerprint == by_fingerprint(networks.classifier)
    assert info.classes == CLASSES


def by_fingerprint(path: Path) -> str:
    return open_network(str(path), "classifier", RuntimeOptions(threads=1)).info.fingerprint


def test_an_output_is_not_written_to_by_the_next_call(
    networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions
) -> None:
    network = opened(networks, options)
    for _ in range(3):
        first = network(torch.zeros(1, 3, 64, 64))
        kept = [output.clone() for output in first]
        network(torch.rand(1, 3, 64, 64))
        assert all(torch.equal(one, other) for one, other in zip(first, kept, strict=True))


# ---- building


def test_how_it_is_built(networks: TinyNetworks, trt: FakeTensorRT, gpu: FakeGpu, options: RuntimeOptions) -> None:
    opened(networks, options)
    start = gpu.names().index("create_network")
    assert gpu.calls[start : start + 7] == [
        ("create_network", 1 << 1),
        ("parse", None),
        ("clear_flag", BuilderFlag.TF32),
        ("profile", "image", [1, 3, 32, 32], [4, 3, 96, 128], [4, 3, 128, 128]),
        ("profile", "image", [1, 3, 32, 32], [4, 3, 144, 192], [4, 3, 192, 192]),
        ("timings", b""),
        ("build",),
    ]


def test_profiles_keep_to_multiples_and_windows() -> None:
    wide = EngineOptions(engine_sides=(130, 200), engine_window=7)
    (small, large) = profiles_of("flow", 64, wide)
    assert small.least == (1, 2, 3, 64, 64)
    assert small.most == (2, 7, 3, 192, 192)
    assert large.typical == (2, 5, 3, 192, 256)
    assert len(profiles_of("classifier", 256, wide)) == 1


def test_axes_that_a_graph_fixes_are_fixed_in_its_profiles(
    networks: TinyNetworks, trt: FakeTensorRT, gpu: FakeGpu, options: RuntimeOptions, tmp_path: Path
) -> None:
    """Of one image at a time, in one size, as some released networks are."""
    model = onnx.load(networks.saliency)
    for axis, size in ((0, 1), (2, 96), (3, 64)):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
        model.graph.output[0].type.tensor_type.shape.dim[axis].dim_value = size
    onnx.save(model, tmp_path / "fixed.onnx")
    network = open_network(str(tmp_path / "fixed.onnx"), "saliency", options)
    assert [call[2:] for call in gpu.calls if call[0] == "profile"] == [([1, 3, 96, 64],) * 3]
    batch = torch.rand(3, 3, 96, 64)
    assert torch.equal(network(batch)[0], batch[:, :1])


def test_timings_serve_the_next_build(
    networks: TinyNetworks, trt: FakeTensorRT, gpu: FakeGpu, options: RuntimeOptions, tmp_path: Path
) -> None:
    opened(networks, options)
    open_network(str(networks.saliency), "saliency", options)
    trt.timings = b"timings of another GPU"
    open_network(str(segmenter_file(tmp_path / "s.onnx")), "segmenter", options)
    asked = [call[1] for call in gpu.calls if call[0] == "timings"]
    assert asked == [b"", b"timings of this GPU", b"timings of this GPU", b""]


def test_a_build_is_told(
    networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        opened(networks, options)
        opened(networks, options)
    first, second = caplog.messages
    assert first.startswith("building the TensorRT engine of classifier.onnx for Fake GPU (9.0), 2 sizes")
    assert second.startswith("built the engine of classifier.onnx in ")


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (
            {"parser_errors": [("Gelu", "n7", "no such thing")]},
            r"cannot read .*classifier\.onnx: Gelu n7: no such thing",
        ),
        ({"build_error": "no tactic found"}, r"cannot build .*classifier\.onnx: no tactic found"),
        ({"refuses_profiles": True}, r"does not accept image of \(1, 3, 32, 32\)"),
        ({"refuses_plans": True}, "does not load its classifier engine: the engine plan file is not compatible"),
        ({"tensor_type": DataType.HALF}, "the classifier engine has image"),
    ],
)
def test_what_cannot_be_built_is_refused_and_not_kept(
    networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions, trouble: dict[str, object], words: str
) -> None:
    for name, value in trouble.items():
        setattr(trt, name, value)
    with pytest.raises(NetworkError, match=words):
        opened(networks, options)
    assert cached(options) == []


def test_a_graph_that_tensorrt_runs_wrong_is_refused_before_it_is_built(
    networks: TinyNetworks, trt: FakeTensorRT, gpu: FakeGpu, options: RuntimeOptions, tmp_path: Path
) -> None:
    model = onnx.load(networks.saliency)
    model.graph.node[0].output[0] = "red"
    model.graph.node.append(helper.make_node("Resize", ["red", "", "scales"], ["saliency"], mode="cubic"))
    model.graph.initializer.append(helper.make_tensor("scales", TensorProto.FLOAT, [4], [1.0] * 4))
    onnx.save(model, tmp_path / "cubic.onnx")
    with pytest.raises(NetworkError, match=r"cubic\.onnx is not for TensorRT 11\.4\.0: Resize: the mode is cubic"):
        open_network(str(tmp_path / "cubic.onnx"), "saliency", options)
    assert gpu.calls == []


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
    with pytest.raises(VideoError, match="the size of cam depends on more than the size of the input"):
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


# ---- what is missing


def test_without_tensorrt(networks: TinyNetworks, options: RuntimeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(UsageError, match=r"TensorRT cannot be used: it is not installed .*install f2f\[gpu\]"):
        opened(networks, options)


@pytest.mark.parametrize("version", ["10.12.0.36", "12.0.0", "8.6.1"])
def test_another_version(networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions, version: str) -> None:
    trt.__version__ = version
    with pytest.raises(UsageError, match=rf"version {version} is installed; accepted: 10\.13 to 11"):
        opened(networks, options)


@pytest.mark.parametrize("version", ["10.13.3.9", "10.16.1.11", "11.4.0.106"])
def test_both_majors_go_one_way(
    networks: TinyNetworks, trt: FakeTensorRT, options: RuntimeOptions, version: str
) -> None:
    trt.__version__ = version
    assert opened(networks, options).info.runtime.startswith(f"TensorRT {version} ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_tensorrt_is_not_touched(
    networks: TinyNetworks, options: RuntimeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FakeGpu()
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(gpu))
    with pytest.raises(UsageError, match="torch sees no NVIDIA GPU"):
        opened(networks, options)
    assert gpu.calls == []


def test_engines_are_built_from_onnx(trt: FakeTensorRT, tmp_path: Path) -> None:
    refuse_without_tensorrt(tmp_path / "x.onnx")
    with pytest.raises(UsageError, match=r"--engine is built from \.onnx, and --out is .*x\.pt2; give --out .*x\.onnx"):
        refuse_without_tensorrt(tmp_path / "x.pt2")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"engine_sides": ()}, "--engine-sides"),
        ({"engine_sides": (512, 256)}, "in rising order"),
        ({"engine_sides": (64,)}, "128 to 8192 px"),
        ({"engine_batch": 0}, "--engine-batch 0"),
        ({"engine_window": 2}, "3 to 100 frames"),
    ],
)
def test_wrong_options(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        EngineOptions(**wrong)  # type: ignore[arg-type]


# ---- export


def test_export_builds_an_engine_beside_the_network(
    trt: FakeTensorRT, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    facts = {"classes": ["a", "b"], "width": 0.25, "training": {}}
    save_network(tmp_path / "network.pt", "classifier", CamClassifier(["a", "b"], 0.25), **facts)
    engines = EngineOptions(engine_sides=SIDES, engine_cache=tmp_path / "engines")
    out = tmp_path / "net.onnx"
    options = ClassifierExport(checkpoint=tmp_path / "network.pt", out=out, engine=True, engines=engines)
    assert export_classifier(options) == 0
    engine = out.with_suffix(".engine")
    assert capsys.readouterr().out == f"wrote {out}\nwrote {engine}\n"
    assert open_network(str(engine), "classifier", RuntimeOptions(threads=1)).info.classes == ("a", "b")


def test_export_without_tensorrt_says_so_before_it_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    options = FlowExport(checkpoint=tmp_path / "missing.pt", out=tmp_path / "flow.onnx", engine=True)
    with pytest.raises(UsageError, match=r"TensorRT cannot be used: it is not installed .*; install f2f\[gpu\]"):
        export_flow(options)


# ---- what doctor says


def states() -> dict[str, RuntimeState]:
    return {state.name: state for state in runtime_report()}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_report_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    found = states()
    assert set(found) | {"auto", "onnxruntime"} == set(get_args(get_type_hints(RuntimeOptions)["runtime"]))
    assert [name for name, state in found.items() if state.works] == ["onnxruntime-cpu", "torch"]
    assert {state.chosen: name for name, state in found.items() if state.chosen} == {
        ".onnx": "onnxruntime-cpu",
        ".pt2": "torch",
    }
    assert "torch sees no NVIDIA GPU" in found["onnxruntime-cuda"].why
    assert "install f2f[gpu]" in found["tensorrt"].why


def test_report_with_a_gpu_that_onnx_runtime_does_not_use(trt: FakeTensorRT) -> None:
    found = states()
    assert found["tensorrt"].works
    assert found["tensorrt"].chosen == ".engine"
    assert not found["onnxruntime-cuda"].works
    assert "is built for the CPU alone; install f2f[gpu]" in found["onnxruntime-cuda"].why
    assert found["onnxruntime-cpu"].chosen == ".onnx"


def test_report_without_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = states()
    assert (found["onnxruntime-cpu"].works, found["onnxruntime-cpu"].version) == (False, "")
    assert "install f2f[cpu]" in found["onnxruntime-cpu"].why


def test_doctor_prints_the_runtimes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "runtimes of networks" in printed
    assert "install f2f[gpu]" in printed
    assert main(["doctor", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["network_runtimes"]] == [*states()]


# ---- a run


def test_label_with_tensorrt_pins_the_engine(
    networks: TinyNetworks, trt: FakeTensorRT, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run goes on with its engine, and is refused with another one, whose rounding may differ."""
    source, out, cache = crawl(tmp_path / "web", "red/a.mp4"), tmp_path / "out", tmp_path / "engines"
    command = ["label", str(source), "--out", str(out), *flags(networks), "--runtime", "tensorrt"]
    command += ["--engine-sides", "128", "--engine-batch", "4", "--engine-cache", str(cache)]
    assert main(command) == 0
    assert len(masks(out)) > 0
    pinned = json.loads((out / "run.json").read_text())["networks"]
    assert {name: pinned[name]["runtime"].split(",")[-1].split()[0] for name in ("classifier", "flow")} == {
        "classifier": "engine",
        "flow": "engine",
    }
    assert main(command) == 0
    shutil.rmtree(cache)
    assert main(command) == 2
    assert "networks.classifier.runtime: TensorRT 11.4.0.106" in capsys.readouterr().err
