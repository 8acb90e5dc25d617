"""Any torchvision ImageNet network that ends in pooling + one linear map, as a CAM classifier; and its class map.

Such a network needs no training: with W the last linear map and F its feature maps, logit_i = mean_xy(W_i F), so W F
holds a CAM per ImageNet class. A class map joins ImageNet classes into ours: CAM = pixelwise max, score = sum of the
softmax probabilities.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from f2f.engine.errors import UsageError
from f2f.training.reductions import spatial_mean
from f2f.training.segmentation.backbones import Backbone, Normalise

IMAGENET_CLASSES = 1000

VOC_TO_IMAGENET: dict[str, list[int]] = {
    "aeroplane": [404, 895],
    "bicycle": [444, 671],
    "bird": [*range(7, 25), *range(80, 101), *range(127, 147)],
    "boat": [472, 484, 510, 554, 576, 625, 628, 724, 780, 814, 871, 914],
    "bottle": [440, 720, 737, 898, 907],
    "bus": [654, 779, 874],
    "car": [407, 436, 468, 511, 609, 627, 656, 661, 717, 734, 751, 817],
    "cat": [*range(281, 286)],
    "chair": [423, 559, 765],
    "cow": [345],
    "diningtable": [532],
    "dog": [*range(151, 269)],
    "horse": [339],
    "motorbike": [665, 670],
    "person": [981, 982, 983],
    "pottedplant": [738],
    "sheep": [348, 349],
    "sofa": [831],
    "train": [466, 547, 705, 820],
    "tvmonitor": [664, 782, 851],
}
"""The 20 VOC classes -> indices of the 1000 ILSVRC-2012 classes."""


@dataclass(frozen=True)
class ClassMap:
    """Our classes, each with the ImageNet classes it joins, in channel order."""

    classes: tuple[str, ...]
    """names, no background"""
    indices: tuple[tuple[int, ...], ...]
    """per class: ImageNet indices, 0..999, none in two classes"""

    def __post_init__(self) -> None:
        if not self.classes:
            raise UsageError('the class map is empty; accepted: at least one class, as in {"dog": [151, 152]}')
        owner: dict[int, str] = {}
        for name, indices in zip(self.classes, self.indices, strict=True):
            _check_indices(name, indices)
            for index in indices:
                if index in owner:
                    raise UsageError(
                        f"the class map gives ImageNet index {index} to {owner[index]!r} and to {name!r}; "
                        "accepted: each index once; remove it from one"
                    )
                owner[index] = name


def _check_indices(name: str, indices: Sequence[int]) -> None:
    if not name.strip():
        raise UsageError(f"the class map names a class {name!r}; accepted: a word")
    if not indices:
        raise UsageError(f"the class map gives {name!r} no ImageNet index; accepted: at least one of 0..999")
    for index in indices:
        if type(index) is not int or not 0 <= index < IMAGENET_CLASSES:
            raise UsageError(f"the class map gives {name!r} the index {index!r}; accepted: ImageNet indices 0..999")


def load_class_map(choice: str) -> ClassMap:
    """Read `voc` or a JSON file {class: [ImageNet indices]}; the file's order is the channel order."""
    if choice == "voc":
        return _class_map(list(VOC_TO_IMAGENET.items()))
    path = Path(choice)
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=list)
    except OSError as error:
        raise UsageError(
            f"--classes {choice} cannot be read ({error.strerror}); accepted: voc or a JSON file"
        ) from error
    except ValueError as error:
        raise UsageError(
            f"--classes {choice} is not JSON ({error}); accepted: {{class: [ImageNet indices]}}"
        ) from error
    return _class_map(pairs)


def _class_map(pairs: Any) -> ClassMap:
    rows = pairs if isinstance(pairs, list) else [pairs]
    if not all(isinstance(row, (tuple, list)) and len(row) == 2 and isinstance(row[1], list) for row in rows):
        raise UsageError("the class map is not an object of lists; accepted: {class: [ImageNet indices]}")
    names = [str(name) for name, _ in rows]
    folded = ["".join(filter(str.isalnum, name.casefold())) for name in names]
    twice = [name for place, name in enumerate(names) if folded[place] in folded[:place]]
    if twice:
        raise UsageError(f"the class map names {twice[0]!r} twice (case and separators do not count); keep one")
    return ClassMap(tuple(names), tuple(tuple(indices) for _, indices in rows))


