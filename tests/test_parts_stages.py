"""Where parts of videos end, and that each stage goes on behind them as it would have gone on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from material import CLASSES, pictures, write_video
from torch import Tensor

from f2f.engine.classify import Classifier, Probed, Wanted, classify, without_scores
from f2f.engine.container import fingerprint
from f2f.engine.decode import DecodeState, sample_frames
from f2f.engine.errors import VideoError
from f2f.engine.options import DecodeOptions, WindowOptions
from f2f.engine.pixels import CpuConversion, picture, picture_hw
from f2f.engine.records import from_entry
from f2f.engine.runtimes.network import NetworkInfo
from f2f.engine.scout import scout
from f2f.engine.stage import StageClock, per_batch
from f2f.engine.types import (
    DecodeReport,
    End,
    Frame,
    PartEnd,
    ScanState,
    ScoredFrame,
    VideoEnd,
    Window,
)
from f2f.engine.window import find_windows

QUERY = 1
NO, YES, BOTH, BLANK, BAD = (0, 60, 0), (0, 200, 0), (200, 230, 0), (0, 0, 1), (0, 255, 0)
"""colours of frames; the classifier takes their channels for scores, and fails where one is 255"""


class Seer:
    """Scores are the corner pixel; counts the frames."""

    def __init__(self) -> None:
        self.info = NetworkInfo("classifier", CLASSES)
        self.frames = 0

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        self.frames += len(batch)
        scores = batch[:, :, 0, 0].clone()
        scores[scores == 1] = torch.nan
        return scores, torch.zeros(len(batch), 3, 1, 1)


def frames_like(colours: Sequence[tuple[int, int, int]], cuts: Sequence[int]) -> list[Frame]:
    """A frame a second, with cuts before some."""
    of_shot = [sum(cut <= number for cut in cuts) for number in range(len(colours))]
    return [
        Frame(
            *(5, of_shot[n], float(n), np.full((2, 2, 3), colour, np.uint8), DecodeReport(frames_sampled=n + 1)),
            blank=colour == BLANK,
            place=n - of_shot.index(of_shot[n]),
        )
        for n, colour in enumerate(colours)
    ]


@dataclass(frozen=True)
class Search:
    """From frames to windows and ends, as a run does it."""

    options: WindowOptions
    tau: float | None
    total: int
    batch_frames: int = 2

    def __call__(
        self, frames: Sequence[Frame], part_seconds: float, begun: Mapping[int, PartEnd] | None = None
    ) -> tuple[list[Window | End], int]:
        """What is found, and how many frames were scored."""
        items: list[Frame | VideoEnd] = [*frames, VideoEnd(5, DecodeReport(frames_sampled=self.total))]
        wanted, seer, clock, begun = Wanted(), Seer(), StageClock(), begun or {}
        classifier, known = Classifier(seer), {5: QUERY}
        scored: Iterator[ScoredFrame | VideoEnd]
        if self.tau is None and self.options.windows != "best":
            scored = without_scores(iter(items))
        else:
            looked: Iterator[Frame | Probed | VideoEnd] = iter(items)
            if self.tau is not None:
                every = self.options.window_frames
                looked = scout(iter(items), classifier, every, self._shows, self.batch_frames, clock, wanted, begun)
            scored = classify(looked, classifier, self.batch_frames, clock, wanted)
        told = (lambda _: None, wanted.enough_of_shot)
        found = list(find_windows(scored, known, self.tau, self.options, *told, part_seconds, begun))
        return found, seer.frames

    def _shows(self, scored: ScoredFrame) -> bool:
        return self.tau is not None and scored.scores is not None and bool(scored.scores[QUERY] > self.tau)


@settings(max_examples=400, deadline=None)
@given(
    colours=st.lists(st.sampled_from([NO, NO, YES, YES, YES, BOTH, BLANK]), max_size=40),
    bad=st.integers(0, 120),
    cuts=st.lists(st.integers(0, 40), max_size=5),
    options=st.builds(
        WindowOptions,
        window_frames=st.integers(1, 5),
        window_stride=st.integers(1, 6),
        windows=st.sampled_from(["first", "best", "all"]),
        max_windows=st.integers(0, 4),
    ),
    trusted=st.booleans(),
    batches=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    part_seconds=st.sampled_from([0.5, 1.5, 4.0]),
)
def test_a_search_that_goes_on_behind_any_part_finds_the_same(
    colours: list[tuple[int, int, int]],
    bad: int,
    cuts: list[int],
    options: WindowOptions,
    trusted: bool,
    batches: tuple[int, int],
    part_seconds: float,
) -> None:
    """One frame of some videos fails in the classifier: whether it is looked at must not hang on it either."""
    frames = frames_like([BAD if number == bad else colour for number, colour in enumerate(colours)], cuts)
    first, second = (Search(options, None if trusted else 0.5, len(frames), batch) for batch in batches)
    whole, _ = first(frames, part_seconds)
    assert [one for one in whole if not isinstance(one, PartEnd)] == first(frames, math.inf)[0]
    for place, part in enumerate(whole):
        if isinstance(part, PartEnd):
            scan = from_entry(ScanState, json.loads(json.dumps(asdict(part.scan))))
            rest, _ = second(frames[scan.frames_sampled :], part_seconds, {5: replace(part, scan=scan)})
            assert rest == whole[place + 1 :]


@pytest.mark.parametrize(
    ("tau", "windows", "stride", "colours", "cuts", "ends"),
    [
        (0.5, "all", 3, [YES] * 12, [], [3, 6, 9]),
        (0.5, "all", 2, [YES] * 12, [], []),
        (0.5, "all", 2, [YES] * 12, [5], [5]),
        (0.5, "all", 3, [NO] * 12, [], [3, 6, 9]),
        (0.5, "all", 3, [NO] * 12, [4, 5], [5, 8]),
        (0.5, "first", 1, [YES] * 12, [7], [7]),
        (0.5, "best", 3, [YES] * 12, [4, 8], [4, 8]),
        (0.5, "best", 3, [YES] * 2 + [NO] * 10, [], [3, 6, 9]),
        (None, "all", 3, [YES] * 12, [], [3, 6, 9]),
        (None, "all", 4, [YES] * 12, [], [3, 4, 7, 8, 11]),
        (None, "first", 3, [YES] * 6, [], [3, 4, 5]),
        (None, "best", 3, [YES] * 12, [], []),
    ],
)
def test_a_part_ends_where_no_frame_is_needed_any_more(
    tau: float | None,
    windows: Literal["first", "best", "all"],
    stride: int,
    colours: list[tuple[int, int, int]],
    cuts: list[int],
    ends: list[int],
) -> None:
    options = WindowOptions(window_frames=3, window_stride=stride, windows=windows)
    found, _ = Search(options, tau, len(colours))(frames_like(colours, cuts), 1.0)
    assert [one.scan.frames_sampled for one in found if isinstance(one, PartEnd)] == ends


# ---- the other stages


def test_a_part_of_which_a_window_failed_is_none() -> None:
    def window(video: int, number: int) -> Window:
        return Window(video, number, (Frame(video, 0, 0.0, np.zeros((2, 2, 3), np.uint8)),), (0,), None)

    def part(video: int, found: int) -> PartEnd:
        return PartEnd(video, ScanState(0, 0.0, found=found), DecodeReport())

    def work(together: Sequence[Window]) -> Sequence[Window]:
        if any((one.video, one.number) == (0, 1) for one in together):
            raise VideoError("network_failed", "")
        return together

    items: list[Window | End] = [
        window(0, 0),
        window(1, 0),
        part(0, 1),
        window(0, 1),
        window(1, 1),
        part(0, 2),
        part(1, 2),
        window(1, 2),
    ]
    for most in (1, 2, 8):
        out = list(per_batch("cam", work, iter([*items, VideoEnd(0), VideoEnd(1)]), most, StageClock()))
        *before, first, second = out
        assert before == [items[0], items[1], items[2], items[4], items[6], items[7]]
        assert isinstance(first, VideoEnd)
        assert first.failure is not None
        assert second == VideoEnd(1)


def frames_behind(path: Path, done: int) -> tuple[list[Frame], DecodeState]:
    state = DecodeState()
    size, modified_ns = fingerprint(str(path))
    report = DecodeReport(file_bytes=size, modified_ns=modified_ns)
    begun = PartEnd(0, ScanState(done, 0.0), report) if done else None
    frames = list(sample_frames(0, str(path), DecodeOptions(max_side=64), state, begun=begun))
    return frames, state


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_frames_behind_a_part_are_the_same(tmp_path: Path, codec: str) -> None:
    images = [image for seed, colour in enumerate(("red", "blue", "red")) for image in pictures(colour, seed=seed)]
    path = write_video(tmp_path / "video.mp4", images, codec=codec)
    whole, whole_state = frames_behind(path, 0)
    for done in (1, 13, len(whole) - 1, len(whole)):
        rest, state = frames_behind(path, done)
        assert len(rest) == len(whole) - done
        assert state.report() == whole_state.report()
        for one, other in zip(rest, whole[done:], strict=True):
            assert np.array_equal(one.image, other.image)
            assert replace(one, image=other.image) == other


@pytest.mark.parametrize(("turns", "mirrored"), [(0, False), (1, False), (2, True), (3, True)])
@pytest.mark.parametrize("aspect", [0.7, 1.0, 1.9])
def test_the_size_of_a_picture_that_is_not_made(
    monkeypatch: pytest.MonkeyPatch, turns: int, mirrored: bool, aspect: float
) -> None:
    monkeypatch.setattr("f2f.engine.pixels.orientation", lambda _: (turns, mirrored))
    for width, height in ((97, 64), (33, 201), (640, 360), (16, 16)):
        frame = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8), format="rgb24")
        made = picture(CpuConversion(), frame, aspect, 96)
        assert picture_hw(frame, aspect, 96) == made.shape[:2]
