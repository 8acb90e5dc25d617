"""The CAM classifier: fully convolutional, global average pooling, a sigmoid per class.

Letters: B images, C classes, H, W input size, h, w = H/8, W/8.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from f2f.training.reductions import spatial_mean
from f2f.training.segmentation.backbones import SCORE_DEVIATION, backbone, block, initialise, scaled

PRIOR_LOGIT = -1.3
"""where training starts: one image in five shows a class"""
HEAD_CHANNELS = 1024
"""of the paper's head"""


class CamClassifier(nn.Module):
    """The paper's form: stride 8, last block dilated, two 3×3 convolutions, 1×1 to the classes.

    The last map *is* the CAM: its mean is the logit. Behind the backbone `small` the head has batch norm and the
    backbone's channels; behind the others (`backbones.backbone`) it is the paper's, 1024 channels times `width`.
    """

    def __init__(
        self, classes: Sequence[str], width: float = 1.0, dropout: float = 0.1, backbone_name: str = "small"
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.width = width
        self.backbone_name = backbone_name
        self.backbone = backbone(backbone_name, width)
        channels = self.backbone.channels
        layer, hidden = (block, channels) if backbone_name == "small" else (_plain, scaled(HEAD_CHANNELS, width))
        self.head = nn.Sequential(
            layer(channels, hidden),
            nn.Dropout2d(dropout),
            layer(hidden, hidden),
            nn.Dropout2d(dropout),
            nn.Conv2d(hidden, len(self.classes), 1),
        )
        self.apply(initialise)
        if backbone_name != "small":
            nn.init.normal_(self.to_classes.weight, std=SCORE_DEVIATION)
        bias = self.to_classes.bias
        assert bias is not None
        nn.init.constant_(bias, PRIOR_LOGIT)

    @property
    def to_classes(self) -> nn.Conv2d:
        """The last 1×1 convolution. Its mean over the image must grow large to say yes to a small part."""
        last = self.head[-1]
        assert isinstance(last, nn.Conv2d)
        return last

    def head_parameters(self) -> list[nn.Parameter]:
        """What no pretrained weights fill, and so learns faster."""
        return list(self.head.parameters())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B,3,H,W] RGB 0..1 -> scores [B,C] in 0..1, cam [B,C,h,w] before any ReLU."""
        cam = self.cam(image)
        return torch.sigmoid(spatial_mean(cam)), cam

    def cam(self, image: Tensor) -> Tensor:
        """[B,3,H,W] RGB 0..1 -> [B,C,h,w]; the mean over h, w is the logit."""
        cam: Tensor = self.head(self.backbone(image))
        return cam


def _plain(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.ReLU(inplace=True))
