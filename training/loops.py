"""The Lightning side of training: steps, schedules, data by epoch. Imported only where the `train` extra is there.

All steps are one epoch. Samples are drawn by their running number alone, so a run that was interrupted and goes on from
its last checkpoint sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset, Sampler

from f2f.training.classifier import CamClassifier
from f2f.training.losses import classifier_loss, matching_loss, multiscale_flow_loss
from f2f.training.options import ClassifierTraining, FlowTraining
from f2f.training.pwcnet import FLOW_UNIT_PX, PWCNet, standardise

Sample = tuple[Tensor, Tensor]
FASTER = 10.0
MATCHING_SHARE = 0.4
"""of the training, in which the matching loss fades out"""


class _Remaining(Sampler[int]):
    """The sample numbers of all steps; iterating begins at the step that training stands at."""

    def __init__(self, module: LightningDataModule, options: ClassifierTraining | FlowTraining) -> None:
        self.module, self.options = module, options

    def __len__(self) -> int:
        return self.options.steps * self.options.batch_size

    def __iter__(self) -> Iterator[int]:
        assert self.module.trainer is not None
        return iter(range(self.module.trainer.global_step * self.options.batch_size, len(self)))


class Samples(LightningDataModule):
    """Serves samples by their running number."""

    def __init__(self, dataset: Dataset[Sample], options: ClassifierTraining | FlowTraining) -> None:
        super().__init__()
        self.dataset, self.options = dataset, options

    def train_dataloader(self) -> DataLoader[Sample]:
        """The samples of the steps that remain."""
        workers = self.options.workers
        return DataLoader(
            self.dataset,
            sampler=_Remaining(self, self.options),
            batch_size=self.options.batch_size,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )


class _Loop(LightningModule):
    """AdamW on a one-cycle schedule over all steps."""

    def __init__(self, network: nn.Module, options: ClassifierTraining | FlowTraining) -> None:
        super().__init__()
        self.network, self.options = network, options

    def faster(self) -> list[nn.Parameter]:
        """The parameters that learn at ten times the rate."""
        return []

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Decay weights, not biases or normalisation."""
        rate, decay = self.options.learning_rate, self.options.weight_decay
        faster = {id(value) for value in self.faster()}
        groups, rates = [], []
        for value in self.network.parameters():
            groups.append({"params": [value], "weight_decay": decay if value.dim() > 1 else 0.0})
            rates.append(rate * FASTER if id(value) in faster else rate)
        optimiser = AdamW(groups, lr=rate, betas=(0.9, 0.99))
        schedule = OneCycleLR(optimiser, rates, total_steps=self.options.steps + 1, pct_start=0.1, cycle_momentum=False)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ClassifierLoop(_Loop):
    """Tags from images: binary cross-entropy on the pooled CAM."""

    def __init__(self, network: CamClassifier, options: ClassifierTraining) -> None:
        super().__init__(network, options)
        self.last = list(network.to_classes.parameters())

    def faster(self) -> list[nn.Parameter]:
        """The last convolution: its mean must grow large to say yes to a small part."""
        return self.last

    def training_step(self, batch: Sample, batch_index: int) -> Tensor:
        """Images [B,3,h,w] and tags [B,C] -> loss."""
        images, tags = batch
        _, cam = self.network(images)
        loss = classifier_loss(cam, tags)
        self.log("loss", loss, prog_bar=True)
        return loss


class FlowLoop(_Loop):
    """Flow from pairs: multi-scale end-point error, at first with the matching loss beside it."""

    def training_step(self, batch: Sample, batch_index: int) -> Tensor:
        """Frames [B,2,3,h,w] RGB and flow [B,3,h,w] -> loss."""
        frames, flow = batch
        true, known = flow[:, :2], flow[:, 2:]
        network = cast(PWCNet, self.network)
        first, second = (network.pyramid(_prepared(frames[:, place])) for place in (0, 1))
        flows = network.decode(first, second)
        loss = flow_loss = multiscale_flow_loss(flows, true, known)
        guidance = 1 - self.global_step / (MATCHING_SHARE * self.options.steps)
        if guidance > 0:
            match_loss = matching_loss(first, second, true, known)
            self.log("matching_loss", match_loss)
            loss = loss + guidance * match_loss
        coarse = nn.functional.avg_pool2d(true, 4)
        error_px = (flows[-1].detach() * FLOW_UNIT_PX - coarse).norm(dim=1).mean()
        self.log_dict({"flow_loss": flow_loss, "zero_epe_px": coarse.norm(dim=1).mean()})
        self.log("epe_px", error_px, prog_bar=True)
        return loss


def _prepared(frames: Tensor) -> Tensor:
    """RGB [B,3,h,w] -> what the network takes."""
    return standardise(frames.flip(1)).contiguous(memory_format=torch.channels_last)
