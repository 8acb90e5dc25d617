"""Flow networks cut at their cost volumes give what the whole graph gives, or are run as a whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from material import CLASSES, TinyNetworks, crawl
from onnx import ModelProto
from torch import Tensor

from f2f.engine.errors import NetworkError, VideoError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.cost_volumes import find_cost_volumes
from f2f.engine.runtimes.network import Network
from f2f.engine.runtimes.onnx_runtime import OnnxNetwork
from f2f.engine.runtimes.onnx_sections import OnnxSections, open_on_onnxruntime
from f2f.engine.runtimes.open import bundled
from f2f.engine.runtimes.openvino_runtime import open_openvino
from f2f.engine.runtimes.sections import Section, sections_of
from f2f.engine.runtimes.trial import mean_difference, relative_difference, trial_input
from f2f.kernels import native
from f2f.training.card import NetworkCard
from f2f.training.clips import clips_of
from f2f.training.export import export_network
from f2f.training.float16 import write_float16
from f2f.training.int8 import write_int8
from f2f.training.options import PrecisionOptions
from f2f.training.pwcnet import FlowNetwork, PWCNet

OPTIONS = RuntimeOptions(threads=2)
SHAPES = [(1, 2, 3, 64, 64), (2, 3, 3, 70, 129), (1, 5, 3, 199, 161), (3, 2, 3, 40, 65), (1, 2, 3, 1, 1)]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow network as the released ones are: dense, four pixels of reach, frames resized; its flow is not small."""
    torch.manual_seed(0)
    network = PWCNet(0.1)
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if name.startswith("predict_flow") and name.endswith("weight"):
                weights.normal_(0, 0.05)
    path = tmp_path_factory.mktemp("released") / "flow.onnx"
    return export_network(FlowNetwork(network, standardised=False, padded=False), NetworkCard("flow"), path)


@pytest.fixture(params=["bundled", "released"])
def flow_file(request: pytest.FixtureRequest, released: Path) -> Path:
    return bundled("flow") if request.param == "bundled" else released


def whole(path: Path) -> OnnxNetwork:
    return OnnxNetwork(path, "flow", OPTIONS)


def graph_of(section: Section) -> ModelProto:
    assert isinstance(section.model, bytes)
    return onnx.load_from_string(section.model)


@pytest.mark.parametrize("open_network", [open_on_onnxruntime, open_openvino])
def test_sections_give_what_the_whole_graph_gives(flow_file: Path, open_network: Callable[..., Network]) -> None:
    plain, cut = whole(flow_file), open_network(flow_file, "flow", OPTIONS)
    assert cut.info.runtime.endswith(", C++ cost volumes, CPU")
    assert (cut.info.fingerprint, cut.info.training) == (plain.info.fingerprint, plain.info.training)
    for shape in SHAPES:
        (expected,), (found,) = plain(trial_input(shape)), cut(trial_input(shape))
        assert expected.abs().max() > (1 if shape[-1] > 1 else 0), "the flow leads somewhere"
        assert relative_difference(expected, found) < 1e-4, shape


def test_what_is_found_and_cut(flow_file: Path) -> None:
    model = onnx.load(flow_file)
    volumes = find_cost_volumes(model)
    assert [bool(one.flow_xy_px) for one in volumes] == [False, True, True, True, True], "levels 6 to 2"
    assert {one.max_displacement for one in volumes} == {3 if flow_file == bundled("flow") else 4}
    cut = sections_of(model)
    assert [section.volumes for section in cut] == [*((one,) for one in volumes), ()]
    assert cut[-1].outputs == ("flow",)
    graphs = [graph_of(section) for section in cut]
    remaining = [node.op_type for one in graphs for node in one.graph.node]
    assert "MatMul" not in remaining
    assert "GridSample" not in remaining
    assert remaining.count("Conv") == [node.op_type for node in model.graph.node].count("Conv"), "each runs once"
    for one in graphs:
        onnx.checker.check_model(one, full_check=True)


def test_outputs_are_the_callers() -> None:
    """A call does not change what an earlier one gave, though OpenVINO writes to the same memory again."""
    network = open_openvino(bundled("flow"), "flow", OPTIONS)
    (first,) = network(trial_input((1, 2, 3, 64, 64)))
    kept = first.clone()
    network(trial_input((1, 2, 3, 64, 64)).flip(1))
    assert torch.equal(first, kept)


