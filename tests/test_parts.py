"""Parts of long videos: what is done of one survives what ends the run, and the next run goes on behind it."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from material import Setup, TinyNetworks, contents, flags, pictures, records, write_video

from f2f.engine import LabelOptions, Progress, label, parts
from f2f.engine.cli import main
from f2f.engine.files import sealed
from f2f.engine.options import SpreadOptions
from f2f.engine.parts import Parts
from f2f.engine.retry import Choice, retry
from f2f.engine.ring import RING_SLOTS
from f2f.engine.types import (
    ImageArray,
    InputRow,
    PartEnd,
)
from f2f.engine.verify import repair, verify

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # scripts that import their neighbours

from chaos import Job, at_a_touch, survive

SHOT, SHOTS = 24, 8
"""frames of a shot, at 12 frames/s; shots of the long video"""
SAMPLED = SHOT * SHOTS // 2
LONG = "red/long.mp4"


def shots(*colours: str) -> list[ImageArray]:
    """A cut every 24 frames: a square of a colour over another background."""
    return [image for seed, colour in enumerate(colours) for image in pictures(colour, SHOT, seed=seed)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A long video of shots of which two do not show its query, and two that are too short for parts."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / LONG, shots("red", "red", "blue", "red", "red", "grey", "red", "red"))
    write_video(folder / "blue" / "0.mp4", pictures("blue", 12))
    write_video(folder / "green" / "0.mp4", pictures("green", 12))
    return folder


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a second."""
    monkeypatch.setattr(parts, "PART_SECONDS", 1.0)


class StopHereError(Exception):
    pass


def results(out: Path) -> dict[str, bytes]:
    """All but a note of where the source was."""
    return {name: data for name, data in contents(out).items() if name != "run.json"}


def part_files(out: Path) -> list[Path]:
    return sorted((out / ".staging").glob("*/*.part-*.json"))


def interrupted(options: LabelOptions, number: int = 2) -> int:
    """Begin a run and end it behind a part; how many frames of the long video the kept parts hold."""
    add = Parts.add

    def add_and_stop(self: Parts, *given: Any, **named: Any) -> None:
        add(self, *given, **named)
        if len(part_files(options.out)) >= number:
            raise StopHereError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parts, "add", add_and_stop)
        with pytest.raises(StopHereError):
            label(options)
    assert len(part_files(options.out)) >= number
    return frames_in_parts(options.out)


def frames_in_parts(out: Path) -> int:
    return int(json.loads(part_files(out)[-1].read_text())["end"]["scan"]["frames_sampled"])


def frames_of(options: LabelOptions) -> int:
    """Run to the end; how many frames were looked at."""
    seen = [0]

    def on_progress(progress: Progress) -> None:
        seen[0] = progress.frames

    label(options, on_progress)
    return seen[0]


@dataclass(frozen=True)
class Case:
    name: str
    setup: Setup
    min_quality: float = 0.0

    def options(self, videos: Path, out: Path, networks: TinyNetworks) -> LabelOptions:
        options = self.setup.options(videos, out, networks)
        return replace(options, aggregation=replace(options.aggregation, min_quality=self.min_quality))


BASE = Setup(shard_videos=3)
CASES = [
    Case("all, as tars", replace(BASE, format="webdataset", saliency="classical")),
    Case("enough", replace(BASE, max_windows=13)),
    Case("trusted and overlapping", replace(BASE, window_stride=2, trust_query=True)),
    Case(
        "first, with confidence, as tars",
        replace(BASE, rule="f2f", confidence=True, windows="first", format="webdataset"),
    ),
    Case("best, some of low quality", replace(BASE, rule="f2f", windows="best"), min_quality=0.5),
    Case("first, none of which is good", replace(BASE, rule="f2f", windows="first"), min_quality=0.999),
    Case("no window", replace(BASE, tau=0.999999)),
]


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_next_run_goes_on_behind_what_is_done(
    case: Case, videos: Path, tmp_path: Path, networks: TinyNetworks
) -> None:
    options = case.options(videos, tmp_path / "out", networks)
    whole = frames_of(replace(options, out=tmp_path / "whole"))
    done = interrupted(options)
    assert done >= 12
    assert verify(options.out).problems == (), "what is kept is no leftover"
    ahead = RING_SLOTS if case.setup.max_windows else 0  # frames that are under way when a video is cancelled
    assert frames_of(options) <= whole - done + ahead
    assert contents(options.out) == contents(tmp_path / "whole")
    assert not (options.out / ".staging").exists()
    assert verify(options.out).problems == ()


