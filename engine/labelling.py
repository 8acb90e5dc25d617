"""Labelling: `label`, from options to summary: what is pinned, claimed, worked on, and rebuilt at the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from f2f.engine.account import (
    CLASSIFIER_IN_INT8,
    DIS,
    FLOW_IN_INT8,
    TRUST_QUERY,
    Account,
    Stopwatch,
    account,
)
from f2f.engine.claims import claimed, locked
from f2f.engine.errors import UsageError
from f2f.engine.fleet import for_workers, run_by_workers
from f2f.engine.flow import NetworkFlow
from f2f.engine.job import Job
from f2f.engine.mirror import Mirror, url_of, work_folder
from f2f.engine.options import LabelOptions
from f2f.engine.pipeline import Progress, run_shards
from f2f.engine.records import Summary
from f2f.engine.run import Run, open_run, pinned_decoder, refuse_strange_folder


def label(
    options: LabelOptions,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_override: Callable[[str], None] = lambda _: None,
) -> Summary:
    """Label a source of videos; what `f2f label` does.

    Goes on with the run in `options.out`, a folder or a URL, where there is one. Every input ends in the records as ok,
    partial, skipped or failed. `on_override` hears what `options.force` overrides, before that happens.

    Raises:
        UsageError: the options, networks or source cannot be used, or the folder holds another run.
        MachineError: the machine stopped the run (disk full, …); calling again goes on.
    """
    options = for_workers(_at_its_place(options))
    job = Job.open(options)
    refuse_strange_folder(options.out)
    mirror = Mirror(options.write.upload, options.out) if options.write.upload else None
    with ExitStack() as claim:
        with locked(options.out):
            if mirror:
                mirror.bring()
            job = job.with_decoder(lambda: pinned_decoder(options.out))
            run, shards = _opened(job, mirror, claim, on_override)
            run.begin(shards)
            if mirror:
                mirror.begin(run, shards)
            done = None if shards else run.summary_if_current()
        watch, time_spent = Stopwatch.start(), None
        try:
            if not done:
                time_spent = _account(_work(shards, run, job, on_progress), watch, job)
        finally:
            with locked(options.out):
                summary = done or run.rebuild(time_spent)
        if mirror:
            mirror.finish(run)
    return summary


def _at_its_place(options: LabelOptions) -> LabelOptions:
    """With an --out that is a URL, the options of a run that works in a folder of its own and uploads there."""
    url = url_of(options.out)
    if url is None:
        return options
    if options.write.upload:
        raise UsageError(f"--out {url} and --upload {options.write.upload} are given; give one of them a URL")
    return replace(options, out=work_folder(url), write=replace(options.write, upload=url))


def _opened(
    job: Job, mirror: Mirror | None, claim: ExitStack, on_override: Callable[[str], None]
) -> tuple[Run, list[int]]:
    """The run, and the shards that are to be done here, claimed until `claim` is left."""
    options = job.options
    run, overridden = open_run(
        options.out, job.decisive, job.given, job.rows, options.write.shard_videos, options.force
    )
    shards = [shard for shard in run.pending_shards() if options.spread.takes(shard)]
    inputs = sum(len(run.pending_rows(shard)) for shard in shards)
    claim.enter_context(claimed(options.out, shards, inputs))
    if mirror:
        claim.enter_context(mirror.claimed(tuple(shards), inputs))
        mirror.bring_shards(run)
        run = replace(run, after_commit=mirror.take)
    if overridden:
        on_override(overridden)
    return run, shards


def _work(shards: list[int], run: Run, job: Job, on_progress: Callable[[Progress], None]) -> Progress:
    """Label the inputs of `shards` here, or where `--devices` or `--ray` say."""
    if job.options.spread.is_alone:
        return run_shards(shards, run, job, on_progress)
    return run_by_workers(shards, run, job.options, on_progress)


def _account(progress: Progress, watch: Stopwatch, job: Job) -> Account | None:
    """Where the time went; None where nothing was to be done."""
    if not progress.settled_now:
        return None
    counts = progress.settled_now, progress.frames, progress.masks
    decoders, cpu = job.options.decode.decoder_count, progress.worker_cpu_seconds
    return account(progress.clock, watch, counts, decoders, progress.workers, cpu, _in_vain(job))


def _in_vain(job: Job) -> set[str]:
    """Advice that this run follows already, or that is of no use to it."""
    classifier, flow = job.networks.classifier.info, job.networks.flow
    reasons = {
        TRUST_QUERY: job.options.classify.trust_query,
        CLASSIFIER_IN_INT8: not classifier.gains_by_int8,
        DIS: not isinstance(flow, NetworkFlow),
        FLOW_IN_INT8: not (isinstance(flow, NetworkFlow) and flow.info.gains_by_int8),
    }
    return {advice for advice, holds in reasons.items() if holds}
