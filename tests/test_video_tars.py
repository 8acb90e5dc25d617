"""Tars of videos as a source: queries and tags beside them, hostile members, and the same masks as from folders."""

from __future__ import annotations

import io
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from material import Setup, TinyNetworks, crawl, masks, records

from f2f.engine import UsageError, label, show_mask
from f2f.engine.decode import DecodeState, sample_frames
from f2f.engine.errors import VideoError
from f2f.engine.options import DecodeOptions, SourceOptions
from f2f.engine.source import read_source
from f2f.engine.tars import Slice, find_members
from f2f.engine.types import InputRow

NAMES = ("red/a.mp4", "blue/b.mp4", "green/c.mp4")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crawl(tmp_path_factory.mktemp("videos"), *NAMES)


def write_tar(path: Path, *members: tuple[str | tarfile.TarInfo, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name) if isinstance(name, str) else name
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def special(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, link
    return entry, b""


def described(**entry: object) -> bytes:
    return json.dumps(entry).encode()


def read(path: Path, **options: str) -> list[InputRow]:
    return read_source(str(path), SourceOptions(**options))  # type: ignore[arg-type]  # columns alone


# ---- what is read


def test_query_id_and_tags_stand_beside_the_video(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "crawl-000.tar",
        ("0001.mp4", b"first"),
        ("0001.json", described(query="red", tags="a, b")),
        ("0002.txt", b"blue\n"),
        ("0002.webm", b"second"),
        ("dog/0003.info.mp4", b"third"),
        ("0004.json", described(query="cat", id="mine")),
        ("0004.mp4", b"fourth"),
        ("0004.txt", b"a caption"),
        ("0005.jpg", b"no video"),
    )
    rows = read(path)
    assert [(row.id, row.video, row.query, row.tags) for row in rows] == [
        ("red/crawl-000.tar/0001.mp4", "crawl-000.tar/0001.mp4", "red", "a, b"),
        ("blue/crawl-000.tar/0002.webm", "crawl-000.tar/0002.webm", "blue", ""),
        ("dog/crawl-000.tar/dog/0003.info.mp4", "crawl-000.tar/dog/0003.info.mp4", "dog", ""),
        ("mine", "crawl-000.tar/0004.mp4", "cat", ""),
    ]
    found = []
    for row in rows:
        assert row.span is not None
        assert row.location == str(path.resolve())
        found.append(path.read_bytes()[row.span[0] : sum(row.span)])
    assert found == [b"first", b"second", b"third", b"fourth"]


def test_the_column_of_the_query_may_have_another_name(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", ("1.mp4", b"x"), ("1.json", described(search="red")))
    assert [row.query for row in read(path, query_column="search")] == ["red"]
    assert [row.problem and row.problem[0] for row in read(path)] == ["no_query"]


def test_the_same_masks_as_from_folders(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    (tmp_path / "tars").mkdir()
    for number, name in enumerate(NAMES):
        sample = (("x.mp4", (videos / name).read_bytes()), ("x.json", described(query=name.split("/")[0], id=name)))
        write_tar(tmp_path / "tars" / f"{number:03d}.tar", *sample)
    setup = Setup(max_windows=2)
    label(setup.options(videos, tmp_path / "folders", networks))
    summary = label(replace(setup, decoders=2).options(tmp_path / "tars", tmp_path / "out", networks))
    assert (summary.ok, summary.masks) == (3, 6)
    for mask in masks(tmp_path / "folders"):
        for file in (f"JPEGImages/{mask['id']}.jpg", f"SegmentationClass/{mask['id']}.png"):
            assert (tmp_path / "out" / "voc" / file).read_bytes() == (tmp_path / "folders" / "voc" / file).read_bytes()
    assert show_mask(tmp_path / "out", masks(tmp_path / "out")[0]["id"]).is_file()


def test_a_truncated_video_is_cut_where_its_member_ends(videos: Path, tmp_path: Path) -> None:
    """What follows in the tar is another file's."""
    data = (videos / NAMES[0]).read_bytes()
    path = write_tar(tmp_path / "x.tar", ("a/1.mp4", data[: len(data) // 2]), ("a/2.mp4", data), ("a/3.mp4", b""))
    for row, reason in zip(read(path), ("no_moov", "", "empty"), strict=True):
        frames = sample_frames(0, row.location, DecodeOptions(), DecodeState(), row.span)
        if reason:
            with pytest.raises(VideoError, match=reason):
                next(frames)
        else:
            whole = list(sample_frames(0, str(videos / NAMES[0]), DecodeOptions(), DecodeState()))
            for one, other in zip(frames, whole, strict=True):
                assert one.pts_seconds == other.pts_seconds
                np.testing.assert_array_equal(one.image, other.image)


@given(st.lists(st.tuples(st.sampled_from("rsce"), st.integers(0, 70)), max_size=12))
def test_a_slice_reads_as_its_bytes(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]) -> None:
    path = tmp_path_factory.mktemp("slice") / "x"
    path.write_bytes(bytes(range(100)))
    truth = io.BytesIO(bytes(range(20, 70)))
    with Slice(path, 20, 50) as part:
        for step, number in steps:
            if step == "r":
                assert part.read(number) == truth.read(number)
            elif step == "s":
                assert part.seek(number) == truth.seek(number)
            elif step == "c":
                assert part.seek(number, io.SEEK_CUR) == truth.seek(number, io.SEEK_CUR)
            else:
                assert part.seek(-min(number, 50), io.SEEK_END) == truth.seek(-min(number, 50), io.SEEK_END)
            assert part.tell() == truth.tell()


# ---- what is refused


def test_hostile_members_become_records(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    good = (videos / NAMES[0]).read_bytes()
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(good)
    sparse = tarfile.TarInfo("red/sparse.mp4")
    sparse.type = tarfile.GNUTYPE_SPARSE
    source = write_tar(
        tmp_path / "crawl" / "x.tar",
        ("red/good.mp4", good),
        special("red/link.mp4", tarfile.SYMTYPE, str(secret)),
        special("red/hard.mp4", tarfile.LNKTYPE, "red/good.mp4"),
        special("red/device.mp4", tarfile.CHRTYPE),
        special("red/pipe.mp4", tarfile.FIFOTYPE),
        ("/red/absolute.mp4", good),
        ("red/../../up.mp4", good),
        (sparse, b""),
        ("red/long.mp4", good),
        ("red/long.json", b" " * ((1 << 20) + 1)),
        ("red/deep.mp4", good),
        ("red/deep.json", b"[" * 100_000),
        ("red/half.mp4", good),
        ("red/half.json", b'{"id": "\\ud800"}'),
    )
    before = sorted(path for path in tmp_path.rglob("*"))
    label(Setup(max_windows=1).options(source, tmp_path / "out", networks))
    found = {record["video"]: (record["status"], record["reason"]) for record in records(tmp_path / "out").values()}
    bad, row = ("failed", "bad_member"), ("failed", "bad_row")
    assert found == {
        "x.tar/red/good.mp4": ("ok", ""),
        **{f"x.tar/red/{name}.mp4": bad for name in ("link", "hard", "device", "pipe", "../../up", "sparse")},
        "x.tar//red/absolute.mp4": bad,
        **{f"x.tar/red/{name}.mp4": row for name in ("long", "deep", "half")},
    }
    assert [path for path in sorted(tmp_path.rglob("*")) if (tmp_path / "out") not in (path, *path.parents)] == before


@pytest.mark.parametrize(
    ("damage", "said", "kept"),
    [
        ("cut off", "unexpected end of data", 2),
        ("garbage", "no clean end at byte 3072", 2),
        ("no end", "no clean end at byte 3072", 2),
        ("long header", "a header of", 2),
        ("two in one", "no clean end at byte 3072", 2),
        ("page", "file could not be opened|no header|invalid header|truncated", 0),
    ],
)
def test_a_broken_tar_is_a_record(tmp_path: Path, damage: str, said: str, kept: int) -> None:
    path = write_tar(tmp_path / "x.tar", ("a/1.mp4", b"1" * 600), ("a/2.mp4", b"2" * 600))
    whole = path.read_bytes()[:3072]
    long = tarfile.TarInfo("x")
    long.type, long.size = tarfile.XHDTYPE, 1 << 32
    damaged = {
        "cut off": whole[:2500],
        "garbage": whole + b"x" * 2048,
        "no end": whole,
        "long header": whole + long.tobuf(),
        "two in one": path.read_bytes() * 2,
        "page": b"<html>" * 300,
    }
    path.write_bytes(damaged[damage])
    *rows, last = read(path)
    assert [row.problem for row in rows] == [None] * kept
    assert last.problem is not None
    assert last.problem[0] == "bad_tar"
    assert re.search(said, last.problem[1]), last.problem[1]


def test_a_tar_in_a_folder_may_not_lead_out_of_it(tmp_path: Path) -> None:
    outside = write_tar(tmp_path / "outside.tar", ("red/1.mp4", b"x"))
    (tmp_path / "crawl").mkdir()
    (tmp_path / "crawl" / "x.tar").symlink_to(outside)
    (row,) = read(tmp_path / "crawl")
    assert row.problem is not None
    assert row.problem[0] == "outside"


def test_equal_ids_and_empty_tars_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", ("red/1.mp4", b"x"), ("red/1.mp4", b"y"))
    with pytest.raises(UsageError, match="rows 1 and 2 both have the id"):
        read(path)
    with pytest.raises(UsageError, match="holds no video"):
        read(write_tar(tmp_path / "empty.tar"))
    assert find_members(tmp_path / "empty.tar") == {}
