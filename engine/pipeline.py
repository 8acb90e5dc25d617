"""The pipeline: the stages, nested in data order, from a source of videos to a folder of masks.

Decoding has processes of its own; the scan, the activation, the flow, what the rule makes of them, and writing are a
thread each (`Lanes`), so that no stage waits for another's work but for its results.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from f2f.engine import parts
from f2f.engine.aggregate import aggregate
from f2f.engine.background import decide_background, doubt_background
from f2f.engine.cam import Activation, MultiScaleCams, activate, activate_softly
from f2f.engine.classify import Probed, Wanted, classify, without_scores
from f2f.engine.errors import MachineError
from f2f.engine.evidence import weigh
from f2f.engine.flow import follow, follow_both_ways
from f2f.engine.flow_picture import picture_flow
from f2f.engine.job import Job, Networks
from f2f.engine.options import LabelOptions
from f2f.engine.pool import DecodePool
from f2f.engine.prefetch import Lanes
from f2f.engine.quality import keep_good
from f2f.engine.records import MaskRecord, ShardRecord, VideoRecord
from f2f.engine.refine import refine
from f2f.engine.run import Run
from f2f.engine.scout import scout
from f2f.engine.source import printable
from f2f.engine.stage import StageClock
from f2f.engine.staging import Stager
from f2f.engine.types import End, Frame, LabelledWindow, PartEnd, ScoredFrame, VideoEnd, Window
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
    workers: int = 1
    """processes that label"""
    worker_cpu_seconds: float | None = 0.0
    """CPU time of those that are not the process itself; None: not known"""

    def __post_init__(self) -> None:
        self._settled_before = self.settled

    @property
    def settled_now(self) -> int:
        """Inputs that got their record in this run."""
        return self.settled - self._settled_before

    @property
    def bottleneck(self) -> str:
        """The stage that took most of the time so far."""
        return self.clock.bottleneck()


def run_shards(
    shards: Sequence[int],
    run: Run,
    job: Job,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Label the inputs of `shards` and commit each shard when its last input has a record; how far it came.

    The caller has claimed them. Several processes may each do so with shards of their own. `on_progress` is called by
    threads of the stages, one at a time.
    """
    rows = [number for shard in shards for number in run.pending_rows(shard)]
    progress = Progress(len(run.rows), settled=len(run.rows) - len(rows))
    on_progress = _one_at_a_time(on_progress)
    options = job.options
    known = {number: channel for number, channel in job.channels(run.rows).items() if channel is not None}
    writer = ShardWriter(run, known, lambda record: _committed(record, run, progress), shards)
    try:
        _refuse_unusable(rows, run, known, writer, progress)
        finished = set(writer.parts.finished)
        for settled in writer.settle_finished():
            _count(settled, progress)
        left = [number for number in rows if number in known and number not in finished]
        usable = [(number, run.rows[number]) for number in left if not run.rows[number].problem]
        with (
            DecodePool(options.decode, progress.clock, writer.parts.begun) as pool,
            Stager(options.fetch) as stager,
            Lanes(progress.clock, pool.stop) as lanes,
        ):
            frames = _counted(stager.frames(pool, usable), progress, on_progress)
            for record in _stages(frames, pool, known, job.networks, options, writer, progress.clock, lanes):
                _count(record, progress)
                on_progress(progress)
    except MemoryError as error:
        raise MachineError(
            "the memory is used up; what is committed stays; give --max-side or --decoders a smaller value (a new "
            "--out is needed for the former) and run again to go on"
        ) from error
    finally:
        writer.abandon()
    return progress


