"""Runs of `--format webdataset`: the tars, that they are the same as the folders, and that they survive everything."""

from __future__ import annotations

import gc
import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from material import CLASSES, Setup, TinyNetworks, contents, crawl, flags, masks

from f2f.engine import Progress, RunMismatchError, UsageError, evaluate_masks, label, show_mask
from f2f.engine.cli import main
from f2f.engine.picture import open_image
from f2f.engine.tars import find_members
from f2f.engine.write import encode_mask
from f2f.training.segmentation.engine_output import read_engine_output
from f2f.training.segmentation.images import LabelledSet, read_confidence
from f2f.training.segmentation.sampling import Augmentation, SegmentationSamples, Source, batch_indices

NAMES = tuple(f"{query}/{number}.mp4" for query in CLASSES for number in range(2))
SETUP = Setup(rule="f2f", confidence=True, max_windows=2, format="webdataset")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = crawl(tmp_path_factory.mktemp("videos"), *NAMES)
    for number in range(2):
        (folder / "blue" / f"-empty{number}.mp4").touch()  # the first shard: nothing but these
    return folder


@pytest.fixture(scope="module")
def finished(videos: Path, tmp_path_factory: pytest.TempPathFactory, networks: TinyNetworks) -> Path:
    """A run that was never interrupted, in tars."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert label(SETUP.options(videos, out, networks)).masks == 12
    return out


@pytest.fixture(scope="module")
def folders(videos: Path, tmp_path_factory: pytest.TempPathFactory, networks: TinyNetworks) -> Path:
    """The same run in folders."""
    out = tmp_path_factory.mktemp("folders") / "out"
    label(replace(SETUP, format="voc").options(videos, out, networks))
    return out


def tars(out: Path) -> list[Path]:
    return sorted((out / "webdataset").glob("*.tar"))


# ---- what is written


def test_rules_of_the_format(finished: Path) -> None:
    assert [path.name for path in tars(finished)] == ["000001.tar", "000002.tar", "000003.tar"], "no masks: no tar"
    for path in tars(finished):
        with tarfile.open(path, "r:") as tar:
            entries = tar.getmembers()
        assert all(entry.isreg() and entry.type == tarfile.REGTYPE for entry in entries)
        owned = {(e.mtime, e.uid, e.gid, e.uname, e.gname, e.mode, bool(e.pax_headers)) for e in entries}
        assert owned == {(0, 0, 0, "", "", 0o644, False)}
        keys = [entry.name.partition(".")[0] for entry in entries]
        assert keys == sorted(keys), "members of a key are adjacent"
        endings = ["jpg", "png", "confidence.png", "json"]
        assert [entry.name.partition(".")[2] for entry in entries] == endings * (len(entries) // 4)
    assert (finished / "webdataset" / "labels.txt").read_text().split() == ["background", *CLASSES]
    assert not (finished / "voc").exists()
    assert not (finished / ".staging").exists()


def test_same_files_as_the_folders_hold(finished: Path, folders: Path) -> None:
    found = {name: member.open().read() for path in tars(finished) for name, member in find_members(path).items()}
    for mask in masks(folders):
        assert json.loads(found.pop(f"{mask['id']}.json")) == mask
        for ending, place in (("jpg", "JPEGImages"), ("png", "SegmentationClass"), ("confidence.png", "Confidence")):
            path = folders / "voc" / place / f"{mask['id']}.{ending.rpartition('.')[2]}"
            assert found.pop(f"{mask['id']}.{ending}") == path.read_bytes()
    assert not found


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_the_library_reads_them(finished: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="the library webdataset is not installed")
    found = list(webdataset.WebDataset([str(path) for path in tars(finished)], shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in found] == [
        id_ for path in tars(finished) for id_ in sorted({name.partition(".")[0] for name in find_members(path)})
    ]
    by_id = {mask["id"]: mask for mask in masks(finished)}
    for sample in found:
        assert sample["json"] == by_id[sample["__key__"]]
        assert sample["jpg"].size == sample["png"].size == sample["confidence.png"].size == (96, 64)
    gc.collect()  # the library leaves files open


# ---- the same bytes


def test_same_bytes_for_any_number_of_decoders(
    videos: Path, finished: Path, tmp_path: Path, networks: TinyNetworks
) -> None:
    label(replace(SETUP, decoders=3).options(videos, tmp_path / "out", networks))
    assert contents(tmp_path / "out") == contents(finished)


class StopHereError(Exception):
    pass


def test_stopped_and_gone_on_with(videos: Path, finished: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    def stop(progress: Progress) -> None:
        if progress.committed_shards >= 2:
            raise StopHereError

    options = SETUP.options(videos, tmp_path / "out", networks)
    with pytest.raises(StopHereError):
        label(options, stop)
    assert len(tars(options.out)) == 1
    label(options)
    assert contents(options.out) == contents(finished)


def test_what_a_kill_leaves_is_removed(finished: Path, videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "shards" / "000001.json").unlink()  # as if killed after the tar's rename and before the commit
    (out / "webdataset" / "000001.tar").write_bytes(b"of a run that was killed")
    (out / "webdataset" / ".000002.tar.part").write_bytes(b"killed in the middle")
    (out / "webdataset" / "000007.tar").write_bytes(b"of no shard")
    (out / ".staging" / "000001").mkdir(parents=True)
    label(SETUP.options(videos, out, networks))
    assert contents(out) == contents(finished)


def test_left_over_confidence_is_removed(folders: Path, videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    shutil.copytree(folders, tmp_path / "out")
    (tmp_path / "out" / "voc" / "Confidence" / "0123456789abcdef-0000.png").write_text("of a run that was killed")
    label(replace(SETUP, format="voc").options(videos, tmp_path / "out", networks))
    assert contents(tmp_path / "out") == contents(folders)


def test_another_format_is_refused(finished: Path, videos: Path, networks: TinyNetworks) -> None:
    with pytest.raises(RunMismatchError, match=r"options\.format: webdataset -> voc"):
        label(replace(SETUP, format="voc").options(videos, finished, networks))


# ---- the other commands


def test_scores_are_those_of_the_folders(finished: Path, folders: Path, tmp_path: Path) -> None:
    for name in NAMES:
        for frame in range(24):
            path = tmp_path / Path(name).with_suffix("") / f"{frame:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            truth = np.zeros((64, 96), np.uint8)
            truth[20:44, 4 + frame : 28 + frame] = CLASSES.index(name.split("/")[0]) + 1
            path.write_bytes(encode_mask(truth))
    scores = evaluate_masks(finished, tmp_path)
    assert scores == evaluate_masks(folders, tmp_path)
    assert scores.masks == 12
    assert scores.mean.iou > 0.5


def test_show_draws_what_it_draws_of_the_folders(finished: Path, folders: Path, tmp_path: Path) -> None:
    id_ = masks(finished)[0]["id"]
    pictures = [show_mask(run, id_, out=tmp_path / f"{n}.png") for n, run in enumerate((finished, folders))]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert open_image(pictures[0]).width > 600


def test_a_tar_that_is_gone(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "out")
    (tmp_path / "out" / "webdataset" / "000001.tar").unlink()
    with pytest.raises(UsageError, match=r"no tar in .*webdataset holds .*\.jpg; restore it, or run `f2f label`"):
        show_mask(tmp_path / "out", masks(finished)[0]["id"])


def test_status_and_the_command(
    videos: Path, tmp_path: Path, networks: TinyNetworks, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    more = ("--format", "webdataset", "--max-windows", "1")
    assert main(["label", str(videos), "--out", str(out), *flags(networks, *more)]) == 3
    assert f"masks: {out / 'webdataset'}\n" in capsys.readouterr().out
    assert main(["status", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["masks"] == 6
    with tarfile.open(tars(out)[0]) as tar:
        assert {name.partition(".")[2] for name in tar.getnames()} == {"jpg", "png", "json"}


# ---- training


def equal_samples(first: LabelledSet, second: LabelledSet) -> None:
    assert first.classes == second.classes
    known = [[(one.id, one.tags, one.weight) for one in images.images] for images in (first, second)]
    assert known[0] == known[1]
    for one, other in zip(first.images, second.images, strict=True):
        np.testing.assert_array_equal(first.labels(one), second.labels(other))
        np.testing.assert_array_equal(read_confidence(one), read_confidence(other))


def test_training_sees_the_samples_of_the_folders(finished: Path, folders: Path) -> None:
    runs = [read_engine_output(run) for run in (finished, folders)]
    equal_samples(*runs)
    assert len(runs[0].images) == 12
    augmentation = Augmentation(size_hw=(65, 65), grid_hw=(9, 9))
    samples = [SegmentationSamples([Source(run)], augmentation, 3, least_confidence=0.6) for run in runs]
    for key in batch_indices(3, 0, 6, samples[0].sizes):
        for one, other in zip(*(there[key] for there in samples), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_training_follows_no_name_out_of_a_tar(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    path = out / "webdataset" / "000001.tar"
    mask = next(name for name in find_members(path) if name.endswith("0000.png"))
    secret = tmp_path / "secret.png"
    secret.write_bytes(encode_mask(np.zeros((64, 96), np.uint8)))
    with tarfile.open(path, "r:") as tar:
        kept = [(entry, tar.extractfile(entry).read()) for entry in tar.getmembers() if entry.name != mask]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo(mask)
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
        for entry, data in kept:
            tar.addfile(entry, io.BytesIO(data))
    with pytest.raises(UsageError, match=rf"{mask} or its frame in the tars of .* is missing, which"):
        read_engine_output(out)
    path.unlink()
    path.symlink_to(finished / "webdataset" / "000001.tar")
    with pytest.raises(UsageError, match="leads out of"):
        read_engine_output(out)


@pytest.mark.parametrize("damage", ["cut off", "not a tar", "long header"])
def test_a_broken_tar_is_refused(finished: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(finished, tmp_path / "out")
    path = tmp_path / "out" / "webdataset" / "000001.tar"
    data = path.read_bytes()
    long = tarfile.TarInfo("x")
    long.type, long.size = tarfile.XHDTYPE, 1 << 40
    new = {"cut off": data[: len(data) // 2], "not a tar": b"<html>" * 200, "long header": long.tobuf() + data}
    path.write_bytes(new[damage])
    with pytest.raises(UsageError, match=r"000001\.tar cannot be read .* accepted: an uncompressed tar"):
        read_engine_output(tmp_path / "out")
