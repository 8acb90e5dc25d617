"""The file that training leaves behind (network.pt), and networks built from it, ready to export.

network.pt is a plain dict of tensors, numbers and words, loaded with `weights_only=True`: it can run no code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from f2f.engine.errors import UsageError
from f2f.engine.runtimes.network import Kind
from f2f.training.card import NetworkCard
from f2f.training.classifier import CamClassifier
from f2f.training.imagenet import load_backbone, load_class_map, load_torchvision, load_weights
from f2f.training.options import ClassifierExport, ClassifierTraining, FlowExport
from f2f.training.pwcnet import FlowNetwork, PWCNet
from f2f.training.released import flow_from_released
from f2f.training.segmentation.deeplab import FullSize, segmenter
from f2f.training.segmentation.ficklenet import ExpectedFickleNet, FickleNet
from f2f.training.segmentation.training_options import SegmenterExport

OWN_DEFAULTS = {"tau": 0.9, "theta_f": 0.2}
"""the paper's, for networks trained with a sigmoid per class"""
TORCHVISION_DEFAULTS = {"tau": 0.2, "theta_f": 0.4}
"""For summed softmax scores, measured with SqueezeNet on nine real videos at 6 frames/s. tau 0.2: 46 % of the frames
pass for their query (0.5: 35 %, 0.9: 6 %), 21 % for another class (0.5: 8 %), and five videos have a run of 5 frames
(0.3: four, 0.9: one). theta_f 0.4 is the value at which single frames' and unions' masks are compared in the README."""


def save_network(path: Path, kind: Kind, network: nn.Module, **facts: Any) -> None:
    """Write network.pt: kind, weights and the facts that rebuild and describe the network."""
    partial = path.with_name(f".{path.name}.partial")
    torch.save({"kind": kind, "state_dict": network.state_dict(), **facts}, partial)
    partial.replace(path)


def read_network(path: Path, kind: Kind) -> dict[str, Any]:
    """Read a network.pt of the kind asked for."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist; give the network.pt of `f2f train {kind}`") from error
    except Exception as error:
        raise UsageError(f"{path} cannot be read; give the network.pt of `f2f train {kind}`") from error
    found = content.get("kind") if isinstance(content, dict) else None
    if found != kind:
        raise UsageError(f"{path} holds {found or 'no network'}; give the network.pt of `f2f train {kind}`")
    return content  # type: ignore[no-any-return]


def new_classifier(options: ClassifierTraining, classes: Sequence[str]) -> CamClassifier | FickleNet:
    """The classifier that settled options describe, with random weights, or those of a file below the head."""
    assert options.width is not None
    assert options.dropout is not None
    network: CamClassifier | FickleNet
    if options.method == "ficklenet":
        network = FickleNet(classes, options.network, options.width, options.window, options.rate)
    else:
        network = CamClassifier(classes, options.width, options.dropout, options.network)
    if options.weights is not None:
        load_backbone(network.backbone, options.weights)
    return network


def save_classifier(path: Path, network: CamClassifier | FickleNet, training: dict[str, Any]) -> None:
    """Write network.pt of a classifier."""
    shape: dict[str, Any] = {"method": "cam", "backbone_name": network.backbone_name, "width": network.width}
    if isinstance(network, FickleNet):
        layer = network.to_classes
        shape |= {"method": "ficklenet", "window": layer.window, "rate": layer.rate, "rescale": layer.rescale}
    save_network(path, "classifier", network, classes=list(network.classes), **shape, training=training)


def read_classifier(path: Path) -> tuple[CamClassifier | FickleNet, dict[str, Any]]:
    """A classifier of ours from network.pt, in evaluation mode, and what the file says of its training.

    Raises:
        UsageError: the file is missing, holds something else, or its weights do not fit what it says.
    """
    content = read_network(path, "classifier")
    missing = [name for name in ("classes", "width", "training") if name not in content]
    if missing:
        raise UsageError(f"{path} does not say its {', '.join(missing)}; train the network again")
    network = _shaped(content, path)
    load_weights(network, content["state_dict"], path)
    return network.eval(), content["training"]


def _shaped(content: dict[str, Any], path: Path) -> CamClassifier | FickleNet:
    method = content.get("method", "cam")  # the first files say neither method nor backbone
    classes, backbone_name, width = content["classes"], content.get("backbone_name", "small"), content["width"]
    if method == "cam":
        return CamClassifier(classes, width, backbone_name=backbone_name)
    if method == "ficklenet":
        shape = {name: content[name] for name in ("window", "rate", "rescale")}
        return FickleNet(classes, backbone_name, width, **shape)
    raise UsageError(f"{path} is of the method {method!r}; accepted: cam, ficklenet; update f2f")


def without_chance(network: CamClassifier | FickleNet) -> CamClassifier | ExpectedFickleNet:
    """The same by the contract of classifiers: of a FickleNet, the mean over draws."""
    return ExpectedFickleNet(network) if isinstance(network, FickleNet) else network


def classifier_from_checkpoint(options: ClassifierExport) -> tuple[nn.Module, NetworkCard]:
    """Our own classifier from network.pt."""
    assert options.checkpoint is not None
    network, training = read_classifier(options.checkpoint)
    card = NetworkCard("classifier", network.classes, _defaults(OWN_DEFAULTS, options), training)
    return without_chance(network), card


def flow_network(options: FlowExport) -> tuple[FlowNetwork, NetworkCard]:
    """PWC-Net from our network.pt or from a released file."""
    source = flow_from_released(options.weights) if options.weights else flow_from_checkpoint(options.checkpoint)
    network, card = source
    if options.fit is not None:
        network = FlowNetwork(network.network, network.standardised, padded=options.fit == "pad")
    return network, card


def flow_from_checkpoint(path: Path | None) -> tuple[FlowNetwork, NetworkCard]:
    """PWC-Net from network.pt."""
    assert path is not None
    content = read_network(path, "flow")
    missing = [name for name in ("width", "dense", "reach") if name not in content]
    if missing:
        raise UsageError(f"--checkpoint {path} does not say its {', '.join(missing)}; train the network again")
    network = PWCNet(content["width"], content["dense"], content["reach"])
    network.load_state_dict(content["state_dict"])
    return FlowNetwork(network), NetworkCard("flow", training=content["training"])


def classifier_from_torchvision(options: ClassifierExport) -> tuple[nn.Module, NetworkCard]:
    """A torchvision ImageNet network whose classes are joined by a class map."""
    assert options.torchvision is not None
    network = load_torchvision(options.torchvision, options.weights, load_class_map(options.classes))
    training: dict[str, Any] = {
        "source": "torchvision",
        "network": options.torchvision,
        "classes": Path(options.classes).name,
    }
    if options.weights:
        training["weights_sha256"] = hashlib.sha256(options.weights.read_bytes()).hexdigest()
    return network, NetworkCard("classifier", network.classes, _defaults(TORCHVISION_DEFAULTS, options), training)


def segmenter_network(options: SegmenterExport) -> tuple[FullSize, NetworkCard]:
    """Our own segmenter from network.pt, its logits brought to the image's size."""
    content = read_network(options.checkpoint, "segmenter")
    network = segmenter(content["name"], content["classes"], content["width"])
    network.load_state_dict(content["state_dict"])
    return FullSize(network), NetworkCard("segmenter", tuple(content["classes"]), training=content["training"])


def _defaults(defaults: dict[str, float], options: ClassifierExport) -> dict[str, float]:
    given = {"tau": options.tau, "theta_f": options.theta_f}
    return defaults | {name: value for name, value in given.items() if value is not None}
