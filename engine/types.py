"""What crosses a stage border: frozen, documented, checked where it is made.

Letters: K frames of a window, C classes of the network, P classes of a label set, N = ceil(P/32) words of bit planes,
H, W frame size in px.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from f2f.engine.errors import FailureClass, VideoError

if TYPE_CHECKING:
    from torch import Tensor

ImageArray = npt.NDArray[np.uint8]
Span = tuple[int, int]
"""first byte and number of bytes of a part of a file"""
BACKGROUND, IGNORE = 0, 255
ALL_SHOTS = -1
"""in place of the number of a shot: no frame of the video matters any more"""


@dataclass(frozen=True)
class InputRow:
    """One line of the manifest, or one file of the source folder."""

    id: str
    """unique name of the input, `<query>/<relative path>` unless the manifest gives one"""
    video: str
    """path or URL as the source names it"""
    query: str
    """search term"""
    location: str = ""
    """absolute path or URL that is opened; empty where the row cannot be used"""
    tags: str = ""
    """free text of the manifest, passed through"""
    problem: tuple[str, str] | None = None
    """(reason, detail) of a row that cannot be used"""
    span: Span | None = None
    """where the video lies in the file at `location`; None: it is the file"""


@dataclass(frozen=True)
class DecodeReport:
    """What became of decoding one video."""

    frames_decoded: int = 0
    frames_sampled: int = 0
    packet_errors: int = 0
    dropped_frames: int = 0
    """frames without a usable time stamp"""
    shots: int = 0
    start_seconds: float = 0.0
    """time stamp of the first frame"""
    last_seconds: float = 0.0
    """time stamp of the last frame that was decoded"""
    fps: float = 0.0
    """the container's average rate"""
    size_wh: tuple[int, int] = (0, 0)
    """coded size in px, before rotation"""
    pixel_aspect: float = 1.0
    """width of a coded pixel by its height; frames are stretched to square ones"""
    rotation_degrees: int = 0
    """anticlockwise turn that made its frames upright"""
    mirrored: bool = False
    """frames were mirrored, left to right, before that"""
    interlaced: bool = False
    """some frames hold two moments, in every other line; --deinterlace mends it"""
    codec: str = ""
    on_gpu: bool = False
    """a GPU has decoded it"""
    stopped_early: bool = False
    """enough windows were found before the video's end"""
    file_bytes: int = 0
    """size of the file as it was read"""
    modified_ns: int = 0
    """Unix time of the file's last change as it was read; 0 where it was a copy of what a URL names"""


@dataclass(frozen=True)
class Frame:
    """A sampled frame."""

    video: int
    """number of the input"""
    shot: int
    """shots are parted by cuts, gaps and changes of size; counted from 0"""
    pts_seconds: float
    """time stamp"""
    image: ImageArray
    """uint8 [H, W, 3] RGB"""
    report: DecodeReport = field(default_factory=DecodeReport)
    """what decoding had seen of the video up to this frame"""
    blank: bool = False
    """it is of one brightness: black, a fade, a test screen"""
    place: int = 0
    """sampled frames of its shot before it"""

    def __post_init__(self) -> None:
        assert self.image.dtype == np.uint8, self.image.dtype
        assert self.image.ndim == 3, self.image.shape
        assert self.image.shape[2] == 3, self.image.shape

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True)
class ScoredFrame:
    """A frame and what the classifier says of it."""

    frame: Frame
    scores: npt.NDArray[np.float32] | None
    """float32 [C] in 0..1; None where the query is trusted and nothing asks for scores"""
    cam: Tensor | None = field(default=None, compare=False, repr=False)
    """float32 [C, h, w] before ReLU, of the frame as it is; None where there are no scores"""


@dataclass(frozen=True)
class Failure:
    """Why a video gave up, and where."""

    stage: str
    reason: str
    detail: str
    failure: FailureClass = "permanent"

    @classmethod
    def of(cls, stage: str, error: VideoError) -> Failure:
        """The failure that an error of a stage stands for."""
        return cls(stage, error.reason, error.detail, error.failure)


@dataclass(frozen=True)
class VideoEnd:
    """Follows the last item of a video through every stage."""

    video: int
    report: DecodeReport = field(default_factory=DecodeReport)
    failure: Failure | None = None
    """what ended the video before its end; its masks are dropped"""
    note: tuple[str, str] | None = None
    """(reason, detail) of a video that ended short but whose masks are good, or that has none"""
    left_out: int = 0
    """masks that are not written because their quality is too low"""


