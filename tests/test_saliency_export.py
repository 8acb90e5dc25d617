"""Saliency networks by contract: our own, and released ones in the manner of U²-Net; the engine runs both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision.transforms.v2.functional as T
from material import TinyNetworks, crawl, flags, masks
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from torch import Tensor

from f2f.engine.background import open_saliency
from f2f.engine.cli import main
from f2f.engine.errors import UsageError
from f2f.engine.options import RuntimeOptions
from f2f.training.checkpoint import save_network
from f2f.training.export import trial_input
from f2f.training.saliency.export import export_saliency
from f2f.training.saliency.files import read_saliency, save_saliency
from f2f.training.saliency.network import SaliencyNetwork
from f2f.training.saliency.options import SaliencyExport, Style

MEAN, DEVIATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def properties(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def run(path: Path, image: Tensor) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    return found


# ---- our own


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose maps differ clearly from pixel to pixel, as those of a trained one do."""
    torch.manual_seed(5)
    network = SaliencyNetwork(0.125, "small")
    for layer in network.scores()[0]:
        torch.nn.init.normal_(layer.get_parameter("weight"), std=1.0)
    path = tmp_path_factory.mktemp("checkpoint") / "network.pt"
    save_saliency(path, network, 64, {"held_out": {"safe_theta_b": 0.21}})
    return path


def test_in_float16(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "saliency", "--checkpoint", str(checkpoint), "--out"]
    whole, half = tmp_path / "whole.onnx", tmp_path / "half.onnx"
    assert main([*words, str(whole)]) == 0
    assert main([*words, str(half), "--half"]) == 0
    assert "float16 (outputs differ by " in capsys.readouterr().out
    assert half.stat().st_size < 0.7 * whole.stat().st_size
    assert TensorProto.FLOAT16 in {one.data_type for one in onnx.load(half).graph.initializer}
    assert open_saliency(str(half), None, RuntimeOptions(threads=1)).theta_b == 0.21
    image = trial_input((2, 3, 75, 122))
    (wanted,), (found,) = run(whole, image), run(half, image)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted).max() < 0.02
    assert main([*words, str(tmp_path / "half.pt2"), "--half"]) == 2
    assert "--half is for .onnx files" in capsys.readouterr().err


@pytest.mark.parametrize(("suffix", "side_px"), [(".onnx", None), (".onnx", 0), (".pt2", None)])
def test_a_checkpoint_keeps_the_contract_at_any_size(
    checkpoint: Path, tmp_path: Path, suffix: str, side_px: int | None
) -> None:
    out = export_saliency(SaliencyExport(checkpoint=checkpoint, out=tmp_path / f"dss{suffix}", side_px=side_px))
    saliency = open_saliency(str(out), None, RuntimeOptions(threads=1))
    assert saliency.theta_b == 0.21
    network, _ = read_saliency(checkpoint)
    for size_hw in ((64, 64), (75, 122), (240, 33)):
        image = trial_input((1, 3, *size_hw))
        assert saliency.prior is not None
        found = saliency.prior(image)
        with torch.no_grad():
            square = T.resize(image, [64, 64], antialias=True)
            wanted = network.network.saliency(square if side_px is None else image)
        if side_px is None:
            wanted = T.resize(wanted, list(size_hw), antialias=True)
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-4)
        assert ((found >= 0) & (found <= 1)).all()


def test_vgg16_is_exported_as_large_as_images_come(tmp_path: Path) -> None:
    network = SaliencyNetwork(0.125)
    for layer in network.scores()[0]:
        torch.nn.init.normal_(layer.get_parameter("weight"), std=1.0)
    save_saliency(tmp_path / "network.pt", network, 64, {})
    command = ["export", "saliency", "--checkpoint", str(tmp_path / "network.pt"), "--side-px", "0"]
    assert main([*command, "--out", str(tmp_path / "new" / "dss.onnx"), "--theta-b", "0.4"]) == 0
    image = trial_input((1, 3, 77, 51))
    with torch.no_grad():
        wanted = network.eval().saliency(image)
    np.testing.assert_allclose(run(tmp_path / "new" / "dss.onnx", image)[0], wanted.numpy(), atol=2e-4)
    assert json.loads(properties(tmp_path / "new" / "dss.onnx")["f2f.defaults"]) == {"theta_b": 0.4}


# ---- released ones


