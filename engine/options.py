"""Every option of the engine, its default written once, one frozen class per stage; the command line is made of them.

A field's docstring is its help line. Values are checked when the object is made.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from f2f.engine.errors import UsageError

MAX_CLASSES = 254  # a mask is 8 bit: 0 is background, 255 is ignore
MAX_FPS = 240.0


def _require(ok: bool, name: str, value: object, accepted: str) -> None:
    if not ok:
        flag = "--" + name.replace("_", "-")
        raise UsageError(f"{flag} {value} is not accepted; accepted: {accepted}; correct {flag} and run again")


def _unit_interval(name: str, value: float | None) -> None:
    _require(value is None or 0 <= value <= 1, name, value, "a number from 0 to 1")


def _check_scales(scales: tuple[float, ...]) -> None:
    ok = len(scales) > 0 and all(0 < scale <= 4 and math.isfinite(scale) for scale in scales)
    _require(ok, "scales", scales, "one or more factors above 0 and up to 4")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Which videos, and which class each search term means."""

    query_map: Path | None = None
    """JSON file {query: class} for queries that are not spelled like a class"""
    video_column: str = "video"
    """manifest column with the path of the video, relative to the manifest's folder"""
    query_column: str = "query"
    """manifest column with the search term"""
    allow_outside: bool = False
    """also read absolute paths, URLs and links that leave the source's folder"""


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How inputs that a URL names get here."""

    cache: Path | None = None
    """folder for local copies of inputs that a URL names; each is removed after use (default: the system's for
    temporary files)"""
    cache_gb: float = 10.0
    """most that these copies take, in GB; a larger file fails"""
    fetchers: int = 4
    """inputs that are fetched at the same time, ahead of decoding"""
    fetch_attempts: int = 3
    """how often it is tried to fetch an input, before it fails as transient"""

    def __post_init__(self) -> None:
        _require(0 < self.cache_gb <= 1e6, "cache_gb", self.cache_gb, "above 0 and up to 1000000 GB")
        _require(1 <= self.fetchers <= 256, "fetchers", self.fetchers, "1 to 256 inputs")
        _require(1 <= self.fetch_attempts <= 100, "fetch_attempts", self.fetch_attempts, "1 to 100 attempts")


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How frames are taken from a video."""

    sample_fps: float = 6.0
    """frames per second that are looked at, chosen by their time stamps"""
    max_side: int = 500
    """longer side in px of the frames that networks see and that are written; larger ones are scaled down"""
    max_gap_seconds: float = 0.0
    """a longer time between two sampled frames ends a shot, in seconds (0: 2.5 intervals of sampling, or of the video
    where its frames are further apart)"""
    max_pixels: int = 64_000_000
    """largest frame that is decoded, in px; larger ones fail the video"""
    max_seconds: float = 43_200.0
    """most seconds of a video that are looked at, by its time stamps; what comes later is left out, and its record
    says so"""
    deinterlace: bool = False
    """make whole frames of interlaced ones (yadif), which otherwise are taken as they are; on the CPU"""
    decoder: Literal["auto", "cpu", "cuda"] = "auto"
    """what decodes H.264, HEVC, VP8 and VP9: the CPU, an NVIDIA GPU (cuda), or what decodes some of the source's
    videos quicker; pinned by the run"""
    decoders: int = 0
    """decoding processes (0: one per core, 4 at most); does not change results"""
    decode_timeout_seconds: float = 60.0
    """a decoding process that shows no progress for this long is replaced and its video recorded as hung, in seconds"""

    def __post_init__(self) -> None:
        _require(0 < self.sample_fps <= MAX_FPS, "sample_fps", self.sample_fps, "a rate above 0 and up to 240 frames/s")
        _require(16 <= self.max_side <= 8192, "max_side", self.max_side, "16 to 8192 px")
        _require(self.max_gap_seconds >= 0, "max_gap_seconds", self.max_gap_seconds, "0 or more seconds")
        _require(self.max_pixels >= 1, "max_pixels", self.max_pixels, "1 or more px")
        _require(self.max_seconds > 0, "max_seconds", self.max_seconds, "above 0 s")
        _require(self.decoder in {"auto", "cpu", "cuda"}, "decoder", self.decoder, "auto, cpu or cuda")
        _require(0 <= self.decoders <= 256, "decoders", self.decoders, "0 (one per core) to 256 processes")
        _require(self.decode_timeout_seconds > 0, "decode_timeout_seconds", self.decode_timeout_seconds, "above 0 s")

    @property
    def decoder_count(self) -> int:
        """Number of decoding processes once 0 is resolved."""
        return self.decoders or min(4, os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions:
    """Which classes a frame is said to show (paper §3.1-3.2)."""

    tau: float | None = None
    """a class is in a frame's label set when its score is above this (default: the network's own, else 0.9)"""
    trust_query: bool = False
    """take the query as the label set of every frame: for curated crawls"""
    batch_frames: int = 0
    """frames of one size that are scored together (0: 1 for every two threads, 8 at most)"""

    def __post_init__(self) -> None:
        _unit_interval("tau", self.tau)
        _require(0 <= self.batch_frames <= 1024, "batch_frames", self.batch_frames, "0 (by the threads) to 1024 frames")


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """Which runs of frames are labelled (paper §3.2)."""

    window_frames: int = 5
    """K: sampled frames that are aggregated into one mask"""
    window_stride: int = 5
    """sampled frames from one window's start to the next one's in a run"""
    windows: Literal["first", "best", "all"] = "first"
    """windows kept of each shot: the first, the one with the best mean score of the query, or all"""
    max_windows: int = 0
    """most windows of one video; decoding stops when they are found (0: no limit)"""

    def __post_init__(self) -> None:
        _require(1 <= self.window_frames <= 100, "window_frames", self.window_frames, "1 to 100 frames")
        _require(self.window_stride >= 1, "window_stride", self.window_stride, "1 or more frames")
        _require(self.windows in {"first", "best", "all"}, "windows", self.windows, "first, best or all")
        _require(self.max_windows >= 0, "max_windows", self.max_windows, "0 (no limit) or more windows")


@dataclass(frozen=True, kw_only=True)
class CamOptions:
    """How class activation maps become masks (paper §3.3.1)."""

    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25)
    """sizes, as factors of the frame's, at which CAMs are computed, each also mirrored"""
    theta_f: float | None = None
    """rule paper: a pixel is active above this share of its class's peak (default: the network's own, else 0.2)"""

    def __post_init__(self) -> None:
        _check_scales(self.scales)
        _unit_interval("theta_f", self.theta_f)


