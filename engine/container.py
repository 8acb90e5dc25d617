"""Container: a video file -> its open container and video stream, or the reason why it cannot be decoded.

Runs in the decoding processes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.video.stream import VideoStream

from f2f.engine import nvdec
from f2f.engine.errors import MachineError, VideoError
from f2f.engine.options import DecodeOptions
from f2f.engine.tars import Slice
from f2f.engine.types import Span

# A file may pretend to be a playlist or a concatenation and pull in other files: only real containers are opened.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,gif,h264,hevc,m4v,mxf,dv,ivf"

av.logging.set_level(None)


@contextmanager
def opened(path: str, options: DecodeOptions, span: Span | None) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its video stream; opened once more for the GPU where that is asked and gives the same.

    Raises:
        VideoError: the file cannot be opened, or has no video.
        MachineError: the GPU that is to decode cannot be used.
    """
    with ExitStack() as stack:
        container = stack.enter_context(_open(path, options, span))
        stream = _video_stream(container)
        if options.decoder == "cuda" and stream.codec_context.name in nvdec.CODECS and not options.deinterlace:
            stack.pop_all().close()
            try:
                container = stack.enter_context(_open(path, options, span, nvdec.acceleration()))
            except VideoError as error:  # the file was in order a moment ago
                raise MachineError(
                    f"the GPU cannot decode ({error.detail}); free it, or give --decoder cpu (with a new --out), and "
                    "run the same command again to go on"
                ) from error
            stream = _video_stream(container)
        yield container, stream


@contextmanager
def _open(
    path: str, options: DecodeOptions, span: Span | None, acceleration: HWAccel | None = None
) -> Iterator[InputContainer]:
    # "file:" keeps a name such as concat:x.mp4 from being read as a protocol.
    with Slice(Path(path), *span) if span else nullcontext("file:" + path) as media:
        try:
            container = av.open(
                media,
                "r",
                options={
                    "protocol_whitelist": "file",
                    "format_whitelist": _FORMATS,
                    "max_pixels": str(options.max_pixels),  # for the frames that opening decodes to learn the format
                },
                metadata_errors="replace",
                timeout=30.0,
                hwaccel=acceleration,
            )
        except av.error.FFmpegError as error:
            raise VideoError(_open_reason(path, span, error), error_text(error)) from error
        try:
            yield container
        finally:
            container.close()


def fingerprint(path: str) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns of a file that can be read.

    Raises:
        VideoError: it is not there, or cannot be read.
    """
    try:
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            raise VideoError("not_media", "not a regular file")
        with Path(path).open("rb") as stream:
            stream.read(1)
    except FileNotFoundError as error:
        raise VideoError("missing", "the file is not there", "transient") from error
    except OSError as error:
        raise VideoError("unreadable", error.strerror or str(error), "transient") from error
    return found.st_size, found.st_mtime_ns


def _open_reason(path: str, span: Span | None, error: av.error.FFmpegError) -> str:
    with Path(path).open("rb") as stream:
        stream.seek(span[0] if span else 0)
        head = stream.read(4096)
    if b"ftyp" in head[:16]:
        return "no_moov"
    if isinstance(error, av.error.ArgumentError) or head[:7] in {b"#EXTM3U", b"ffconca"}:
        return "format_refused"
    return "not_media"


def error_text(error: Exception) -> str:
    """FFmpeg's words without the path, which stands in the record already."""
    return getattr(error, "strerror", None) or type(error).__name__


def _video_stream(container: InputContainer) -> VideoStream:
    cover_art = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover_art]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoError("no_video_stream", f"the container holds {kinds}")
    stream = streams[0]
    if getattr(stream, "codec_context", None) is None:
        raise VideoError("no_decoder", "the video's codec is unknown")
    stream.codec_context.thread_count = 1  # processes are the parallelism; slice threads have deadlocked
    return stream
