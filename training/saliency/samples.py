"""Training pictures with their masks, drawn by (seed, index) alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from f2f.training.saliency.images import SalientImages
from f2f.training.segmentation.sampling import Augmentation, augment, read_picture


class SalientSamples(Dataset[tuple[Tensor, Tensor]]):
    """Whole images warped to squares, every other one mirrored; the same index gives the same one on every run."""

    def __init__(self, images: SalientImages, side_px: int, colour_jitter: float, seed: int) -> None:
        square = (side_px, side_px)
        self.images, self.seed = images, seed
        self.augmentation = Augmentation(size_hw=square, grid_hw=square, colours=colour_jitter)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Picture [3,s,s] RGB 0..1 and mask uint8 [s,s]: 0 ground, 1 salient, 255 unknown."""
        count = len(self.images.images)
        order = np.random.default_rng((self.seed, 0, index // count)).permutation(count)
        image = self.images.images[int(order[index % count])]
        rng = np.random.default_rng((self.seed, 1, index))
        picture, view = augment(read_picture(image), self.augmentation, rng)
        return picture, torch.from_numpy(view.labels(self.images.mask(image), self.augmentation.grid_hw))
