"""Tars of videos, as WebDataset and video2dataset write them -> inputs, each with the place it is read from in its tar.

A sample is `<key>.mp4` and, beside it, `<key>.json` with its query (else `<key>.txt`, else the key's first folder is
its query), and with `id` and `tags` where it has them; a key ends at the first dot of the file's name. Nothing is
extracted: what is no plain file, or has a name that leads out of the tar, becomes a record.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path, PurePosixPath

from f2f.engine.options import SourceOptions
from f2f.engine.places import RemoteFile, usage_errors
from f2f.engine.tars import TarMember, entries, is_plain
from f2f.engine.types import InputRow

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".flv", ".wmv", ".3gp"}
    | {".ogv", ".gif"}
)
TAR_SUFFIX = ".tar"
_TEXT_BYTES = 1 << 20
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}


def tar_rows(path: Path | RemoteFile, name: str, options: SourceOptions) -> Iterator[InputRow]:
    """The videos of the tar at `path`, which the source calls `name`, in their order.

    What cannot be read, of the tar or of a sample, is a row with its problem.

    Raises:
        UsageError: the store that holds it does not answer.
    """
    with usage_errors(path.url) if isinstance(path, RemoteFile) else nullcontext():
        for key, sample in groupby(_members(path, name), lambda member: _key(member, name)):
            yield from _sample(name, key, list(sample), options)


def as_text(value: object) -> str:
    """A manifest's value as text; nothing is empty."""
    return "" if value is None else str(value)


def json_record(line: bytes) -> Mapping[str, object] | str:
    """The JSON object that `line` holds, or as text why it is none."""
    try:
        entry = json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"
    if not _fits_file_names(entry):
        return "holds half a surrogate pair, which no file name can"
    return entry if isinstance(entry, dict) else f"a JSON {type(entry).__name__}, not an object"


def _fits_file_names(entry: object) -> bool:
    """Whether all text in a JSON value can be a file name: bytes that are not UTF-8 can, halves of a pair cannot."""
    try:
        os.fsencode(json.dumps(entry, ensure_ascii=False))
    except UnicodeEncodeError:
        return False
    return True


def _members(path: Path | RemoteFile, tar: str) -> Iterator[TarMember | InputRow]:
    """The plain files of the tar; other entries, and an end that comes too early, as rows with their problem."""
    try:
        for number, entry in enumerate(entries(path), 1):
            if not entry.isdir():
                yield _member(path, tar, number, entry)
    except (OSError, tarfile.TarError) as error:
        if isinstance(path, RemoteFile) and not isinstance(error, tarfile.TarError):
            raise
        yield InputRow(tar, tar, "", problem=("bad_tar", f"{error}; what comes before is read"))


def _member(path: Path | RemoteFile, tar: str, number: int, entry: tarfile.TarInfo) -> TarMember | InputRow:
    kind = "" if is_plain(entry) else _KINDS.get(entry.type, "no plain file")
    leads_out = entry.name.startswith("/") or ".." in PurePosixPath(entry.name).parts
    if not kind and not leads_out:
        return TarMember(path, entry.name, entry.offset_data, entry.size)
    what = f"is {kind}" if kind else "has a name that leads out of the tar"
    detail = f"entry {number} {what}; accepted: plain files with names inside it"
    return InputRow(f"{tar}/entry-{number:06d}", f"{tar}/{entry.name}", "", problem=("bad_member", detail))


def _key(member: TarMember | InputRow, tar: str) -> str:
    """What the files of a sample share: the name up to its first dot."""
    name = member.name if isinstance(member, TarMember) else member.video.removeprefix(f"{tar}/")
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _sample(tar: str, key: str, members: list[TarMember | InputRow], options: SourceOptions) -> Iterator[InputRow]:
    files = [member for member in members if isinstance(member, TarMember)]
    texts = {ending: file for file in files if (ending := file.name.removeprefix(key)) in {".json", ".txt"}}
    for member in members:
        if isinstance(member, InputRow):
            yield member
        elif PurePosixPath(member.name).suffix.lower() in VIDEO_SUFFIXES:
            yield _row(f"{tar}/{member.name}", key, member, texts, options)


def _row(video: str, key: str, member: TarMember, texts: Mapping[str, TarMember], options: SourceOptions) -> InputRow:
    entry = _described(texts)
    if isinstance(entry, str):
        return InputRow(video, video, "", problem=("bad_row", entry))
    query = (
        as_text(entry.get(options.query_column)) or as_text(entry.get(".txt")) or key.rpartition("/")[0].split("/")[0]
    )
    if not query:
        what = f"neither {options.query_column!r} in {key}.json, nor {key}.txt, nor a folder names its search term"
        return InputRow(video, video, "", problem=("no_query", what))
    return InputRow(
        id=as_text(entry.get("id")) or f"{query}/{video}",
        video=video,
        query=query,
        location=member.tar.url if isinstance(member.tar, RemoteFile) else os.path.realpath(member.tar),
        tags=as_text(entry.get("tags")),
        span=(member.offset, member.size),
    )


def _described(texts: Mapping[str, TarMember]) -> Mapping[str, object] | str:
    """What is said of a video beside it; why it cannot be read, as text."""
    found: dict[str, object] = {}
    for ending, member in texts.items():
        if member.size > _TEXT_BYTES:
            return f"{member.name} has {member.size} bytes; at most {_TEXT_BYTES} are read"
        try:
            with member.open() as stream:
                data = stream.read()
        except OSError as error:
            return f"{member.name} cannot be read ({error})"
        if ending == ".txt":
            found.setdefault(".txt", data.decode("utf-8", "surrogateescape").strip())
        elif isinstance(entry := json_record(data), str):
            return f"{member.name}: {entry}"
        else:
            found |= entry
    return found
