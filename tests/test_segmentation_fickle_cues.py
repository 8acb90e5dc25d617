"""Cues by a FickleNet: the command against the literal definition, and what is refused."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from material import saliency_file
from segmentation_material import save, save_image
from torch import Tensor

from f2f.engine.cli import main
from f2f.engine.errors import UsageError
from f2f.engine.types import ImageArray
from f2f.training.checkpoint import save_classifier, save_network
from f2f.training.classifier import CamClassifier
from f2f.training.data import derived_seed, read_image
from f2f.training.segmentation.cue_files import CueFolder
from f2f.training.segmentation.cues import make_cues
from f2f.training.segmentation.ficklenet import FickleNet
from f2f.training.segmentation.training_options import CueOptions

CLASSES = ("ant", "bee", "cow")
TAGS = (0, 2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    rng = np.random.default_rng(3)
    save_image(root / "JPEGImages" / "one.jpg", rng.integers(0, 255, (40, 40, 3), np.uint8))
    boxes = "".join(f"<object><name>{CLASSES[tag]}</name></object>" for tag in TAGS)
    save(root / "Annotations" / "one.xml", f"<annotation>{boxes}</annotation>")
    save(root / "labels.txt", "".join(f"{name}\n" for name in ("background", *CLASSES)))
    save(root / "ImageSets" / "Segmentation" / "train.txt", "one\n")
    return root


@pytest.fixture
def network(tmp_path: Path) -> FickleNet:
    """Its classes stand in another order than the images'."""
    made = FickleNet(("bee", "cow", "ant"), "small", 0.25, window=3, rate=0.6).eval()
    torch.nn.init.normal_(made.to_classes.weight, std=0.3)
    save_classifier(tmp_path / "network.pt", made, {})
    return made


def cues(data: Path, tmp_path: Path, **given: object) -> ImageArray:
    usual = {"images": data, "out": tmp_path / "cues", "classifier": str(tmp_path / "network.pt"), "saliency": "none"}
    options = CueOptions(**({"grid": 5, "passes": 7, "seed": 4} | usual | given))  # type: ignore[arg-type]
    return make_cues(options).read("one")


def grad_cam(network: FickleNet, features: Tensor, selection: Tensor, channel: int) -> Tensor:
    """[h,w] of one pass, window by window, the gradient by autograd: relu(sum_f x_f dS/dx_f) over its maximum."""
    layer, (height, width) = network.to_classes, features.shape[-2:]
    x = features.clone().requires_grad_()
    padded, total = F.pad(x, [1, 1, 1, 1]), torch.zeros(())
    for row in range(height):
        for column in range(width):
            window = padded[:, row : row + 3, column : column + 3] * selection[:, row, column].view(3, 3)
            total = total + (window * layer.weight[channel]).sum()
    (gradient,) = torch.autograd.grad(total / (height * width), x)
    found = height * width * (x * gradient).sum(0).relu()
    return (found / (found.max() + 1e-5)).detach()


def by_definition(network: FickleNet, image: Path, passes: int, theta: float, seed: int) -> ImageArray:
    """A cell is a tag where any pass exceeds theta; of several, the one with the highest mean of all passes."""
    with torch.no_grad():
        features = network.backbone(read_image(image)[None])  # [1,F,5,5]
        products = network.to_classes.products(features)
    generator = torch.Generator().manual_seed(derived_seed(seed, zlib.crc32(b"one")))
    drawn = [network.to_classes.draw(1, products, generator)[0] for _ in range(passes)]
    maps = {
        tag: [grad_cam(network, features[0], one, network.classes.index(CLASSES[tag])) for one in drawn] for tag in TAGS
    }
    labels = np.full((5, 5), 255, np.uint8)
    for row in range(5):
        for column in range(5):
            claims = {
                tag: sum(float(one[row, column]) for one in found)
                for tag, found in maps.items()
                if any(one[row, column] > theta for one in found)
            }
            if claims:
                labels[row, column] = max(claims, key=lambda tag: claims[tag]) + 1
    return labels


@pytest.mark.parametrize("theta", [0.35, 0.8])
def test_cues_are_those_of_the_definition(data: Path, tmp_path: Path, network: FickleNet, theta: float) -> None:
    wanted = by_definition(network, data / "JPEGImages" / "one.jpg", passes=7, theta=theta, seed=4)
    found = cues(data, tmp_path, theta=theta)
    np.testing.assert_array_equal(found, wanted)
    assert set(np.unique(found)) == {1, 3, 255}
    if theta == 0.35:
        np.testing.assert_array_equal(cues(data, tmp_path), wanted)  # the default


def test_the_seed_decides(data: Path, tmp_path: Path, network: FickleNet) -> None:
    first = cues(data, tmp_path, passes=1)
    np.testing.assert_array_equal(cues(data, tmp_path, passes=1), first)
    assert (cues(data, tmp_path, passes=1, seed=5) != first).any()


def test_more_passes_find_more(data: Path, tmp_path: Path, network: FickleNet) -> None:
    few, many = (cues(data, tmp_path, passes=passes) for passes in (1, 40))
    assert ((few != 255) <= (many != 255)).all()
    assert (many != 255).sum() > (few != 255).sum()


def test_background_is_what_no_class_claims_and_is_not_salient(data: Path, tmp_path: Path, network: FickleNet) -> None:
    plain = cues(data, tmp_path, passes=1, grid=9)
    saliency = str(saliency_file(tmp_path / "saliency.onnx"))  # the red channel
    found = cues(data, tmp_path, passes=1, grid=9, saliency=saliency, theta_b=1.01)
    np.testing.assert_array_equal(found, np.where(plain == 255, 0, plain))


def test_a_cam_checkpoint_serves_as_its_export_does(data: Path, tmp_path: Path) -> None:
    save_classifier(tmp_path / "network.pt", CamClassifier(CLASSES, 0.125), {})
    assert (
        main(["export", "classifier", "--checkpoint", str(tmp_path / "network.pt"), "--out", f"{tmp_path}/m.onnx"]) == 0
    )
    found = cues(data, tmp_path)
    exported = cues(data, tmp_path, classifier=str(tmp_path / "m.onnx"))
    assert (found == exported).mean() > 0.9  # a cell on the threshold may fall on either side
    assert set(np.unique(found)) <= {1, 3, 255}


def test_the_command(data: Path, tmp_path: Path, network: FickleNet, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["cues", str(data), "--out", str(tmp_path / "cues"), "--classifier", str(tmp_path / "network.pt")]
    assert main([*command, "--passes", "3"]) == 0
    assert CueFolder.open(tmp_path / "cues").read("one").shape == (41, 41)
    assert main([*command, "--passes", "0"]) == 2
    assert "passes is 0; accepted: 1 or more" in capsys.readouterr().err


def test_what_is_no_classifier_of_the_images_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"network\.pt does not exist; give the network\.pt of `f2f train classifier`"):
        cues(data, tmp_path)
    save_network(tmp_path / "network.pt", "segmenter", CamClassifier(CLASSES, 0.125))
    with pytest.raises(UsageError, match="holds segmenter; give the network"):
        cues(data, tmp_path)
    save_classifier(tmp_path / "network.pt", FickleNet(["ant", "bee"], "small", 0.125, window=3), {})
    with pytest.raises(UsageError, match="the classifier does not know cow; its classes: ant, bee"):
        cues(data, tmp_path)
    (data / "Annotations" / "one.xml").unlink()
    with pytest.raises(UsageError, match=r"have no tag \(one\)"):
        cues(data, tmp_path)
