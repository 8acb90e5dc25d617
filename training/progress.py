"""What a person sees while a training runs. Imported only where the `train` extra is there."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

LEAST_STEPS, LINES = 20, 50
"""a plain line stands for at least so many steps, and a training prints about so many lines"""
LIVE_SECONDS = 0.5


class StepLines(Callback):
    """Says on stderr how far training is: on a terminal one line that changes, elsewhere a line now and then.

    Speed and remaining time are those of this run, whatever a run before it has done.
    """

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._begun_seconds, self._first = 0.0, 0
        self._shown_seconds = -math.inf

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure."""
        self._begun_seconds, self._first = time.monotonic(), trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a line where one is due."""
        step, last, now = trainer.global_step, trainer.max_steps, time.monotonic()
        if trainer.is_global_zero and self._due(step, last, now):
            self._shown_seconds = now
            steps_per_second = (step - self._first) / max(now - self._begun_seconds, 1e-6)
            line = f"step {step}/{last}, loss {outputs['loss'].item():.4g}, {steps_per_second:.3g} steps/s"
            self._write(f"{line}, {hours_minutes((last - step) / steps_per_second)} left")

    def _due(self, step: int, last: int, now: float) -> bool:
        if step == last:
            return True
        return now >= self._shown_seconds + LIVE_SECONDS if self._live else step % max(LEAST_STEPS, last // LINES) == 0

    def _write(self, line: str) -> None:
        sys.stderr.write(f"\r{line}\x1b[K" if self._live else f"{line}\n")
        sys.stderr.flush()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the line that changes as the last one."""
        if self._live and self._shown_seconds > 0:
            sys.stderr.write("\n")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Likewise."""
        self.on_train_end(trainer, pl_module)


def hours_minutes(seconds: float) -> str:
    """As 12 min or 3 h 05 min, rounded up."""
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
