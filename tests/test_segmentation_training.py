"""Training a segmenter on images and labelled videos: what it learns, going on after a stop, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from segmentation_material import (
    TRAIN,
    coloured,
    made_up_labels,
    save,
    save_image,
    write_predictions,
    write_run,
    write_voc,
)

from f2f.engine.cli import main
from f2f.engine.errors import F2FError, UsageError
from f2f.training.export import export_segmenter
from f2f.training.segmentation import methods
from f2f.training.segmentation.train import sources, train_segmenter
from f2f.training.segmentation.training_options import Method, SegmenterExport, SegmenterTraining
from f2f.training.segmentation.voc import VOC_CLASSES

RUN_CLASSES = ("aeroplane", "dog", "person")


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("voc"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows: list[dict[str, object]] = [
        {"id": "a-0000", "classes": ["dog"], "quality": 0.9},
        {"id": "b-0000", "classes": ["dog", "person"], "quality": 0.4},
        {"id": "c-0000", "classes": ["aeroplane"], "quality": None},
    ]
    return write_run(tmp_path_factory.mktemp("run"), RUN_CLASSES, rows)


def options(out: Path, **given: object) -> SegmenterTraining:
    quick = {"steps": 4, "batch_size": 2, "side_px": 33, "width": 0.25, "optimiser": "adamw", "workers": 0}
    return SegmenterTraining(out=out, **(quick | {"accelerator": "cpu"} | given))  # type: ignore[arg-type]


def weights(out: Path) -> dict[str, torch.Tensor]:
    content = torch.load(out / "network.pt", weights_only=True)
    assert content["kind"] == "segmenter"
    state: dict[str, torch.Tensor] = content["state_dict"]
    return state


@pytest.mark.parametrize("method", ["sec", "dsrg", "labels"])
def test_every_method_trains_on_images_and_videos(voc: Path, run: Path, tmp_path: Path, method: Method) -> None:
    path = train_segmenter(options(tmp_path, images=voc, videos=(run,), method=method))
    content = torch.load(path, weights_only=True)
    assert content["classes"] == list(VOC_CLASSES)
    assert content["training"]["options"]["method"] == method
    assert (content["training"]["train_images"], content["training"]["train_videos"]) == (len(TRAIN), 3)
    assert all(torch.isfinite(value).all() for value in content["state_dict"].values())


def test_a_run_that_was_stopped_ends_as_one_that_was_not(voc: Path, run: Path, tmp_path: Path) -> None:
    common = {"images": voc, "videos": (run,), "method": "dsrg", "steps": 5, "checkpoint_steps": 1}
    train_segmenter(options(tmp_path / "whole", **common))
    train_segmenter(options(tmp_path / "parts", **common, stop_at_step=2))
    stopped = weights(tmp_path / "parts")
    train_segmenter(options(tmp_path / "parts", **common))
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(not torch.equal(stopped[name], parts[name]) for name in whole)


def test_exact_labels_are_learnt_exported_and_found_again(tmp_path: Path) -> None:
    data, classes = tmp_path / "data", ("cat", "dog")
    masks = {f"{number}": made_up_labels(number, tags, (96, 128)) for number, tags in enumerate([(0,), (1,), (0, 1)])}
    write_predictions(data / "SegmentationClass", masks)
    for id_, labels in masks.items():
        save_image(data / "JPEGImages" / f"{id_}.jpg", coloured(labels))
    save(data / "labels.txt", "".join(f"{name}\n" for name in ("background", *classes)))
    save(data / "ImageSets" / "Segmentation" / "train.txt", "0\n1\n2\n")
    learning = {"steps": 100, "batch_size": 3, "learning_rate": 1e-2, "schedule": "one-cycle", "side_px": 129}
    checkpoint = train_segmenter(options(tmp_path, images=data, method="labels", flip=False, width=0.5, **learning))
    model = export_segmenter(SegmenterExport(out=tmp_path / "segmenter.onnx", checkpoint=checkpoint))
    assert main(["segment", str(model), str(data / "JPEGImages"), "--out", str(tmp_path / "out")]) == 0
    for id_, labels in masks.items():
        with Image.open(tmp_path / "out" / "masks" / f"{id_}.png") as image:
            found = np.array(image)
        assert (found == labels)[labels != 255].mean() > 0.9, id_


def test_crops_are_labelled_pixel_by_pixel(voc: Path, tmp_path: Path) -> None:
    assert options(tmp_path, images=voc).grid_hw == (5, 5)
    given = options(tmp_path, images=voc, method="labels", fit="crop")
    assert given.grid_hw == (33, 33)
    train_segmenter(given)
    logits, labels = torch.randn(2, 4, 3, 5), torch.randint(0, 4, (2, 17, 29))
    labels[0, :9] = 255
    (loss,) = methods.labels(logits, torch.empty(0), labels, torch.empty(0)).values()
    large = torch.nn.functional.interpolate(logits, (17, 29), mode="bilinear", align_corners=False)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(large, labels, ignore_index=255))


def test_videos_follow_the_order_of_the_images_classes(voc: Path, run: Path, tmp_path: Path) -> None:
    found = sources(options(tmp_path, images=voc, videos=(run,)))
    videos = found["videos"].images
    assert videos.classes == VOC_CLASSES
    labels = videos.labels(videos.images[0])
    assert set(np.unique(labels)) == {0, VOC_CLASSES.index("dog") + 1, 255}
    assert videos.images[1].tags == (VOC_CLASSES.index("dog"), VOC_CLASSES.index("person"))


def test_bad_masks_of_videos_are_left_out(run: Path, tmp_path: Path) -> None:
    found = sources(options(tmp_path, videos=(run,), least_quality=0.5))
    assert [image.id for image in found["videos"].images.images] == ["a-0000", "c-0000"]  # without a score: kept
    alone = write_run(tmp_path / "alone", RUN_CLASSES, [{"id": "d-0000", "classes": ["dog"], "quality": 0.4}])
    with pytest.raises(UsageError, match=r"least-quality is 0\.5; the best mask of .* has 0\.4"):
        sources(options(tmp_path, videos=(alone,), least_quality=0.5))


def test_some_masks_of_videos_are_drawn_by_the_seed(run: Path, tmp_path: Path) -> None:
    def drawn(count: int, seed: int) -> list[str]:
        found = sources(options(tmp_path, videos=(run,), video_masks=count, seed=seed))
        return [image.id for image in found["videos"].images.images]

    assert drawn(0, 0) == drawn(3, 1) == ["a-0000", "b-0000", "c-0000"]
    assert drawn(2, 0) == drawn(2, 0)
    assert {tuple(drawn(1, seed)) for seed in range(20)} == {("a-0000",), ("b-0000",), ("c-0000",)}
    with pytest.raises(UsageError, match=r"video-masks is 4; .* has 3 masks; give at most that"):
        drawn(4, 0)


@pytest.mark.parametrize("weighed", [False, True])
def test_quality_weighs_masks_of_videos_where_asked_for(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weighed: bool
) -> None:
    rows = [{"id": f"{number}", "classes": ["dog"], "quality": number / 4} for number in range(4)]
    run = write_run(tmp_path / "run", RUN_CLASSES, rows)
    seen: list[list[float] | None] = []

    def watched(logits: torch.Tensor, *given: torch.Tensor) -> methods.Losses:
        seen.append(None if given[-1] is None else sorted(given[-1].tolist()))
        return {"labels": logits.square().mean()}

    monkeypatch.setitem(methods.METHODS, "labels", watched)
    given = options(tmp_path / "out", images=voc, videos=(run,), method="labels", weigh_quality=weighed, batch_size=8)
    train_segmenter(replace(given, steps=1))
    assert seen == ([[1.0] * 4, [0.0, 0.25, 0.5, 0.75]] if weighed else [None, None])  # images, then videos


def test_a_loss_that_is_no_number_stops_and_keeps_the_batch(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(logits: torch.Tensor, *_: torch.Tensor) -> methods.Losses:
        return {"labels": logits.sum() * torch.nan}

    monkeypatch.setitem(methods.METHODS, "labels", broken)
    with pytest.raises(F2FError, match=r"the loss of step 0 is not finite \(labels_images nan, loss nan\)"):
        train_segmenter(options(tmp_path, images=voc, method="labels"))
    batch = torch.load(tmp_path / "failed-batch.pt", weights_only=True)
    assert batch["image"].shape == (2, 3, 33, 33)
    assert not (tmp_path / "network.pt").exists()


def test_a_network_of_other_classes_is_no_start(voc: Path, run: Path, tmp_path: Path) -> None:
    first = train_segmenter(options(tmp_path / "videos", videos=(run,), steps=1))
    with pytest.raises(UsageError, match="accepted: aeroplane, bicycle"):
        train_segmenter(options(tmp_path / "images", images=voc, start_from=first))
    again = train_segmenter(options(tmp_path / "again", videos=(run,), start_from=first, learning_rate=1e-9, steps=1))
    start, end = weights(first.parent), weights(again.parent)
    assert all(torch.allclose(start[name], end[name], atol=1e-5) for name in start if name.endswith(("weight", "bias")))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "neither --images nor --videos is given"),
        ({"images": Path("voc"), "fit": "crop"}, "fit is crop with method dsrg; accepted: warp, or method labels"),
        ({"cues": Path("cues"), "videos": (Path("run"),)}, "cues is cues without --images"),
        ({"videos": (Path("run"),), "steps": 0}, "steps is 0; accepted"),
        ({"videos": (Path("run"),), "side_px": 8}, "side-px is 8; accepted"),
        ({"videos": (Path("run"),), "least_quality": 2}, "least-quality is 2; accepted"),
        ({"videos": (Path("run"),), "video_masks": -1}, "video-masks is -1; accepted"),
    ],
)
def test_options_that_cannot_be_met_are_refused(tmp_path: Path, given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options(tmp_path, **given)


def test_batches_must_be_shared_evenly(voc: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch-size is 3; accepted: a multiple of 2"):
        train_segmenter(options(tmp_path, images=voc, videos=(run,), batch_size=3))