def released(
    path: Path,
    *,
    size: Sequence[int | str] = (1, 3, 48, 64),
    outputs: int = 7,
    opset: int = 11,
    inputs: int = 1,
    channels: int = 1,
    sigmoid: bool = True,
) -> Path:
    """As U²-Net's file looks: an image in, d0 … d6 out; dn is n more than what a 1×1 convolution says."""
    image = [helper.make_tensor_value_info(f"input.{n + 1}", TensorProto.FLOAT, list(size)) for n in range(inputs)]
    shape = [size[0], channels, *size[2:]]
    nodes, constants = [], []
    for number in range(outputs):
        weights = np.tile(np.array([0.7, -0.4, 0.2], np.float32).reshape(1, 3, 1, 1), (channels, 1, 1, 1))
        constants.append(onnx.numpy_helper.from_array(weights, f"w{number}"))
        constants.append(onnx.numpy_helper.from_array(np.full(channels, number, np.float32), f"b{number}"))
        last = f"s{number}" if sigmoid else f"d{number}"
        nodes.append(helper.make_node("Conv", ["input.1", f"w{number}", f"b{number}"], [last]))
        if sigmoid:
            nodes.append(helper.make_node("Sigmoid", [last], [f"d{number}"]))
    given = [helper.make_tensor_value_info(f"d{number}", TensorProto.FLOAT, shape) for number in range(outputs)]
    graph = helper.make_graph(nodes, "u2net", image, given, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def expected(image: Tensor, size_hw: tuple[int, int], number: int, style: Style, stretch: bool) -> Tensor:
    """What the network's authors do around it."""
    small = T.resize(image, list(size_hw), antialias=True)
    if style != "birefnet":
        small = small / small.max()
    mean, deviation = ((0.5,) * 3, (1.0,) * 3) if style == "isnet" else (MEAN, DEVIATION)
    prepared = (small - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
    logits = (prepared * torch.tensor([0.7, -0.4, 0.2]).view(3, 1, 1)).sum(1, keepdim=True) + number
    maps = logits.sigmoid()
    if stretch:
        maps = (maps - maps.min()) / (maps.max() - maps.min())
    full: Tensor = T.resize(maps, list(image.shape[-2:]), antialias=True)
    return full


@pytest.mark.parametrize(
    ("style", "number", "stretch"), [("u2net", 0, True), ("u2net", 3, False), ("isnet", 0, True), ("birefnet", 0, True)]
)
def test_a_released_network_keeps_the_contract(tmp_path: Path, style: Style, number: int, stretch: bool) -> None:
    source = released(tmp_path / "u2net.onnx", sigmoid=style != "birefnet")
    output = f"d{number}" if number else None
    options = SaliencyExport(onnx=source, out=tmp_path / "out.onnx", style=style, output=output, stretch=stretch)
    saliency = open_saliency(str(export_saliency(options)), None, RuntimeOptions(threads=1))
    assert saliency.theta_b == 0.12
    for size_hw in ((48, 64), (31, 150), (200, 90)):
        image = 0.8 * trial_input((1, 3, *size_hw))
        assert saliency.prior is not None
        wanted = expected(image, (48, 64), number, style, stretch)
        torch.testing.assert_close(saliency.prior(image), wanted, rtol=0, atol=1e-4)
    facts = json.loads(properties(tmp_path / "out.onnx")["f2f.training"])
    assert (facts["source"], facts["style"], facts["output"]) == ("u2net.onnx", style, f"d{number}")


def test_a_blank_frame_is_not_stretched(tmp_path: Path) -> None:
    """Black, over its maximum, stays black; its map is one value, of which the range 0..1 would make noise."""
    source = released(tmp_path / "u2net.onnx")
    export_saliency(SaliencyExport(onnx=source, out=tmp_path / "out.onnx"))
    (found,) = run(tmp_path / "out.onnx", torch.zeros(1, 3, 40, 40))
    assert np.isfinite(found).all()
    assert found.max() < 1e-2


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_sizes_that_a_file_leaves_open(tmp_path: Path, opset: int) -> None:
    source = released(tmp_path / "u2net.onnx", size=("batch", 3, "height", "width"), outputs=1, opset=opset)
    export_saliency(SaliencyExport(onnx=source, out=tmp_path / "out.onnx", side_px=40))
    images = torch.cat([trial_input((1, 3, 60, 80)), 0.5 * trial_input((1, 3, 60, 80)).flip(3)])
    (found,) = run(tmp_path / "out.onnx", images)
    for image, saliency in zip(images, found, strict=True):  # each by itself
        wanted = expected(image[None], (40, 40), 0, "u2net", stretch=True)
        np.testing.assert_allclose(saliency, wanted[0].numpy(), atol=1e-4)
    assert onnx.load(tmp_path / "out.onnx").opset_import[0].version == opset


@pytest.mark.parametrize(
    ("look", "given", "reason"),
    [
        ({"inputs": 2}, {}, r"has the inputs .*input\.2.*; accepted: one image \[1,3,h,w\]"),
        ({"size": (1, 3, 48)}, {}, "has the inputs"),
        ({"size": (1, 1, 48, 64)}, {}, "has the inputs"),
        ({"opset": 9}, {}, "is of opset 9; accepted: 11 to 20; convert it"),
        ({}, {"output": "d9"}, "output is d9; .* has d0, d1, d2, d3, d4, d5, d6; give one of them"),
        ({}, {"side_px": 32}, r"side-px is 32; .*u2net\.onnx takes images of 48x64 px alone; leave it out"),
        ({"channels": 2}, {}, r"output d0 of .* is \[1, 2, 48, 64\] for one image; accepted: \[1,1,48,64\]; name"),
        ({}, {"out": Path("x.pt2")}, r"--out x\.pt2 has the suffix '\.pt2'; accepted with --onnx: \.onnx"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, look: dict[str, Any], given: dict[str, Any], reason: str) -> None:
    if "size" in look:  # a file that cannot run, but can be read
        source = identity(tmp_path / "u2net.onnx", look["size"])
    else:
        source = released(tmp_path / "u2net.onnx", **look)
    with pytest.raises(UsageError, match=reason):
        export_saliency(SaliencyExport(**({"onnx": source, "out": tmp_path / "out.onnx"} | given)))
    assert {path.name for path in tmp_path.iterdir()} == {"u2net.onnx"}


def identity(path: Path, size: Sequence[int]) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(size)) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), str(path))
    return path


def test_a_network_that_does_not_run_is_refused(tmp_path: Path) -> None:
    source = released(tmp_path / "u2net.onnx", outputs=1)
    model = onnx.load(source)
    model.graph.node[0].domain = "strange"
    model.opset_import.append(helper.make_opsetid("strange", 1))
    onnx.save(model, source)
    with pytest.raises(UsageError, match=r"--onnx .*u2net\.onnx does not run \(.*strange.*\); give another file"):
        export_saliency(SaliencyExport(onnx=source, out=tmp_path / "out.onnx"))


def test_files_that_are_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    save_network(tmp_path / "network.pt", "segmenter", torch.nn.Linear(1, 1))
    out = ["--out", str(tmp_path / "out.onnx")]
    for source, reason in (
        (["--onnx", str(tmp_path / "none.onnx")], "none.onnx does not exist; give the file of a released network"),
        (["--onnx", str(tmp_path / "broken.onnx")], "broken.onnx cannot be read as ONNX"),
        (
            ["--checkpoint", str(tmp_path / "network.pt")],
            "holds segmenter; give the network.pt of `f2f train saliency`",
        ),
        ([], "--checkpoint is None and --onnx is None; give exactly one of the two"),
        (["--onnx", "x.onnx", "--side-px", "0"], "side-px is 0; accepted: 1 or more px"),
        (["--onnx", "x.onnx", "--theta-b", "2"], "theta-b is 2.0; accepted: 0 to 1"),
    ):
        assert main(["export", "saliency", *source, *out]) == 2
        assert reason in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["released", "checkpoint"])
def test_label_runs_with_it(tmp_path: Path, checkpoint: Path, networks: TinyNetworks, kind: str) -> None:
    given = {"onnx": released(tmp_path / "u2net.onnx")} if kind == "released" else {"checkpoint": checkpoint}
    made = export_saliency(SaliencyExport(out=tmp_path / "made.onnx", theta_b=0.3, **given))  # type: ignore[arg-type]
    source = crawl(tmp_path / "crawl", "red/a.mp4", frames=8)
    assert main(["label", str(source), "--out", str(tmp_path / "out"), *flags(networks, "--saliency", str(made))]) == 0
    written = masks(tmp_path / "out")
    assert written
    kinds: set[int] = set()
    for mask in written:
        labels = np.array(Image.open(tmp_path / "out" / "voc" / "SegmentationClass" / f"{mask['id']}.png"))
        kinds |= {*np.unique(labels).tolist()}
    assert {0, 1, 255} <= kinds, "background, the class, and what is neither"
    told = json.loads((tmp_path / "out" / "run.json").read_text())
    assert told["options"]["theta_b"] == 0.3
