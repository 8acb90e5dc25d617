"""Decoding by a GPU: its pictures, when it is asked, and what becomes of a GPU that fails.

All but the last part runs without one: torch makes pictures of NV12 and P010 frames on the CPU just as well.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_versions import pairwise
from material import ImageArray, Setup, TinyNetworks, background, crawl, pictures, write_video

import f2f.engine.decode as decode_module
import f2f.engine.decoder as decoder_module
import f2f.engine.pool as pool_module
from f2f.engine import nvdec
from f2f.engine.children import start_child
from f2f.engine.cli import main
from f2f.engine.decode import DecodeState, sample_frames
from f2f.engine.decoder import MOST_LEVELS, Trial, choose_decoder, gpu_hindrance, try_gpu
from f2f.engine.errors import MachineError, RunMismatchError, UsageError
from f2f.engine.files import sealed
from f2f.engine.gpu_pixels import GpuConversion, _is_known, _shares
from f2f.engine.job import Job
from f2f.engine.labelling import label
from f2f.engine.options import DecodeOptions, SpreadOptions
from f2f.engine.pixels import CpuConversion
from f2f.engine.pool import ChildSettings, DecodePool, DecodeTask, EndMessage
from f2f.engine.replay import replay
from f2f.engine.ring import FrameRing
from f2f.engine.types import DecodeReport, Failure, Frame, InputRow, VideoEnd

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
BT709, BT601, BT2020, YCGCO = 1, 5, 9, 8
LIMITED, FULL = 1, 2


def coloured(height: int = 96, width: int = 128) -> ImageArray:
    """Patches of every hue over a gradient, with sharp edges."""
    image = background(width, height, seed=3)
    hues = np.array([[230, 20, 20], [20, 220, 30], [25, 30, 235], [240, 235, 20], [20, 230, 230], [230, 30, 220]])
    for number, hue in enumerate(hues):
        top, left = 8 + 40 * (number // 3), 8 + 40 * (number % 3)
        image[top : top + 28, left : left + 28] = hue
    return image


def frame_of(format_: str, colorspace: int = BT601, color_range: int = LIMITED, hw: tuple[int, int] = (96, 128)) -> Any:
    frame = VideoFrame.from_ndarray(coloured(*hw), format="rgb24").reformat(format=format_, dst_colorspace="ITU601")
    frame.colorspace, frame.color_range = colorspace, color_range
    return frame


# ---- pictures


COLOURS: dict[str, Sequence[Any]] = {
    "format_": ["nv12", "p010le"],
    "colorspace": [BT709, BT601, BT2020, 2, 4, 7],
    "color_range": [LIMITED, FULL, 0],
    "size_wh": [(64, 48), (63, 47), (128, 96), (33, 96), (128, 20), (127, 95)],
}


@pytest.mark.parametrize(tuple(COLOURS), [tuple(case.values()) for case in pairwise(COLOURS)])
def test_the_same_colours_as_the_cpu(format_: str, colorspace: int, color_range: int, size_wh: tuple[int, int]) -> None:
    frame = frame_of(format_, colorspace, color_range)
    assert _is_known(frame)
    wanted = CpuConversion()(frame, size_wh, "rgb24").astype(int)
    made = GpuConversion()(frame, size_wh, "rgb24")
    assert made.dtype == np.uint8
    assert made.shape == wanted.shape == (size_wh[1], size_wh[0], 3)
    assert np.abs(made - wanted).mean() <= (2.5 if size_wh[0] % 2 == 0 else 1.0)
    other = frame_of(format_, BT601 if colorspace in {BT709, BT2020, 7} else BT709, color_range)
    assert np.abs(GpuConversion()(other, size_wh, "rgb24") - wanted).mean() > np.abs(made - wanted).mean() + 1, (
        "the measure tells matrices apart"
    )


@pytest.mark.parametrize("color_range", [LIMITED, FULL])
@pytest.mark.parametrize("format_", ["nv12", "p010le"])
def test_the_same_thumbnails_as_the_cpu(format_: str, color_range: int) -> None:
    frame = frame_of(format_, BT601, color_range)
    wanted = CpuConversion()(frame, (64, 36), "gray").astype(int)
    assert np.abs(GpuConversion()(frame, (64, 36), "gray") - wanted).max() <= 1


@pytest.mark.parametrize(
    ("format_", "colorspace", "hw"),
    [
        ("nv12", BT601, (95, 128)),
        ("nv12", BT601, (96, 127)),
        ("yuv420p", BT601, (96, 128)),
        ("yuv444p", BT709, (96, 128)),
    ],
)
def test_what_it_does_not_know_is_converted_by_the_cpu(format_: str, colorspace: int, hw: tuple[int, int]) -> None:
    frame = frame_of(format_, colorspace, hw=hw)
    assert not _is_known(frame)
    for size_wh, kind in (((64, 48), "rgb24"), ((64, 36), "gray")):
        assert np.array_equal(GpuConversion()(frame, size_wh, kind), CpuConversion()(frame, size_wh, kind))  # type: ignore[arg-type]


def test_strange_colours_are_refused_alike() -> None:
    for convert in (CpuConversion(), GpuConversion()):
        with pytest.raises(Exception, match=r"strange_colours: its frames, nv12, cannot be converted"):
            convert(frame_of("nv12", YCGCO), (64, 48), "rgb24")


@given(old=st.integers(1, 300), new=st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_shares(old: int, new: int) -> None:
    shares = _shares(old, new, torch.device("cpu"))
    assert shares.shape == (new, old)
    assert bool((shares >= 0).all())
    assert torch.allclose(shares.sum(dim=1), torch.ones(new))
    if old >= new:  # every old pixel counts as much as any other
        assert torch.allclose(shares.sum(dim=0), torch.full((old,), new / old), atol=1e-5)


def test_no_memory_on_the_gpu_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("f2f.engine.gpu_pixels._rgb", full)
    with pytest.raises(MachineError, match="the GPU has no memory left for decoded frames"):
        GpuConversion()(frame_of("nv12"), (64, 48), "rgb24")


# ---- when a GPU is asked


class StandIn:
    """Decodes on the CPU and calls it a GPU: frames come in NV12, as NVDEC gives them."""

    def __init__(self, patch: pytest.MonkeyPatch, format_: str = "nv12") -> None:
        self.asked = 0
        honest = decode_module._decoded

        def decoded(*args: Any) -> Iterator[VideoFrame]:
            state = args[2]
            for frame in honest(*args):
                on_gpu = frame.reformat(format=format_)
                state.on_gpu |= format_ == "nv12"
                yield on_gpu

        patch.setattr(decode_module, "_decoded", decoded)
        patch.setattr(nvdec, "acceleration", self._accelerate)

    def _accelerate(self) -> None:
        self.asked += 1


def sampled(path: Path, **options: Any) -> tuple[list[Frame], DecodeState]:
    state = DecodeState()
    asked = DecodeOptions(**{"sample_fps": 12.0, "max_side": 96, **options})
    return list(sample_frames(0, str(path), asked, state)), state


def test_the_same_frames_as_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(
        tmp_path / "x.mp4",
        [*pictures("red", 12), *(255 - one for one in pictures("blue", 12, seed=5))],
    )
    by_cpu, _ = sampled(path)
    stand_in = StandIn(monkeypatch)
    by_gpu, state = sampled(path, decoder="cuda")
    assert stand_in.asked == 1
    assert state.report().on_gpu
    assert len({frame.shot for frame in by_cpu}) == 2, "the measure knows cuts"
    assert [(f.pts_seconds, f.shot, f.place, f.blank, f.size_hw) for f in by_gpu] == [
        (f.pts_seconds, f.shot, f.place, f.blank, f.size_hw) for f in by_cpu
    ]
    for one, other in zip(by_gpu, by_cpu, strict=True):
        assert 0 < np.abs(one.image.astype(int) - other.image).mean() <= MOST_LEVELS


@pytest.mark.parametrize(
    ("codec", "options", "asked"),
    [
        ("libx264", {"decoder": "cuda"}, 1),
        ("libx264", {"decoder": "cpu"}, 0),
        ("libx264", {}, 0),
        ("libx264", {"decoder": "cuda", "deinterlace": True}, 0),
        ("mpeg4", {"decoder": "cuda"}, 0),
    ],
)
def test_it_is_asked_only_for_what_it_decodes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, options: dict[str, Any], asked: int
) -> None:
    path = write_video(tmp_path / "x.mp4", pictures("red", 6), codec=codec)
    stand_in = StandIn(monkeypatch, "yuv420p")
    frames, _ = sampled(path, **options)
    assert frames
    assert stand_in.asked == asked


def test_ffmpeg_falls_back_without_a_word_and_the_record_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "x.mp4", pictures("red", 6))
    by_cpu, _ = sampled(path)
    StandIn(monkeypatch, "yuv420p")
    frames, state = sampled(path, decoder="cuda")
    assert not state.report().on_gpu
    assert all(np.array_equal(one.image, other.image) for one, other in zip(frames, by_cpu, strict=True))


@NO_GPU
def test_a_gpu_that_is_not_there_stops_the_run(tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.mp4", pictures("red", 6))
    asked = DecodeOptions(decoder="cuda", decoders=1, max_side=96)
    with pytest.raises(MachineError, match=r"the GPU cannot decode \(.+\); free it, or give --decoder cpu"):
        sampled(path, decoder="cuda")
    with DecodePool(asked) as pool, pytest.raises(MachineError, match="the GPU cannot decode"):
        list(pool.frames([(0, InputRow("x", "x", "x", str(path)))]))


@pytest.mark.parametrize("first", [False, True])
def test_one_context_for_torch_and_ffmpeg(monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: first)
    nvdec._torch_came_first.cache_clear()
    wanted = {"primary_ctx": "0", "current_ctx": "1"} if first else {"primary_ctx": "1"}
    assert nvdec.acceleration().options == wanted
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: not first)
    assert nvdec.acceleration().options == wanted, "who came first does not change"
    nvdec._torch_came_first.cache_clear()


def test_a_broken_file_is_no_fault_of_the_gpu(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"no video")
    with pytest.raises(Exception, match="not_media"):
        sampled(tmp_path / "x.mp4", decoder="cuda")


# ---- a GPU that may have been harmed


@pytest.mark.parametrize(
    ("report", "failure", "retires"),
    [
        (DecodeReport(on_gpu=True), None, False),
        (DecodeReport(on_gpu=True, packet_errors=1), None, True),
        (DecodeReport(on_gpu=True), Failure("decode", "decoder_error", "…"), True),
        (DecodeReport(packet_errors=1), Failure("decode", "decoder_error", "…"), False),
    ],
)
def test_which_processes_retire(report: DecodeReport, failure: Failure | None, retires: bool) -> None:
    assert pool_module._may_have_harmed_gpu(VideoEnd(0, report, failure)) is retires


def test_a_process_that_retires_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "x.mp4", pictures("red", 12))
    pids = []

    def start(_: str, function: str) -> Any:
        process, ours = start_child("retiring_child", function, {"PYTHONPATH": str(Path(__file__).parent)})
        pids.append(process.pid)
        return process, ours

    monkeypatch.setattr(pool_module, "start_child", start)
    with DecodePool(DecodeOptions(sample_fps=12, max_side=96, decoders=1)) as pool:
        items = list(pool.frames((number, InputRow("x", "x", "x", str(path))) for number in range(3)))
    ends = [item for item in items if isinstance(item, VideoEnd)]
    assert [end.failure for end in ends] == [None] * 3
    assert [sum(isinstance(item, Frame) and item.video == number for item in items) for number in range(3)] == [12] * 3
    assert len(set(pids)) == 3, "a new one for every video"
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_the_child_says_that_it_retires_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "x.mp4", pictures("red", 4))
    monkeypatch.setattr(pool_module, "_may_have_harmed_gpu", lambda _: True)
    ours, theirs = Pipe()
    ring = FrameRing.create(8, 96 * 96 * 3)
    child = threading.Thread(target=pool_module.decode_child, args=(os.dup(theirs.fileno()),))
    child.start()
    ours.send(ChildSettings(ring.path, 8, 96 * 96 * 3, DecodeOptions(max_side=96)))
    ours.send(DecodeTask(0, str(path)))
    message = ours.recv()
    while not isinstance(message, EndMessage):
        message = ours.recv()
    assert message.retiring
    child.join(10)
    assert not child.is_alive()
    ring.close()


# ---- which is chosen


ROWS = [InputRow(f"q/{name}", name, "q", f"/crawl/{name}") for name in "abcdefghij"]


class Decoding:
    """Stands for decode pools: what comes, and how long it takes, is given for each decoder."""

    def __init__(self, patch: pytest.MonkeyPatch, **by: Callable[[], Items]) -> None:
        self.by, self.seconds, self.now = by, {"cpu": 2.0, "cuda": 1.0}, 0.0
        patch.setattr(decoder_module, "DecodePool", self.pool)
        patch.setattr("f2f.engine.decoder.time.monotonic", lambda: self.now)

    def pool(self, options: DecodeOptions) -> AbstractContextManager[Decoding._Pool]:
        assert options.max_seconds <= 8
        return nullcontext(Decoding._Pool(self, options.decoder))

    class _Pool:
        def __init__(self, all_: Decoding, decoder: str) -> None:
            self._all, self._decoder = all_, decoder

        def frames(self, rows: Iterable[object]) -> Iterator[Frame | VideoEnd]:
            for number, _ in enumerate(rows):
                for item in self._all.by[self._decoder]():
                    yield replace(item, video=number)
            self._all.now += self._all.seconds[self._decoder]


Items = Iterator[Frame | VideoEnd]


def video(level: int = 100, shots: tuple[int, ...] = (0, 0, 1), **report: Any) -> Callable[[], Items]:
    def items() -> Items:
        for number, shot in enumerate(shots):
            yield Frame(0, shot, number / 6, np.full((4, 6, 3), level, np.uint8))
        yield VideoEnd(0, DecodeReport(codec="h264", **report))

    return items


def failing() -> Items:
    yield VideoEnd(0, DecodeReport(on_gpu=True), Failure("decode", "broken", "no slot"))


def without_gpu() -> Items:
    yield from ()
    raise MachineError("the GPU cannot decode (no device)")


def test_the_quicker_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    decoding = Decoding(monkeypatch, cpu=video(), cuda=video(level=102, on_gpu=True))
    for seconds, choice in ((1.0, "cuda"), (1.6, "cuda"), (1.9, "cpu"), (4.0, "cpu")):
        decoding.seconds["cuda"] = seconds
        trial = try_gpu(DecodeOptions(), ROWS[:3])
        assert trial.gain == pytest.approx(2.0 / seconds)
        assert (trial.hindrance, trial.choice) == ("", choice)


@pytest.mark.parametrize(
    ("by_gpu", "why"),
    [
        (video(level=110, on_gpu=True), r"pictures differ from the CPU's by 10.0 of 255 levels; accepted: 4"),
        (video(shots=(0, 1, 1), on_gpu=True), "frames at other times, or sees other cuts"),
        (video(shots=(0, 0), on_gpu=True), "frames at other times, or sees other cuts"),
        (video(), r"decodes none of the videos that were tried \(h264\)"),
        (video(on_gpu=True, packet_errors=1), r"does not decode what the CPU does \(bad packets\)"),
        (failing, r"does not decode what the CPU does \(no slot\)"),
        (without_gpu, r"the GPU cannot decode \(no device\)"),
    ],
)
def test_what_decodes_something_else_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, by_gpu: Callable[[], Items], why: str
) -> None:
    Decoding(monkeypatch, cpu=video(), cuda=by_gpu)
    monkeypatch.setattr(nvdec, "obstacle", lambda: "")
    assert choose_decoder(DecodeOptions(), ROWS, lambda: None) == "cpu"
    with pytest.raises(UsageError, match=rf"--decoder cuda cannot be used: .*{why}.*accepted here: --decoder cpu"):
        choose_decoder(DecodeOptions(decoder="cuda"), ROWS, lambda: None)


def test_damaged_videos_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    Decoding(monkeypatch, cpu=video(packet_errors=3), cuda=video(level=200, on_gpu=True))
    assert "none of the videos" in try_gpu(DecodeOptions(), ROWS[:1]).hindrance


def test_videos_from_all_over_the_source_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[list[InputRow]] = []

    def tried_on(_: DecodeOptions, sample: Sequence[InputRow]) -> Trial:
        tried.append(list(sample))
        return Trial("", 2.0)

    monkeypatch.setattr(decoder_module, "try_gpu", tried_on)
    monkeypatch.setattr(nvdec, "obstacle", lambda: "")
    rows = [replace(row, location="s3://crawl/x.mp4") if row.video in "ac" else row for row in ROWS]
    rows[2:2] = [replace(ROWS[0], problem=("missing", "not there"))]
    assert choose_decoder(DecodeOptions(), rows, lambda: None) == "cuda"
    assert len(tried[0]) == 4
    assert all(row.problem is None and row.location.startswith("/crawl") for row in tried[0])
    assert {row.video for row in tried[0]} & set("hij")


def test_a_source_that_lies_elsewhere_is_decoded_by_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvdec, "obstacle", lambda: "")
    rows = [replace(row, location="s3://crawl/x.mp4") for row in ROWS]
    assert choose_decoder(DecodeOptions(), rows, lambda: None) == "cpu"
    assert choose_decoder(DecodeOptions(decoder="cuda"), rows, lambda: None) == "cuda"


@pytest.mark.parametrize(
    ("asked", "obstacle", "pinned", "choice"),
    [
        ("cpu", "", None, "cpu"),
        ("auto", "no GPU", None, "cpu"),
        ("auto", "no GPU", "PyAV 1, libavcodec 2, NVDEC of A", "cpu"),  # which the run refuses
        ("auto", "", "PyAV 1, libavcodec 2, NVDEC of A", "cuda"),
        ("auto", "", "PyAV 1, libavcodec 2", "cpu"),
        ("auto", "", "", "cpu"),
        ("auto", "", 7, "cpu"),
        ("cuda", "", "PyAV 1, libavcodec 2", "cuda"),
    ],
)
def test_a_run_goes_on_as_it_began(
    monkeypatch: pytest.MonkeyPatch, asked: Literal["auto", "cpu", "cuda"], obstacle: str, pinned: object, choice: str
) -> None:
    monkeypatch.setattr(nvdec, "obstacle", lambda: obstacle)
    monkeypatch.setattr(decoder_module, "try_gpu", lambda *_: pytest.fail("nothing is to be measured"))
    assert choose_decoder(DecodeOptions(decoder=asked), ROWS, lambda: pinned) == choice


# ---- what a user sees


def test_doctor_tries_it_on_a_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (gpu_hindrance() == "") is torch.cuda.is_available()
    if not torch.cuda.is_available():
        assert gpu_hindrance() == nvdec.obstacle() == "torch sees no NVIDIA GPU on this machine"
        monkeypatch.setattr(nvdec, "obstacle", lambda: "")
        assert gpu_hindrance().startswith("the GPU cannot decode (")  # the clip is written, and by the CPU decoded


def test_a_pyav_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("av.codec.hwaccel.hwdevices_available", lambda: ["qsv"])
    assert nvdec.obstacle() == "this PyAV was built without CUDA; PyAV's own wheel has it"


def pin_gpu(path: Path) -> None:
    """Have a run.json say that a GPU decoded."""
    run = json.loads(path.read_text())
    del run["sha256"]
    path.write_bytes(sealed(json.dumps({**run, "decoder": run["decoder"] + ", NVDEC of NVIDIA H100 (9.0)"}, indent=1)))


@NO_GPU
def test_show_decodes_what_a_gpu_has_decoded(tmp_path: Path, networks: TinyNetworks) -> None:
    options = Setup().options(crawl(tmp_path / "videos", "red/a.mp4"), tmp_path / "out", networks)
    label(options)
    pin_gpu(tmp_path / "out" / "run.json")
    asked = {"source": options.source, "classifier": options.classifier, "flow": options.flow}
    mask = min((tmp_path / "out" / "voc" / "SegmentationClass").iterdir()).stem
    assert replay(tmp_path / "out", mask, asked).options.decode.decoder == "cpu"


@NO_GPU
def test_it_is_refused_where_there_is_none(tmp_path: Path, networks: TinyNetworks) -> None:
    options = Setup().options(crawl(tmp_path / "videos", "red/a.mp4"), tmp_path / "out", networks)
    asked = replace(options, decode=replace(options.decode, decoder="cuda"))
    with pytest.raises(UsageError, match=r"--decoder cuda cannot be used: torch sees no NVIDIA GPU on this machine"):
        label(asked)
    assert (
        main(
            [
                "label",
                str(tmp_path / "videos"),
                "--out",
                str(tmp_path / "out"),
                "--classifier",
                "demo",
                "--decoder",
                "cuda",
            ]
        )
        == 2
    )


@NO_GPU
def test_the_run_pins_what_decodes(tmp_path: Path, networks: TinyNetworks) -> None:
    options = Setup().options(crawl(tmp_path / "videos", "red/a.mp4"), tmp_path / "out", networks)
    label(options)
    path = tmp_path / "out" / "run.json"
    run = json.loads(path.read_text())
    assert run["decoder"].startswith("PyAV")
    assert "NVDEC" not in run["decoder"]
    assert "decoder" not in run["options"]
    label(replace(options, decode=replace(options.decode, decoder="cpu")))  # the same run
    pin_gpu(path)
    with pytest.raises(RunMismatchError, match=r"decoder: PyAV.*NVDEC of NVIDIA H100 \(9\.0\) -> PyAV"):
        label(options)


@NO_GPU
def test_a_worker_without_a_gpu_refuses_a_run_that_has_one(tmp_path: Path, networks: TinyNetworks) -> None:
    options = Setup().options(crawl(tmp_path / "videos", "red/a.mp4"), tmp_path / "out", networks)
    job = Job.open(replace(options, decode=replace(options.decode, decoder="cuda")))
    with pytest.raises(UsageError, match=r"--decoder cuda cannot be met by this worker: torch sees no NVIDIA GPU"):
        _ = job.decisive


def test_workers_on_the_cpu_decode_there(
    tmp_path: Path, networks: TinyNetworks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvdec, "obstacle", lambda: "")
    options = Setup().options(crawl(tmp_path / "videos", "red/a.mp4"), tmp_path / "out", networks)
    pinned = "PyAV, NVDEC of a GPU"
    for devices, decoder in (("cpu,cpu", "cpu"), ("", "cuda")):
        job = Job.open(replace(options, spread=SpreadOptions(devices=devices)))
        assert job.with_decoder(lambda: pinned).options.decode.decoder == decoder


# ---- on a GPU


@NEEDS_GPU
@pytest.mark.parametrize(
    ("codec", "size_hw"), [("libx264", (96, 128)), ("libx264", (270, 480)), ("libx265", (144, 256))]
)
def test_nvdec_gives_what_the_cpu_gives(tmp_path: Path, codec: str, size_hw: tuple[int, int]) -> None:
    images = [np.roll(coloured(*size_hw), 2 * shift, axis=1) for shift in range(48)]
    path = write_video(tmp_path / "x.mp4", images, codec=codec)
    by_cpu, _ = sampled(path, max_side=200)
    by_gpu, state = sampled(path, max_side=200, decoder="cuda")
    assert state.on_gpu
    assert [(f.pts_seconds, f.shot) for f in by_gpu] == [(f.pts_seconds, f.shot) for f in by_cpu]
    for one, other in zip(by_gpu, by_cpu, strict=True):
        assert np.abs(one.image.astype(int) - other.image).mean() <= MOST_LEVELS


@NEEDS_GPU
def test_nvdec_in_processes(tmp_path: Path) -> None:
    paths = [write_video(tmp_path / f"{n}.mp4", pictures("red", 96, width=320, height=240)) for n in range(6)]
    rows = [InputRow(path.name, path.name, "red", str(path)) for path in paths]
    trial = try_gpu(DecodeOptions(decoders=2, max_side=160), rows)
    assert not trial.hindrance
    assert trial.gain > 0
