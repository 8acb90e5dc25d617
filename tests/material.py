"""What the tests share: small rendered videos, tiny hand-made networks, and ways to run `f2f`.

Letters: T frames of a video, H, W frame size in px.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from f2f.engine.options import (
    CamOptions,
    ClassifyOptions,
    DecodeOptions,
    LabelOptions,
    RuleOptions,
    RuntimeOptions,
    SourceOptions,
    WindowOptions,
    WriteOptions,
)

ImageArray = npt.NDArray[np.uint8]
CLASSES = ("red", "green", "blue")
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
POOL_PX = 8
"""edge of the tiny classifier's CAM cells"""
SQUARE_PX = 24


# ---- pictures


def background(width: int, height: int, seed: int, offset_px: int = 0) -> ImageArray:
    """Grey texture, uint8 [H, W, 3]: random blocks of 8 px, moved sideways by `offset_px`."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(60, 190, (height // 8 + 2, width // 8 + 64))
    grey = np.kron(blocks, np.ones((8, 8))).astype(np.uint8)
    moved = grey[:height, offset_px : offset_px + width]
    return np.repeat(moved[:, :, None], 3, axis=2)


def square_corner(width: int, height: int, time: int, speed_px: int = 1) -> tuple[int, int]:
    """Top and left of the square at frame `time`; it starts a little off the left border and stays inside."""
    return (height - SQUARE_PX) // 2, min(4 + speed_px * time, width - SQUARE_PX)


def picture(
    colour: str = "red", time: int = 0, *, width: int = 96, height: int = 64, seed: int = 1, speed_px: int = 1
) -> ImageArray:
    """One frame: a square of `colour`, with dark stripes, over the moving background; uint8 [H, W, 3]."""
    image = background(width, height, seed, offset_px=time // 4)
    top, left = square_corner(width, height, time, speed_px)
    square = image[top : top + SQUARE_PX, left : left + SQUARE_PX]
    square[:] = COLOURS.get(colour, (128, 128, 128))
    square[::6] = square[::6] // 2
    return image


def pictures(colour: str = "red", count: int = 24, **look: int) -> list[ImageArray]:
    """`count` frames of the moving square."""
    return [picture(colour, time, **look) for time in range(count)]


# ---- videos


def write_video(
    path: Path,
    images: Sequence[ImageArray],
    *,
    fps: float = 12,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pts_ms: Sequence[int] | None = None,
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
) -> Path:
    """Encode RGB frames; `pts_ms` gives each frame's time stamp in ms instead of a constant rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(fps).limit_denominator(1001)
    with av.open("file:" + str(path), "w", options=dict(container_options or {})) as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.options = {**(_repeatable(options) if codec == "libx264" else options or {})}
        if pts_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if pts_ms is None else pts_ms[number]
            frame.time_base = 1 / rate if pts_ms is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _repeatable(options: Mapping[str, str] | None) -> Mapping[str, str]:
    """Options of x264 that give the same bytes every time; with AVX-512 they depend on unset memory otherwise."""
    given = options or {"preset": "ultrafast", "crf": "10"}
    return {**given, "x264-params": ":".join(filter(None, [given.get("x264-params"), "cpu-independent=1"]))}


def write_audio(path: Path, seconds: float = 1.0) -> Path:
    """A file with nothing but silence."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for number in range(int(seconds * 16000) // 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, number * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def crawl(folder: Path, *names: str, frames: int = 24) -> Path:
    """A folder of good videos, each named `<query>/<name>` and showing a square of the query's colour."""
    for seed, name in enumerate(names):
        write_video(folder / name, pictures(name.split("/")[0], frames, seed=seed))
    return folder


