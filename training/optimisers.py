"""Groups of parameters, optimisers and schedules that the trainings share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

MOMENTUM, POLY_POWER = 0.9, 0.9
HEAD_RATE, BIAS_RATE = 10, 2
"""how much faster the last layers learn and, by SGD, all biases"""


def parameter_groups(
    network: nn.Module, rate: float, weight_decay: float, head: Iterable[nn.Parameter] = (), bias_rate: float = 1
) -> list[dict[str, Any]]:
    """A group per parameter that learns: `head` at ten times the rate, biases at `bias_rate` times; weights decay."""
    faster = {id(value) for value in head}
    groups = []
    for value in filter(lambda value: value.requires_grad, network.parameters()):
        factor = (HEAD_RATE if id(value) in faster else 1) * (bias_rate if value.dim() == 1 else 1)
        decay = weight_decay if value.dim() > 1 else 0.0
        groups.append({"params": [value], "lr": rate * factor, "weight_decay": decay})
    return groups


def sgd(network: nn.Module, rate: float, weight_decay: float, head: Iterable[nn.Parameter]) -> Optimizer:
    """SGD as the papers on weak supervision have it: momentum 0.9, `head` ten times and biases twice as fast."""
    return SGD(parameter_groups(network, rate, weight_decay, head, BIAS_RATE), lr=rate, momentum=MOMENTUM)


def one_cycle(optimiser: Optimizer, steps: int) -> LRScheduler:
    """Every group's rate up to what it is in a tenth of the steps, and down again."""
    rates = [group["lr"] for group in optimiser.param_groups]
    return OneCycleLR(optimiser, rates, total_steps=steps + 1, pct_start=0.1, cycle_momentum=False)


def poly(optimiser: Optimizer, steps: int) -> LRScheduler:
    """Every group's rate times (1 - step/steps)^0.9."""
    return LambdaLR(optimiser, lambda step: max(0.0, 1 - step / steps) ** POLY_POWER)
