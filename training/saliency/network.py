"""DSS: saliency by short connections between the side outputs of a network (Hou et al., CVPR 2017 and TPAMI 2019).

Letters: B images, H, W input size, h, w size of a side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from f2f.training.segmentation.backbones import (
    SCORE_DEVIATION,
    VGG16_CHANNELS,
    Backbone,
    backbone,
    initialise,
    scaled,
    vgg16_layers,
)

SaliencyBackbone = Literal["small", "vgg16"]
BORDER_PX = 4
"""the first convolution of VGG-16 pads 5 px instead of 1"""
BLANK_PEAK = 0.05
"""a map that stays below shows nothing, and is not stretched"""


class Side(NamedTuple):
    """A side output."""

    kernel: int
    """of its two convolutions, px of its own map"""
    sources: tuple[int, ...]
    """numbers of the deeper sides it takes up"""


SIDES = {
    1: Side(3, (3, 4, 5, 6)),
    2: Side(3, (3, 4, 5, 6)),
    3: Side(5, (5, 6)),
    4: Side(5, (5, 6)),
    5: Side(5, ()),
    6: Side(7, ()),
}
SHOWN_SIDES = (3, 4, 5)
"""which the saliency is the mean of, with the fused map (the authors' notebook; their paper has 2, 3, 4)"""


class Stages(NamedTuple):
    """A backbone, and where on it the sides stand; of each tuple an entry per side."""

    backbone: Backbone
    places: tuple[int, ...]
    """number of the last layer below a side"""
    channels: tuple[int, ...]
    """of the features there"""
    strides: tuple[int, ...]
    """of the features there, px"""
    hidden: tuple[int, ...]
    """channels of the side's two convolutions"""
    border_px: int
    """by how much the features reach beyond the image"""


def _vgg16(width: float) -> Stages:
    """Side n stands behind block n at stride 2^(n-1), side 6 behind the last pools. Published widths of the sides."""
    pools = [nn.MaxPool2d(2, ceil_mode=True) for _ in VGG16_CHANNELS[1:]]
    features = vgg16_layers(width, [*pools, nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 1, 1))])
    first = features[0]
    assert isinstance(first, nn.Conv2d)
    first.padding = (1 + BORDER_PX, 1 + BORDER_PX)
    channels = (*(scaled(layers[-1], width) for layers in VGG16_CHANNELS), scaled(512, width))
    hidden = tuple(scaled(count, width) for count in (128, 128, 256, 256, 512, 512))
    base = Backbone([("features", features)], channels[-1])
    return Stages(base, (3, 8, 15, 22, 29, 30), channels, (1, 2, 4, 8, 16, 32), hidden, BORDER_PX)


def _small(width: float) -> Stages:
    """The backbone for CPUs, whose last stages are pooled twice more; its sides are as wide as their features."""
    plain = backbone("small", width)
    _, *layers = plain.named_children()
    pooled = Backbone([*layers, *((f"pool{number}", nn.MaxPool2d(3, 2, 1)) for number in (5, 6))], plain.channels)
    places = (0, 2, 3, 5, 6, 7)
    widths = {place: _channels_of(layer) for place, (_, layer) in enumerate(layers)}
    channels = tuple(widths.get(place, plain.channels) for place in places)
    return Stages(pooled, places, channels, (2, 4, 8, 8, 16, 32), channels, 0)


def _channels_of(layer: nn.Module) -> int:
    """Of the map that a block of the small backbone gives."""
    return next(part.out_channels for part in layer.children() if isinstance(part, nn.Conv2d))


BACKBONES: dict[SaliencyBackbone, Callable[[float], Stages]] = {"vgg16": _vgg16, "small": _small}


