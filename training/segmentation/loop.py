"""The Lightning side of segmenter training. Imported only where the `train` extra is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, StepLR
from torch.utils.data import DataLoader, Sampler

from f2f.engine.errors import F2FError
from f2f.training.segmentation.deeplab import Segmenter
from f2f.training.segmentation.methods import METHODS, at_cells
from f2f.training.segmentation.sampling import Sample, SampleKey, SegmentationSamples, StepSampler
from f2f.training.segmentation.training_options import SegmenterTraining

MOMENTUM, POLY_POWER = 0.9, 0.9
HEAD_RATE, BIAS_RATE = 10, 2
"""how much faster the last layers learn, and all biases"""


class _Remaining(Sampler[list[SampleKey]]):
    """The batches from the step that training stands at: known only once a checkpoint is loaded."""

    def __init__(self, module: StepSamples) -> None:
        self.module = module
        self._from(0)  # refuses a batch size that cannot be shared

    def __len__(self) -> int:
        return self.module.options.steps

    def __iter__(self) -> Iterator[list[SampleKey]]:
        assert self.module.trainer is not None
        return iter(self._from(self.module.trainer.global_step))

    def _from(self, step: int) -> StepSampler:
        options = self.module.options
        return StepSampler(options.seed, range(step, options.steps), options.batch_size, self.module.samples.sizes)


class StepSamples(LightningDataModule):
    """Serves the batches of the steps that remain."""

    def __init__(self, samples: SegmentationSamples, options: SegmenterTraining) -> None:
        super().__init__()
        self.samples, self.options = samples, options

    def train_dataloader(self) -> DataLoader[Sample]:
        """From the step that training stands at when the first batch is asked for."""
        workers = self.options.workers
        return DataLoader(
            self.samples,
            batch_sampler=_Remaining(self),
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )


class SegmenterLoop(LightningModule):
    """L = L_I + L_V: the losses of the method on the images of a batch, plus the same on its video frames (§3.4)."""

    def __init__(self, network: Segmenter, options: SegmenterTraining, sources: Sequence[str]) -> None:
        """`sources` names the origins of the samples, for the logs."""
        super().__init__()
        self.network, self.options, self.sources = network, options, tuple(sources)

    def training_step(self, batch: Sample, batch_index: int) -> Tensor:
        """A batch -> loss."""
        logits = self.network(batch.image)  # [B,L,h,w]
        cells = at_cells(batch.image, logits)
        losses = {
            f"{name}_{source}": value
            for origin, source in enumerate(self.sources)
            for name, value in self._losses(batch, logits, cells, torch.as_tensor(batch.origin) == origin).items()
        }
        self.log_dict(losses)
        loss = torch.stack(list(losses.values())).sum()
        self.log("loss", loss, prog_bar=True)
        if not torch.isfinite(loss):
            self._stop(batch, losses)
        return loss

    def _losses(self, batch: Sample, logits: Tensor, cells: Tensor, chosen: Tensor) -> dict[str, Tensor]:
        method = METHODS[self.options.method]
        weights = batch.weight[chosen] if self.options.weigh_quality else None
        return method(logits[chosen].float(), cells[chosen], batch.seeds[chosen], batch.tags[chosen], weights)

    def _stop(self, batch: Sample, losses: dict[str, Tensor]) -> None:
        """Leave behind what a loss that is no number came from."""
        path = Path(self.options.out) / "failed-batch.pt"
        torch.save({"step": self.global_step, **batch._asdict()}, path)
        values = ", ".join(f"{name} {value.item():g}" for name, value in losses.items())
        raise F2FError(
            f"the loss of step {self.global_step} is not finite ({values}); the batch is in {path}, the last "
            "checkpoint stays; give a lower --learning-rate, or look for broken cues or images in the batch"
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """SGD as the papers have it, or AdamW."""
        optimiser = self._sgd() if self.options.optimiser == "sgd" else self._adamw()
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": self._schedule(optimiser), "interval": "step"},
        }

    def _sgd(self) -> Optimizer:
        head = {id(value) for value in self.network.head_parameters()}
        groups: list[dict[str, Any]] = []
        for value in self.network.parameters():
            factor = (HEAD_RATE if id(value) in head else 1) * (BIAS_RATE if value.dim() == 1 else 1)
            groups.append({**self._group(value), "lr": self.options.learning_rate * factor})
        return SGD(groups, lr=self.options.learning_rate, momentum=MOMENTUM)

    def _adamw(self) -> Optimizer:
        return AdamW([self._group(value) for value in self.network.parameters()], lr=self.options.learning_rate)

    def _group(self, value: Tensor) -> dict[str, Any]:
        return {"params": [value], "weight_decay": self.options.weight_decay if value.dim() > 1 else 0.0}

    def _schedule(self, optimiser: Optimizer) -> LRScheduler:
        steps = self.options.steps
        if self.options.schedule == "step":
            return StepLR(optimiser, self.options.decay_steps, self.options.decay)
        if self.options.schedule == "poly":
            return LambdaLR(optimiser, lambda step: max(0.0, 1 - step / steps) ** POLY_POWER)
        rates = [group["lr"] for group in optimiser.param_groups]
        return OneCycleLR(optimiser, rates, total_steps=steps + 1, pct_start=0.1, cycle_momentum=False)
