"""GPU pixels: what FFmpeg's scaler makes of a decoded frame, made by torch on the GPU where the frame lies.

Areas are averaged, and colours follow the frame's matrix and range, as in swscale, down to its colour per two pixels
in pictures of even width. What differs is rounding: its fast path, on x86, is one to two levels darker.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from av.video.frame import VideoFrame
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from f2f.engine.errors import MachineError
from f2f.engine.pixels import CpuConversion, Format
from f2f.engine.types import ImageArray

# What NVDEC gives, luma and then chroma by twos -> by what its values are to be divided, for 8 bits.
_DIVISORS = {"nv12": 1, "p010le": 256, "p016le": 256}
# Matrix coefficients of ITU-T H.273 -> weights of red and blue in luma; what is not named is BT.601, as in swscale.
_WEIGHTS = {
    **dict.fromkeys((0, 2, 5, 6), (0.299, 0.114)),
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
_FULL_RANGE = 2


class GpuConversion:
    """See `pixels.Convert`. What it does not know how to convert is fetched, and converted by the CPU."""

    def __init__(self) -> None:
        self._on_cpu = CpuConversion()

    def __call__(self, frame: VideoFrame, size_wh: tuple[int, int], format_: Format) -> ImageArray:
        """See `pixels.Convert`; the frame's surface is free for the decoder again when this returns.

        Raises:
            MachineError: the GPU has no memory left.
        """
        if not _is_known(frame):
            return self._on_cpu(frame, size_wh, format_)
        try:
            made = _gray(frame, size_wh) if format_ == "gray" else _rgb(frame, size_wh)
            return made.round_().clamp_(0, 255).to(torch.uint8).cpu().numpy()  # waits until the surface is read
        except torch.OutOfMemoryError as error:
            raise MachineError(
                "the GPU has no memory left for decoded frames; free it, or give fewer --decoders or --decoder cpu, "
                "and run the same command again to go on"
            ) from error


def _is_known(frame: VideoFrame) -> bool:
    """Of odd sizes PyAV gives the chroma without its last column or row."""
    even = frame.width % 2 == 0 and frame.height % 2 == 0
    return even and _format(frame) in _DIVISORS and frame.colorspace in _WEIGHTS


def _format(frame: VideoFrame) -> str:
    return (frame.sw_format or frame.format).name


def _gray(frame: VideoFrame, size_wh: tuple[int, int]) -> Tensor:
    """Luma of full range, [H, W] float32."""
    luma = _scaled(_plane(frame, 0), size_wh)
    return luma if frame.color_range == _FULL_RANGE else (luma - 16) * (255 / 219)


def _rgb(frame: VideoFrame, size_wh: tuple[int, int]) -> Tensor:
    """[H, W, 3] float32, not yet rounded or cut to 0..255."""
    width, height = size_wh
    stretch = 1.0 if frame.color_range == _FULL_RANGE else 255 / 224
    chroma = _plane(frame, 1)  # [h/2, w/2, 2]
    halved = width % 2 == 0
    blue, red = (
        (_scaled(part, (width // 2 if halved else width, height)) - 128) * stretch for part in chroma.unbind(-1)
    )
    if halved:
        blue, red = (part.repeat_interleave(2, dim=1) for part in (blue, red))
    return _matrixed(_gray(frame, size_wh), blue, red, *_WEIGHTS[frame.colorspace])


def _matrixed(luma: Tensor, blue: Tensor, red: Tensor, of_red: float, of_blue: float) -> Tensor:
    """Y'CbCr of full range, [H, W] each -> RGB [H, W, 3] (ITU-T H.273, eq. 38 to 40 solved for RGB)."""
    of_green = 1 - of_red - of_blue
    r = luma + 2 * (1 - of_red) * red
    b = luma + 2 * (1 - of_blue) * blue
    g = (luma - of_red * r - of_blue * b) / of_green
    return torch.stack((r, g, b), dim=-1)


def _plane(frame: VideoFrame, index: int) -> Tensor:
    """A plane's values by 8 bits, float32; a copy."""
    # Passing the plane itself would have torch name a stream, which PyAV refuses. Both use the default one.
    values = from_dlpack(frame.planes[index].__dlpack__())
    return values.to(torch.int32).float() / _DIVISORS[_format(frame)]


def _scaled(plane: Tensor, size_wh: tuple[int, int]) -> Tensor:
    """[h, w] -> [H, W], as `swscale` does by AREA."""
    (height, width), (new_width, new_height) = plane.shape, size_wh
    return _shares(height, new_height, plane.device) @ plane @ _shares(width, new_width, plane.device).T


@lru_cache(maxsize=64)
def _shares(old: int, new: int, device: torch.device) -> Tensor:
    """How much of each old pixel is in each new one, [new, old] float32: areas, or where it grows, linear."""
    ratio = old / new
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * ratio - 0.5
    if ratio < 1:
        centres = centres.clamp(0, old - 1)
    distances = (centres[:, None] - torch.arange(old, dtype=torch.float64)).abs()
    shares = (0.5 + 0.5 * max(ratio, 1.0) - distances).clamp(0, 1)
    return (shares / shares.sum(dim=1, keepdim=True)).float().to(device)
