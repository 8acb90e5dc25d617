"""Labelling: `label`, from options to summary: what is pinned, claimed, worked on, and rebuilt at the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from f2f.engine.account import Account, Stopwatch, account
from f2f.engine.claims import claimed, locked
from f2f.engine.fleet import for_workers, run_by_workers
from f2f.engine.job import Job
from f2f.engine.options import LabelOptions
from f2f.engine.pipeline import Progress, run_shards
from f2f.engine.records import Summary
from f2f.engine.run import Run, open_run, refuse_strange_folder


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
    options = for_workers(options)
    job = Job.open(options)
    refuse_strange_folder(options.out)
    with ExitStack() as claim:
        with locked(options.out):
            run, overridden = open_run(
                options.out, job.decisive, job.given, job.rows, options.write.shard_videos, options.force
            )
            shards = [shard for shard in run.pending_shards() if options.spread.takes(shard)]
            claim.enter_context(claimed(options.out, shards, sum(len(run.pending_rows(shard)) for shard in shards)))
            if overridden:
                on_override(overridden)
            run.begin(shards)
            if not shards and (done := run.summary_if_current()):
                return done
        watch, time_spent = Stopwatch.start(), None
        try:
            time_spent = _account(_work(shards, run, job, on_progress), watch, options)
        finally:
            with locked(options.out):
                summary = run.rebuild(time_spent)
    return summary


def _work(shards: list[int], run: Run, job: Job, on_progress: Callable[[Progress], None]) -> Progress:
    """Label the inputs of `shards` here, or where `--devices` or `--ray` say."""
    if job.options.spread.is_alone:
        return run_shards(shards, run, job, on_progress)
    return run_by_workers(shards, run, job.options, on_progress)


def _account(progress: Progress, watch: Stopwatch, options: LabelOptions) -> Account | None:
    """Where the time went; None where nothing was to be done."""
    if not progress.settled_now:
        return None
    counts = progress.settled_now, progress.frames, progress.masks
    decoders = options.decode.decoder_count
    return account(progress.clock, watch, counts, decoders, progress.workers, progress.worker_cpu_seconds)