def truncated(path: Path, keep: float) -> Path:
    """Keep only the first `keep` share of a file's bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


# ---- networks


def _network(path: Path, graph: onnx.GraphProto, metadata: Mapping[str, str]) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def _value(name: str, shape: Iterable[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def _constant(name: str, values: npt.ArrayLike) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.asarray(values, np.float32), name)


def classifier_file(path: Path, metadata: Mapping[str, str] | None = None, *, gain: float = 1.0) -> Path:
    """Classes red, green, blue: CAM = colour minus the mean of the two others in 8x8 px cells, score by its maximum."""
    contrast = gain * (1.5 * np.eye(3) - 0.5)  # r - (g + b) / 2, …
    nodes = [
        helper.make_node("Conv", ["image", "contrast"], ["colour"]),
        helper.make_node("AveragePool", ["colour"], ["cam"], kernel_shape=[POOL_PX] * 2, strides=[POOL_PX] * 2),
        helper.make_node("ReduceMax", ["cam", "axes"], ["peak"], keepdims=0),
        helper.make_node("Sub", ["peak", "middle"], ["above"]),
        helper.make_node("Mul", ["above", "slope"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [_value("image", ["batch", 3, "height", "width"])],
        [_value("scores", ["batch", 3]), _value("cam", ["batch", 3, "h", "w"])],
        [
            _constant("contrast", contrast.reshape(3, 3, 1, 1)),
            onnx.numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
            _constant("middle", 0.25),
            _constant("slope", 30.0),
        ],
    )
    given = {"f2f.kind": "classifier", "f2f.classes": json.dumps(CLASSES), "f2f.defaults": '{"theta_f": 0.4}'}
    return _network(path, graph, given if metadata is None else metadata)


def flow_file(path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Flow that is zero everywhere."""
    nodes = [
        helper.make_node("Slice", ["frames", "first", "last", "axis"], ["pairs"]),
        helper.make_node("Slice", ["pairs", "zero", "two", "channel"], ["planes"]),
        helper.make_node("Mul", ["planes", "nothing"], ["flow"]),
    ]
    numbers = {"first": 1, "last": 2**31 - 1, "axis": 1, "zero": 0, "two": 2, "channel": 2}
    graph = helper.make_graph(
        nodes,
        "flow",
        [_value("frames", ["batch", "frames", 3, "height", "width"])],
        [_value("flow", ["batch", "pairs", 2, "height", "width"])],
        [
            _constant("nothing", 0.0),
            *(onnx.numpy_helper.from_array(np.array([v], np.int64), k) for k, v in numbers.items()),
        ],
    )
    return _network(path, graph, {"f2f.kind": "flow"} if metadata is None else metadata)