@pytest.mark.usefixtures("short_parts")
def test_runs_that_die_again_and_again_come_to_the_end(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    options = BASE.options(videos, tmp_path / "out", networks)
    label(replace(options, out=tmp_path / "whole"))
    done = [interrupted(options, number) for number in (1, 4)]
    assert done == sorted(set(done))
    label(options)
    assert contents(options.out) == contents(tmp_path / "whole")


@dataclass(frozen=True)
class ImpatientJob(Job):
    """Its parts are short."""

    def command(self, last_touch: int = 0) -> list[str]:
        python, flag, program, *rest = super().command(last_touch)
        return [python, flag, f"import f2f.engine.parts as parts\nparts.PART_SECONDS = 0.5\n{program}", *rest]


def test_killed_before_any_touch_of_a_file(videos: Path, tmp_path: Path, networks: TinyNetworks, seed: int) -> None:
    own = tuple(flags(networks, "--sample-fps", "6", "--shard-videos", "3"))
    label(BASE.options(videos, tmp_path / "whole", networks))
    job = ImpatientJob(videos, tmp_path / "out", own)
    assert survive(job, at_a_touch(180), 2, tmp_path / "whole", random.Random(seed)) >= 1


@pytest.mark.usefixtures("short_parts")
def test_a_worker_goes_on_too(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    options = BASE.options(videos, tmp_path / "out", networks)
    whole = frames_of(replace(options, out=tmp_path / "whole"))
    done = interrupted(options)
    assert frames_of(replace(options, spread=SpreadOptions(devices="cpu"))) <= whole - done
    assert contents(options.out) == contents(tmp_path / "whole")


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("touched", [False, True], ids=["as it was", "touched"])
def test_a_finished_video_is_not_opened_again_whatever_became_of_its_shard(
    videos: Path, tmp_path: Path, networks: TinyNetworks, monkeypatch: pytest.MonkeyPatch, touched: bool
) -> None:
    source = Path(shutil.copytree(videos, tmp_path / "videos"))
    write_video(source / "blue" / "0.mp4", shots("blue", "red", "blue"))
    options = BASE.options(source, tmp_path / "out", networks)
    label(replace(options, out=tmp_path / "whole"))

    def on_progress(progress: Progress) -> None:
        if progress.settled:
            raise StopHereError

    with pytest.raises(StopHereError):
        label(options, on_progress)
    if touched:
        (source / "blue" / "0.mp4").touch()
    opened, begun = [], parts.Parts.begun

    def watched(self: parts.Parts, video: int, row: InputRow) -> PartEnd | None:
        opened.append(row.id)
        return begun(self, video, row)

    monkeypatch.setattr(parts.Parts, "begun", watched)
    label(options)
    assert ("blue/0.mp4" in opened) == touched
    if not touched:
        assert contents(options.out) == contents(tmp_path / "whole")
    assert verify(options.out).problems == ()


# ---- what does not fit


@pytest.fixture(scope="module")
def stopped(videos: Path, tmp_path_factory: pytest.TempPathFactory, networks: TinyNetworks) -> tuple[Path, int]:
    """A folder of videos, a run that ended behind three parts, and a whole one; how many frames that looked at."""
    folder = tmp_path_factory.mktemp("stopped")
    options = BASE.options(Path(shutil.copytree(videos, folder / "videos")), folder / "out", networks)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(parts, "PART_SECONDS", 1.0)
        interrupted(options, 3)
    return folder, frames_of(replace(options, out=folder / "whole"))


@pytest.fixture
def begun(stopped: tuple[Path, int], tmp_path: Path, networks: TinyNetworks) -> tuple[LabelOptions, int]:
    """The same for one test; how to go on."""
    folder, frames = stopped
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return BASE.options(tmp_path / "videos", tmp_path / "out", networks), frames


def staged_mask_of_part(out: Path, number: int) -> Path:
    part = part_files(out)[number]
    names = json.loads(part.read_text())["files"]
    return part.with_name(next(name for name in names if name.endswith(".png")))


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def forge(path: Path) -> None:
    """As it should be, but of another run."""
    entry = json.loads(path.read_text())
    del entry["sha256"]
    path.write_bytes(sealed(json.dumps({**entry, "run": "0" * 64}, indent=1)))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def write_another(path: Path) -> None:
    path.write_bytes(next(other for other in path.parent.glob("*.png") if other != path).read_bytes())


@pytest.mark.parametrize(
    ("what", "number", "damage"),
    [
        *(("record", 0, forge), ("record", 1, flip_a_byte), ("record", 1, Path.unlink), ("record", 1, empty)),
        *(("mask", 0, Path.unlink), ("mask", 1, flip_a_byte), ("mask", 1, write_another)),
    ],
)
def test_what_is_damaged_is_done_again(
    begun: tuple[LabelOptions, int], tmp_path: Path, what: str, number: int, damage: Callable[[Path], None]
) -> None:
    options, whole = begun
    path = part_files(options.out)[number] if what == "record" else staged_mask_of_part(options.out, number)
    damage(path)
    kept = 0
    if number:
        kept = json.loads(part_files(options.out)[0].read_text())["end"]["scan"]["frames_sampled"]
    assert [one.kind for one in verify(options.out).problems] == ["leftover"]
    assert frames_of(options) == whole - kept
    assert results(options.out) == results(tmp_path / "whole")


def test_a_video_that_changed_is_done_anew(
    begun: tuple[LabelOptions, int], videos: Path, tmp_path: Path, networks: TinyNetworks
) -> None:
    options, whole = begun
    path = Path(options.source) / LONG
    write_video(path, shots("red", "blue", "red", "red"))
    assert 0 < frames_of(options) < whole
    for other in ("blue/0.mp4", "green/0.mp4"):
        shutil.copy2(videos / other, Path(options.source) / other)
    label(replace(options, out=tmp_path / "other"))
    assert results(options.out) == results(tmp_path / "other")
    assert records(options.out)[LONG]["frames_sampled"] == SAMPLED // 2


def test_a_copy_of_the_same_video_is_done_anew(begun: tuple[LabelOptions, int], tmp_path: Path) -> None:
    """Nothing but its time tells it from another."""
    options, whole = begun
    (Path(options.source) / LONG).touch()
    assert frames_of(options) == whole
    found, expected = results(options.out), results(tmp_path / "whole")
    assert {name for name in expected if found[name] != expected[name]} == {"shards/000000.json", "videos.parquet"}


def test_other_options_do_all_anew(begun: tuple[LabelOptions, int], tmp_path: Path) -> None:
    options, whole = begun
    other = replace(options, window=replace(options.window, window_frames=2), force=True)
    assert frames_of(other) == whole
    label(replace(other, out=tmp_path / "other"))
    assert results(options.out) == results(tmp_path / "other")


@pytest.mark.usefixtures("short_parts")
def test_a_video_that_fails_keeps_no_parts(begun: tuple[LabelOptions, int], tmp_path: Path) -> None:
    """It changes after it was opened, so what was done of it may be of another video; `f2f retry` has it done anew."""
    options, _ = begun
    path = Path(options.source) / LONG
    time_ns = path.stat().st_mtime_ns

    def on_progress(progress: Progress) -> None:
        if progress.frames >= 16:
            path.touch()

    assert label(options, on_progress).reasons == {"changed": 1}
    assert records(options.out)[LONG]["masks"] == 0
    assert not (options.out / ".staging").exists()
    os.utime(path, ns=(time_ns, time_ns))
    retry(options.out, Choice())
    done = interrupted(options)
    assert verify(options.out).problems == ()
    assert frames_of(options) == SAMPLED - done
    assert records(options.out)[LONG]["attempts"] == 2
    now, expected = results(options.out), results(tmp_path / "whole")
    assert [name for name in expected if now[name] != expected[name]] == ["shards/000000.json", "videos.parquet"]


def test_what_else_was_left_is_removed(begun: tuple[LabelOptions, int], tmp_path: Path) -> None:
    options, whole = begun
    kept = {path.name for path in part_files(options.out)[0].parent.iterdir()}
    stray = part_files(options.out)[0].parent / "0123456789abcdef-0000.png"
    stray.write_text("written aside by a run that was killed")
    found = verify(options.out)
    assert [(one.kind, one.path) for one in found.problems] == [("leftover", ".staging/000000")]
    repair(options.out, found)
    assert {path.name for path in stray.parent.iterdir()} == kept
    stray.write_text("again")
    assert frames_of(options) < whole
    assert results(options.out) == results(tmp_path / "whole")


def test_status_tells_of_parts(begun: tuple[LabelOptions, int], capsys: pytest.CaptureFixture[str]) -> None:
    options, _ = begun
    assert main(["status", str(options.out), "--json"]) == 0
    (seconds,) = json.loads(capsys.readouterr().out)["parts"]
    assert 3 <= seconds < SHOT * SHOTS / 12
    assert main(["status", str(options.out)]) == 0
    assert "done in part: 1 pending inputs, 0." in capsys.readouterr().out
    label(options)
    assert main(["status", str(options.out)]) == 0
    assert "done in part" not in capsys.readouterr().out
