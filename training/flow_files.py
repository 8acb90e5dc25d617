"""Frames with exact flow as data sets store them: .flo, KITTI's PNG, folders of pairs, KITTI, the synthetic web.

Letters: H, W frame size.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from f2f.engine.decode import DecodeState, sample_frames
from f2f.engine.errors import UsageError, VideoError
from f2f.engine.options import DecodeOptions
from f2f.engine.types import ImageArray
from f2f.training.synth.kitti import read_kitti_flow

FlowArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_FLO = struct.Struct("<fii")  # magic, width, height
_FLO_MAGIC = 202021.25
_UNKNOWN_PX = 1e9  # Middlebury stores unknown flow as larger values
_IMAGE_SUFFIXES = (".png", ".ppm", ".jpg", ".jpeg")
EVERY_FRAME = DecodeOptions(sample_fps=240, max_side=8192)


@dataclass(frozen=True)
class FlowPair:
    """Two frames and where the first one's pixels go."""

    name: str
    """for messages"""
    first: ImageArray
    """[H,W,3] RGB"""
    second: ImageArray
    """[H,W,3] RGB"""
    flow_xy_px: FlowArray
    """[H,W,2], on the pixels of `first`, pointing to `second`"""
    known: BoolArray
    """[H,W], where flow is given"""
    visible: BoolArray | None = None
    """[H,W], where the point is also seen in `second`; None where the source does not say"""

    def __post_init__(self) -> None:
        sizes = {part.shape[:2] for part in (self.first, self.second, self.flow_xy_px, self.known)}
        if len(sizes) > 1:
            raise UsageError(
                f"{self.name}: frames and flow have the sizes {sorted(sizes)} (height, width); accepted: one size for "
                "all; give files that belong together"
            )


def write_flo(path: Path, flow_xy_px: FlowArray) -> None:
    """Write flow [H, W, 2] px as a .flo file."""
    height, width = flow_xy_px.shape[:2]
    path.write_bytes(_FLO.pack(_FLO_MAGIC, width, height) + flow_xy_px.astype("<f4").tobytes())


def read_flo(path: Path) -> FlowArray:
    """Flow [H, W, 2] float32 px of a .flo file, unknown values as they are stored.

    Raises:
        UsageError: not readable, not a .flo file, or damaged.
    """
    content = _bytes_of(path)
    accepted = "accepted: 202021.25, width, height, then width * height * 2 float32; give an undamaged .flo file"
    if len(content) < _FLO.size:
        raise UsageError(f"{path} has {len(content)} bytes; {accepted}")
    magic, width, height = _FLO.unpack_from(content)
    if magic != _FLO_MAGIC:
        raise UsageError(f"{path} begins with {magic:g}; {accepted}")
    if min(width, height) < 1 or len(content) != _FLO.size + width * height * 8:
        raise UsageError(f"{path} says {width} x {height} px and has {len(content)} bytes; {accepted}")
    values = np.frombuffer(content, "<f4", offset=_FLO.size).reshape(height, width, 2)
    return values.astype(np.float32)


def read_flow(path: Path) -> tuple[FlowArray, BoolArray]:
    """Flow [H, W, 2] px and where it is known [H, W], of a .flo file or a KITTI PNG; 0 where it is not known."""
    if path.suffix == ".flo":
        flow = read_flo(path)
        known = np.asarray((np.abs(flow) < _UNKNOWN_PX).all(-1))  # nan is not below either
    elif path.suffix == ".png":
        _bytes_of(path, 1)
        flow, known = read_kitti_flow(path)
    else:
        raise UsageError(f"{path} has the suffix {path.suffix!r}; accepted: .flo, or .png as KITTI stores flow")
    flow[~known] = 0
    return flow, known


def _bytes_of(path: Path, limit: int = -1) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(limit)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); give a file of flow") from error


