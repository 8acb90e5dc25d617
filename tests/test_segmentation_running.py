"""How a training of a segmenter runs: processes, precision, pictures, frozen norm, weights to start from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from segmentation_material import write_voc
from torch import Tensor, nn

from f2f.engine.errors import MachineError, UsageError
from f2f.engine.write import voc_palette
from f2f.training.segmentation import methods
from f2f.training.segmentation.deeplab import Segmenter, segmenter
from f2f.training.segmentation.growing import grow
from f2f.training.segmentation.losses import floored_shares, with_floor
from f2f.training.segmentation.pictures import batch_picture
from f2f.training.segmentation.sampling import Sample
from f2f.training.segmentation.train import train_segmenter
from f2f.training.segmentation.training_options import Method, SegmenterName, SegmenterTraining
from f2f.training.segmentation.vgg_head import load_fully_connected


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
    script = tmp_path / "f2f.py"  # what the installed `f2f` is
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

    monkeypatch.setitem(methods.METHODS, method, noting)  # type: ignore[arg-type]
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
        refined = with_floor(methods.refine(-floored_shares(logits), cells))
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
