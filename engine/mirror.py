"""Mirror: a run at a URL. The engine works in a local folder; what is committed goes to the URL, which is the truth.

    start    claim, then run.json and shards/*.json come from the URL; what nothing names there is removed
    commit   a shard's files are put first, then shards/N.json: that is the commit; its files are removed here
    end      tables, lists and summary are put

Every object is put at once, so that readers see it whole or not at all. Any machine can go on with the run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TypeVar

from f2f.engine.claims import Claim, read_claim
from f2f.engine.errors import F2FError, MachineError, UsageError
from f2f.engine.files import machine_errors
from f2f.engine.layout import LAYOUTS
from f2f.engine.places import file_system, usage_errors
from f2f.engine.records import TABLES, ShardRecord, file_prefix, read_shards, shard_path
from f2f.engine.run import Run

ATTEMPTS, PAUSE_SECONDS = 4, 0.5
"""of every request; the pause doubles"""
BEAT_SECONDS, DEAD_SECONDS = 20.0, 120.0
"""how often a live process says so at the URL, and after what silence it counts as dead"""
_RECORD = re.compile(r"shards/\d+\.json")
T = TypeVar("T")


def url_of(path: Path) -> str | None:
    """The URL that a path was given as: `Path("s3://bucket/run")` has lost a slash; None where it is a path."""
    found = re.fullmatch(r"([a-z][a-z0-9+.-]+):/+(.*)", str(path))
    return f"{found[1]}://{found[2]}" if found else None


def work_folder(url: str) -> Path:
    """Where a run at a URL works on this machine, unless it is told."""
    return Path(tempfile.gettempdir()) / f"f2f-{os.getuid()}" / hashlib.sha256(url.encode()).hexdigest()[:16]


class Mirror:
    """The objects of a run at a URL, and the local folder that they are mirrored in."""

    def __init__(self, url: str, out: Path) -> None:
        """Raises UsageError where the URL cannot be written, before anything is done."""
        self.url, self._out = url.rstrip("/"), out
        with usage_errors(self.url):
            self._system, self._root = file_system(self.url)
            self._system.pipe_file(self._path(".probe"), b"")
            self._system.rm_file(self._path(".probe"))

    def bring(self) -> None:
        """Have here the state that is there: run.json and the records of shards, and no others."""
        names = self._names()
        state = [name for name in names if name == "run.json" or _RECORD.fullmatch(name)]
        for path in sorted((self._out / "shards").glob("*.json")):
            if path.relative_to(self._out).as_posix() not in state:
                path.unlink()
        for name in state:
            self._get(name)

    def bring_all(self) -> None:
        """Have here everything that is there."""
        for name in self._names():
            if not name.startswith((".locks/", ".probe")):
                self._get(name)

    def bring_shards(self, run: Run) -> None:
        """Have here the tars of committed shards that have inputs to be done again: they are written anew."""
        for shard in run.pending_shards():
            record = run.record_of.get(shard)
            for name in record.files if record else ():
                if name.endswith(".tar"):
                    self._get(name)

    def begin(self, run: Run, shards: Collection[int]) -> None:
        """Pin the run there, and remove what no record names, but for what others may be about to commit."""
        kept = set(self._lists(run))
        for record in run.committed:
            kept |= {self._record_name(record.shard), *record.files}
        others = set(run.pending_shards()).difference(shards)
        prefixes = {file_prefix(run.rows[row].id) for shard in others for row in run.shard_rows(shard)}
        for name in self._names():
            stem = PurePosixPath(name).name.partition(".")[0]
            is_theirs = stem.rpartition("-")[0] in prefixes or (stem.isdecimal() and int(stem) in others)
            is_ours = bool(_RECORD.fullmatch(name)) or name.split("/")[0] in LAYOUTS
            if is_ours and not is_theirs and name not in kept:
                self._remove(name)
        self._put("run.json")

    def take(self, record: ShardRecord) -> None:
        """Put a shard that was committed here: its files, then its record."""
        changed = [name for name in record.files if (self._out / name).exists()]
        for name in changed:
            self._put(name)
        self._put(self._record_name(record.shard))
        for name in changed:
            with machine_errors(self._out / name):
                (self._out / name).unlink()

    def put_records(self) -> None:
        """Put all records of shards, as `f2f retry` changed them."""
        for record in read_shards(self._out):
            self._put(self._record_name(record.shard))

    def drop(self, shards: Collection[int]) -> None:
        """Remove the records of damaged shards, which `f2f label` then does anew."""
        for shard in shards:
            self._remove(self._record_name(shard))

    def finish(self, run: Run) -> None:
        """Put tables, lists and summary."""
        for name in (*TABLES, *self._lists(run), "summary.json"):
            if (self._out / name).exists():
                self._put(name)

    @contextmanager
    def claimed(self, shards: tuple[int, ...], inputs: int) -> Iterator[None]:
        """Take shards at the URL for as long as the block lasts; says there, now and then, that it lives.

        Raises:
            UsageError: another process that was heard of lately has one of them.
        """
        claim = Claim(socket.gethostname(), os.getpid(), time.time(), shards, inputs)
        name, over = f".locks/{claim.host}-{claim.pid}-{time.time_ns()}.json", threading.Event()
        self._beat(name, claim)
        try:
            self._refuse_live(name, claim)
            thread = threading.Thread(target=self._beat_until, args=(name, claim, over), daemon=True)
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join()
        finally:
            self._remove(name)

    def _refuse_live(self, mine: str, claim: Claim) -> None:
        for name in self._names():
            if not name.startswith(".locks/") or name == mine:
                continue
            try:
                entry = json.loads(self._read(name))
                other, heard = read_claim(entry), float(entry["heard_seconds"])
            except (FileNotFoundError, ValueError, TypeError, KeyError):
                continue  # it has just ended
            if time.time() - heard < DEAD_SECONDS and {*other.shards} & {*claim.shards}:
                raise UsageError(
                    f"another run is at work at {self.url} ({other}); wait for it or stop it and run again; if it was "
                    f"killed, it counts as dead {DEAD_SECONDS:g} s after it was last heard of"
                )

    def _beat(self, name: str, claim: Claim) -> None:
        entry = {**claim.__dict__, "heard_seconds": time.time()}
        self._tried(lambda: self._system.pipe_file(self._path(name), json.dumps(entry).encode()))

    def _beat_until(self, name: str, claim: Claim, over: threading.Event) -> None:
        while not over.wait(BEAT_SECONDS):
            try:
                self._beat(name, claim)
            except F2FError:
                continue  # the next request of the run itself says so

    def _names(self) -> list[str]:
        root = self._root.rstrip("/") + "/"
        self._system.invalidate_cache()
        found = self._tried(lambda: self._system.find(self._root))
        return sorted(name.removeprefix(root) for name in found)

    def _record_name(self, shard: int) -> str:
        return shard_path(self._out, shard).relative_to(self._out).as_posix()

    def _lists(self, run: Run) -> list[str]:
        return [path.relative_to(self._out).as_posix() for path in run.layout.lists([], run.classes)]

    def _put(self, name: str) -> None:
        self._tried(lambda: self._system.pipe_file(self._path(name), (self._out / name).read_bytes()))

    def _get(self, name: str) -> None:
        data, path = self._read(name), self._out / name
        with machine_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def _read(self, name: str) -> bytes:
        data: bytes = self._tried(lambda: self._system.cat_file(self._path(name)))
        return data

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._tried(lambda: self._system.rm_file(self._path(name)))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _tried(self, act: Callable[[], T]) -> T:
        """Act, a few times where the store fails.

        Raises:
            FileNotFoundError: there is no such object.
            MachineError: it fails every time.
        """
        for attempt in range(ATTEMPTS):
            try:
                return act()
            except FileNotFoundError:
                raise
            except Exception as error:  # every file system of fsspec raises what its client library raises
                if attempt + 1 == ATTEMPTS:
                    raise MachineError(
                        f"{self.url} does not answer ({type(error).__name__}: {error}); what is committed there stays; "
                        "mend it and run the same command again to go on"
                    ) from error
                time.sleep(PAUSE_SECONDS * 2**attempt)
        raise AssertionError("unreachable")


@contextmanager
def brought(out: Path, *, everything: bool = False) -> Iterator[tuple[Path, Mirror | None]]:
    """The output folder of a run, and where `out` is a URL, a copy of its state, or of everything, and its mirror."""
    url = url_of(out)
    if url is None:
        yield out, None
        return
    with tempfile.TemporaryDirectory(prefix="f2f-") as name:
        mirror = Mirror(url, Path(name))
        mirror.bring_all() if everything else mirror.bring()
        yield Path(name), mirror
