"""Source: a folder, a manifest or a tar -> the list of inputs, each with its query and the place it is opened from.

Names from a crawl are data: they are never joined into a path that is written, and a path they give is only opened
when it stays inside the source's folder (links resolved) or the user allows more.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from f2f.engine.errors import UsageError
from f2f.engine.options import SourceOptions
from f2f.engine.places import RemoteFile, files_below, is_url, local_path, url_name, usage_errors
from f2f.engine.types import InputRow
from f2f.engine.video_tars import TAR_SUFFIX, VIDEO_SUFFIXES, as_text, json_record, tar_rows

MANIFEST_SUFFIXES = (".csv", ".jsonl", ".parquet")


def read_source(source: str, options: SourceOptions) -> list[InputRow]:
    """All inputs of `source`, in a fixed order.

    A row that cannot be used stays in the list with its `problem`.

    Raises:
        UsageError: the source is missing, empty or of an unknown kind, or two rows have one id.
    """
    place = local_path(source)
    _real_folder.cache_clear()
    rows = list(_remote_rows(place, options) if is_url(place) else _local_rows(Path(place), options))
    if not rows:
        raise UsageError(
            f"source {source!r} holds no video; accepted: files {' '.join(sorted(VIDEO_SUFFIXES))} below "
            "<query>/ folders, or a manifest with rows; fill it and run again"
        )
    _refuse_equal_ids(rows)
    return rows


def _local_rows(path: Path, options: SourceOptions) -> Iterator[InputRow]:
    if path.is_dir():
        return _folder_rows(path, options)
    if path.suffix.lower() in MANIFEST_SUFFIXES:
        return _manifest_rows(path, path.parent, options)
    if path.suffix == TAR_SUFFIX and path.is_file():
        return tar_rows(path, path.name, options)
    what = "is not there" if not path.exists() else "is not a folder, manifest or tar"
    raise UsageError(
        f"source {str(path)!r} {what}; accepted: a folder <query>/**/*.mp4, a manifest "
        f"({', '.join(MANIFEST_SUFFIXES)}), or a tar of videos or a folder of such; give one of them"
    )


def _remote_rows(url: str, options: SourceOptions) -> Iterator[InputRow]:
    suffix = Path(url_name(url)).suffix.lower()
    if suffix in MANIFEST_SUFFIXES:
        return _remote_manifest_rows(url, suffix, options)
    if suffix == TAR_SUFFIX:
        return tar_rows(RemoteFile(url), url_name(url), options)
    return _remote_folder_rows(url.rstrip("/"), options)


def _remote_folder_rows(root: str, options: SourceOptions) -> Iterator[InputRow]:
    for name in files_below(root):
        suffix = PurePosixPath(name).suffix
        if suffix.lower() in VIDEO_SUFFIXES:
            yield _folder_row(root, name, options)
        elif suffix == TAR_SUFFIX:
            yield from _tar_in_folder(root, name, options)


def _remote_manifest_rows(url: str, suffix: str, options: SourceOptions) -> Iterator[InputRow]:
    """The rows of a copy; paths in it are relative to the folder that the manifest lies in."""
    with tempfile.TemporaryDirectory(prefix="f2f-") as folder:
        copy = Path(folder, "manifest").with_suffix(suffix)
        with usage_errors(url), RemoteFile(url).open() as stream, copy.open("wb") as target:
            shutil.copyfileobj(stream, target)
        try:
            yield from _manifest_rows(copy, url.rpartition("/")[0], options)
        except UsageError as error:
            raise UsageError(f"in {url}: {error}") from error


def printable(name: str) -> str:
    """`name` with bytes that are not UTF-8 spelled out, for tables and terminals."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def class_of_query(query: str, classes: Sequence[str], query_map: Mapping[str, str]) -> int | None:
    """Channel of the class a query means; ignores case and separators, None where there is none."""
    wanted = _plain(query_map.get(query, query_map.get(_plain(query), query)))
    return next((channel for channel, name in enumerate(classes) if _plain(name) == wanted), None)


