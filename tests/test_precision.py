"""Less than float32: what becomes int8 or float16, the gates, that the network stays in float32 where they fail."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from material import CLASSES, crawl, picture
from onnx import NodeProto, TensorProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnxruntime import InferenceSession

from f2f.engine.classify import to_tensor
from f2f.engine.cli import main
from f2f.engine.errors import NetworkError, UsageError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.network import Kind
from f2f.engine.runtimes.onnx_graph import OnnxGraph
from f2f.engine.runtimes.open import bundled, open_network
from f2f.engine.runtimes.tensorrt_graph import graph_problems
from f2f.training import precision
from f2f.training.clips import CLIP_FRAMES, clips_of
from f2f.training.float16 import write_float16
from f2f.training.options import ClassifierExport, FlowExport, PrecisionOptions
from f2f.training.precision import PrecisionVerdict, reduce_precision
from f2f.training.stored import narrow_convolutions

HALF = PrecisionOptions(half=True)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crawl(tmp_path_factory.mktemp("videos"), *(f"{query}/{n}.mp4" for query in CLASSES for n in range(2)))


@pytest.fixture
def options(videos: Path) -> PrecisionOptions:
    return PrecisionOptions(int8=True, calibrate=str(videos), calibrate_clips=8, calibrate_max_side=96)


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundled networks were not made for squares on grey."""
    monkeypatch.setattr(precision, "LEAST_LABELS_AGREE", 0.0)
    monkeypatch.setattr(precision, "LEAST_MASK_IOU", 0.0)
    monkeypatch.setattr(precision, "MOST_EPE_INCREASE", 0.5)


def convolutions(path: Path) -> dict[str, bool]:
    """Every convolution, and whether its weights are quantised."""
    graph = onnx.load(path).graph
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {node.name: node.input[1] in dequantised for node in graph.node if node.op_type == "Conv"}


def test_clips_are_of_one_shot_and_of_all_videos(options: PrecisionOptions) -> None:
    clips = clips_of(options)
    assert len(clips) == 8
    assert len({clip[0].video for clip in clips}) >= 4
    for clip in clips:
        assert len(clip) == CLIP_FRAMES
        assert len({(frame.video, frame.shot, frame.size_hw) for frame in clip}) == 1
        assert [frame.pts_seconds for frame in clip] == sorted(frame.pts_seconds for frame in clip)


