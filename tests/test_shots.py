"""Cuts: found where the scene changes, not where the camera moves fast or the light changes."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from material import ImageArray, background, pictures, write_video

from f2f.engine.decode import DecodeState, sample_frames
from f2f.engine.options import DecodeOptions
from f2f.engine.shots import CutDetector


def scene(seed: int, count: int, shift_px: int = 1, gain: float = 1.0) -> list[ImageArray]:
    """A textured scene that moves sideways; `gain` brightens it a little more each frame."""
    frames = [background(192, 108, seed, offset_px=shift_px * time) for time in range(count)]
    return [np.clip(frame * gain**time, 0, 255).astype(np.uint8) for time, frame in enumerate(frames)]


def shots(path: Path) -> list[tuple[float, int]]:
    frames = sample_frames(0, str(path), DecodeOptions(sample_fps=24, max_side=64), DecodeState())
    return [(frame.pts_seconds, frame.shot) for frame in frames]


def coloured(level: int, seed: int) -> list[ImageArray]:
    """A scene of its own brightness and texture."""
    return [np.clip(frame.astype(int) // 2 + level, 0, 255).astype(np.uint8) for frame in scene(seed, 12)]


def test_cuts_between_scenes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.mp4", coloured(0, 1) + scene(2, 12) + coloured(120, 3), fps=24)
    assert [shot for _, shot in shots(path)] == [0] * 12 + [1] * 12 + [2] * 12


def test_cut_to_the_same_scene_in_other_light_is_none(tmp_path: Path) -> None:
    brighter = [np.clip(frame.astype(int) + 30, 0, 255).astype(np.uint8) for frame in scene(1, 24)[12:]]
    path = write_video(tmp_path / "x.mp4", scene(1, 12) + brighter, fps=24)
    assert {shot for _, shot in shots(path)} == {0}


def test_slow_change_of_exposure(tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.mp4", scene(1, 24, gain=1.03), fps=24)
    assert {shot for _, shot in shots(path)} == {0}


@pytest.mark.parametrize("shift_px", [4, 12, 20])
def test_fast_camera(tmp_path: Path, shift_px: int) -> None:
    path = write_video(tmp_path / "x.mp4", scene(1, 24, shift_px), fps=24)
    assert {shot for _, shot in shots(path)} == {0}


def test_small_object_that_jumps(tmp_path: Path) -> None:
    images = pictures("red", 12, width=192, height=108)
    path = write_video(tmp_path / "x.mp4", images[::-1] + images[::4], fps=24)
    assert {shot for _, shot in shots(path)} == {0}


def test_first_frame_is_no_cut() -> None:
    detector = CutDetector()
    assert not detector.is_cut(np.zeros((36, 64), np.uint8))
    assert not detector.is_cut(np.zeros((36, 64), np.uint8))


def test_no_false_cut_in_real_videos(real: Path) -> None:
    videos = sorted((real / "videos").glob("*/*.mp4"))
    assert len(videos) == 9
    for path in videos:
        assert {shot for _, shot in shots(path)} == {0}, path.name


def test_every_cut_between_two_real_videos(real: Path, tmp_path: Path) -> None:
    starts: list[ImageArray] = []
    for path in sorted((real / "videos").glob("*/*.mp4")):
        frames = sample_frames(0, str(path), DecodeOptions(sample_fps=24, max_side=427), DecodeState())
        starts += [frame.image[:236, :426] for _, frame in zip(range(2), frames, strict=False)]
    pairs = [starts[2 * a : 2 * a + 2] + starts[2 * b : 2 * b + 2] for a, b in permutations(range(9), 2)]
    path = write_video(tmp_path / "x.mp4", [image for pair in pairs for image in pair], fps=24)
    seen = [shot for _, shot in shots(path)]
    for number in range(len(pairs)):
        first, second, third, fourth = seen[4 * number : 4 * number + 4]
        assert first == second
        assert third == second + 1
        assert third == fourth
