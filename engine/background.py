"""Background: what is no class and not salient is background, the rest is ignore (paper §3.4)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from f2f.engine.classify import to_tensor
from f2f.engine.errors import NetworkError
from f2f.engine.options import RuntimeOptions
from f2f.engine.resize import fit_multiple, resize
from f2f.engine.runtimes.network import Network
from f2f.engine.runtimes.open import open_network
from f2f.engine.saliency import CLASSICAL_THETA_B, classical_saliency
from f2f.engine.stage import StageClock, per_window
from f2f.engine.types import IGNORE, AggregatedWindow, End, LabelledWindow
from f2f.kernels import compose_labels

_CLASSICAL = "minimum barrier + backgroundness, version 1"


@dataclass(frozen=True)
class Saliency:
    """A foreground prior: [1, 3, H, W] float32 in 0..1 -> [1, 1, H, W] in 0..1; None where there is none."""

    prior: Callable[[Tensor], Tensor] | None
    theta_b: float
    description: str
    fingerprint: str


def open_saliency(name: str, theta_b: float | None, options: RuntimeOptions) -> Saliency:
    """`classical`, `none` or a network file; `theta_b` None takes the prior's own threshold, else the paper's 0.12."""
    if name == "none":
        return Saliency(None, 0.0, "none", "none")
    if name == "classical":
        threshold = CLASSICAL_THETA_B if theta_b is None else theta_b
        return Saliency(classical_saliency, threshold, _CLASSICAL, hashlib.sha256(_CLASSICAL.encode()).hexdigest())
    network = open_network(name, "saliency", options)
    threshold = network.info.defaults.get("theta_b", 0.12) if theta_b is None else theta_b
    prior = partial(_network_saliency, network)
    return Saliency(prior, threshold, f"network, {network.info.runtime}", network.info.fingerprint)


def _network_saliency(network: Network, image: Tensor) -> Tensor:
    (saliency,) = network(fit_multiple(image, network.info.size_multiple))  # [1, 1, H', W']
    if saliency.dim() != 4 or tuple(saliency.shape[:2]) != (1, 1):
        raise NetworkError(
            f"the saliency network gives {list(saliency.shape)} for one image; accepted: [1,1,H,W]; export it again"
        )
    return resize(saliency, (image.shape[-2], image.shape[-1]))


def decide_background(
    windows: Iterator[AggregatedWindow | End], saliency: Saliency, clock: StageClock
) -> Iterator[LabelledWindow | End]:
    """The mask of every window's last frame."""

    def work(aggregated: AggregatedWindow) -> LabelledWindow:
        window = aggregated.window
        image = to_tensor([window.frames[-1].image])  # [1, 3, H, W]
        prior = saliency.prior(image) if saliency.prior else None  # [1, 1, H, W]
        classes = torch.tensor([window.classes])  # [1, P]
        (labels,) = compose_labels(aggregated.bits[None], classes, prior, saliency.theta_b)  # [1, H, W]
        return LabelledWindow(window, labels.numpy())

    yield from per_window("background", work, windows, clock)


def doubt_background(
    windows: Iterator[LabelledWindow | End], saliency: Saliency, clock: StageClock
) -> Iterator[LabelledWindow | End]:
    """Masks in which background that is salient is ignored: a part of an object that no frame activated may be."""
    prior = saliency.prior
    assert prior is not None, "LabelOptions refuses it"

    def work(labelled: LabelledWindow) -> LabelledWindow:
        salient = prior(to_tensor([labelled.window.frames[-1].image]))[0, 0] >= saliency.theta_b  # [H, W]
        unsure = (labelled.labels == 0) & salient.numpy()
        return replace(labelled, labels=np.where(unsure, IGNORE, labelled.labels).astype(np.uint8))

    yield from per_window("background", work, windows, clock)
