"""Every kind of bad input: it gets a record or a clear message, and the other videos get their masks."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from material import (
    TinyNetworks,
    classifier_file,
    contents,
    crawl,
    f2f_command,
    flags,
    flow_file,
    masks,
    records,
)

from f2f.engine.cli import main

GOOD = ("red/good one.mp4", "green/good.two.mp4")
GOOD_MASKS = 8


class Bench:
    """A crawl with two good videos, and `f2f label` on it."""

    def __init__(self, folder: Path, networks: TinyNetworks, capture: pytest.CaptureFixture[str]) -> None:
        self.source, self.out, self.networks, self._capture = folder / "crawl", folder / "out", networks, capture
        crawl(self.source, *GOOD)

    def label(self, *more: str, source: Path | None = None) -> tuple[int, str]:
        """Exit code and stderr of `f2f label`; stderr never holds a traceback."""
        code = main(["label", str(source or self.source), "--out", str(self.out), *flags(self.networks, *more)])
        said = self._capture.readouterr().err
        assert "Traceback" not in said
        return code, said

    def record(self, name: str) -> dict[str, Any]:
        """The record of the input `name`."""
        return records(self.out)[name]

    def assert_good_masks(self, count: int = GOOD_MASKS) -> None:
        """The good videos have their masks, and every mask has its two files."""
        good = [mask for mask in masks(self.out) if mask["input"] in GOOD]
        assert len(good) == count
        for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
            names = {path.name for path in (self.out / "voc" / folder).iterdir()}
            assert names == {f"{mask['id']}.{suffix}" for mask in masks(self.out)}


@pytest.fixture
def bench(tmp_path: Path, networks: TinyNetworks, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, networks, capsys)


def test_good_videos_alone(bench: Bench) -> None:
    assert bench.label()[0] == 0
    bench.assert_good_masks()


# ---- the source


def test_empty_folder(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    code, said = bench.label(source=tmp_path / "nothing")
    assert code == 2
    assert "holds no video" in said
    assert "<query>/" in said
    assert not bench.out.exists()


def test_missing_source(bench: Bench, tmp_path: Path) -> None:
    code, said = bench.label(source=tmp_path / "nowhere")
    assert code == 2
    assert "nowhere" in said
    assert "is not there" in said
    assert not bench.out.exists()


def manifest(bench: Bench, *lines: str) -> Path:
    path = bench.source / "manifest.csv"
    path.write_text("\n".join(["video,query", *(f"{name},{name.split('/')[0]}" for name in GOOD), *lines]) + "\n")
    return path


def by_manifest_id(out: Path) -> dict[str, dict[str, Any]]:
    return {record["video"]: record for record in records(out).values()}


def test_missing_file_of_a_manifest(bench: Bench) -> None:
    code, _ = bench.label(source=manifest(bench, "red/gone.mp4,red"))
    assert code == 3
    record = by_manifest_id(bench.out)["red/gone.mp4"]
    assert (record["status"], record["stage"], record["reason"]) == ("failed", "decode", "missing")
    assert record["failure"] == "transient"
    assert sum(record["masks"] for record in records(bench.out).values()) == GOOD_MASKS


@pytest.mark.parametrize(
    "line",
    ["only one field", 'red/"x.mp4,red', "a,red,too,many", ",red", "red/x.mp4,"],
    ids=["short", "quotes", "long", "no_video", "no_query"],
)
def test_unreadable_manifest_row(bench: Bench, line: str) -> None:
    if line.startswith('red/"'):
        line = '"red/x.mp4"x,red'
    code, _ = bench.label(source=manifest(bench, line))
    assert code == 3
    (bad,) = [record for record in records(bench.out).values() if record["status"] == "failed"]
    assert (bad["stage"], bad["reason"], bad["failure"]) == ("source", "bad_row", "permanent")
    assert "row 3 of manifest.csv" in bad["detail"]
    assert sum(record["masks"] for record in records(bench.out).values()) == GOOD_MASKS


def test_equal_ids(bench: Bench) -> None:
    code, said = bench.label(source=manifest(bench, "red/good one.mp4,red"))
    assert code == 2
    assert "rows 1 and 3" in said
    assert "'red/red/good one.mp4'" in said
    assert not bench.out.exists()


def test_names_that_leave_the_folder(bench: Bench, tmp_path: Path) -> None:
    shutil.copy(bench.source / GOOD[0], tmp_path / "secret.mp4")
    outside = ("../secret.mp4", str(tmp_path / "secret.mp4"), "concat:../secret.mp4", "http://localhost:9/x.mp4")
    code, _ = bench.label(source=manifest(bench, *(f"{name},red" for name in outside)))
    assert code == 3
    reasons = {record["video"]: record["reason"] for record in records(bench.out).values()}
    assert [reasons[name] for name in outside] == ["outside", "outside", "missing", "outside"]


def test_one_unknown_query(bench: Bench) -> None:
    crawl(bench.source, "purple/x.mp4")
    code, _ = bench.label()
    assert code == 0
    record = bench.record("purple/x.mp4")
    assert (record["status"], record["reason"]) == ("skipped", "unknown_query")
    assert "--query-map" in record["detail"]
    bench.assert_good_masks()


def test_only_unknown_queries(bench: Bench, tmp_path: Path) -> None:
    code, said = bench.label(source=crawl(tmp_path / "other", "purple/x.mp4", "orange/y.mp4"))
    assert code == 2
    assert "orange, purple" in said
    assert "red, green, blue" in said
    assert not bench.out.exists()


# ---- the networks


def test_classifier_without_metadata(bench: Bench, tmp_path: Path) -> None:
    path = classifier_file(tmp_path / "bare.onnx", {})
    code, said = bench.label("--classifier", str(path))
    assert code == 2
    assert "f2f.kind is missing" in said
    assert "f2f export classifier" in said
    assert not bench.out.exists()


def test_wrong_kind_of_network(bench: Bench) -> None:
    code, said = bench.label("--classifier", str(bench.networks.flow))
    assert code == 2
    assert "is a flow network; --classifier accepts a classifier network" in said


def test_wrong_tensors(bench: Bench, tmp_path: Path) -> None:
    path = flow_file(tmp_path / "odd.onnx", {"f2f.kind": "classifier", "f2f.classes": '["red"]'})
    code, said = bench.label("--classifier", str(path))
    assert code == 2
    assert "'frames': 5" in said
    assert "'image': 4" in said


def test_wrong_number_of_classes(bench: Bench, tmp_path: Path) -> None:
    path = classifier_file(tmp_path / "two.onnx", {"f2f.kind": "classifier", "f2f.classes": '["red", "green"]'})
    code, said = bench.label("--classifier", str(path))
    assert code == 2
    assert "2 classes" in said


@pytest.mark.parametrize("content", [b"", b"no network at all", b"\x08\x08"], ids=["empty", "text", "stub"])
def test_broken_network_file(bench: Bench, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.onnx").write_bytes(content)
    code, said = bench.label("--classifier", str(tmp_path / "broken.onnx"))
    assert code == 2
    assert "broken.onnx" in said


def test_missing_network_file(bench: Bench) -> None:
    code, said = bench.label("--classifier", "nowhere.onnx")
    assert code == 2
    assert "nowhere.onnx: there is no such file" in said


# ---- the output folder


def test_output_folder_with_other_files(bench: Bench) -> None:
    bench.out.mkdir()
    (bench.out / "thesis.txt").write_text("precious")
    code, said = bench.label()
    assert code == 2
    assert "thesis.txt" in said
    assert [path.name for path in bench.out.iterdir()] == ["thesis.txt"]


def test_output_is_a_file(bench: Bench) -> None:
    bench.out.write_text("precious")
    code, said = bench.label()
    assert code == 2
    assert "is a file" in said
    assert bench.out.read_text() == "precious"


def test_output_folder_with_another_run(bench: Bench) -> None:
    assert bench.label()[0] == 0
    before = contents(bench.out)
    code, said = bench.label("--tau", "0.8")
    assert code == 2
    assert "options.tau: 0.9 -> 0.8" in said
    assert contents(bench.out) == before


def test_output_folder_with_a_broken_run(bench: Bench) -> None:
    bench.out.mkdir()
    (bench.out / "run.json").write_text("{")
    code, said = bench.label()
    assert code == 2
    assert "run.json" in said


def test_disk_full_while_writing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("blue/x.mp4", "blue/y.mp4"):  # one shard for these, one for the good ones
        crawl(bench.source, name)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", _full_after(9))
        code, said = bench.label()
    assert code == 1
    assert "the disk is full" in said
    assert "run the same command again" in said
    committed = records(bench.out)
    assert set(committed) == {"blue/x.mp4", "blue/y.mp4"}
    assert not (bench.out / ".staging").exists()
    assert json.loads((bench.out / "summary.json").read_text())["pending"] == 2
    assert bench.label()[0] == 0
    bench.assert_good_masks()


def _full_after(masks_written: int) -> Any:
    """`Path.write_bytes` of a disk that takes so many masks with their frames and no more."""
    write_bytes, left = Path.write_bytes, [2 * masks_written]

    def full(self: Path, data: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_bytes(self, data)

    return full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_really_full(bench: Bench, small_disk: Path) -> None:
    bench.out = small_disk / "out"
    crawl(bench.source, *(f"blue/{number}.mp4" for number in range(6)))
    code, said = bench.label("--shard-videos", "1", "--window-stride", "1")
    assert code == 1
    assert "the disk is full" in said
    committed = set(records(bench.out))
    assert 0 < len(committed) < 8
    for path in small_disk.glob("out/*.parquet"):
        path.unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert bench.label("--shard-videos", "1", "--window-stride", "1")[0] == 0
    assert committed < set(records(bench.out))
    assert len(records(bench.out)) == 8


def test_read_only_output(bench: Bench, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    bench.out = small_disk / "out"
    code, said = bench.label()
    assert code == 1
    assert "the file system is read-only" in said
    assert "run the same command again" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_output_without_permission(bench: Bench) -> None:
    bench.out.mkdir(mode=0o500)
    code, said = bench.label()
    assert code == 1
    assert "writing is not permitted" in said


def test_file_size_limit(bench: Bench) -> None:
    """A quota that cuts files short ends the run like a full disk; what is written stays whole."""
    command = f2f_command("label", bench.source, "--out", bench.out, *flags(bench.networks, "--max-side", "64"))
    ring_bytes = 8 * 64 * 64 * 3
    limits = (ring_bytes, ring_bytes)
    crawl(bench.source, *(f"blue/{number:03d}.mp4" for number in range(3)))
    big = bench.source / "manifest.jsonl"
    rows = [json.dumps({"video": GOOD[0], "query": "red", "id": "x" * 2000 + str(n)}) for n in range(80)]
    big.write_text("\n".join(rows))
    command[command.index(str(bench.source))] = str(big)
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
    )
    assert done.returncode == 1
    assert "run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
