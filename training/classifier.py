"""The CAM classifier: fully convolutional, global average pooling, a sigmoid per class.

Letters: B images, C classes, H, W input size, h, w = H/8, W/8.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

PRIOR_LOGIT = -1.3
"""where training starts: one image in five shows a class"""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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


def _block(channels_in: int, channels_out: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))


class CamClassifier(nn.Module):
    """A small network of the paper's form: stride 8, last block dilated, two 3×3 convolutions, 1×1 to the classes.

    The last map *is* the CAM: its mean is the logit.
    """

    def __init__(self, classes: Sequence[str], width: float = 1.0, dropout: float = 0.1) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.width = width
        c1, c2, c3, c4, c5 = (max(8, round(width * channels / 8) * 8) for channels in (24, 32, 64, 96, 128))
        self.normalise = Normalise()
        self.backbone = nn.Sequential(
            _block(3, c1, stride=2),
            _block(c1, c2, stride=2),
            _block(c2, c3),
            _block(c3, c4, stride=2),
            _block(c4, c4),
            _block(c4, c5, dilation=2),
        )
        self.head = nn.Sequential(
            _block(c5, c5),
            nn.Dropout2d(dropout),
            _block(c5, c5),
            nn.Dropout2d(dropout),
            nn.Conv2d(c5, len(self.classes), 1),
        )
        self.apply(_initialise)
        bias = self.to_classes.bias
        assert bias is not None
        nn.init.constant_(bias, PRIOR_LOGIT)

    @property
    def to_classes(self) -> nn.Conv2d:
        """The last 1×1 convolution. Its mean over the image must grow large to say yes to a small part."""
        last = self.head[-1]
        assert isinstance(last, nn.Conv2d)
        return last

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B,3,H,W] RGB 0..1 -> scores [B,C] in 0..1, cam [B,C,h,w] before any ReLU."""
        cam = self.cam(image)
        return torch.sigmoid(cam.mean((2, 3))), cam

    def cam(self, image: Tensor) -> Tensor:
        """[B,3,H,W] RGB 0..1 -> [B,C,h,w]; the mean over h, w is the logit."""
        cam: Tensor = self.head(self.backbone(self.normalise(image)))
        return cam


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
