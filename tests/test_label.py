"""End to end: small videos and hand-made networks in, masks and records out; interrupted, killed and gone on with."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from material import (
    CLASSES,
    SQUARE_PX,
    Setup,
    TinyNetworks,
    contents,
    crawl,
    flags,
    masks,
    pictures,
    records,
    square_corner,
    start_f2f,
    wait_for,
    write_video,
)
from PIL import Image

from f2f.engine import Progress, RunMismatchError, Summary, UsageError, label, read_summary
from f2f.engine.cli import main
from f2f.engine.options import RuleOptions, SourceOptions
from f2f.engine.write import voc_palette

NAMES = tuple(f"{query}/{number}.mp4" for query in CLASSES for number in range(2))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crawl(tmp_path_factory.mktemp("videos"), *NAMES)


@pytest.fixture(scope="module")
def finished(videos: Path, tmp_path_factory: pytest.TempPathFactory, networks: TinyNetworks) -> Path:
    """A run that was never interrupted."""
    out = tmp_path_factory.mktemp("finished") / "out"
    label(Setup().options(videos, out, networks))
    return out


# ---- what is written


def test_masks_lie_where_the_square_is(finished: Path) -> None:
    assert len(masks(finished)) == 4 * len(NAMES)
    for mask in masks(finished):
        labels = np.asarray(Image.open(finished / "voc" / "SegmentationClass" / f"{mask['id']}.png"))
        top, left = square_corner(96, 64, round(12 * mask["pts_seconds"][-1]))
        truth = np.zeros((64, 96), bool)
        truth[top : top + SQUARE_PX, left : left + SQUARE_PX] = True
        predicted = labels == CLASSES.index(mask["query"]) + 1
        assert (predicted & truth).sum() / (predicted | truth).sum() > 0.6
        assert set(np.unique(labels)) == {255, CLASSES.index(mask["query"]) + 1}, "without saliency the rest is ignore"


def test_voc_layout(finished: Path) -> None:
    voc = finished / "voc"
    ids = sorted(mask["id"] for mask in masks(finished))
    assert (voc / "ImageSets" / "Segmentation" / "train.txt").read_text().split() == ids
    assert (voc / "labels.txt").read_text().split() == ["background", *CLASSES]
    assert sorted(path.name for path in (voc / "JPEGImages").iterdir()) == [f"{name}.jpg" for name in ids]
    assert sorted(path.name for path in (voc / "SegmentationClass").iterdir()) == [f"{name}.png" for name in ids]
    assert all("red" not in name and "mp4" not in name for name in ids)


def test_palette_of_the_masks(finished: Path) -> None:
    image = Image.open(next((finished / "voc" / "SegmentationClass").iterdir()))
    assert (image.mode, image.size) == ("P", (96, 64))
    palette = image.getpalette()
    assert palette is not None
    assert palette[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    assert palette[-3:] == [224, 224, 192]
    assert palette == voc_palette()


def test_tables(finished: Path) -> None:
    labels = pq.read_table(finished / "labels.parquet").to_pylist()
    assert [row["id"] for row in labels] == sorted(mask["id"] for mask in masks(finished))
    first = labels[0]
    assert first["classes"] == [first["query_class"]]
    assert first["areas_px"][0] + first["background_px"] + first["ignore_px"] == 64 * 96
    assert len(first["pts_seconds"]) == 3
    assert first["scores"][0] > 0.9
    assert json.loads(first["options"])["window_frames"] == 3
    assert set(json.loads(first["networks"])) == {"classifier", "flow", "saliency"}
    videos = pq.read_table(finished / "videos.parquet").to_pylist()
    assert [row["id"] for row in videos] == sorted(NAMES)
    assert {row["status"] for row in videos} == {"ok"}
    assert {(row["frames_decoded"], row["frames_sampled"]) for row in videos} == {(24, 12)}
    assert {(row["width_px"], row["height_px"], row["fps"], row["codec"]) for row in videos} == {(96, 64, 12.0, "h264")}


def test_summary(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["inputs"] == summary["ok"] == 6
    assert summary["masks"] == 24
    assert summary["queries"] == {query: {"inputs": 2, "masks": 8} for query in sorted(CLASSES)}
    assert read_summary(finished) == Summary(**summary)


def test_saliency_makes_background(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    setup = Setup(saliency=str(networks.saliency), max_windows=1)
    label(setup.options(videos, tmp_path / "out", networks))
    pinned = json.loads((tmp_path / "out" / "run.json").read_text())["options"]
    assert pinned["theta_b"] == 0.5, "the network's own threshold"
    assert pinned["theta_f"] == 0.4, "the network's own threshold"
    for mask in masks(tmp_path / "out"):
        frame = np.asarray(Image.open(tmp_path / "out" / "voc" / "JPEGImages" / f"{mask['id']}.jpg")).astype(int)
        labels = np.asarray(Image.open(tmp_path / "out" / "voc" / "SegmentationClass" / f"{mask['id']}.png"))
        dark, light = frame[..., 0] < 115, frame[..., 0] > 140  # the tiny saliency is the red channel, theta_b = .5
        rest = labels != CLASSES.index(mask["query"]) + 1
        assert (labels[dark & rest] == 0).all()
        assert (labels[light & rest] == 255).all()


def test_classical_saliency_and_dis(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    summary = label(Setup(saliency="classical", flow="dis", max_windows=1).options(videos, tmp_path / "out", networks))
    assert (summary.ok, summary.masks) == (6, 6)


def test_rule_f2f_writes_masks_and_confidence(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    setup = Setup(rule="f2f", confidence=True, max_windows=2)
    summary = label(setup.options(videos, tmp_path / "out", networks))
    assert (summary.ok, summary.masks) == (6, 12)
    for mask in masks(tmp_path / "out"):
        labels = np.asarray(Image.open(tmp_path / "out" / "voc" / "SegmentationClass" / f"{mask['id']}.png"))
        confidence = np.asarray(Image.open(tmp_path / "out" / "voc" / "Confidence" / f"{mask['id']}.png"))
        assert confidence.shape == labels.shape == (64, 96)
        assert set(np.unique(labels)) <= {0, CLASSES.index(mask["query"]) + 1}
        assert confidence.min() >= 127, "the likelier of two labels"
    again = replace(setup, decoders=2).options(videos, tmp_path / "again", networks)
    label(again)
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def test_unsure_pixels_are_ignored(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    options = Setup(rule="f2f", confidence=True, max_windows=1).options(videos, tmp_path / "out", networks)
    label(replace(options, aggregation=replace(options.aggregation, sure=0.9)))
    for mask in masks(tmp_path / "out"):
        labels = np.asarray(Image.open(tmp_path / "out" / "voc" / "SegmentationClass" / f"{mask['id']}.png"))
        confidence = np.asarray(Image.open(tmp_path / "out" / "voc" / "Confidence" / f"{mask['id']}.png")) / 255
        assert (labels[confidence < 0.895] == 255).all()
        assert (labels[confidence > 0.905] != 255).all()


def test_sure_background_is_what_both_rules_call_so(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    usual = Setup(rule="f2f", saliency="classical", max_windows=1).options(videos, tmp_path / "out", networks)
    sure = replace(usual, out=tmp_path / "sure", aggregation=replace(usual.aggregation, sure_background=True))
    paper = replace(usual, out=tmp_path / "paper", aggregation=RuleOptions(rule="paper"))
    for options in (usual, sure, paper):
        label(options)
    ignored = 0
    for mask in masks(tmp_path / "out"):
        file = f"voc/SegmentationClass/{mask['id']}.png"
        likeliest, doubted, united = (np.asarray(Image.open(one.out / file)) for one in (usual, sure, paper))
        unsure = (likeliest == 0) & (united == 255)
        known = (likeliest != 0) | (united == 0)  # and where the paper's rule has a class, saliency is not to be seen
        assert (doubted[unsure] == 255).all()
        assert (doubted[known] == likeliest[known]).all()
        ignored += int(unsure.sum())
    assert ignored > 0


def test_sure_background_needs_saliency(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    options = Setup(rule="f2f", saliency="none").options(videos, tmp_path / "out", networks)
    with pytest.raises(UsageError, match="--saliency none with --sure-background is not accepted; accepted: classical"):
        replace(options, aggregation=replace(options.aggregation, sure_background=True))


def test_confidence_needs_rule_f2f() -> None:
    with pytest.raises(UsageError, match="--confidence with --rule paper is not accepted; accepted: --rule f2f"):
        Setup(rule="paper", confidence=True).options(Path(), Path(), TinyNetworks(Path(), Path(), Path()))


def test_trusted_query_needs_no_scores(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    label(Setup(trust_query=True).options(videos, tmp_path / "out", networks))
    assert {mask["scores"] for mask in masks(tmp_path / "out")} == {None}
    assert len(masks(tmp_path / "out")) == 24


def test_query_map(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    crawl(tmp_path / "crawl", "red/a.mp4")
    (tmp_path / "crawl" / "red").rename(tmp_path / "crawl" / "fire-engine")
    (tmp_path / "map.json").write_text('{"Fire Engine": "red"}')
    setup = Setup(sources=SourceOptions(query_map=tmp_path / "map.json"))
    summary = label(setup.options(tmp_path / "crawl", tmp_path / "out", networks))
    assert (summary.ok, summary.masks) == (1, 4)
    assert masks(tmp_path / "out")[0]["query_class"] == "red"


# ---- the same bytes


@pytest.mark.parametrize("decoders", [2, 4])
def test_same_bytes_for_any_number_of_decoders(
    videos: Path, finished: Path, tmp_path: Path, networks: TinyNetworks, decoders: int
) -> None:
    label(Setup(decoders=decoders).options(videos, tmp_path / "out", networks))
    assert contents(tmp_path / "out") == contents(finished)


@pytest.mark.parametrize("windows", ["first", "best", "all"])
def test_stopping_early_is_the_same_for_any_number_of_decoders(
    tmp_path: Path, networks: TinyNetworks, windows: str
) -> None:
    crawl(tmp_path / "crawl", *NAMES[:3], frames=240)
    runs = []
    for decoders in (1, 3):
        out = tmp_path / f"out{decoders}"
        label(Setup(decoders=decoders, max_windows=1, windows=windows).options(tmp_path / "crawl", out, networks))
        runs.append(contents(out))
        assert {record["masks"] for record in records(out).values()} == {1}
        early = {record["stopped_early"] for record in records(out).values()}
        assert early == {windows != "best"}, "the best window is known at the end of its shot"
        decoded = {record["frames_decoded"] for record in records(out).values()}
        assert decoded == ({240} if windows == "best" else {5})
    assert runs[0] == runs[1]


# ---- interrupted and gone on with


class StopHereError(Exception):
    pass


def stop_after(shards: int) -> Callable[[Progress], None]:
    def on_progress(progress: Progress) -> None:
        if progress.committed_shards >= shards:
            raise StopHereError

    return on_progress


@pytest.mark.parametrize("shards", [0, 1, 2])
def test_resume_gives_the_same_bytes(
    videos: Path, finished: Path, tmp_path: Path, networks: TinyNetworks, shards: int
) -> None:
    options = Setup().options(videos, tmp_path / "out", networks)
    with pytest.raises(StopHereError):
        label(options, stop_after(shards))
    assert read_summary(options.out).pending == 6 - 2 * shards
    assert not (options.out / ".staging").exists()
    assert label(options).pending == 0
    assert contents(options.out) == contents(finished)


def test_a_finished_run_is_not_done_again(
    finished: Path, videos: Path, tmp_path: Path, networks: TinyNetworks, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path / "out")
    monkeypatch.setattr(subprocess, "Popen", None)  # no decoding process is started
    assert label(Setup().options(videos, tmp_path / "out", networks)).ok == 6
    assert contents(tmp_path / "out") == contents(finished)


@pytest.fixture
def long_crawl(tmp_path: Path) -> Path:
    return crawl(tmp_path / "long", *NAMES, frames=144)


def committed(out: Path) -> int:
    return len(list((out / "shards").glob("*.json")))


def test_kill_9_and_go_on(long_crawl: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    options = Setup(window_stride=1).options(long_crawl, tmp_path / "out", networks)
    process = start_f2f("label", long_crawl, "--out", options.out, *flags(networks, "--window-stride", "1"))
    wait_for(lambda: committed(options.out) >= 1, process)
    process.kill()
    process.communicate()
    assert 0 < read_summary(options.out).pending < 6
    assert label(options).pending == 0
    whole = replace(options, out=tmp_path / "whole")
    label(whole)
    assert contents(options.out) == contents(whole.out)


def test_ctrl_c_and_go_on(
    long_crawl: Path, tmp_path: Path, networks: TinyNetworks, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["label", str(long_crawl), "--out", str(out), *flags(networks, "--window-stride", "1", "--json")]
    process = start_f2f(*arguments)
    wait_for(lambda: committed(out) >= 1, process)
    process.send_signal(signal.SIGSTOP)  # else a slow look at its status lets it end
    assert main(["status", str(out), "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert (seen["ok"], seen["pending"]) in {(2, 4), (4, 2)}
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    said = process.communicate()
    assert process.returncode == 130, said
    assert re.search("interrupted; [24] of 6 inputs are committed; run the same command again to go on", said[1])
    assert "Traceback" not in said[1]
    assert not (out / ".staging").exists()
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["ok"] == 6


def test_left_over_files_are_removed(finished: Path, videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    record = out / "shards" / "000001.json"
    record.unlink()  # as if killed after the renames and before the commit
    (out / ".staging" / "000002").mkdir(parents=True)
    (out / "voc" / "JPEGImages" / "0123456789abcdef-0000.jpg").write_text("of a run that was killed")
    label(Setup().options(videos, out, networks))
    assert contents(out) == contents(finished)


def test_killed_while_the_first_file_was_written(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".run.json.part").write_text("{")
    (tmp_path / "out" / ".lock").touch()
    assert label(Setup(max_windows=1).options(videos, tmp_path / "out", networks)).ok == 6


def test_a_source_that_grows(finished: Path, videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    out, source = tmp_path / "out", tmp_path / "videos"
    shutil.copytree(finished, out)
    shutil.copytree(videos, source)
    crawl(source, "blue/-first.mp4", "red/new.mp4", "red/newer.mp4")
    summary = label(Setup().options(source, out, networks))
    assert (summary.inputs, summary.ok) == (9, 9)
    pinned = json.loads((out / "run.json").read_text())
    assert [name for name, _, _ in pinned["inputs"]][6:] == ["blue/-first.mp4", "red/new.mp4", "red/newer.mp4"]
    assert pinned["shards"] == [[0, 2], [2, 4], [4, 6], [6, 8], [8, 9]]
    before = contents(finished)
    same = {name: data for name, data in contents(out).items() if name.startswith(("shards/00000", "voc/JPEG"))}
    assert all(same[name] == before[name] for name in before if name.startswith("shards/"))


def test_an_input_that_is_gone(finished: Path, videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    out, source = tmp_path / "out", tmp_path / "videos"
    shutil.copytree(finished, out)
    shutil.copytree(videos, source)
    (source / "red" / "1.mp4").unlink()
    with pytest.raises(RunMismatchError, match=r"input red/1.mp4 .* is now not in the source; .* restore it"):
        label(Setup().options(source, out, networks))
    assert contents(out) == contents(finished)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (Setup(tau=0.5), "options.tau: 0.9 -> 0.5"),
        (Setup(window_frames=2), "options.window_frames: 3 -> 2"),
        (Setup(scales=(1.0, 0.5)), "options.scales: [1.0] -> [1.0, 0.5]"),
        (Setup(trust_query=True), "options.tau: 0.9 -> None"),
        (Setup(shard_videos=3), "options.shard_videos: 2 -> 3"),
        (Setup(saliency="classical"), "networks.saliency.sha256: none -> "),
    ],
    ids=lambda value: "" if isinstance(value, Setup) else value.split(":")[0],
)
def test_other_options_are_refused_with_the_difference(
    finished: Path, videos: Path, networks: TinyNetworks, change: Setup, line: str
) -> None:
    before = contents(finished)
    with pytest.raises(RunMismatchError) as refused:
        label(change.options(videos, finished, networks))
    assert line in str(refused.value)
    assert contents(finished) == before


def test_options_that_change_no_result_may_change(finished: Path, videos: Path, networks: TinyNetworks) -> None:
    assert label(Setup(decoders=3, decode_timeout_seconds=9).options(videos, finished, networks)).ok == 6


def test_two_live_runs_in_one_folder(long_crawl: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    options = Setup().options(long_crawl, tmp_path / "out", networks)
    with start_f2f("label", long_crawl, "--out", options.out, *flags(networks)) as first:
        wait_for(lambda: committed(options.out) >= 1, first)
        first.send_signal(signal.SIGSTOP)
        try:
            before = contents(options.out)
            with pytest.raises(
                UsageError, match=rf"another run is at work in .* \(process {first.pid} on .*wait for it"
            ):
                label(options)
            assert contents(options.out) == before
        finally:
            first.send_signal(signal.SIGCONT)
        first.communicate()
    assert first.returncode == 0
    assert label(options).ok == 6


# ---- the command


def test_exit_codes_and_json(
    videos: Path, tmp_path: Path, networks: TinyNetworks, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(videos, tmp_path / "videos")
    (tmp_path / "videos" / "red" / "bad.mp4").touch()
    out = tmp_path / "out"
    assert main(["label", str(tmp_path / "videos"), "--out", str(out), *flags(networks, "--json")]) == 3
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert (answer["ok"], answer["failed"], answer["reasons"]) == (6, 1, {"empty": 1})
    assert "7/7 videos" in captured.err
    assert main(["status", str(out)]) == 0
    assert "empty 1" in capsys.readouterr().out
    assert main(["status", str(tmp_path)]) == 2
    assert main(["label", str(tmp_path / "videos"), "--out", str(out), *flags(networks)]) == 3
    assert "labels.parquet" in capsys.readouterr().out


# ---- memory


def peak_kib(source: Path, out: Path, networks: TinyNetworks) -> int:
    """Peak resident memory of a process that labels `source`."""
    script = (
        "import resource, sys; from f2f.engine.cli import main; code = main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
    )
    more = ("--windows", "best", "--max-side", "320", "--sample-fps", "12")
    command = [sys.executable, "-c", script, "label", str(source), "--out", str(out), *flags(networks, *more)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path: Path, networks: TinyNetworks) -> None:
    look = {"width": 320, "height": 240}
    write_video(tmp_path / "short" / "red" / "x.mp4", pictures("red", 40, **look))
    write_video(tmp_path / "long" / "red" / "x.mp4", pictures("red", 40, **look) * 20)
    short = peak_kib(tmp_path / "short", tmp_path / "out-short", networks)
    long = peak_kib(tmp_path / "long", tmp_path / "out-long", networks)
    assert records(tmp_path / "out-long")["red/x.mp4"]["frames_sampled"] == 800, "184 MB of them"
    assert long < 1.15 * short
