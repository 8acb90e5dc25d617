"""Saliency networks as files: network.pt as training leaves it, and any method by the engine's contract."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from f2f.engine.background import Saliency, open_saliency
from f2f.engine.errors import UsageError
from f2f.engine.options import RuntimeOptions
from f2f.training.checkpoint import read_network, save_network
from f2f.training.imagenet import load_weights
from f2f.training.saliency.network import BACKBONES, SaliencyNetwork
from f2f.training.saliency.sizes import warped

CHECKPOINT_SUFFIX = ".pt"
PAPER_THETA_B = 0.12


class SaliencyMap(nn.Module):
    """A network by the engine's contract: [B,3,H,W] RGB 0..1 -> [B,1,H,W] in 0..1.

    It sees images as it was trained, warped to squares of `side_px`; of 0, as large as they come.
    """

    def __init__(self, network: SaliencyNetwork, side_px: int) -> None:
        super().__init__()
        self.network, self.side_px = network, side_px

    def forward(self, image: Tensor) -> Tensor:
        """[B,3,H,W] RGB 0..1 -> [B,1,H,W] in 0..1."""
        if not self.side_px:
            return self.network.saliency(image)
        square = warped(image, (self.side_px, self.side_px))
        return warped(self.network.saliency(square), (image.shape[-2], image.shape[-1])).clamp(0, 1)


def save_saliency(path: Path, network: SaliencyNetwork, side_px: int, training: dict[str, Any]) -> None:
    """Write network.pt of a saliency network that was trained on squares of `side_px`."""
    shape = {"backbone_name": network.backbone_name, "width": network.width, "side_px": side_px}
    save_network(path, "saliency", network, **shape, training=training)


def read_saliency(path: Path, side_px: int | None = None) -> tuple[SaliencyMap, dict[str, Any]]:
    """A network from network.pt, by the engine's contract, and what the file says of its training.

    Args:
        path: the file.
        side_px: what images are warped to; None: that of the training; 0: nothing.

    Raises:
        UsageError: the file is missing, holds something else, or its weights do not fit what it says.
    """
    content = read_network(path, "saliency")
    missing = [name for name in ("backbone_name", "width", "side_px", "training") if name not in content]
    if missing:
        raise UsageError(f"{path} does not say its {', '.join(missing)}; train the network again")
    if content["backbone_name"] not in BACKBONES:
        raise UsageError(
            f"{path} is on the backbone {content['backbone_name']!r}; accepted: {', '.join(BACKBONES)}; update f2f"
        )
    network = SaliencyNetwork(content["width"], content["backbone_name"])
    load_weights(network, content["state_dict"], path)
    return SaliencyMap(network.eval(), content["side_px"] if side_px is None else side_px), content["training"]


def own_theta_b(training: dict[str, Any]) -> dict[str, float]:
    """The defaults that a network of ours carries: at most 4 % of the held-out objects were lost there."""
    safe = training.get("held_out", {}).get("safe_theta_b")
    return {} if safe is None else {"theta_b": safe}


def open_method(name: str, theta_b: float | None, options: RuntimeOptions) -> Saliency:
    """`classical`, a network file, or network.pt of `f2f train saliency`; `theta_b` None takes the method's own.

    Raises:
        UsageError: there is no such file, or it is no saliency network.
        NetworkError: a network file breaks its contract.
    """
    if name == "none":
        raise UsageError("the model is none; accepted: classical, a network file, or network.pt; give one of them")
    if not name.endswith(CHECKPOINT_SUFFIX):
        return open_saliency(name, theta_b, options)
    path = Path(name)
    network, training = read_saliency(path)
    own = own_theta_b(training).get("theta_b", PAPER_THETA_B)
    fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()
    return Saliency(torch.inference_mode()(network), own if theta_b is None else theta_b, name, fingerprint)
