"""Export: the file keeps the contract, says what it is, agrees with torch, or is not written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from f2f.engine.errors import F2FError, UsageError
from f2f.training.card import NetworkCard
from f2f.training.checkpoint import save_network
from f2f.training.classifier import CamClassifier
from f2f.training.commands import export_classifier, export_flow
from f2f.training.export import check_onnx, export_network, relative_difference, trial_input
from f2f.training.options import ClassifierExport, FlowExport
from f2f.training.pwcnet import FlowNetwork, PWCNet


@pytest.fixture(scope="module")
def flow_network() -> FlowNetwork:
    torch.manual_seed(0)
    return FlowNetwork(PWCNet(0.05)).eval()


@pytest.fixture(scope="module")
def flow_file(flow_network: FlowNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    card = NetworkCard("flow", training={"steps": 0})
    return export_network(flow_network, card, tmp_path_factory.mktemp("flow") / "flow.onnx")


@pytest.fixture
def classifier() -> CamClassifier:
    return CamClassifier(["deer", "peacock"], width=0.25).eval()


def _props(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def _run(path: Path, value: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(output) for output in session.run(None, {session.get_inputs()[0].name: value.numpy()})]


@pytest.mark.parametrize("shape", [(1, 2, 3, 64, 64), (2, 2, 3, 70, 129), (1, 4, 3, 65, 40), (3, 3, 3, 128, 64)])
def test_flow_file_takes_any_batch_count_and_size(
    flow_file: Path, flow_network: FlowNetwork, shape: tuple[int, ...]
) -> None:
    frames = trial_input(shape)
    with torch.inference_mode():
        expected = flow_network(frames)
    (given,) = _run(flow_file, frames)
    assert relative_difference(expected, given) <= 1e-4


@pytest.mark.parametrize("padded", [True, False])
def test_flow_program_takes_any_batch_count_and_size(flow_network: FlowNetwork, padded: bool, tmp_path: Path) -> None:
    network = FlowNetwork(flow_network.network, padded=padded).eval()
    run = torch.export.load(export_network(network, NetworkCard("flow"), tmp_path / "flow.pt2")).module()
    for shape in [(1, 2, 3, 64, 64), (1, 5, 3, 120, 213), (2, 3, 3, 65, 128), (3, 2, 3, 1, 70)]:
        frames = trial_input(shape)
        with torch.inference_mode():
            expected, given = network(frames), run(frames)
        assert given.shape == (shape[0], shape[1] - 1, 2, *shape[3:])
        assert relative_difference(expected, given) <= 1e-4


def test_flow_file_is_opset_18_with_bilinear_gridsample_and_names_itself(flow_file: Path) -> None:
    model = onnx.load(flow_file)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    samplers = [node for node in model.graph.node if node.op_type == "GridSample"]
    assert len(samplers) == 4
    assert {attribute.s for node in samplers for attribute in node.attribute if attribute.name == "mode"} == {
        b"bilinear"
    }
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["frames", "flow"]
    props = _props(flow_file)
    assert props["f2f.kind"] == "flow"
    assert props["f2f.size_multiple"] == "1"
    assert json.loads(props["f2f.training"]) == {"steps": 0}


def test_gridsample_of_another_spelling_is_refused() -> None:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 2, 2])
    grid = helper.make_tensor_value_info("g", TensorProto.FLOAT, [1, 2, 2, 2])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])
    node = helper.make_node("GridSample", ["x", "g"], ["y"], mode="nearest")
    graph = helper.make_graph([node], "g", [image, grid], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    with pytest.raises(F2FError, match="accepted: bilinear"):
        check_onnx(model)
    with pytest.raises(F2FError, match="operator sets"):
        check_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))


def test_classifier_checkpoint_becomes_onnx(classifier: CamClassifier, tmp_path: Path) -> None:
    checkpoint, out = tmp_path / "network.pt", tmp_path / "new" / "classifier.onnx"
    facts = {"classes": ["deer", "peacock"], "width": 0.25, "training": {"seed": 3}}
    save_network(checkpoint, "classifier", classifier, **facts)
    assert export_classifier(ClassifierExport(checkpoint=checkpoint, out=out, theta_f=0.3)) == 0
    props = _props(out)
    assert json.loads(props["f2f.classes"]) == ["deer", "peacock"]
    assert json.loads(props["f2f.defaults"]) == {"tau": 0.9, "theta_f": 0.3}
    image = trial_input((3, 3, 77, 50))
    scores, cam = _run(out, image)
    with torch.inference_mode():
        wanted_scores, wanted_cam = classifier(image)
    torch.testing.assert_close(scores, wanted_scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cam, wanted_cam, rtol=1e-4, atol=1e-4)


def test_classifier_becomes_pt2_with_its_metadata(classifier: CamClassifier, tmp_path: Path) -> None:
    out = export_network(classifier, NetworkCard("classifier", ("deer", "peacock")), tmp_path / "classifier.pt2")
    extra = {"f2f.json": ""}
    program = torch.export.load(out, extra_files=extra)
    assert json.loads(extra["f2f.json"])["f2f.kind"] == "classifier"
    image = trial_input((1, 3, 90, 41))
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(image), classifier(image))


def test_torchvision_network_is_exported_by_one_command(real: Path, tmp_path: Path) -> None:
    out = tmp_path / "squeezenet.onnx"
    options = ClassifierExport(
        torchvision="squeezenet1_0",
        weights=real / "squeezenet1_0_imagenet.safetensors",
        classes=str(real / "classes.json"),
        out=out,
    )
    assert export_classifier(options) == 0
    props = _props(out)
    assert json.loads(props["f2f.classes"]) == list(json.loads((real / "classes.json").read_text()))
    assert set(json.loads(props["f2f.defaults"])) == {"tau", "theta_f"}
    assert "weights_sha256" in json.loads(props["f2f.training"])
    assert str(tmp_path) not in json.dumps(props)


class _Wandering(nn.Module):
    """Gives other numbers on every call in torch; a traced copy keeps the first ones."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, frames: Tensor) -> Tensor:
        self.calls += 1
        return frames[:, 1:, :2] * self.calls


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_file_that_differs_from_torch_is_not_written(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(F2FError, match="differs from torch: flow"):
        export_network(_Wandering(), NetworkCard("flow"), tmp_path / f"flow{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "flow.onnx"
    out.write_text("old")
    with pytest.raises(F2FError):
        export_network(_Wandering(), NetworkCard("flow"), out)
    assert out.read_text() == "old"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: ClassifierExport(out=folder / "a.onnx"), "exactly one"),
        (lambda folder: ClassifierExport(out=folder / "a.onnx", torchvision="a", checkpoint=folder), "exactly one"),
        (lambda folder: ClassifierExport(out=folder / "a.onnx", torchvision="a", tau=1.5), "tau is 1.5"),
    ],
)
def test_wrong_export_options_are_refused(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        make(tmp_path)


def test_unknown_suffix_is_refused(classifier: CamClassifier, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'\.engine'; accepted: \.onnx, \.pt2"):
        export_network(classifier, NetworkCard("classifier"), tmp_path / "a.engine")


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "does not exist"), (b"x", "cannot be read"), ({}, "no network")]
)
def test_unusable_checkpoint_is_refused(tmp_path: Path, content: object, reason: str) -> None:
    checkpoint = tmp_path / "network.pt"
    if isinstance(content, bytes):
        checkpoint.write_bytes(content)
    elif content is not None:
        torch.save(content, checkpoint)
    with pytest.raises(UsageError, match=reason):
        export_flow(FlowExport(checkpoint=checkpoint, out=tmp_path / "flow.onnx"))


def test_checkpoint_of_another_kind_is_refused(classifier: CamClassifier, tmp_path: Path) -> None:
    save_network(tmp_path / "network.pt", "classifier", classifier)
    with pytest.raises(UsageError, match="holds classifier; give the network"):
        export_flow(FlowExport(checkpoint=tmp_path / "network.pt", out=tmp_path / "flow.onnx"))