@dataclass(frozen=True)
class ScanState:
    """How far the search for windows is in a video, at a moment when it holds none of its frames."""

    frames_sampled: int
    """sampled frames that are behind it"""
    pts_seconds: float
    """about where it goes on"""
    shot: int = -1
    """where it goes on; -1: before the first"""
    kept_in_shot: int = 0
    """windows kept of this shot"""
    run_classes: tuple[int, ...] = ()
    """label set of the run that goes on; none where no run does"""
    run_length: int = 0
    """frames of this run so far"""
    with_query: int = 0
    """frames whose label set contains the query"""
    longest_run: int = 0
    blank: int = 0
    """frames of one brightness"""
    found: int = 0
    """windows kept"""


@dataclass(frozen=True)
class PartEnd:
    """Follows the last item of a part of a video through the stages that come after the search for windows.

    What comes of the video up to here is complete, and what comes after it needs none of the frames up to here.
    """

    video: int
    scan: ScanState
    report: DecodeReport
    """what decoding had seen of the video up to the frame that comes next"""
    left_out: int = 0
    """masks up to here that are not written because their quality is too low"""
    best_left_out: float = 0.0
    """the highest quality among these"""


End = VideoEnd | PartEnd
"""what comes between the windows of videos"""


@dataclass(frozen=True)
class Window:
    """K consecutive sampled frames of one shot with one label set that contains the query (paper §3.2)."""

    video: int
    number: int
    """counts the kept windows of a video from 0"""
    frames: tuple[Frame, ...]
    """K frames, the last one is the one that gets the mask"""
    classes: tuple[int, ...]
    """the label set: network channels, ascending"""
    scores: tuple[float, ...] | None
    """mean score of each class of the label set over the K frames"""
    cams: tuple[Tensor, ...] | None = field(default=None, compare=False, repr=False)
    """float32 [C, h, w] per frame, before ReLU, as the scan saw it; None where it did not look"""

    def __post_init__(self) -> None:
        assert self.frames, "a window has frames"
        assert self.classes, "a window has classes"
        assert len({frame.size_hw for frame in self.frames}) == 1, "frames of a window have one size"

    @property
    def window(self) -> Window:
        """Itself: what the per-window stages ask of every item."""
        return self

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of its frames in px."""
        return self.frames[0].size_hw


@dataclass(frozen=True)
class ActiveWindow:
    """A window with its active regions M_1..M_K (paper §3.3.1)."""

    window: Window
    bits: Tensor
    """int32 [K, N, H, W]: bit p%32 of word p//32 is class window.classes[p]"""


@dataclass(frozen=True)
class MovingWindow:
    """Active regions and the flow between the frames (paper §3.3.2)."""

    window: Window
    bits: Tensor
    """int32 [K, N, H, W]"""
    flow_xy_px: Tensor
    """float32 [K-1, 2, H, W]: flow[k] lives on frame k+1 and points to frame k"""


@dataclass(frozen=True)
class AggregatedWindow:
    """The union of the warped regions (paper eq. 1), before background is decided."""

    window: Window
    bits: Tensor
    """int32 [N, H, W] on the last frame"""


@dataclass(frozen=True)
class SoftWindow:
    """A window with the activation of every pixel, before any threshold."""

    window: Window
    maps: Tensor
    """float32 [K, P, H, W] in 0..1: the share of its frame's and class's peak"""


@dataclass(frozen=True)
class MovingSoftWindow:
    """Activation and the flow between the frames, both ways."""

    window: Window
    maps: Tensor
    """float32 [K, P, H, W]"""
    flow_xy_px: Tensor
    """float32 [K-1, 2, H, W]: flow[k] lives on frame k+1 and points to frame k"""
    return_xy_px: Tensor
    """float32 [K-1, 2, H, W]: return[k] lives on frame k and points to frame k+1"""


@dataclass(frozen=True)
class EvidentWindow:
    """What speaks for each class at each pixel of the last frame."""

    window: Window
    evidence: Tensor
    """float32 [P, H, W] in 0..1: the share of the class's peak"""
    moves: Tensor
    """float32 [H, W] in 0..1: motion against the camera; none in a window of one frame"""


@dataclass(frozen=True)
class LabelledWindow:
    """The mask of a window's last frame."""

    window: Window
    labels: ImageArray
    """uint8 [H, W]: 0 background, c+1 for class c of the network, 255 ignore"""
    confidence: ImageArray | None = None
    """uint8 [H, W]: probability of the most likely of background and classes, 255 = certain"""
    qualities: tuple[float, ...] | None = None
    """estimated IoU of each class of the label set, in 0..1; None: the rule gives none"""

    def quality(self, channel: int) -> float | None:
        """Estimated IoU of one of its classes."""
        return self.qualities[self.window.classes.index(channel)] if self.qualities else None
