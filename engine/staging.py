"""Staging: inputs that a URL names -> local copies, fetched ahead of the decode pool and removed after use.

Decoding processes open local files alone. A few threads fetch inputs into a cache of bounded size; one that cannot be
fetched ends as a transient failure, and what a killed run left in the cache goes when the next one uses it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from f2f.engine.errors import F2FError, VideoError
from f2f.engine.files import machine_errors
from f2f.engine.options import FetchOptions
from f2f.engine.places import RemoteFile, is_url
from f2f.engine.pool import DecodePool
from f2f.engine.types import Failure, Frame, InputRow, VideoEnd

_CHUNK_BYTES = 4 << 20
_PAUSE_SECONDS = 0.5
"""before the second attempt; doubled before each further one"""
_HOPELESS = (FileNotFoundError, PermissionError, ImportError, ValueError)
"""what another attempt in the same run does not mend"""

Input = tuple[int, InputRow]


class Stager:
    """Fetches inputs; use as a context manager."""

    def __init__(self, options: FetchOptions) -> None:
        """Nothing is made before the first input that is to be fetched."""
        self._options = options
        self._cache: _Cache | None = None

    def __enter__(self) -> Stager:
        return self

    def __exit__(self, *_: object) -> None:
        if self._cache:
            self._cache.close()

    def frames(self, pool: DecodePool, rows: Iterable[Input]) -> Iterator[Frame | VideoEnd]:
        """What `pool` makes of `rows`, those that lie elsewhere fetched first.

        Raises:
            MachineError: the cache cannot be written.
        """
        for item in pool.frames(self._ready(rows)):
            if isinstance(item, VideoEnd) and self._cache and self._cache.drop(item.video):
                yield replace(item, report=replace(item.report, modified_ns=0))  # a copy's time says nothing
            else:
                yield item

    def _ready(self, rows: Iterable[Input]) -> Iterator[Input | VideoEnd | None]:
        """Inputs as they come to lie here, those that never will as their end, None while there is none."""
        remaining, flights = iter(rows), list[Future[Input | VideoEnd]]()
        while True:
            while len(flights) < self._options.fetchers and (entry := next(remaining, None)):
                if is_url(entry[1].location):
                    flights.append(self._start(*entry))
                else:
                    yield entry
            if not flights:
                return
            landed = next((flight for flight in flights if flight.done()), None)
            if landed:
                flights.remove(landed)
            yield landed.result() if landed else None

    def _start(self, video: int, row: InputRow) -> Future[Input | VideoEnd]:
        """Fetch in a thread that does not keep the program from ending: a store may never answer."""
        cache = self._cache = self._cache or _Cache(self._options)
        flight: Future[Input | VideoEnd] = Future()

        def fly() -> None:
            try:
                flight.set_result(_fetch(cache, video, row, self._options.fetch_attempts))
            except BaseException as error:  # raised where the result is asked for
                flight.set_exception(error)

        threading.Thread(target=fly, name=f"f2f-fetch-{video}", daemon=True).start()
        return flight


def _fetch(cache: _Cache, video: int, row: InputRow, attempts: int) -> Input | VideoEnd:
    """The input as it lies in the cache, or why it does not."""
    for attempt in range(1, attempts + 1):
        try:
            _copy(cache, video, row)
        except VideoError as error:
            failure = replace(Failure.of("fetch", error), detail=f"{error.detail} (attempt {attempt} of {attempts})")
            hopeless = error.failure == "permanent" or isinstance(error.__cause__, _HOPELESS)
            if hopeless or attempt == attempts or cache.closed.wait(_PAUSE_SECONDS * 2 ** (attempt - 1)):
                break
        else:
            return video, replace(row, location=str(cache.path(video)), span=None)
    return VideoEnd(video, failure=failure)


def _copy(cache: _Cache, video: int, row: InputRow) -> None:
    """Fetch an input into the cache, with its time; nothing stays of one that fails.

    Raises:
        VideoError: it cannot be fetched.
        MachineError: the cache cannot be written.
    """
    source, path, taken = RemoteFile(row.location), cache.path(video), 0
    try:
        with source.open(buffering=_CHUNK_BYTES) as stream:
            first, size = row.span or (0, getattr(stream, "size", None))
            taken = cache.take(size)
            stream.seek(first)
            found = _write(stream, path, taken)
        if size is not None and found < size:
            raise OSError(f"it ended after {found} of {size} bytes")
        modified_ns = source.modified_ns()
        os.utime(path, ns=(modified_ns, modified_ns))
    except F2FError:
        cache.drop(video, taken)
        raise
    except Exception as error:  # whatever the store's library raises
        cache.drop(video, taken)
        raise _video_error(error) from error
    cache.give(taken - found)


def _write(stream: BinaryIO, path: Path, limit: int) -> int:
    """Copy at most `limit` bytes; their number."""
    found = 0
    with machine_errors(path), path.open("wb") as target:
        for chunk in _chunks(stream, limit):
            target.write(chunk)
            found += len(chunk)
    return found


def _chunks(stream: BinaryIO, limit: int) -> Iterator[bytes]:
    """At most `limit` bytes; the store's errors are told from the disk's."""
    try:
        while chunk := stream.read(min(_CHUNK_BYTES, limit)):
            limit -= len(chunk)
            yield chunk
    except Exception as error:  # every file system of fsspec raises what its client library raises
        raise _video_error(error) from error


def _video_error(error: Exception) -> VideoError:
    if isinstance(error, FileNotFoundError):
        return VideoError("missing", "the file is not there", "transient")
    reason = "unreadable" if isinstance(error, PermissionError) else "unreachable"
    return VideoError(reason, f"{type(error).__name__}: {error}", "transient")


class _Cache:
    """A folder of copies, named by number, that take no more bytes than it has."""

    def __init__(self, options: FetchOptions) -> None:
        self._capacity_bytes = self._free_bytes = int(options.cache_gb * 1e9)
        self._room = threading.Condition()
        self.closed = threading.Event()
        parent = options.cache or Path(tempfile.gettempdir())
        with machine_errors(parent):
            parent.mkdir(parents=True, exist_ok=True)
            _remove_dead(parent)
            self._folder, self._lock = _locked_folder(parent)

    def path(self, video: int) -> Path:
        """Where the copy of an input lies."""
        return self._folder / f"{video}.video"

    def take(self, size: int | None) -> int:
        """Wait for room for `size` bytes, or where it is not known for all there is; the bytes that were taken.

        Raises:
            VideoError: it can never be had.
        """
        if size is not None and size > self._capacity_bytes:
            limit = f"it has {size} bytes; --cache-gb admits {self._capacity_bytes}"
            raise VideoError("file_too_large", limit)
        wanted = self._capacity_bytes if size is None else size
        with self._room:
            while self._free_bytes < wanted:
                if self.closed.is_set():
                    raise VideoError("stopped", "the run ended before there was room for it", "transient")
                self._room.wait(0.5)
            self._free_bytes -= wanted
        return wanted

    def give(self, size: int) -> None:
        """Return room."""
        with self._room:
            self._free_bytes += size
            self._room.notify_all()

    def drop(self, video: int, taken: int | None = None) -> bool:
        """Remove a copy, and say whether there was one; `taken` is what was taken for it (default: its size)."""
        path, there = self.path(video), False
        with suppress(FileNotFoundError):
            taken = path.stat().st_size if taken is None else taken
            path.unlink()
            there = True
        self.give(taken or 0)
        return there

    def close(self) -> None:
        """Remove all; threads that still fetch find no folder and end."""
        self.closed.set()
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)


def _locked_folder(parent: Path) -> tuple[Path, int]:
    """A new folder with its lock held: it gets its name, by which others find it, after the lock."""
    folder = Path(tempfile.mkdtemp(prefix=".new-f2f-cache-", dir=parent))
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder.rename(parent / folder.name.removeprefix(".new-")), lock


def _remove_dead(parent: Path) -> None:
    """Remove the caches of runs that were killed: nobody holds their lock."""
    for folder in parent.glob("f2f-cache-*"):
        with suppress(OSError):  # another user's, or just removed by its owner
            lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)
