"""Decoding: which frames are taken, how they are turned and scaled, and what becomes of broken files."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from material import ImageArray, background, pictures, truncated, write_audio, write_video
from nasty import changed_format, promised_frames

from f2f.engine import pixels
from f2f.engine.decode import DecodeState, sample_frames
from f2f.engine.errors import VideoError
from f2f.engine.options import DecodeOptions
from f2f.engine.types import Frame


def decode(path: Path, **options: float) -> tuple[list[Frame], DecodeState]:
    """All sampled frames of a file."""
    state = DecodeState()
    given = DecodeOptions(**{"sample_fps": 12.0, "max_side": 512, **options})  # type: ignore[arg-type]
    return list(sample_frames(7, str(path), given, state)), state


def seconds(frames: list[Frame]) -> list[float]:
    return [frame.pts_seconds for frame in frames]


def lossless(path: Path, images: list[ImageArray], **more: object) -> Path:
    options = {"preset": "ultrafast", "qp": "0"}
    return write_video(path, images, options=options, pix_fmt="yuv444p", **more)  # type: ignore[arg-type]


# ---- which frames


@pytest.mark.parametrize(
    ("sample_fps", "expected"),
    [
        (24, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        (12, [0, 2, 4, 6, 8, 10]),
        (7, [0, 4, 7, 11]),  # the first frame at or after 0, 3.43, 6.86, 10.29
        (1, [0]),
        (100, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
    ],
)
def test_sampling_by_time(tmp_path: Path, sample_fps: float, expected: list[int]) -> None:
    path = write_video(tmp_path / "x.mp4", pictures("red", 12), fps=24)
    frames, state = decode(path, sample_fps=sample_fps)
    assert [round(24 * time) for time in seconds(frames)] == expected
    assert (state.frames_decoded, state.frames_sampled, state.shot) == (12, len(expected), 0)


def test_variable_rate(tmp_path: Path) -> None:
    times = [0, 40, 90, 100, 105, 180, 260, 300, 310, 320]
    frames, _ = decode(write_video(tmp_path / "x.mp4", pictures("red", 10), pts_ms=times), sample_fps=10)
    assert [round(1000 * time) for time in seconds(frames)] == [0, 100, 260, 300]


def test_gap_ends_a_shot(tmp_path: Path) -> None:
    times = [0, 100, 200, 300, 900, 1000, 1100, 1320, 1420]
    path = write_video(tmp_path / "x.mkv", pictures("red", 9), pts_ms=times)
    frames, _ = decode(path, sample_fps=10)
    assert [frame.shot for frame in frames] == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    frames, _ = decode(path, sample_fps=10, max_gap_seconds=0.2)
    assert [frame.shot for frame in frames] == [0, 0, 0, 0, 1, 1, 1, 2, 2]
    frames, state = decode(path, sample_fps=10, max_gap_seconds=1)
    assert {frame.shot for frame in frames} == {0}
    assert state.report().shots == 1


@pytest.mark.parametrize("start_ms", [-400, 5000], ids=["negative", "late"])
def test_start_time(tmp_path: Path, start_ms: int) -> None:
    times = [start_ms + 100 * number for number in range(8)]
    path = write_video(tmp_path / "x.mkv", pictures("red", 8), pts_ms=times)
    frames, state = decode(path, sample_fps=5)
    first = state.report().start_seconds
    assert np.allclose([time - first for time in seconds(frames)], [0, 0.2, 0.4, 0.6])
    assert state.broken == ""


def test_edit_list_with_negative_time(tmp_path: Path) -> None:
    """B-frames in mp4: the decoding order is not the display order."""
    images = pictures("red", 20)
    path = write_video(
        tmp_path / "x.mp4", images, options={"preset": "medium", "bf": "3", "qp": "0"}, pix_fmt="yuv444p"
    )
    frames, _ = decode(path)
    assert [round(12 * time) for time in seconds(frames)] == list(range(20))
    assert all(difference(frame.image, image) < 2 for frame, image in zip(frames, images, strict=True))


class Stamped:
    """A frame that stands in for PyAV's, to give time stamps that no writer would write."""

    def __init__(self, pts: int | None) -> None:
        self.pts, self.dts, self.time_base, self.duration = pts, None, Fraction(1, 10), 1


def stamps(*pts: int | None) -> tuple[list[float], DecodeState]:
    from f2f.engine.decode import _with_time

    state = DecodeState(fps=10.0)
    frames = iter([Stamped(value) for value in pts])
    timed = _with_time(frames, None, DecodeOptions(), state)  # type: ignore[arg-type]
    return [time for time, _ in timed], state


def test_repeated_and_falling_time_stamps_are_dropped() -> None:
    times, state = stamps(0, 1, 1, 0, 2, 5, 3, 6)
    assert times == [0.0, 0.1, 0.2, 0.5, 0.6]
    assert state.dropped_frames == 3


def test_missing_time_stamps_are_filled_in() -> None:
    times, state = stamps(None, None, 2, None, 9)
    assert np.allclose(times, [0, 0.1, 0.2, 0.3, 0.9])
    assert state.dropped_frames == 0


