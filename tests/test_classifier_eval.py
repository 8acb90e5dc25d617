"""Scores of classifiers: average precision of tags, activation maps beside masks, and the command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from segmentation_material import coloured, made_up_labels, save, save_image, write_voc
from torch import Tensor

from f2f.engine.cli import main
from f2f.engine.errors import UsageError
from f2f.engine.write import encode_mask
from f2f.training.checkpoint import save_classifier
from f2f.training.classifier import CamClassifier
from f2f.training.classifier_eval import (
    ClassifierScores,
    MaskQuality,
    average_precision,
    evaluate_classifier,
    mask_overlaps,
    score_classifier,
)
from f2f.training.export import export_classifier
from f2f.training.options import ClassifierEvaluation, ClassifierExport
from f2f.training.segmentation.ficklenet import FickleNet
from f2f.training.segmentation.images import LabelledSet
from f2f.training.segmentation.voc import VOC_CLASSES, read_voc

DEFAULTS = {"tau": 0.9, "theta_f": 0.2}


def test_average_precision_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.1], np.float32)
    assert average_precision(scores, np.array([True, False, True, False])) == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(average_precision(scores, np.zeros(4, bool)))


def test_overlaps_by_hand() -> None:
    cam = np.zeros((4, 8), np.float32)
    cam[:, :2], cam[:, 2:4] = 1.0, 0.3
    labels = np.zeros((4, 8), np.uint8)
    labels[:2], labels[:, 0] = 5, 255  # what is unlabelled does not count
    rows = mask_overlaps(cam, labels, 5, (0.2, 0.5))
    np.testing.assert_allclose(rows, [[6 / 20, 6 / 12, 6 / 14], [2 / 16, 2 / 4, 2 / 14]])
    np.testing.assert_allclose(mask_overlaps(0 * cam, labels, 5, (0.2,)), [[0, 0, 0]])


def halves(tmp_path: Path, tags: Sequence[str]) -> LabelledSet:
    """Images of 16×16, whose brightness is their number; what they are tagged with fills the left half."""
    for number, tag in enumerate(tags):
        labels = np.zeros((16, 16), np.uint8)
        labels[:, :8] = ("cat", "dog").index(tag) + 1
        save_image(tmp_path / "JPEGImages" / f"{number}.jpg", np.full((16, 16, 3), 50 * number, np.uint8))
        if number < 2:
            save(tmp_path / "SegmentationClass" / f"{number}.png", encode_mask(labels))
        save(
            tmp_path / "Annotations" / f"{number}.xml", f"<annotation><object><name>{tag}</name></object></annotation>"
        )
    save(tmp_path / "labels.txt", "background\ncat\ndog\n")
    save(tmp_path / "ImageSets" / "Segmentation" / "train.txt", "\n".join(map(str, range(len(tags)))))
    return read_voc(tmp_path, "train")


def test_figures_by_hand(tmp_path: Path) -> None:
    images = halves(tmp_path, ["cat", "dog", "dog"])
    scores = torch.tensor(
        [[0.95, 0.0, 0.1], [0.2, 0.0, 0.8], [0.3, 0.0, 0.95]]
    )  # by image, of the classifier's classes
    cam = torch.zeros(1, 3, 16, 16)
    cam[:, 0, :, :12], cam[:, 2, :8] = 1.0, 0.1
    cam[:, 0, :, :4] = 4.0

    def predict(image: Tensor) -> tuple[Tensor, Tensor]:
        return scores[round(float(image[0, 0, 0, 0]) * 255 / 50)][None], cam

    found = score_classifier(predict, images, [0, 2], DEFAULTS)
    assert (found.mean_average_precision, found.images, found.masks) == (1.0, 3, 2)
    assert found.passing == pytest.approx(2 / 3)
    assert found.false_passing == 0
    of_cat, of_dog = MaskQuality(8 / 12, 8 / 12, 1.0), MaskQuality(1 / 3, 1 / 2, 1 / 2)
    assert [found.classes[name].cams for name in ("cat", "dog")] == [of_cat, of_dog]
    assert found.cams is not None
    assert found.cams.iou == pytest.approx((8 / 12 + 1 / 3) / 2)
    assert found.best_theta == 0.2  # from 0.25 on, a third of the cat is left
    best = score_classifier(predict, images, [0, 2], {"tau": 0.9, "theta_f": 0.7})
    assert best.cams is not None
    assert astuple(best.cams) == pytest.approx(((1 / 2 + 1 / 3) / 2, 3 / 4, 1 / 2))
    assert best.best_theta is not None
    assert best.best_theta < 0.25
    assert best.best_cams == found.cams


def test_what_there_is_nothing_of_has_no_figure(tmp_path: Path) -> None:
    images = halves(tmp_path, ["cat", "cat"])
    for number in range(2):
        (tmp_path / "SegmentationClass" / f"{number}.png").unlink()
    images = read_voc(tmp_path, "train")
    found = score_classifier(lambda _: (torch.ones(1, 2), torch.ones(1, 2, 2, 2)), images, [0, 1], DEFAULTS)
    assert (found.mean_average_precision, found.cams, found.best_theta, found.best_cams) == (1.0, None, None, None)
    assert found.classes["dog"].average_precision is None


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("voc"))


@pytest.mark.parametrize("kind", ["cam", "ficklenet"])
def test_a_checkpoint_and_what_is_exported_of_it_score_alike(voc: Path, tmp_path: Path, kind: str) -> None:
    classes = VOC_CLASSES[::-1]
    network = CamClassifier(classes, 0.125) if kind == "cam" else FickleNet(classes, "small", 0.125, window=3)
    save_classifier(tmp_path / "network.pt", network, {})
    model = export_classifier(ClassifierExport(checkpoint=tmp_path / "network.pt", out=tmp_path / "model.onnx"))
    scores = [
        evaluate_classifier(ClassifierEvaluation(model=str(path), images=voc, list="trainval"))
        for path in (tmp_path / "network.pt", model)
    ]
    one, other = (score.as_facts() for score in scores)
    assert one["cams"] == pytest.approx(other["cams"], abs=1e-2)
    assert {**one, "cams": 0, "best_cams": 0} == {**other, "cams": 0, "best_cams": 0}
    assert (one["masks"], one["tau"], one["theta_f"]) == (7, 0.9, 0.2)


def test_the_command(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_classifier(tmp_path / "network.pt", CamClassifier(VOC_CLASSES, 0.125), {})
    command = ["eval", "classifier", str(tmp_path / "network.pt"), str(voc), "--list", "trainval", "--theta-f", "0.3"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["theta_f"], len(found["classes"])) == (5, 0.3, 20)
    assert found["classes"]["sofa"]["average_precision"] is None
    assert main(command) == 0
    table = capsys.readouterr().out
    assert "tvmonitor" in table
    assert "CAMs above 0.3 of their peak" in table.replace("\n", " ")


def test_what_cannot_be_measured_is_refused(voc: Path, tmp_path: Path) -> None:
    def evaluate(**given: object) -> ClassifierScores:
        usual = {"model": str(tmp_path / "network.pt"), "images": voc}
        return evaluate_classifier(ClassifierEvaluation(**(usual | given)))  # type: ignore[arg-type]

    with pytest.raises(UsageError, match=r"network\.pt does not exist; give the network\.pt of `f2f train classifier`"):
        evaluate()
    save_classifier(tmp_path / "network.pt", CamClassifier(VOC_CLASSES[1:], 0.125), {})
    with pytest.raises(UsageError, match="the classifier does not know aeroplane; its classes: bicycle"):
        evaluate()
    with pytest.raises(UsageError, match=r"theta-f is 1\.5; accepted: 0 to below 1"):
        evaluate(theta_f=1.5)
    with pytest.raises(UsageError, match="has no list 'all'"):
        evaluate(list="all")


def test_masks_of_another_order_of_classes_are_understood(tmp_path: Path) -> None:
    """tags.csv gives the classes in the order of the alphabet, labels.txt that of the masks."""
    folder = tmp_path / "images"
    save_image(folder / "JPEGImages" / "one.jpg", coloured(made_up_labels(0, (0,))))
    save(folder / "SegmentationClass" / "one.png", encode_mask(made_up_labels(0, (0,))))  # label 1: dog
    save(folder / "labels.txt", "background\ndog\ncat\n")
    save(folder / "tags.csv", "id,classes\none,dog\n")
    for name in ("train", "val"):
        save(folder / "ImageSets" / "Segmentation" / f"{name}.txt", "one\n")
    save_classifier(tmp_path / "network.pt", CamClassifier(["cat", "dog"], 0.125), {})
    found = evaluate_classifier(ClassifierEvaluation(model=str(tmp_path / "network.pt"), images=tmp_path))
    assert {name: row.masks for name, row in found.classes.items()} == {"cat": 0, "dog": 1}
