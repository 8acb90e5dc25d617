"""fc6 and fc7 of DeepLab's heads from VGG-16's linear layers, thinned out (Chen et al., ICLR 2015, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from f2f.training.segmentation.backbones import VGG16_CHANNELS
from f2f.training.segmentation.deeplab import FC_CHANNELS, Segmenter

VGG_HIDDEN, VGG_SIDE, VGG_FEATURES = 4096, 7, VGG16_CHANNELS[-1][-1]
EVERY_OUTPUT = VGG_HIDDEN // FC_CHANNELS
EVERY_TAP = 3
"""of seven in a row, which leaves those at 0, 3 and 6"""
_SHAPES = {
    "classifier.0.weight": (VGG_HIDDEN, VGG_FEATURES * VGG_SIDE * VGG_SIDE),
    "classifier.0.bias": (VGG_HIDDEN,),
    "classifier.3.weight": (VGG_HIDDEN, VGG_HIDDEN),
    "classifier.3.bias": (VGG_HIDDEN,),
}
"""torchvision's names and shapes"""


@torch.no_grad()
def load_fully_connected(network: Segmenter, state: Mapping[str, Tensor]) -> bool:
    """Fill fc6 and fc7 of every branch: every 4th of 4096 channels, every 3rd of 7 taps in height and width.

    `network` is a VGG segmenter of width 1. Returns False, and changes nothing, where `state` lacks the layers.
    """
    if any(key not in state or state[key].shape != shape for key, shape in _SHAPES.items()):
        return False
    fc6 = state["classifier.0.weight"].view(VGG_HIDDEN, VGG_FEATURES, VGG_SIDE, VGG_SIDE)
    fc6 = fc6[::EVERY_OUTPUT, :, ::EVERY_TAP, ::EVERY_TAP]  # [1024,512,3,3]
    fc7 = state["classifier.3.weight"][::EVERY_OUTPUT, ::EVERY_OUTPUT, None, None]  # [1024,1024,1,1]
    weights = (fc6, fc7)
    biases = (state["classifier.0.bias"][::EVERY_OUTPUT], state["classifier.3.bias"][::EVERY_OUTPUT])
    for branch in network.scores.branches:
        layers = [layer for layer in branch.children() if isinstance(layer, nn.Conv2d)]
        for layer, weight, bias in zip(layers[:2], weights, biases, strict=True):
            assert layer.bias is not None
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return True