def read_image(path: Path) -> ImageArray:
    """RGB of an image file, uint8 [H, W, 3]."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read as an image ({error}); restore it, or remove its pair") from error


def read_pair(first: Path, second: Path, truth: Path) -> FlowPair:
    """A pair from its files: `truth` lives on `first` and points to `second`."""
    flow, known = read_flow(truth)
    return FlowPair(truth.name, read_image(first), read_image(second), flow, known)


LazyPair = Callable[[], FlowPair]


@dataclass(frozen=True)
class Layout:
    """A way in which a folder holds pairs."""

    accepted: str
    """what it looks like, for messages"""
    fits: Callable[[Path], bool]
    pairs: Callable[[Path], Iterable[LazyPair]]


def flow_pairs(source: Path, every: int = 1) -> Iterator[FlowPair]:
    """Every `every`-th pair of a folder, whichever of `LAYOUTS` it has.

    Raises:
        UsageError: it has none of them, or a file of it is missing or damaged.
    """
    layout = next((layout for layout in LAYOUTS if layout.fits(source)), None)
    if layout is None:
        raise UsageError(
            f"{source} holds no frames with flow; accepted: " + "; ".join(layout.accepted for layout in LAYOUTS)
        )
    return (load() for load in islice(layout.pairs(source), None, None, every))


def _chairs_flows(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*_flow.*") if path.suffix in {".flo", ".png"})


def _chairs(folder: Path) -> Iterator[LazyPair]:
    for path in _chairs_flows(folder):
        name = path.stem.removesuffix("_flow")
        yield partial(read_pair, _image_beside(path, f"{name}_img1"), _image_beside(path, f"{name}_img2"), path)


def _image_beside(path: Path, stem: str) -> Path:
    candidates = [path.with_name(stem + suffix) for suffix in _IMAGE_SUFFIXES]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise UsageError(
            f"{path} has no frame {stem} beside it; accepted: {stem} with one of {', '.join(_IMAGE_SUFFIXES)}; "
            "restore it, or remove the flow"
        )
    return found


def _kitti(folder: Path) -> Iterator[LazyPair]:
    for path in sorted((folder / "flow_occ").glob("*_10.png")):
        yield partial(_kitti_pair, folder, path.name)


def _kitti_pair(folder: Path, name: str) -> FlowPair:
    images = folder / "image_2" if (folder / "image_2").is_dir() else folder / "colored_0"
    flow, known = read_flow(folder / "flow_occ" / name)
    seen = folder / "flow_noc" / name
    visible = read_flow(seen)[1] if seen.is_file() else None
    first, second = (read_image(images / frame) for frame in (name, name.replace("_10.png", "_11.png")))
    return FlowPair(name, first, second, flow, known, visible)


def _web(folder: Path) -> Iterator[LazyPair]:
    """Frames of every video with their predecessors: the flow that the web stores backwards in time."""
    for flows in sorted((folder / "flow").glob("*/*")):
        video = folder / "videos" / flows.parent.name / f"{flows.name}.mp4"
        before: ImageArray | None = None
        for number, image in video_frames(video):
            path = flows / "backward" / f"{number:05d}.png"
            if before is not None and path.is_file():
                yield partial(_web_pair, image, before, path)
            before = image


def _web_pair(image: ImageArray, before: ImageArray, path: Path) -> FlowPair:
    flow, known = read_flow(path)
    visible = read_image(path.parents[1] / "visible" / path.name)[..., 0] > 0
    return FlowPair(str(path), image, before, flow, known, visible)


def video_frames(path: Path, options: DecodeOptions = EVERY_FRAME) -> Iterator[tuple[int, ImageArray]]:
    """(number, RGB [H, W, 3]) of the frames of a video, the first one being 0.

    Raises:
        UsageError: the video cannot be used.
    """
    state = DecodeState()
    try:
        for frame in sample_frames(0, str(path), options, state):
            yield round((frame.pts_seconds - (state.start_seconds or 0.0)) * state.fps), frame.image
    except VideoError as error:
        raise UsageError(f"{path} cannot be used as a video ({error}); restore it, or remove it") from error


LAYOUTS = (
    Layout(
        "<name>_img1.png|ppm|jpg, <name>_img2.… and <name>_flow.flo|png (FlyingChairs' names)",
        lambda folder: bool(_chairs_flows(folder)),
        _chairs,
    ),
    Layout(
        "image_2/000000_10.png, …_11.png with flow_occ/000000_10.png and perhaps flow_noc/ (KITTI's names)",
        lambda folder: (folder / "flow_occ").is_dir(),
        _kitti,
    ),
    Layout(
        "videos/ and flow/ of `f2f synth --flow-truth`",
        lambda folder: any((folder / "flow").glob("*/*/backward")),
        _web,
    ),
)
