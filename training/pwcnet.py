"""PWC-Net (Sun et al. 2018), structure and names of the released PyTorch network, and the flow contract around it.

Letters: B clips, K frames, H, W input size; a level l has H/2^l × W/2^l pixels. Flow is (x, y); inside the network
its unit is 20 px of the network's input size, at every level.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from f2f.kernels import cost_volume, warp_cost_volume
from f2f.training.reductions import mean_square, spatial_mean

FLOW_UNIT_PX = 20.0
SIZE_MULTIPLE = 64
MAX_DISPLACEMENT = 4
LEVELS = (1, 2, 3, 4, 5, 6)
DECODER_LEVELS = (6, 5, 4, 3, 2)
PYRAMID_CHANNELS = (16, 32, 64, 96, 128, 196)
DENSE_CHANNELS = (128, 128, 96, 64, 32)
CONTEXT = ((128, 1), (128, 2), (128, 4), (96, 8), (64, 16), (32, 1))
"""(channels, dilation) of dc_conv1..6"""


def _convolution(channels_in: int, channels_out: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, stride, dilation, dilation), nn.LeakyReLU(0.1))


def _predictor(channels_in: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, 2, 3, padding=1)


def _doubler(channels_in: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels_in, 2, 4, stride=2, padding=1)


def _scaled(channels: tuple[int, ...], width: float) -> tuple[int, ...]:
    """Multiples of 16, which is what CPUs convolve fastest; the standard numbers at width 1."""
    return channels if width == 1 else tuple(max(16, round(count * width / 16) * 16) for count in channels)


class PWCNet(nn.Module):
    """Six-level feature pyramid, warping, cost volumes, dense decoders at levels 6..2, a context network.

    Width 1 is the standard network: 9,374,340 parameters under the released names (conv1a.0.weight, …; `deconv2`
    exists and is never used). Without `dense` connections, the paper's small variant (§4.2), a decoder's convolutions
    see only the one before, and its flow is added to that of the level above. `reach` is the largest displacement of
    the cost volumes.
    """

    def __init__(self, width: float = 1.0, dense: bool = True, reach: int = MAX_DISPLACEMENT) -> None:
        super().__init__()
        self.width, self.dense, self.reach = width, dense, reach
        self._add_pyramid(_scaled(PYRAMID_CHANNELS, width))
        self._add_decoders(_scaled(PYRAMID_CHANNELS, width), _scaled(DENSE_CHANNELS, width))
        self.apply(_initialise)
        self._start_still()

    def _add_pyramid(self, channels: tuple[int, ...]) -> None:
        before = 3
        for level, count in zip(LEVELS, channels, strict=True):
            first, *others = _pyramid_names(level)
            self.add_module(first, _convolution(before, count, stride=2))
            for name in others:
                self.add_module(name, _convolution(count, count))
            before = count

    def _add_decoders(self, pyramid: tuple[int, ...], dense: tuple[int, ...]) -> None:
        for level in DECODER_LEVELS:
            count = (2 * self.reach + 1) ** 2 + (pyramid[level - 1] + 4 if level < 6 else 0)
            for place, growth in enumerate(dense):
                self.add_module(f"conv{level}_{place}", _convolution(count, growth))
                count = growth + (count if self.dense else 0)
            self.add_module(f"predict_flow{level}", _predictor(count))
            self.add_module(f"deconv{level}", _doubler(2))
            if level > 2:
                self.add_module(f"upfeat{level}", _doubler(count))
        widths = _scaled(tuple(growth for growth, _ in CONTEXT), self.width)
        for place, (growth, (_, dilation)) in enumerate(zip(widths, CONTEXT, strict=True)):
            self.add_module(f"dc_conv{place + 1}", _convolution(count, growth, dilation=dilation))
            count = growth
        self.add_module("dc_conv7", _predictor(count))

    @torch.no_grad()
    def _start_still(self) -> None:
        """Training starts at zero flow, and every level starts as a correction of the one above, passed through."""
        for name in (*(f"predict_flow{level}" for level in DECODER_LEVELS), "dc_conv7"):
            self.get_parameter(f"{name}.weight").mul_(0.01)
        doubling = torch.tensor([0.25, 0.75, 0.75, 0.25])  # bilinear
        for level in DECODER_LEVELS[:-1]:
            weight = self.get_parameter(f"deconv{level}.weight").zero_()  # [2,2,4,4]
            weight[0, 0] = weight[1, 1] = doubling[:, None] * doubling
            # The level below sees that flow in the last channels but two, behind what its dense block has made of it.
            if not self.dense:
                continue
            passed = self.get_parameter(f"predict_flow{level - 1}.weight")[:, -4:-2, 1, 1]
            passed.copy_(torch.eye(2))

    def forward(self, image: Tensor, other: Tensor) -> list[Tensor]:
        """Two [B,3,H,W] BGR 0..1, H, W multiples of 64 -> the flows of `decode`, on `image`, pointing to `other`."""
        return self.decode(self.pyramid(image), self.pyramid(other))

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """[B,3,H,W] BGR 0..1, H, W multiples of 64 -> features of levels 1..6, [B,c,H/2^l,W/2^l]."""
        features = []
        for level in LEVELS:
            for name in _pyramid_names(level):
                image = self._run(name, image)
            features.append(image)
        return features

    def decode(self, features: list[Tensor], others: list[Tensor]) -> list[Tensor]:
        """Pyramids of two images -> flows on the first one, levels 6..2, each [B,2,H/2^l,W/2^l] in units of 20 px."""
        flows: list[Tensor] = []
        dense = features[-1]
        for level in DECODER_LEVELS:
            here, there = features[level - 1], others[level - 1]
            dense = self._dense(level, self._evidence(level, here, there, flows, dense))
            flow = self._precise(f"predict_flow{level}", dense)
            flows.append(flow if self.dense or not flows else flow + self._precise(f"deconv{level + 1}", flows[-1]))
        flows[-1] = flows[-1] + self._context(dense)
        return flows

    def _evidence(self, level: int, here: Tensor, there: Tensor, flows: list[Tensor], dense: Tensor) -> Tensor:
        """What a decoder sees: the cost volume, and below the top also the features and the level above, doubled."""
        if level == 6:
            return F.leaky_relu(cost_volume(here, there, self.reach), 0.1)
        flow = self._precise(f"deconv{level + 1}", flows[-1])
        more = self._run(f"upfeat{level + 1}", dense)
        costs = warp_cost_volume(here, there, flow * (FLOW_UNIT_PX / 2**level), self.reach)
        return torch.cat([F.leaky_relu(costs, 0.1), here, flow, more], 1)

    def _dense(self, level: int, evidence: Tensor) -> Tensor:
        for place in range(len(DENSE_CHANNELS)):
            more = self._run(f"conv{level}_{place}", evidence)
            evidence = torch.cat([more, evidence], 1) if self.dense else more  # newest first
        return evidence

    def _context(self, dense: Tensor) -> Tensor:
        for place in range(len(CONTEXT)):
            dense = self._run(f"dc_conv{place + 1}", dense)
        return self._precise(f"dc_conv{len(CONTEXT) + 1}", dense)

    def _precise(self, name: str, value: Tensor) -> Tensor:
        """Flow is float32 where the rest may be half precision: 8 bits of a displacement are not enough."""
        with torch.autocast(value.device.type, enabled=False):
            return self._run(name, value.float())

    def _run(self, name: str, value: Tensor) -> Tensor:
        result: Tensor = self.get_submodule(name)(value)
        return result


def _pyramid_names(level: int) -> tuple[str, str, str]:
    """The convolutions of a pyramid level in order; the released network swaps the first two of level 6."""
    a, aa, b = f"conv{level}a", f"conv{level}aa", f"conv{level}b"
    return (aa, a, b) if level == 6 else (a, aa, b)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.kaiming_normal_(module.weight, mode="fan_in")
        assert module.bias is not None
        nn.init.zeros_(module.bias)


@torch.no_grad()
def give_unit_variance(network: PWCNet, image: Tensor, other: Tensor) -> None:
    """Scale each fresh layer so that its output varies by 1 on this batch (Mishkin & Matas 2016, LSUV).

    In a network this deep and dense the usual initialisation lets the signal fade; predictors are left as they are.
    """

    def scale(layer: nn.Conv2d, _: object, output: Tensor) -> Tensor:
        deviation = output.std().clamp_min(1e-6)
        layer.weight.div_(deviation)
        return output / deviation

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d) and module.out_channels > 2]
    hooks = [layer.register_forward_hook(scale) for layer in layers]
    network(image, other)
    for hook in hooks:
        hook.remove()


class FlowNetwork(nn.Module):
    """PWC-Net by the flow contract: RGB frames of any size in, flow between neighbours in px of that size out.

    Frames go in as BGR 0..1 with no mean taken off; flow comes out at a quarter of the network's size, × 20. `padded`
    frames are continued to multiples of 64 and keep their proportions. Else the way is that of the released networks:
    resized there and back, bilinear with half-pixel centres (align_corners=False, as cv2.resize), u and v rescaled by
    the ratio of sizes; only NVlabs' rounding of resized frames to whole grey values is left out (half a value at
    most). Released weights need standardised=False.
    """

    def __init__(self, network: PWCNet, standardised: bool = True, padded: bool = True) -> None:
        super().__init__()
        self.network = network
        self.standardised, self.padded = standardised, padded

    def forward(self, frames: Tensor) -> Tensor:
        """[B,K,3,H,W] RGB 0..1 -> [B,K-1,2,H,W]: flow k lives on the pixels of frame k+1 and points to frame k.

        Frames pass the pyramid once, whichever pairs they are in.
        """
        batch, count, _, height, width = frames.shape
        images = frames.reshape(batch * count, 3, height, width).flip(1)  # BGR, as the released weights expect
        images = standardise(images) if self.standardised else images
        pyramid = self.network.pyramid(_padded(images) if self.padded else _resized(images))
        pair = torch.arange(batch * (count - 1), device=frames.device)
        earlier = pair + pair // (count - 1)  # its place among the B*K frames
        flow = self.network.decode(_pick(pyramid, earlier + 1), _pick(pyramid, earlier))[-1]  # [B*(K-1),2,H64/4,W64/4]
        flow = _cropped(flow, height, width) if self.padded else _rescaled(flow, height, width)
        return torch.unflatten(flow, 0, (batch, count - 1))


def _padded(images: Tensor) -> Tensor:
    """[B,3,H,W] continued below and to the right to multiples of 64."""
    height, width = images.shape[-2:]
    return F.pad(images, [0, _round_up(width) - width, 0, _round_up(height) - height], mode="replicate")


def _resized(images: Tensor) -> Tensor:
    """[B,3,H,W] brought to multiples of 64."""
    size_hw = (_round_up(images.shape[-2]), _round_up(images.shape[-1]))
    return F.interpolate(images, size=size_hw, mode="bilinear", align_corners=False)


def _cropped(flow: Tensor, height: int, width: int) -> Tensor:
    """Flow [B,2,h/4,w/4] of padded frames of h×w, in units of 20 px -> [B,2,H,W] in px."""
    planes = (FLOW_UNIT_PX * flow).flatten(0, 1)[None]  # [1,2B,h/4,w/4]: OpenVINO takes thrice as long for two channels
    planes = F.interpolate(planes, scale_factor=4.0, mode="bilinear", align_corners=False)[0]  # [2B,h,w]
    return torch.unflatten(planes, 0, (-1, 2))[..., :height, :width]


def _rescaled(flow: Tensor, height: int, width: int) -> Tensor:
    """Flow [B,2,h/4,w/4] of resized frames of h×w, in units of 20 px -> [B,2,H,W] in px of that size."""
    x = FLOW_UNIT_PX * width / (4 * flow.shape[-1])
    y = FLOW_UNIT_PX * height / (4 * flow.shape[-2])
    flow = F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False)
    return torch.cat([flow[:, :1] * x, flow[:, 1:] * y], 1)


def standardise(images: Tensor) -> Tensor:
    """[B,3,H,W] -> each with mean 0 per channel and deviation about 1, so that brightness does not pass for texture.

    The networks trained here expect it; the released weights do not.
    """
    centred = images - spatial_mean(images)[:, :, None, None]
    return centred / (mean_square(centred)[:, None, None, None].sqrt() + 0.05)


def _pick(pyramid: list[Tensor], frames: Tensor) -> list[Tensor]:
    return [features.index_select(0, frames) for features in pyramid]


def _round_up(size: int) -> int:
    return (size + SIZE_MULTIPLE - 1) // SIZE_MULTIPLE * SIZE_MULTIPLE
