"""Classifiers as files: exported ones, the bundled one, and network.pt as training leaves it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from f2f.engine.classify import Classifier
from f2f.engine.errors import UsageError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.network import NetworkInfo, network_failure
from f2f.training.checkpoint import OWN_DEFAULTS, read_classifier, without_chance

CHECKPOINT_SUFFIX = ".pt"


def open_classifier(name: str, options: RuntimeOptions) -> Classifier:
    """Open a network file, `demo`, or a network.pt of `f2f train classifier` (of a FickleNet: its mean over draws).

    Raises:
        UsageError: there is no such file, or it is no classifier.
        NetworkError: a network file breaks its contract.
    """
    return Classifier(_Checkpoint(Path(name))) if name.endswith(CHECKPOINT_SUFFIX) else Classifier.open(name, options)


def channels_of(classes: Sequence[str], known: Sequence[str]) -> list[int]:
    """The channels of a classifier with the classes `known` that tell `classes`.

    Raises:
        UsageError: it does not know one of them.
    """
    missing = [name for name in classes if name not in known]
    if missing:
        raise UsageError(
            f"the classifier does not know {', '.join(missing)}; its classes: {', '.join(known)}; give one of the "
            "images' classes"
        )
    return [known.index(name) for name in classes]


class _Checkpoint:
    """network.pt by the engine's contract of networks, run by torch."""

    def __init__(self, path: Path) -> None:
        network, training = read_classifier(path)
        self._network = without_chance(network)
        fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()
        runtime = f"torch {torch.__version__}"
        self.info = NetworkInfo("classifier", network.classes, 1, OWN_DEFAULTS, training, fingerprint, runtime)

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        """[B,3,H,W] RGB 0..1 -> scores [B,C], cam [B,C,h,w]."""
        try:
            with torch.inference_mode():
                scores, cam = self._network(batch)
        except RuntimeError as error:
            raise network_failure(self.info, batch, error) from error
        return scores, cam
