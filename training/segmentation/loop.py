"""The Lightning side of segmenter training. Imported only where the `train` extra is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR
from torch.utils.data import DataLoader, Sampler

from f2f.engine.errors import F2FError
from f2f.training.optimisers import one_cycle, parameter_groups, poly, sgd
from f2f.training.segmentation.deeplab import Segmenter
from f2f.training.segmentation.methods import METHODS, at_cells
from f2f.training.segmentation.pictures import batch_picture
from f2f.training.segmentation.sampling import Sample, SampleKey, SegmentationSamples, StepSampler
from f2f.training.segmentation.training_options import SegmenterTraining
from f2f.training.step_pictures import picture_due, save_step_picture


class _Remaining(Sampler[list[SampleKey]]):
    """The batches from the step that training stands at: known only once a checkpoint is loaded."""

    def __init__(self, module: StepSamples) -> None:
        self.module = module

    def __len__(self) -> int:
        return self.module.options.steps

    def __iter__(self) -> Iterator[list[SampleKey]]:
        options, trainer, sizes = self.module.options, self.module.trainer, self.module.samples.sizes
        assert trainer is not None
        steps = range(trainer.global_step, options.steps)
        return iter(
            StepSampler(options.seed, steps, options.batch_size, sizes, trainer.global_rank, trainer.world_size)
        )


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
        self.frozen = [module for module in network.modules() if _is_frozen(module, options)]
        for module in self.frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> SegmenterLoop:
        """Frozen batch norm stays as it is used."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def on_train_start(self) -> None:
        """Lightning leaves modules in the mode that they are in."""
        self.train()

    def on_train_batch_start(self, batch: Sample, batch_index: int) -> None:
        """Dropout by (seed, step, process) alone: a run that goes on drops what it would have dropped."""
        place = np.random.SeedSequence((self.options.seed, 3, self.global_step, self.global_rank))
        torch.manual_seed(int(place.generate_state(1)[0]))

    def training_step(self, batch: Sample, batch_index: int) -> Tensor:
        """A batch -> loss."""
        logits = self.network(batch.image)  # [B,L,h,w]
        with torch.autocast(logits.device.type, enabled=False):  # what follows is float32
            return self._loss(batch, logits.float())

    def _loss(self, batch: Sample, logits: Tensor) -> Tensor:
        cells = at_cells(batch.image, logits)
        losses = {
            f"{name}_{source}": value
            for origin, source in enumerate(self.sources)
            for name, value in self._losses(batch, logits, cells, torch.as_tensor(batch.origin) == origin).items()
        }
        loss = torch.stack(list(losses.values())).sum()
        self._tell(batch, {**losses, "loss": loss})
        if picture_due(self, self.options.picture_steps):
            picture = batch_picture(batch, logits, cells, self.options.method)
            save_step_picture(self, self.options.out, "batch", picture)
        return loss

    def _losses(self, batch: Sample, logits: Tensor, cells: Tensor, chosen: Tensor) -> dict[str, Tensor]:
        method = METHODS[self.options.method]
        weights = batch.weight[chosen] if self.options.weigh_quality else None
        return method(logits[chosen], cells[chosen], batch.seeds[chosen], batch.tags[chosen], weights)

    def _tell(self, batch: Sample, losses: dict[str, Tensor]) -> None:
        """Log the means over all devices; all stop where one has a loss that is no number."""
        means = self.trainer.strategy.reduce(torch.stack([*losses.values()]).detach(), reduce_op="mean")
        told = dict(zip(losses, means.unbind(), strict=True))
        if not torch.isfinite(means).all():
            self._stop(batch, told)
        self.log_dict(told)

    def _stop(self, batch: Sample, losses: dict[str, Tensor]) -> None:
        """Leave behind what a loss that is no number came from."""
        number = f"-{self.global_rank}" if self.trainer.world_size > 1 else ""
        path = Path(self.options.out) / f"failed-batch{number}.pt"
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


def _is_frozen(module: nn.Module, options: SegmenterTraining) -> bool:
    return options.norm_is_frozen and isinstance(module, nn.BatchNorm2d)
