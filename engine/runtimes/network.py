"""The four contracts of exported networks, and what a file must say of itself to keep one.

Inputs are NCHW, RGB, float32 in 0..1; what a network needs beyond that (mean, BGR, scaling) is inside its graph.
Metadata `f2f.kind`, `f2f.classes`, `f2f.size_multiple`, `f2f.defaults`, `f2f.training` travel in the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from f2f.engine.errors import NetworkError, VideoError
from f2f.engine.options import MAX_CLASSES

Kind = Literal["classifier", "flow", "saliency", "segmenter"]


@dataclass(frozen=True)
class Contract:
    """Names of the tensors of a kind."""

    input: str
    input_rank: int
    outputs: tuple[str, ...]


CONTRACTS: dict[str, Contract] = {
    "classifier": Contract("image", 4, ("scores", "cam")),  # [B,3,H,W] -> [B,C] in 0..1, [B,C,h,w] before ReLU
    "flow": Contract("frames", 5, ("flow",)),  # [B,K,3,H,W] -> [B,K-1,2,H,W] px, x first, frame k+1 -> frame k
    "saliency": Contract("image", 4, ("saliency",)),  # [B,3,H,W] -> [B,1,H,W] in 0..1
    "segmenter": Contract("image", 4, ("logits",)),  # [B,3,H,W] -> [B,1+C,H,W]
}


@dataclass(frozen=True)
class NetworkInfo:
    """What a network file says of itself."""

    kind: Kind
    classes: tuple[str, ...] = ()
    """channel order, without background"""
    size_multiple: int = 1
    """height and width must be multiples of this, in px"""
    defaults: Mapping[str, float] = field(default_factory=dict)
    """tau, theta_f, theta_b that suit this network"""
    training: Mapping[str, Any] = field(default_factory=dict)
    """how it was made"""
    fingerprint: str = ""
    """sha256 of the file"""
    runtime: str = ""
    """what runs it, with version"""

    def __post_init__(self) -> None:
        if self.kind in {"classifier", "segmenter"} and not 1 <= len(self.classes) <= MAX_CLASSES:
            raise NetworkError(
                f"the network has {len(self.classes)} classes; accepted: 1 to {MAX_CLASSES}; export it with fewer"
            )
        if len(set(self.classes)) != len(self.classes):
            raise NetworkError("f2f.classes names a class twice; export the network with unique class names")
        if self.size_multiple < 1:
            raise NetworkError(f"f2f.size_multiple is {self.size_multiple}; accepted: 1 or more px")

    @property
    def gains_by_int8(self) -> bool:
        """It computes in floating point on a CPU."""
        return self.runtime.endswith("CPU") and "int8" not in self.training


class Network(Protocol):
    """An open network: a callable from its one input to its outputs, in the contract's order.

    It may be called from any thread. Wherever it computes, its outputs are on the device of the batch: stages that
    live on the CPU give and get tensors there.
    """

    info: NetworkInfo

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Run the network on a float32 batch; the outputs are on the batch's device.

        Raises:
            VideoError: the runtime refuses this input, for instance a frame that is too small.
        """
        ...


def parse_info(path: Path, metadata: Mapping[str, str], kind: Kind, runtime: str) -> NetworkInfo:
    """The metadata of a file, checked.

    Raises:
        NetworkError: it is missing, unreadable or of another kind.
    """
    found = metadata.get("f2f.kind")
    if found is None:
        raise NetworkError(
            f"{path} carries no f2f metadata (f2f.kind is missing); export it with `f2f export {kind}`, or add "
            f"the entries f2f.kind={kind}, f2f.classes, … that the README lists"
        )
    if found != kind:
        raise NetworkError(f"{path} is a {found} network; --{kind} accepts a {kind} network; give another file")
    try:
        return NetworkInfo(
            kind=kind,
            classes=tuple(map(str, json.loads(metadata.get("f2f.classes", "[]")))),
            size_multiple=int(metadata.get("f2f.size_multiple", "1")),
            defaults={str(key): float(value) for key, value in json.loads(metadata.get("f2f.defaults", "{}")).items()},
            training=json.loads(metadata.get("f2f.training", "{}")),
            fingerprint=hashlib.sha256(path.read_bytes()).hexdigest(),
            runtime=runtime,
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise NetworkError(f"{path} has metadata that cannot be read ({error}); export it again") from error


def check_tensors(path: Path, kind: Kind, inputs: Mapping[str, int], outputs: list[str]) -> None:
    """Compare a file's tensors, {input name: rank} and output names, with the contract.

    Raises:
        NetworkError: they differ.
    """
    contract = CONTRACTS[kind]
    wanted = {contract.input: contract.input_rank}
    if dict(inputs) != wanted or list(outputs) != list(contract.outputs):
        raise NetworkError(
            f"{path} has inputs {dict(inputs)} (name: rank) and outputs {outputs}; a {kind} network has inputs "
            f"{wanted} and outputs {list(contract.outputs)}; export it again"
        )


def network_failure(info: NetworkInfo, batch: Tensor, error: Exception) -> VideoError:
    """The record of an input that a runtime refused."""
    shape = "x".join(map(str, batch.shape))
    first_line = next(iter(str(error).splitlines()), type(error).__name__)
    return VideoError("network_failed", f"the {info.kind} network refused a {shape} input: {first_line[:300]}")
