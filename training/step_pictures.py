"""Pictures of what a training sees and finds, every so many steps. Imported only where the `train` extra is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch import Tensor


def picture_due(loop: LightningModule, every: int) -> bool:
    """Whether a picture is made of this step: every so many (0: never), by the first process alone."""
    return bool(every and (loop.global_step + 1) % every == 0 and loop.trainer.is_global_zero)


def save_step_picture(loop: LightningModule, out: Path, name: str, picture: Tensor) -> None:
    """Write uint8 [3,h,w] RGB to OUT/pictures, by the number of this step, and as `name` to TensorBoard."""
    step = loop.global_step + 1
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"step-{step:06d}.png")
    for logger in loop.loggers:
        if isinstance(logger, TensorBoardLogger):
            board: Any = logger.experiment
            board.add_image(name, picture, step)