@settings(max_examples=25, deadline=None)
@given(
    gaps=st.lists(st.integers(1, 400), min_size=1, max_size=30),
    sample_fps=st.floats(0.5, 60),
)
def test_at_most_one_frame_per_grid_cell(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[int], sample_fps: float
) -> None:
    times = [sum(gaps[:number]) for number in range(len(gaps))]
    image = background(32, 32, 1)
    path = write_video(tmp_path_factory.mktemp("grid") / "x.mkv", [image] * len(times), pts_ms=times)
    frames, state = decode(path, sample_fps=sample_fps)
    taken = seconds(frames)
    assert state.frames_decoded == len(times)
    assert taken[0] == 0, "the first frame is always taken"
    assert all(earlier < later for earlier, later in pairwise(taken))
    cells = [int((time + 1e-3) * sample_fps) for time in taken]
    assert len(set(cells)) == len(cells)
    offered = {int((time / 1000 + 1e-3) * sample_fps) for time in times}
    assert len(offered) - len(cells) <= sum(abs(time / 1000 * sample_fps % 1 - 0.5) > 0.49 for time in times)


# ---- how they look


def difference(a: ImageArray, b: ImageArray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv422p", "yuv444p"])
def test_pixel_formats(tmp_path: Path, pix_fmt: str) -> None:
    images = pictures("red", 3)
    options = {"preset": "ultrafast", "crf": "5"}
    frames, _ = decode(write_video(tmp_path / "x.mp4", images, pix_fmt=pix_fmt, options=options))
    assert difference(frames[2].image, images[2]) < 4


def test_odd_size(tmp_path: Path) -> None:
    images = pictures("red", 3, width=641, height=361)
    frames, state = decode(lossless(tmp_path / "x.mp4", images), max_side=1000)
    assert frames[0].size_hw == (361, 641)
    assert difference(frames[2].image, images[2]) < 2
    assert state.size_wh == (641, 361)


def test_scaled_once_to_the_longer_side(tmp_path: Path) -> None:
    wide = write_video(tmp_path / "wide.mp4", pictures("red", 2, width=200, height=100))
    assert decode(wide, max_side=64)[0][0].size_hw == (32, 64)
    tall = write_video(tmp_path / "tall.mp4", pictures("red", 2, width=50, height=200))
    assert decode(tall, max_side=64)[0][0].size_hw == (64, 16)
    assert decode(tall, max_side=300)[0][0].size_hw == (200, 50), "small frames stay as they are"


@pytest.mark.parametrize(("codec", "suffix"), [("mpeg4", ".avi"), ("mpeg2video", ".mpg"), ("libvpx", ".webm")])
def test_other_containers(tmp_path: Path, codec: str, suffix: str) -> None:
    path = write_video(tmp_path / f"x{suffix}", pictures("red", 24), codec=codec, fps=24, options={"b": "2000000"})
    frames, state = decode(path, sample_fps=24)
    assert (state.frames_decoded, len(frames), state.shot, state.broken) == (24, 24, 0, "")


def test_animated_gif(tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.gif", pictures("red", 10), codec="gif", pix_fmt="rgb8", fps=10)
    frames, state = decode(path, sample_fps=10)
    assert (len(frames), state.shot) == (10, 0)


def test_size_change_in_the_middle(tmp_path: Path) -> None:
    changed_format(tmp_path / "x.mp4")
    frames, state = decode(tmp_path / "x.mp4", sample_fps=25)
    assert [(frame.size_hw, frame.shot) for frame in frames] == [((64, 96), 0)] * 12 + [((96, 128), 1)] * 24
    assert difference(frames[-1].image, pictures("red", 12, width=128, height=96)[-1]) < 8, "4:4:4 like 4:2:0"
    assert state.frames_decoded == 36


def test_size_change_beyond_the_limit(tmp_path: Path) -> None:
    changed_format(tmp_path / "x.mp4")
    frames, state = decode(tmp_path / "x.mp4", sample_fps=25, max_pixels=128 * 96 - 1)
    assert {frame.size_hw for frame in frames} == {(64, 96)}
    assert state.packet_errors >= 24


# ---- broken files


def failure(path: Path, **options: float) -> VideoError:
    with pytest.raises(VideoError) as failed:
        decode(path, **options)
    return failed.value


def test_audio_only(tmp_path: Path) -> None:
    error = failure(write_audio(tmp_path / "x.mp4"))
    assert error.reason == "no_video_stream"
    assert "audio" in error.detail


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"a text that was renamed\n" * 50, "not_media"),
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "not_media"),
        (b"\0" * 5000, "not_media"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", "format_refused"),
        (b"ffconcat version 1.0\nfile '/etc/hostname'\n", "format_refused"),
    ],
    ids=["empty", "text", "html", "zeros", "playlist", "concat"],
)
def test_what_is_no_video(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.mp4").write_bytes(content)
    error = failure(tmp_path / "x.mp4")
    assert (error.reason, error.failure) == (reason, "permanent")


def test_playlist_of_a_good_video_is_refused_too(tmp_path: Path) -> None:
    write_video(tmp_path / "good.mp4", pictures())
    (tmp_path / "x.mp4").write_text("ffconcat version 1.0\nfile 'good.mp4'\n")
    assert failure(tmp_path / "x.mp4").reason == "format_refused"


def test_name_that_looks_like_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "good.mp4", pictures("red", 3))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.mp4").rename(tmp_path / "concat:good.mp4")
    assert len(decode(Path("concat:good.mp4"))[0]) == 3


