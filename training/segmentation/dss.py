"""DSS: saliency by short connections between the side outputs of a VGG-16 (Hou et al., CVPR 2017 and TPAMI 2019).

Letters: B images, H, W input size, h, w size of a side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from f2f.training.segmentation.backbones import VGG16_CHANNELS, Backbone, initialise, scaled, vgg16_layers

BORDER_PX = 4
"""the first convolution pads 5 px instead of 1"""
BLANK_PEAK = 0.05
"""a map that stays below shows nothing, and is not stretched"""


class Side(NamedTuple):
    """A side output."""

    kernel: int
    """of its two convolutions, px of its own map"""
    channels: int
    """of its two convolutions"""
    sources: tuple[int, ...]
    """numbers of the deeper sides it takes up"""


SIDES = {
    1: Side(3, 128, (3, 4, 5, 6)),
    2: Side(3, 128, (3, 4, 5, 6)),
    3: Side(5, 256, (5, 6)),
    4: Side(5, 256, (5, 6)),
    5: Side(5, 512, ()),
    6: Side(7, 512, ()),
}
"""side n stands behind block n at stride 2^(n-1); side 6 behind the last pools"""
SHOWN_SIDES = (3, 4, 5)
"""which the saliency is the mean of, with the fused map (the authors' notebook; their paper has 2, 3, 4)"""


class SaliencyNetwork(nn.Module):
    """The network, with `width` times its channels. `backbone` has the names of torchvision's vgg16."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.width = width
        pools = [nn.MaxPool2d(2, ceil_mode=True) for _ in VGG16_CHANNELS[1:]]
        features = vgg16_layers(width, [*pools, nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 1, 1))])
        first = features[0]
        assert isinstance(first, nn.Conv2d)
        first.padding = (1 + BORDER_PX, 1 + BORDER_PX)
        self.backbone = Backbone([("features", features)], scaled(512, width))
        channels = (*(block[-1] for block in VGG16_CHANNELS), VGG16_CHANNELS[-1][-1])
        self.own = nn.ModuleList(
            _own_map(scaled(count, width), scaled(side.channels, width), side.kernel)
            for count, side in zip(channels, SIDES.values(), strict=True)
        )
        self.joined = nn.ModuleDict(
            {str(number): nn.Conv2d(1 + len(side.sources), 1, 1) for number, side in SIDES.items() if side.sources}
        )
        self.fused = nn.Conv2d(len(SIDES), 1, 1)
        self.apply(initialise)
        nn.init.constant_(self.fused.weight, 1 / len(SIDES))
        for layer in self.joined.values():
            assert isinstance(layer, nn.Conv2d)
            nn.init.constant_(layer.weight, 1 / layer.in_channels)

    def forward(self, image: Tensor) -> list[Tensor]:
        """[B,3,H,W] RGB 0..1 -> logits of sides 1..6 and of the fused map, seven times [B,1,H,W]."""
        maps: dict[int, Tensor] = {}
        for number, features in reversed(list(enumerate(self._blocks(image), 1))):
            own: Tensor = self.own[number - 1](features)  # [B,1,h,w]
            sources = SIDES[number].sources
            deeper = [_enlarged(maps[source], 2 ** (source - number), own) for source in sources]
            maps[number] = self.joined[str(number)](torch.cat([own, *deeper], 1)) if sources else own
        bordered = F.pad(image[:, :1], [BORDER_PX] * 4)
        sides = [_enlarged(maps[number], 2 ** (number - 1), bordered) for number in SIDES]
        sides = [side[..., BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] for side in sides]
        return [*sides, self.fused(torch.cat(sides, 1))]

    @torch.no_grad()
    def saliency(self, image: Tensor) -> Tensor:
        """[B,3,H,W] RGB 0..1 -> [B,1,H,W], each image stretched to 0..1 unless it shows nothing."""
        *sides, fused = self(image)
        shown = [*(sides[number - 1] for number in SHOWN_SIDES), fused]
        mean = torch.stack([logits.sigmoid() for logits in shown]).mean(0)  # [B,1,H,W]
        least, most = mean.amin((1, 2, 3), keepdim=True), mean.amax((1, 2, 3), keepdim=True)
        return torch.where(most < BLANK_PEAK, mean, (mean - least) / (most - least).clamp_min(1e-5))

    def _blocks(self, image: Tensor) -> list[Tensor]:
        """The features before each pool, and behind the last ones."""
        normalise, features = self.backbone
        assert isinstance(features, nn.Sequential)
        blocks, maps = [], normalise(image)
        for layer in features:
            if not isinstance(layer, (nn.Conv2d, nn.ReLU)):
                blocks.append(maps)
            maps = layer(maps)
        return [*blocks, maps]


def saliency_loss(outputs: list[Tensor], masks: Tensor) -> Tensor:
    """Binary cross-entropy of masks [B,1,H,W] in 0..1, mean over pixels, summed over outputs [B,1,H,W]."""
    return torch.stack([F.binary_cross_entropy_with_logits(logits, masks) for logits in outputs]).sum()


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


def _enlarged(logits: Tensor, factor: int, like: Tensor) -> Tensor:
    """Bilinearly, by a whole factor, then cut to the size of `like`: the strides rounded sizes up."""
    height, width = like.shape[-2:]
    if factor == 1:
        return logits[..., :height, :width]
    large = F.interpolate(logits, scale_factor=float(factor), mode="bilinear", align_corners=False)
    return large[..., :height, :width]
