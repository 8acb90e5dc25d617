"""OpenVINO gives what ONNX Runtime gives, or is not used; `--runtime auto` takes it where it is quicker."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import onnx
import pytest
import torch
from material import CLASSES, TinyNetworks, crawl, flags, records
from onnxruntime import InferenceSession
from torch import Tensor

from f2f.engine.cli import main
from f2f.engine.errors import NetworkError, UsageError, VideoError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes import cpu_choice
from f2f.engine.runtimes.cpu_choice import open_on_cpu
from f2f.engine.runtimes.network import Kind, Network
from f2f.engine.runtimes.onnx_runtime import OnnxNetwork
from f2f.engine.runtimes.open import bundled
from f2f.engine.runtimes.openvino_runtime import OpenVinoNetwork, open_openvino, round_late
from f2f.engine.runtimes.report import runtime_report
from f2f.engine.runtimes.trial import mean_difference, relative_difference, trial_input
from f2f.training.clips import clips_of
from f2f.training.int8 import write_int8
from f2f.training.options import PrecisionOptions

ONE = RuntimeOptions(threads=1)


@pytest.mark.parametrize(
    ("kind", "shape"), [("classifier", (2, 3, 97, 131)), ("classifier", (1, 3, 64, 64)), ("flow", (2, 3, 3, 65, 99))]
)
def test_it_gives_what_onnx_runtime_gives(kind: Kind, shape: tuple[int, ...]) -> None:
    batch = trial_input(shape)
    expected = OnnxNetwork(bundled(kind), kind, ONE)(batch)
    network = open_openvino(bundled(kind), kind, ONE)
    for wanted, given in zip(expected, network(batch), strict=True):
        assert relative_difference(wanted, given) < 1e-4
    assert network.info.runtime.startswith("openvino 20")


def test_what_the_file_says_of_itself(networks: TinyNetworks) -> None:
    plain, other = (
        OnnxNetwork(networks.classifier, "classifier", ONE),
        open_openvino(networks.classifier, "classifier", ONE),
    )
    assert other.info.classes == CLASSES
    assert (other.info.defaults, other.info.fingerprint) == (plain.info.defaults, plain.info.fingerprint)


def test_an_input_that_it_refuses_is_its_videos_failure() -> None:
    network = OpenVinoNetwork(bundled("classifier"), "classifier", ONE)
    with pytest.raises(VideoError, match="the classifier network refused a 1x4x64x64 input"):
        network(torch.zeros(1, 4, 64, 64))


def test_files_that_are_no_networks(tmp_path: Path, networks: TinyNetworks) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    with pytest.raises(NetworkError, match=r"broken\.onnx cannot be opened as ONNX"):
        open_openvino(tmp_path / "broken.onnx", "classifier", ONE)
    with pytest.raises(NetworkError, match="is a flow network; --classifier accepts a classifier network"):
        open_openvino(networks.flow, "classifier", ONE)


def test_where_it_is_not_installed(networks: TinyNetworks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match=r"OpenVINO is not installed; install f2f\[openvino\]"):
        open_openvino(networks.classifier, "classifier", ONE)


class Wrong:
    """OpenVINO with a fault."""

    def __init__(self, *given: object) -> None:
        self._right = OpenVinoNetwork(*given)  # type: ignore[arg-type]
        self.info = self._right.info

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        scores, cam = self._right(batch)
        return scores, cam + 0.01 * cam.abs().max()


def test_other_numbers_are_refused(networks: TinyNetworks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("f2f.engine.runtimes.openvino_runtime.OpenVinoNetwork", Wrong)
    with pytest.raises(NetworkError, match=r"gives another cam than ONNX Runtime .* it is not used"):
        open_openvino(networks.classifier, "classifier", ONE)


# ---- flow in 8 bits


@pytest.fixture(scope="module")
def coarse_flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled flow network in 8 bits."""
    folder = tmp_path_factory.mktemp("coarse")
    source = crawl(folder / "videos", *(f"{query}/{number}.mp4" for query in CLASSES for number in range(2)))
    options = PrecisionOptions(int8=True, calibrate=str(source), calibrate_clips=4, calibrate_max_side=96)
    write_int8(bundled("flow"), "flow", clips_of(options), folder / "flow.onnx")
    return folder / "flow.onnx"


def flow_of(model: onnx.ModelProto, batch: Tensor) -> Tensor:
    (flow,) = InferenceSession(model.SerializeToString()).run(None, {"frames": batch.numpy()})
    return torch.from_numpy(flow)


def test_what_is_rounded_behind_a_leaky_relu_is_not_rounded_before_it(coarse_flow: Path) -> None:
    twice, once = onnx.load(coarse_flow), onnx.load(coarse_flow)
    assert round_late(once)
    source = {output: node.op_type for node in once.graph.node for output in node.output}
    leaky = [node for node in once.graph.node if node.op_type == "LeakyRelu"]
    assert len(leaky) > 40
    assert not [node.name for node in leaky if source[node.input[0]] == "DequantizeLinear"]
    inputs = [[node.input[0] for node in model.graph.node if node.op_type == "Conv"] for model in (twice, once)]
    assert inputs[0] == inputs[1], "convolutions see 8 bits as before"
    assert not round_late(once)
    assert not round_late(onnx.load(bundled("flow")))
    batch = trial_input((1, 3, 3, 192, 256))
    assert 0 < mean_difference(flow_of(onnx.load(bundled("flow")), batch), flow_of(once, batch)) < 0.1