def read_query_map(path: Path | None, classes: Sequence[str]) -> dict[str, str]:
    """The `--query-map` file {query: class}, keyed by query and by its plain spelling.

    Raises:
        UsageError: not a JSON object of strings, or a class the classifier does not have.
    """
    if path is None:
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--query-map {path} cannot be read ({error.strerror}); give a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--query-map {path} is not JSON ({error}); accepted: {{query: class}}") from error
    if not isinstance(entries, dict) or not all(isinstance(value, str) for value in entries.values()):
        raise UsageError(f'--query-map {path} is not an object of strings; accepted: {{"puppy": "dog"}}')
    for query, name in entries.items():
        if class_of_query(name, classes, {}) is None:
            hint = get_close_matches(name, classes, n=1)
            raise UsageError(
                f"--query-map {path} maps {query!r} to {name!r}, which the classifier does not know"
                f"{f' (did you mean {hint[0]!r}?)' if hint else ''}; accepted: {', '.join(classes)}"
            )
    return {key: name for query, name in entries.items() for key in (query, _plain(query))}


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _folder_rows(
    root: Path, options: SourceOptions, directory: str = "", trail: tuple[str, ...] = ()
) -> Iterator[InputRow]:
    """Videos below `directory` (relative to `root`); a folder that is not entered is a row with its problem."""
    here = os.path.realpath(root / directory)
    try:
        names = sorted(entry.name for entry in Path(here).iterdir())
    except OSError as error:
        problem = ("unreadable", f"the folder cannot be listed ({error.strerror})")
        yield InputRow(directory or ".", directory or ".", "", problem=problem)
        return
    folders = [name for name in names if os.path.isdir(root / directory / name)]  # noqa: PTH112 - False if not allowed
    for name in names:
        if Path(name).suffix.lower() in VIDEO_SUFFIXES and name not in folders:
            yield _folder_row(root, directory + name, options)
        elif Path(name).suffix == TAR_SUFFIX and name not in folders:
            yield from _tar_in_folder(root, directory + name, options)
    for name in folders:
        if os.path.realpath(root / directory / name) in {*trail, here}:  # a link back leads nowhere new
            continue
        _, problem_of_link = _locate(root, directory + name, options)
        if problem_of_link:
            yield InputRow(directory + name, directory + name, "", problem=problem_of_link)
        else:
            yield from _folder_rows(root, options, directory + name + os.sep, (*trail, here))


def _folder_row(root: Path | str, relative: str, options: SourceOptions) -> InputRow:
    query, _, rest = relative.partition(os.sep)
    if not rest:
        problem = ("no_query", "lies outside a <query>/ folder; move it into a folder named after its search term")
        return InputRow(id=relative, video=relative, query="", problem=problem)
    return _located(root, InputRow(id=relative, video=relative, query=query), options)


def _tar_in_folder(root: Path | str, relative: str, options: SourceOptions) -> Iterator[InputRow]:
    location, problem = _locate(root, relative, options)
    if problem:
        yield InputRow(relative, relative, "", problem=problem)
    else:
        yield from tar_rows(RemoteFile(location) if is_url(location) else Path(location), relative, options)


def _located(root: Path | str, row: InputRow, options: SourceOptions) -> InputRow:
    """The row with its `location`, or with the problem that keeps it from having one; a remote `root` is a URL."""
    location, problem = _locate(root, row.video, options)
    return InputRow(row.id, row.video, row.query, location, row.tags, problem)


def _locate(root: Path | str, video: str, options: SourceOptions) -> tuple[str, tuple[str, str] | None]:
    if "\0" in video:
        return "", ("bad_path", "the path holds a NUL byte")
    if is_url(video) or isinstance(root, str):
        return _locate_url(root, video, options)
    path = _real_path(os.path.join(root, video))  # noqa: PTH118 - a hundred thousand times
    inside = path.startswith(_real_folder(str(root)).rstrip(os.sep) + os.sep)
    if not inside and not options.allow_outside:
        return "", ("outside", "leaves the source's folder; --allow-outside admits it")
    return path, None


def _real_path(path: str) -> str:
    """What `os.path.realpath` gives, at the price of one look for a file whose folder was seen before."""
    folder, name = os.path.split(path)
    if name in {"", os.curdir, os.pardir}:
        return os.path.realpath(path)
    whole = os.path.join(_real_folder(folder), name)  # noqa: PTH118 - as above
    return os.path.realpath(whole) if os.path.islink(whole) else whole  # noqa: PTH114 - as above


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    """Remembered while a source is read."""
    return os.path.realpath(folder)


