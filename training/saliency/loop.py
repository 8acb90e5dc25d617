"""The Lightning side of saliency training. Imported only where the `train` extra is there."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from f2f.engine.errors import F2FError
from f2f.engine.types import IGNORE
from f2f.training.loops import Loop, Sample
from f2f.training.optimisers import poly, sgd
from f2f.training.saliency.network import SaliencyNetwork, saliency_loss
from f2f.training.saliency.options import SaliencyTraining

SCORE_RATE = 0.1
"""how much slower the convolutions that give maps learn by SGD"""
REDUCED_AT, REDUCED_BY = 5 / 8, 0.1
"""7,500 of 12,000 steps"""


class SaliencyLoop(Loop):
    """Cross-entropy of all side outputs and of the fused one."""

    options: SaliencyTraining
    network: SaliencyNetwork

    def optimiser(self) -> Optimizer:
        """AdamW, or SGD as published."""
        if self.options.optimiser == "adamw":
            return super().optimiser()
        optimiser = sgd(self.network, self.rate, self.decay, ())
        own, mixing = self.network.scores()
        slower = {id(value) for layer in (*own, *mixing) for value in layer.parameters()}
        for group in optimiser.param_groups:
            group["lr"] *= SCORE_RATE if id(group["params"][0]) in slower else 1
        return optimiser

    def schedule(self, optimiser: Optimizer) -> LRScheduler:
        """One cycle, poly, or one step down."""
        if self.options.schedule == "step":
            return MultiStepLR(optimiser, [round(REDUCED_AT * self.options.steps)], REDUCED_BY)
        return poly(optimiser, self.options.steps) if self.options.schedule == "poly" else super().schedule(optimiser)

    def training_step(self, batch: Sample, batch_index: int) -> Tensor:
        """Pictures [B,3,s,s] and masks [B,s,s] -> loss."""
        pictures, masks = batch
        outputs = self.network(pictures)
        with torch.autocast(pictures.device.type, enabled=False):  # what follows is float32
            loss = self._loss([logits.float() for logits in outputs], masks[:, None])
        self.log("loss", loss, prog_bar=True)
        return loss

    def _loss(self, outputs: list[Tensor], masks: Tensor) -> Tensor:
        salient, known = (masks == 1).float(), masks != IGNORE  # [B,1,s,s]
        loss = saliency_loss(outputs, salient, known, self.options.loss == "balanced")
        if not torch.isfinite(loss):
            raise F2FError(
                f"the loss of step {self.global_step} is {loss.item():g}; the last checkpoint stays; give a lower "
                "--learning-rate"
            )
        return loss
