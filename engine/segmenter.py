"""The segmenter network on one image: scales, mirror image, and a dense CRF if wanted -> probabilities (paper §4.1)."""

from __future__ import annotations

from functools import partial

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


class Segmenter:
    """Labels of an image's pixels by a segmenter network; letters: C classes of the network, H, W the image's size."""

    def __init__(self, network: Network, options: InferenceOptions) -> None:
        self.info = network.info
        self._network, self._options = network, options

    @classmethod
    def open(cls, name: str, options: InferenceOptions, runtimes: RuntimeOptions) -> Segmenter:
        """Open the file `name`."""
        torch.set_num_threads(runtimes.thread_count)
        return cls(open_network(name, "segmenter", runtimes), options)

    def __call__(self, image: ImageArray) -> ImageArray:
        """uint8 [H, W, 3] RGB -> labels uint8 [H, W], 0 background.

        Raises:
            VideoError: the network refuses the image, or gives no finite numbers for it.
        """
        labels: ImageArray = self.probabilities(image).argmax(dim=0).to(torch.uint8).numpy()
        return labels

    def probabilities(self, image: ImageArray) -> Tensor:
        """uint8 [H, W, 3] RGB -> float32 [1 + C, H, W], background first."""
        whole = to_tensor([image])  # [1, 3, H, W]
        seen = resize(whole, self._seen_hw(image))  # [1, 3, h, w]
        views = [view for scale in self._options.scales for view in self._views(seen, scale)]
        shares = torch.stack(views).mean(dim=0)  # [1, 1 + C, h, w]
        if not bool(torch.isfinite(shares).all()):
            raise VideoError("network_failed", "the segmenter's logits are not finite")
        if self._options.crf:
            shares = follow_edges(-shares.clamp_min(_LEAST).log(), seen)
        return resize(shares, (image.shape[0], image.shape[1]))[0]

    def _seen_hw(self, image: ImageArray) -> tuple[int, int]:
        height, width = image.shape[:2]
        scale = min(1.0, self._options.max_side / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _views(self, seen: Tensor, scale: float) -> list[Tensor]:
        """Probabilities [1, 1 + C, h, w] at one scale, and of the mirror image if wanted."""
        height, width = (max(1, round(side * scale)) for side in seen.shape[-2:])
        scaled = resize(seen, (height, width))
        views = [self._shares(scaled)]
        if self._options.flip:
            views.append(self._shares(scaled.flip(-1)).flip(-1))
        return [resize(view, (seen.shape[-2], seen.shape[-1])) for view in views]

    def _shares(self, image: Tensor) -> Tensor:
        padded = pad_multiple(image, self.info.size_multiple)
        (logits,) = self._network(padded)
        wanted = (1, 1 + len(self.info.classes), *padded.shape[-2:])
        if tuple(logits.shape) != wanted:
            raise NetworkError(
                f"the segmenter gives logits {list(logits.shape)} for an image {list(padded.shape)} and "
                f"{len(self.info.classes)} classes (f2f.classes); accepted: {list(wanted)}; export it again"
            )
        return logits[..., : image.shape[-2], : image.shape[-1]].softmax(dim=1)
