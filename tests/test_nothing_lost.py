"""What `f2f verify`, `retry`, `status` and `label --force` make of runs that were damaged, failed, live or changed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from material import CLASSES, Setup, TinyNetworks, contents, crawl, flags, records, start_f2f, wait_for

from f2f.engine import LabelOptions, RunMismatchError, Summary, UsageError, label
from f2f.engine.claims import claimed, live_claims, locked
from f2f.engine.cli import main
from f2f.engine.files import sealed
from f2f.engine.layout import SUFFIXES, Part, layout_of
from f2f.engine.records import read_shard, shard_path, write_shard
from f2f.engine.retry import Choice, retry
from f2f.engine.run import read_run
from f2f.engine.status import read_status
from f2f.engine.tars import ImageFile
from f2f.engine.verify import repair, verify
from f2f.engine.write import encode_frame, encode_mask

NAMES = tuple(f"{query}/{number}.mp4" for query in CLASSES for number in range(2))
FORMATS = ("voc", "webdataset")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crawl(tmp_path_factory.mktemp("videos"), *NAMES)


@pytest.fixture(scope="module", params=FORMATS)
def finished(
    request: pytest.FixtureRequest, videos: Path, tmp_path_factory: pytest.TempPathFactory, networks: TinyNetworks
) -> Path:
    """A run that was never interrupted, in either format."""
    out = tmp_path_factory.mktemp("finished") / "out"
    label(Setup(max_windows=2, format=request.param).options(videos, out, networks))
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


def setup_of(out: Path) -> Setup:
    return Setup(max_windows=2, format=read_run(out)["options"]["format"])


# ---- verify


def test_a_whole_run_verifies(out: Path) -> None:
    found = verify(out)
    assert found.problems == ()
    assert (found.exit_code, found.committed_shards, found.shards) == (0, 3, 3)
    assert (found.inputs, found.pending, found.masks) == (6, 0, 12)
    assert found.files == (24 if (out / "voc").exists() else 3)


def a_file(out: Path) -> Path:
    """A mask of shard 1, or the tar it lies in."""
    record = read_shard(shard_path(out, 1))
    return out / max(record.files)


def flip_a_byte(out: Path) -> None:
    data = bytearray(a_file(out).read_bytes())
    data[len(data) // 2] ^= 1
    a_file(out).write_bytes(data)


def cut_off(out: Path) -> None:
    a_file(out).write_bytes(a_file(out).read_bytes()[:300])


def remove(out: Path) -> None:
    a_file(out).unlink()


def damage_the_record(out: Path) -> None:
    path = shard_path(out, 1)
    path.write_text(path.read_text().replace('"shots": 1', '"shots": 2', 1))


def swap_records(out: Path) -> None:
    shutil.copy(shard_path(out, 2), shard_path(out, 1))


def rename_the_inputs(out: Path) -> None:
    record = read_shard(shard_path(out, 1))
    write_shard(out, replace(record, videos=tuple(replace(video, id=f"{video.id}x") for video in record.videos)))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (flip_a_byte, "its digest differs"),
        (cut_off, "its digest differs"),
        (remove, "is missing"),
        (damage_the_record, "its digest differs"),
        (swap_records, "it is the record of shard 2"),
        (rename_the_inputs, "not of the inputs that run.json pins"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_found_repaired_and_made_anew(
    finished: Path, out: Path, videos: Path, networks: TinyNetworks, harm: Callable[[Path], None], words: str
) -> None:
    harm(out)
    found = verify(out)
    assert (found.damaged_shards, found.exit_code) == ([1], 3)
    assert any(words in one.detail for one in found.problems), found.problems
    said = repair(out, found)
    assert "2 inputs are pending: run the same `f2f label` command once more" in said
    assert verify(out).problems == (), "what is left is whole"
    assert verify(out).pending == 2
    assert label(setup_of(out).options(videos, out, networks)).ok == 6
    assert contents(out) == contents(finished)


def data_of(file: ImageFile) -> bytes:
    with file.open("rb") as stream:
        return stream.read()


def rewrite(out: Path, files: dict[Part, bytes]) -> None:
    """Replace files of shard 1's first mask and let its record's digests agree, as a faulty writer would."""
    record, layout = read_shard(shard_path(out, 1)), layout_of(out, read_run(out)["options"])
    id_, ids = record.masks[0].id, [mask.id for mask in record.masks]
    members = layout.members(1, ids)
    for mask in ids:
        before = {part: data_of(members[f"{mask}{SUFFIXES[part]}"]) for part in layout.parts}
        layout.stage(1, mask, {**before, **files} if mask == id_ else before)
    record = replace(record, files=layout.publish(1, ids))
    layout.clear_staging(1)
    write_shard(out, record)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"frame": encode_frame(np.zeros((64, 95, 3), np.uint8))}, "frame is 95x64 px, its record says 96x64"),
        ({"mask": encode_mask(np.zeros((64, 96), np.uint8))}, "mask has other areas than its record says"),
        ({"mask": encode_mask(np.full((64, 96), 4, np.uint8))}, "mask has label 4; labels.txt has 4 lines"),
        ({"mask": b"no picture"}, "cannot be read as an image"),
    ],
    ids=["frame size", "areas", "label", "broken"],
)
def test_pairs_are_checked_whatever_the_digests_say(out: Path, files: dict[Part, bytes], words: str) -> None:
    rewrite(out, {})
    assert verify(out).problems == ()
    rewrite(out, files)
    found = verify(out)
    assert found.damaged_shards == [1]
    assert any(words in one.detail for one in found.problems), found.problems


def test_masks_of_two_videos_that_changed_places(out: Path) -> None:
    record = read_shard(shard_path(out, 1))
    first, second = (next(mask for mask in record.masks if mask.input == video.id) for video in record.videos)
    swapped = {first.id: replace(first, input=second.input), second.id: replace(second, input=first.input)}
    write_shard(out, replace(record, masks=tuple(swapped.get(mask.id, mask) for mask in record.masks)))
    details = [one.detail for one in verify(out).problems]
    assert f"mask {first.id} is not named after its input and window" in details


def test_what_belongs_to_nothing(finished: Path, out: Path) -> None:
    folder = out / "voc" / "Confidence" if (out / "voc").exists() else out / "webdataset"
    folder.mkdir(exist_ok=True)
    (folder / ("0123456789abcdef-0000.png" if (out / "voc").exists() else "000007.tar")).write_text("left over")
    (out / ".staging" / "000002").mkdir(parents=True)
    found = verify(out)
    assert [one.kind for one in found.problems] == ["leftover", "leftover"]
    repair(out, found)
    assert contents(out) == contents(finished)
    assert not (out / ".staging").exists()


def test_tables_and_lists_are_checked(finished: Path, out: Path) -> None:
    labels = next(out.glob("*/labels.txt"))
    labels.write_text("background\n")
    (out / "summary.json").unlink()
    shutil.copy(out / "labels.parquet", out / "videos.parquet")
    (out / "labels.parquet").write_bytes(b"no table")
    found = verify(out)
    assert {one.path for one in found.problems} == {
        *("videos.parquet", "labels.parquet", "summary.json"),
        labels.relative_to(out).as_posix(),
    }
    assert {one.kind for one in found.problems} == {"outdated"}
    repair(out, found)
    assert contents(out) == contents(finished)


def test_verify_command(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(out)]) == 0
    assert capsys.readouterr().out.endswith("6 inputs of which 0 pending: all as it should be\n")
    a_file(out).unlink()
    assert main(["verify", str(out), "--json"]) == 3
    answer = json.loads(capsys.readouterr().out)
    assert answer["damaged_shards"] == [1]
    assert main(["verify", str(out), "--repair"]) == 3
    captured = capsys.readouterr()
    assert "damaged: " in captured.out
    assert "1 damaged shards taken back" in captured.err
    assert main(["verify", str(out)]) == 0
    assert "2 of 3 shards committed" in capsys.readouterr().out


def test_what_run_json_pins_is_not_guessed(out: Path, videos: Path, networks: TinyNetworks) -> None:
    path = out / "run.json"
    path.write_text(path.read_text().replace("0.9", "0.8"))
    for act in (lambda: verify(out), lambda: label(setup_of(out).options(videos, out, networks))):
        with pytest.raises(UsageError, match=r"run.json is not a run's pinned state \(it is not what was written"):
            act()


# ---- retry


@pytest.fixture
def source(videos: Path, tmp_path: Path) -> Path:
    """The videos; one is empty, one is gone, as a manifest has it."""
    source = Path(shutil.copytree(videos, tmp_path / "videos"))
    (source / "red" / "1.mp4").unlink()
    (source / "green" / "1.mp4").write_bytes(b"")
    (source / "all.csv").write_text("video,query\n" + "".join(f"{name},{name.split('/')[0]}\n" for name in NAMES))
    return source


@pytest.fixture(params=FORMATS)
def setup(request: pytest.FixtureRequest) -> Setup:
    return Setup(max_windows=2, format=request.param)


def test_retry_does_what_failed_again_and_nothing_else(
    source: Path, videos: Path, tmp_path: Path, networks: TinyNetworks, setup: Setup
) -> None:
    options = setup.options(source / "all.csv", tmp_path / "out", networks)
    assert label(options).failed == 2
    before = contents(options.out)
    shutil.copy(videos / "red" / "1.mp4", source / "red" / "1.mp4")
    shutil.copy(videos / "green" / "1.mp4", source / "green" / "1.mp4")
    assert label(options).failed == 2, "a failure is an outcome: nothing is done again unasked"
    assert retry(options.out, Choice(failure="transient")).pending == ("red/red/1.mp4",)
    assert verify(options.out).problems == ()
    status = read_status(options.out)
    assert (status.summary.pending, status.summary.failed) == (1, 1)
    summary = label(options)
    assert (summary.ok, summary.failed, summary.pending) == (5, 1, 0)
    after = records(options.out)
    assert (after["red/red/1.mp4"]["attempts"], after["red/red/1.mp4"]["reason"]) == (2, "")
    assert retry(options.out, Choice(reason="empty", stage="decode")).pending == ("green/green/1.mp4",)
    assert label(options).ok == 6
    assert verify(options.out).problems == ()
    whole = replace(options, out=tmp_path / "whole")
    label(whole)
    now, expected = contents(options.out), contents(whole.out)
    same = [name for name in expected if name.startswith(("voc", "webdataset", "labels"))]
    assert {name: now[name] for name in same} == {name: expected[name] for name in same}
    assert all(now[name] == before[name] for name in before if name.startswith("voc/JPEG")), "the others were kept"


def test_what_fails_too_often_is_quarantined(source: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    options = Setup(max_windows=1).options(source / "all.csv", tmp_path / "out", networks)
    label(options)
    for attempts in (2, 3):
        assert len(retry(options.out, Choice()).pending) == 2
        assert label(options).failed == 2
        assert {records(options.out)[f"{name.split('/')[0]}/{name}"]["attempts"] for name in NAMES} == {1, attempts}
    refused = retry(options.out, Choice())
    assert (refused.pending, len(refused.quarantined)) == ((), 2)
    assert read_status(options.out).summary.quarantined == 2
    assert [one.quarantined for one in read_status(options.out).failed] == [True, True]
    assert label(options).failed == 2
    assert len(retry(options.out, Choice(max_attempts=9)).pending) == 2
    label(options)
    assert read_status(options.out).summary.quarantined == 0
    label(options)
    assert len(retry(options.out, Choice(force=True)).pending) == 2


def test_retry_of_nothing_says_what_failed(source: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    options = Setup(max_windows=1).options(source / "all.csv", tmp_path / "out", networks)
    label(options)
    there = "failures there: permanent in decode: empty; transient in decode: missing"
    with pytest.raises(UsageError, match=f"failed with --class permanent --reason hung; {there}"):
        retry(options.out, Choice(failure="permanent", reason="hung"))
    with pytest.raises(UsageError, match="--max-attempts 0 is not accepted; accepted: 1 or more"):
        Choice(max_attempts=0)


def test_retry_command(
    source: Path, tmp_path: Path, networks: TinyNetworks, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Setup(max_windows=1).options(source / "all.csv", tmp_path / "out", networks)
    label(options)
    assert main(["retry", str(options.out), "--class", "transient", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"pending": ["red/red/1.mp4"], "quarantined": []}
    label(options)
    assert main(["retry", str(options.out), "--max-attempts", "2"]) == 0
    said = capsys.readouterr().out
    assert "1 inputs are to be done again: run the same `f2f label` command once more" in said
    assert "1 inputs stay failed, quarantined after 2 attempts" in said
    assert main(["retry", str(options.out), "--class", "permament"]) == 2


# ---- live runs


@pytest.fixture
def stopped(tmp_path: Path, networks: TinyNetworks) -> subprocess.Popen[str]:
    """A run in OUT = tmp_path/out, held in the middle."""
    source, out = crawl(tmp_path / "long", *NAMES, frames=144), tmp_path / "out"
    process = start_f2f("label", source, "--out", out, *flags(networks, "--window-stride", "1"))
    wait_for((out / "shards" / "000000.json").exists, process)
    process.send_signal(signal.SIGSTOP)
    return process


def test_status_verify_and_retry_beside_a_live_run(
    stopped: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    try:
        status = read_status(out)
        assert [(one.pid, one.shards, one.inputs) for one in status.live] == [(stopped.pid, 3, 6)]
        assert status.live[0].settled == status.summary.ok > 0
        assert status.live[0].inputs_per_hour > 0
        assert main(["status", str(out)]) == 0
        assert f"live: process {stopped.pid} on " in capsys.readouterr().out
        assert main(["status", str(out), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["live"][0]["inputs"] == 6
        found = verify(out)
        assert found.problems == ()
        assert "a process is at work" in found.note
        for act in (lambda: retry(out, Choice()), lambda: repair(out, found)):
            with pytest.raises(UsageError, match=rf"another run is at work in .* \(process {stopped.pid} on .*"):
                act()
    finally:
        stopped.send_signal(signal.SIGCONT)
        stopped.communicate()
    assert stopped.returncode == 0
    assert read_status(out).live == ()
    assert verify(out).problems == ()


def test_shards_of_a_live_process_are_refused_and_others_are_not(tmp_path: Path) -> None:
    with locked(tmp_path), claimed(tmp_path, [0, 2, 4], 30), claimed(tmp_path, [1, 3], 20):
        assert [claim.shards for claim in live_claims(tmp_path)] == [(0, 2, 4), (1, 3)]
        with (
            pytest.raises(UsageError, match=r"another run is at work .*with shards 2 to 4"),
            claimed(tmp_path, [2, 4, 5], 1),
        ):
            pass
    assert live_claims(tmp_path) == []


def test_the_claim_of_a_killed_process_is_dead(stopped: subprocess.Popen[str], tmp_path: Path) -> None:
    stopped.kill()
    stopped.communicate()
    assert len(list((tmp_path / "out" / ".locks").iterdir())) == 1
    assert read_status(tmp_path / "out").live == ()
    with locked(tmp_path / "out"), claimed(tmp_path / "out", [0, 1, 2], 6):
        assert len(live_claims(tmp_path / "out")) == 1


# ---- what changed


def forced(options: LabelOptions, said: list[str]) -> Summary:
    return label(replace(options, force=True), on_override=said.append)


def test_force_does_everything_anew_with_other_options(
    out: Path, videos: Path, tmp_path: Path, networks: TinyNetworks
) -> None:
    changed = replace(setup_of(out), window_frames=2).options(videos, out, networks)
    with pytest.raises(RunMismatchError, match=r"options.window_frames: 3 -> 2\n.*do all anew with --force"):
        label(changed)
    said: list[str] = []
    assert forced(changed, said).ok == 6
    assert "  options.window_frames: 3 -> 2\n3 of 3 committed shards are done anew, and their 12 masks" in said[0]
    label(replace(changed, out=tmp_path / "whole"))
    assert contents(out) == contents(tmp_path / "whole")
    assert forced(changed, said).ok == 6
    assert len(said) == 1, "nothing to override"


def test_force_does_the_shard_of_an_input_that_is_gone_anew(
    out: Path, videos: Path, tmp_path: Path, networks: TinyNetworks
) -> None:
    shutil.copytree(videos, tmp_path / "fewer")
    (tmp_path / "fewer" / "red" / "1.mp4").unlink()
    said: list[str] = []
    assert forced(setup_of(out).options(tmp_path / "fewer", out, networks), said).ok == 5
    assert "red/1.mp4 was red/1.mp4 (red) and is now not in the source" in said[0]
    assert "1 of 3 committed shards are done anew, and their 4 masks removed" in said[0]
    assert verify(out).problems == ()
    assert json.loads((out / "run.json").read_text())["shards"] == [[0, 2], [2, 4], [4, 5]]


def test_records_without_digests_are_read(out: Path) -> None:
    """Of before there were any."""
    path = shard_path(out, 0)
    entry = json.loads(path.read_text())
    del entry["files"], entry["sha256"]
    path.write_text(json.dumps(entry))
    assert verify(out).problems == ()
    path.write_bytes(sealed(json.dumps({**entry, "shard": 0}, indent=1)))
    assert read_shard(path).files == {}