@pytest.mark.parametrize("open_network", [open_on_onnxruntime, open_openvino])
def test_threads_do_not_meet(open_network: Callable[..., Network]) -> None:
    network = open_network(bundled("flow"), "flow", OPTIONS)
    batches = [trial_input((1, 2, 3, 64 + 16 * number, 80)) for number in range(4)]
    expected = [network(batch)[0] for batch in batches]
    found: dict[int, list[Tensor]] = {}

    def work(number: int) -> None:
        found[number] = [network(batches[number])[0] for _ in range(5)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, wanted in enumerate(expected):
        assert len(found[number]) == 5
        assert all(torch.equal(wanted, one) for one in found[number])


@pytest.mark.parametrize("open_network", [open_on_onnxruntime, open_openvino])
def test_a_refused_input_is_its_videos_failure(open_network: Callable[..., Network]) -> None:
    network = open_network(bundled("flow"), "flow", OPTIONS)
    with pytest.raises(VideoError, match="the flow network refused a 1x2x4x64x64 input"):
        network(torch.zeros(1, 2, 4, 64, 64))


# ---- less than float32


def test_in_8_bits(tmp_path: Path) -> None:
    source = crawl(tmp_path / "videos", *(f"{query}/{number}.mp4" for query in CLASSES for number in range(2)))
    options = PrecisionOptions(int8=True, calibrate=str(source), calibrate_clips=4, calibrate_max_side=96)
    write_int8(bundled("flow"), "flow", clips_of(options), tmp_path / "flow.onnx")
    network, batch = open_on_onnxruntime(tmp_path / "flow.onnx", "flow", OPTIONS), trial_input((1, 3, 3, 192, 256))
    assert isinstance(network, OnnxSections)
    (expected,), (found,) = whole(tmp_path / "flow.onnx")(batch), network(batch)
    assert mean_difference(expected, found) < 1e-3


def test_float16_runs_as_a_whole(tmp_path: Path) -> None:
    write_float16(bundled("flow"), tmp_path / "flow.onnx")
    assert sections_of(onnx.load(tmp_path / "flow.onnx")) == ()
    assert not isinstance(open_on_onnxruntime(tmp_path / "flow.onnx", "flow", OPTIONS), OnnxSections)


# ---- what is not cut


def test_networks_without_cost_volumes(networks: TinyNetworks) -> None:
    assert sections_of(onnx.load(networks.flow)) == ()
    assert type(open_on_onnxruntime(networks.flow, "flow", OPTIONS)) is OnnxNetwork
    assert type(open_on_onnxruntime(networks.classifier, "classifier", OPTIONS)) is OnnxNetwork


def test_without_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("F2F_KERNELS", "torch")
    assert sections_of(onnx.load(bundled("flow"))) == ()


def test_other_numbers_are_not_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    right = native.warp_cost_volume
    monkeypatch.setattr(native, "warp_cost_volume", lambda *given, **more: right(*given, **more) * 1.2)
    with caplog.at_level("INFO", "f2f.engine.runtimes"):
        network = open_on_onnxruntime(bundled("flow"), "flow", OPTIONS)
    assert type(network) is OnnxNetwork
    assert "demo_flow.onnx is run as a whole: onnxruntime" in caplog.text
    assert "C++ cost volumes, CPU gives another flow than ONNX Runtime on the CPU" in caplog.text


def test_a_section_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*_: object) -> None:
        raise NetworkError("a section of the flow network cannot be opened")

    monkeypatch.setattr("f2f.engine.runtimes.onnx_sections.open_session", refuse)
    with caplog.at_level("INFO", "f2f.engine.runtimes"):
        assert type(open_on_onnxruntime(bundled("flow"), "flow", OPTIONS)) is OnnxNetwork
    assert "is run as a whole: a section of the flow network cannot be opened" in caplog.text


def test_a_graph_within_a_node_is_not_cut() -> None:
    """It may read any tensor of the whole."""
    model = onnx.load(bundled("flow"))
    inner = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["frames"], ["inner"])], "inner", [], [])
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("body", inner))
    assert find_cost_volumes(model)
    assert sections_of(model) == ()


@settings(max_examples=25)
@given(data=st.data())
def test_a_cost_volume_that_is_another_is_not_found(data: st.DataObject) -> None:
    """Whichever node of it is another one: a volume is then found at another place, without its warp, or not."""
    model = onnx.load(bundled("flow"))
    volumes = find_cost_volumes(model)
    changed = data.draw(st.sampled_from(_between(model, volumes[-1].volume)))
    next(node for node in model.graph.node if node.output[0] == changed).op_type = "Neg"
    assert volumes[-1] not in find_cost_volumes(model)
    assert find_cost_volumes(model)[:4] == volumes[:4]


def _between(model: ModelProto, volume: str) -> list[str]:
    """The tensors from a volume up to what it is made of, by first inputs; of the product, by both."""
    sources = {output: node for node in model.graph.node for output in node.output}
    (found,) = (one for one in find_cost_volumes(model) if one.volume == volume)
    tensors, to_see = [], [volume]
    while to_see:
        tensor = to_see.pop()
        if tensor in found.inputs:
            continue
        node = sources[tensor]
        if node.op_type != "Cast":
            tensors.append(tensor)
        both = node.op_type in {"MatMul", "GridSample"}
        to_see += node.input[: 2 if both else 1]
    return tensors


def test_info_survives() -> None:
    network = open_on_onnxruntime(bundled("flow"), "flow", OPTIONS)
    plain = whole(bundled("flow")).info
    assert replace(network.info, runtime=plain.runtime) == plain
