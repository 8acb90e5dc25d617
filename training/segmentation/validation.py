"""The score of a network in training on images that it does not learn from. Imported only with the `train` extra.

It draws no random number and leaves the network as it was, so training is the same with it and without.
Letters: C classes, L = 1 + C labels, H, W image size, s side of the pictures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as T
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from f2f.training.segmentation.images import LabelledSet
from f2f.training.segmentation.sampling import read_picture
from f2f.training.segmentation.scores import Confusion, SegmentationScores


class HeldOut(Dataset[tuple[Tensor, Tensor]]):
    """Images warped to a square, [3,s,s] RGB 0..1, each with its true labels, uint8 [H,W]."""

    def __init__(self, images: LabelledSet, side_px: int) -> None:
        self.images, self.side_px = images.need_image_files().need_labels(), side_px

    def __len__(self) -> int:
        return len(self.images.images)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """The image of a number."""
        image = self.images.images[number]
        picture = T.resize(read_picture(image), [self.side_px, self.side_px], antialias=True)
        return picture, torch.from_numpy(self.images.labels(image))


@torch.inference_mode()
def count_held_out(
    network: nn.Module, held_out: HeldOut, numbers: Sequence[int], device: torch.device, workers: int
) -> Confusion:
    """True against likeliest labels of some of the images, at their own size, without a CRF, in float32."""
    confusion = Confusion(held_out.images.classes)
    for picture, truth in _loader(Subset(held_out, numbers), workers):
        logits = network(picture[None].to(device))  # [1,L,s/8,s/8]
        found = F.interpolate(logits.float(), truth.shape, mode="bilinear", align_corners=False).argmax(1)
        confusion.add(found[0].to(torch.uint8).cpu().numpy(), truth.numpy())
    return confusion


def _loader(samples: Dataset[tuple[Tensor, Tensor]], workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(
        samples,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        generator=torch.Generator(),  # else it draws from the one that dropout draws from
    )


class Validation(Callback):
    """Scores the network every so many steps and at the end; `scores` are the last ones."""

    def __init__(self, held_out: HeldOut, every_steps: int, workers: int) -> None:
        self.held_out, self.every_steps, self.workers = held_out, every_steps, workers
        self.scores: SegmentationScores | None = None
        self._scored_step = -1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Score where it is due."""
        if trainer.global_step % self.every_steps == 0:
            self._score(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score what came out."""
        if trainer.global_step != self._scored_step:
            self._score(trainer, pl_module)

    def final_scores(self, network: nn.Module) -> dict[str, Any]:
        """The last ones, for network.pt; of a training that had nothing left to do, of its network on the CPU."""
        scores = self.scores
        if scores is None:
            everything = range(len(self.held_out))
            counted = count_held_out(network.eval(), self.held_out, everything, torch.device("cpu"), self.workers)
            scores = counted.scores()
        return {"images": scores.images, "mean_iou": scores.mean_iou, "iou": scores.iou}

    def _score(self, trainer: Trainer, pl_module: Any) -> None:
        numbers = range(trainer.global_rank, len(self.held_out), trainer.world_size)
        pl_module.eval()
        confusion = count_held_out(pl_module.network, self.held_out, numbers, pl_module.device, self.workers)
        pl_module.train()
        own = torch.from_numpy(np.append(confusion.counts.ravel(), confusion.images)).to(pl_module.device)
        counts = trainer.strategy.reduce(own, reduce_op="sum").cpu().numpy()  # of all devices
        confusion.counts, confusion.images = counts[:-1].reshape(confusion.counts.shape), int(counts[-1])
        self.scores, self._scored_step = confusion.scores(), trainer.global_step
        if trainer.is_global_zero:
            self._tell(trainer, self.scores)

    def _tell(self, trainer: Trainer, scores: SegmentationScores) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({"miou": scores.mean_iou}, trainer.global_step - 1)  # as Lightning numbers steps
        sys.stderr.write(f"step {trainer.global_step}: mIoU {scores.mean_iou:.4f} on {scores.images} held-out images\n")