def _locate_url(root: Path | str, video: str, options: SourceOptions) -> tuple[str, tuple[str, str] | None]:
    if "::" in video:
        return "", ("bad_path", "the name holds '::', by which fsspec would chain places; rename it")
    url = video if is_url(video) else f"{root}/{video}"
    inside = isinstance(root, str) and url.startswith(f"{root}/") and ".." not in url.removeprefix(root).split("/")
    if not inside and not options.allow_outside:
        return "", ("outside", "is a URL that leaves the source; --allow-outside admits it")
    try:
        return local_path(url), None
    except UsageError as error:
        return "", ("bad_path", str(error))


def _manifest_rows(path: Path, root: Path | str, options: SourceOptions) -> Iterator[InputRow]:
    if not path.is_file():
        raise UsageError(f"manifest {path} is not there; give a .csv, .jsonl or .parquet file")
    for number, entry in enumerate(_records(path, options), 1):
        yield _manifest_row(path, root, number, entry, options)


def _manifest_row(
    path: Path, root: Path | str, number: int, entry: Mapping[str, object] | str, options: SourceOptions
) -> InputRow:
    """The row of one manifest line; `entry` is the reason as text where the line could not be read."""
    stand_in = f"row-{number:06d}"
    if isinstance(entry, str):
        return InputRow(id=stand_in, video="", query="", problem=("bad_row", f"row {number} of {path.name}: {entry}"))
    video, query = entry.get(options.video_column), entry.get(options.query_column)
    name, tags = as_text(entry.get("id")), as_text(entry.get("tags"))
    if not isinstance(video, str) or not isinstance(query, str) or not video or not query:
        found = f"{options.video_column} is {video!r:.200}, {options.query_column} is {query!r:.200}"
        problem = ("bad_row", f"row {number} of {path.name}: {found}; both must be text")
        return InputRow(name or stand_in, as_text(video), "", problem=problem)
    return _located(root, InputRow(name or f"{query}/{video}", video, query, tags=tags), options)


def _records(path: Path, options: SourceOptions) -> Iterable[Mapping[str, object] | str]:
    readers = {".csv": _csv_records, ".jsonl": _jsonl_records, ".parquet": _parquet_records}
    return readers[path.suffix.lower()](path, (options.video_column, options.query_column))


def _need_columns(path: Path, found: Sequence[str], wanted: tuple[str, str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UsageError(
            f"manifest {path} has columns {', '.join(found) or 'none'}; it needs {', '.join(wanted)}; rename "
            "them or name yours with --video-column and --query-column"
        )


def _csv_records(path: Path, wanted: tuple[str, str]) -> Iterator[Mapping[str, object] | str]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        try:
            columns = list(reader.fieldnames or [])
        except csv.Error as error:
            raise UsageError(f"manifest {path} has a first line that is not CSV ({error}); write it anew") from error
        _need_columns(path, columns, wanted)
        while True:
            line = reader.reader.line_num + 1
            try:
                entry = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield f"lines {line} to {reader.reader.line_num} are not CSV ({error})"
            else:
                extra = entry.pop(None, None) if None in entry else None
                yield f"has {len(extra)} fields too many" if extra else entry


def _jsonl_records(path: Path, wanted: tuple[str, str]) -> Iterator[Mapping[str, object] | str]:
    with path.open("rb") as stream:
        for line in stream:
            if line.strip():
                yield json_record(line)


def _parquet_records(path: Path, wanted: tuple[str, str]) -> Iterator[Mapping[str, object] | str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        columns = table.column_names
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UsageError(f"manifest {path} is not a Parquet file ({error}); write it anew") from error
    _need_columns(path, columns, wanted)
    for batch in table.to_batches():
        yield from _parquet_rows(batch)


def _parquet_rows(batch: Any) -> Iterator[Mapping[str, object] | str]:
    """The rows of an Arrow table or batch; one that holds what Python cannot take costs itself alone."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, dates beyond the calendar
        if batch.num_rows == 1:
            yield f"cannot be read ({error})"
            return
        half = batch.num_rows // 2
        yield from _parquet_rows(batch.slice(0, half))
        yield from _parquet_rows(batch.slice(half))


def _refuse_equal_ids(rows: Sequence[InputRow]) -> None:
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        if row.id in seen:
            raise UsageError(
                f"rows {seen[row.id]} and {number} both have the id {printable(row.id)!r}; ids must be unique: "
                "remove one row, or give the manifest an id column"
            )
        seen[row.id] = number