@dataclass(frozen=True)
class CamHead:
    """A network cut at its last linear map."""

    features: nn.Module
    """[B,3,H,W] -> [B,F,h,w]"""
    weight: Tensor
    """[1000,F]"""
    bias: Tensor
    """[1000]"""
    relu: bool
    """a ReLU stands between the map and the pooling (SqueezeNet)"""


def find_head(network: nn.Module) -> CamHead:
    """Cut an ImageNet network before its last linear map; refuses, with the reason, where no CAM can be had."""
    name = type(network).__name__
    network = network.eval()
    try:
        graph = fx.symbolic_trace(network)
    except Exception as error:
        raise UsageError(
            f"{name} cannot be traced ({error}); accepted: convolutional networks such as resnet18"
        ) from error
    head = _cut(graph, _last_node(graph, name), name)
    _check_head(network, head, name)
    return head


def _last_node(graph: fx.GraphModule, name: str) -> fx.Node:
    output = next(node for node in reversed(graph.graph.nodes) if node.op == "output").args[0]
    if not isinstance(output, fx.Node):
        raise _refusal(name, "it returns more than one tensor")
    return _skip(graph, output, _is_neutral)


def _cut(graph: fx.GraphModule, last: fx.Node, name: str) -> CamHead:
    layer = _layer(graph, last)
    if isinstance(layer, nn.Linear):
        before = _skip(graph, _source(last), _is_neutral)
        if not _is_global_pool(graph, before):
            reason = f"before its last linear layer stands {_describe(graph, before)}, not global average pooling"
            raise _refusal(name, reason)
        return CamHead(_features(graph, _source(before)), layer.weight, _bias(layer), relu=False)
    if not _is_global_pool(graph, last):
        raise _refusal(name, f"it ends in {_describe(graph, last)}")
    before = _skip(graph, _source(last), _is_relu)
    layer = _layer(graph, before)
    if not (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1):
        raise _refusal(
            name, f"before its global average pooling stands {_describe(graph, before)}, not a 1x1 convolution"
        )
    features = _features(graph, _source(before))
    return CamHead(features, layer.weight.flatten(1), _bias(layer), relu=before is not _source(last))


def _refusal(name: str, reason: str) -> UsageError:
    return UsageError(
        f"{name} has no class activation maps: {reason}; accepted: networks that end in global average pooling + "
        "linear (resnet, densenet, mobilenet_v2, efficientnet, regnet, …) or 1x1 convolution + pooling (squeezenet)"
    )


