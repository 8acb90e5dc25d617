"""Files that are there whole or not at all, what a full or broken disk means for a run, and seals that show damage."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from f2f.engine.errors import MachineError

_MKDIR_ATTEMPTS = 100
_MACHINE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "writing is not permitted",
    errno.EPERM: "writing is not permitted",
    errno.EIO: "the disk reports an error",
    errno.EMFILE: "too many files are open",
}


@contextmanager
def machine_errors(path: Path) -> Iterator[None]:
    """Turn an error of the machine while writing `path` into a `MachineError` that says how to go on."""
    try:
        yield
    except OSError as error:
        what = _MACHINE.get(error.errno or 0, error.strerror or str(error))
        raise MachineError(
            f"{what} (while writing {path}); what is committed stays; mend it and run the same command again to go on"
        ) from error


def write_aside(path: Path, data: bytes) -> None:
    """Write `data` beside `path` and rename it there: readers see the old file or the new one, never a part.

    Raises:
        MachineError: the disk does not take it.
    """
    with open_aside(path) as stream:
        stream.write(data)


@contextmanager
def open_aside(path: Path) -> Iterator[BinaryIO]:
    """A file to be written beside `path`, which is renamed there at the end, or removed where that is not reached.

    Raises:
        MachineError: the disk does not take it.
    """
    aside = path.with_name(f".{path.name}.part")
    with machine_errors(path):
        try:
            make_folder(path.parent)
            with aside.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            aside.replace(path)
        except OSError:
            aside.unlink(missing_ok=True)
            raise


def make_folder(path: Path) -> None:
    """Make a folder and those above it, even while other processes remove the latter whenever they are empty."""
    for _ in range(_MKDIR_ATTEMPTS):
        with suppress(FileNotFoundError, FileExistsError):
            path.mkdir(parents=True, exist_ok=True)
            return
    path.mkdir(parents=True, exist_ok=True)


def digest(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


_SEAL, _END = b',\n "sha256": "', b'"\n}\n'


def sealed(text: str) -> bytes:
    """A JSON object as `json.dumps(…, indent=1)` writes it, with a last entry: the digest of all before it."""
    body = text.rstrip().removesuffix("\n}").encode()
    return body + _SEAL + hashlib.sha256(body).hexdigest().encode() + _END


def check_seal(data: bytes) -> None:
    """Check the digest in a file that was sealed; a file of before there were seals passes.

    Raises:
        ValueError: the file is not what was written.
    """
    body, mark, digest = data.rpartition(_SEAL)
    if mark and digest != hashlib.sha256(body).hexdigest().encode() + _END:
        raise ValueError("it is not what was written: its digest differs")
