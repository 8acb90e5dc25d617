"""Claims: which process works on which shards of an output folder.

A process at work keeps a file in OUT/.locks that says who it is and which shards it took, and holds its lock. The
lock goes with the process, whatever ends it, so a claim that can be locked is a dead one's. Claims are taken, and
lists are rebuilt, while OUT/.lock is held, which is for moments.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from f2f.engine.errors import UsageError
from f2f.engine.files import machine_errors

_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Claim:
    """A live process and what it took."""

    host: str
    pid: int
    started_seconds: float
    """Unix time"""
    shards: tuple[int, ...]
    inputs: int
    """inputs of these shards that had no record when it started"""

    def __str__(self) -> str:
        since = time.strftime("%d %b %H:%M:%S", time.localtime(self.started_seconds))
        return f"process {self.pid} on {self.host}, since {since}"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the output folder for a moment; waits for another process that does.

    Raises:
        UsageError: another process holds it for too long.
        MachineError: the folder cannot be written.
    """
    with machine_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        end = time.monotonic() + _PATIENCE_SECONDS
        while not _try_lock(handle, fcntl.LOCK_EX):
            if time.monotonic() > end:
                raise UsageError(
                    f"another run is at work in {out}: it holds {out / '.lock'} for more than {_PATIENCE_SECONDS:g} s; "
                    "wait for it, or give another --out"
                )
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(handle)


@contextmanager
def claimed(out: Path, shards: Collection[int], inputs: int) -> Iterator[None]:
    """Take shards for as long as the block lasts; begin it while `locked`.

    Args:
        out: the output folder.
        shards: their numbers.
        inputs: how many of their inputs have no record, for `f2f status`.

    Raises:
        UsageError: another live process has one of them.
    """
    refuse_live(out, shards)
    _remove_dead(out)
    claim = Claim(socket.gethostname(), os.getpid(), time.time(), tuple(shards), inputs)
    path = out / ".locks" / f"{claim.host}-{claim.pid}-{time.time_ns()}.json"
    with machine_errors(path):
        path.parent.mkdir(exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with machine_errors(path):
            os.write(handle, json.dumps(asdict(claim)).encode())
        fcntl.flock(handle, fcntl.LOCK_EX)  # waits for a reader at most
        yield
    finally:
        with suppress(OSError):  # where the disk refuses it: a claim that nobody holds is a dead one's
            path.unlink(missing_ok=True)
        os.close(handle)


def live_claims(out: Path) -> list[Claim]:
    """What live processes took in `out`, the oldest first."""
    found = [claim for path in _files(out) if (claim := _read_live(path))]
    return sorted(found, key=lambda claim: claim.started_seconds)


def refuse_live(out: Path, shards: Collection[int] | None = None) -> None:
    """Refuse to touch shards (default: any) that a live process took.

    Raises:
        UsageError: one did.
    """
    for claim in live_claims(out):
        taken = sorted(claim.shards if shards is None else {*claim.shards} & {*shards})
        if taken or shards is None:
            which = f", with shards {taken[0]} to {taken[-1]}" if taken else ""
            raise UsageError(
                f"another run is at work in {out} ({claim}{which}); wait for it or stop it and run again, or give "
                "another --out"
            )


def _files(out: Path) -> list[Path]:
    return sorted((out / ".locks").glob("*.json"))


def _try_lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_live(path: Path) -> Claim | None:
    """The claim in a file that its process holds; None where it is dead, or gone meanwhile."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if _try_lock(handle, fcntl.LOCK_SH):
            return None
        return read_claim(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise UsageError(
            f"{path} is held by a live process, but is no claim ({type(error).__name__}: {error}); stop that process "
            "and run again"
        ) from error
    finally:
        os.close(handle)


def read_claim(entry: Mapping[str, Any]) -> Claim:
    """The claim that its entries in a JSON file make; raises ValueError, TypeError, KeyError where they make none."""
    started = float(entry["started_seconds"])
    time.localtime(started)  # can be told
    shards = tuple(int(shard) for shard in entry["shards"])
    return Claim(str(entry["host"]), int(entry["pid"]), started, shards, int(entry["inputs"]))


def _remove_dead(out: Path) -> None:
    """Only while `locked`: a claim that is just being made is not locked yet."""
    for path in _files(out):
        if _read_live(path) is None:
            path.unlink(missing_ok=True)
