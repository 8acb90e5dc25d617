"""A decoding process that takes every video for one that may have harmed its GPU; see test_gpu_decode.py."""

import f2f.engine.pool as pool
from f2f.engine.pool import decode_child
from f2f.engine.types import VideoEnd


def _always(end: VideoEnd) -> bool:
    return isinstance(end, VideoEnd)


pool._may_have_harmed_gpu = _always

__all__ = ["decode_child"]