@dataclass(frozen=True, kw_only=True)
class FlowOptions:
    """How the flow between frames is computed (paper §3.3.2)."""

    batch_windows: int = 1
    """windows of one size whose flow is computed together; rounding may change with it"""

    def __post_init__(self) -> None:
        _require(1 <= self.batch_windows <= 1024, "batch_windows", self.batch_windows, "1 to 1024 windows")


@dataclass(frozen=True, kw_only=True)
class BackgroundOptions:
    """Which pixels are called background (paper §3.4)."""

    theta_b: float | None = None
    """rule paper, and f2f with --sure-background: a pixel of no class is background where its saliency is below this
    (default: the network's own, else 0.12)"""

    def __post_init__(self) -> None:
        _unit_interval("theta_b", self.theta_b)


@dataclass(frozen=True, kw_only=True)
class RuleOptions:
    """How the frames of a window become one mask."""

    rule: Literal["paper", "f2f"] = "f2f"
    """paper: unite thresholded activation along the flow (eq. 1), background by saliency (§3.4); f2f: weigh soft
    activation by consistency of the flow and by motion of its own, then let a dense CRF follow the image's edges"""
    theta: float = 0.22
    """rule f2f: share of a class's strongest evidence at which a pixel is as likely the class as not"""
    sure: float = 0.5
    """rule f2f: a pixel whose likeliest label has a lower probability is ignored"""
    confidence: bool = False
    """rule f2f: also write the probability of every pixel's label (255: certain), voc/Confidence/<id>.png or
    <id>.confidence.png"""
    sure_background: bool = False
    """rule f2f: background that is salient is ignored, for it may be a part of the object; for trainings that grow
    seeds"""
    min_quality: float = 0.0
    """rule f2f: leave out masks whose estimated IoU (`quality` in labels.parquet; rule paper gives none) is below this,
    after windows are chosen and counted (0: keep all)"""

    def __post_init__(self) -> None:
        _require(self.rule in {"paper", "f2f"}, "rule", self.rule, "paper or f2f")
        _require(0 < self.theta < 1, "theta", self.theta, "a number between 0 and 1")
        _unit_interval("sure", self.sure)
        has_probabilities = self.rule == "f2f"
        _unit_interval("min_quality", self.min_quality)
        for name in ("confidence", "sure_background", "min_quality"):
            _require(has_probabilities or not getattr(self, name), name, f"with --rule {self.rule}", "--rule f2f")


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """What is written, and how it is committed."""

    format: Literal["voc", "webdataset"] = "voc"
    """layout of the masks: Pascal VOC's folders, or WebDataset's tars, one per shard"""
    shard_videos: int = 16
    """inputs that are committed together; a killed run loses at most the open shards"""
    upload: str = ""
    """URL of a folder, s3://bucket/run say, that receives all that is committed; --out is then where this machine works
    (--out s3://bucket/run: a temporary folder), and any machine can go on"""
    debug_dir: Path | None = None
    """folder that receives a picture of the flow of every window worked on (default: none are drawn)"""

    def __post_init__(self) -> None:
        _require(not self.upload or "://" in self.upload, "upload", self.upload, "a URL such as s3://bucket/run")
        _require(self.format in {"voc", "webdataset"}, "format", self.format, "voc or webdataset")
        _require(1 <= self.shard_videos <= 100_000, "shard_videos", self.shard_videos, "1 to 100000 inputs")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Which frames TensorRT engines are built for, and where they are kept."""

    engine_sides: tuple[int, ...] = (256, 384, 512, 640)
    """TensorRT: longer sides in px, each tuned for by itself; frames that are larger than the last, scaled by --scales,
    are refused"""
    engine_batch: int = 16
    """TensorRT: most frames of one call; more of them become several calls"""
    engine_window: int = 10
    """TensorRT: most frames of a window whose flow is computed"""
    engine_cache: Path | None = None
    """TensorRT: folder of engines that were built on first use (default: f2f/engines in the user's folder of caches)"""

    def __post_init__(self) -> None:
        sides = self.engine_sides
        ordered = bool(sides) and list(sides) == sorted(set(sides)) and sides[0] >= 128 and sides[-1] <= 8192
        _require(ordered, "engine_sides", sides, "one or more sides of 128 to 8192 px, in rising order")
        _require(1 <= self.engine_batch <= 1024, "engine_batch", self.engine_batch, "1 to 1024 frames")
        _require(3 <= self.engine_window <= 100, "engine_window", self.engine_window, "3 to 100 frames")


@dataclass(frozen=True, kw_only=True)
class TorchOptions:
    """How torch runs `.pt2` networks; each is compared with the plain program before it is used."""

    torch_precision: Literal["float32", "bfloat16"] = "float32"
    """torch: what its layers compute in; bfloat16 is quicker on GPUs, and on CPUs with AMX"""
    torch_compile: bool = False
    """torch: compile networks, which takes a minute or so"""


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """How networks are run."""

    runtime: Literal["auto", "onnxruntime", "onnxruntime-cpu", "onnxruntime-cuda", "openvino", "tensorrt", "torch"] = (
        "auto"
    )
    """what runs the networks (auto: for .onnx ONNX Runtime, on the GPU where that works; OpenVINO on CPUs where it is
    installed, and TensorRT on GPUs where an engine of the network was built before, if measured to be quicker; torch
    for .pt2; TensorRT for .engine); tensorrt builds an engine of an .onnx on first use"""
    threads: int = 0
    """threads of the networks and kernels (0: one per core)"""
    trust_code: bool = False
    """also load .pt2 and .engine networks, which are code, that this installation did not make itself"""
    engines: EngineOptions = field(default_factory=EngineOptions)
    torch: TorchOptions = field(default_factory=TorchOptions)

    def __post_init__(self) -> None:
        _require(0 <= self.threads <= 1024, "threads", self.threads, "0 (one per core) to 1024 threads")

    @property
    def thread_count(self) -> int:
        """Number of threads once 0 is resolved."""
        return self.threads or os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class SpreadOptions:
    """Which processes, on which machines, share a run; does not change results."""

    devices: str = ""
    """an engine process on each of these, with --threads and --decoders for each: numbers of GPUs as in 0,1 or cpu,cpu
    (default: this process alone)"""
    shard: str = ""
    """i/n: only the shards whose number leaves i when divided by n, for n commands or array jobs with one --out"""
    ray: str = ""
    """label by actors on a Ray cluster: auto, or its address; paths must be the same on all of its nodes"""
    ray_actors: int = 0
    """actors on the Ray cluster, each with --threads cores (0: 2) and a GPU where it has any (0: as many as there is
    room for)"""

    def __post_init__(self) -> None:
        named = not self.devices or re.fullmatch(r"(\d+|cpu)(,(\d+|cpu))*", self.devices)
        _require(bool(named), "devices", self.devices, "numbers of GPUs or the word cpu, with commas between them")
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", self.shard)
        parted = not self.shard or (found and int(found[1]) < int(found[2]))
        _require(bool(parted), "shard", self.shard, "i/n with i from 0 to n-1")
        _require(not (self.devices and self.ray), "ray", f"{self.ray} with --devices", "one of the two")
        _require(0 <= self.ray_actors <= 100_000, "ray_actors", self.ray_actors, "0 (all there is room for) to 100000")

    @property
    def device_list(self) -> tuple[str, ...]:
        """The devices one by one."""
        return tuple(self.devices.split(",")) if self.devices else ()

    @property
    def is_alone(self) -> bool:
        """Whether the process that is started does the work itself."""
        return not self.devices and not self.ray

    def takes(self, shard: int) -> bool:
        """Whether shards of this number are to be labelled."""
        mine, count = map(int, self.shard.split("/")) if self.shard else (0, 1)
        return shard % count == mine


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """Everything `label` needs; three fields have no default."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """folder <query>/**/*.mp4, a .csv, .jsonl or .parquet manifest with a row per video, or WebDataset's .tar of
    videos, each beside a .json or .txt with its query, or a folder of such; a path or a URL, such as s3://bucket/crawl"""
    out: Path
    """folder, or URL such as s3://bucket/run, that receives masks, frames and records; give it again to go on with an
    interrupted run"""
    classifier: str
    """network that scores frames and yields CAMs: a file, or demo for the bundled one"""
    flow: str = "auto"
    """optical flow: a network file, dis (OpenCV), demo (bundled), auto (dis where OpenCV is installed, else demo)"""
    saliency: str = "classical"
    """rule paper, and f2f with --sure-background: foreground prior that decides background: classical (weight-free),
    none, or a network file"""
    force: bool = False
    """go on although options, networks or inputs differ from the run's in --out: what they affect is done anew"""
    metrics_port: int = 0
    """port at which Prometheus finds the run's metrics, at METRICS_HOST and /metrics (0: none are served)"""
    metrics_host: str = "127.0.0.1"
    """address of this machine that they are served at; 0.0.0.0 serves them to everybody who can reach it"""
    sources: SourceOptions = field(default_factory=SourceOptions)
    fetch: FetchOptions = field(default_factory=FetchOptions)
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    classify: ClassifyOptions = field(default_factory=ClassifyOptions)
    window: WindowOptions = field(default_factory=WindowOptions)
    cam: CamOptions = field(default_factory=CamOptions)
    motion: FlowOptions = field(default_factory=FlowOptions)
    background: BackgroundOptions = field(default_factory=BackgroundOptions)
    aggregation: RuleOptions = field(default_factory=RuleOptions)
    write: WriteOptions = field(default_factory=WriteOptions)
    runtimes: RuntimeOptions = field(default_factory=RuntimeOptions)
    spread: SpreadOptions = field(default_factory=SpreadOptions)

    def __post_init__(self) -> None:
        spread = "--devices" if self.spread.devices else "--ray"
        here = not self.write.upload or self.spread.is_alone
        _require(here, "upload", f"with {spread}", "one process; --shard i/n shares such a run")
        _require(0 <= self.metrics_port <= 65535, "metrics_port", self.metrics_port, "0 (none) to 65535")
        asked = self.aggregation.sure_background
        _require(
            not asked or self.saliency != "none", "saliency", "none with --sure-background", "classical or a network"
        )

    @property
    def batch_frame_count(self) -> int:
        """Frames that are scored together once 0 is resolved; on few threads larger batches only waste."""
        return self.classify.batch_frames or max(1, min(8, self.runtimes.thread_count // 2))


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """How a segmenter looks at an image."""

    max_side: int = 500
    """longer side in px at which the network sees images and videos; larger ones are scaled down, and an image's mask
    back up; masks of videos stay at that size"""
    scales: tuple[float, ...] = (1.0,)
    """sizes at which it is looked at, as factors: of the squares that images were warped to in the network's training,
    as its file says, else of the image's own size"""
    own_size: bool = False
    """of its own size and in its own shape, whatever the training did"""
    squares: tuple[int, ...] = ()
    """in place of SCALES, sides in px of the squares that it is warped to"""
    flip: bool = False
    """look at the mirror image too, at every size"""
    pool: Literal["probabilities", "logits"] = "probabilities"
    """what all these looks are united by: the mean of their probabilities, or the sum of their logits, as DSRG does"""
    crf: bool = False
    """let a dense CRF follow the image's edges"""

    def __post_init__(self) -> None:
        _require(16 <= self.max_side <= 8192, "max_side", self.max_side, "16 to 8192 px")
        _check_scales(self.scales)
        ok = all(1 <= side <= 8192 for side in self.squares)
        _require(ok, "squares", self.squares, "sides of 1 to 8192 px")
        _require(self.pool in {"probabilities", "logits"}, "pool", self.pool, "probabilities or logits")


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """Everything `segment` needs; three fields have no default."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """segmenter network: a file of `f2f export segmenter`"""
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """an image, a video, or a folder of them"""
    out: Path
    """folder that receives masks/, overlays/, labels.txt and summary.json; files of the same names are replaced"""
    overlays: bool = True
    """draw the masks over their images, and for a video a film of it, below overlays/"""
    sample_fps: float = 0.0
    """frames per second that are taken of a video (0: every frame)"""
    decoders: int = 0
    """decoding processes (0: one per core, 4 at most)"""
    inference: InferenceOptions = field(default_factory=InferenceOptions)
    runtimes: RuntimeOptions = field(default_factory=RuntimeOptions)

    def __post_init__(self) -> None:
        _require(0 <= self.sample_fps <= MAX_FPS, "sample_fps", self.sample_fps, "0 (every frame) to 240 frames/s")
        _require(0 <= self.decoders <= 256, "decoders", self.decoders, "0 (one per core) to 256 processes")

    @property
    def decode(self) -> DecodeOptions:
        """How its videos are decoded."""
        return DecodeOptions(
            sample_fps=self.sample_fps or MAX_FPS,
            max_side=self.inference.max_side,
            decoder="cpu",
            decoders=self.decoders,
        )


# Options that change how fast a run is, or where its files are, never what it writes.
_NOT_PINNED = {
    "source",
    "out",
    "classifier",
    "flow",
    "saliency",
    "cache",
    "cache_gb",
    "fetchers",
    "fetch_attempts",
    "decoder",  # the run pins what decodes, not how that was asked for
    "decoders",
    "decode_timeout_seconds",
    "query_map",
    "debug_dir",
    "force",
    "upload",
    "metrics_port",
    "metrics_host",
    "devices",
    "shard",
    "ray",
    "ray_actors",
    "engine_sides",  # what an engine computes is pinned by its digest, in the network's runtime
    "engine_batch",
    "engine_window",
    "engine_cache",
}


def pinned(options: LabelOptions) -> dict[str, Any]:
    """The options that decide a run's results, flat and JSON-ready: what `run.json` pins and a resume must match."""
    return {name: value for name, value in _flat(options).items() if name not in _NOT_PINNED}


def _flat(options: Any) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for entry in fields(options):
        value = getattr(options, entry.name)
        if is_dataclass(value):
            flat |= _flat(value)
        else:
            flat[entry.name] = list(value) if isinstance(value, tuple) else value
    return flat
