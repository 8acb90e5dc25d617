"""Scout: which frames have to be scored, told from every K-th.

A window is K frames in a row that all show the query, so one of them is a K-th. Where two K-ths in a row do not show
it, nothing between them can be in a window and is not looked at: of video that does not show what it was found with,
a K-th is scored. What windows there are is the same as if all frames were (paper §3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from f2f.engine.classify import Batches, Classifier, Look, Probed, Wanted
from f2f.engine.stage import StageClock
from f2f.engine.types import Frame, PartEnd, ScoredFrame, VideoEnd

ShowsQuery = Callable[[ScoredFrame], bool]


@dataclass(frozen=True)
class _Chunk:
    """Frames in a row of one shot; the last is looked at first, where there are K."""

    frames: tuple[Frame, ...]
    is_whole: bool

    @property
    def probe(self) -> Frame | None:
        """The frame that is looked at first; none where nothing is to be seen on it."""
        last = self.frames[-1]
        return last if self.is_whole and not last.blank else None


def scout(
    items: Iterator[Frame | VideoEnd],
    classifier: Classifier,
    every: int,
    shows_query: ShowsQuery,
    batch_frames: int,
    clock: StageClock,
    wanted: Wanted,
    begun: Mapping[int, PartEnd] = MappingProxyType({}),
) -> Iterator[Frame | Probed | VideoEnd]:
    """Frames that are to be scored, and K-ths that are; what can be in no window is left out, but for blank frames.

    Args:
        items: sampled frames, in order per video.
        classifier: scores the K-ths.
        every: K, the length of windows.
        shows_query: whether the query is in the label set of a frame.
        batch_frames: K-ths of one size that are scored together.
        clock: counts the time of `classify`.
        wanted: frames that still matter.
        begun: video -> the part of it that was done before, for videos whose frames come from its end on.
    """
    batches = Batches[_Chunk](classifier, batch_frames, clock, lambda chunk: chunk.probe)
    open_chunks: dict[int, list[Frame]] = {}
    before: dict[int, tuple[int, bool]] = {}
    """video -> shot of its latest K-th, and whether that shows the query"""

    def settled(results: Sequence[tuple[_Chunk, Look | None]]) -> Iterator[Frame | Probed]:
        for chunk, look in results:
            first = chunk.frames[0]
            shot, showed = before.get(first.video) or _at_the_end_of(begun.get(first.video))
            showed = showed and shot == first.shot
            shows = look is not None and (not isinstance(look, ScoredFrame) or shows_query(look))
            yield from _told(chunk, look, is_needed=showed or shows)
            if chunk.is_whole:
                before[first.video] = (first.shot, shows)

    def close(video: int, is_whole: bool) -> Iterator[Frame | Probed]:
        frames = open_chunks.pop(video, None)
        if frames:
            yield from settled(batches.add(_Chunk(tuple(frames), is_whole), video, frames[0].size_hw))

    for item in items:
        if isinstance(item, VideoEnd):
            yield from close(item.video, is_whole=False)
            yield from settled(batches.end(item.video))
            before.pop(item.video, None)
            yield item
        elif wanted(item):
            chunk = open_chunks.get(item.video)
            if chunk and chunk[0].shot != item.shot:
                yield from close(item.video, is_whole=False)
            open_chunks.setdefault(item.video, []).append(item)
            if len(open_chunks[item.video]) == every:
                yield from close(item.video, is_whole=True)


def _at_the_end_of(part: PartEnd | None) -> tuple[int, bool]:
    """Shot of the last K-th of a part, behind which it ends, and whether that shows the query."""
    return (part.scan.shot, part.scan.run_length > 0) if part else (-1, False)


def _told(chunk: _Chunk, look: Look | None, is_needed: bool) -> Iterator[Frame | Probed]:
    """What of a chunk goes on: all frames where one may be in a window, else the K-th and those that are blank."""
    for frame in chunk.frames:
        if frame.blank:
            yield Probed(frame, ScoredFrame(frame, None))
        elif look is not None and frame is chunk.frames[-1]:
            yield Probed(frame, look)
        elif is_needed:
            yield frame
