"""Training on one's own masks: what is predicted, going on after a stop, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from segmentation_material import TRAIN, VOC_TAGS, annotation, save, write_voc
from torch import Tensor

from f2f.engine.cli import main
from f2f.engine.errors import RunMismatchError, UsageError
from f2f.engine.types import ImageArray
from f2f.kernels import crf_refine
from f2f.training.checkpoint import save_network
from f2f.training.classifier import CamClassifier
from f2f.training.segmentation.adapt import adapt_segmenter, make_masks
from f2f.training.segmentation.adaptation_options import SegmenterAdaptation, SegmenterRetraining
from f2f.training.segmentation.cue_files import CueFolder
from f2f.training.segmentation.deeplab import segmenter
from f2f.training.segmentation.train import train_segmenter
from f2f.training.segmentation.training_options import SegmenterTraining
from f2f.training.segmentation.voc import VOC_CLASSES

SIDE = 33


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("voc"))


def first_training(out: Path, voc: Path, **given: object) -> Path:
    quick = {"steps": 12, "batch_size": 3, "width": 0.25, "workers": 0, "accelerator": "cpu", "optimiser": "adamw"}
    chosen = quick | {"side_px": SIDE, "learning_rate": 1e-2, "method": "labels"} | given
    return train_segmenter(SegmenterTraining(out=out, images=voc, **chosen))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def checkpoint(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that tells some classes from others."""
    return first_training(tmp_path_factory.mktemp("first"), voc)


def options(out: Path, checkpoint: Path, voc: Path, **given: object) -> SegmenterAdaptation:
    quick = {"steps": 4, "batch_size": 2, "workers": 0, "accelerator": "cpu", "list": "trainval"}
    return SegmenterAdaptation(out=out, checkpoint=checkpoint, images=voc, **(quick | given))  # type: ignore[arg-type]


def masks(out: Path) -> dict[str, ImageArray]:
    folder = CueFolder.open(out / "masks")
    return {path.stem: folder.read(path.stem) for path in sorted(folder.folder.glob("*.png"))}


def weights(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def image(voc: Path, id_: str) -> Tensor:
    with Image.open(voc / "JPEGImages" / f"{id_}.jpg") as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None] / 255


@torch.no_grad()
def logits_by_hand(checkpoint: Path, whole: Tensor, sizes_hw: list[tuple[int, int]]) -> Tensor:
    """The sum over sizes and mirror images, at the image's size: [1+C,H,W]."""
    content = torch.load(checkpoint, weights_only=True)
    network = segmenter(content["name"], content["classes"], content["width"])
    network.load_state_dict(content["state_dict"])
    network.eval()
    total = torch.zeros(1, len(content["classes"]) + 1, *whole.shape[-2:])
    for size_hw in sizes_hw:
        for mirrored in (False, True):
            seen = F.interpolate(whole, size_hw, mode="bilinear", antialias=True)
            logits = network(seen.flip(3)).flip(3) if mirrored else network(seen)
            logits = F.interpolate(logits, size_hw, mode="bilinear")
            total += F.interpolate(logits, whole.shape[-2:], mode="bilinear", antialias=True)
    return total[0]


def restricted(logits: Tensor, tags: tuple[int, ...]) -> Tensor:
    """No probability for what is no tag."""
    allowed = torch.zeros(len(logits), dtype=torch.bool)
    allowed[[0, *(tag + 1 for tag in tags)]] = True
    return torch.where(allowed[:, None, None], logits, torch.tensor(-torch.inf))


@pytest.mark.parametrize("fit", ["warp", "crop"])
@pytest.mark.parametrize("tags", [True, False])
def test_masks_are_those_of_a_loop_by_hand(voc: Path, checkpoint: Path, tmp_path: Path, fit: str, tags: bool) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["training"]["options"]["fit"] = fit
    network = tmp_path / "network.pt"
    torch.save(content, network)
    make_masks(options(tmp_path / "out", network, voc, tags=tags, crf=False))
    found = masks(tmp_path / "out")
    squares = [(25, 25), (33, 33), (41, 41)]  # 0.75, 1 and 1.25 times 33, rounded
    own = [(18, 26), (24, 34), (30, 42)]
    for id_, labels in found.items():
        logits = logits_by_hand(network, image(voc, id_), own if fit == "crop" else squares)
        if tags:
            logits = restricted(logits, VOC_TAGS[id_])
        two = logits.topk(2, dim=0).values
        sure = (two[0] - two[1] > 1e-4).numpy()
        assert sure.mean() > 0.99
        assert np.array_equal(labels[sure], logits.argmax(0).numpy()[sure]), id_
    assert len({label for labels in found.values() for label in np.unique(labels).tolist()}) > 1


