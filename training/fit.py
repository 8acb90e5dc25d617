"""What all trainings share: Lightning's trainer, checkpoints that runs go on from, and facts about a training."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from f2f.engine.errors import F2FError, MachineError, UsageError
from f2f.training.options import Accelerator

LightningPrecision = Literal["bf16-mixed", "32-true"]
PRECISIONS: dict[str, LightningPrecision] = {"bf16": "bf16-mixed", "fp32": "32-true"}
"""our names and Lightning's"""
SHAPELESS = ("accelerator", "checkpoint_steps", "picture_steps", "resume", "val_list", "val_steps", "workers")
"""options that change nothing about the network"""
RESUMABLE = ("devices", "stop_at_step")
"""options that may change where an interrupted training goes on, beside those"""
MEMORY = ("batch_size", "side_px", "crop_height_px", "crop_width_px", "width", "precision", "devices")
"""options that decide how much memory a step takes, where a training has them"""


class FitOptions(Protocol):
    """What the trainer is told, of the options of any training."""

    @property
    def out(self) -> Path: ...  # noqa: D102 - see the classes of options
    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def stop_at_step(self) -> int: ...  # noqa: D102
    @property
    def checkpoint_steps(self) -> int: ...  # noqa: D102
    @property
    def accelerator(self) -> Accelerator: ...  # noqa: D102
    @property
    def resume(self) -> bool: ...  # noqa: D102


def require_extra() -> None:
    """Refuse to train where the `train` extra is not installed."""
    for module, name in (("lightning", "Lightning"), ("tensorboard", "TensorBoard")):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UsageError(f"training needs {name}, which is not installed; pip install 'f2f[train]'") from error


def fit(
    loop: Any,
    samples: Any,
    options: FitOptions,
    precision: LightningPrecision,
    *,
    data: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] = (),
    devices: int = 1,
) -> None:
    """Train a Lightning module on a data module, from the last checkpoint where there is one.

    `data` says what the training draws from (classes, numbers of images): it must stay the same where one goes on.
    With more than one device, Lightning starts the command anew for each; those processes end here, so what comes
    after is done once.

    Raises:
        UsageError: the last checkpoint is of another training, or the devices are not there.
        MachineError: a step needs more memory than the device has.
    """
    from f2f.training.progress import StepLines
    from f2f.training.resume import KeptShape, check_shape

    shape = resumed_shape(options) | dict(data or {})
    last = resumed_from(options)
    if last is not None:
        check_shape(last, shape)
    extra = [_checkpoints(options), KeptShape(shape), StepLines(), *callbacks]
    trainer = _trainer(options, precision, extra, devices)
    with warnings.catch_warnings(), _plain_errors(options):
        warnings.filterwarnings("ignore", module=r"lightning\.")  # advice on workers, logging intervals, old folders
        trainer.fit(loop, samples, ckpt_path=last, weights_only=True)
    if not trainer.is_global_zero:
        raise SystemExit(0)


def _trainer(options: FitOptions, precision: LightningPrecision, callbacks: Sequence[Any], devices: int) -> Any:
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return Trainer(
            accelerator=options.accelerator,
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            use_distributed_sampler=False,  # batches know their share
            precision=precision,
            max_steps=options.stop_at_step or options.steps,
            max_epochs=1,
            gradient_clip_val=20.0,
            logger=[kind(options.out, name="logs", version="") for kind in (CSVLogger, TensorBoardLogger)],
            log_every_n_steps=20,
            callbacks=list(callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except MisconfigurationException as error:
        raise UsageError(
            f"accelerator is {options.accelerator} and devices is {devices}; this machine cannot meet that "
            f"({' '.join(str(error).split())}); give --accelerator cpu, or fewer devices"
        ) from error


@contextmanager
def _plain_errors(options: FitOptions) -> Iterator[None]:
    """Loaders hand on what was raised in a worker as a traceback in words; of wrong usage only its own words remain."""
    try:
        yield
    except UsageError as error:
        raise UsageError(str(error).rstrip().rpartition("UsageError: ")[2]) from error
    except torch.OutOfMemoryError as error:
        given = ", ".join(f"{name.replace('_', '-')} {vars(options)[name]}" for name in MEMORY if name in vars(options))
        first = next(iter(str(error).splitlines()), "out of memory")
        raise MachineError(
            f"a step needs more memory than the device has ({first}); given: {given}; begin anew with a smaller batch, "
            "smaller pictures or --precision bf16; the last checkpoint stays"
        ) from error
    except RuntimeError as error:
        if "by peer" not in str(error):
            raise
        raise F2FError("another process of this training has stopped; it says why; the last checkpoint stays") from None


def resumed_from(options: FitOptions) -> Path | None:
    """The checkpoint that an interrupted run goes on from."""
    last = options.out / "last.ckpt"
    return last if options.resume and last.exists() else None


def _checkpoints(options: FitOptions) -> Any:
    from lightning.pytorch.callbacks import ModelCheckpoint

    every = options.checkpoint_steps
    return ModelCheckpoint(options.out, "last", every_n_train_steps=every, enable_version_counter=False, save_top_k=1)


def shaping_facts(options: FitOptions) -> dict[str, Any]:
    """What the exported network says about its training: the options that shape it, no paths."""
    return {"options": _plain(options, SHAPELESS), "torch": str(torch.__version__)}


def resumed_shape(options: FitOptions) -> dict[str, Any]:
    """The options that must be the same where an interrupted training goes on; paths may change."""
    return _plain(options, SHAPELESS + RESUMABLE)


def _plain(options: FitOptions, without: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if _is_plain(value) and name not in without}


def _is_plain(value: object) -> bool:
    """A number, a word, or several; no path."""
    return isinstance(value, int | float | str) or (isinstance(value, tuple) and all(map(_is_plain, value)))
