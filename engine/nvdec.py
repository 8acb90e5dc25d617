"""NVDEC: the video engine of an NVIDIA GPU, which decoding processes ask to decode; no torch before one does.

Decoding by it is asked for stream by stream, and FFmpeg falls back to the CPU without a word: what really decodes is
told by the frames. A frame's surface belongs to the decoder, which has few of them, so none is kept.
"""

from __future__ import annotations

import sys
from functools import cache

import av
import av.codec.hwaccel
from av.codec.hwaccel import HWAccel
from av.video.frame import VideoFrame

from f2f.engine.errors import UsageError
from f2f.engine.pixels import Convert, CpuConversion

CODECS = frozenset({"h264", "hevc", "vp8", "vp9"})
"""FFmpeg's decoders that hand their work to NVDEC and whose standards leave no bit of a picture open: it cannot matter
who decodes. (MPEG-4 and older ones leave the transform's rounding open; AV1 is decoded by libdav1d, on the CPU.)"""


def acceleration() -> HWAccel:
    """What `av.open` needs to have streams decoded by the GPU that is visible first; frames stay there."""
    context: dict[str, object] = (
        {"primary_ctx": "0", "current_ctx": "1"} if _torch_came_first() else {"primary_ctx": "1"}
    )
    return HWAccel("cuda", device="0", allow_software_fallback=True, options=context, is_hw_owned=True)


@cache
def _torch_came_first() -> bool:
    """Whether torch was on the GPU before FFmpeg, which refuses a primary context that it has not set up itself.

    Then it is given the context of this thread, which is the same one. In decoding processes FFmpeg comes first.
    """
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def is_on_gpu(frame: VideoFrame) -> bool:
    """Whether the GPU has decoded it."""
    return bool(frame.format.name == "cuda")


def conversion(decoder: str) -> Convert:
    """What makes pictures of the frames of a stream, where --decoder decodes it."""
    if decoder != "cuda":
        return CpuConversion()
    from f2f.engine.gpu_pixels import GpuConversion  # torch

    return GpuConversion()


def obstacle() -> str:
    """Why no GPU can decode here; empty where one may."""
    if "cuda" not in av.codec.hwaccel.hwdevices_available():
        return "this PyAV was built without CUDA; PyAV's own wheel has it"
    from f2f.engine.runtimes.cuda import gpu_obstacle

    return gpu_obstacle()


def description() -> str:
    """The decoder and its GPU, as runs pin it.

    Raises:
        UsageError: there is none.
    """
    if hindrance := obstacle():
        raise UsageError(
            f"--decoder cuda cannot be met by this worker: {hindrance}; accepted: GPUs like the one that the run began "
            "with; give --devices that name them, or --decoder cpu with a new --out"
        )
    from f2f.engine.runtimes.cuda import gpu_name

    return f"NVDEC of {gpu_name()}"


def is_named(decoder: object) -> bool:
    """Whether what a run pins of its decoder names a GPU's."""
    return isinstance(decoder, str) and "NVDEC" in decoder
