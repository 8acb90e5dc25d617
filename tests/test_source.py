"""The source: folders and manifests to rows, each exactly once; nothing outside the folder is opened unasked."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f2f.engine.errors import UsageError
from f2f.engine.options import SourceOptions
from f2f.engine.source import class_of_query, printable, read_query_map, read_source
from f2f.engine.types import InputRow

OUTSIDE = SourceOptions(allow_outside=True)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


def read(source: Path, options: SourceOptions | None = None) -> list[InputRow]:
    return read_source(str(source), options or SourceOptions())


def problems(rows: list[InputRow]) -> dict[str, str]:
    return {row.id: row.problem[0] if row.problem else "" for row in rows}


def touch(folder: Path, *names: str | bytes) -> Path:
    for name in names:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


# ---- folders


def test_folder(tmp_path: Path) -> None:
    touch(tmp_path, "dog/b.mp4", "dog/a.MP4", "cat/deep/er/x.webm", "cat/notes.txt", "dog/a.srt")
    rows = read(tmp_path)
    assert [(row.id, row.query) for row in rows] == [
        ("cat/deep/er/x.webm", "cat"), ("dog/a.MP4", "dog"), ("dog/b.mp4", "dog"),
    ]  # fmt: skip
    assert all(row.id == row.video and row.location == str(tmp_path / row.video) for row in rows)


def test_video_outside_a_query_folder(tmp_path: Path) -> None:
    assert problems(read(touch(tmp_path, "x.mp4", "dog/y.mp4"))) == {"x.mp4": "no_query", "dog/y.mp4": ""}


def test_names_are_kept_byte_for_byte(tmp_path: Path) -> None:
    names = [b"dog/\xff\xfe.mp4", b"dog/new\nline.mp4", b"dog/concat:x.mp4", b"dog/ .mp4", b"dog/..mp4.mp4"]
    rows = read(touch(tmp_path, *names))
    assert {os.fsencode(row.id) for row in rows} == set(names)
    assert all(Path(row.location).exists() for row in rows)


def test_links(tmp_path: Path) -> None:
    touch(tmp_path, "in/dog/a.mp4", "out/far.mp4", "out/sub/b.mp4")
    root = tmp_path / "in"
    (root / "dog" / "near.mp4").symlink_to("a.mp4")
    (root / "dog" / "far.mp4").symlink_to(tmp_path / "out" / "far.mp4")
    (root / "dog" / "dangling.mp4").symlink_to("nowhere.mp4")
    (root / "dog" / "itself.mp4").symlink_to("itself.mp4")
    (root / "cat").symlink_to(tmp_path / "out")
    (root / "dog" / "loop").symlink_to(root)
    assert problems(read(root)) == {
        "dog/a.mp4": "", "dog/near.mp4": "", "dog/far.mp4": "outside", "dog/dangling.mp4": "", "dog/itself.mp4": "",
        "cat": "outside",
    }  # fmt: skip
    assert problems(read(root, OUTSIDE)) == {
        "dog/a.mp4": "", "dog/near.mp4": "", "dog/far.mp4": "", "dog/dangling.mp4": "", "dog/itself.mp4": "",
        "cat/far.mp4": "", "cat/sub/b.mp4": "",
    }  # fmt: skip


def test_links_that_lead_round_in_a_circle(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.mp4", "b/y.mp4")
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a")
    assert [row.id for row in read(tmp_path)] == ["a/x.mp4", "a/to_b/y.mp4", "b/y.mp4", "b/to_a/x.mp4"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read anything")
def test_folder_that_may_not_be_read(tmp_path: Path) -> None:
    touch(tmp_path, "cat/x.mp4", "dog/y.mp4")
    (tmp_path / "cat").chmod(0)
    assert problems(read(tmp_path)) == {"cat/": "unreadable", "dog/y.mp4": ""}
    (tmp_path / "cat").chmod(0o700)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.csv", "file.txt"])
def test_source_that_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").touch()
    with pytest.raises(UsageError, match=name):
        read(tmp_path / name)


# ---- manifests


def write_manifest(folder: Path, suffix: str, rows: list[dict[str, str]]) -> Path:
    path = folder / f"list{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(stream.getvalue())
    return path


SUFFIXES = pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])


@SUFFIXES
def test_manifest(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"video": "a b.mp4", "query": "dog", "tags": "one, two", "id": "first"},
        {"video": "sub/c.mp4", "query": "cat", "tags": "", "id": ""},
    ]
    one, two = read(write_manifest(tmp_path, suffix, rows))
    assert (one.id, one.video, one.query, one.tags) == ("first", "a b.mp4", "dog", "one, two")
    assert (two.id, two.video, two.query, two.tags) == ("cat/sub/c.mp4", "sub/c.mp4", "cat", "")
    assert two.location == str(tmp_path / "sub" / "c.mp4")


@SUFFIXES
def test_other_column_names(tmp_path: Path, suffix: str) -> None:
    path = write_manifest(tmp_path, suffix, [{"url": "a.mp4", "term": "dog"}])
    (row,) = read(path, SourceOptions(video_column="url", query_column="term"))
    assert (row.video, row.query) == ("a.mp4", "dog")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_missing_columns(tmp_path: Path, suffix: str) -> None:
    path = write_manifest(tmp_path, suffix, [{"url": "a.mp4", "query": "dog"}])
    with pytest.raises(UsageError, match=r"has columns url, query; it needs video, query; .*--video-column"):
        read(path)


@SUFFIXES
def test_equal_ids(tmp_path: Path, suffix: str) -> None:
    rows = [{"video": f"{name}.mp4", "query": "dog", "id": "same"} for name in "ab"]
    with pytest.raises(UsageError, match="rows 1 and 2 both have the id 'same'"):
        read(write_manifest(tmp_path, suffix, rows))


def test_number_as_id(tmp_path: Path) -> None:
    lines = [json.dumps({"video": f"{n}.mp4", "query": "dog", "id": n}) for n in range(3)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    assert [row.id for row in read(tmp_path / "x.jsonl")] == ["0", "1", "2"]


def test_unreadable_lines_of_jsonl(tmp_path: Path) -> None:
    good = b'{"video": "a.mp4", "query": "dog"}'
    bad = [b"{", b"[1]", b'"text"', b'{"video": 3, "query": "dog"}', b'{"query": "dog"}']
    bad.append(b'{"video": "\\ud800", "query": "half a surrogate pair"}')
    (tmp_path / "x.jsonl").write_bytes(b"\n".join([*bad, b"", good]))
    rows = read(tmp_path / "x.jsonl")
    assert [row.problem[0] if row.problem else "" for row in rows] == ["bad_row"] * len(bad) + [""]
    assert all(row.problem and "of x.jsonl" in row.problem[1] for row in rows[:-1])


def test_unclosed_quote_in_csv_names_the_lines_it_swallows(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('video,query\na.mp4,dog\n"b.mp4,dog\nc.mp4,dog\nd.mp4,dog\n')
    good, bad = read(tmp_path / "x.csv")
    assert good.problem is None
    assert bad.problem is not None
    assert "lines 3 to 5 are not CSV" in bad.problem[1]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"video,query\n\xff.mp4,dog\n")
    (tmp_path / "x.jsonl").write_bytes(b'{"video": "\xff.mp4", "query": "dog"}\n')
    for suffix in ("csv", "jsonl"):
        (row,) = read(tmp_path / f"x.{suffix}")
        assert os.fsencode(row.video) == b"\xff.mp4"
        assert printable(row.video) == "\\xff.mp4"


def test_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbfvideo,query\na.mp4,dog\n")
    assert read(tmp_path / "x.csv")[0].video == "a.mp4"


@pytest.mark.parametrize("content", [b"", b"no table"])
def test_parquet_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.parquet is not a Parquet file"):
        read(tmp_path / "x.parquet")


def test_paths_that_leave_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.mp4", "secret.mp4")
    (tmp_path / "in" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    (tmp_path / "inner").mkdir()  # a name that begins like the folder's
    names = ["a.mp4", "x/../a.mp4", "../secret.mp4", "../inner/x.mp4", str(tmp_path / "secret.mp4"), "link.mp4"]
    names += ["up/secret.mp4", "http://x.invalid/a.mp4", "file:///etc/hostname", "a\0b.mp4", "."]
    path = tmp_path / "in" / "x.jsonl"
    path.write_text("".join(json.dumps({"video": name, "query": "dog"}) + "\n" for name in names))
    refused = [row.problem[0] if row.problem else "" for row in read(path)]
    assert refused == ["", "", *["outside"] * 7, "bad_path", "outside"]
    assert all(not row.location for row, problem in zip(read(path), refused, strict=True) if problem)
    admitted = [row.problem[0] if row.problem else "" for row in read(path, OUTSIDE)]
    assert admitted == [""] * 9 + ["bad_path", ""]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            NAMES,
            NAMES,
        ),
        min_size=1,
        max_size=12,
    ),
    suffix=st.sampled_from([".csv", ".jsonl", ".parquet"]),
)
def test_every_row_is_in_the_list_once(rows: list[tuple[str, str]], suffix: str) -> None:
    entries = [{"video": video, "query": query, "id": str(number)} for number, (video, query) in enumerate(rows)]
    with tempfile.TemporaryDirectory() as folder:
        if suffix == ".csv":
            text = io.StringIO()
            writer = csv.DictWriter(text, ["video", "query", "id"], quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writeheader()
            writer.writerows(entries)
            path = Path(folder) / "x.csv"
            path.write_bytes(text.getvalue().encode())
        else:
            path = write_manifest(Path(folder), suffix, entries)
        found = read(path)
    assert [(row.id, row.video, row.query) for row in found] == [(str(n), *row) for n, row in enumerate(rows)]


# ---- queries


CLASSES = ["dog", "potted plant", "tv-monitor", "Straße"]


@pytest.mark.parametrize(
    ("query", "channel"),
    [
        ("dog", 0), ("DOG", 0), (" d-o_g ", 0), ("pottedplant", 1), ("Potted_Plant", 1), ("tv monitor", 2),
        ("STRASSE", 3), ("puppy", None), ("", None), ("dogs", None),
    ],
)  # fmt: skip
def test_class_of_query(query: str, channel: int | None) -> None:
    assert class_of_query(query, CLASSES, {}) == channel


@settings(max_examples=100, deadline=None)
@given(
    channel=st.integers(0, 3),
    separators=st.lists(st.sampled_from(["", " ", "-", "_", "  "]), min_size=20, max_size=20),
    upper=st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_class_of_query_ignores_case_and_separators(channel: int, separators: list[str], upper: list[bool]) -> None:
    name = CLASSES[channel]
    letters = [letter.upper() if up else letter.lower() for letter, up in zip(name, upper, strict=False)]
    query = "".join(a + b for a, b in zip(letters, separators, strict=False))
    assert class_of_query(query, CLASSES, {}) == channel


def test_query_map(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text('{"Hot Dog": "dog", "puppy": "DOG"}')
    query_map = read_query_map(path, CLASSES)
    assert class_of_query("hot-dog", CLASSES, query_map) == 0
    assert class_of_query("PUPPY", CLASSES, query_map) == 0
    assert class_of_query("kitten", CLASSES, query_map) is None
    assert read_query_map(None, CLASSES) == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is not an object of strings"),
        ('{"a": 1}', "is not an object of strings"),
        ('{"a": "potted plan"}', "did you mean 'potted plant'"),
    ],
)
def test_query_map_that_is_none(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "map.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=words):
        read_query_map(path, CLASSES)
    with pytest.raises(UsageError, match="cannot be read"):
        read_query_map(tmp_path / "nowhere.json", CLASSES)
