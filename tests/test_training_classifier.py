"""Training of classifiers: CAM and FickleNet, on any backbone, what the file keeps, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from segmentation_material import TRAIN, save, write_voc
from test_training_data import write_tagged_images

from f2f.engine.cli import main
from f2f.engine.errors import UsageError
from f2f.training.checkpoint import new_classifier, read_classifier, save_classifier, save_network, without_chance
from f2f.training.classifier import CamClassifier
from f2f.training.classifier_data import read_classifier_images
from f2f.training.optimisers import one_cycle, parameter_groups, poly, sgd
from f2f.training.options import BackboneName, ClassifierMethod, ClassifierTraining
from f2f.training.segmentation.backbones import backbone
from f2f.training.segmentation.ficklenet import FickleNet
from f2f.training.segmentation.voc import VOC_CLASSES
from f2f.training.train import train_classifier

QUICK: dict[str, Any] = {
    "steps": 4,
    "batch_size": 2,
    "crop_height_px": 40,
    "crop_width_px": 48,
    "min_side_px": 40,
    "max_side_px": 48,
    "width": 0.125,
    "window": 3,
    "checkpoint_steps": 1,
    "workers": 0,
    "accelerator": "cpu",
}


def options(folder: Path, out: Path, **changes: Any) -> ClassifierTraining:
    return ClassifierTraining(images=folder, out=out, **(QUICK | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tagged_images(tmp_path_factory.mktemp("data") / "images")


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_classifier(path)[0].state_dict()


@pytest.mark.parametrize(
    "changes",
    [{"method": "ficklenet"}, {"dropout": 0.5}, {"method": "ficklenet", "optimiser": "sgd"}],
    ids=["ficklenet", "dropout", "sgd"],
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = weights(train_classifier(options(folder, tmp_path / "whole", **changes)))
    torch.manual_seed(7)  # what chance does elsewhere has no part in it
    stopped = weights(train_classifier(options(folder, tmp_path / "parts", **changes, stop_at_step=2)))
    torch.manual_seed(8)
    parts = weights(train_classifier(options(folder, tmp_path / "parts", **changes)))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(not torch.equal(stopped[name], parts[name]) for name in whole)


def test_ficklenet_learns_a_few_images(folder: Path, tmp_path: Path) -> None:
    learning = {"steps": 60, "batch_size": 8, "learning_rate": 5e-3, "width": 0.25, "checkpoint_steps": 60}
    crops = {"crop_height_px": 48, "crop_width_px": 80, "min_side_px": 56, "max_side_px": 64}
    path = train_classifier(options(folder, tmp_path, method="ficklenet", rate=0.5, **learning, **crops))
    network, training = read_classifier(path)
    assert isinstance(network, FickleNet)
    assert (network.to_classes.window, network.to_classes.rate) == (3, 0.5)
    assert training["held_out"]["mean_average_precision"] == 1
    assert training["held_out"]["cams"] is None  # there are no masks
    assert training["options"]["width"] == 0.25


@pytest.mark.parametrize("network", ["vgg16", "resnet50"])
def test_published_training_on_voc(tmp_path: Path, network: BackboneName, capsys: pytest.CaptureFixture[str]) -> None:
    voc = write_voc(tmp_path / "data")
    command = ["train", "classifier", str(voc.parents[1]), "--out", str(tmp_path / "out"), "--val-list", "trainval"]
    flags = {**QUICK, "network": network, "optimiser": "sgd", "steps": 1, "hue-jitter": 0.1}
    flat = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert main([*command, *flat]) == 0
    assert "5 images: mean average precision" in capsys.readouterr().out
    classifier, training = read_classifier(tmp_path / "out" / "network.pt")
    assert (classifier.classes, classifier.backbone_name) == (VOC_CLASSES, network)
    assert training["train_images"] == len(TRAIN)
    settled = {name: training["options"][name] for name in ("schedule", "learning_rate", "weight_decay", "dropout")}
    assert settled == {"schedule": "poly", "learning_rate": 1e-3, "weight_decay": 5e-4, "dropout": 0.5}
    assert training["held_out"]["masks"] == 7


def test_what_is_left_open_follows_from_network_and_optimiser(tmp_path: Path) -> None:
    small = ClassifierTraining(images=tmp_path, out=tmp_path).settled()
    assert (small.width, small.dropout, small.learning_rate, small.schedule) == (0.75, 0.1, 2e-3, "one-cycle")
    given = ClassifierTraining(images=tmp_path, out=tmp_path, network="vgg16", dropout=0.0, schedule="poly").settled()
    assert (given.width, given.dropout, given.weight_decay, given.schedule) == (1.0, 0.0, 1e-2, "poly")


@pytest.mark.parametrize("method", ["cam", "ficklenet"])
@pytest.mark.parametrize("name", ["small", "vgg16", "resnet50", "resnet101"])
def test_a_checkpoint_keeps_its_network(tmp_path: Path, name: BackboneName, method: ClassifierMethod) -> None:
    made = new_classifier(options(tmp_path, tmp_path, network=name, method=method, rate=0.25).settled(), ["a", "b"])
    made = made.eval()
    save_classifier(tmp_path / "network.pt", made, {"seed": 3})
    read, training = read_classifier(tmp_path / "network.pt")
    assert (type(read), read.classes, read.backbone_name, read.width) == (type(made), ("a", "b"), name, 0.125)
    assert training == {"seed": 3}
    assert not read.training
    image = torch.rand(1, 3, 40, 48)
    with torch.no_grad():
        torch.manual_seed(1)
        wanted = made.cam(image)
        torch.manual_seed(1)
        assert torch.equal(read.cam(image), wanted)


def test_weights_come_below_the_head(tmp_path: Path) -> None:
    source = backbone("vgg16", 0.125)
    state = source.state_dict() | {"classifier.6.weight": torch.zeros(2, 2)}
    torch.save(state, tmp_path / "vgg16.pth")
    given = {"network": "vgg16", "weights": tmp_path / "vgg16.pth"}
    for method in ("cam", "ficklenet"):
        made = new_classifier(options(tmp_path, tmp_path, **given, method=method).settled(), ["a"])
        loaded = made.backbone.state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in source.state_dict().items())
    with pytest.raises(UsageError, match=r"vgg16\.pth does not fit Backbone: features\.0\.weight is \(8, 3, 3, 3\)"):
        new_classifier(options(tmp_path, tmp_path, **given | {"width": 0.25}).settled(), ["a"])
    with pytest.raises(UsageError, match=r"vgg16\.pth does not fit Backbone: missing .*bn1"):
        new_classifier(options(tmp_path, tmp_path, **given | {"network": "resnet50"}).settled(), ["a"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "boost"}, "is of the method 'boost'; accepted: cam, ficklenet"),
        ({"width": 0.25}, r"network\.pt does not fit CamClassifier"),
        ({"method": "ficklenet", "window": 3, "rate": 0.5, "rescale": True}, r"network\.pt does not fit FickleNet"),
    ],
)
def test_checkpoints_that_contradict_themselves_are_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    facts = {"classes": ["a"], "width": 0.125, "training": {}} | changes
    save_network(tmp_path / "network.pt", "classifier", CamClassifier(["a"], 0.125), **facts)
    with pytest.raises(UsageError, match=reason):
        read_classifier(tmp_path / "network.pt")


def test_a_checkpoint_without_its_facts_is_refused(tmp_path: Path) -> None:
    save_network(tmp_path / "network.pt", "classifier", CamClassifier(["a"], 0.125))
    with pytest.raises(UsageError, match="does not say its classes, width, training; train the network again"):
        read_classifier(tmp_path / "network.pt")


@pytest.mark.parametrize("rescale", [True, False])
def test_without_chance_a_ficklenet_is_the_mean_over_draws(rescale: bool) -> None:
    network = FickleNet(["a", "b"], "small", 0.125, window=3, rate=0.5, rescale=rescale).eval()
    torch.nn.init.normal_(network.to_classes.weight, std=0.1)
    image = torch.rand(1, 3, 40, 48)
    with torch.no_grad():
        _, plain = without_chance(network)(image)
        products = network.to_classes.products(network.backbone(image)).expand(3000, -1, -1, -1, -1)
        draws = network.to_classes.select(products, network.to_classes.draw(3000, products))
    error, deviation = (draws.mean(0) - plain[0]).abs(), draws.std(0)
    assert (error < 5 * deviation / 3000**0.5 + 1e-6).all()
    assert deviation.max() > 10 * error.max()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"window": 4}, "window is 4; accepted: an odd number"),
        ({"rate": 1.5}, "rate is 1.5; accepted: 0"),
        ({"hue_jitter": 0.6}, "hue-jitter is 0.6; accepted: 0"),
        ({"width": 0.0}, "width is 0.0; accepted: a number above 0"),
        ({"weight_decay": -1.0}, "weight-decay is -1.0; accepted: 0"),
        ({"seed": -1}, "seed is -1; accepted: 0"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        options(tmp_path, tmp_path, **changes)


def test_voc_needs_tags_and_a_folder_of_tags_may_show_nothing(folder: Path, tmp_path: Path) -> None:
    assert read_classifier_images(folder).train.images[2].tags == ()
    voc = write_voc(tmp_path)
    (voc / "Annotations" / f"{TRAIN[0]}.xml").unlink()
    with pytest.raises(UsageError, match=rf"1 of 3 images of .* have no tag \({TRAIN[0]}\)"):
        read_classifier_images(voc)


def test_lists_are_chosen_by_name_or_file(folder: Path, tmp_path: Path) -> None:
    images = read_classifier_images(folder, "val", str(save(tmp_path / "few.txt", "i1\ni3\n")))
    assert [len(images.train.images), [one.id for one in images.val.images]] == [4, ["i1", "i3"]]
    with pytest.raises(UsageError, match=r"trainaug\.txt cannot be read"):
        read_classifier_images(folder, "trainaug")


def test_a_class_that_training_does_not_show_is_refused(tmp_path: Path) -> None:
    folder = write_tagged_images(tmp_path / "images")
    (folder / "tags.csv").write_text((folder / "tags.csv").read_text().replace("i9,deer", "i9,okapi"))
    with pytest.raises(UsageError, match="tags i9 'okapi', which no image of the training list shows"):
        read_classifier_images(folder)


def test_the_head_and_biases_learn_faster_and_only_weights_decay() -> None:
    network = CamClassifier(["a"], 0.125, backbone_name="vgg16")
    optimiser = sgd(network, 1e-3, 5e-4, network.head_parameters())
    found = {id(group["params"][0]): (group["lr"], group["weight_decay"]) for group in optimiser.param_groups}
    for name, value in network.named_parameters():
        rate = 1e-3 * (10 if name.startswith("head") else 1) * (2 if name.endswith("bias") else 1)
        assert found[id(value)] == (pytest.approx(rate), 0.0 if name.endswith("bias") else 5e-4), name
    assert optimiser.param_groups[0]["momentum"] == 0.9


def test_schedules_end_at_nothing() -> None:
    layer = torch.nn.Linear(2, 2)
    head = [layer.get_parameter("weight")]
    for schedule in (poly, one_cycle):
        optimiser = torch.optim.SGD(parameter_groups(layer, 1.0, 0.0, head))
        scheduler = schedule(optimiser, 10)
        rates = []
        for _ in range(10):
            rates.append([group["lr"] for group in optimiser.param_groups])
            optimiser.step()
            scheduler.step()
        assert all(first == pytest.approx(10 * second) for first, second in rates)
        assert scheduler.get_last_lr()[1] < 1e-3
        if schedule is poly:
            assert rates[5][1] == pytest.approx(0.5**0.9)
        else:
            assert max(rate for _, rate in rates) == pytest.approx(1.0, rel=0.05)