def test_missing_file(tmp_path: Path) -> None:
    error = failure(tmp_path / "gone.mp4")
    assert (error.reason, error.failure) == ("missing", "transient")


def test_missing_moov(tmp_path: Path) -> None:
    path = truncated(write_video(tmp_path / "x.mp4", pictures()), 0.7)
    assert failure(path).reason == "no_moov"


@pytest.mark.parametrize("location", ["file://{}", "memory://x.mp4", "concat:{}", "subfile,,start,0,end,9,,:{}"])
def test_a_location_is_a_path_and_nothing_else(tmp_path: Path, location: str) -> None:
    path = write_video(tmp_path / "x.mp4", pictures("red", 3))
    with pytest.raises(VideoError, match="missing"):
        list(sample_frames(0, location.format(path), DecodeOptions(), DecodeState()))


@pytest.mark.parametrize("keep", [0.5, 0.9])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_truncated(tmp_path: Path, suffix: str, keep: float) -> None:
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    path = write_video(tmp_path / f"x{suffix}", pictures("red", 60), container_options=options)
    frames, state = decode(truncated(path, keep))
    assert 60 * keep - 15 < len(frames) < 60
    assert {frame.shot for frame in frames} == {0}
    if suffix == ".mp4":  # the header of the others does not say how long they are
        assert state.broken or state.packet_errors


def test_corrupt_in_the_middle(tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.mp4", pictures("red", 96), options={"preset": "ultrafast", "g": "24", "crf": "5"})
    data = bytearray(path.read_bytes())
    begin, end = data.index(b"mdat") + len(data) // 3, data.index(b"mdat") + len(data) // 3 + 4000
    data[begin:end] = b"\xff" * (end - begin)
    path.write_bytes(data)
    frames, state = decode(path)
    assert state.packet_errors > 0
    assert state.frames_decoded > 60, "what comes after the damage is decoded"
    assert frames[-1].shot > 0, "no window reaches across the damage"
    assert frames[-1].pts_seconds > 7.5


@pytest.mark.parametrize("damage", [slice(0, None), slice(30, 60)], ids=["whole_packet", "part"])
def test_one_damaged_packet_ends_a_shot(tmp_path: Path, damage: slice) -> None:
    """A frame that is missing or made up by the decoder is no frame, and no window reaches across it."""
    path = write_video(tmp_path / "x.mp4", pictures("red", 40), options={"preset": "ultrafast", "g": "40", "crf": "5"})
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    begin, size = packets[20]
    assert begin is not None
    first, last, _ = damage.indices(size)
    data[begin + first : begin + last] = bytes(last - first)
    path.write_bytes(data)
    frames, state = decode(path)
    assert state.packet_errors == 1
    assert [(round(12 * frame.pts_seconds), frame.shot) for frame in frames[19:21]] == [(19, 0), (21, 1)]
    assert len(frames) == 39


def test_one_frame(tmp_path: Path) -> None:
    frames, state = decode(write_video(tmp_path / "x.mp4", pictures("red", 1)))
    assert (len(frames), state.broken) == (1, "")


def test_too_large(tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.mp4", pictures("red", 1, width=200, height=100))
    error = failure(path, max_pixels=19_999)
    assert error.reason == "too_large"
    assert "200x100 px; --max-pixels is 19999" in error.detail


def test_header_that_promises_more_frames(tmp_path: Path) -> None:
    """The container's frame count and rate are never trusted: only frames that come out count."""
    promised_frames(tmp_path / "x.avi")
    frames, state = decode(tmp_path / "x.avi")
    assert (len(frames), state.frames_decoded) == (24, 24)


def test_last_frame_that_stays_long_is_no_damage(tmp_path: Path) -> None:
    """A slide show's last picture may stand for seconds; the header counts them."""
    path = write_video(tmp_path / "x.mp4", pictures("red", 3), pts_ms=[0, 4000, 8000])
    _, state = decode(path)
    assert state.broken == ""


def test_colours_that_nobody_can_follow_are_the_videos_fault() -> None:
    class Refusing:
        def reformat(self, *_: object, **__: object) -> av.VideoFrame:
            raise av.error.OSError(95, "Operation not supported")

    frame, convert = av.VideoFrame(32, 16, "yuv444p"), pixels.CpuConversion()
    convert._scalers["rgb24"] = Refusing()  # type: ignore[assignment]
    with pytest.raises(VideoError, match=r"yuv444p, cannot be converted \(Operation not supported\)") as refused:
        pixels.picture(convert, frame, 1.0, 96)
    assert (refused.value.reason, refused.value.failure) == ("strange_colours", "permanent")
