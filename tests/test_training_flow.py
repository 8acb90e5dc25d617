"""Flow training beside the loops: losses, schedules, what is logged and pictured, public data sets."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flow_folders import WRITERS, write_chairs
from PIL import Image
from torch import Tensor
from torchvision.utils import flow_to_image

from f2f.engine.cli import main
from f2f.engine.errors import UsageError
from f2f.training import pairs
from f2f.training.checkpoint import read_network
from f2f.training.loops import FlowLoop, flow_picture, upsampled
from f2f.training.losses import multiscale_flow_loss
from f2f.training.options import FlowTraining
from f2f.training.pwcnet import PWCNet
from f2f.training.train import train_flow


def _options(folder: Path, **changes: Any) -> FlowTraining:
    options: dict[str, Any] = {
        "out": folder / "run",
        "cache": folder / "pairs",
        "steps": 2,
        "batch_size": 1,
        "crop_height_px": 64,
        "crop_width_px": 64,
        "width": 0.05,
        "layer_share": 1.0,
        "layer_pairs": 4,
        "workers": 0,
        "accelerator": "cpu",
    }
    return FlowTraining(**(options | changes))


def _chairs(folder: Path) -> dict[str, Any]:
    return {"dataset": ("chairs",), "root": write_chairs(folder / "data")}


# ---- losses


def test_robust_loss_by_hand() -> None:
    """sum over levels of alpha times sum over pixels of (|du| + |dv| + 0.01)^0.4."""
    target = torch.zeros(2, 2, 64, 128)
    flows = [torch.zeros(2, 2, 64 >> level, 128 >> level) for level in (6, 5, 4, 3, 2)]
    for level, flow in enumerate(flows):
        flow[:, 0], flow[:, 1] = 0.3 + level, -0.2
    pixels = [(64 >> level) * (128 >> level) for level in (6, 5, 4, 3, 2)]
    weights = (0.32, 0.08, 0.02, 0.01, 0.005)
    wanted = sum(w * n * (0.5 + level + 0.01) ** 0.4 for level, (w, n) in enumerate(zip(weights, pixels, strict=True)))
    found = multiscale_flow_loss(flows, target, torch.ones(2, 1, 64, 128), "robust")
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_robust_loss_has_a_gradient_at_the_truth_and_ignores_unknown_pixels() -> None:
    flows = [torch.zeros(1, 2, 64 >> level, 64 >> level, requires_grad=True) for level in (6, 5, 4, 3, 2)]
    target, known = torch.zeros(1, 2, 64, 64), torch.ones(1, 1, 64, 64)
    torch.autograd.backward(multiscale_flow_loss(flows, target, known, "robust"))
    assert all(flow.grad is not None and torch.isfinite(flow.grad).all() for flow in flows)
    assert multiscale_flow_loss([flow + 1 for flow in flows], target, 0 * known, "robust") == 0


# ---- schedules


def _rates(options: FlowTraining) -> list[float]:
    """The learning rate of every step."""
    configured = FlowLoop(PWCNet(0.05), options).configure_optimizers()
    schedule: Any = configured["lr_scheduler"]["scheduler"]  # type: ignore[index]
    rates = []
    for _ in range(options.steps):
        rates.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return rates


def test_halving_schedule_halves_where_the_paper_does(tmp_path: Path) -> None:
    rates = _rates(_options(tmp_path, steps=12, schedule="halving", learning_rate=1.6e-3))
    wanted = [1.6e-3] * 4 + [0.8e-3] * 2 + [0.4e-3] * 2 + [0.2e-3] * 2 + [0.1e-3] * 2
    assert rates == pytest.approx(wanted)


def test_one_cycle_schedule_rises_to_its_peak_and_falls(tmp_path: Path) -> None:
    rates = _rates(_options(tmp_path, steps=30, learning_rate=1e-3))
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(1e-3, rel=0.05)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


# ---- logs and pictures


def _logged(loop: FlowLoop, monkeypatch: pytest.MonkeyPatch, found: Tensor, sample: Tensor) -> dict[str, float]:
    values: dict[str, float] = {}
    monkeypatch.setattr(loop, "log", lambda name, value, **_: values.update({name: float(value)}))
    monkeypatch.setattr(loop, "log_dict", lambda more: values.update({name: float(more[name]) for name in more}))
    loop._log_errors(found, sample[:, :2], sample[:, 2:])
    return values


def test_errors_are_logged_over_known_pixels_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = torch.zeros(1, 3, 4, 4)
    sample[:, 0], sample[:, 2, 0] = 100, 1  # 100 px to the right; the first row is known
    found = sample[:, :2].clone()
    found[0, 0, 0] += torch.tensor([0.0, 2, 4, 6])  # of these, 6 is more than 3 px and more than 5 %
    found[0, :, 1:] = 1e6
    values = _logged(FlowLoop(PWCNet(0.05), _options(tmp_path)), monkeypatch, found, sample)
    assert values == {"epe_px": 3.0, "outliers": 0.25, "zero_epe_px": 100.0}
    sample[:, 2] = 0
    values = _logged(FlowLoop(PWCNet(0.05), _options(tmp_path)), monkeypatch, found, sample)
    assert values == {"epe_px": 0.0, "outliers": 0.0, "zero_epe_px": 0.0}


def test_finest_flow_is_brought_to_px_of_the_crop() -> None:
    assert (upsampled(torch.full((1, 2, 4, 6), 0.5)) == torch.full((1, 2, 16, 24), 10.0)).all()


def test_panels_of_a_picture() -> None:
    """First frame, second frame, true flow, found flow, error."""
    frames = torch.stack([torch.zeros(3, 8, 12), torch.ones(3, 8, 12)])
    true, known = torch.zeros(2, 8, 12), torch.ones(8, 12)
    true[0], true[0, :, 6:] = 4, 2
    found = true.clone()
    found[0, 0] += 2.5
    known[7] = 0
    panels = torch.split(flow_picture(frames, true, found, known), 12, 2)
    assert [int(panel.float().mean()) for panel in panels[:2]] == [0, 255]
    colours = flow_to_image(true)  # its own scale is the longest flow, 4 px, too
    assert (panels[2][:, :7].int() - colours[:, :7].int()).abs().max() <= 1
    assert (panels[3][:, 1:].int() - colours[:, 1:].int()).abs().max() <= 1
    assert (panels[3][:, 0, :6] == panels[3][:, 1, :6]).all(), "longer than all truth: the fullest colour"
    assert panels[2][:, 7].max() == 0, "black where nothing is known"
    assert (panels[4][:, 0] == 128).all(), "2.5 of 5 px"
    assert panels[4][:, 1:].max() == 0


def test_picture_of_no_motion_is_drawn() -> None:
    picture = flow_picture(torch.zeros(2, 3, 8, 12), torch.zeros(2, 8, 12), torch.zeros(2, 8, 12), torch.zeros(8, 12))
    assert picture.shape == (3, 8, 60)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e38])
def test_picture_of_a_training_gone_astray_is_drawn(value: float) -> None:
    true, known = torch.ones(2, 8, 12), torch.ones(8, 12)
    picture = flow_picture(torch.zeros(2, 3, 8, 12), true, torch.full((2, 8, 12), value), known)
    assert picture.shape == (3, 8, 60)


def _csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_training_leaves_pictures_and_logs(tmp_path: Path) -> None:
    options = _options(tmp_path, steps=20, picture_steps=8, crop_width_px=128, **_chairs(tmp_path))
    train_flow(options)
    pictures = sorted((options.out / "pictures").iterdir())
    assert [path.name for path in pictures] == ["step-000008.png", "step-000016.png"]
    with Image.open(pictures[0]) as picture:
        assert (picture.size, picture.mode) == ((5 * 128, 64), "RGB")
        assert np.asarray(picture).std() > 0
    (row,) = _csv_rows(options.out / "logs" / "metrics.csv")
    assert {"epe_px", "outliers", "zero_epe_px", "flow_loss"} <= row.keys()
    assert 0 <= float(row["outliers"]) <= 1
    board = next((options.out / "logs").glob("events.out.tfevents.*")).read_bytes()
    assert b"outliers" in board
    assert b"pair" in board


def test_no_pictures_when_none_are_wanted(tmp_path: Path) -> None:
    train_flow(_options(tmp_path, picture_steps=0, **_chairs(tmp_path)))
    assert not (tmp_path / "run" / "pictures").exists()


# ---- public data sets


@pytest.mark.parametrize("name", WRITERS)
def test_training_on_a_public_data_set(tmp_path: Path, name: str) -> None:
    changes = {"dataset": (name,), "root": WRITERS[name](tmp_path / "data"), "loss": "robust", "schedule": "halving"}
    content = read_network(train_flow(_options(tmp_path, picture_steps=2, **changes)), "flow")
    facts = content["training"]
    assert facts["options"]["loss"] == "robust"
    assert list(facts["options"]["dataset"]) == [name]
    assert facts[f"held_out_{name}"]["zero"]["epe_px"] > 1
    assert facts[f"held_out_{name}"]["network"]["fl_percent"] >= 0
    assert "held_out_epe_px" not in facts, "nothing was rendered"
    assert str(tmp_path) not in str(facts)
    assert (tmp_path / "run" / "pictures" / "step-000002.png").exists()
    assert not (tmp_path / "pairs").exists()


def test_datasets_can_be_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "FRAME_HW", (64, 96))
    mixed = ("generated", "chairs", "chairs")
    options = _options(tmp_path, steps=4, dataset=mixed, root=write_chairs(tmp_path / "data"))
    facts = read_network(train_flow(options), "flow")["training"]
    assert {"held_out_epe_px", "held_out_chairs"} <= facts.keys()


def test_cli_trains_on_chairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_chairs(tmp_path / "data")
    small = "--batch-size 1 --steps 2 --crop-height-px 64 --crop-width-px 64 --width 0.05 --workers 0 --accelerator cpu"
    command = ["train", "flow", "--out", str(tmp_path / "run"), "--dataset", "chairs", "--root", str(root)]
    assert main([*command, *small.split()]) == 0
    assert capsys.readouterr().out.endswith("network.pt\n")


def test_damage_met_in_a_worker_is_told_without_a_traceback(tmp_path: Path) -> None:
    root = write_chairs(tmp_path / "data", 6)
    (root / "FlyingChairs" / "data" / "00003_flow.flo").write_bytes(b"PIEH")
    changes = {"dataset": ("chairs",), "root": root, "workers": 1, "steps": 40}
    with pytest.raises(UsageError) as raised:
        train_flow(_options(tmp_path, **changes))
    message = str(raised.value)
    assert "00003_flow.flo cannot be read as two frames with flow" in message
    assert "Traceback" not in message
    assert "\n" not in message
    assert "in DataLoader worker" in str(raised.value.__cause__)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dataset": ("chairs",)}, "dataset is chairs and no --root is given; give the folder"),
        ({"dataset": ()}, "dataset is empty; accepted: generated, chairs, things, sintel, kitti"),
        ({"dataset": ("hd1k",), "root": Path("x")}, "dataset is hd1k; accepted: generated, "),
        ({"root": Path("x")}, "root is x, and dataset generated reads none; give --dataset"),
        ({"picture_steps": -1}, "picture-steps is -1; accepted: 0"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        FlowTraining(out=tmp_path, **changes)


def test_wrong_root_reaches_the_user_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "flow", "--out", str(tmp_path / "run"), "--dataset", "sintel", "--root", str(tmp_path)]
    assert main(command) == 2
    assert "has no folder Sintel; accepted for --dataset sintel: Sintel/ with training/clean" in capsys.readouterr().err
