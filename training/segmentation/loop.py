"""The Lightning side of segmenter training. Imported only where the `train` extra is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR
from torch.utils.data import DataLoader, Sampler

from f2f.engine.errors import F2FError
from f2f.training.optimisers import one_cycle, parameter_groups, poly, sgd
from f2f.training.segmentation.deeplab import Segmenter
from f2f.training.segmentation.methods import METHODS, at_cells
from f2f.training.segmentation.sampling import Sample, SampleKey, SegmentationSamples, StepSampler
from f2f.training.segmentation.training_options import SegmenterTraining


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
        network, options = self.network, self.options
        if options.optimiser == "sgd":
            optimiser = sgd(network, options.learning_rate, options.weight_decay, network.head_parameters())
        else:
            optimiser = AdamW(parameter_groups(network, options.learning_rate, options.weight_decay))
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": self._schedule(optimiser), "interval": "step"},
        }

    def _schedule(self, optimiser: Optimizer) -> LRScheduler:
        if self.options.schedule == "step":
            return StepLR(optimiser, self.options.decay_steps, self.options.decay)
        return (poly if self.options.schedule == "poly" else one_cycle)(optimiser, self.options.steps)
