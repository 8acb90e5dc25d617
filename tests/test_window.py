"""Windows: hand-made score sequences, and random ones against a definition in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f2f.engine.options import WindowOptions
from f2f.engine.types import DecodeReport, Failure, Frame, ScoredFrame, VideoEnd, Window
from f2f.engine.window import find_windows

IMAGE = np.zeros((2, 2, 3), np.uint8)
QUERY = 1


def frames(scores: Sequence[Sequence[float] | None], shots: Sequence[int] | None = None) -> list[ScoredFrame]:
    """A video's frames; the time stamp is the frame's number."""
    return [
        ScoredFrame(
            Frame(5, shots[number] if shots else 0, float(number), IMAGE, DecodeReport(frames_sampled=number + 1)),
            None if row is None else np.array(row, np.float32),
        )
        for number, row in enumerate(scores)
    ]


def find(
    scored: Sequence[ScoredFrame], tau: float | None = 0.5, enough: list[int] | None = None, **options: object
) -> tuple[list[Window], VideoEnd]:
    end = VideoEnd(5, DecodeReport(frames_sampled=len(scored)))
    given = WindowOptions(**{"window_frames": 3, "window_stride": 3, "windows": "all", **options})  # type: ignore[arg-type]
    stopped = [] if enough is None else enough
    *windows, last = find_windows(iter([*scored, end]), {5: QUERY}, tau, given, stopped.append)
    assert isinstance(last, VideoEnd)
    assert all(isinstance(window, Window) for window in windows)
    return [window for window in windows if isinstance(window, Window)], last


def starts(windows: Sequence[Window]) -> list[int]:
    return [int(window.frames[0].pts_seconds) for window in windows]


YES, NO, BOTH = (0.1, 0.9), (0.1, 0.2), (0.8, 0.9)


def test_a_run_is_cut_every_stride() -> None:
    assert starts(find(frames([YES] * 9))[0]) == [0, 3, 6]
    assert starts(find(frames([YES] * 9), window_stride=2)[0]) == [0, 2, 4, 6]
    assert starts(find(frames([YES] * 9), window_stride=7)[0]) == [0]
    assert starts(find(frames([YES] * 10), window_stride=7)[0]) == [0, 7]


def test_a_frame_without_the_query_ends_a_run() -> None:
    assert starts(find(frames([YES] * 4 + [NO] + [YES] * 3))[0]) == [0, 5]


def test_another_label_set_ends_a_run() -> None:
    windows, _ = find(frames([YES] * 2 + [BOTH] * 4 + [YES] * 3))
    assert starts(windows) == [2, 6]
    assert [window.classes for window in windows] == [(0, 1), (1,)]
    assert [window.number for window in windows] == [0, 1]


def test_a_score_must_be_above_tau() -> None:
    assert find(frames([(0.0, 0.5)] * 3), tau=0.5)[0] == []
    assert len(find(frames([(0.0, 0.5)] * 3), tau=0.49)[0]) == 1


def test_scores_are_means_over_the_window() -> None:
    (window,), _ = find(frames([(0.6, 0.7), (0.7, 0.8), (0.8, 0.9)]))
    assert window.scores is not None
    assert np.allclose(window.scores, [0.7, 0.8])


def test_a_new_shot_ends_a_run() -> None:
    assert starts(find(frames([YES] * 8, shots=[0, 0, 1, 1, 1, 1, 2, 2]))[0]) == [2]


def test_first_of_each_shot() -> None:
    scored = frames([NO] + [YES] * 8 + [YES] * 7, shots=[0] * 9 + [1] * 7)
    assert starts(find(scored, windows="first")[0]) == [1, 9]


def test_best_of_each_shot() -> None:
    rows = [(0.0, value / 100) for value in (60, 60, 60, 90, 90, 90, 70, 70, 70)]
    windows, _ = find(frames(rows * 2, shots=[0] * 9 + [1] * 9), windows="best")
    assert starts(windows) == [3, 12]
    assert [window.number for window in windows] == [0, 1]


def test_a_tie_goes_to_the_earliest() -> None:
    assert starts(find(frames([YES] * 9), windows="best")[0]) == [0]


def test_trusted_query() -> None:
    windows, _ = find(frames([None] * 7), tau=None)
    assert starts(windows) == [0, 3]
    assert {window.classes for window in windows} == {(QUERY,)}
    assert {window.scores for window in windows} == {None}


def test_trusted_query_with_scores_for_the_best() -> None:
    windows, _ = find(frames([(0.9, 0.1)] * 3 + [(0.9, 0.2)] * 3), tau=None, windows="best")
    assert starts(windows) == [3]


@pytest.mark.parametrize("windows", ["first", "best", "all"])
def test_enough_windows(windows: str) -> None:
    stopped: list[int] = []
    scored = frames([YES] * 12, shots=[0] * 6 + [1] * 6)
    found, end = find(scored, windows=windows, max_windows=1, enough=stopped)
    assert starts(found) == [0]
    assert stopped == [5]
    assert end.report.stopped_early
    assert end.report.frames_sampled == (7 if windows == "best" else 3), "what follows is chance and not reported"


def test_what_happens_after_enough_windows_does_not_matter() -> None:
    broken = VideoEnd(5, DecodeReport(frames_sampled=9, packet_errors=4), Failure("decode", "crashed", ""))
    options = WindowOptions(window_frames=3, max_windows=1)
    *_, end = find_windows(iter([*frames([YES] * 9), broken]), {5: QUERY}, 0.5, options, lambda _: None)
    assert isinstance(end, VideoEnd)
    assert end.failure is None
    assert (end.report.frames_sampled, end.report.packet_errors) == (3, 0)


@pytest.mark.parametrize(
    ("rows", "reason", "detail"),
    [
        ([YES] * 2, "too_short", "2 sampled frames; a window needs 3"),
        ([], "too_short", "0 sampled frames; a window needs 3"),
        ([NO] * 5, "query_not_seen", "above 0.5 in none of those of 5 sampled frames"),
        ([YES, YES, NO, YES, BOTH], "no_window", "is 2 of 3"),
    ],
)
def test_why_there_is_no_window(rows: list[tuple[float, float]], reason: str, detail: str) -> None:
    windows, end = find(frames(rows))
    assert windows == []
    assert end.note is not None
    assert end.note[0] == reason
    assert detail in end.note[1]


def test_interleaved_videos_keep_apart() -> None:
    one = [ScoredFrame(Frame(0, 0, float(n), IMAGE), np.array(YES, np.float32)) for n in range(4)]
    two = [ScoredFrame(Frame(1, 0, float(n), IMAGE), np.array(YES, np.float32)) for n in range(4)]
    mixed = [item for pair in zip(one, two, strict=True) for item in pair]
    options = WindowOptions(window_frames=4)
    items = list(find_windows(iter([*mixed, VideoEnd(1), VideoEnd(0)]), {0: 1, 1: 1}, 0.5, options, lambda _: None))
    assert [item.video for item in items] == [0, 1, 1, 0]


def expected(
    scored: Sequence[ScoredFrame], tau: float, length: int, stride: int, windows: str, limit: int
) -> list[tuple[int, tuple[int, ...]]]:
    """By definition: runs of one shot and label set, cut every stride, the first, best or all of each shot."""

    def key(item: ScoredFrame) -> tuple[int, tuple[int, ...]]:
        assert item.scores is not None
        return item.frame.shot, tuple(int(channel) for channel in np.flatnonzero(item.scores > tau))

    kept = []
    for _, of_shot in groupby(scored, key=lambda item: item.frame.shot):
        candidates = []
        for (_, classes), run in groupby(of_shot, key=key):
            members = list(run)
            if QUERY in classes:
                for start in range(0, len(members) - length + 1, stride):
                    window = members[start : start + length]
                    score = float(np.mean([m.scores for m in window if m.scores is not None], axis=0)[QUERY])
                    candidates.append((score, int(window[0].frame.pts_seconds), classes))
        if windows == "best" and candidates:
            candidates = [max(candidates, key=lambda candidate: (candidate[0], -candidate[1]))]
        kept += candidates[:1] if windows == "first" else candidates
    return [(start, classes) for _, start, classes in kept][: limit or None]


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from([0.1, 0.8]), st.sampled_from([0.1, 0.6, 0.7, 0.9])), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=3),
    length=st.integers(1, 5),
    stride=st.integers(1, 6),
    windows=st.sampled_from(["first", "best", "all"]),
    limit=st.integers(0, 3),
)
def test_against_the_definition(
    rows: list[tuple[float, float]], cuts: list[int], length: int, stride: int, windows: str, limit: int
) -> None:
    scored = frames(rows, shots=[sum(cut <= number for cut in cuts) for number in range(len(rows))])
    found, _ = find(scored, window_frames=length, window_stride=stride, windows=windows, max_windows=limit)
    assert [(int(w.frames[0].pts_seconds), w.classes) for w in found] == expected(
        scored, 0.5, length, stride, windows, limit
    )
    assert [window.number for window in found] == list(range(len(found)))
    assert all(len(window.frames) == length for window in found)
