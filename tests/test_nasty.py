"""Nasty inputs: each ends in the record that it should, in one run, and the README tells the same."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from material import TinyNetworks, flags, masks, pictures, records, write_video
from nasty import CASES, WHAT, Case, display_matrix, nasty_crawl, table, transparent, write_hdr, write_interlaced

from f2f.engine.cli import main
from f2f.engine.decode import DecodeState, sample_frames
from f2f.engine.options import DecodeOptions
from f2f.engine.types import Frame, ImageArray

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, networks: TinyNetworks) -> Path:
    """The output of a run over all of them."""
    folder = tmp_path_factory.mktemp("nasty")
    source = nasty_crawl(folder / "crawl")
    (source / "red" / "loop").symlink_to(source)
    command = ["label", str(source), "--out", str(folder / "out"), *flags(networks, "--shard-videos", "16")]
    assert main(command) == 3
    return folder / "out"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.number}-{case.name!a}")
def test_case(run: Path, case: Case) -> None:
    found = records(run)[case.id]
    stage = "" if case.status != "failed" else "source" if case.reason == "outside" else "decode"
    wanted = {"status": case.status, "stage": stage, "reason": case.reason, "failure": case.failure, **case.record}
    assert {name: found[name] for name in wanted} == wanted, found
    if case.masks is not None or case.status in {"skipped", "failed"}:
        assert found["masks"] == (case.masks or 0)
    else:
        assert found["masks"] > 0
    assert str(run.parent) not in found["detail"], "no path of this machine in a record"


def test_every_input_has_one_record_and_every_mask_its_files(run: Path) -> None:
    assert set(records(run)) == {case.id for case in CASES}
    ids = [mask["id"] for mask in masks(run)]
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        names = {path.name for path in (run / "voc" / folder).iterdir()}
        assert names == {f"{id_}.{suffix}" for id_ in ids}
    assert len(set(ids)) == sum(record["masks"] for record in records(run).values())
    summary = json.loads((run / "summary.json").read_text())
    assert summary["inputs"] == len(CASES) == sum(summary[key] for key in ("ok", "partial", "skipped", "failed"))


def test_every_row_of_the_table_has_a_case() -> None:
    assert {case.number for case in CASES} == set(WHAT) == set(range(1, 23))


def test_the_readme_has_the_table() -> None:
    assert table() in README.read_text(encoding="utf-8"), table()


def test_names_in_the_tables(run: Path) -> None:
    videos = pq.read_table(run / "videos.parquet").to_pydict()["video"]
    assert sorted(videos) == sorted(os.fsencode(case.id).decode("utf-8", "backslashreplace") for case in CASES)


# ---- how frames are seen


def decode(path: Path, **options: Any) -> tuple[list[Frame], DecodeState]:
    state = DecodeState()
    given = DecodeOptions(**{"sample_fps": 12.0, **options})
    return list(sample_frames(0, str(path), given, state)), state


def difference(a: ImageArray, b: ImageArray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


LOSSLESS = {"preset": "ultrafast", "qp": "0"}


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True], ids=["", "mirrored"])
def test_frames_are_made_upright(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    images = pictures("red", 3, width=95, height=65)
    path = write_video(tmp_path / "x.mp4", images, options=LOSSLESS, pix_fmt="yuv444p")
    display_matrix(path, degrees, mirrored)
    frames, _ = decode(path)
    shown = images[2][:, ::-1] if mirrored else images[2]
    assert difference(frames[2].image, np.rot90(shown, k=-degrees // 90)) < 2  # k counts anticlockwise


def test_wide_pixels_become_square(tmp_path: Path) -> None:
    images = pictures("red", 2, width=96, height=64)
    for sar, size_hw in (("2/1", (64, 192)), ("8/9", (64, 85)), ("100/1", (64, 96))):
        options = {"preset": "ultrafast", "x264-params": f"sar={sar}"}
        path = write_video(tmp_path / "x.mp4", images, options=options)
        assert decode(path)[0][0].size_hw == size_hw
        assert max(decode(path, max_side=48)[0][0].size_hw) == 48


def test_hdr_looks_as_it_would_in_sdr(tmp_path: Path) -> None:
    images = pictures("red", 3)
    write_hdr(tmp_path / "x.mp4", images)
    frames, _ = decode(tmp_path / "x.mp4")
    assert difference(frames[1].image, images[1]) < 4


@pytest.mark.parametrize(("codec", "pix_fmt"), [("qtrle", "argb"), ("prores_ks", "yuva444p10le")])
def test_alpha_is_dropped(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    path = tmp_path / "x.mov"
    transparent(codec, pix_fmt)(path)
    assert difference(decode(path)[0][2].image, pictures("red", 3)[2]) < 4


def bar(left_px: int) -> ImageArray:
    """A grey bar from top to bottom."""
    image = np.full((64, 96, 3), 60, np.uint8)
    image[:, left_px : left_px + 20] = 200
    return image


def test_deinterlacing(tmp_path: Path) -> None:
    moments = [bar(x) for x in range(0, 72, 3)]
    path = tmp_path / "x.mp4"
    write_interlaced(path, moments)
    as_they_are, state = decode(path)
    mended, again = decode(path, deinterlace=True)
    assert state.interlaced
    assert again.interlaced
    assert [frame.pts_seconds for frame in mended] == [frame.pts_seconds for frame in as_they_are]
    assert len(mended) == 12
    before = np.mean([difference(frame.image, moments[2 * n]) for n, frame in enumerate(as_they_are)])
    after = np.mean([difference(frame.image, moments[2 * n]) for n, frame in enumerate(mended)])
    assert after < before / 2, (before, after)


def test_deinterlacing_leaves_whole_frames_alone(tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.mp4", pictures("red", 12))
    pairs = zip(decode(path)[0], decode(path, deinterlace=True)[0], strict=True)
    assert all(np.array_equal(a.image, b.image) for a, b in pairs)
