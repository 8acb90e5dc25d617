"""What all trainings share: Lightning's trainer, checkpoints that runs go on from, and facts about a training."""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from f2f.engine.errors import UsageError
from f2f.training.options import Accelerator

PRECISIONS: dict[str, Literal["bf16-mixed", "32-true"]] = {"bf16": "bf16-mixed", "fp32": "32-true"}
"""our names and Lightning's"""
SHAPELESS = ("accelerator", "picture_steps", "resume")
"""options that change nothing about the network"""


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


def fit(loop: Any, samples: Any, options: FitOptions, precision: Literal["bf16-mixed", "32-true"]) -> None:
    """Train a Lightning module on a data module, from the last checkpoint where there is one."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = Trainer(
        accelerator=options.accelerator,
        devices=1,
        precision=precision,
        max_steps=options.stop_at_step or options.steps,
        max_epochs=1,
        gradient_clip_val=20.0,
        logger=[kind(options.out, name="logs", version="") for kind in (CSVLogger, TensorBoardLogger)],
        log_every_n_steps=20,
        callbacks=[_checkpoints(options)],
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
    )
    with warnings.catch_warnings(), _plain_errors():
        warnings.filterwarnings("ignore", module=r"lightning\.")  # advice on workers, logging intervals, old folders
        trainer.fit(loop, samples, ckpt_path=resumed_from(options), weights_only=True)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Loaders hand on what was raised in a worker as a traceback in words; of wrong usage only its own words remain."""
    try:
        yield
    except UsageError as error:
        raise UsageError(str(error).rstrip().rpartition("UsageError: ")[2]) from error


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
    shaping = {name: value for name, value in vars(options).items() if _is_plain(value) and name not in SHAPELESS}
    return {"options": shaping, "torch": str(torch.__version__)}


def _is_plain(value: object) -> bool:
    """A number, a word, or several; no path."""
    return isinstance(value, int | float | str) or (isinstance(value, tuple) and all(map(_is_plain, value)))
