"""The readers of manifests, tars and records on damaged bytes; `make fuzz-readers` does so for hours."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from functools import partial
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # scripts that import their neighbours

from fuzz_readers import TARGETS, mutate, seeds

from f2f.engine.claims import live_claims
from f2f.engine.errors import UsageError
from f2f.engine.files import sealed
from f2f.engine.options import SourceOptions
from f2f.engine.records import ShardRecord, VideoRecord, read_shard, shard_path, write_shard
from f2f.engine.run import read_run
from f2f.engine.source import read_query_map, read_source

SEEDS = seeds()


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A few bytes changed, a piece taken out or put in elsewhere, an end cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place, length = draw(st.integers(0, len(data))), draw(st.integers(0, 8))
        kind = draw(st.sampled_from(["change", "cut", "copy", "end"]))
        if kind == "change":
            data[place : place + length] = draw(st.binary(min_size=length, max_size=length))
        elif kind == "cut":
            del data[place : place + length]
        elif kind == "copy":
            start = draw(st.integers(0, len(data)))
            data[place:place] = data[start : start + length]
        else:
            del data[max(place, len(data) // 2) :]
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_well_formed_inputs_are_read(name: str, tmp_path: Path) -> None:
    for data in SEEDS[name]:
        TARGETS[name](data, tmp_path)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_inputs_raise_nothing_but_our_errors(name: str, tmp_path: Path, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(SEEDS[name]))
    blindly = partial(data.draw, st.one_of(damaged(whole), st.binary(max_size=64)))
    TARGETS[name](mutate(name, whole, Random(data.draw(st.integers(0, 2**32))), blindly), tmp_path)


def test_a_csv_whose_first_line_is_broken(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b'video,query,"x\na.mp4,red\n')
    with pytest.raises(UsageError, match=r"first line that is not CSV .*write it anew"):
        read_source(str(tmp_path / "m.csv"), SourceOptions())


def test_a_parquet_row_that_is_not_text(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    offsets = pa.py_buffer(b"\0\0\0\0\5\0\0\0\x0a\0\0\0\x0f\0\0\0")
    videos = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"a.mp4\xff.mp4c.mp4")])
    pq.write_table(pa.table({"video": videos, "query": ["red"] * 3}), tmp_path / "m.parquet")
    rows = read_source(str(tmp_path / "m.parquet"), SourceOptions())
    assert [row.video for row in rows] == ["a.mp4", "", "c.mp4"]
    assert rows[1].problem is not None
    assert rows[1].problem[0] == "bad_row"
    assert "cannot be read" in rows[1].problem[1]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"shards": [0]}', b"\xff"])
def test_a_claim_that_cannot_be_read(content: bytes, tmp_path: Path) -> None:
    import fcntl

    path = tmp_path / ".locks" / "host-1-1.json"
    path.parent.mkdir()
    path.write_bytes(content)
    assert live_claims(tmp_path) == [], "nobody holds it"
    with path.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="is held by a live process, but is no claim"):
            live_claims(tmp_path)


def test_a_tar_whose_header_leads_beyond_all_files(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("red/a.mp4", "red/b.mp4"):
            entry = tarfile.TarInfo(name)
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"1"))
    damaged = bytearray(sink.getvalue())
    damaged[1024 + 124 : 1024 + 136] = b"\x80" + b"\xff" * 11  # the second header's size: almost 2^88, in base 256
    damaged[1024 + 148 : 1024 + 156] = b" " * 8
    damaged[1024 + 148 : 1024 + 156] = b"%06o\0 " % sum(damaged[1024:1536])
    (tmp_path / "v.tar").write_bytes(damaged)
    problems = [row.problem[0] if row.problem else "" for row in read_source(str(tmp_path / "v.tar"), SourceOptions())]
    assert problems == ["", "", "bad_tar"]


def test_a_tar_whose_sparse_header_is_cut_off(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("red/a.mp4")
    entry.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT)[:512])
    header[482] = 1  # more of the sparse map follows, says the header
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "v.tar").write_bytes(header)
    (row,) = read_source(str(tmp_path / "v.tar"), SourceOptions())
    assert row.problem is not None
    assert row.problem[0] == "bad_tar"
    assert row.problem[1].startswith("a header is damaged")


def test_a_tar_whose_entry_has_a_negative_size(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("red/a.mp4").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512, in base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "v.tar").write_bytes(header + bytes(1024))
    (row,) = read_source(str(tmp_path / "v.tar"), SourceOptions())
    assert row.problem is not None
    assert row.problem == ("bad_tar", "a header is damaged (it is of -512 bytes); what comes before is read")


def test_a_url_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no URL"):
        read_source("file://[", SourceOptions())
    (tmp_path / "m.jsonl").write_text('{"video": "file://[", "query": "red"}\n')
    (row,) = read_source(str(tmp_path / "m.jsonl"), SourceOptions(allow_outside=True))
    assert row.problem
    assert row.problem[0] == "bad_path"


def test_json_without_a_bottom(tmp_path: Path) -> None:
    for name in ("q.json", "run.json"):
        (tmp_path / name).write_text("[" * 100_000)
    with pytest.raises(UsageError, match="is not JSON"):
        read_query_map(tmp_path / "q.json", ("red",))
    with pytest.raises(UsageError, match="is not a run's pinned state"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("query", {}), ("masks", "1"), ("modified_ns", 2**63), ("mirrored", 0.5), ("detail", "\ud800"), ("tags", [1])],
)
def test_a_whole_record_that_makes_no_sense(field: str, value: object, tmp_path: Path) -> None:
    write_shard(tmp_path, ShardRecord(0, (VideoRecord("a", "a", "red", "ok"),), ()))
    content = json.loads(shard_path(tmp_path, 0).read_text())
    del content["sha256"]
    content["videos"][0][field] = value
    shard_path(tmp_path, 0).write_bytes(sealed(json.dumps(content, indent=1)))
    with pytest.raises(UsageError, match=r"is not a shard record .*f2f verify --repair"):
        read_shard(shard_path(tmp_path, 0))
