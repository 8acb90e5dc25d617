"""Cues of tagged images: activation of the tagged classes, background by saliency, on a grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from material import CLASSES, SQUARE_PX, classifier_file, picture, saliency_file, square_corner
from PIL import Image
from segmentation_material import save, save_image

from f2f.engine.cli import main
from f2f.engine.errors import UsageError
from f2f.training.segmentation.cue_files import CueFolder
from f2f.training.segmentation.cues import grid_labels, make_cues
from f2f.training.segmentation.training_options import CueOptions

GREEN = CLASSES.index("green") + 1


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    save_image(root / "JPEGImages" / "one.jpg", picture("green"))
    save(root / "Annotations" / "one.xml", "<annotation><object><name>green</name></object></annotation>")
    save(root / "labels.txt", "".join(f"{name}\n" for name in ("background", *CLASSES)))
    save(root / "ImageSets" / "Segmentation" / "train.txt", "one\n")
    return root


def options(data: Path, tmp_path: Path, **given: object) -> CueOptions:
    classifier = str(classifier_file(tmp_path / "classifier.onnx"))
    usual = {"images": data, "out": tmp_path / "cues", "classifier": classifier, "saliency": "none", "theta": 0.5}
    return CueOptions(**(usual | given))  # type: ignore[arg-type]


def test_the_tagged_class_is_where_its_activation_is(data: Path, tmp_path: Path) -> None:
    cues = make_cues(options(data, tmp_path, grid=16), lambda *_: None).read("one")
    assert cues.shape == (16, 16)
    assert set(np.unique(cues)) == {GREEN, 255}
    top, left = square_corner(96, 64, 0)
    rows, columns = (cues == GREEN).nonzero()
    middle = ((rows.mean() + 0.5) * 64 / 16, (columns.mean() + 0.5) * 96 / 16)
    assert middle == pytest.approx((top + SQUARE_PX / 2, left + SQUARE_PX / 2), abs=4)


def test_what_is_not_salient_is_background(data: Path, tmp_path: Path) -> None:
    saliency = str(saliency_file(tmp_path / "saliency.onnx"))  # the red channel
    cues = make_cues(options(data, tmp_path, saliency=saliency, theta_b=0.99)).read("one")
    assert set(np.unique(cues)) == {0, GREEN}
    assert (cues == 0).mean() > 0.5
    nothing = make_cues(options(data, tmp_path, saliency=saliency, theta_b=0.0)).read("one")
    assert set(np.unique(nothing)) == {GREEN, 255}


def test_of_two_classes_the_smaller_one_keeps_its_cells() -> None:
    maps = torch.zeros(3, 4, 4)
    maps[0, :, :2], maps[1, 0, :] = 1.0, 0.01  # the peak of each counts by itself; the third is nowhere
    cues = grid_labels(maps, [7, 2, 5], 0.2)
    assert cues.tolist() == [[2, 2, 2, 2], *[[7, 7, 255, 255]] * 3]


def test_classes_that_the_classifier_does_not_know_are_refused(data: Path, tmp_path: Path) -> None:
    save(data / "labels.txt", "background\ngreen\npurple\n")
    with pytest.raises(UsageError, match="the classifier does not know purple"):
        make_cues(options(data, tmp_path))


def test_images_without_tags_are_refused(data: Path, tmp_path: Path) -> None:
    (data / "Annotations" / "one.xml").unlink()
    with pytest.raises(UsageError, match=r"have no tag \(one\)"):
        make_cues(options(data, tmp_path))


def test_images_too_large_to_be_true_are_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UsageError, match=r"one\.jpg cannot be read as an image"):
        make_cues(options(data, tmp_path))


def test_cues_that_are_there_stay_unless_they_were_made_otherwise(data: Path, tmp_path: Path) -> None:
    save_image(data / "JPEGImages" / "two.jpg", picture("green", 5))
    save(data / "Annotations" / "two.xml", (data / "Annotations" / "one.xml").read_text())
    save(data / "ImageSets" / "Segmentation" / "train.txt", "one\ntwo\n")
    first, second = (tmp_path / "cues" / f"{name}.png" for name in ("one", "two"))

    def stop(image: object, count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_cues(options(data, tmp_path), stop)
    assert first.is_file()
    assert not second.exists()
    made, before = first.stat().st_mtime_ns, first.read_bytes()
    make_cues(options(data, tmp_path))
    assert second.is_file()
    assert first.stat().st_mtime_ns == made, "it was made twice"
    for changed in ({"resume": False}, {"theta": 0.9}, {"saliency": str(saliency_file(tmp_path / "saliency.onnx"))}):
        save(first, b"another's")
        with pytest.raises(KeyboardInterrupt):
            make_cues(options(data, tmp_path, **changed), stop)
        assert first.read_bytes() != b"another's"
        assert not second.exists(), "cues of two kinds stand side by side"
        make_cues(options(data, tmp_path))
        assert (first.read_bytes(), second.is_file()) == (before, True)


def test_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classifier = str(classifier_file(tmp_path / "classifier.onnx"))
    command = ["cues", str(data), "--out", str(tmp_path / "cues"), "--classifier", classifier, "--saliency", "none"]
    assert main(command) == 0
    assert CueFolder.open(tmp_path / "cues").read("one").shape == (41, 41)
    assert main([*command, "--theta", "2"]) == 2
    assert "theta is 2.0; accepted" in capsys.readouterr().err