def test_flow_in_8_bits(coarse_flow: Path) -> None:
    batch = trial_input((1, 3, 3, 97, 131))
    (exact,) = OnnxNetwork(bundled("flow"), "flow", ONE)(batch)
    (flow,) = open_openvino(coarse_flow, "flow", ONE)(batch)
    assert 0 < mean_difference(exact, flow) < 0.15


def test_flow_in_8_bits_that_is_another_flow_is_refused(coarse_flow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Longer(OpenVinoNetwork):
        def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
            return tuple(1.1 * flow for flow in super().__call__(batch))

    monkeypatch.setattr("f2f.engine.runtimes.openvino_runtime.OpenVinoNetwork", Longer)
    with pytest.raises(
        NetworkError, match=r"gives another flow than ONNX Runtime .* of its mean size; accepted: 3e-02"
    ):
        open_openvino(coarse_flow, "flow", ONE)


@pytest.mark.parametrize("shape", [(2, 3), (0, 3)])
def test_the_mean_of_a_difference(shape: tuple[int, int]) -> None:
    one = torch.full(shape, -2.0)
    assert mean_difference(one, one + 0.5) == (0.25 if one.numel() else 0.0)
    assert mean_difference(one, one[:, :2]) == float("inf")
    assert not mean_difference(one, one * float("nan")) <= 1 or not one.numel(), "no number is no small difference"


# ---- what auto takes on a CPU


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "f2f" / "runtimes"


def choice(network: Network) -> str:
    return network.info.runtime.partition(" ")[0]


@pytest.mark.parametrize(("gain", "wanted"), [(1.5, "openvino"), (1.15, "onnxruntime"), (0.7, "onnxruntime")])
def test_the_quicker_one_is_taken_and_stays_taken(
    gain: float, wanted: str, cache: Path, networks: TinyNetworks, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[float] = []

    def gain_of(*_: Network) -> float:
        measured.append(gain)
        return gain

    monkeypatch.setattr(cpu_choice, "_gain", gain_of)
    assert choice(open_on_cpu(networks.classifier, "classifier", ONE)) == wanted
    (kept,) = cache.glob("*.json")
    assert json.loads(kept.read_text()) == {"runtime": wanted, "gain": gain}
    assert choice(open_on_cpu(networks.classifier, "classifier", ONE)) == wanted
    assert measured == [gain], "once is enough"
    open_on_cpu(networks.flow, "flow", ONE)
    open_on_cpu(networks.classifier, "classifier", RuntimeOptions(threads=2))
    assert len(measured) == 3, "another network, other threads: another choice"


def test_the_gain_is_measured(cache: Path) -> None:
    assert choice(open_on_cpu(bundled("classifier"), "classifier", ONE)) in {"openvino", "onnxruntime"}
    (kept,) = cache.glob("*.json")
    assert json.loads(kept.read_text())["gain"] > 0


def test_a_choice_that_cannot_be_read_is_made_again(
    cache: Path, networks: TinyNetworks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_choice, "_gain", lambda *_: 2.0)
    open_on_cpu(networks.classifier, "classifier", ONE)
    (kept,) = cache.glob("*.json")
    for content in ("", "[]", '{"runtime": ["x"]}', '{"runtime": "abacus"}'):
        kept.write_text(content)
        assert choice(open_on_cpu(networks.classifier, "classifier", ONE)) == "openvino"


def test_one_that_disagrees_is_not_taken(
    cache: Path, networks: TinyNetworks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("f2f.engine.runtimes.openvino_runtime.OpenVinoNetwork", Wrong)
    monkeypatch.setattr(cpu_choice, "_gain", lambda *_: 2.0)
    with caplog.at_level(logging.INFO):
        assert choice(open_on_cpu(networks.classifier, "classifier", ONE)) == "onnxruntime"
    assert "gives another cam" in caplog.text


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, networks: TinyNetworks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(cpu_choice, "_gain", lambda *_: 2.0)
    with caplog.at_level(logging.INFO):
        assert choice(open_on_cpu(networks.classifier, "classifier", ONE)) == "openvino"
    assert "the choice of a runtime is not kept" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_doctor_tells_what_is_taken(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for gain, taker in ((2.0, "openvino"), (0.9, "onnxruntime-cpu")):
        monkeypatch.setattr(cpu_choice, "_gain", lambda *_, gain=gain: gain)
        for kept in cache.glob("*"):
            kept.unlink()
        assert [one.name for one in runtime_report() if one.chosen == ".onnx"] == [taker]
    assert main(["doctor"]) == 0
    assert "openvino" in capsys.readouterr().out


def test_label_by_openvino(tmp_path: Path, networks: TinyNetworks, monkeypatch: pytest.MonkeyPatch) -> None:
    source = crawl(tmp_path / "videos", "red/a.mp4", "green/b.mp4")
    for name in ("onnxruntime-cpu", "openvino"):
        assert main(["label", str(source), "--out", str(tmp_path / name), *flags(networks), "--runtime", name]) == 0
    plain, other = records(tmp_path / "onnxruntime-cpu"), records(tmp_path / "openvino")
    assert {key: record["masks"] for key, record in plain.items()} == {key: r["masks"] for key, r in other.items()}
    pinned = json.loads((tmp_path / "openvino" / "run.json").read_text())["networks"]
    assert pinned["classifier"]["runtime"].startswith("openvino")
