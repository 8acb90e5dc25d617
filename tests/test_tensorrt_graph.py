"""Which graphs are for TensorRT: every one that we export is, and what it cannot run, or runs wrong, is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torchvision import models

from f2f.engine.errors import NetworkError
from f2f.engine.runtimes.onnx_graph import is_reduced, read_graph
from f2f.engine.runtimes.open import bundled
from f2f.engine.runtimes.tensorrt_graph import OPERATORS, check_graph, graph_problems
from f2f.training.card import NetworkCard
from f2f.training.checkpoint import without_chance
from f2f.training.classifier import CamClassifier
from f2f.training.export import export_classifier, export_network
from f2f.training.options import ClassifierExport
from f2f.training.pwcnet import FlowNetwork, PWCNet
from f2f.training.saliency.export import export_saliency
from f2f.training.saliency.files import save_saliency
from f2f.training.saliency.network import SaliencyNetwork
from f2f.training.saliency.options import SaliencyExport
from f2f.training.segmentation.deeplab import FullSize, HalfFullSize, segmenter
from f2f.training.segmentation.ficklenet import FickleNet

VERSION = (11, 4, 0, 106)
CLASSES = ("deer", "peacock")


def checked(path: Path) -> ModelProto:
    model = read_graph(path.read_bytes(), path)
    check_graph(model, path, VERSION)
    return model


# ---- ours


@pytest.mark.parametrize("kind", ["classifier", "flow"])
def test_bundled_networks_are_for_tensorrt(kind: str) -> None:
    assert not is_reduced(checked(bundled(kind)))


def _classifier(name: str, out: Path) -> Path:
    return export_network(CamClassifier(CLASSES, 0.1, backbone_name=name), NetworkCard("classifier", CLASSES), out)


def _fickle(out: Path) -> Path:
    network = without_chance(FickleNet(CLASSES, "small", 0.25, 3, 0.5).eval())
    return export_network(network, NetworkCard("classifier", CLASSES), out)


def _torchvision(name: str, out: Path) -> Path:
    torch.manual_seed(0)
    weights = out.with_suffix(".safetensors")
    save_file(getattr(models, name)(weights=None).state_dict(), weights)
    return export_classifier(ClassifierExport(torchvision=name, weights=weights, out=out))


def _flow(out: Path) -> Path:
    torch.manual_seed(0)
    return export_network(FlowNetwork(PWCNet(0.05, reach=2), padded=False), NetworkCard("flow"), out)


def _saliency(out: Path, side_px: int | None) -> Path:
    torch.manual_seed(5)
    network = SaliencyNetwork(0.125, "small")
    for layer in network.scores()[0]:
        torch.nn.init.normal_(layer.get_parameter("weight"), std=1.0)
    save_saliency(out.with_suffix(".pt"), network, 64, {})
    return export_saliency(SaliencyExport(checkpoint=out.with_suffix(".pt"), out=out, side_px=side_px))


def _released(out: Path) -> Path:
    nodes = [helper.make_node("Conv", ["i", "w"], ["s"]), helper.make_node("Sigmoid", ["s"], ["d0"])]
    weight = numpy_helper.from_array(np.array([0.7, -0.4, 0.2], np.float32).reshape(1, 3, 1, 1), "w")
    graph = helper.make_graph(nodes, "u2net", [_value("i", [1, 3, 48, 64])], [_value("d0", [1, 1, 48, 64])], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.save(model, out.with_suffix(".released.onnx"))
    return export_saliency(SaliencyExport(onnx=out.with_suffix(".released.onnx"), out=out))


def _segmenter(out: Path, name: str) -> Path:
    return export_network(FullSize(segmenter(name, CLASSES, 0.1).eval()), NetworkCard("segmenter", CLASSES), out)


OURS: dict[str, Callable[[Path], Path]] = {
    "classifier": lambda out: _classifier("small", out),
    "classifier-vgg16": lambda out: _classifier("vgg16", out),
    "classifier-ficklenet": _fickle,
    "squeezenet": lambda out: _torchvision("squeezenet1_0", out),
    "flow-dense-resized": _flow,
    "saliency": lambda out: _saliency(out, None),
    "saliency-any-size": lambda out: _saliency(out, 0),
    "saliency-released": _released,
    "segmenter": lambda out: _segmenter(out, "small"),
    "segmenter-vgg16": lambda out: _segmenter(out, "vgg16-largefov"),
    "segmenter-resnet50": lambda out: _segmenter(out, "resnet50-aspp"),
}


@pytest.mark.parametrize("name", OURS)
def test_what_we_export_is_for_tensorrt(name: str, tmp_path: Path) -> None:
    assert not is_reduced(checked(OURS[name](tmp_path / "network.onnx")))


def test_a_segmenter_in_float16_is_for_tensorrt(tmp_path: Path) -> None:
    whole = FullSize(segmenter("small", CLASSES, 0.25).eval())
    card = NetworkCard("segmenter", CLASSES)
    assert is_reduced(checked(export_network(HalfFullSize(whole), card, tmp_path / "half.onnx", whole)))


# ---- others


def _value(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def graph_of(
    *nodes: onnx.NodeProto,
    opset: int = 18,
    shape: Sequence[int | str] = (1, 3, 8, 8),
    constants: Sequence[TensorProto] = (),
    domains: Sequence[str] = (),
) -> ModelProto:
    """x -> y, not checked."""
    graph = helper.make_graph(
        list(nodes), "g", [_value("x", shape)], [_value("y", ["a"] * len(shape))], list(constants)
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets)


def grid(rank: int = 4) -> TensorProto:
    return numpy_helper.from_array(np.zeros((1, *[8] * (rank - 2), rank - 2), np.float32), "grid")


def sampling(opset: int, mode: str | None, *, half_around: bool = False, half_within: bool = False) -> ModelProto:
    """GridSample of x, in float32 or float16; with convolutions in float16 around it or not."""
    attributes = {"mode": mode} if mode else {}
    casts = TensorProto.FLOAT16, TensorProto.FLOAT
    nodes = [helper.make_node("Identity", ["x"], ["a"])]
    if half_around:
        nodes = [helper.make_node("Cast", ["x"], ["h"], to=casts[0]), helper.make_node("Relu", ["h"], ["r"])]
        nodes.append(helper.make_node("Cast", ["r"], ["a"], to=casts[not half_within]))
    nodes.append(helper.make_node("GridSample", ["a", "grid"], ["s"], name="warp", **attributes))
    nodes.append(helper.make_node("Cast", ["s"], ["y"], to=casts[1]))
    return graph_of(*nodes, opset=opset, constants=[grid()])


@pytest.mark.parametrize(
    ("opset", "mode", "accepted"),
    [
        (16, "bilinear", True),
        (18, None, True),
        (18, "nearest", True),
        (20, "linear", False),
        (20, None, False),
        (22, "cubic", False),
        (20, "nearest", True),
    ],
)
def test_sampling_that_is_read_as_nearest(opset: int, mode: str | None, accepted: bool) -> None:
    problems = list(graph_problems(sampling(opset, mode), VERSION))
    assert accepted == (problems == [])
    if not accepted:
        assert f"of opset {opset} is read as nearest neighbour (accepted: bilinear of opset 18)" in problems[0]


def test_sampling_in_float32_within_float16() -> None:
    mixed = sampling(18, "bilinear", half_around=True)
    (problem,) = graph_problems(mixed, VERSION)
    assert problem.startswith("GridSample warp: it samples in float32 within a network in float16, and gives wrong")
    assert list(graph_problems(mixed, (10, 14, 1))) != []
    assert list(graph_problems(mixed, (10, 13, 3, 9))) == []  # which had no such error
    assert list(graph_problems(sampling(18, "bilinear", half_around=True, half_within=True), VERSION)) == []
    assert list(graph_problems(sampling(18, "bilinear"), VERSION)) == []


@pytest.mark.parametrize(("integer", "accepted"), [(np.int8, True), (np.uint8, False)])
def test_unsigned_8_bits_are_for_cpus(integer: type[np.integer[Any]], accepted: bool) -> None:
    constants = [numpy_helper.from_array(np.array(0.1, np.float32), "scale")]
    constants.append(numpy_helper.from_array(np.array(0, integer), "zero"))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    problems = list(graph_problems(graph_of(*nodes, constants=constants), VERSION))
    assert len(problems) == (0 if accepted else 2)
    assert all("rounds to unsigned 8 bits, as --int8 does for CPUs" in problem for problem in problems)


def test_a_sampling_in_a_branch_is_found() -> None:
    inner = helper.make_node("GridSample", ["x", "grid"], ["z"], mode="linear")
    branch = helper.make_graph([inner], "branch", [], [_value("z", ["a", "b", "c", "d"])])
    truth = numpy_helper.from_array(np.array(True), "truth")
    node = helper.make_node("If", ["truth"], ["y"], then_branch=branch, else_branch=branch)
    problems = list(graph_problems(graph_of(node, opset=20, constants=[grid(), truth]), VERSION))
    assert "read as nearest" in problems[0]


def resize(**attributes: Any) -> ModelProto:
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    return graph_of(helper.make_node("Resize", ["x", "", "scales"], ["y"], **attributes), constants=[scales])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (graph_of(helper.make_node("BitwiseNot", ["x"], ["y"])), "BitwiseNot: TensorRT has no such operator"),
        (graph_of(helper.make_node("Unique", ["x"], ["y"], name="u")), "Unique u: TensorRT has no such operator"),
        (
            graph_of(helper.make_node("Warp", ["x"], ["y"], domain="mine"), domains=["mine"]),
            r"Warp: it is of the domain mine \(accepted: standard operators\)",
        ),
        (graph_of(helper.make_node("Relu", ["x"], ["y"]), opset=8), r"its opset is 8 \(accepted: 9 to 24\)"),
        (graph_of(helper.make_node("Relu", ["x"], ["y"]), opset=25), "its opset is 25"),
        (resize(mode="cubic"), r"Resize: the mode is cubic \(accepted: nearest, linear\)"),
        (resize(mode="linear", antialias=1), "Resize: it smooths"),
        (resize(keep_aspect_ratio_policy="not_larger"), "the policy is not_larger"),
        (
            graph_of(helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], dilations=[2, 2])),
            "MaxPool: it is dilated",
        ),
        (graph_of(helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[3, 3])), "its indices are asked for"),
        (
            graph_of(helper.make_node("ScatterND", ["x", "i", "u"], ["y"], reduction="add")),
            r"ScatterND: the reduction is add \(accepted: none\)",
        ),
        (
            graph_of(helper.make_node("Shape", ["x"], ["s"]), helper.make_node("ReduceMean", ["x", "s"], ["y"])),
            r"ReduceMean: axes from the input \(accepted: constant\)",
        ),
        (
            graph_of(helper.make_node("GridSample", ["x", "grid"], ["y"]), shape=(1, 1, 8, 8, 8), constants=[grid(5)]),
            r"GridSample: it samples volumes \(accepted: images, rank 4\)",
        ),
    ],
)
def test_what_is_refused(model: ModelProto, words: str) -> None:
    with pytest.raises(NetworkError, match=words) as refused:
        check_graph(model, Path("net.onnx"), VERSION)
    assert str(refused.value).startswith("net.onnx is not for TensorRT 11.4.0: ")
    assert str(refused.value).endswith("or run it by --runtime onnxruntime")


def test_weights_outside_of_the_file_are_refused() -> None:
    """The engine is kept by the file's digest, which must be that of its weights too."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="weights.bin")
    model = graph_of(helper.make_node("Mul", ["x", "w"], ["y"]), constants=[weight])
    assert list(graph_problems(model, VERSION)) == [
        "weights such as w lie outside of the file (accepted: all in one file)"
    ]


def test_every_problem_is_told_once() -> None:
    nodes = [helper.make_node("Unique", ["x"], [f"y{number}"]) for number in range(20)]
    with pytest.raises(NetworkError) as refused:
        check_graph(graph_of(*nodes, helper.make_node("Det", ["x"], ["y"])), Path("n.onnx"), VERSION)
    assert str(refused.value).count("Unique") == 1
    assert "Det: TensorRT has no such operator" in str(refused.value)


def test_operators_are_those_of_the_standard() -> None:
    """A word misspelt in the list would refuse a good graph."""
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert OPERATORS - known <= {"Scan"}
    assert {"BitShift", "BitwiseAnd", "BitwiseOr", "QLinearConv", "DynamicQuantizeLinear"}.isdisjoint(OPERATORS)


@pytest.mark.parametrize("content", [b"", b"nothing of the kind"])
def test_what_is_no_graph_is_refused(content: bytes) -> None:
    with pytest.raises(NetworkError, match=r"x\.onnx cannot be opened as ONNX"):
        read_graph(content, Path("x.onnx"))
