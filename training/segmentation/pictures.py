"""A picture of a training batch: what is shown, what is known of it, what the network makes of it.

Letters: B images, L = 1 + C labels, H, W picture size, h, w cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from f2f.engine.write import voc_palette
from f2f.training.segmentation.methods import TARGETS
from f2f.training.segmentation.sampling import Sample
from f2f.training.segmentation.training_options import Method

SHOWN = 4
"""samples of a batch, spread over it, so that every source has some"""


@torch.no_grad()
def batch_picture(batch: Sample, logits: Tensor, cells: Tensor, method: Method) -> Tensor:
    """A batch, its logits float32 [B,L,h,w] and its images at their size [B,3,h,w] -> uint8 RGB [3,n*H,p*W].

    A row is a sample: image, seeds, what the method makes of them (sec: the refined labels; dsrg: the grown seeds, the
    refined labels), the likeliest labels; in Pascal VOC's colours, that of its borders where nothing is known.
    """
    count = len(batch.image)
    chosen = torch.linspace(0, count - 1, min(SHOWN, count), device=logits.device).round().long()
    image, seeds, logits = batch.image[chosen], batch.seeds[chosen], logits[chosen].nan_to_num()
    targets = TARGETS[method](logits, cells[chosen], seeds, batch.tags[chosen]).values()
    size_hw = (image.shape[2], image.shape[3])
    found = F.interpolate(logits, size_hw, mode="bilinear", align_corners=False).argmax(1)
    maps = [coloured(labels, size_hw) for labels in (seeds, *targets, found)]
    panels = torch.stack([(image.float() * 255).cpu(), *maps], 1)  # [n,p,3,H,W]
    return panels.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2).round().clamp(0, 255).to(torch.uint8)


def coloured(labels: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Labels int64 [B,h,w] -> their colours, float32 [B,3,H,W], 0..255."""
    large = F.interpolate(labels[:, None].float().cpu(), size_hw, mode="nearest-exact")[:, 0].long()  # [B,H,W]
    return torch.tensor(voc_palette()).view(256, 3)[large].permute(0, 3, 1, 2).float()
