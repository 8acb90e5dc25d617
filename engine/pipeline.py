"""The pipeline: the stages, nested in data order, from a source of videos to a folder of masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from f2f.engine.aggregate import aggregate
from f2f.engine.background import decide_background, doubt_background
from f2f.engine.cam import Activation, MultiScaleCams, activate, activate_softly
from f2f.engine.classify import classify, without_scores
from f2f.engine.errors import MachineError
from f2f.engine.evidence import weigh
from f2f.engine.flow import follow, follow_both_ways
from f2f.engine.flow_picture import picture_flow
from f2f.engine.job import Job, Networks
from f2f.engine.options import LabelOptions
from f2f.engine.pool import DecodePool
from f2f.engine.quality import keep_good
from f2f.engine.records import MaskRecord, VideoRecord
from f2f.engine.refine import refine
from f2f.engine.run import Run
from f2f.engine.source import printable
from f2f.engine.stage import StageClock
from f2f.engine.staging import Stager
from f2f.engine.types import Frame, LabelledWindow, VideoEnd, Window
from f2f.engine.window import find_windows
from f2f.engine.write import ShardWriter, write


@dataclass
class Progress:
    """How far a run is; handed to `label`'s callback after every record and batch of frames."""

    inputs: int
    settled: int = 0
    """inputs with a record, those of earlier runs included"""
    frames: int = 0
    """sampled frames looked at"""
    masks: int = 0
    failed: int = 0
    committed_shards: int = 0
    clock: StageClock = field(default_factory=StageClock)

    @property
    def bottleneck(self) -> str:
        """The stage that took most of the time so far."""
        return self.clock.bottleneck()


def run_shards(
    shards: Sequence[int],
    run: Run,
    job: Job,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> None:
    """Label the inputs of `shards` and commit each shard when its last input has a record.

    The caller has claimed them. Several processes may each do so with shards of their own.
    """
    rows = [number for shard in shards for number in run.pending_rows(shard)]
    progress = Progress(len(run.rows), settled=len(run.rows) - len(rows))
    options = job.options
    known = {number: channel for number, channel in job.channels(run.rows).items() if channel is not None}
    writer = ShardWriter(run, known, lambda _: _count_commit(progress), shards)
    try:
        _refuse_unusable(rows, run, known, writer, progress)
        usable = [(number, run.rows[number]) for number in rows if number in known and not run.rows[number].problem]
        with DecodePool(options.decode) as pool, Stager(options.fetch) as stager:
            frames = _counted(stager.frames(pool, usable), progress, on_progress)
            for record in _stages(frames, pool, known, job.networks, options, writer, progress.clock):
                _count(record, progress)
                on_progress(progress)
    except MemoryError as error:
        raise MachineError(
            "the memory is used up; what is committed stays; give --max-side or --decoders a smaller value (a new "
            "--out is needed for the former) and run again to go on"
        ) from error
    finally:
        writer.abandon()


def _stages(
    frames: Iterator[Frame | VideoEnd],
    pool: DecodePool,
    queries: Mapping[int, int],
    networks: Networks,
    options: LabelOptions,
    writer: ShardWriter,
    clock: StageClock,
) -> Iterator[MaskRecord | VideoRecord]:
    """decode -> classify -> window -> what the rule does -> those that are good enough -> write."""
    if networks.tau is None and options.window.windows != "best":
        scored = without_scores(frames)
    else:
        scored = classify(frames, networks.classifier, options.classify, clock)
    windows = find_windows(scored, queries, networks.tau, options.window, enough=pool.cancel)
    cams = MultiScaleCams(networks.classifier, options.cam.scales)
    if options.aggregation.rule == "f2f":
        labelled = _by_evidence(windows, cams, networks, options, writer, clock)
    else:
        labelled = _by_the_paper(windows, cams, networks, options, writer, clock)
    return write(keep_good(labelled, queries, options.aggregation.min_quality), writer, clock)


def _by_the_paper(
    windows: Iterator[Window | VideoEnd],
    cams: MultiScaleCams,
    networks: Networks,
    options: LabelOptions,
    writer: ShardWriter,
    clock: StageClock,
) -> Iterator[LabelledWindow | VideoEnd]:
    """cam -> flow -> aggregate -> background."""
    active = activate(windows, Activation(cams, networks.theta_f), clock)
    moving = follow(active, networks.flow, options.motion, clock)
    if options.write.debug_dir:
        moving = picture_flow(moving, options.write.debug_dir, writer.name, clock)
    united = aggregate(moving, clock)
    return decide_background(united, networks.saliency, clock)


def _by_evidence(
    windows: Iterator[Window | VideoEnd],
    cams: MultiScaleCams,
    networks: Networks,
    options: LabelOptions,
    writer: ShardWriter,
    clock: StageClock,
) -> Iterator[LabelledWindow | VideoEnd]:
    """cam -> flow, both ways -> aggregate -> refine, and background where asked."""
    soft = activate_softly(windows, cams, clock)
    moving = follow_both_ways(soft, networks.flow, options.motion, clock)
    if options.write.debug_dir:
        moving = picture_flow(moving, options.write.debug_dir, writer.name, clock)
    evident = weigh(moving, clock)
    refined = refine(evident, options.aggregation.theta, options.aggregation.sure, clock)
    return doubt_background(refined, networks.saliency, clock) if options.aggregation.sure_background else refined


def _refuse_unusable(
    rows: Sequence[int], run: Run, known: Mapping[int, int], writer: ShardWriter, progress: Progress
) -> None:
    """Settle the inputs that are never opened."""
    for number in rows:
        row = run.rows[number]
        if row.problem:
            _count(writer.refuse(number, "failed", *row.problem), progress)
        elif number not in known:
            detail = f"query {printable(row.query)!r} is no class of the classifier; --query-map can name one"
            _count(writer.refuse(number, "skipped", "unknown_query", detail), progress)


def _counted(
    frames: Iterator[Frame | VideoEnd], progress: Progress, on_progress: Callable[[Progress], None]
) -> Iterator[Frame | VideoEnd]:
    """The same items; counts frames, and the time spent waiting for them."""
    while True:
        with progress.clock.busy("decode"):
            item = next(frames, None)
        if item is None:
            return
        if isinstance(item, Frame):
            progress.frames += 1
            if progress.frames % 16 == 0:
                on_progress(progress)
        yield item


def _count(record: MaskRecord | VideoRecord, progress: Progress) -> None:
    if isinstance(record, MaskRecord):
        progress.masks += 1
        return
    progress.settled += 1
    progress.failed += record.status == "failed"


def _count_commit(progress: Progress) -> None:
    progress.committed_shards += 1
