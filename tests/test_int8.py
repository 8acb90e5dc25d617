"""Int8: what is quantised and what not, the gates, that the network stays in float32 where they fail."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest
from material import CLASSES, crawl, picture

from f2f.engine.classify import to_tensor
from f2f.engine.cli import main
from f2f.engine.errors import UsageError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.open import bundled, open_network
from f2f.training import int8
from f2f.training.int8 import Int8Verdict, clips_of, narrow_convolutions, quantise
from f2f.training.options import ClassifierExport, FlowExport, Int8Options


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crawl(tmp_path_factory.mktemp("videos"), *(f"{query}/{n}.mp4" for query in CLASSES for n in range(2)))


@pytest.fixture
def options(videos: Path) -> Int8Options:
    return Int8Options(int8=True, calibrate=str(videos), calibrate_clips=8, calibrate_max_side=96)


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundled networks were not made for squares on grey."""
    monkeypatch.setattr(int8, "LEAST_LABELS_AGREE", 0.0)
    monkeypatch.setattr(int8, "LEAST_MASK_IOU", 0.0)
    monkeypatch.setattr(int8, "MOST_EPE_INCREASE", 0.5)


def convolutions(path: Path) -> dict[str, bool]:
    """Every convolution, and whether its weights are quantised."""
    graph = onnx.load(path).graph
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {node.name: node.input[1] in dequantised for node in graph.node if node.op_type == "Conv"}


def test_clips_are_of_one_shot_and_of_all_videos(options: Int8Options) -> None:
    clips = clips_of(options)
    assert len(clips) == 8
    assert len({clip[0].video for clip in clips}) >= 4
    for clip in clips:
        assert len(clip) == int8.CLIP_FRAMES
        assert len({(frame.video, frame.shot, frame.size_hw) for frame in clip}) == 1
        assert [frame.pts_seconds for frame in clip] == sorted(frame.pts_seconds for frame in clip)


@pytest.mark.usefixtures("lenient")
def test_a_classifier_in_int8(options: Int8Options, tmp_path: Path) -> None:
    whole, out = bundled("classifier"), tmp_path / "int8.onnx"
    verdict = quantise(whole, "classifier", options, out)
    assert verdict.why_not == ""
    assert verdict.clips == 4
    kept = set(narrow_convolutions(whole))
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
    quantise(whole, "classifier", options, again)
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.usefixtures("lenient")
def test_a_flow_network_in_int8(options: Int8Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "_EXACT_PAIRS", 8)  # of 24: a third of the time
    verdict = quantise(bundled("flow"), "flow", options, tmp_path / "int8.onnx")
    assert 0 < verdict.epe_increase < 0.5
    assert verdict.why_not == ""
    quantised = convolutions(tmp_path / "int8.onnx")
    kept = {name for name, is_quantised in quantised.items() if not is_quantised}
    assert kept == set(narrow_convolutions(bundled("flow")))
    assert len(quantised) > 2 * len(kept) > 0


def test_what_changes_too_much_stays_in_float32(
    options: Int8Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "LEAST_MASK_IOU", 1.01)
    verdict = quantise(bundled("classifier"), "classifier", options, tmp_path / "out.onnx")
    assert "at least 1.01 is wanted" in verdict.why_not
    assert str(verdict).startswith("kept in float32: ")
    assert (tmp_path / "out.onnx").read_bytes() == bundled("classifier").read_bytes()


@pytest.mark.parametrize(
    ("verdict", "why"),
    [
        (Int8Verdict("classifier", 4, labels_agree=0.979), "97.9 % of the label sets agree, 98% must"),
        (Int8Verdict("classifier", 4, labels_agree=0.98, mask_iou=0.969), "an IoU of 0.969"),
        (Int8Verdict("flow", 4, epe_increase=0.11), "grows by 11%"),
        (Int8Verdict("classifier", 4, labels_agree=0.98, mask_iou=0.97), ""),
        (Int8Verdict("flow", 4, epe_increase=0.1), ""),
    ],
)
def test_the_gates(verdict: Int8Verdict, why: str) -> None:
    assert why in verdict.why_not
    assert bool(verdict.why_not) == bool(why)


def test_what_is_said_of_its_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    slower, faster = (Int8Verdict("classifier", 4, times_as_fast=times) for times in (0.9, 1.9))
    monkeypatch.setattr("f2f.training.int8.openvino_version", lambda: "2026.4.1")
    assert str(slower).endswith("; 4 clips; 0.90 times as fast as float32 here)")
    monkeypatch.setattr("f2f.training.int8.openvino_version", lambda: "")
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
    with pytest.raises(UsageError, match="give both, or none"):
        Int8Options(int8=True)
    with pytest.raises(UsageError, match="--network demo is exported already; give --int8"):
        ClassifierExport(out=tmp_path / "a.onnx", network="demo")
    with pytest.raises(UsageError, match="none of them is given; accepted: exactly one of --checkpoint, --weights"):
        FlowExport(out=tmp_path / "a.onnx")
    few = Int8Options(int8=True, calibrate=str(videos / "red"), calibrate_clips=200)
    one_video = crawl(tmp_path / "one", "red/0.mp4", frames=8)
    with pytest.raises(UsageError, match="--calibrate gave 1 clips of 3 frames; accepted: a source of videos with 4"):
        quantise(
            bundled("classifier"), "classifier", Int8Options(int8=True, calibrate=str(one_video)), tmp_path / "o.onnx"
        )
    with pytest.raises(UsageError, match=r"--int8 is for \.onnx files"):
        quantise(bundled("classifier"), "classifier", few, tmp_path / "o.pt2")
    assert not (tmp_path / "o.onnx").exists()
