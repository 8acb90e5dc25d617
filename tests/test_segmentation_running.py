"""How a training of a segmenter runs: processes, precision, pictures, frozen norm, weights to start from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as T
from PIL import Image
from safetensors.torch import save_file
from segmentation_material import write_run, write_voc
from torch import Tensor, nn

from f2f.engine.errors import MachineError, UsageError
from f2f.engine.write import voc_palette
from f2f.training.segmentation import methods
from f2f.training.segmentation.deeplab import Segmenter, segmenter
from f2f.training.segmentation.dense_crf import refine
from f2f.training.segmentation.growing import grow
from f2f.training.segmentation.images import LabelledSet
from f2f.training.segmentation.losses import floored_shares, with_floor
from f2f.training.segmentation.pictures import batch_picture
from f2f.training.segmentation.sampling import Sample, read_picture
from f2f.training.segmentation.train import train_segmenter
from f2f.training.segmentation.training_options import Method, SegmenterName, SegmenterTraining
from f2f.training.segmentation.vgg_head import load_fully_connected
from f2f.training.segmentation.voc import read_voc


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("voc"))


def options(out: Path, **given: object) -> SegmenterTraining:
    quick = {"steps": 3, "batch_size": 2, "side_px": 33, "width": 0.25, "workers": 0, "method": "labels"}
    return SegmenterTraining(out=out, **(quick | {"accelerator": "cpu"} | given))  # type: ignore[arg-type]


def weights(out: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(out / "network.pt", weights_only=True)["state_dict"]
    return state


@pytest.mark.slow
def test_two_processes_train_what_one_does(voc: Path, tmp_path: Path) -> None:
    """From the command line, whose processes share each batch; the losses of SEC are means over images."""
    common = {"method": "sec", "network": "resnet50-aspp", "width": 0.125, "freeze_norm": "yes", "batch_size": 4}
    train_segmenter(options(tmp_path / "one", images=voc, **common))
    script = tmp_path / "run_f2f.py"  # what the installed `f2f` is
    script.write_text("import sys\nfrom f2f.engine.cli import main\nsys.exit(main())\n")
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in common.items()]
    flags += ["--steps=3", "--side-px=33", "--workers=0", "--accelerator=cpu", "--devices=2"]
    command = [
        sys.executable,
        str(script),
        "train",
        "segmenter",
        f"--images={voc}",
        f"--out={tmp_path / 'two'}",
        *flags,
    ]
    single = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=single, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {tmp_path / 'two' / 'network.pt'}\n", "only one process answers"
    assert len([line for line in done.stderr.splitlines() if line.startswith("step 3/3, loss ")]) == 1, done.stderr
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_processes_must_share_a_batch_evenly(voc: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch-size is 2; accepted: a multiple of 4, as each of 4 processes"):
        train_segmenter(options(tmp_path, images=voc, devices=4))


@pytest.mark.parametrize("method", ["sec", "dsrg"])
def test_losses_are_those_of_float32_where_convolutions_are_bf16(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Method
) -> None:
    found: list[methods.Losses] = []
    plain = methods.METHODS[method]

    def noting(logits: Tensor, *rest: Tensor) -> methods.Losses:
        assert logits.dtype == torch.float32
        assert (torch.ones(3, 3) @ torch.ones(3, 3)).dtype == torch.float32, "autocast reaches the losses"
        found.append(plain(logits, *rest))
        assert all(value.dtype == torch.float32 for value in found[-1].values())
        return found[-1]

    monkeypatch.setitem(methods.METHODS, method, noting)
    seen: list[torch.dtype] = []
    forward = Segmenter.forward

    def noting_forward(self: Segmenter, image: Tensor) -> Tensor:
        logits = forward(self, image)
        seen.append(logits.dtype)
        return logits

    monkeypatch.setattr(Segmenter, "forward", noting_forward)
    for precision in ("fp32", "bf16"):
        given = {"method": method, "steps": 1, "precision": precision}
        train_segmenter(options(tmp_path / precision, images=voc, **given))
    assert seen == [torch.float32, torch.bfloat16]
    for name, value in found[0].items():
        assert not torch.equal(value, found[1][name]), name
        torch.testing.assert_close(value, found[1][name], rtol=0.02, atol=1e-3, msg=name)


def test_too_little_memory_names_what_was_given(voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Segmenter, image: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Segmenter, "forward", full)
    with pytest.raises(MachineError, match=r"given: batch-size 2, side-px 33, width 0\.25, precision fp32, devices 1;"):
        train_segmenter(options(tmp_path, images=voc))


def test_pictures_are_left_at_their_steps(voc: Path, tmp_path: Path) -> None:
    train_segmenter(options(tmp_path, images=voc, method="dsrg", picture_steps=2))
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["step-000002.png"]
    with Image.open(tmp_path / "pictures" / "step-000002.png") as picture:
        assert picture.size == (5 * 33, 2 * 33)
    train_segmenter(options(tmp_path / "none", images=voc, picture_steps=0))
    assert not (tmp_path / "none" / "pictures").exists()


@pytest.mark.parametrize(("method", "panels"), [("sec", 4), ("dsrg", 5), ("labels", 3)])
def test_a_picture_shows_samples_of_the_whole_batch(method: Method, panels: int) -> None:
    count, side = 7, 16
    image, logits = torch.rand(count, 3, side, side), torch.randn(count, 3, 2, 2) * 5
    seeds = torch.randint(0, 3, (count, 2, 2))
    seeds[:, 0, 0] = 255
    tags = torch.ones(count, 2, dtype=torch.bool)
    batch = Sample(image, seeds, tags, torch.ones(count), torch.zeros(count))  # type: ignore[arg-type]
    cells = methods.at_cells(image, logits)
    picture = batch_picture(batch, logits, cells, method)
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, 4 * side, panels * side)
    rows = picture.view(3, 4, side, panels, side).permute(1, 3, 2, 4, 0).numpy()  # [n,p,H,W,3]
    palette = np.array(voc_palette(), np.uint8).reshape(256, 3)
    found = nn.functional.interpolate(logits, (side, side), mode="bilinear", align_corners=False).argmax(1)
    for row, number in zip(rows, (0, 2, 4, 6), strict=True):
        np.testing.assert_allclose(row[0], image[number].permute(1, 2, 0) * 255, atol=0.51)
        np.testing.assert_array_equal(row[1], palette[seeds[number].repeat_interleave(8, 0).repeat_interleave(8, 1)])
        np.testing.assert_array_equal(row[-1], palette[found[number]])
    if method == "dsrg":
        refined = with_floor(refine(-floored_shares(logits), cells))
        grown = grow(refined, seeds, tags)
        np.testing.assert_array_equal(rows[1, 2, 4::8, 4::8], palette[grown[2]])


def test_a_picture_of_a_network_that_went_astray_can_be_drawn() -> None:
    batch = Sample(torch.rand(1, 3, 8, 8), torch.zeros(1, 1, 1).long(), torch.ones(1, 2).bool(), torch.ones(1), 0)
    logits = torch.full((1, 3, 1, 1), torch.nan)
    assert batch_picture(batch, logits, torch.rand(1, 3, 1, 1), "dsrg").shape == (3, 8, 40)


@pytest.mark.parametrize(("freeze_norm", "frozen"), [("auto", True), ("yes", True), ("no", False)])
def test_norm_of_a_resnet_that_starts_from_weights_stays_as_it_is(
    voc: Path, tmp_path: Path, freeze_norm: str, frozen: bool
) -> None:
    small = {"network": "resnet50-aspp", "width": 0.125, "steps": 1}
    first = train_segmenter(options(tmp_path / "first", images=voc, **small))
    train_segmenter(options(tmp_path / "next", images=voc, start_from=first, freeze_norm=freeze_norm, **small))
    start, end = weights(tmp_path / "first"), weights(tmp_path / "next")
    same = {name for name in start if torch.equal(start[name], end[name])}
    norm = {name for name in start if ".bn" in name or "downsample.1." in name}
    assert norm <= same if frozen else not norm & {name for name in same if "running" in name}
    assert not {name for name in start if "conv" in name or "branches" in name} & same, "the rest learns"


def test_norm_learns_where_nothing_else_is_said(tmp_path: Path) -> None:
    resnet, start = options(tmp_path, images=tmp_path, network="resnet50-aspp"), Path("network.pt")
    assert not resnet.norm_is_frozen
    assert options(tmp_path, images=tmp_path, network="resnet50-aspp", weights=start).norm_is_frozen
    assert not options(tmp_path, images=tmp_path, start_from=start).norm_is_frozen, "small has nothing else to scale by"


def vgg_weights(**changes: Tensor) -> dict[str, Tensor]:
    """A linear layer of VGG-16 as torchvision stores it, each weight its own number, up to rounding."""
    shapes = {"classifier.0": (4096, 25088), "classifier.3": (4096, 4096)}
    state = {f"{name}.weight": torch.empty(shape).uniform_(-1, 1) for name, shape in shapes.items()}
    return state | {f"{name}.bias": torch.rand(4096) for name in shapes} | changes


@pytest.mark.parametrize("name", ["vgg16-largefov", "vgg16-aspp"])
def test_fully_connected_layers_are_thinned_out(name: SegmenterName) -> None:
    """By brute force: the sums over the kept inputs alone."""
    network, state = segmenter(name, ["cat"]).eval(), vgg_weights()
    assert load_fully_connected(network, state)
    window = torch.zeros(512, 7, 7)
    kept = torch.rand(512, 3, 3)
    window[:, ::3, ::3] = kept
    hidden = (state["classifier.0.weight"] @ window.flatten() + state["classifier.0.bias"])[::4].relu()  # [1024]
    spread = torch.zeros(4096)
    spread[::4] = hidden
    wanted = (state["classifier.3.weight"] @ spread + state["classifier.3.bias"])[::4]
    for branch in network.scores.branches:
        fc6, *_ = layers = list(branch.children())
        assert isinstance(fc6, nn.Conv2d)
        step = fc6.dilation[0]
        features = torch.zeros(1, 512, 2 * step + 1, 2 * step + 1)
        features[0, :, ::step, ::step] = kept
        with torch.inference_mode():
            found = nn.Sequential(*layers[:4])(features)[0, :, step, step]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


def test_a_file_without_them_leaves_the_head_random(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vgg16.safetensors"
    save_file(dict(segmenter("vgg16-largefov", ["cat"], 0.125).backbone.state_dict()), path)
    train_segmenter(options(tmp_path, images=voc, network="vgg16-largefov", width=0.125, weights=path, steps=1))
    assert f"{path} has no classifier.0 and classifier.3 of VGG-16" in capsys.readouterr().err
    network = segmenter("vgg16-largefov", ["cat"], 0.125)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert not load_fully_connected(network, {})
    assert not load_fully_connected(network, {"classifier.0.weight": torch.zeros(4096, 9)})
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def score_by_hand(network: Segmenter, images: LabelledSet, side_px: int) -> list[float]:
    """IoU of every label that occurs: pixel sets of all images."""
    right, either = np.zeros(21), np.zeros(21)
    for image in images.images:
        truth = images.labels(image)
        picture = T.resize(read_picture(image), [side_px, side_px], antialias=True)[None]
        with torch.inference_mode():
            logits = nn.functional.interpolate(network(picture), truth.shape, mode="bilinear", align_corners=False)
        found = logits[0].argmax(0).numpy()
        for label in range(21):
            right[label] += ((found == label) & (truth == label)).sum()
            either[label] += (((found == label) | (truth == label)) & (truth != 255)).sum()
    return [float(one / all_) for one, all_ in zip(right, either, strict=True) if all_]


@pytest.mark.parametrize("workers", [0, 1])
def test_held_out_images_score_the_network(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    given = {"images": voc, "val": voc, "val_steps": 2, "workers": workers, "learning_rate": 1e-2}
    path = train_segmenter(options(tmp_path, **given))
    content = torch.load(path, weights_only=True)
    scores = content["training"]["held_out"]
    network = segmenter("small", content["classes"], 0.25)
    network.load_state_dict(content["state_dict"])
    wanted = score_by_hand(network.eval(), read_voc(voc, "val"), 33)
    assert [value for value in scores["iou"].values() if value is not None] == pytest.approx(wanted, abs=1e-3)
    assert scores["mean_iou"] == pytest.approx(np.mean(wanted), abs=1e-3)
    assert (scores["images"], list(scores["iou"])[:2]) == (2, ["background", "aeroplane"])
    lines = [line for line in capsys.readouterr().err.splitlines() if "mIoU" in line]
    assert [line.split(":")[0] for line in lines] == ["step 2", "step 3"]
    assert lines[-1] == f"step 3: mIoU {scores['mean_iou']:.4f} on 2 held-out images"
    table = (tmp_path / "logs" / "metrics.csv").read_text().splitlines()
    assert table[0].split(",") == ["miou", "step"]
    assert [line.split(",")[1] for line in table[1:]] == ["1", "2"]

    again = torch.load(train_segmenter(options(tmp_path, **given)), weights_only=True)  # nothing is left to do
    assert again["training"]["held_out"]["mean_iou"] == pytest.approx(scores["mean_iou"], abs=1e-3)


@pytest.mark.parametrize("network", ["small", "vgg16-largefov"])
def test_scoring_changes_nothing_about_the_training(voc: Path, tmp_path: Path, network: SegmenterName) -> None:
    """Also where it goes on, and where there is dropout."""
    common = {"images": voc, "network": network, "steps": 4, "width": 0.125, "checkpoint_steps": 1}
    scored = {**common, "val": voc, "val_steps": 1}
    train_segmenter(options(tmp_path / "plain", **common))
    train_segmenter(options(tmp_path / "parts", **scored, stop_at_step=2))
    train_segmenter(options(tmp_path / "parts", **scored))
    plain, parts = weights(tmp_path / "plain"), weights(tmp_path / "parts")
    assert all(torch.equal(plain[name], parts[name]) for name in plain)


def test_held_out_images_need_masks_and_known_classes(voc: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"1 of 1 images of .* have no label map \(2009_000003\)"):
        train_segmenter(options(tmp_path, images=voc, val=voc, val_list="test"))
    run = write_run(tmp_path / "run", ["dog"], [{"id": "a", "classes": ["dog"], "quality": 0.5}])
    with pytest.raises(UsageError, match="has the class 'aeroplane'; accepted: dog"):
        train_segmenter(options(tmp_path, videos=(run,), val=voc))
    with pytest.raises(UsageError, match="val-steps is 0; accepted"):
        options(tmp_path, images=voc, val=voc, val_steps=0)
