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
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.utils import flow_to_image

from f2f.training.classifier import CamClassifier
from f2f.training.data import derived_seed
from f2f.training.flow_metrics import endpoint_error, outliers
from f2f.training.losses import classifier_loss, matching_loss, multiscale_flow_loss
from f2f.training.optimisers import one_cycle, parameter_groups, poly, sgd
from f2f.training.options import ClassifierTraining, FlowTraining
from f2f.training.pwcnet import FLOW_UNIT_PX, PWCNet, standardise
from f2f.training.saliency.options import SaliencyTraining
from f2f.training.segmentation.ficklenet import FickleNet
from f2f.training.step_pictures import picture_due, save_step_picture

Sample = tuple[Tensor, Tensor]
AnyTraining = ClassifierTraining | FlowTraining | SaliencyTraining
MATCHING_SHARE = 0.4
"""of the training, in which the matching loss fades out"""
HALVED_AT_SIXTHS = (2, 3, 4, 5)
"""of all steps: PWC-Net's S_long at .4, .6, .8, 1.0 of 1.2 million, and S_fine at .2, .3, .4, .5 of 0.6 million"""
WHITE_ERROR_PX = 5.0
"""end-point error that pictures show as white"""


class _Remaining(Sampler[int]):
    """The sample numbers of all steps; iterating begins at the step that training stands at."""

    def __init__(self, module: LightningDataModule, options: AnyTraining) -> None:
        self.module, self.options = module, options

    def __len__(self) -> int:
        return self.options.steps * self.options.batch_size

    def __iter__(self) -> Iterator[int]:
        assert self.module.trainer is not None
        return iter(range(self.module.trainer.global_step * self.options.batch_size, len(self)))


class Samples(LightningDataModule):
    """Serves samples by their running number."""

    def __init__(self, dataset: Dataset[Sample], options: AnyTraining) -> None:
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


class Loop(LightningModule):
    """AdamW, on a one-cycle schedule over all steps, if the kind of training has no other."""

    def __init__(self, network: nn.Module, options: AnyTraining) -> None:
        super().__init__()
        self.network, self.options = network, options
        self.rate, self.decay = cast(float, options.learning_rate), cast(float, options.weight_decay)  # settled

    def faster(self) -> list[nn.Parameter]:
        """The parameters that learn at ten times the rate."""
        return []

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Decay weights, not biases or normalisation."""
        optimiser = self.optimiser()
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": self.schedule(optimiser), "interval": "step"},
        }

    def optimiser(self) -> Optimizer:
        """What moves the weights."""
        groups = parameter_groups(self.network, self.rate, self.decay, self.faster())
        return AdamW(groups, betas=(0.9, 0.99))

    def schedule(self, optimiser: Optimizer) -> LRScheduler:
        """How the learning rates of the parameter groups go on."""
        return one_cycle(optimiser, self.options.steps)


class ClassifierLoop(Loop):
    """Tags from images: binary cross-entropy on the pooled CAM.

    What a step drops by chance is a function of the seed and the step, of FickleNet one selection per image: a run
    that was interrupted goes on as if it had not been.
    """

    options: ClassifierTraining

    def __init__(self, network: CamClassifier | FickleNet, options: ClassifierTraining) -> None:
        super().__init__(network, options)
        self.last, self.head = list(network.to_classes.parameters()), network.head_parameters()

    def faster(self) -> list[nn.Parameter]:
        """A last 1×1 convolution: its mean must grow large to say yes to a small part. A FickleNet's taps add up."""
        return [] if isinstance(self.network, FickleNet) else self.last

    def optimiser(self) -> Optimizer:
        """AdamW, or SGD as published."""
        if self.options.optimiser == "adamw":
            return super().optimiser()
        return sgd(self.network, self.rate, self.decay, self.head)

    def schedule(self, optimiser: Optimizer) -> LRScheduler:
        """One cycle, or poly."""
        return (poly if self.options.schedule == "poly" else one_cycle)(optimiser, self.options.steps)

    def training_step(self, batch: Sample, batch_index: int) -> Tensor:
        """Images [B,3,h,w] and tags [B,C] -> loss."""
        images, tags = batch
        torch.manual_seed(derived_seed(self.options.seed, self.global_step))
        _, cam = self.network(images)
        loss = classifier_loss(cam, tags)
        self.log("loss", loss, prog_bar=True)
        return loss


