"""The training loops: they learn, go on where they stopped, and ask for what they need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_data import write_tagged_images

from f2f.engine.errors import UsageError
from f2f.training import pairs
from f2f.training.checkpoint import read_network
from f2f.training.evaluate import evaluate_flow, flow_predictor
from f2f.training.layers import draw_layers_pair
from f2f.training.losses import multiscale_flow_loss
from f2f.training.options import ClassifierTraining, FlowTraining, Schedule
from f2f.training.pairs import PairDataset
from f2f.training.pwcnet import FlowNetwork, PWCNet, standardise
from f2f.training.train import train_classifier, train_flow


def _classifier_options(folder: Path, **changes: Any) -> ClassifierTraining:
    options: dict[str, Any] = {
        "images": folder / "images",
        "out": folder / "run",
        "steps": 60,
        "batch_size": 8,
        "crop_height_px": 48,
        "crop_width_px": 80,
        "min_side_px": 56,
        "max_side_px": 64,
        "learning_rate": 1e-2,
        "width": 0.25,
        "dropout": 0.0,
        "workers": 0,
        "checkpoint_steps": 30,
        "accelerator": "cpu",
    }
    return ClassifierTraining(**(options | changes))


def test_classifier_learns_a_few_images(tmp_path: Path) -> None:
    write_tagged_images(tmp_path / "images")
    path = train_classifier(_classifier_options(tmp_path))
    content = read_network(path, "classifier")
    assert content["classes"] == ["deer", "peacock"]
    assert content["training"]["held_out"]["mean_average_precision"] == 1
    assert str(tmp_path) not in str(content["training"])


def test_flow_learns_a_pair() -> None:
    torch.manual_seed(0)
    pair = draw_layers_pair((3,), (64, 128))
    network = PWCNet(0.1)
    frames = [
        torch.from_numpy(frame).permute(2, 0, 1)[None].flip(1).float() / 255 for frame in (pair.first, pair.second)
    ]
    target = torch.from_numpy(pair.flow_xy_px).permute(2, 0, 1)[None]
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(60):
        loss = multiscale_flow_loss(network(*map(standardise, frames)), target, torch.ones(1, 1, 64, 128))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    errors = evaluate_flow(flow_predictor(FlowNetwork(network.eval())), [pair], with_dis=False)
    assert errors.network_all < 0.5 * errors.zero_all


def _flow_options(folder: Path, schedule: Schedule) -> FlowTraining:
    return FlowTraining(
        out=folder / "run",
        schedule=schedule,
        cache=folder.parent / "pairs",
        steps=4,
        batch_size=1,
        crop_height_px=64,
        crop_width_px=64,
        width=0.05,
        layer_share=1.0,
        layer_pairs=4,
        checkpoint_steps=2,
        workers=0,
        accelerator="cpu",
    )


@pytest.mark.parametrize("schedule", ["one-cycle", "halving"])
def test_interrupted_flow_training_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: Schedule
) -> None:
    monkeypatch.setattr(pairs, "FRAME_HW", (64, 96))
    whole = read_network(train_flow(_flow_options(tmp_path / "whole", schedule)), "flow")

    read = PairDataset.__getitem__

    def stopping(self: PairDataset, index: int) -> Any:
        if index == 3:
            raise OSError("the machine stopped")
        return read(self, index)

    options = _flow_options(tmp_path / "parts", schedule)
    with monkeypatch.context() as patch:
        patch.setattr(PairDataset, "__getitem__", stopping)
        with pytest.raises(OSError, match="the machine stopped"):
            train_flow(options)
    assert (options.out / "last.ckpt").exists()

    seen: list[int] = []

    def noting(self: PairDataset, index: int) -> Any:
        seen.append(index)
        return read(self, index)

    monkeypatch.setattr(PairDataset, "__getitem__", noting)
    parts = read_network(train_flow(options), "flow")
    assert seen == [2, 3]
    for name, value in whole["state_dict"].items():
        torch.testing.assert_close(parts["state_dict"][name], value, rtol=0, atol=0, msg=name)

    seen.clear()
    train_flow(options)
    assert seen == [], "a finished run has nothing left to do"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"min_side_px": 300}, "max-side-px is 64"),
    ],
)
def test_wrong_classifier_options_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        _classifier_options(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"crop_height_px": 100}, "crop-height-px is 100; accepted: a multiple of 64"),
        ({"layer_share": 1.5}, "layer-share is 1.5"),
        ({"scenes": 0}, "scenes is 0"),
    ],
)
def test_wrong_flow_options_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        FlowTraining(out=tmp_path, **changes)


def test_importing_the_package_imports_no_torch_and_no_lightning() -> None:
    code = (
        "import sys, f2f.training, f2f.training.options, f2f.training.commands\n"
        "print([name for name in ('torch', 'lightning') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(UsageError, match=r"pip install 'f2f\[train\]'"):
        train_flow(FlowTraining(out=tmp_path))
    with pytest.raises(UsageError, match=r"pip install 'f2f\[train\]'"):
        train_classifier(_classifier_options(tmp_path))


def test_public_names_resolve() -> None:
    import f2f.training

    assert {name for name in f2f.training.__all__ if callable(getattr(f2f.training, name))} == set(f2f.training.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = f2f.training.nonsense
