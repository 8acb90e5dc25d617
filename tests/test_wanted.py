"""Work that is left out because nothing can come of it: frames behind a shot's window, activation that was seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from material import CLASSES
from torch import Tensor

from f2f.engine.cam import MultiScaleCams
from f2f.engine.classify import Classifier, Probed, Wanted, classify
from f2f.engine.options import WindowOptions
from f2f.engine.runtimes.network import NetworkInfo
from f2f.engine.scout import scout
from f2f.engine.stage import StageClock
from f2f.engine.types import End, Frame, PartEnd, ScoredFrame, VideoEnd, Window
from f2f.engine.window import find_windows


class Counting:
    """A classifier that reads scores off the corner pixel, counts frames, and fails where that is 255."""

    def __init__(self) -> None:
        self.info = NetworkInfo("classifier", CLASSES)
        self.frames = 0

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        self.frames += len(batch)
        red = batch[:, 0, 0, 0]
        scores = torch.stack([red, torch.zeros_like(red), torch.zeros_like(red)], 1)
        scores[red == 1] = torch.nan
        return scores, batch.mean(1, keepdim=True)[:, :, ::8, ::8].repeat(1, 3, 1, 1)


def frame(video: int, number: int, red: int, shot: int = 0, blank: bool = False) -> Frame:
    image = np.full((16, 24, 3), red, np.uint8)
    return Frame(video, shot, float(number), image, blank=blank)


def windows_of(
    items: Sequence[Frame | VideoEnd], options: WindowOptions, batch_frames: int, leave_out: bool
) -> tuple[list[Window | End], int]:
    """Windows and ends, and how many frames the network saw."""
    network, wanted = Counting(), Wanted()
    classifier, clock = Classifier(network), StageClock()
    looked: Iterator[Frame | Probed | VideoEnd] = iter(items)
    if leave_out:
        looked = scout(iter(items), classifier, options.window_frames, shows, batch_frames, clock, wanted)
    scored = classify(looked, classifier, batch_frames, clock, wanted)
    known = dict.fromkeys((item.video for item in items), 0)
    told = (wanted.enough_of_shot,) if leave_out else ()
    return list(find_windows(scored, known, 0.5, options, lambda _: None, *told)), network.frames


def shows(scored: ScoredFrame) -> bool:
    return scored.scores is not None and bool(scored.scores[0] > 0.5)


def facts(found: Sequence[Window | End]) -> list[str]:
    """What of windows and ends decides results."""
    return sorted(
        str((one.video, one.number, [f.pts_seconds for f in one.frames], one.classes, one.scores))
        if isinstance(one, Window)
        else str((one.video, one.failure, one.note))
        for one in found
        if not isinstance(one, PartEnd)
    )


def interleaved(videos: Sequence[Sequence[tuple[int, int] | tuple[int, int, bool]]]) -> Iterator[Frame | VideoEnd]:
    """Frames (red, shot, whether blank) of videos by turns, then their ends."""
    for number in range(max(map(len, videos), default=0)):
        for video, frames in enumerate(videos):
            if number < len(frames):
                yield frame(video, number, *frames[number])
    yield from (VideoEnd(video) for video in range(len(videos)))


def test_frames_behind_a_shots_window_are_not_scored() -> None:
    shots = [(200, 0)] * 40 + [(200, 1)] * 40
    options = WindowOptions(window_frames=3)
    found, frames = windows_of(list(interleaved([shots])), options, 1, leave_out=True)
    all_, all_frames = windows_of(list(interleaved([shots])), options, 4, leave_out=False)
    assert facts(found) == facts(all_)
    assert (frames, all_frames) == (6, 80)
    found, frames = windows_of(list(interleaved([[(100, 0)] * 80])), options, 1, leave_out=True)
    assert (frames, len(found)) == (26, 1), "a third of what does not show its query"


def test_a_frame_that_nobody_needs_cannot_fail_its_video() -> None:
    """Whether it is scored at all is a matter of its batch, so nothing may come of it."""
    frames = [(200, 0)] * 3 + [(255, 0)] + [(200, 0)] * 4
    for batch_frames in (1, 2, 4, 8):
        found, _ = windows_of(list(interleaved([frames])), WindowOptions(window_frames=3), batch_frames, True)
        assert isinstance(found[-1], VideoEnd)
        assert found[-1].failure is None
        assert len(found) == 2
    found, _ = windows_of(list(interleaved([frames])), WindowOptions(window_frames=5), 4, True)
    assert isinstance(found[-1], VideoEnd)
    assert found[-1].failure is not None, "this one is needed"


LOOKS = st.sampled_from([(100, False), (200, False), (200, False), (200, True), (255, False)])
"""(red, whether the frame is blank): shows nothing, shows the query, cannot be scored"""


def as_shots(frames: list[tuple[tuple[int, bool], int]]) -> list[tuple[int, int, bool]]:
    """(look, step) of every frame -> red, shot and blankness; a step of 0 is a cut."""
    cuts = np.cumsum([step == 0 for _, step in frames])
    return [(red, int(shot), blank) for ((red, blank), _), shot in zip(frames, cuts, strict=True)]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.lists(st.tuples(LOOKS, st.integers(0, 6)), max_size=24).map(as_shots), min_size=1, max_size=3),
    st.sampled_from(["first", "best", "all"]),
    st.integers(0, 2),
    st.integers(1, 4),
)
def test_windows_are_the_same_as_if_all_frames_were_scored(
    videos: list[list[tuple[int, int, bool]]],
    windows: Literal["first", "best", "all"],
    max_windows: int,
    window_frames: int,
) -> None:
    options = WindowOptions(window_frames=window_frames, window_stride=1, windows=windows, max_windows=max_windows)
    items = list(interleaved(videos))
    alone = [
        fact
        for video in range(len(videos))
        for fact in facts(windows_of([item for item in items if item.video == video], options, 1, True)[0])
    ]
    for batch_frames in (1, 3, 8):
        assert facts(windows_of(items, options, batch_frames, True)[0]) == sorted(alone), "whatever shares a batch"
    sound = [item for item in items if isinstance(item, VideoEnd) or item.image[0, 0, 0] != 255]
    found, expected = (
        [one for one in windows_of(sound, options, 3, leave_out)[0] if isinstance(one, Window)]
        for leave_out in (True, False)
    )
    assert facts(found) == facts(expected)


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0)])
def test_activation_that_the_scan_saw_is_not_computed_again(scales: tuple[float, ...]) -> None:
    frames = [frame(0, number, 100 + number) for number in range(3)]
    network = Counting()
    cams = MultiScaleCams(Classifier(network), scales)
    blind = Window(0, 0, tuple(frames), (0,), None)
    expected, flips = cams(blind)
    assert network.frames == 6 * len(scales)
    seen = list(classify(iter(frames), Classifier(network), 3, StageClock()))
    looked = [one.cam for one in seen if isinstance(one, ScoredFrame)]
    network.frames = 0
    found, same_flips = cams(Window(0, 0, tuple(frames), (0,), None, tuple(cam for cam in looked if cam is not None)))
    assert network.frames == 6 * len(scales) - 3
    assert same_flips == flips
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