def _stages(
    frames: Iterator[Frame | VideoEnd],
    pool: DecodePool,
    queries: Mapping[int, int],
    networks: Networks,
    options: LabelOptions,
    writer: ShardWriter,
    clock: StageClock,
    lanes: Lanes,
) -> Iterator[MaskRecord | VideoRecord]:
    """decode -> classify -> window -> what the rule does -> those that are good enough -> write."""
    wanted, begun = Wanted(), writer.parts.ends
    if networks.tau is None and options.window.windows != "best":
        scored = without_scores(frames)
    else:
        scored = classify(
            _scouted(frames, queries, networks, options, clock, wanted, begun),
            networks.classifier,
            options.batch_frame_count,
            clock,
            wanted,
        )
    told = pool.cancel, wanted.enough_of_shot
    found = find_windows(scored, queries, networks.tau, options.window, *told, parts.PART_SECONDS, begun)
    windows = lanes.prefetch(found, "classify", "cam")
    cams = MultiScaleCams(networks.classifier, options.cam.scales)
    if options.aggregation.rule == "f2f":
        labelled = _by_evidence(windows, cams, networks, options, writer, clock, lanes)
    else:
        labelled = _by_the_paper(windows, cams, networks, options, writer, clock, lanes)
    good = keep_good(labelled, queries, options.aggregation.min_quality, begun)
    return write(lanes.prefetch(good, "aggregate", "write"), writer, clock)


def _scouted(
    frames: Iterator[Frame | VideoEnd],
    queries: Mapping[int, int],
    networks: Networks,
    options: LabelOptions,
    clock: StageClock,
    wanted: Wanted,
    begun: Mapping[int, PartEnd],
) -> Iterator[Frame | Probed | VideoEnd]:
    """The frames that have to be scored: all where the query is trusted."""
    tau = networks.tau
    if tau is None:
        return frames

    def shows_query(scored: ScoredFrame) -> bool:
        return scored.scores is not None and bool(scored.scores[queries[scored.frame.video]] > tau)

    every, batch = options.window.window_frames, options.batch_frame_count
    return scout(frames, networks.classifier, every, shows_query, batch, clock, wanted, begun)


def _by_the_paper(
    windows: Iterator[Window | End],
    cams: MultiScaleCams,
    networks: Networks,
    options: LabelOptions,
    writer: ShardWriter,
    clock: StageClock,
    lanes: Lanes,
) -> Iterator[LabelledWindow | End]:
    """cam -> flow -> aggregate -> background."""
    active = lanes.prefetch(activate(windows, Activation(cams, networks.theta_f), clock), "cam", "flow")
    moving = follow(active, networks.flow, options.motion, clock)
    if options.write.debug_dir:
        moving = picture_flow(moving, options.write.debug_dir, writer.name, clock)
    united = aggregate(lanes.prefetch(moving, "flow", "aggregate"), clock)
    return decide_background(united, networks.saliency, clock)


def _by_evidence(
    windows: Iterator[Window | End],
    cams: MultiScaleCams,
    networks: Networks,
    options: LabelOptions,
    writer: ShardWriter,
    clock: StageClock,
    lanes: Lanes,
) -> Iterator[LabelledWindow | End]:
    """cam -> flow, both ways -> aggregate -> refine, and background where asked."""
    soft = lanes.prefetch(activate_softly(windows, cams, clock), "cam", "flow")
    moving = follow_both_ways(soft, networks.flow, options.motion, clock)
    if options.write.debug_dir:
        moving = picture_flow(moving, options.write.debug_dir, writer.name, clock)
    evident = weigh(lanes.prefetch(moving, "flow", "aggregate"), clock)
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
        with progress.clock.starved("classify"):
            item = next(frames, None)
        if item is None:
            return
        if isinstance(item, Frame):
            progress.frames += 1
            if progress.frames % 16 == 0:
                on_progress(progress)
        yield item


def _one_at_a_time(on_progress: Callable[[Progress], None]) -> Callable[[Progress], None]:
    lock = threading.Lock()

    def call(progress: Progress) -> None:
        with lock:
            on_progress(progress)

    return call


def _count(record: MaskRecord | VideoRecord, progress: Progress) -> None:
    if isinstance(record, MaskRecord):
        progress.masks += 1
        return
    progress.settled += 1
    progress.failed += record.status == "failed"


def _committed(record: ShardRecord, run: Run, progress: Progress) -> None:
    run.after_commit(record)
    progress.committed_shards += 1
