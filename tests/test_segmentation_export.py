"""The exported segmenter: on a machine without torch, and in float16."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from PIL import Image
from segmentation_material import TRAIN, VAL, write_voc

from f2f.engine.cli import main
from f2f.engine.errors import F2FError, UsageError
from f2f.engine.types import ImageArray
from f2f.training.export import export_segmenter
from f2f.training.segmentation.half import HalfCost
from f2f.training.segmentation.train import train_segmenter
from f2f.training.segmentation.training_options import SegmenterExport, SegmenterTraining
from f2f.training.segmentation.voc import VOC_CLASSES


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("voc"))


@pytest.fixture(scope="module")
def checkpoint(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    quick = {"steps": 40, "batch_size": 3, "side_px": 65, "width": 0.25, "workers": 0, "accelerator": "cpu"}
    learning = {"method": "labels", "optimiser": "adamw", "learning_rate": 1e-2, "schedule": "one-cycle"}
    out = tmp_path_factory.mktemp("training")
    return train_segmenter(SegmenterTraining(out=out, images=voc, **quick, **learning))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("float32") / "segmenter.onnx"
    return export_segmenter(SegmenterExport(out=out, checkpoint=checkpoint))


@pytest.fixture(scope="module")
def half(voc: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("float16") / "segmenter.onnx"
    return export_segmenter(SegmenterExport(out=out, checkpoint=checkpoint, half=True, images=voc))


def label_maps(folder: Path) -> dict[str, ImageArray]:
    found = {}
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            found[path.stem] = np.array(image)
    return found


def facts(path: Path) -> dict[str, object]:
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    told: dict[str, object] = json.loads(properties["f2f.training"])
    return told


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # importing it fails from here on
import json, pathlib
import numpy, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["f2f.classes"])
for path in pathlib.Path(sys.argv[2]).glob("*.jpg"):
    pixels = numpy.asarray(Image.open(path).convert("RGB"))
    batch = pixels.transpose(2, 0, 1)[None].astype(numpy.float32) / 255
    (logits,) = session.run(None, {"image": batch})
    assert logits.shape == (1, 1 + len(classes), *pixels.shape[:2]), logits.shape
    Image.fromarray(logits[0].argmax(0).astype(numpy.uint8)).save(pathlib.Path(sys.argv[3]) / f"{path.stem}.png")
"""


@pytest.mark.parametrize("form", ["model", "half"])
def test_it_runs_without_torch_and_finds_what_f2f_segment_finds(
    voc: Path, form: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    exported = str(request.getfixturevalue(form))
    images, alone = str(voc / "JPEGImages"), tmp_path / "alone"
    alone.mkdir()
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, exported, images, str(alone)], check=True)
    options = ["--out", str(tmp_path / "out"), "--own-size", "--no-overlays"]
    assert main(["segment", exported, images, *options]) == 0
    wanted, found = label_maps(tmp_path / "out" / "masks"), label_maps(alone)
    assert found.keys() == wanted.keys()
    assert len(found) == 9
    assert np.mean([found[id_] == wanted[id_] for id_ in wanted]) > 0.999  # sums of rounded numbers may tie
    assert len(np.unique(np.stack(list(wanted.values())))) > 1


def test_float16_is_in_the_layers_and_float32_at_both_ends(half: Path, model: Path) -> None:
    graph = onnx.load(half).graph
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {TensorProto.FLOAT}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    kernels = [weights[node.input[1]] for node in graph.node if node.op_type == "Conv"]
    assert len(kernels) > 10
    assert {kernel.data_type for kernel in kernels} == {TensorProto.FLOAT16}
    typed = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(onnx.load(half)).graph.value_info
    }
    sizes = [node for node in graph.node if node.op_type == "Resize"]
    assert [typed[node.input[0]] for node in sizes] == [TensorProto.FLOAT]
    assert half.stat().st_size < 0.6 * model.stat().st_size
    whole = {tensor.name: tensor for tensor in onnx.load(model).graph.initializer}
    assert {numpy_helper.to_array(tensor).dtype.name for tensor in whole.values()} <= {"float32", "int64"}


