"""FickleNet: one classifier, many of them by chance (Lee et al., CVPR 2019).

Its last convolution, of large windows, sees a random selection of the cells of each window: what a window sees is
drawn anew for every position and pass, so that every pass finds other parts of an object. The published way expands
the feature map so that every window has cells of its own. Here the order of sums is turned around: the convolution's
taps are applied to the features first, as one 1×1 convolution, and what is selected are their products, s² C numbers
of a cell instead of s² F. They are the same in every pass.

Letters: B images, N passes, F feature channels, C classes, S = s*s taps of the window, h, w cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from f2f.engine.types import IGNORE
from f2f.training.classifier import PRIOR_LOGIT
from f2f.training.reductions import spatial_mean
from f2f.training.segmentation.backbones import SCORE_DEVIATION, backbone, initialise

NO_PEAK = 1e-5
"""added to the maximum by which a map is divided"""


class StochasticConv2d(nn.Conv2d):
    """An s×s convolution, s odd, whose windows lose each cell but the centre with probability `rate`.

    One draw for all channels, another for each position of the window and each pass. With `rescale` what is kept
    counts 1/(1 - rate) fold, the centre aside, so that the mean over draws is the plain convolution. State dict and
    initialisation are those of `nn.Conv2d`.
    """

    def __init__(self, channels_in: int, channels_out: int, window: int, rate: float, rescale: bool = True) -> None:
        if window % 2 != 1:
            raise ValueError(f"window is {window}; accepted: an odd size, which has a centre; add one")
        if not 0 <= rate <= 1:
            raise ValueError(f"rate is {rate}; accepted: 0 (nothing is dropped) to 1 (all but the centre)")
        super().__init__(channels_in, channels_out, window, padding=window // 2)
        self.window, self.rate, self.rescale = window, rate, rescale

    def forward(self, features: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B,F,h,w] -> [B,C,h,w], with a selection of its own for each image."""
        products = self.products(features)
        return self.select(products, self.draw(features.shape[0], products, generator))

    def expected(self, features: Tensor) -> Tensor:
        """The mean over draws, an ordinary convolution: [B,F,h,w] -> [B,C,h,w]."""
        kept = 1.0 if self.rescale and self.rate < 1 else 1 - self.rate
        shares = torch.full_like(self.weight[0, 0], kept)  # [s,s]
        shares[self.window // 2, self.window // 2] = 1
        return F.conv2d(features, self.weight * shares, self.bias, padding=self.window // 2)

    def products(self, features: Tensor) -> Tensor:
        """Every tap's product with every cell: [B,F,h,w] -> [B,S,C,h,w]."""
        taps = self.weight.flatten(2).permute(2, 0, 1).flatten(0, 1)  # [S*C,F]
        products = F.conv2d(features, taps[:, :, None, None])
        return products.reshape(len(features), self.window**2, self.out_channels, *features.shape[2:])

    def draw(self, count: int, products: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """`count` selections [count,S,h,w]: what each tap of the window about each cell counts, 0 where dropped."""
        shape = (count, self.window**2, *products.shape[-2:])
        kept = torch.rand(shape, generator=generator, device=products.device) >= self.rate
        selections = kept.to(products.dtype)
        if self.rescale and self.rate < 1:
            selections = selections / (1 - self.rate)
        selections[:, self.window**2 // 2] = 1
        return selections

    def select(self, products: Tensor, selections: Tensor) -> Tensor:
        """The convolution of what is selected: products [B,S,C,h,w], selections [B,S,h,w] -> [B,C,h,w]."""
        summed = torch.zeros_like(products[:, 0])
        for kept, seen in zip(selections.unbind(1), self._shifted(products, 1), strict=True):  # S of [B,h,w], [B,C,h,w]
            summed = summed + kept[:, None] * seen
        return summed if self.bias is None else summed + self.bias[:, None, None]

    def localise(self, products: Tensor, selections: Tensor) -> Tensor:
        """What each cell adds to the sum of each class: products [B,S,C,h,w], selections [N,S,h,w] -> [B,N,C,h,w].

        With S_c the mean of the convolution over its h w cells, this is h w sum_f x_f dS_c/dx_f, the paper's Grad-CAM
        (with the gradient of each cell, not its mean) before the ReLU. The convolution is linear, so the gradient is
        the sum of the taps that saw the cell, and no backward pass is needed.
        """
        seen_by = torch.cat(self._shifted(selections[:, :, None], -1), 1)  # [N,S,h,w]: at a cell, what sees it
        return torch.einsum("nshw,bschw->bnchw", seen_by, products)

    def _shifted(self, maps: Tensor, sign: int) -> list[Tensor]:
        """Map s of [B,S,K,h,w] moved by its tap's offset times `sign`, each [B,K,h,w]; zeros come in."""
        height, width = maps.shape[-2:]
        reach = self.window // 2
        moved = []
        for tap, padded in enumerate(F.pad(maps, [reach] * 4).unbind(1)):  # apart: a slice's gradient is its map alone
            dy, dx = (reach + sign * (place - reach) for place in divmod(tap, self.window))
            moved.append(padded[..., dy : dy + height, dx : dx + width])
        return moved


@dataclass(frozen=True)
class Localisation:
    """Maps of many passes, each divided by its maximum."""

    peak: Tensor
    """[B,C,h,w], 0..1: the largest value of any pass"""
    mean: Tensor
    """[B,C,h,w], 0..1: the mean of all passes"""

    def seeds(self, tags: Tensor, theta: float = 0.35) -> Tensor:
        """Labels int64 [B,h,w]: c+1 where any pass puts class c above `theta`, 255 elsewhere.

        Of several such classes the one with the highest mean map wins. `tags` is bool [B,C]; other classes have none.
        """
        claims = (self.peak > theta) & tags[:, :, None, None].bool()
        labels = self.mean.masked_fill(~claims, -1).argmax(1) + 1
        return labels.masked_fill(~claims.any(1), IGNORE)


class FickleNet(nn.Module):
    """The classifier: a backbone and a stochastic convolution to the classes. It is random in evaluation as well."""

    def __init__(
        self,
        classes: Sequence[str],
        backbone_name: str = "vgg16",
        width: float = 1.0,
        window: int = 9,
        rate: float = 0.9,
        rescale: bool = True,
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.width = width
        self.backbone_name = backbone_name
        self.backbone = backbone(backbone_name, width)
        self.to_classes = StochasticConv2d(self.backbone.channels, len(self.classes), window, rate, rescale)
        self.apply(initialise)
        nn.init.normal_(self.to_classes.weight, std=SCORE_DEVIATION)
        assert self.to_classes.bias is not None
        nn.init.constant_(self.to_classes.bias, PRIOR_LOGIT)

    def head_parameters(self) -> list[nn.Parameter]:
        """What no pretrained weights fill, and so learns faster."""
        return list(self.to_classes.parameters())

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """[B,3,H,W] RGB 0..1 -> scores [B,C] in 0..1, cam [B,C,h,w] whose mean is the logit; of one random pass."""
        cam = self.cam(image, generator)
        return torch.sigmoid(spatial_mean(cam)), cam

    def cam(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B,3,H,W] RGB 0..1 -> [B,C,h,w] of one random pass; the mean over h, w is the logit."""
        cam: Tensor = self.to_classes(self.backbone(image), generator)
        return cam

    @torch.no_grad()
    def localise(
        self,
        image: Tensor,
        passes: int = 200,
        generator: torch.Generator | None = None,
        chunk: int = 16,
        channels: Sequence[int] | None = None,
    ) -> Localisation:
        """[B,3,H,W] RGB 0..1 -> maps of `passes` random passes, `chunk` of them at a time; features are computed once.

        All images of the batch see the same selections. `chunk` changes the memory, not the maps. Of some `channels`
        the maps are the same, only sooner there.
        """
        if passes < 1:
            raise ValueError(f"passes is {passes}; accepted: 1 or more; the paper takes 200")
        products = self.to_classes.products(self.backbone(image))  # [B,S,C,h,w]
        if channels is not None:
            products = products[:, :, list(channels)]
        peak = products.new_zeros(products.shape[0], *products.shape[2:])
        total = torch.zeros_like(peak)
        for first in range(0, passes, chunk):
            drawn = [self.to_classes.draw(1, products, generator) for _ in range(min(chunk, passes - first))]
            maps = self.to_classes.localise(products, torch.cat(drawn)).relu()  # [B,N,C,h,w]
            maps = maps / (maps.amax((3, 4), keepdim=True) + NO_PEAK)
            peak = torch.maximum(peak, maps.amax(1))
            total += maps.sum(1)
        return Localisation(peak, total / passes)


class ExpectedFickleNet(nn.Module):
    """A FickleNet by the contract of classifiers, without chance: its last map is the mean over draws."""

    def __init__(self, network: FickleNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B,3,H,W] RGB 0..1 -> scores [B,C] in 0..1, cam [B,C,h,w] whose mean is the logit."""
        cam = self.network.to_classes.expected(self.network.backbone(image))
        return torch.sigmoid(spatial_mean(cam)), cam