class SaliencyNetwork(nn.Module):
    """The network, with `width` times its channels, on VGG-16 as published or on the small backbone.

    `backbone` has the names of `backbones.backbone`'s, which for VGG-16 are torchvision's.
    """

    def __init__(self, width: float = 1.0, backbone_name: SaliencyBackbone = "vgg16") -> None:
        super().__init__()
        self.width, self.backbone_name = width, backbone_name
        self.backbone, self.places, channels, self.strides, hidden, self.border_px = BACKBONES[backbone_name](width)
        self.own = nn.ModuleList(
            _own_map(count, between, side.kernel)
            for count, between, side in zip(channels, hidden, SIDES.values(), strict=True)
        )
        self.joined = nn.ModuleDict(
            {str(number): nn.Conv2d(1 + len(side.sources), 1, 1) for number, side in SIDES.items() if side.sources}
        )
        self.fused = nn.Conv2d(len(SIDES), 1, 1)
        self.apply(initialise)
        own, mixing = self.scores()
        for layer in own:
            nn.init.normal_(layer.get_parameter("weight"), std=SCORE_DEVIATION)
        for layer in mixing:
            weight = layer.get_parameter("weight")
            nn.init.constant_(weight, 1 / weight.shape[1])

    def scores(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The 1×1 convolutions that give the maps: of features, and of maps."""
        return [side.get_submodule("4") for side in self.own], [*self.joined.values(), self.fused]

    def forward(self, image: Tensor) -> list[Tensor]:
        """[B,3,H,W] RGB 0..1 -> logits of sides 1..6 and of the fused map, seven times [B,1,H,W]."""
        maps: dict[int, Tensor] = {}
        for number, features in reversed(list(enumerate(self._features(image), 1))):
            own: Tensor = self.own[number - 1](features)  # [B,1,h,w]
            sources = SIDES[number].sources
            deeper = [_cut(self._enlarged(maps[source], source, number), own) for source in sources]
            maps[number] = self.joined[str(number)](torch.cat([own, *deeper], 1)) if sources else own
        sides = [_cut(self._enlarged(maps[number], number), image, self.border_px) for number in SIDES]
        return [*sides, self.fused(torch.cat(sides, 1))]

    def saliency(self, image: Tensor) -> Tensor:
        """[B,3,H,W] RGB 0..1 -> [B,1,H,W], each image stretched to 0..1 unless it shows nothing."""
        *sides, fused = self(image)
        shown = [*(sides[number - 1] for number in SHOWN_SIDES), fused]
        return stretched(torch.stack([logits.sigmoid() for logits in shown]).mean(0))

    def _features(self, image: Tensor) -> list[Tensor]:
        """Below each side."""
        normalise, *layers = self.backbone
        if self.backbone_name == "vgg16":
            (features,) = layers
            assert isinstance(features, nn.Sequential)
            layers = list(features)
        found, maps = [], normalise(image)
        for place, layer in enumerate(layers):
            maps = layer(maps)
            if place in self.places:
                found.append(maps)
        return found

    def _enlarged(self, logits: Tensor, side: int, like: int | None = None) -> Tensor:
        """A side's map at the stride of another one or, without, of the image, bilinearly by the whole factor."""
        factor = self.strides[side - 1] // (self.strides[like - 1] if like else 1)
        if factor == 1:
            return logits
        return F.interpolate(logits, scale_factor=float(factor), mode="bilinear", align_corners=False)


def stretched(maps: Tensor) -> Tensor:
    """Maps [B,1,H,W] in 0..1, each to the full range; not one that shows nothing, of which noise would be made."""
    least, most = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    return torch.where(most < BLANK_PEAK, maps, (maps - least) / (most - least).clamp_min(1e-5))


def saliency_loss(outputs: list[Tensor], masks: Tensor, known: Tensor | None = None, balanced: bool = False) -> Tensor:
    """Binary cross-entropy with masks [B,1,H,W] in {0,1}, mean over pixels, summed over outputs [B,1,H,W].

    Args:
        outputs: logits.
        masks: 1 where something is salient.
        known: bool [B,1,H,W], the pixels that count; all of them without.
        balanced: weigh the salient pixels of an image by the share of the others, and these by that of the salient
            ones (Xie & Tu 2015, eq. 2); without, all count the same, as DSS has it.
    """
    weights = torch.ones_like(masks) if known is None else known.to(masks.dtype)
    count = weights.sum((1, 2, 3), keepdim=True).clamp_min(1)  # [B,1,1,1]
    if balanced:
        share = (weights * masks).sum((1, 2, 3), keepdim=True) / count
        weights = weights * torch.where(masks > 0, 1 - share, share)
    losses = [F.binary_cross_entropy_with_logits(logits, masks, weights, reduction="sum") for logits in outputs]
    return torch.stack(losses).sum() / count.sum()


def _own_map(channels_in: int, channels: int, kernel: int) -> nn.Sequential:
    """What a side says by itself."""
    layers = (
        nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, kernel, padding=kernel // 2),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, 1, 1),
    )
    return nn.Sequential(*layers)


def _cut(maps: Tensor, like: Tensor, first: int = 0) -> Tensor:
    """The part of the size of `like` that begins at `first`: strides round sizes up."""
    height, width = like.shape[-2:]
    return maps[..., first : first + height, first : first + width]