@pytest.mark.usefixtures("lenient")
def test_a_classifier_in_int8(options: PrecisionOptions, tmp_path: Path) -> None:
    whole, out = bundled("classifier"), tmp_path / "int8.onnx"
    verdict = reduce_precision(whole, "classifier", options, out)
    assert verdict.why_not == ""
    assert verdict.clips == 4
    kept = set(narrow_convolutions(onnx.load(whole)))
    assert len(kept) == 1, "the one that gives the CAM"
    assert {name for name, quantised in convolutions(out).items() if not quantised} == kept
    assert out.stat().st_size < 0.5 * whole.stat().st_size
    before, after = (open_network(str(path), "classifier", RuntimeOptions()) for path in (whole, out))
    assert (after.info.classes, after.info.defaults) == (before.info.classes, before.info.defaults)
    assert after.info.training["int8"]["clips"] == 4
    image = to_tensor([picture(colour, 7, seed=9) for colour in CLASSES])
    for one, other in zip(before(image), after(image), strict=True):
        assert one.shape == other.shape
        assert 0 < float((one - other).abs().mean()) < 0.15 * float(one.abs().mean())
    again = tmp_path / "again.onnx"
    reduce_precision(whole, "classifier", options, again)
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.usefixtures("lenient")
def test_a_flow_network_in_int8(options: PrecisionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_EXACT_PAIRS", 8)  # of 24: a third of the time
    verdict = reduce_precision(bundled("flow"), "flow", options, tmp_path / "int8.onnx")
    assert 0 < verdict.epe_increase < 0.5
    assert verdict.why_not == ""
    quantised = convolutions(tmp_path / "int8.onnx")
    kept = {name for name, is_quantised in quantised.items() if not is_quantised}
    assert kept == quantised.keys() & set(narrow_convolutions(onnx.load(bundled("flow"))))
    assert len(quantised) > 2 * len(kept) > 0


def test_what_changes_too_much_stays_in_float32(
    options: PrecisionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "LEAST_MASK_IOU", 1.01)
    verdict = reduce_precision(bundled("classifier"), "classifier", options, tmp_path / "out.onnx")
    assert "at least 1.01 is wanted" in verdict.why_not
    assert str(verdict).startswith("kept in float32: ")
    assert (tmp_path / "out.onnx").read_bytes() == bundled("classifier").read_bytes()


@pytest.mark.parametrize(
    ("verdict", "why"),
    [
        (PrecisionVerdict("classifier", 4, labels_agree=0.979), "97.9 % of the label sets agree, 98% must"),
        (PrecisionVerdict("classifier", 4, labels_agree=0.98, mask_iou=0.969), "an IoU of 0.969"),
        (PrecisionVerdict("flow", 4, epe_increase=0.11), "grows by 11%"),
        (PrecisionVerdict("classifier", 4, labels_agree=0.98, mask_iou=0.97), ""),
        (PrecisionVerdict("flow", 4, epe_increase=0.1), ""),
    ],
)
def test_the_gates(verdict: PrecisionVerdict, why: str) -> None:
    assert why in verdict.why_not
    assert bool(verdict.why_not) == bool(why)


def test_what_is_said_of_its_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    slower, faster = (PrecisionVerdict("classifier", 4, times_as_fast=times) for times in (0.9, 1.9))
    monkeypatch.setattr("f2f.training.precision.openvino_version", lambda: "2026.4.1")
    assert str(slower).endswith("; 4 clips; 0.90 times as fast as float32 here)")
    monkeypatch.setattr("f2f.training.precision.openvino_version", lambda: "")
    assert str(slower).endswith("0.90 times as fast as float32 here; try f2f[openvino])")
    assert str(faster).endswith("1.90 times as fast as float32 here)")


@pytest.mark.usefixtures("lenient")
def test_the_command(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "classifier", "--network", "demo", "--int8", "--calibrate", str(videos)]
    assert main([*words, "--calibrate-clips", "6", "--out", str(tmp_path / "int8.onnx")]) == 0
    said = capsys.readouterr().out
    assert "int8 (" in said
    assert "of label sets agree" in said
    assert re.search(r"; \d+\.\d\d times as fast as float32 here", said)
    model = onnx.load(tmp_path / "int8.onnx")
    assert "int8" in json.loads({one.key: one.value for one in model.metadata_props}["f2f.training"])


def test_wrong_usage(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--int8 is given without --calibrate"):
        PrecisionOptions(int8=True)
    with pytest.raises(UsageError, match="nothing is to be judged; give --int8 or --half"):
        PrecisionOptions(calibrate=str(videos))
    with pytest.raises(UsageError, match="give one of them"):
        PrecisionOptions(int8=True, half=True, calibrate=str(videos))
    with pytest.raises(UsageError, match="--network demo is exported already; give --half, or --int8"):
        ClassifierExport(out=tmp_path / "a.onnx", network="demo")
    with pytest.raises(UsageError, match="none of them is given; accepted: exactly one of --checkpoint, --weights"):
        FlowExport(out=tmp_path / "a.onnx")
    one_video = crawl(tmp_path / "one", "red/0.mp4", frames=8)
    few = PrecisionOptions(int8=True, calibrate=str(one_video))
    with pytest.raises(UsageError, match="--calibrate gave 1 clips of 3 frames; accepted: a source of videos with 4"):
        reduce_precision(bundled("classifier"), "classifier", few, tmp_path / "o.onnx")
    with pytest.raises(UsageError, match=r"--int8 is for \.onnx files; o\.pt2 is not"):
        reduce_precision(bundled("classifier"), "classifier", few, tmp_path / "o.pt2")
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    for wrong, words in ((tmp_path / "broken.onnx", "cannot be opened"), (bundled("flow"), "is a flow network")):
        for options in (few, HALF):
            with pytest.raises(NetworkError, match=words):
                reduce_precision(wrong, "classifier", options, tmp_path / "o.onnx")
    assert not (tmp_path / "o.onnx").exists()


# ---- float16


def convolutions_in_float16(path: Path) -> dict[str, bool]:
    graph = onnx.load(path).graph
    types = {one.name: one.data_type for one in graph.initializer}
    nodes = (node for node in graph.node if node.op_type in {"Conv", "ConvTranspose"})
    return {node.name: types[node.input[1]] == TensorProto.FLOAT16 for node in nodes}


def test_a_classifier_in_float16(videos: Path, tmp_path: Path) -> None:
    whole, out = bundled("classifier"), tmp_path / "half.onnx"
    options = PrecisionOptions(half=True, calibrate=str(videos), calibrate_clips=8, calibrate_max_side=96)
    verdict = reduce_precision(whole, "classifier", options, out)
    assert verdict.why_not == ""
    assert (verdict.clips, verdict.labels_agree) == (8, 1.0)
    assert 0.99 < verdict.mask_iou < 1.0
    assert 1e-6 < verdict.difference < 2e-3
    kept = {name for name, halved in convolutions_in_float16(out).items() if not halved}
    assert kept == set(narrow_convolutions(onnx.load(whole)))
    assert out.stat().st_size < 0.6 * whole.stat().st_size
    before, after = (open_network(str(path), "classifier", RuntimeOptions()) for path in (whole, out))
    assert (after.info.classes, after.info.defaults) == (before.info.classes, before.info.defaults)
    assert after.info.training["float16"]["clips"] == 8
    reduce_precision(whole, "classifier", options, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()


def test_flow_in_float16_samples_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_EXACT_PAIRS", 2)
    verdict = reduce_precision(bundled("flow"), "flow", HALF, tmp_path / "half.onnx")
    assert verdict.why_not == ""
    assert verdict.epe_increase != 0
    assert abs(verdict.epe_increase) < 0.02
    halved = convolutions_in_float16(tmp_path / "half.onnx")
    assert 2 * list(halved.values()).count(False) < list(halved.values()).count(True)
    model = onnx.load(tmp_path / "half.onnx")
    graph, makers = OnnxGraph.of(model), {name: node for node in model.graph.node for name in node.output}
    samplings = [node for node in model.graph.node if node.op_type == "GridSample"]
    assert len(samplings) == 4
    for node in samplings:
        assert graph.types[node.input[0]] == TensorProto.FLOAT
        assert predictors_of(node.input[1], makers, graph) <= {name for name, is_half in halved.items() if not is_half}


def predictors_of(name: str, makers: dict[str, NodeProto], graph: OnnxGraph) -> set[str]:
    """The convolutions that coordinates come from; on the way from there all is in float32."""
    found, open_, seen = set(), [name], {name}
    while open_:
        tensor = open_.pop()
        assert graph.types[tensor] != TensorProto.FLOAT16
        node = makers.get(tensor)
        if node is None or node.op_type == "Shape":
            continue
        if node.op_type in {"Conv", "ConvTranspose"}:
            found.add(node.name)
            continue
        open_ += [given for given in node.input if given and given not in seen]
        seen.update(node.input)
    assert found
    return found


@pytest.mark.parametrize(
    ("network", "version", "accepted"),
    [("classifier", (11, 4), True), ("flow", (10, 13, 3), True), ("flow", (10, 14, 1), False)],
)
def test_float16_by_tensorrt(network: Kind, version: tuple[int, ...], accepted: bool, tmp_path: Path) -> None:
    write_float16(bundled(network), tmp_path / "half.onnx")
    problems = list(graph_problems(onnx.load(tmp_path / "half.onnx"), version))
    assert bool(problems) != accepted
    assert all("samples in float32 within a network in float16" in problem for problem in problems)


def test_what_float16_cannot_hold_stays_in_float32(tmp_path: Path) -> None:
    model = onnx.load(bundled("classifier"))
    first, second = [node for node in model.graph.node if node.op_type == "Conv"][:2]
    for node, factor in ((first, 1e6), (second, 1e-6)):
        for tensor in model.graph.initializer:
            if tensor.name in (node.input[1:] if node is first else node.input[1:2]):
                values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "large.onnx")
    verdict = reduce_precision(tmp_path / "large.onnx", "classifier", HALF, tmp_path / "out.onnx")
    assert "of its largest value, at most 0.02 is wanted" in verdict.why_not
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "large.onnx").read_bytes()


def test_the_command_for_float16(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "half.onnx"
    words = ["export", "classifier", "--network", "demo", "--half", "--out"]
    assert main([*words, str(out)]) == 0
    said = capsys.readouterr().out
    assert "float16 (outputs differ by " in said
    assert "label sets" not in said, "no clips were given"
    assert main(["export", "classifier", "--network", str(out), "--half", "--out", str(tmp_path / "o.onnx")]) == 2
    assert "half.onnx computes in less already" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "half.pt2")]) == 2
    assert "--torch-precision bfloat16" in capsys.readouterr().err