def test_what_float16_costs_is_measured_and_told(
    voc: Path, checkpoint: Path, model: Path, half: Path, tmp_path: Path
) -> None:
    told = facts(half)
    for name, exported in (("miou_float32", model), ("miou_float16", half)):
        out = tmp_path / name
        assert main(["segment", str(exported), str(voc / "JPEGImages"), "--out", str(out), "--no-overlays"]) == 0
        found, truth = label_maps(out / "masks"), label_maps(voc / "SegmentationClass")
        iou = []
        for label in range(len(VOC_CLASSES) + 1):
            both = either = 0
            for id_ in VAL:
                known = truth[id_] != 255
                both += int(((found[id_] == label) & (truth[id_] == label) & known).sum())
                either += int((((found[id_] == label) | (truth[id_] == label)) & known).sum())
            iou += [both / either] if either else []
        assert told[name] == pytest.approx(np.mean(iou), abs=5e-3), name
    maps = [label_maps(tmp_path / name / "masks") for name in ("miou_float32", "miou_float16")]
    same = np.mean([maps[0][id_] == maps[1][id_] for id_ in VAL])
    assert told["label_agreement"] == pytest.approx(same, abs=2e-3)
    assert same > 0.97
    assert told["miou_cost"] == pytest.approx(told["miou_float32"] - told["miou_float16"])  # type: ignore[operator]
    assert (told["precision"], told["compared_images"]) == ("float16", len(VAL))
    first = torch.load(checkpoint, weights_only=True)["training"]
    assert told["options"] == json.loads(json.dumps(first["options"]))


def test_without_images_labels_are_compared_on_generated_ones(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "segmenter.onnx"
    assert main(["export", "segmenter", "--checkpoint", str(checkpoint), "--out", str(out), "--half"]) == 0
    told = facts(out)
    assert told["compared_images"] == 3
    assert 0.97 < float(str(told["label_agreement"])) <= 1
    assert "miou_float16" not in told
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"float16 leaves {told['label_agreement']:.3%} of the labels of 3 images as they are in float32"
    assert second == f"wrote {out}"
    assert [path.name for path in tmp_path.iterdir()] == ["segmenter.onnx"]


def test_float16_becomes_pt2_too(voc: Path, checkpoint: Path, half: Path, tmp_path: Path) -> None:
    costs: list[HalfCost] = []
    given = SegmenterExport(out=tmp_path / "segmenter.pt2", checkpoint=checkpoint, half=True, images=voc, list="train")
    path = export_segmenter(given, costs.append)
    assert costs[0].images == len(TRAIN)
    assert costs[0].mean_iou is not None
    assert "mIoU" in str(costs[0])
    assert main(["segment", str(path), str(voc / "JPEGImages"), "--out", str(tmp_path / "pt2"), "--no-overlays"]) == 0
    assert main(["segment", str(half), str(voc / "JPEGImages"), "--out", str(tmp_path / "onnx"), "--no-overlays"]) == 0
    ours, theirs = label_maps(tmp_path / "pt2" / "masks"), label_maps(tmp_path / "onnx" / "masks")
    assert np.mean([ours[id_] == theirs[id_] for id_ in ours]) > 0.97


def test_what_float16_cannot_hold_is_not_written(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    for name, value in content["state_dict"].items():
        if name.startswith("backbone.0.0."):
            value.mul_(1e9)
    torch.save(content, tmp_path / "network.pt")
    with pytest.raises(F2FError, match="differs from torch: logits"):
        export_segmenter(SegmenterExport(out=tmp_path / "a.onnx", checkpoint=tmp_path / "network.pt", half=True))
    assert [path.name for path in tmp_path.iterdir()] == ["network.pt"]


def test_images_that_cannot_tell_the_cost_are_refused(voc: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without --half; give both"):
        SegmenterExport(out=tmp_path / "a.onnx", checkpoint=checkpoint, images=voc)
    given = SegmenterExport(out=tmp_path / "a.onnx", checkpoint=checkpoint, half=True, images=voc, list="test")
    with pytest.raises(UsageError, match=r"1 of 1 images of .* have no label map"):
        export_segmenter(given)
    assert not given.out.exists()


def test_a_cost_reads_as_a_sentence() -> None:
    cost = HalfCost(12, 0.99875, (0.6123, 0.6120))
    sentence = (
        "float16 leaves 99.875% of the labels of 12 images as they are in float32; mIoU 0.6120, in float32 0.6123"
    )
    assert str(cost) == f"{sentence}: it costs 0.0003"
