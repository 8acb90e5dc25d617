"""The pipeline: the stages, nested in data order, from a source of videos to a folder of masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import torch

from f2f.engine.aggregate import aggregate
from f2f.engine.background import Saliency, decide_background, doubt_background, open_saliency
from f2f.engine.cam import Activation, MultiScaleCams, activate, activate_softly
from f2f.engine.claims import claimed, locked
from f2f.engine.classify import Classifier, classify, without_scores
from f2f.engine.errors import MachineError, UsageError
from f2f.engine.evidence import weigh
from f2f.engine.flow import Flow, follow, follow_both_ways, open_flow
from f2f.engine.flow_picture import picture_flow
from f2f.engine.options import LabelOptions, pinned
from f2f.engine.pool import DecodePool
from f2f.engine.quality import keep_good
from f2f.engine.records import MaskRecord, Summary, VideoRecord
from f2f.engine.refine import refine
from f2f.engine.run import Run, open_run, refuse_strange_folder
from f2f.engine.source import class_of_query, printable, read_query_map, read_source
from f2f.engine.stage import StageClock
from f2f.engine.types import Frame, InputRow, LabelledWindow, VideoEnd, Window
from f2f.engine.window import find_windows
from f2f.engine.write import ShardWriter, write

_PAPER = {"tau": 0.9, "theta_f": 0.2}


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


@dataclass(frozen=True)
class Networks:
    """What a run computes with, opened once."""

    classifier: Classifier
    flow: Flow
    saliency: Saliency
    tau: float | None
    """None: the query is trusted"""
    theta_f: float


def label(
    options: LabelOptions,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_override: Callable[[str], None] = lambda _: None,
) -> Summary:
    """Label a source of videos; what `f2f label` does.

    Goes on with the run in `options.out` where there is one. Every input ends in the records as ok, partial,
    skipped or failed. `on_override` hears what `options.force` overrides, before that happens.

    Raises:
        UsageError: the options, networks or source cannot be used, or the folder holds another run.
        MachineError: the machine stopped the run (disk full, …); calling again goes on.
    """
    networks = open_networks(options)
    names = networks.classifier.info.classes
    query_map = read_query_map(options.sources.query_map, names)
    rows = read_source(options.source, options.sources)
    queries = {number: class_of_query(row.query, names, query_map) for number, row in enumerate(rows)}
    refuse_foreign_queries(rows, queries, names)
    refuse_strange_folder(options.out)
    decisive = _decisive(options, networks, query_map)
    with ExitStack() as claim:
        with locked(options.out):
            run, overridden = open_run(
                options.out, decisive, _given(options), rows, options.write.shard_videos, options.force
            )
            shards = run.pending_shards()
            claim.enter_context(claimed(options.out, shards, sum(len(run.pending_rows(shard)) for shard in shards)))
            if overridden:
                on_override(overridden)
            run.begin(shards)
        queries = {number: class_of_query(row.query, names, query_map) for number, row in enumerate(run.rows)}
        try:
            run_shards(shards, run, queries, networks, options, on_progress)
        finally:
            with locked(options.out):
                summary = run.rebuild()
    return summary


def open_networks(options: LabelOptions) -> Networks:
    """Open what `options` names; thresholds that are not given are the network's own, else the paper's."""
    torch.set_num_threads(options.runtimes.thread_count)
    classifier = Classifier.open(options.classifier, options.runtimes)
    defaults = {**_PAPER, **classifier.info.defaults}
    tau = defaults["tau"] if options.classify.tau is None else options.classify.tau
    theta_f = defaults["theta_f"] if options.cam.theta_f is None else options.cam.theta_f
    return Networks(
        classifier,
        open_flow(options.flow, options.runtimes),
        open_saliency(options.saliency, options.background.theta_b, options.runtimes),
        None if options.classify.trust_query else tau,
        theta_f,
    )


def run_shards(
    shards: Sequence[int],
    run: Run,
    queries: Mapping[int, int | None],
    networks: Networks,
    options: LabelOptions,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> None:
    """Label the inputs of `shards` and commit each shard when its last input has a record.

    The caller has claimed them. Several processes may each do so with shards of their own.
    """
    rows = [number for shard in shards for number in run.pending_rows(shard)]
    progress = Progress(len(run.rows), settled=len(run.rows) - len(rows))
    known = {number: channel for number, channel in queries.items() if channel is not None}
    writer = ShardWriter(run, known, lambda _: _count_commit(progress), shards)
    try:
        _refuse_unusable(rows, run, known, writer, progress)
        usable = [(number, run.rows[number]) for number in rows if number in known and not run.rows[number].problem]
        with DecodePool(options.decode) as pool:
            frames = _counted(pool.frames(usable), progress, on_progress)
            for record in _stages(frames, pool, known, networks, options, writer, progress.clock):
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


def _decisive(options: LabelOptions, networks: Networks, query_map: Mapping[str, str]) -> dict[str, Any]:
    """Everything that decides results, JSON-ready: what `run.json` pins."""
    resolved = {"tau": networks.tau, "theta_f": networks.theta_f, "theta_b": networks.saliency.theta_b}
    info = networks.classifier.info
    return {
        "f2f": version("f2f"),
        "options": {**pinned(options), **resolved, "threads": options.runtimes.thread_count},
        "networks": {
            "classifier": {"sha256": info.fingerprint, "runtime": info.runtime},
            "flow": {"sha256": networks.flow.fingerprint, "runtime": networks.flow.description},
            "saliency": {"sha256": networks.saliency.fingerprint, "runtime": networks.saliency.description},
        },
        "decoder": f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}",
        "classes": list(info.classes),
        "query_map": dict(query_map),
    }


def _given(options: LabelOptions) -> dict[str, str | None]:
    """Where source and networks lie, JSON-ready: what `f2f show` opens again; decides nothing, so is not pinned."""
    query_map = options.sources.query_map
    return {
        "source": str(Path(options.source).absolute()),
        "classifier": _absolute(options.classifier),
        "flow": _absolute(options.flow),
        "saliency": _absolute(options.saliency),
        "query_map": str(query_map.absolute()) if query_map else None,
    }


def _absolute(network: str) -> str:
    """The absolute path of a network file; words such as `demo`, which have no suffix, as they are."""
    return str(Path(network).absolute()) if Path(network).suffix else network


def refuse_foreign_queries(rows: Sequence[InputRow], queries: Mapping[int, int | None], classes: Sequence[str]) -> None:
    """Refuse a source of which no query is a class; one strange query is a record of its own.

    Raises:
        UsageError: the classifier or the spelling is wrong.
    """
    if all(channel is None for channel in queries.values()) and any(not row.problem for row in rows):
        found = sorted({printable(row.query) for row in rows if row.query})
        raise UsageError(
            f"no query is a class of the classifier; queries: {', '.join(found[:10])}; classes: {', '.join(classes)}; "
            "name the class of each query in a JSON file for --query-map, or give another --classifier"
        )


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
