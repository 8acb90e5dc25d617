"""What TensorRT gives, how it is built, what is missing, and what the commands do with it.

On a stand-in for TensorRT and its GPU. Nothing here shows that TensorRT itself does what it is asked for.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path

import onnx
import pytest
import torch
from fake_gpu import FakeGpu, install_gpu
from fake_tensorrt import BuilderFlag, DataType, FakeTensorRT, install_tensorrt
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
from f2f.engine.errors import NetworkError, UsageError
from f2f.engine.options import EngineOptions, RuntimeOptions
from f2f.engine.runtimes.network import Network
from f2f.engine.runtimes.open import open_network
from f2f.engine.runtimes.tensorrt_cache import EngineCache, EngineFile
from f2f.engine.runtimes.tensorrt_open import refuse_without_tensorrt
from f2f.engine.runtimes.tensorrt_profiles import profiles_of
from f2f.training.checkpoint import save_network
from f2f.training.classifier import CamClassifier
from f2f.training.commands import export_classifier, export_flow
from f2f.training.options import ClassifierExport, FlowExport

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
    return open_network(str(path), "classifier", RuntimeOptions(runtime="onnxruntime-cpu")).info.fingerprint


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
