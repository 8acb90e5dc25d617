"""The networks of the engine's benchmark as torch modules: what the exported files hold, to be run eagerly."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from f2f.training.imagenet import load_class_map, load_torchvision
from f2f.training.pwcnet import FlowNetwork, PWCNet


class Chain(nn.Module):
    """The bundled classifier, batch norm folded into its convolutions as in its file."""

    def __init__(self, layers: list[nn.Module], mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self._mean, self._deviation = mean, deviation

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] RGB in 0..1 -> scores [B, C], cam [B, C, h, w]."""
        cam = self.layers((image - self._mean) / self._deviation)
        return torch.sigmoid(cam.mean((2, 3))), cam


def bundled_classifier(path: Path) -> nn.Module:
    """Rebuild the chain of convolutions that the bundled classifier's file is."""
    graph = onnx.load(path).graph
    values = _values(graph)
    mean, deviation = (values[node.input[1]] for node in graph.node if node.op_type in {"Sub", "Div"})
    layers = [_layer(node, values) for node in graph.node if node.op_type in {"Conv", "Relu"}]
    return Chain(layers, mean, deviation).eval().to(memory_format=torch.channels_last)


def _layer(node: onnx.NodeProto, values: dict[str, Tensor]) -> nn.Module:
    if node.op_type == "Relu":
        return nn.ReLU(inplace=True)
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    weight, bias = (values[name] for name in node.input[1:])
    convolution = nn.Conv2d(
        weight.shape[1],
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        stride=given["strides"],
        padding=tuple(given["pads"][:2]),
        dilation=given["dilations"],
    )
    convolution.load_state_dict({"weight": weight, "bias": bias})
    return convolution


def bundled_flow(path: Path) -> nn.Module:
    """The bundled PWC-Net with the weights of its file."""
    model = onnx.load(path)
    values = _values(model.graph)
    shape = json.loads({entry.key: entry.value for entry in model.metadata_props}["f2f.training"])["options"]
    network = FlowNetwork(PWCNet(shape["width"], shape["dense"], shape["reach"]))
    wanted = {name: value for name, value in network.state_dict().items() if "deconv2" not in name}  # is never used
    network.load_state_dict({name: values[name] for name in wanted}, strict=False)
    return network.eval().to(memory_format=torch.channels_last)


def imagenet_classifier(name: str, weights: Path, classes: Path) -> nn.Module:
    """A torchvision network that gives CAMs."""
    return load_torchvision(name, weights, load_class_map(str(classes))).to(memory_format=torch.channels_last)


def network_flow(network: nn.Module) -> Callable[[list[npt.NDArray[np.uint8]]], Tensor]:
    """The flows between the frames of a window, by a network."""

    def flows(frames: list[npt.NDArray[np.uint8]]) -> Tensor:
        images = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float().div_(255)
        found: Tensor = network(images[None])[0]
        return found

    return flows


def dis_flow() -> Callable[[list[npt.NDArray[np.uint8]]], Tensor]:
    """The flows between the frames of a window, by OpenCV's DIS."""
    cv2: Any = import_module("cv2")
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def flows(frames: list[npt.NDArray[np.uint8]]) -> Tensor:
        greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
        found = [dis.calc(here, before, None) for before, here in pairwise(greys)]
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)

    return flows


def _values(graph: onnx.GraphProto) -> dict[str, Tensor]:
    """Constants by name; exporters store equal ones once and name the others by `Identity`."""
    values = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            values[node.output[0]] = torch.from_numpy(numpy_helper.to_array(node.attribute[0].t).copy())
        elif node.op_type == "Identity" and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]]
    return values
