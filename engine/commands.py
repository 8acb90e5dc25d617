"""The engine's sub-commands: options in, an exit code out. Each is a Python call with printing around it.

Heavy imports stand inside the functions, so that `--help` and wrong usage answer at once.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from f2f.engine.cli import EXIT_INTERRUPTED
from f2f.engine.options import DecodeOptions, LabelOptions, SegmentOptions, WindowOptions

if TYPE_CHECKING:
    from f2f.engine.records import Summary

_Out = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
_Mask = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ID")]


def label_command(options: LabelOptions, *, json: bool = False) -> int:
    """Turn videos that carry a search term into pixel masks.

    Args:
        options: what to label and how.
        json: print the summary as JSON instead of a table
    """
    from f2f.engine.labelling import label
    from f2f.engine.metrics import serve_metrics
    from f2f.engine.progress import print_account, show_progress

    try:
        with show_progress() as show, serve_metrics(options, show) as on_progress:
            summary = label(options, on_progress, lambda what: print(what, file=sys.stderr))
    except KeyboardInterrupt:
        sys.stderr.write(_interrupted(options))
        return EXIT_INTERRUPTED
    _print(summary, json)
    if not json:
        if summary.account:
            print_account(summary.account, Console())
        print(_where(options))
    return summary.exit_code


def show_command(
    run: _Out,
    mask: _Mask,
    *,
    out: Path | None = None,
    source: str | None = None,
    classifier: str | None = None,
    flow: str | None = None,
) -> int:
    """Draw how a mask came about, frame by frame: activation, flow, what has come together so far, and the mask.

    Args:
        run: output folder of `f2f label`, finished or not
        mask: id of the mask, as in labels.parquet, or the beginning of it
        out: PNG file that is written (default: OUT/show/<id>.png)
        source: folder or manifest that was labelled (default: where the run found it)
        classifier: classifier of the run (default: where the run found it)
        flow: flow of the run (default: where the run found it)
    """
    from f2f.engine.show import show_mask

    print(show_mask(run, mask, out=out, source=source, classifier=classifier, flow=flow))
    return 0


def segment_command(options: SegmentOptions, *, json: bool = False) -> int:
    """Segment images and videos with a deployed network: masks, and overlays to look at.

    Args:
        options: what is segmented and how.
        json: print the records as JSON
    """
    from f2f.engine.progress import show_inputs
    from f2f.engine.segment import segment

    with show_inputs() as on_record:
        summary = segment(options, on_record)
    if json:
        print(_json(asdict(summary)))
    else:
        for record in summary.records:
            if record.reason:
                print(f"{record.input}: {record.status}, {record.reason}: {record.detail}")
        print(
            f"{summary.masks} masks of {len(summary.records)} inputs, {summary.count('failed')} failed: {options.out}"
        )
    return summary.exit_code


def status_command(out: _Out, *, json: bool = False) -> int:
    """Say how far the run in an output folder is, whether a process is at work in it, and what failed how often.

    Args:
        out: output folder of `f2f label`, also while it runs
        json: print JSON instead of tables
    """
    from f2f.engine.mirror import brought
    from f2f.engine.status import read_status

    with brought(out) as (folder, _):
        status = read_status(folder)
    if json:
        entry = asdict(status)
        for process, one in zip(entry["live"], status.live, strict=True):
            process["inputs_per_hour"] = one.inputs_per_hour
        counts = entry.pop("summary")
        failures = entry.pop("failed")
        print(_json({**counts, **entry, "failures": failures}))
    else:
        _print(status.summary, as_json=False)
        status.print_table(Console())
    return 0


def retry_command(
    out: _Out,
    *,
    failure: Annotated[Literal["transient", "permanent"] | None, tyro.conf.arg(name="class")] = None,
    stage: str | None = None,
    reason: str | None = None,
    max_attempts: int = 3,
    force: bool = False,
    json: bool = False,
) -> int:
    """Mark failed inputs to be done again; the next `f2f label` with the same options does them.

    Args:
        out: output folder of `f2f label`
        failure: only failures of this class; what is transient may work another time (default: both)
        stage: only what failed in this stage, as in videos.parquet (default: any)
        reason: only what failed for this reason, as in videos.parquet (default: any)
        max_attempts: an input that failed so often is quarantined: it stays failed
        force: do quarantined inputs again too
        json: print the ids as JSON
    """
    from f2f.engine.mirror import brought
    from f2f.engine.retry import Choice, retry

    choice = Choice(failure=failure, stage=stage, reason=reason, max_attempts=max_attempts, force=force)
    with brought(out) as (folder, mirror):
        retried = retry(folder, choice)
        if mirror:
            mirror.put_records()
    if json:
        print(_json(asdict(retried)))
        return 0
    if retried.pending:
        print(f"{len(retried.pending)} inputs are to be done again: run the same `f2f label` command once more")
    if retried.quarantined:
        print(
            f"{len(retried.quarantined)} inputs stay failed, quarantined after {max_attempts} attempts; --force, or a "
            "larger --max-attempts, has them done again"
        )
    return 0


def verify_command(out: _Out, *, repair: bool = False, json: bool = False) -> int:
    """Check that nothing is lost or damaged: records, accounting, every file, tables and lists.

    Args:
        out: output folder of `f2f label`
        repair: remove the records of damaged shards, so that the next `f2f label` does them anew, files that belong
            to nothing, and write tables and lists anew
        json: print JSON instead of lines
    """
    from f2f.engine.mirror import brought
    from f2f.engine.verify import repair as mend
    from f2f.engine.verify import verify

    with brought(out, everything=True) as (folder, mirror):
        found = verify(folder)
        if json:
            print(_json({**asdict(found), "damaged_shards": found.damaged_shards}))
        else:
            found.print_lines(Console(soft_wrap=True, highlight=False, markup=False))
        if repair and found.problems:
            sys.stderr.write(f"{mend(folder, found)}\n")
            if mirror:
                mirror.drop(found.damaged_shards)
    return found.exit_code


def probe_command(
    video: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")],
    *,
    decode: DecodeOptions = DecodeOptions(),  # noqa: B008 - frozen
    window: WindowOptions = WindowOptions(),  # noqa: B008 - frozen
    json: bool = False,
) -> int:
    """Say what `f2f label` would do with a video, and why: it is decoded as there, and cut into windows.

    Args:
        video: the file
        decode: how it is decoded
        window: how its frames become windows
        json: print JSON instead of a table
    """
    from f2f.engine.probe import probe

    found = probe(video, decode, window)
    if json:
        print(_json(asdict(found)))
    else:
        found.print_facts(Console())
    return found.exit_code


def doctor_command(*, json: bool = False) -> int:
    """Say what this installation can do: versions, devices, runtimes, which version of every kernel runs.

    Args:
        json: print JSON instead of tables
    """
    from f2f.engine.doctor import check_up
    from f2f.engine.errors import UsageError

    try:
        checkup = check_up()
    except ValueError as error:  # F2F_KERNELS or F2F_CPU_ISA asks for what is not there
        raise UsageError(str(error)) from error
    if json:
        print(_json(asdict(checkup)))
    else:
        checkup.print_table(Console())
    return 0


def eval_masks(pred: Path, truth: Path, *, json: bool = False) -> int:
    """Score the masks of a run against exact ones: IoU, precision, recall.

    Args:
        pred: output folder of `f2f label`
        truth: folder with <query>/<video>/00000.png … or <video>/00000.png …, frame 0 first
        json: print JSON instead of a table
    """
    from f2f.engine.evaluate import evaluate_masks

    scores = evaluate_masks(pred, truth)
    if json:
        print(_json(asdict(scores)))
    else:
        scores.print_table(Console())
    return 0


def _where(options: LabelOptions) -> str:
    """Where the masks are."""
    from f2f.engine.layout import layout_of
    from f2f.engine.mirror import url_of

    url = options.write.upload or url_of(options.out)
    if url:
        return f"masks and tables: {url}"
    masks = layout_of(options.out, {"format": options.write.format}).masks
    return f"masks: {masks}\ntable: {options.out / 'labels.parquet'}"


def _interrupted(options: LabelOptions) -> str:
    from f2f.engine.mirror import url_of, work_folder
    from f2f.engine.run import read_summary

    url = url_of(options.out)
    out = work_folder(url) if url else options.out
    if not (out / "run.json").is_file():
        return "f2f: interrupted before anything was started; run the same command again\n"
    summary = read_summary(out)
    done = summary.inputs - summary.pending
    return f"f2f: interrupted; {done} of {summary.inputs} inputs are committed; run the same command again to go on\n"


def _print(summary: Summary, as_json: bool) -> None:
    from f2f.engine.progress import print_summary

    if as_json:
        print(_json(asdict(summary)))
    else:
        print_summary(summary, Console())


def _json(entry: object) -> str:
    return json.dumps(entry, indent=1)