@pytest.mark.parametrize(("obstacle", "told"), [("none", "how fast it is was not measured"), ("", "times as fast as")])
def test_only_a_gpu_tells_how_fast_float16_is(
    obstacle: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "gpu_obstacle", lambda: obstacle)
    monkeypatch.setattr(precision, "_TIMED_HW", (64, 96))
    assert told in str(reduce_precision(bundled("classifier"), "classifier", HALF, tmp_path / "half.onnx"))


def test_weights_stay_where_they_can_be_seen(tmp_path: Path) -> None:
    """TensorRT reads biases from the file; one that two convolutions share goes by two names."""
    random, shape = np.random.default_rng(5), [1, 8, 6, 6]
    kernel, bias, other = (random.normal(size=size).astype("f") for size in ((8, 8, 3, 3), (8,), (8, 8, 3, 3)))
    nodes = [
        make_node("Identity", ["bias"], ["alias"]),
        make_node("Constant", [], ["other"], value=numpy_helper.from_array(other)),
        make_node("Conv", ["image", "kernel", "bias"], ["a"], name="a", kernel_shape=[3, 3], pads=[1] * 4),
        make_node("Conv", ["a", "other", "alias"], ["b"], name="b", kernel_shape=[3, 3], pads=[1] * 4),
        make_node("Neg", ["b"], ["c"]),
        make_node("Add", ["c", "other_bias"], ["d"]),
    ]
    weights = {"kernel": kernel, "bias": bias, "other_bias": bias[:1]}
    image, result = (make_tensor_value_info(name, 1, shape) for name in ("image", "d"))
    graph = make_graph(
        nodes, "g", [image], [result], [numpy_helper.from_array(value, name) for name, value in weights.items()]
    )
    onnx.save(make_model(graph, opset_imports=[make_opsetid("", 18)]), tmp_path / "whole.onnx")
    write_float16(tmp_path / "whole.onnx", tmp_path / "half.onnx")
    found = onnx.load(tmp_path / "half.onnx").graph
    assert [node.op_type for node in found.node] == ["Cast", "Conv", "Conv", "Cast", "Neg", "Add"]
    stored = {one.name: one.data_type for one in found.initializer}
    given = [name for node in found.node if node.op_type == "Conv" for name in node.input[1:]]
    assert [stored[name] for name in given] == [TensorProto.FLOAT16] * 4
    assert stored.keys() == {*given, "other_bias"}


