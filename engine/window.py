"""Window: scored frames -> runs of K frames worth labelling (paper §3.2).

A run is consecutive sampled frames of one shot with the same label set, which contains the query. Windows are cut
from a run every `window_stride` frames; per shot the first, the best or all are kept. Only the last K frames of a
video are held, and for `best` the best window so far. Where not even these are needed any more, a part of the video
may end: the search can go on from there, given a few numbers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from f2f.engine.options import WindowOptions
from f2f.engine.types import ALL_SHOTS, DecodeReport, End, Frame, PartEnd, ScanState, ScoredFrame, VideoEnd, Window

if TYPE_CHECKING:
    from torch import Tensor


def find_windows(
    items: Iterator[ScoredFrame | VideoEnd],
    queries: Mapping[int, int],
    tau: float | None,
    options: WindowOptions,
    enough: Callable[[int], None],
    enough_of_shot: Callable[[int, int], None] = lambda *_: None,
    part_seconds: float = math.inf,
    begun: Mapping[int, PartEnd] = MappingProxyType({}),
) -> Iterator[Window | End]:
    """The windows of every video, followed by its end, and between them the ends of its parts.

    Args:
        items: scored frames, in order per video.
        queries: video -> channel of its query's class.
        tau: score above which a class is in the label set; None: the label set is the query.
        options: length, stride and number of windows.
        enough: called once with a video that needs no more frames.
        enough_of_shot: called with a video and one of its shots, or `ALL_SHOTS`, when that needs no more frames.
        part_seconds: the least length of a part, in time of the video.
        begun: video -> the part of it that was done before, for videos whose frames come from its end on. Looked up
            when the first item of a video comes.
    """
    finders: dict[int, _Finder] = {}
    for item in items:
        video = item.video if isinstance(item, VideoEnd) else item.frame.video
        if video not in finders:
            finders[video] = _Finder(queries[video], tau, options, begun.get(video))
        finder = finders[video]
        if isinstance(item, VideoEnd):
            yield from finder.finish()
            del finders[video]
            yield _settled(item, finder)
        elif not finder.is_full():
            yield from finder.enter(item.frame)
            yield from finder.end_part(item.frame, part_seconds)
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

    def __init__(self, query: int, tau: float | None, options: WindowOptions, begun: PartEnd | None) -> None:
        self._query, self._tau, self._options = query, tau, options
        self._run: deque[ScoredFrame] = deque(maxlen=options.window_frames)
        self._best: tuple[float, Window] | None = None
        start = begun.scan if begun else ScanState(0, math.nan)
        self._part_start_seconds = start.pts_seconds  # nan before the first frame
        self._seen_of_shot = 0  # place in its shot behind the last frame that came here
        self._shot, self._kept_in_shot = start.shot, start.kept_in_shot
        self._run_classes, self._run_length = start.run_classes, start.run_length
        self._with_query, self._longest_run, self._blank = start.with_query, start.longest_run, start.blank
        self.found = start.found
        self.full_report: DecodeReport | None = None
        """what decoding had seen when enough windows were found before the video's end"""

    def is_full(self) -> bool:
        """No more windows are wanted."""
        return 0 < self._options.max_windows <= self.found

    def has_its_window(self) -> bool:
        """No more windows of the present shot are wanted."""
        return self._options.windows == "first" and self._kept_in_shot > 0

    def enter(self, frame: Frame) -> Iterator[Window]:
        """Come to the shot of the next frame."""
        if frame.shot != self._shot:
            yield from self._end_shot()
            self._shot, self._seen_of_shot = frame.shot, 0

    def end_part(self, frame: Frame, part_seconds: float) -> Iterator[PartEnd]:
        """End a part before the next frame, where it is long enough and nothing up to here is needed any more.

        Which frames come here is decided by every K-th of a shot (scout.py), so it ends behind one, or with a shot.
        """
        if math.isnan(self._part_start_seconds):
            self._part_start_seconds = frame.pts_seconds
        unseen = frame.place % (1 if self._tau is None else self._options.window_frames)  # before it, of its K
        is_due = frame.pts_seconds - self._part_start_seconds >= part_seconds and not self.is_full()
        if not is_due or not self._holds_nothing() or self._seen_of_shot > frame.place - unseen:
            return
        self._part_start_seconds = frame.pts_seconds
        scan = ScanState(
            frames_sampled=frame.report.frames_sampled - 1 - unseen,
            pts_seconds=frame.pts_seconds,
            shot=self._shot,
            kept_in_shot=self._kept_in_shot,
            run_classes=self._run_classes,
            run_length=self._run_length,
            with_query=self._with_query,
            longest_run=self._longest_run,
            blank=self._blank,
            found=self.found,
        )
        yield PartEnd(frame.video, scan, frame.report)

    def push(self, scored: ScoredFrame) -> Iterator[Window]:
        """Look at the next frame."""
        self._seen_of_shot = scored.frame.place + 1
        classes = self._label_set(scored)
        self._extend_run(scored, classes)
        if classes and self._run_length >= self._options.window_frames and self._on_stride():
            yield from self._keep(self._window(classes))

    def finish(self) -> Iterator[Window]:
        """The video is over."""
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
        if classes != self._run_classes:
            self._end_run(classes)
        if classes:
            self._run.append(scored)
            self._run_length += 1
            self._with_query += 1
            self._longest_run = max(self._longest_run, self._run_length)

    def _holds_nothing(self) -> bool:
        """Whether no window that may still come needs a frame that was seen."""
        if self._best is not None:
            return False
        length, stride = self._options.window_frames, self._options.window_stride
        cut = 0 if self._run_length < length else (self._run_length - length) // stride + 1  # windows of the run
        return self.has_its_window() or cut * stride >= self._run_length

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
        self._end_run()

    def _end_run(self, classes: tuple[int, ...] = ()) -> None:
        """End the run; one with these classes begins."""
        self._run.clear()
        self._run_classes, self._run_length = classes, 0

    def _count(self, window: Window) -> Window:
        numbered = replace(window, number=self.found)
        self.found += 1
        self._kept_in_shot += 1
        return numbered


def _all_of(cams: Sequence[Tensor | None]) -> tuple[Tensor, ...] | None:
    """The CAMs of all frames, where there is one of each."""
    there = tuple(cam for cam in cams if cam is not None)
    return there if len(there) == len(cams) else None