def saliency_file(path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Saliency = the red channel."""
    nodes = [helper.make_node("Slice", ["image", "zero", "one", "axis"], ["saliency"])]
    numbers = {"zero": 0, "one": 1, "axis": 1}
    graph = helper.make_graph(
        nodes,
        "saliency",
        [_value("image", ["batch", 3, "height", "width"])],
        [_value("saliency", ["batch", 1, "height", "width"])],
        [onnx.numpy_helper.from_array(np.array([v], np.int64), k) for k, v in numbers.items()],
    )
    given = {"f2f.kind": "saliency", "f2f.defaults": '{"theta_b": 0.5}'}
    return _network(path, graph, given if metadata is None else metadata)


def segmenter_file(path: Path, metadata: Mapping[str, str] | None = None, *, gain: float = 20.0) -> Path:
    """Classes red, green, blue: logit = gain · (colour minus the mean of the two others - .25), background 0."""
    weight = np.vstack([np.zeros((1, 3)), gain * (1.5 * np.eye(3) - 0.5)])  # [4, 3]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight", "bias"], ["logits"])],
        "segmenter",
        [_value("image", ["batch", 3, "height", "width"])],
        [_value("logits", ["batch", 4, "height", "width"])],
        [_constant("weight", weight.reshape(4, 3, 1, 1)), _constant("bias", [0, *[-gain / 4] * 3])],
    )
    given = {"f2f.kind": "segmenter", "f2f.classes": json.dumps(CLASSES)}
    return _network(path, graph, given if metadata is None else metadata)


@dataclass(frozen=True)
class TinyNetworks:
    """Files of the three hand-made networks."""

    classifier: Path
    flow: Path
    saliency: Path

    @classmethod
    def write(cls, folder: Path) -> TinyNetworks:
        """Make the files in `folder`."""
        return cls(
            classifier_file(folder / "classifier.onnx"),
            flow_file(folder / "flow.onnx"),
            saliency_file(folder / "saliency.onnx"),
        )


# ---- running


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Options of a small run; everything is quick by default."""

    decoders: int = 1
    sample_fps: float = 6.0
    max_side: int = 96
    decode_timeout_seconds: float = 60.0
    window_frames: int = 3
    window_stride: int = 3
    windows: str = "all"
    max_windows: int = 0
    tau: float = 0.9
    trust_query: bool = False
    theta_f: float | None = None
    shard_videos: int = 2
    saliency: str = "none"
    flow: str = ""
    classifier: str = ""
    scales: tuple[float, ...] = (1.0,)
    rule: str = "paper"
    confidence: bool = False
    format: str = "voc"
    sources: SourceOptions = field(default_factory=SourceOptions)

    def options(self, source: Path, out: Path, networks: TinyNetworks) -> LabelOptions:
        """The same as the engine wants it."""
        return LabelOptions(
            source=str(source),
            out=out,
            classifier=self.classifier or str(networks.classifier),
            flow=self.flow or str(networks.flow),
            saliency=self.saliency,
            sources=self.sources,
            decode=DecodeOptions(
                sample_fps=self.sample_fps,
                max_side=self.max_side,
                decoders=self.decoders,
                decode_timeout_seconds=self.decode_timeout_seconds,
            ),
            classify=ClassifyOptions(tau=self.tau, trust_query=self.trust_query, batch_frames=4),
            window=WindowOptions(
                window_frames=self.window_frames,
                window_stride=self.window_stride,
                windows=self.windows,  # type: ignore[arg-type]  # checked by the options themselves
                max_windows=self.max_windows,
            ),
            cam=CamOptions(scales=self.scales, theta_f=self.theta_f),
            aggregation=RuleOptions(rule=self.rule, confidence=self.confidence),  # type: ignore[arg-type]  # as above
            write=WriteOptions(shard_videos=self.shard_videos, format=self.format),  # type: ignore[arg-type]  # as above
            runtimes=RuntimeOptions(threads=1),
        )


def flags(networks: TinyNetworks, *more: str) -> list[str]:
    """The same small run as flags of `f2f label`."""
    return [
        *("--classifier", str(networks.classifier), "--flow", str(networks.flow), "--saliency", "none"),
        *("--decoders", "1", "--max-side", "96", "--window-frames", "3", "--window-stride", "3", "--windows", "all"),
        *(
            "--rule",
            "paper",
            "--scales",
            "1.0",
            "--batch-frames",
            "4",
            "--shard-videos",
            "2",
            "--threads",
            "1",
            "--tau",
            "0.9",
        ),
        *more,
    ]


def f2f_command(*arguments: str | Path) -> list[str]:
    """A command line that runs `f2f` as its own process."""
    return [sys.executable, "-c", "import sys; from f2f.engine.cli import main; sys.exit(main())", *map(str, arguments)]


def start_f2f(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start `f2f` as its own process, one that Ctrl-C reaches even where the tests run in the background."""
    # A shell's background jobs ignore SIGINT, and what they start inherits it.
    hear = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    python, option, program, *words = f2f_command(*arguments)
    command = [python, option, f"{hear}; {program}", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until `condition` holds; the process must live until then."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


# ---- reading what a run wrote


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a run by relative path, without the lock and without where the time went."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name != ".lock")
    found = {str(path.relative_to(out)): path.read_bytes() for path in files}
    if "summary.json" in found:
        found["summary.json"] = json.dumps({**json.loads(found["summary.json"]), "account": None}).encode()
    return found


def records(out: Path) -> dict[str, dict[str, Any]]:
    """The record of each input by its id."""
    shards = (json.loads(path.read_text()) for path in sorted((out / "shards").glob("*.json")))
    return {video["id"]: video for shard in shards for video in shard["videos"]}


def masks(out: Path) -> list[dict[str, Any]]:
    """The records of all masks."""
    shards = (json.loads(path.read_text()) for path in sorted((out / "shards").glob("*.json")))
    return [mask for shard in shards for mask in shard["masks"]]