class FlowLoop(Loop):
    """Flow from pairs: multi-scale error, at first with the matching loss beside it.

    Logs, over the pixels whose flow is known, `epe_px` and `outliers` (KITTI's Fl: the share that is more than 3 px and
    more than 5 % off) of the finest flow at the crop's size, and `zero_epe_px`, what no flow at all would have.
    """

    options: FlowTraining

    def schedule(self, optimiser: Optimizer) -> LRScheduler:
        """One cycle, or halved four times."""
        if self.options.schedule == "one-cycle":
            return super().schedule(optimiser)
        return MultiStepLR(optimiser, [-(-self.options.steps * sixths // 6) for sixths in HALVED_AT_SIXTHS], gamma=0.5)

    def training_step(self, batch: Sample, batch_index: int) -> Tensor:
        """Frames [B,2,3,h,w] RGB and flow [B,3,h,w] -> loss."""
        frames, flow = batch
        true, known = flow[:, :2], flow[:, 2:]
        network = cast(PWCNet, self.network)
        first, second = (network.pyramid(_prepared(frames[:, place])) for place in (0, 1))
        flows = network.decode(first, second)
        found = upsampled(flows[-1].detach())
        self._log_errors(found, true, known)
        if picture_due(self, self.options.picture_steps):
            picture = flow_picture(frames[0], true[0], found[0], known[0, 0])
            save_step_picture(self, self.options.out, "pair", picture)
        return self._flow_loss(flows, true, known) + self._guidance(first, second, true, known)

    def _flow_loss(self, flows: list[Tensor], true: Tensor, known: Tensor) -> Tensor:
        least_known = 0.0 if "kitti" in self.options.dataset else 0.5  # one pixel in five is known there
        loss = multiscale_flow_loss(flows, true, known, self.options.loss, least_known)
        self.log("flow_loss", loss)
        return loss

    def _guidance(self, first: list[Tensor], second: list[Tensor], true: Tensor, known: Tensor) -> Tensor | float:
        """The matching loss, less and less of it."""
        share = 1 - self.global_step / (MATCHING_SHARE * self.options.steps)
        if share <= 0:
            return 0.0
        loss = matching_loss(first, second, true, known)
        self.log("matching_loss", loss)
        return share * loss

    def _log_errors(self, found: Tensor, true: Tensor, known: Tensor) -> None:
        """`found`, `true` [B,2,h,w] px, `known` [B,1,h,w]."""
        here, there = found.transpose(0, 1), true.transpose(0, 1)  # [2,B,h,w]
        where = known[:, 0]
        values = {"outliers": outliers(here, there), "zero_epe_px": there.norm(dim=0)}
        self.log_dict({name: _mean_where(value, where) for name, value in values.items()})
        self.log("epe_px", _mean_where(endpoint_error(here, there), where), prog_bar=True)


def upsampled(flow: Tensor) -> Tensor:
    """The finest flow [B,2,h/4,w/4] in units of 20 px -> [B,2,h,w] px."""
    return nn.functional.interpolate(flow * FLOW_UNIT_PX, scale_factor=4.0, mode="bilinear", align_corners=False)


def _mean_where(values: Tensor, where: Tensor) -> Tensor:
    """Mean of [B,h,w] where `where` is 1 and not 0; 0 where it nowhere is."""
    return (values * where).sum() / where.sum().clamp_min(1)


def flow_picture(frames: Tensor, true: Tensor, found: Tensor, known: Tensor) -> Tensor:
    """Frames [2,3,h,w] 0..1, flows [2,h,w] px, where the true one is known [h,w] in {0,1} -> uint8 [3,h,5w] RGB.

    Side by side: first and second frame, true and found flow in Middlebury's colours, of which the fullest is the
    longest true flow, and their difference, white at 5 px. True flow and difference are black where nothing is known.
    """
    frames, true, found, known = (value.detach().float().cpu() for value in (frames, true, found, known))
    longest_px = (true * known).norm(dim=0).max().clamp_min(1e-3)
    found = found.nan_to_num()  # a picture must not stop a training that goes astray
    found_short = found * (longest_px / found.norm(dim=0).clamp_min(1e-6)).clamp_max(1)
    colours = flow_to_image(torch.stack([true * known, found_short])).float()  # [2,3,h,w] 0..255
    error = (endpoint_error(found, true) / WHITE_ERROR_PX).clamp_max(1) * known
    panels = [*(frames * 255), colours[0] * known, colours[1], (error * 255).expand(3, -1, -1)]
    return torch.cat(panels, 2).round().to(torch.uint8)


def _prepared(frames: Tensor) -> Tensor:
    """RGB [B,3,h,w] -> what the network takes."""
    return standardise(frames.flip(1)).contiguous(memory_format=torch.channels_last)