def test_the_crf_sees_the_whole_image_and_leaves_out_other_classes(voc: Path, checkpoint: Path, tmp_path: Path) -> None:
    make_masks(options(tmp_path / "crf", checkpoint, voc))
    make_masks(options(tmp_path / "plain", checkpoint, voc, crf=False))
    with_crf, plain = masks(tmp_path / "crf"), masks(tmp_path / "plain")
    assert any(not np.array_equal(with_crf[id_], plain[id_]) for id_ in plain)
    for id_, labels in with_crf.items():
        logits = restricted(logits_by_hand(checkpoint, image(voc, id_), [(25, 25), (33, 33), (41, 41)]), VOC_TAGS[id_])
        energies = -logits.softmax(0).clamp_min(1e-5).log()
        energies[torch.isinf(logits)] = 1e3
        kernels = {"gaussian_px": 3.0, "gaussian_weight": 3.0, "bilateral_px": 80.0, "bilateral_rgb": 13.0}
        refined = crf_refine(energies[None], image(voc, id_), steps=10, **kernels, bilateral_weight=10.0)[0]
        two = refined.topk(2, dim=0).values
        sure = (two[0] - two[1] > 1e-3).numpy()
        assert sure.mean() > 0.9
        assert np.array_equal(labels[sure], refined.argmax(0).numpy()[sure]), id_


def test_a_mask_has_the_size_of_its_image_and_the_networks_classes(voc: Path, checkpoint: Path, tmp_path: Path) -> None:
    folder = make_masks(options(tmp_path, checkpoint, voc))
    assert folder.classes == VOC_CLASSES
    found = masks(tmp_path)
    assert len(found) == 5
    for id_, labels in found.items():
        assert labels.shape == (24, 34)
        assert set(np.unique(labels)) <= {0, *(tag + 1 for tag in VOC_TAGS[id_])}


class _StopError(Exception):
    """A run that is killed."""


def _stop_after(count: int) -> Iterator[None]:
    yield from [None] * (count - 1)
    raise _StopError


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """The files that are in it now stay as they are."""
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    assert before
    yield
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_interrupted_prediction_goes_on_and_ends_the_same(voc: Path, checkpoint: Path, tmp_path: Path) -> None:
    whole = adapt_segmenter(options(tmp_path / "whole", checkpoint, voc))
    stops = _stop_after(2)
    with pytest.raises(_StopError):
        make_masks(options(tmp_path / "parts", checkpoint, voc), lambda *_: next(stops))
    assert len(masks(tmp_path / "parts")) == 2
    with untouched(tmp_path / "parts" / "masks"):
        parts = adapt_segmenter(options(tmp_path / "parts", checkpoint, voc))
    wanted, found = masks(tmp_path / "whole"), masks(tmp_path / "parts")
    assert wanted.keys() == found.keys()
    assert all(np.array_equal(wanted[id_], found[id_]) for id_ in wanted)
    assert all(torch.equal(value, weights(parts)[name]) for name, value in weights(whole).items())


def test_an_interrupted_training_goes_on_and_ends_the_same(voc: Path, checkpoint: Path, tmp_path: Path) -> None:
    common = {"steps": 5, "checkpoint_steps": 1, "fit": "crop"}
    whole = weights(adapt_segmenter(options(tmp_path / "whole", checkpoint, voc, **common)))
    stopped = weights(adapt_segmenter(options(tmp_path / "parts", checkpoint, voc, **common, stop_at_step=2)))
    with untouched(tmp_path / "parts" / "masks"):
        parts = weights(adapt_segmenter(options(tmp_path / "parts", checkpoint, voc, **common)))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(not torch.equal(stopped[name], parts[name]) for name in whole)


def test_the_training_is_that_on_the_masks_at_a_reduced_rate(voc: Path, checkpoint: Path, tmp_path: Path) -> None:
    adapted = adapt_segmenter(options(tmp_path / "adapted", checkpoint, voc))
    by_hand = SegmenterTraining(
        out=tmp_path / "by-hand",
        images=voc,
        list="trainval",
        cues=tmp_path / "adapted" / "masks",
        method="labels",
        start_from=checkpoint,
        width=0.25,
        side_px=SIDE,
        steps=4,
        batch_size=2,
        optimiser="adamw",
        learning_rate=1e-4,
        schedule="poly",
        workers=0,
        accelerator="cpu",
    )
    wanted = weights(train_segmenter(by_hand))
    assert all(torch.equal(value, wanted[name]) for name, value in weights(adapted).items())
    facts = torch.load(adapted, weights_only=True)["training"]["options"]
    assert (facts["learning_rate"], facts["method"], facts["fit"]) == (1e-4, "labels", "warp")


def test_retraining_is_dsrgs_second_step(voc: Path, checkpoint: Path, tmp_path: Path) -> None:
    quick = {"list": "train", "steps": 3, "batch_size": 3, "workers": 0, "accelerator": "cpu"}
    given = SegmenterRetraining(out=tmp_path, checkpoint=checkpoint, images=voc, **quick)  # type: ignore[arg-type]
    facts = torch.load(adapt_segmenter(given), weights_only=True)["training"]["options"]
    assert (facts["fit"], facts["learning_rate"], facts["schedule"]) == ("crop", 2e-2, "poly")
    assert len(masks(tmp_path)) == len(TRAIN)


