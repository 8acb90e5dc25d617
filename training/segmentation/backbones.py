"""Feature extractors at stride 8, shared by the classifiers and the segmenters.

Letters: B images, F channels, H, W input size, h, w = H/8, W/8, rounded up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

VGG16_CHANNELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""convolutions of the five blocks (Simonyan & Zisserman 2015, configuration D)"""
SMALL_CHANNELS = (24, 32, 64, 96, 128)
SCORE_DEVIATION = 0.01
"""of the weights that give the scores of classes, where training starts"""


class Normalise(nn.Module):
    """RGB in 0..1 -> zero mean, unit deviation; lives inside the graph so that callers need not know it."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """[B,3,H,W] RGB 0..1 -> [B,3,H,W]."""
        return (image - self.mean) / self.std


class Backbone(nn.Sequential):
    """[B,3,H,W] RGB 0..1 -> [B,F,h,w]: layers in order, after `Normalise`. `channels` is F."""

    def __init__(self, layers: Sequence[tuple[str, nn.Module]], channels: int) -> None:
        super().__init__(OrderedDict([("normalise", Normalise()), *layers]))
        self.channels = channels


def backbone(name: str, width: float = 1.0) -> Backbone:
    """Build a backbone by name: `vgg16`, `resnet50`, `resnet101` or `small`, with `width` times its channels.

    The state dict of the first three has torchvision's names, without the classifier's. Of a ResNet only the 3×3
    convolutions become narrower. Raises ValueError for another name.
    """
    if name not in _BACKBONES:
        raise ValueError(f"the backbone is {name!r}; accepted: {', '.join(_BACKBONES)}; choose one")
    return _BACKBONES[name](width)


def scaled(channels: int, width: float) -> int:
    """`width` times as many channels, a multiple of 8."""
    return max(8, round(width * channels / 8) * 8)


def block(channels_in: int, channels_out: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """3×3 convolution, batch norm, ReLU."""
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))


def initialise(module: nn.Module) -> None:
    """He's initialisation of one convolution, for `network.apply`."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def vgg16_layers(width: float, pools: Sequence[nn.Module], last_dilation: int = 1) -> nn.Sequential:
    """The 13 convolutions and ReLUs, `pools` behind the blocks; numbered as `features` of torchvision's vgg16."""
    layers: list[nn.Module] = []
    channels_in = 3
    for number, channels in enumerate(VGG16_CHANNELS):
        dilation = last_dilation if number == len(VGG16_CHANNELS) - 1 else 1
        for channels_out in (scaled(count, width) for count in channels):
            layers.append(nn.Conv2d(channels_in, channels_out, 3, padding=dilation, dilation=dilation))
            layers.append(nn.ReLU(inplace=True))
            channels_in = channels_out
        layers.extend(pools[number : number + 1])
    return nn.Sequential(*layers)


def _small(width: float) -> Backbone:
    """For CPUs: 0.3 M parameters."""
    c1, c2, c3, c4, c5 = (scaled(channels, width) for channels in SMALL_CHANNELS)
    layers = (
        block(3, c1, stride=2),
        block(c1, c2, stride=2),
        block(c2, c3),
        block(c3, c4, stride=2),
        block(c4, c4),
        block(c4, c5, dilation=2),
    )
    return Backbone([(str(number), layer) for number, layer in enumerate(layers)], c5)


def _vgg16(width: float) -> Backbone:
    """As DeepLab cuts it: 3×3 pools, so that 321 px become 41 cells; the fourth keeps the size, the fifth is gone."""
    pools = [nn.MaxPool2d(3, stride, 1) for stride in (2, 2, 2, 1)]
    return Backbone([("features", vgg16_layers(width, pools, last_dilation=2))], scaled(512, width))


def _resnet(name: str) -> Callable[[float], Backbone]:
    """torchvision's, dilated in its last two stages instead of strided."""

    def build(width: float) -> Backbone:
        from torchvision import models

        dilate = [False, True, True]
        whole = models.get_model(
            name,
            weights=None,
            num_classes=1,
            replace_stride_with_dilation=dilate,
            width_per_group=scaled(64, width),
        )
        layers = [(key, layer) for key, layer in whole.named_children() if key not in ("avgpool", "fc")]
        return Backbone(layers, whole.fc.in_features)

    return build


_BACKBONES: dict[str, Callable[[float], Backbone]] = {
    "vgg16": _vgg16,
    "resnet50": _resnet("resnet50"),
    "resnet101": _resnet("resnet101"),
    "small": _small,
}
