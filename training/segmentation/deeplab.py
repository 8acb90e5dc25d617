"""The segmenters: DeepLab heads on the backbones (Chen et al., ICLR 2015 and TPAMI 2018).

Letters: B images, C classes, L = 1 + C labels, F channels, H, W input size, h, w = H/8, W/8, rounded up.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from f2f.training.segmentation.backbones import SCORE_DEVIATION, backbone, block, initialise, scaled

ASPP_DILATIONS = (6, 12, 18, 24)
SMALL_DILATIONS = (2, 4, 6, 8)
"""for maps of some 20 cells instead of 41"""
LARGE_FOV_DILATION = 12
FC_CHANNELS = 1024


class SummedBranches(nn.Module):
    """[B,F,h,w] -> [B,L,h,w]: the sum of branches, each of which ends in the convolution that gives the scores."""

    def __init__(self, branches: Sequence[nn.Sequential], before: nn.Module | None = None) -> None:
        super().__init__()
        self.before = before or nn.Identity()
        self.branches = nn.ModuleList(branches)

    def forward(self, features: Tensor) -> Tensor:
        """[B,F,h,w] -> [B,L,h,w]."""
        features = self.before(features)
        return torch.stack([branch(features) for branch in self.branches]).sum(0)

    def score_layers(self) -> list[nn.Conv2d]:
        """The last convolution of each branch."""
        layers = [branch[-1] for branch in self.branches if isinstance(branch, nn.Sequential)]
        return [layer for layer in layers if isinstance(layer, nn.Conv2d)]


class Segmenter(nn.Module):
    """[B,3,H,W] RGB 0..1 -> logits [B,L,h,w]; label 0 is background, label c + 1 is class c. Made by `segmenter`."""

    def __init__(self, name: str, classes: Sequence[str], width: float) -> None:
        super().__init__()
        self.name = name
        self.classes = tuple(classes)
        self.width = width
        backbone_name, make_scores = _SEGMENTERS[name]
        self.backbone = backbone(backbone_name, width)
        self.scores = make_scores(self.backbone.channels, 1 + len(self.classes), width)
        self.apply(initialise)
        for layer in self.scores.score_layers():
            nn.init.normal_(layer.weight, std=SCORE_DEVIATION)

    def forward(self, image: Tensor) -> Tensor:
        """[B,3,H,W] RGB 0..1 -> logits [B,L,h,w]."""
        logits: Tensor = self.scores(self.backbone(image))
        return logits

    def head_parameters(self) -> list[nn.Parameter]:
        """Of the layers that give the scores: weights, which learn ten times faster, and biases, twenty times."""
        return [value for layer in self.scores.score_layers() for value in layer.parameters()]


def segmenter(name: str, classes: Sequence[str], width: float = 1.0) -> Segmenter:
    """Build a segmenter of `classes` (without background) with `width` times the published channels.

    `vgg16-largefov` is SEC's, `vgg16-aspp` DSRG's, `resnet50-aspp` and `resnet101-aspp` are those of DeepLab v2;
    `small` is for CPUs. Raises ValueError for another name.
    """
    if name not in _SEGMENTERS:
        raise ValueError(f"the segmenter is {name!r}; accepted: {', '.join(_SEGMENTERS)}; choose one")
    return Segmenter(name, classes, width)


class FullSize(nn.Module):
    """The segmenter by the engine's contract: [B,3,H,W] RGB 0..1 -> logits [B,L,H,W]."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network
        self.classes = network.classes

    def forward(self, image: Tensor) -> Tensor:
        """[B,3,H,W] RGB 0..1 -> logits [B,L,H,W]."""
        return _at_size_of(image, self.network(image))


class HalfFullSize(FullSize):
    """The same with weights and layers in float16; image and logits, and what brings these to size, stay float32."""

    def __init__(self, whole: FullSize) -> None:
        super().__init__(copy.deepcopy(whole.network).half())

    def forward(self, image: Tensor) -> Tensor:
        """[B,3,H,W] float32 RGB 0..1 -> float32 logits [B,L,H,W]."""
        return _at_size_of(image, self.network(image.half()).float())


def _at_size_of(image: Tensor, logits: Tensor) -> Tensor:
    return nn.functional.interpolate(logits, image.shape[-2:], mode="bilinear", align_corners=False)


def _large_fov(channels: int, labels: int, width: float) -> SummedBranches:
    """One branch, of a large field of view."""
    return SummedBranches([_fc_branch(channels, labels, width, LARGE_FOV_DILATION)], _vgg_pools())


def _vgg_aspp(channels: int, labels: int, width: float) -> SummedBranches:
    branches = [_fc_branch(channels, labels, width, dilation) for dilation in ASPP_DILATIONS]
    return SummedBranches(branches, _vgg_pools())


def _vgg_pools() -> nn.Sequential:
    """pool5 and pool5a, which keep the size."""
    return nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1))


def _fc_branch(channels: int, labels: int, width: float, dilation: int) -> nn.Sequential:
    """fc6, fc7, fc8: VGG's linear layers as convolutions."""
    hidden = scaled(FC_CHANNELS, width)
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 3, padding=dilation, dilation=dilation),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Conv2d(hidden, hidden, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Conv2d(hidden, labels, 1),
    )


def _resnet_aspp(channels: int, labels: int, width: float) -> SummedBranches:
    """One convolution per branch, whatever the width."""
    convolutions = [nn.Conv2d(channels, labels, 3, padding=step, dilation=step) for step in ASPP_DILATIONS]
    return SummedBranches([nn.Sequential(convolution) for convolution in convolutions])


def _small_aspp(channels: int, labels: int, width: float) -> SummedBranches:
    """Half the backbone's channels per branch, with batch norm; `width` is in `channels`."""
    hidden = scaled(channels, 0.5)
    branches = [(block(channels, hidden, dilation=step), nn.Conv2d(hidden, labels, 1)) for step in SMALL_DILATIONS]
    return SummedBranches([nn.Sequential(*layers) for layers in branches])


_SEGMENTERS: dict[str, tuple[str, Callable[[int, int, float], SummedBranches]]] = {
    "vgg16-largefov": ("vgg16", _large_fov),
    "vgg16-aspp": ("vgg16", _vgg_aspp),
    "resnet50-aspp": ("resnet50", _resnet_aspp),
    "resnet101-aspp": ("resnet101", _resnet_aspp),
    "small": ("small", _small_aspp),
}
"""per segmenter: its backbone, and what makes its scores of channels, labels and width"""