def _source(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _skip(graph: fx.GraphModule, node: fx.Node, passes: Callable[[fx.GraphModule, fx.Node], bool]) -> fx.Node:
    while passes(graph, node):
        node = _source(node)
    return node


def _layer(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def _is_neutral(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(_layer(graph, node), (nn.Dropout, nn.Flatten, nn.Identity))
    return node.target in {torch.flatten, F.dropout, "flatten", "squeeze"}


def _is_relu(graph: fx.GraphModule, node: fx.Node) -> bool:
    return isinstance(_layer(graph, node), nn.ReLU) or node.target in {F.relu, torch.relu}


def _is_global_pool(graph: fx.GraphModule, node: fx.Node) -> bool:
    layer = _layer(graph, node)
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return layer.output_size in (1, (1, 1))
    argument = node.args[1] if len(node.args) > 1 else None
    if node.target is F.adaptive_avg_pool2d:
        return argument in (1, (1, 1), [1, 1])
    return node.target in {"mean", torch.mean} and argument in ([2, 3], (2, 3), [-2, -1], (-2, -1))


def _describe(graph: fx.GraphModule, node: fx.Node) -> str:
    layer = _layer(graph, node)
    if layer is not None:
        return f"{type(layer).__name__} ({node.target})"
    return f"`{getattr(node.target, '__name__', node.target)}`"


def _bias(layer: nn.Linear | nn.Conv2d) -> Tensor:
    return layer.bias if layer.bias is not None else layer.weight.new_zeros(layer.weight.shape[0])


def _features(graph: fx.GraphModule, node: fx.Node) -> fx.GraphModule:
    cut = copy.deepcopy(graph.graph)
    for copied in reversed(list(cut.nodes)):
        if copied.name == node.name:
            cut.output(copied)
            break
        cut.erase_node(copied)
    return fx.GraphModule(graph, cut)


def _check_head(network: nn.Module, head: CamHead, name: str) -> None:
    """The logits of the cut network must be those of the whole one."""
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = network(image)
        maps = F.conv2d(head.features(image), head.weight[:, :, None, None], head.bias)
        cut = spatial_mean(maps.relu() if head.relu else maps)
    if cut.shape != whole.shape or cut.shape[1] != IMAGENET_CLASSES:
        raise _refusal(name, f"it gives {tuple(whole.shape[1:])} numbers, not {IMAGENET_CLASSES} logits")
    if not torch.allclose(cut, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max())):
        raise _refusal(name, "the mean of its maps is not its logit")


class ImageNetCam(nn.Module):
    """An ImageNet network by the classifier contract, its classes joined by a class map."""

    def __init__(self, network: nn.Module, class_map: ClassMap, normalise: Normalise) -> None:
        super().__init__()
        head = find_head(network)
        self.classes = class_map.classes
        self.normalise = normalise
        self.features = head.features
        self.relu = head.relu
        self.weight = nn.Parameter(head.weight.detach().clone())
        self.bias = nn.Parameter(head.bias.detach().clone())
        self.members: list[Tensor] = [torch.tensor(indices) for indices in class_map.indices]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B,3,H,W] RGB 0..1 -> scores [B,C] (summed softmax, 0..1), cam [B,C,h,w] before any ReLU."""
        features = self.features(self.normalise(image))  # [B,F,h,w]
        maps = F.conv2d(features, self.weight[:, :, None, None], self.bias)  # [B,1000,h,w]
        logits = spatial_mean(maps.relu() if self.relu else maps)
        probabilities = logits.softmax(1)
        scores = [probabilities.index_select(1, members).sum(1) for members in self.members]
        cams = [maps.index_select(1, members).amax(1) for members in self.members]
        return torch.stack(scores, 1).clamp(0, 1), torch.stack(cams, 1)


def load_torchvision(name: str, weights: Path | None, class_map: ClassMap) -> ImageNetCam:
    """Build a torchvision ImageNet network with the weights of a file (or torchvision's own) as a CAM classifier."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, 5)) or "resnet50, squeezenet1_0, densenet121"
        raise UsageError(f"--torchvision is {name!r}; accepted: an ImageNet network of torchvision, such as {near}")
    preset = models.get_model_weights(name).DEFAULT.transforms()
    network = _downloaded(name) if weights is None else models.get_model(name, weights=None)
    if weights is not None:
        load_weights(network, read_weights(weights), weights)
    return ImageNetCam(network, class_map, Normalise(preset.mean, preset.std)).eval()


def _downloaded(name: str) -> nn.Module:
    from torchvision import models

    try:
        return models.get_model(name, weights="DEFAULT")  # type: ignore[no-any-return]
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"the weights of {name} could not be downloaded ({error}); give them as --weights FILE (.safetensors, .pth)"
        ) from error


def load_weights(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load named tensors, read from `path`, into a network; every key must fit."""
    expected = network.state_dict()
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise UsageError(
            f"{path} does not fit {type(network).__name__}: missing {_some(missing)}; unexpected {_some(unexpected)}; "
            "give the weights of this network"
        )
    for key, value in state.items():
        if value.shape != expected[key].shape:
            raise UsageError(
                f"{path} does not fit {type(network).__name__}: {key} is {tuple(value.shape)}; "
                f"accepted: {tuple(expected[key].shape)}; give the weights of this network"
            )
    network.load_state_dict(state, strict=False)


DEMO = Path("demo")
_OURS = "backbone."
"""what the names of the backbone's weights begin with in network.pt"""


def load_backbone(network: Backbone, path: Path) -> None:
    """Load the weights of a whole network into a backbone: torchvision's for ImageNet, or our network.pt's.

    What classifies is left out. The path `demo` means the bundled classifier's (small, width 0.75).
    """
    path = Path(str(files("f2f.training").joinpath("networks", "demo_backbone.safetensors"))) if path == DEMO else path
    state = read_weights(path)
    ours = {key.removeprefix(_OURS): value for key, value in state.items() if key.startswith(_OURS)}
    theirs = {key: value for key, value in state.items() if not key.startswith(("classifier.", "fc."))}
    load_weights(network, ours or theirs, path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read named tensors from .safetensors, or from .pth/.pt without running any code in it."""
    if path.suffix not in {".safetensors", ".pth", ".pt"}:
        raise UsageError(f"--weights {path} has the suffix {path.suffix!r}; accepted: .safetensors, .pth, .pt")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UsageError(f"--weights {path} does not exist; give a .safetensors or .pth file") from error
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"--weights {path} cannot be read ({first}); give a .safetensors or .pth file") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f"--weights {path} holds no named tensors; accepted: a state dict")
    return state


def _some(keys: list[str], shown: int = 5) -> str:
    more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return (", ".join(keys[:shown]) or "nothing") + more
