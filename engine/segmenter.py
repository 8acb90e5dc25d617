"""The segmenter network on one image: sizes, mirror image, and a dense CRF if wanted -> probabilities (paper §4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from f2f.engine.classify import to_tensor
from f2f.engine.errors import NetworkError, VideoError
from f2f.engine.options import InferenceOptions, RuntimeOptions
from f2f.engine.resize import pad_multiple, resize
from f2f.engine.runtimes.network import Network
from f2f.engine.runtimes.open import open_network
from f2f.engine.types import ImageArray
from f2f.kernels import crf_refine

follow_edges = partial(
    crf_refine,
    steps=10,
    gaussian_px=3.0,
    gaussian_weight=3.0,
    bilateral_px=80.0,
    bilateral_rgb=13.0,
    bilateral_weight=10.0,
)
"""the dense CRF that SEC and DSRG are tested with"""
_LEAST = 1e-5


def trained_side_px(training: Mapping[str, Any]) -> int | None:
    """The side of the squares that a training warped its images to, as a network file tells; None where it did not."""
    options = training.get("options", {})
    side = options.get("side_px")
    return side if isinstance(side, int) and side > 0 and options.get("fit", "warp") == "warp" else None


class Segmenter:
    """Labels of an image's pixels by a segmenter network.

    Letters: C classes of the network, P labels that an image may have (1 + C, or fewer by its tags), H, W its size, h,
    w the size at which it is seen.
    """

    def __init__(self, network: Network, options: InferenceOptions) -> None:
        self.info = network.info
        self._network, self._options = network, options

    @classmethod
    def open(cls, name: str, options: InferenceOptions, runtimes: RuntimeOptions) -> Segmenter:
        """Open the file `name`."""
        torch.set_num_threads(runtimes.thread_count)
        return cls(open_network(name, "segmenter", runtimes), options)

    def __call__(self, image: ImageArray, tags: Sequence[int] | None = None) -> ImageArray:
        """uint8 [H, W, 3] RGB -> labels uint8 [H, W], 0 background.

        Args:
            image: the image.
            tags: classes that it is known to show, from 0; no other one is found (None: nothing is known).

        Raises:
            VideoError: the network refuses the image, or gives no finite numbers for it.
        """
        places = self.probabilities(image, tags).argmax(dim=0)  # [H, W]
        labels: ImageArray = torch.tensor(self._labels(tags), dtype=torch.uint8)[places].numpy()
        return labels

    def probabilities(self, image: ImageArray, tags: Sequence[int] | None = None) -> Tensor:
        """uint8 [H, W, 3] RGB -> float32 [P, H, W]: background, then the classes or the tags in ascending order."""
        whole = to_tensor([image])  # [1, 3, H, W]
        seen = resize(whole, self._seen_hw(image))  # [1, 3, h, w]
        labels = self._labels(tags)
        views = [view[:, labels] for size_hw in self._sizes_hw(seen) for view in self._views(seen, size_hw)]
        shares = self._pooled(views, seen.shape[-2:])  # [1, P, h, w]
        if not bool(torch.isfinite(shares).all()):
            raise VideoError("network_failed", "the segmenter's logits are not finite")
        if self._options.crf:
            shares = follow_edges(-shares.clamp_min(_LEAST).log(), seen)
        return resize(shares, (image.shape[0], image.shape[1]))[0]

    def _labels(self, tags: Sequence[int] | None) -> list[int]:
        """The labels that an image may have."""
        return [0, *(tag + 1 for tag in sorted(range(len(self.info.classes)) if tags is None else tags))]

    def _seen_hw(self, image: ImageArray) -> tuple[int, int]:
        height, width = image.shape[:2]
        scale = min(1.0, self._options.max_side / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _sizes_hw(self, seen: Tensor) -> list[tuple[int, int]]:
        """Those at which the network sees it."""
        if sides_px := self._sides_px():
            return [(side, side) for side in sides_px]
        height, width = seen.shape[-2:]
        return [(max(1, round(height * scale)), max(1, round(width * scale))) for scale in self._options.scales]

    def _sides_px(self) -> Sequence[int]:
        """Of the squares that it is warped to; none where it keeps its shape."""
        if self._options.squares:
            return self._options.squares
        side = None if self._options.own_size else trained_side_px(self.info.training)
        return [max(1, round(scale * side)) for scale in self._options.scales] if side else []

    def _views(self, seen: Tensor, size_hw: tuple[int, int]) -> list[Tensor]:
        """Logits [1, 1 + C, a, b] at one size, and of the mirror image if wanted."""
        scaled = resize(seen, size_hw)
        views = [self._logits(scaled)]
        if self._options.flip:
            views.append(self._logits(scaled.flip(-1)).flip(-1))
        return views

    def _pooled(self, views: Sequence[Tensor], size_hw: Sequence[int]) -> Tensor:
        """Logits [1, P, a, b] of any sizes -> probabilities [1, P, h, w]."""
        height, width = size_hw
        if self._options.pool == "logits":
            return torch.stack([resize(view, (height, width)) for view in views]).sum(dim=0).softmax(dim=1)
        return torch.stack([resize(view.softmax(dim=1), (height, width)) for view in views]).mean(dim=0)

    def _logits(self, image: Tensor) -> Tensor:
        padded = pad_multiple(image, self.info.size_multiple)
        (logits,) = self._network(padded)
        wanted = (1, 1 + len(self.info.classes), *padded.shape[-2:])
        if tuple(logits.shape) != wanted:
            raise NetworkError(
                f"the segmenter gives logits {list(logits.shape)} for an image {list(padded.shape)} and "
                f"{len(self.info.classes)} classes (f2f.classes); accepted: {list(wanted)}; export it again"
            )
        return logits[..., : image.shape[-2], : image.shape[-1]]
