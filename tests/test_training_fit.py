"""What all trainings share: what they say on the way, and what stops them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from f2f.engine.errors import MachineError, UsageError
from f2f.training import progress
from f2f.training.fit import fit
from f2f.training.options import Accelerator
from f2f.training.progress import hours_minutes


@dataclass(frozen=True)
class Options:
    out: Path
    steps: int = 100
    stop_at_step: int = 0
    checkpoint_steps: int = 10
    batch_size: int = 3
    precision: str = "fp32"
    schedule: str = "poly"
    accelerator: Accelerator = "cpu"
    workers: int = 0
    resume: bool = True


class Samples(LightningDataModule):
    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.ones(100, 2), batch_size=1)  # type: ignore[arg-type]


class Loop(LightningModule):
    def __init__(self, features: int = 2, error: BaseException | None = None) -> None:
        super().__init__()
        self.network, self.error = torch.nn.Linear(features, 1), error

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        if self.error is not None and batch_index == 15:
            raise self.error
        loss: Tensor = self.network(batch).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step takes two seconds."""
    seconds = iter(range(0, 10_000, 2))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))


@pytest.mark.usefixtures("clock")
def test_lines_say_how_far_training_is_also_where_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(Loop(), Samples(), Options(tmp_path, stop_at_step=30), "32-true")
    told = [line.split(", ") for line in capsys.readouterr().err.splitlines()]
    assert [line[0] for line in told] == ["step 20/30", "step 30/30"]
    assert [line[2:] for line in told] == [["0.5 steps/s", "1 min left"], ["0.5 steps/s", "0 min left"]]
    assert float(told[0][1].removeprefix("loss ")) > 0

    fit(Loop(), Samples(), Options(tmp_path), "32-true")
    told = [line.split(", ") for line in capsys.readouterr().err.splitlines()]
    assert [line[0] for line in told] == [f"step {step}/100" for step in (40, 60, 80, 100)]
    assert told[0][2:] == ["0.5 steps/s", "2 min left"], "speed of this run: 60 steps of 2 s"


@pytest.mark.usefixtures("clock")
def test_on_a_terminal_it_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with pytest.raises(RuntimeError, match="broken"):
        fit(Loop(error=RuntimeError("broken")), Samples(), Options(tmp_path), "32-true")
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.endswith("\n")
    assert [line.split(",")[0] for line in told.split("\r")] == ["", *(f"step {step}/100" for step in range(1, 16))]


def test_time_is_rounded_up_to_minutes() -> None:
    assert [hours_minutes(seconds) for seconds in (0, 1, 60, 61, 3600 * 123)] == [
        "0 min",
        "1 min",
        "1 min",
        "2 min",
        "123 h 00 min",
    ]


def test_too_little_memory_is_said_plainly_and_the_checkpoint_stays(tmp_path: Path) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore words")
    with pytest.raises(
        MachineError, match=r"2 GiB\.\); given: batch-size 3, precision fp32; begin anew with a smaller"
    ):
        fit(Loop(error=error), Samples(), Options(tmp_path), "32-true")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 10


@pytest.fixture
def interrupted(tmp_path: Path) -> Options:
    options = Options(tmp_path)
    fit(Loop(), Samples(), replace(options, stop_at_step=10), "32-true", data={"classes": ["a", "b"]})
    return options


def test_what_does_not_shape_a_training_may_change_where_it_goes_on(interrupted: Options) -> None:
    changed = replace(interrupted, stop_at_step=20, checkpoint_steps=5, workers=1)
    loop = Loop()
    fit(loop, Samples(), changed, "32-true", data={"classes": ["a", "b"]}, devices=1)
    assert torch.load(interrupted.out / "last.ckpt", weights_only=True)["global_step"] == 20


def test_another_training_does_not_go_on(interrupted: Options) -> None:
    changed = replace(interrupted, schedule="step", steps=200)
    message = r"last\.ckpt has schedule poly, steps 100; given: schedule step, steps 200; give those, or begin anew"
    with pytest.raises(UsageError, match=message):
        fit(Loop(), Samples(), changed, "32-true", data={"classes": ["a", "b"]})
    with pytest.raises(UsageError, match=r"has classes a b; given: classes a c;"):
        fit(Loop(), Samples(), interrupted, "32-true", data={"classes": ["a", "c"]})
    assert torch.load(interrupted.out / "last.ckpt", weights_only=True)["global_step"] == 10
    fit(Loop(), Samples(), replace(changed, resume=False, stop_at_step=20), "32-true")


@pytest.mark.parametrize("kept", [None, {}, {"epoch": 3}])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, kept: object) -> None:
    if kept is None:
        (tmp_path / "last.ckpt").write_bytes(b"PK cut off")
    else:
        torch.save(kept, tmp_path / "last.ckpt")
    with pytest.raises(UsageError, match=r"last\.ckpt (cannot be read|does not say).*begin anew with --no-resume"):
        fit(Loop(), Samples(), Options(tmp_path), "32-true")


def test_devices_that_are_not_there_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match=r"accelerator is gpu and devices is 2; this machine cannot .*; give --accel"):
        fit(Loop(), Samples(), replace(Options(tmp_path), accelerator="gpu"), "32-true", devices=2)
