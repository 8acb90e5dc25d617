"""Cut detection on thumbnails of consecutive decoded frames; numpy only, it runs in the decoding processes."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

THUMBNAIL_HW = (36, 64)
_HISTOGRAM_BINS = 32


class CutDetector:
    """Says for each frame whether a new shot starts with it.

    A cut changes the picture everywhere at once: the mean absolute difference of the thumbnails, brightness change
    taken out, is large and stands out from the differences just before, and the brightness histogram changes too.
    Fast camera motion has the first without the second, an exposure change neither.
    """

    def __init__(self, difference: float = 18.0, stand_out: float = 2.5, histogram: float = 0.3) -> None:
        """Thresholds: grey levels, ratio to the recent differences, share of pixels that change histogram bin."""
        self._difference, self._stand_out, self._histogram = difference, stand_out, histogram
        self._last: npt.NDArray[np.float32] | None = None
        self._recent: deque[float] = deque(maxlen=8)

    def is_cut(self, thumbnail: npt.NDArray[np.uint8]) -> bool:
        """Feed the next frame's grey thumbnail, uint8 [36, 64]."""
        grey = thumbnail.astype(np.float32)
        last, self._last = self._last, grey
        if last is None:
            return False
        difference = _centred_difference(last, grey)
        usual = float(np.median(self._recent)) if self._recent else 0.0
        cut = (
            difference > self._difference
            and difference > self._stand_out * usual
            and _histogram_change(last, grey) > self._histogram
        )
        self._recent.append(difference)
        if cut:
            self._recent.clear()
        return cut


def _centred_difference(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    return float(np.abs((a - a.mean()) - (b - b.mean())).mean())


def _histogram_change(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Share of pixels, 0..1, that would have to change their bin; mean brightness taken out."""
    counts = [
        np.histogram(grey - grey.mean() + 128, bins=_HISTOGRAM_BINS, range=(0, 256))[0].astype(np.float64)
        for grey in (a, b)
    ]
    return float(np.abs(counts[0] - counts[1]).sum() / (2 * a.size))