def test_masks_of_another_network_or_of_other_options_are_not_gone_on_with(
    voc: Path, checkpoint: Path, tmp_path: Path
) -> None:
    other = first_training(tmp_path / "other", voc, seed=1)
    given = options(tmp_path / "out", checkpoint, voc)
    make_masks(given)
    for changed in ({"checkpoint": other}, {"tags": False}, {"scales": (1.0,)}, {"crf": False}):
        with untouched(tmp_path / "out" / "masks"), pytest.raises(RunMismatchError, match="another network or other"):
            make_masks(replace(given, **changed))
    make_masks(replace(given, checkpoint=other, resume=False))
    make_masks(replace(given, checkpoint=other, out=tmp_path / "fresh"))
    within = tmp_path / "out" / "network.pt"
    within.write_bytes(other.read_bytes())
    for resume in (True, False):
        with pytest.raises(RunMismatchError, match=r"a folder without them; give one$"):
            make_masks(replace(given, checkpoint=within, scales=(1.0,), resume=resume))
    anew, fresh = masks(tmp_path / "out"), masks(tmp_path / "fresh")
    assert all(np.array_equal(anew[id_], fresh[id_]) for id_ in fresh)


def test_a_folder_of_something_else_is_left_alone(voc: Path, checkpoint: Path, tmp_path: Path) -> None:
    save(tmp_path / "masks" / "2007_000001.png", b"a mask of `f2f segment`")
    for out in (tmp_path, checkpoint.parent):
        for resume in (True, False):
            with pytest.raises(RunMismatchError, match="a folder without them; give one"):
                make_masks(options(out, checkpoint, voc, resume=resume))
    assert (tmp_path / "masks" / "2007_000001.png").read_bytes() == b"a mask of `f2f segment`"


def test_images_without_tags_need_no_tags(voc: Path, checkpoint: Path, tmp_path: Path) -> None:
    bare = write_voc(tmp_path)
    save(bare / "Annotations" / "2007_000001.xml", annotation(()))
    with pytest.raises(UsageError, match=r"1 of 5 images of .* have no tag \(2007_000001\)"):
        make_masks(options(tmp_path / "out", checkpoint, bare))
    assert not (tmp_path / "out").exists()
    make_masks(options(tmp_path / "out", checkpoint, bare, tags=False))
    assert len(masks(tmp_path / "out")) == 5


def test_wrong_networks_are_refused(voc: Path, tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    save_network(path, "classifier", CamClassifier(["dog"], width=0.25))
    with pytest.raises(UsageError, match=r"holds classifier; give the network\.pt of `f2f train segmenter`"):
        make_masks(options(tmp_path / "out", path, voc))
    network = segmenter("small", ["dog"], 0.25)
    facts = {"name": "small", "classes": ["dog"], "width": 0.25}
    save_network(path, "segmenter", network, **facts, training={})
    with pytest.raises(UsageError, match="does not say the learning_rate, optimiser, weight_decay, side_px, flip of"):
        make_masks(options(tmp_path / "out", path, voc))
    told = {"learning_rate": 1e-3, "optimiser": "sgd", "weight_decay": 0.0, "side_px": SIDE, "flip": True}
    save_network(path, "segmenter", network, **facts, training={"options": told})
    with pytest.raises(UsageError, match="has the classes dog; accepted: aeroplane, bicycle"):
        make_masks(options(tmp_path / "out", path, voc))
    assert not (tmp_path / "out").exists()


def test_a_network_of_no_numbers_predicts_nothing(voc: Path, checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    for value in content["state_dict"].values():
        value.mul_(torch.nan) if value.is_floating_point() else value
    torch.save(content, tmp_path / "broken.pt")
    with pytest.raises(UsageError, match=r"predicts nothing for .*2007_000001\.jpg \(the segmenter's logits"):
        make_masks(options(tmp_path / "out", tmp_path / "broken.pt", voc))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rate_factor": 0.0}, "rate-factor is 0.0; accepted"),
        ({"scales": ()}, r"scales is \(\); accepted"),
        ({"scales": (1.0, -1.0)}, r"scales is \(1.0, -1.0\); accepted"),
    ],
)
def test_wrong_options_are_refused(voc: Path, checkpoint: Path, given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options(Path("out"), checkpoint, voc, **given)


def test_the_commands(voc: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--steps", "2", "--batch-size", "3", "--workers", "0", "--accelerator", "cpu"]
    for command in ("adapt", "retrain"):
        out = tmp_path / command
        given = ["--checkpoint", str(checkpoint), "--images", str(voc), "--out", str(out), *quick]
        assert main([command, *given]) == 0
        assert capsys.readouterr().out == f"wrote {out / 'network.pt'}\n"
