"""Tars: the plain files inside an uncompressed tar, found by its headers and read where they lie.

Nothing is extracted, no name becomes a path, no link is followed.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

from f2f.engine.errors import UsageError
from f2f.engine.places import RemoteFile

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_HEADER_BYTES = 1 << 20
"""longest header that is read: a header may claim any length, and is read into memory"""


@dataclass(frozen=True)
class TarMember:
    """A plain file inside a tar; opened like a path."""

    tar: Path | RemoteFile
    name: str
    offset: int
    """of its first byte in the tar"""
    size: int
    """bytes"""

    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO:
        """Its bytes.

        Raises:
            OSError: the tar cannot be read or is cut off.
        """
        with self.tar.open(mode) as stream:
            stream.seek(self.offset)
            data = stream.read(self.size)
        if len(data) < self.size:
            raise OSError(f"{self} is cut off after {len(data)} of {self.size} bytes")
        return io.BytesIO(data)

    def is_file(self) -> bool:
        """Whether it can be opened; it is in the tar, so yes."""
        return True

    def __str__(self) -> str:
        return f"{self.tar}/{self.name}"


ImageFile = Path | TarMember
"""where an image lies"""


class _Headers(io.BufferedReader):
    """A tar's file, which no header makes to be read at length."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes; at most {_HEADER_BYTES} are read")
        return super().read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError) as error:  # sizes of up to 2^96 can be written in a header
            raise tarfile.ReadError(f"a header leads to byte {offset}, which no file has") from error


def entries(path: Path | RemoteFile) -> Iterator[tarfile.TarInfo]:
    """The entries of an uncompressed tar, of all kinds, in their order; their data is passed over.

    Raises:
        OSError, tarfile.TarError: the file is no such tar, or ends in the middle.
    """
    with _headers(path) as stream, _opened(stream) as tar:
        while (entry := _next(tar)) is not None:
            yield entry
            tar.members.clear()  # type: ignore[attr-defined]  # else all are kept in memory
        _check_end(stream, tar.offset)


def _opened(stream: _Headers) -> tarfile.TarFile:
    with _damage():
        return tarfile.open(fileobj=stream, mode="r:", errorlevel=2)


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    with _damage():
        entry = tar.next()
        if entry is not None and entry.size < 0:  # can be written in base 256, and would lead back
            raise ValueError(f"it is of {entry.size} bytes")
        return entry


@contextmanager
def _damage() -> Iterator[None]:
    """`tarfile` lets slip what goes wrong with numbers in damaged headers."""
    try:
        yield
    except (ValueError, IndexError) as error:
        raise tarfile.ReadError(f"a header is damaged ({error})") from error


@contextmanager
def _headers(path: Path | RemoteFile) -> Iterator[_Headers]:
    with path.open("rb", buffering=0) as raw, _Headers(cast("io.RawIOBase", raw), 4096) as stream:
        yield stream


def _check_end(stream: _Headers, offset: int) -> None:
    """`tarfile` takes what is no header for the end, and reads no tar that follows another in one file."""
    stream.seek(offset)
    padding = stream.read(2 * tarfile.RECORDSIZE)
    if len(padding) < tarfile.BLOCKSIZE or padding.strip(tarfile.NUL):
        raise tarfile.ReadError(f"no clean end at byte {offset}: it is cut off or damaged, or holds several tars")


class Slice(io.RawIOBase):
    """Part of a file, read as if it were one."""

    def __init__(self, path: Path, first: int, size: int) -> None:
        self._stream, self._first, self._size, self._place = path.open("rb", buffering=0), first, size, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The place in the part."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place in the part; what lies after its end is empty."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill as much of `buffer` as there is."""
        view = memoryview(buffer)
        self._stream.seek(self._first + self._place)
        count: int = self._stream.readinto(view[: max(0, self._size - self._place)])
        self._place += count
        return count

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        super().close()


def is_plain(entry: tarfile.TarInfo) -> bool:
    """Whether an entry is a file whose bytes lie in the tar as they are."""
    return entry.isreg() and not entry.issparse()


def find_members(path: Path) -> dict[str, TarMember]:
    """The plain files of a tar by name.

    Raises:
        UsageError: it is not a readable, uncompressed tar.
    """
    try:
        found = (entry for entry in entries(path) if is_plain(entry))
        return {entry.name: TarMember(path, entry.name, entry.offset_data, entry.size) for entry in found}
    except (OSError, tarfile.TarError) as error:
        raise UsageError(f"{path} cannot be read ({error}); accepted: an uncompressed tar; restore it") from error
