"""The demo, with a crawl of two short videos and a training of two steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from f2f.engine.cli import main
from f2f.training import demo_segmenter
from f2f.training.synth import SynthOptions, synth


def test_it_goes_from_a_crawl_to_a_segmenter_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lightning", reason="the `train` extra is not installed")
    small = {"IMAGES": 8, "HELD_OUT_VIDEOS": 1, "STEPS": 2, "SIDE_PX": 65, "HELD_OUT_SECONDS": 1.0}
    for name, value in small.items():
        monkeypatch.setattr(demo_segmenter, name, value)
    # The demo's own crawl takes longer; what is there it does not render.
    synth(SynthOptions(out=tmp_path / "crawl", videos=2, images=0, seconds=1.5, seed=11))
    assert main(["demo", "--out", str(tmp_path), "--rows", "2"]) == 0
    told = capsys.readouterr().out
    assert "8/8 segment the held-out videos" in told
    assert "mean IoU" in told
    for name in ("contact_sheet.png", "segmented.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 300
    assert len([*(tmp_path / "segmented" / "overlays").rglob("*.mp4")]) == 1
    assert (tmp_path / "segmenter" / "segmenter.onnx").is_file()
