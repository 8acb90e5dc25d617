"""Probe: it says of a video what a run would record of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from material import TinyNetworks, crawl, pictures, records, truncated, write_audio, write_video

from f2f.engine.cli import main
from f2f.engine.options import DecodeOptions, WindowOptions
from f2f.engine.probe import probe


def test_it_counts_shots_and_windows(tmp_path: Path) -> None:
    video = write_video(
        tmp_path / "a.mp4", [*pictures("red"), *(255 - image for image in pictures("blue", seed=9))]
    )  # 12 frames/s
    found = probe(video, DecodeOptions(sample_fps=12), WindowOptions(windows="all", window_frames=5, window_stride=5))
    assert (found.record.status, found.record.shots, found.shot_frames) == ("ok", 2, (24, 24))
    assert found.record.masks == len(found.windows_seconds) == 8  # frames 0-4, 5-9, 10-14, 15-19 of either shot
    assert found.windows_seconds[0] == pytest.approx((0.0, 4 / 12), abs=0.01)
    assert found.windows_seconds[4] == pytest.approx((2.0, 2 + 4 / 12), abs=0.01)
    assert found.sampled_wh == (96, 64)
    assert found.exit_code == 0


def test_it_says_what_label_records(tmp_path: Path, networks: TinyNetworks, capsys: pytest.CaptureFixture[str]) -> None:
    folder = crawl(tmp_path / "crawl", "red/good.mp4", "red/short.mp4", "red/cut.mp4")
    write_video(folder / "red" / "short.mp4", pictures("red", 2))
    truncated(folder / "red" / "cut.mp4", 0.5)
    (folder / "red" / "page.mp4").write_text("<html>404</html>")
    write_audio(folder / "red" / "sound.mp4")
    out = tmp_path / "out"
    main(["label", str(folder), "--out", str(out), *networks_of(networks), "--trust-query", "--saliency", "none"])
    recorded = records(out)
    capsys.readouterr()
    for name in ("good", "short", "cut", "page", "sound"):
        code = main(["probe", str(folder / "red" / f"{name}.mp4"), "--json"])
        told = json.loads(capsys.readouterr().out)["record"]
        wanted = recorded[f"red/{name}.mp4"]
        assert code == (3 if wanted["status"] == "failed" else 0)
        same = ("status", "stage", "reason", "failure", "frames_sampled", "packet_errors", "shots", "masks", "codec")
        assert {field: told[field] for field in same} == {field: wanted[field] for field in same}, name


def networks_of(networks: TinyNetworks) -> list[str]:
    return ["--classifier", str(networks.classifier), "--flow", str(networks.flow)]


def test_names_cannot_speak_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = tmp_path / "[red]\x1b[31m.mp4"
    video.write_text("no video")
    assert main(["probe", str(video)]) == 3
    told = capsys.readouterr().out
    assert told.startswith("verdict  failed at decode: not_media (permanent)")
    assert "\x1b" not in told