KINDS = {"Conv": 1, "Relu": 1, "Sigmoid": 1, "MaxPool": 1, "Neg": 1, "Add": 2, "Mul": 2, "Sub": 2}


@given(
    st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=12)
)
@settings(max_examples=60, deadline=None)
def test_any_graph_keeps_its_meaning(nodes: list[tuple[str, int, int]]) -> None:
    """Nodes over earlier tensors, whatever is in float16; outputs are what nobody reads, and every third tensor."""
    random = np.random.default_rng(len(nodes))
    tensors, made, weights = ["image"], [], []
    for number, (kind, *chosen) in enumerate(nodes):
        inputs = [tensors[place % len(tensors)] for place in chosen[: KINDS[kind]]]
        more: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1] * 4} if kind in {"Conv", "MaxPool"} else {}
        if kind == "Conv":
            weights.append(numpy_helper.from_array(random.normal(0, 0.15, (8, 8, 3, 3)).astype("f"), f"w{number}"))
            inputs.append(weights[-1].name)
        made.append(make_node(kind, inputs, [f"t{number}"], name=f"n{number}", **more))
        tensors.append(f"t{number}")
    read = {name for node in made for name in node.input}
    outputs = [
        make_tensor_value_info(one, 1, [1, 8, 9, 7]) for one in tensors[1:] if one not in read or one[-1] in "0369"
    ]
    image = make_tensor_value_info("image", 1, [1, 8, 9, 7])
    model = make_model(make_graph(made, "g", [image], outputs, weights), opset_imports=[make_opsetid("", 18)])
    with TemporaryDirectory() as folder:
        whole, half = Path(folder) / "whole.onnx", Path(folder) / "half.onnx"
        onnx.save(model, whole)
        write_float16(whole, half)
        batch = random.random((1, 8, 9, 7), "f")
        wanted, found = (InferenceSession(path).run(None, {"image": batch}) for path in (whole, half))
    for one, other in zip(wanted, found, strict=True):
        assert other.dtype == np.float32
        np.testing.assert_allclose(other, one, rtol=0.02, atol=0.02 * max(1.0, float(np.abs(one).max())))
