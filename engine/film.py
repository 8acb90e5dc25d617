"""Film: pictures -> an .mp4 that players open everywhere."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream

from f2f.engine.errors import MachineError
from f2f.engine.files import machine_errors
from f2f.engine.types import ImageArray

_TICKS = 90_000  # per second
_CODEC = "libx264"


class Film:
    """Pictures with their time stamps; the file appears under its name when the film is closed."""

    def __init__(self, path: Path) -> None:
        """Nothing is written before the first picture."""
        self._path = path
        self._aside = path.with_name(f".{path.stem}.part{path.suffix}")
        self._container: OutputContainer | None = None
        self._stream: VideoStream
        self._start_seconds = 0.0

    def add(self, picture: ImageArray, pts_seconds: float) -> None:
        """Append uint8 [H, W, 3] RGB, later than the one before; another size than the first one's is scaled to it.

        Raises:
            MachineError: the disk does not take it.
        """
        with machine_errors(self._path):
            if self._container is None:
                self._open(picture, pts_seconds)
            assert self._container is not None
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(self._stream.width, self._stream.height, "yuv420p", interpolation="AREA")
            frame.pts = round((pts_seconds - self._start_seconds) * _TICKS)
            frame.time_base = Fraction(1, _TICKS)
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finish the file; there is none where no picture came."""
        if self._container is not None:
            with machine_errors(self._path):
                self._container.mux(self._stream.encode(None))
                self._container.close()
                self._aside.replace(self._path)
            self._container = None

    def abandon(self) -> None:
        """Remove what is not finished."""
        if self._container is not None:
            self._container.close()
            self._container = None
            self._aside.unlink(missing_ok=True)

    def _open(self, picture: ImageArray, pts_seconds: float) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._start_seconds = pts_seconds
        try:
            container = av.open("file:" + str(self._aside), "w", format="mp4")
            stream = container.add_stream(_CODEC, options={"crf": "20", "preset": "veryfast"})
        except ValueError as error:
            raise MachineError(f"this PyAV cannot write {_CODEC} films; install its wheel, or --no-overlays") from error
        assert isinstance(stream, VideoStream), _CODEC
        height, width = picture.shape[:2]
        stream.width, stream.height = width + width % 2, height + height % 2  # what yuv420p can hold
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        self._container, self._stream = container, stream
