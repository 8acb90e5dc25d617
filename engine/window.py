"""Window: scored frames -> runs of K frames worth labelling (paper §3.2).

A run is consecutive sampled frames of one shot with the same label set, which contains the query. Windows are cut
from a run every `window_stride` frames; per shot the first, the best or all are kept. Only the last K frames of a
video are held, and for `best` the best window so far.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from f2f.engine.options import WindowOptions
from f2f.engine.types import ALL_SHOTS, DecodeReport, ScoredFrame, VideoEnd, Window

if TYPE_CHECKING:
    from torch import Tensor


def find_windows(
    items: Iterator[ScoredFrame | VideoEnd],
    queries: Mapping[int, int],
    tau: float | None,
    options: WindowOptions,
    enough: Callable[[int], None],
    enough_of_shot: Callable[[int, int], None] = lambda *_: None,
) -> Iterator[Window | VideoEnd]:
    """The windows of every video, followed by its end.

    Args:
        items: scored frames, in order per video.
        queries: video -> channel of its query's class.
        tau: score above which a class is in the label set; None: the label set is the query.
        options: length, stride and number of windows.
        enough: called once with a video that needs no more frames.
        enough_of_shot: called with a video and one of its shots, or `ALL_SHOTS`, when that needs no more frames.
    """
    finders: dict[int, _Finder] = {}
    for item in items:
        video = item.video if isinstance(item, VideoEnd) else item.frame.video
        finder = finders.setdefault(video, _Finder(queries[video], tau, options))
        if isinstance(item, VideoEnd):
            yield from finder.finish()
            del finders[video]
            yield _settled(item, finder)
        elif not finder.is_full():
            yield from finder.push(item)
            if finder.has_its_window():
                enough_of_shot(video, item.frame.shot)
            if finder.is_full():
                finder.full_report = item.frame.report
                enough_of_shot(video, ALL_SHOTS)
                enough(video)


def _settled(end: VideoEnd, finder: _Finder) -> VideoEnd:
    """The end with what the windows decide: where the video had enough of them, or why it has none.

    Decoding stops some frames after enough windows are found; how many is chance, so nothing of them may count.
    """
    if finder.full_report:
        return VideoEnd(end.video, replace(finder.full_report, stopped_early=True))
    if end.failure or end.note or finder.found:
        return end
    return replace(end, note=finder.why_none(end.report.frames_sampled))


class _Finder:
    """The windows of one video."""

    def __init__(self, query: int, tau: float | None, options: WindowOptions) -> None:
        self._query, self._tau, self._options = query, tau, options
        self._run: deque[ScoredFrame] = deque(maxlen=options.window_frames)
        self._run_length = 0
        self._key: tuple[int, tuple[int, ...]] | None = None  # (shot, label set) of the run
        self._shot = -1
        self._best: tuple[float, Window] | None = None
        self._kept_in_shot = 0
        self._with_query = self._longest_run = self._blank = 0
        self.found = 0
        self.full_report: DecodeReport | None = None
        """what decoding had seen when enough windows were found before the video's end"""

    def is_full(self) -> bool:
        """No more windows are wanted."""
        return 0 < self._options.max_windows <= self.found

    def has_its_window(self) -> bool:
        """No more windows of the present shot are wanted."""
        return self._options.windows == "first" and self._kept_in_shot > 0

    def push(self, scored: ScoredFrame) -> Iterator[Window]:
        if scored.frame.shot != self._shot:
            yield from self._end_shot()
            self._shot = scored.frame.shot
        classes = self._label_set(scored)
        self._extend_run(scored, classes)
        if classes and self._run_length >= self._options.window_frames and self._on_stride():
            yield from self._keep(self._window(classes))

    def finish(self) -> Iterator[Window]:
        yield from self._end_shot()

    def why_none(self, frames_sampled: int) -> tuple[str, str]:
        wanted = self._options.window_frames
        if frames_sampled < wanted:
            return "too_short", f"{frames_sampled} sampled frames; a window needs {wanted}"
        if self._blank == frames_sampled:
            return "blank", f"all of {frames_sampled} sampled frames are of one brightness"
        if not self._with_query:
            looked = f"those of {frames_sampled} sampled frames that were looked at"
            return "query_not_seen", f"the query scores above {self._tau} in none of {looked}"
        detail = (
            f"the longest run of frames with one label set that contains the query is {self._longest_run} of {wanted}"
        )
        return "no_window", detail

    def _label_set(self, scored: ScoredFrame) -> tuple[int, ...]:
        """The frame's classes; empty where the query is not among them, and where nothing is to be seen."""
        if scored.frame.blank:
            self._blank += 1
            return ()
        if self._tau is None:
            return (self._query,)
        assert scored.scores is not None
        classes = tuple(int(channel) for channel in np.flatnonzero(scored.scores > self._tau))
        return classes if self._query in classes else ()

    def _extend_run(self, scored: ScoredFrame, classes: tuple[int, ...]) -> None:
        key = (scored.frame.shot, classes)
        if key != self._key:
            self._run.clear()
            self._run_length, self._key = 0, key
        if classes:
            self._run.append(scored)
            self._run_length += 1
            self._with_query += 1
            self._longest_run = max(self._longest_run, self._run_length)

    def _on_stride(self) -> bool:
        return (self._run_length - self._options.window_frames) % self._options.window_stride == 0

    def _window(self, classes: tuple[int, ...]) -> tuple[float, Window]:
        scores = [scored.scores for scored in self._run if scored.scores is not None]
        means = np.mean(scores, axis=0) if scores else None  # [C]
        window = Window(
            video=self._run[0].frame.video,
            number=self.found,
            frames=tuple(scored.frame for scored in self._run),
            classes=classes,
            scores=None if means is None else tuple(float(means[channel]) for channel in classes),
            cams=_all_of([scored.cam for scored in self._run]),
        )
        return (0.0 if means is None else float(means[self._query])), window

    def _keep(self, candidate: tuple[float, Window]) -> Iterator[Window]:
        if self._options.windows == "best":
            if self._best is None or candidate[0] > self._best[0]:  # a tie keeps the earlier one
                self._best = candidate
        elif (self._options.windows == "all" or self._kept_in_shot == 0) and not self.is_full():
            yield self._count(candidate[1])

    def _end_shot(self) -> Iterator[Window]:
        if self._best is not None and not self.is_full():
            yield self._count(self._best[1])
        self._best, self._kept_in_shot = None, 0

    def _count(self, window: Window) -> Window:
        numbered = replace(window, number=self.found)
        self.found += 1
        self._kept_in_shot += 1
        return numbered


def _all_of(cams: Sequence[Tensor | None]) -> tuple[Tensor, ...] | None:
    """The CAMs of all frames, where there is one of each."""
    there = tuple(cam for cam in cams if cam is not None)
    return there if len(there) == len(cams) else None
