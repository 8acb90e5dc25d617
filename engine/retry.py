"""Retry: failed inputs of a run are marked to be done again, by the next `f2f label`.

A marked input is `pending` in the record of its shard, with stage, reason and attempts of its last failure. When it is
done again its shard is committed anew, with all else as it was: a failed input has no files, so nothing that is
committed is touched before the new record replaces the old one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from f2f.engine.claims import locked, refuse_live
from f2f.engine.errors import FailureClass, UsageError
from f2f.engine.records import MAX_ATTEMPTS, VideoRecord, each_shard, write_shard
from f2f.engine.run import read_run, rebuild_run


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which failed inputs are meant; what is not given does not matter."""

    failure: FailureClass | None = None
    stage: str | None = None
    reason: str | None = None
    max_attempts: int = MAX_ATTEMPTS
    """an input that failed so often is passed over: it is quarantined"""
    force: bool = False
    """those too"""

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise UsageError(
                f"--max-attempts {self.max_attempts} is not accepted; accepted: 1 or more; correct it and run again"
            )

    def means(self, video: VideoRecord) -> bool:
        """Whether `video` failed in the way that is meant."""
        return video.status == "failed" and all(
            wanted in {None, found}
            for wanted, found in (
                (self.failure, video.failure),
                (self.stage, video.stage),
                (self.reason, video.reason),
            )
        )

    def apply(self, video: VideoRecord) -> VideoRecord:
        """The record as it is from now on: pending, or quarantined where it failed too often."""
        if not self.means(video):
            return video
        again = self.force or video.attempts < self.max_attempts
        return replace(video, status="pending" if again else "failed", max_attempts=self.max_attempts)


@dataclass(frozen=True)
class Retried:
    """What `retry` marked."""

    pending: tuple[str, ...]
    """ids of the inputs that the next `f2f label` does again"""
    quarantined: tuple[str, ...]
    """ids of those that were meant and failed too often"""


def retry(out: Path, choice: Choice) -> Retried:
    """Mark failed inputs of the run in `out` to be done again.

    Raises:
        UsageError: there is no run, another process is at work in it, or nothing failed in the way that is meant.
        MachineError: the folder cannot be written.
    """
    read_run(out)
    pending: list[str] = []
    quarantined: list[str] = []
    with locked(out):
        refuse_live(out)
        failures: set[tuple[str, str, str]] = set()
        for shard in each_shard(out):
            failures |= {(one.failure, one.stage, one.reason) for one in shard.videos if one.status == "failed"}
            videos = tuple(choice.apply(video) for video in shard.videos)
            meant = [now for before, now in zip(shard.videos, videos, strict=True) if choice.means(before)]
            pending += [video.id for video in meant if video.status == "pending"]
            quarantined += [video.id for video in meant if video.status == "failed"]
            if videos != shard.videos:
                write_shard(out, replace(shard, videos=videos))
        if not pending and not quarantined:
            raise UsageError(_nothing_meant(out, choice, failures))
        rebuild_run(out)
    return Retried(tuple(pending), tuple(quarantined))


def _nothing_meant(out: Path, choice: Choice, failures: set[tuple[str, str, str]]) -> str:
    given = [
        f"--{name} {value}"
        for name, value in (("class", choice.failure), ("stage", choice.stage), ("reason", choice.reason))
        if value is not None
    ]
    there = "; ".join(f"{failure} in {stage}: {reason}" for failure, stage, reason in sorted(failures)) or "none"
    asked = f" with {' '.join(given)}" if given else ""
    return f"no input of {out} failed{asked}; failures there: {there}; give one of them, or leave the options out"
