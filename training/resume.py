"""Going on from a checkpoint: only with the options, classes and data that it began with.

Imported only where the `train` extra is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from f2f.engine.errors import UsageError

_KEY = "f2f"


class KeptShape(Callback):
    """Writes into every checkpoint what shapes the training: names -> numbers, words, or several."""

    def __init__(self, shape: Mapping[str, Any]) -> None:
        self.shape = dict(shape)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add them."""
        checkpoint[_KEY] = self.shape


def check_shape(path: Path, shape: Mapping[str, Any]) -> None:
    """Refuse to go on from a checkpoint that another training wrote, naming what differs.

    Raises:
        UsageError: it cannot be read, or was written with another shape, or without one.
    """
    remedy = "give those, or begin anew with --no-resume or another --out"
    kept = _read(path)
    differing = sorted(name for name in shape.keys() | kept.keys() if shape.get(name) != kept.get(name))
    if differing:
        raise UsageError(f"{path} has {_listed(kept, differing)}; given: {_listed(shape, differing)}; {remedy}")


def _read(path: Path) -> dict[str, Any]:
    remedy = "begin anew with --no-resume or another --out"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"the checkpoint {path} cannot be read ({first}); {remedy}") from error
    if not isinstance(content, dict) or not isinstance(content.get(_KEY), dict):
        raise UsageError(f"the checkpoint {path} does not say what training it is of; {remedy}")
    return content[_KEY]  # type: ignore[no-any-return]


def _listed(shape: Mapping[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name.replace('_', '-')} {_shown(shape.get(name))}" for name in names)


def _shown(value: Any) -> str:
    if value is None:
        return "unsaid"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
