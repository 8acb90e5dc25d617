"""Training of saliency: data in all layouts, what is learnt, going on, what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from saliency_material import picture_and_mask, write_pairs
from segmentation_material import TRAIN, VAL, save, save_image, write_voc

from f2f.engine.cli import main
from f2f.engine.errors import F2FError, UsageError
from f2f.training.checkpoint import save_network
from f2f.training.saliency.files import read_saliency, save_saliency
from f2f.training.saliency.images import read_for_training, read_salient
from f2f.training.saliency.loop import SaliencyLoop
from f2f.training.saliency.network import SaliencyNetwork, saliency_loss
from f2f.training.saliency.options import SaliencyTraining
from f2f.training.saliency.samples import SalientSamples
from f2f.training.saliency.train import train_saliency
from f2f.training.segmentation.backbones import backbone

QUICK: dict[str, Any] = {
    "steps": 4,
    "batch_size": 2,
    "side_px": 48,
    "width": 0.125,
    "checkpoint_steps": 1,
    "workers": 0,
    "accelerator": "cpu",
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pairs")
    return write_pairs(folder / "images", folder / "masks")


def options(pairs: tuple[Path, Path], out: Path, **changes: Any) -> SaliencyTraining:
    return SaliencyTraining(images=pairs[0], masks=pairs[1], out=out, **(QUICK | changes))


# ---- data


def test_pairs_of_two_folders_and_of_one(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    together = write_pairs(tmp_path, tmp_path)
    for folders in (pairs, together):
        found = read_salient(*folders, None)
        assert [image.id for image in found.images] == [f"image{number:02d}" for number in range(8)]
        for number, image in enumerate(found.images):
            np.testing.assert_array_equal(found.mask(image), picture_and_mask(number)[1])


@pytest.mark.parametrize("mode", ["1", "RGB", "LA", "P"])
def test_masks_of_any_mode(tmp_path: Path, mode: str) -> None:
    images, masks = write_pairs(tmp_path / "images", tmp_path / "masks", 1)
    mask = masks / "image00.png"
    Image.open(mask).convert(mode).save(mask)
    found = read_salient(images, masks, None)
    np.testing.assert_array_equal(found.mask(found.images[0]), picture_and_mask(0)[1])


def test_every_twentieth_image_is_held_out(tmp_path: Path) -> None:
    images, masks = write_pairs(tmp_path / "images", tmp_path / "masks", 42)
    training, held_out = read_for_training(images, masks, None, None)
    assert [image.id for image in held_out.images] == ["image00", "image20", "image40"]
    assert len(training.images) == 39
    assert not {*training.images} & {*held_out.images}
    listed = save(tmp_path / "val.txt", "image07.jpg\nimage03\n")
    training, held_out = read_for_training(images, masks, None, str(listed))
    assert [image.id for image in held_out.images] == ["image07", "image03"]
    assert len(training.images) == 40
    training, _ = read_for_training(images, masks, str(listed), str(listed))
    assert len(training.images) == 2


def test_everything_labelled_is_salient_in_voc(tmp_path: Path) -> None:
    voc = write_voc(tmp_path)
    training, held_out = read_for_training(voc, None, None, None)
    assert [[image.id for image in one.images] for one in (training, held_out)] == [[*TRAIN], [*VAL]]
    for image in training.images:
        assert training.labelled is not None
        labels, mask = training.labelled.labels(image), training.mask(image)
        assert {*np.unique(mask)} == {0, 1, 255}
        assert ((mask == 255) == (labels == 255)).all()
        assert ((mask == 1) == ((labels > 0) & (labels < 255))).all()


def test_samples_are_drawn_by_their_number_and_masks_lie_on_them(pairs: tuple[Path, Path]) -> None:
    samples = SalientSamples(read_salient(*pairs, None), 64, 0.0, seed=3)
    again = SalientSamples(read_salient(*pairs, None), 64, 0.0, seed=3)
    seen = []
    for number in (5, 0, 9, 5, 17):
        picture, mask = samples[number]
        assert torch.equal(picture, again[number][0])
        assert (picture.shape, mask.shape, mask.dtype) == ((3, 64, 64), (64, 64), torch.uint8)
        red = picture[0] > picture[1]
        assert (red == (mask == 1)).float().mean() > 0.97
        seen.append(mask)
    assert torch.equal(seen[0], seen[3])
    assert not torch.equal(seen[0], seen[1])
    epoch = [samples[number][1] for number in range(8)]
    assert {int(mask.sum()) for mask in epoch} == {int(samples[number][1].sum()) for number in range(8, 16)}


# ---- training


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_saliency(path)[0].state_dict()


@pytest.mark.parametrize("changes", [{}, {"optimiser": "sgd", "loss": "balanced"}], ids=["adamw", "sgd"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    pairs: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    whole = weights(train_saliency(options(pairs, tmp_path / "whole", **changes)))
    torch.manual_seed(7)  # what chance does elsewhere has no part in it
    stopped = weights(train_saliency(options(pairs, tmp_path / "parts", **changes, stop_at_step=2)))
    torch.manual_seed(8)
    parts = weights(train_saliency(options(pairs, tmp_path / "parts", **changes)))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(not torch.equal(stopped[name], parts[name]) for name in whole)
    with pytest.raises(UsageError, match="has seed 0; given: seed 1"):
        train_saliency(options(pairs, tmp_path / "parts", **changes, seed=1))


def test_it_learns_a_few_images(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    learning = {"steps": 60, "batch_size": 4, "width": 0.25, "learning_rate": 1e-2, "checkpoint_steps": 60}
    path = train_saliency(options(pairs, tmp_path, **learning))
    trained, facts = read_saliency(path)
    torch.manual_seed(0)
    samples = SalientSamples(read_salient(*pairs, None), 48, 0.0, seed=9)
    pictures, masks = (torch.stack(parts) for parts in zip(*(samples[number] for number in range(8)), strict=True))
    losses = []
    for network in (SaliencyNetwork(0.25, "small"), trained.network):
        with torch.no_grad():
            losses.append(float(saliency_loss(network.eval()(pictures), (masks == 1).float()[:, None])))
    assert losses[1] < 0.3 * losses[0]
    assert facts["held_out"]["images"] == 1
    assert facts["held_out"]["mae"] < 0.2
    assert facts["held_out"]["max_f"] > 0.75
    assert facts["held_out"]["safe_ground_found"] > 0.6
    assert facts["train_images"] == 7
    assert (facts["options"]["learning_rate"], facts["options"]["schedule"]) == (1e-2, "one-cycle")


def test_published_training_on_voc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voc = write_voc(tmp_path / "data")
    source = backbone("vgg16", 0.125)
    torch.save(source.state_dict() | {"classifier.6.weight": torch.zeros(2, 2)}, tmp_path / "vgg16.pth")
    flags = {**QUICK, "network": "vgg16", "optimiser": "sgd", "steps": 1, "precision": "bf16", "learning_rate": 1e-9}
    flat = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = ["train", "saliency", str(voc.parents[1]), "--out", str(tmp_path / "out")]
    assert main([*command, "--weights", str(tmp_path / "vgg16.pth"), *flat]) == 0
    assert "2 images: MAE 0." in capsys.readouterr().out
    network, facts = read_saliency(tmp_path / "out" / "network.pt")
    assert (network.network.backbone_name, network.side_px, facts["options"]["schedule"]) == ("vgg16", 48, "step")
    for name, value in source.state_dict().items():
        torch.testing.assert_close(network.network.backbone.state_dict()[name], value)


def test_by_sgd_maps_learn_slower_and_the_rate_drops_once(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    given = options(pairs, tmp_path, optimiser="sgd", steps=16).settled()
    network = SaliencyNetwork(0.125)
    loop = SaliencyLoop(network, given)
    optimiser = loop.optimiser()
    found = {id(group["params"][0]): (group["lr"], group["weight_decay"]) for group in optimiser.param_groups}
    for name, value in network.named_parameters():
        is_map = name.startswith(("joined", "fused")) or (name.startswith("own") and name.split(".")[2] == "4")
        rate = 1e-3 * (0.1 if is_map else 1) * (2 if name.endswith("bias") else 1)
        assert found[id(value)] == (pytest.approx(rate), 0.0 if name.endswith("bias") else 5e-4), name
    schedule, rates = loop.schedule(optimiser), []
    for _ in range(16):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates == pytest.approx([1e-3] * 10 + [1e-4] * 6)


def test_a_loss_that_is_no_number_stops_the_training(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(F2FError, match=r"the loss of step \d is (nan|inf); the last checkpoint stays; give a lower"):
        train_saliency(options(pairs, tmp_path, learning_rate=1e30))


# ---- what is refused


def without_a_mask(images: Path, masks: Path) -> None:
    (masks / "image01.png").unlink()


def of_another_size(images: Path, masks: Path) -> None:
    save_image(masks / "image01.png", np.zeros((5, 6), np.uint8))


def broken(images: Path, masks: Path) -> None:
    (masks / "image01.png").write_bytes(b"no picture")


def broken_image(images: Path, masks: Path) -> None:
    (images / "image01.jpg").write_bytes(b"no picture")


def empty(images: Path, masks: Path) -> None:
    shutil.rmtree(images)
    images.mkdir()


def twice(images: Path, masks: Path) -> None:
    shutil.copy(images / "image01.jpg", images / "image01.jpeg")


def missing(images: Path, masks: Path) -> None:
    shutil.rmtree(masks)


def single(images: Path, masks: Path) -> None:
    for number in range(1, 4):
        (images / f"image{number:02d}.jpg").unlink()


@pytest.mark.parametrize(
    ("damage", "workers", "reason"),
    [
        (
            without_a_mask,
            0,
            "1 of 4 images in .*images have no mask in .*masks (image01); accepted: <name>.png or .bmp",
        ),
        (of_another_size, 1, "image01.png is 6x5 px and .*image01.jpg is 56x40 px; accepted: two files of one size"),
        (broken, 0, "image01.png cannot be read as an image"),
        (broken_image, 0, "image01.jpg cannot be read as an image"),
        (empty, 0, "images .* holds no images; accepted: one or more"),
        (single, 0, "images .* without the held-out images holds no images"),
        (twice, 0, "image01.jpeg and image01.jpg have one name"),
        (missing, 0, "masks cannot be read (No such file or directory); give a folder of images"),
    ],
)
def test_broken_data_is_refused_plainly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: Callable[[Path, Path], None], workers: int, reason: str
) -> None:
    images, masks = write_pairs(tmp_path / "images", tmp_path / "masks", 4)
    damage(images, masks)
    flags = {**QUICK, "workers": workers}
    flat = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = ["train", "saliency", str(images), "--masks", str(masks), "--out", str(tmp_path / "out")]
    assert main([*command, *flat]) == 2
    told = capfd.readouterr().err
    assert "Traceback" not in told
    line = next(line for line in told.splitlines() if line.startswith("f2f: "))
    for part in reason.split(".*"):
        assert part in line


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": 0}, "steps is 0; accepted: a number above 0"),
        ({"side_px": 8}, "side-px is 8; accepted: 32 or more px"),
        ({"colour_jitter": 1.0}, r"colour-jitter is 1\.0; accepted: 0 \(none\) to below 1"),
        ({"weight_decay": -1.0}, r"weight-decay is -1\.0"),
        ({"stop_at_step": 9}, r"stop-at-step is 9; accepted: 0 \(at the end\) to 4"),
        ({"seed": -1}, "seed is -1"),
        ({"list": "train"}, "the list train is no file; accepted beside --masks: a file with a name per line"),
    ],
)
def test_wrong_options_are_refused(
    pairs: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        train_saliency(options(pairs, tmp_path, **changes))


def test_a_list_with_strange_names_is_refused(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    listed = save(tmp_path / "list.txt", "image01\nimage99\n")
    with pytest.raises(UsageError, match=r"list\.txt lists image99; .* has no such image; correct the list"):
        train_saliency(options(pairs, tmp_path, list=str(listed)))


def test_checkpoints_of_another_kind_or_shape_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    with pytest.raises(UsageError, match=r"does not exist; give the network\.pt of `f2f train saliency`"):
        read_saliency(path)
    save_network(path, "classifier", torch.nn.Linear(1, 1))
    with pytest.raises(UsageError, match=r"holds classifier; give the network\.pt of `f2f train saliency`"):
        read_saliency(path)
    save_network(path, "saliency", torch.nn.Linear(1, 1), width=1.0)
    with pytest.raises(UsageError, match="does not say its backbone_name, side_px, training; train the network again"):
        read_saliency(path)
    network = SaliencyNetwork(0.125, "small")
    network.width = 0.25
    save_saliency(path, network, 48, {})
    with pytest.raises(UsageError, match=r"network\.pt does not fit SaliencyNetwork"):
        read_saliency(path)
    facts: dict[str, Any] = {"width": 0.125, "side_px": 48, "training": {}}
    save_network(path, "saliency", network, **facts, backbone_name="vgg99")
    with pytest.raises(UsageError, match="is on the backbone 'vgg99'; accepted: vgg16, small; update f2f"):
        read_saliency(path)
