"""The synthetic web on disk: the same bytes for a seed, files that fit together, the planned mix of videos."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from material import ImageArray, contents
from PIL import Image

from f2f.engine.cli import main
from f2f.engine.errors import UsageError
from f2f.training.synth import CLASSES, SynthOptions, SynthSummary, read_kitti_flow, synth
from f2f.training.synth.plan import VideoPlan, plan_videos

SIZE_HW = (96, 160)
SHARES = {"whole": 0.58, "part": 0.20, "two": 0.12, "wrong": 0.10}


def small(out: Path, **changes: Any) -> SynthOptions:
    """A web of a few short videos and images; its seed gives every kind of video."""
    h, w = SIZE_HW
    given = {"videos": 8, "images": 6, "seed": 54, "height_px": h, "width_px": w, "fps": 6.0, "seconds": 1.5}
    return SynthOptions(out=out, **(given | {"flow_truth": True, "workers": 1} | changes))


@dataclass(frozen=True)
class Web:
    """A rendered web."""

    options: SynthOptions
    summary: SynthSummary

    @property
    def out(self) -> Path:
        """Its folder."""
        return self.options.out

    @property
    def plans(self) -> list[VideoPlan]:
        """Its videos."""
        return plan_videos(self.options)

    def video(self, plan: VideoPlan) -> Path:
        """The encoded video."""
        return self.out / "videos" / plan.query / f"{plan.title}.mp4"

    def truth(self, plan: VideoPlan) -> Path:
        """The folder of its masks."""
        return self.out / "truth" / plan.query / plan.title

    def masks(self, plan: VideoPlan) -> list[ImageArray]:
        """Its masks by frame, each uint8 [H, W]."""
        return [read_mask(path) for path in sorted(self.truth(plan).glob("*.png"))]


def read_mask(path: Path) -> ImageArray:
    """Labels [H, W] of a palette PNG."""
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.asarray(image, np.uint8)


def rows_of(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file by column."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Web:
    """A web that one process has rendered."""
    options = small(tmp_path_factory.mktemp("web"))
    return Web(options, synth(options))


# ---- the same bytes


def test_a_seed_gives_the_same_bytes_for_two_workers_as_for_one(web: Web, tmp_path: Path) -> None:
    assert synth(small(tmp_path, workers=2)) == web.summary
    first, second = contents(web.out), contents(tmp_path)
    assert list(second) == list(first)
    assert [name for name in first if first[name] != second[name]] == []


def test_a_second_run_gives_the_same_bytes_and_a_smaller_web_is_the_beginning_of_a_larger_one(
    web: Web, tmp_path: Path
) -> None:
    synth(small(tmp_path, videos=2, images=1, flow_truth=False))
    first, second = contents(web.out), contents(tmp_path)
    rendered = {name for name in second if name.endswith((".mp4", ".png", ".jpg"))}
    assert len(rendered) == 2 + sum(plan.frames for plan in web.plans[:2]) + 2
    assert [name for name in sorted(rendered) if first[name] != second[name]] == []


def test_another_seed_gives_another_web(web: Web, tmp_path: Path) -> None:
    synth(small(tmp_path, seed=web.options.seed + 1, videos=1, images=1, seconds=0.5, flow_truth=False))
    first, second = contents(web.out), contents(tmp_path)
    assert second["images/JPEGImages/synth_000000.jpg"] != first["images/JPEGImages/synth_000000.jpg"]
    assert not {name for name in second if name.endswith(".mp4")} & set(first)


def test_importing_the_synthetic_web_imports_no_torch() -> None:
    program = "import sys, f2f.training.synth as synth; synth.SynthOptions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_package_names_what_it_does_not_have() -> None:
    import f2f.training.synth as package

    assert all(hasattr(package, name) for name in package.__all__)
    with pytest.raises(AttributeError, match=r"has no attribute 'sinth'; it has .*synth"):
        package.__getattr__("sinth")


# ---- videos and their truth


def test_the_manifest_lists_every_video_once(web: Web) -> None:
    rows = rows_of(web.out / "manifest.csv")
    assert list(rows[0]) == ["video", "query", "tags"]
    videos = [row["video"] for row in rows]
    assert sorted(videos) == sorted(str(path.relative_to(web.out)) for path in web.out.rglob("*.mp4"))
    assert len({Path(video).name for video in videos}) == len(videos) == web.options.videos
    for row in rows:
        assert row["video"].split("/")[:2] == ["videos", row["query"]]
        assert row["query"] in CLASSES
        assert row["query"] in row["tags"].split()


def test_videos_have_the_size_the_rate_and_a_mask_for_each_frame(web: Web) -> None:
    for plan in web.plans:
        with av.open(str(web.video(plan))) as container:
            stream = container.streams.video[0]
            assert (stream.height, stream.width) == SIZE_HW
            assert stream.average_rate == Fraction(6)
            assert stream.codec_context.name == "h264"
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        masks = web.masks(plan)
        assert len(frames) == len(masks) == plan.frames
        assert all(mask.shape == SIZE_HW for mask in masks)
        assert min(frame.std() for frame in frames) > 10  # a picture, not one colour
    assert sum(plan.frames for plan in web.plans) == web.summary.frames


def test_the_masks_hold_classes_only_and_classes_json_names_them(web: Web) -> None:
    assert json.loads((web.out / "truth" / "classes.json").read_text()) == list(CLASSES)
    values = {int(value) for plan in web.plans for mask in web.masks(plan) for value in np.unique(mask)}
    assert 0 in values
    assert values <= set(range(len(CLASSES) + 1))


def test_the_shots_tell_what_the_masks_show(web: Web) -> None:
    for plan in web.plans:
        told = json.loads((web.truth(plan) / "shots.json").read_text())
        assert told["kind"] == plan.kind
        masks, ends = web.masks(plan), 0
        for shot in told["shots"]:
            assert shot["first_frame"] == ends
            ends += shot["frames"]
            part = masks[shot["first_frame"] : ends]
            shown = {CLASSES[value - 1] for mask in part for value in np.unique(mask[mask > 0])}
            assert shown <= set(shot["classes"])
            for name in shot["classes"]:
                seen = [bool((mask == CLASSES.index(name) + 1).any()) for mask in part]
                assert np.mean(seen) > 0.5, (plan.title, name)
        assert ends == plan.frames


def test_flow_is_written_for_every_frame_but_the_first_and_is_invalid_exactly_at_cuts(web: Web) -> None:
    everywhere = set()
    for plan in web.plans:
        folder = web.out / "flow" / plan.query / plan.title
        cuts = {shot.first_frame for shot in plan.shots}
        for kind in ("backward", "forward", "visible"):
            assert sorted(path.name for path in (folder / kind).iterdir()) == [
                f"{t:05d}.png" for t in range(1, plan.frames)
            ]
        for t in range(1, plan.frames):
            seen = np.asarray(Image.open(folder / "visible" / f"{t:05d}.png"))
            assert set(np.unique(seen)) <= {0, 255}
            valid = {bool(v) for k in ("backward", "forward") for v in np.unique(flow_at(folder, k, t)[1])}
            assert valid == {t not in cuts}
            assert seen.any() == (t not in cuts)
            everywhere.add(t in cuts)
    assert everywhere == {True, False}


def test_the_written_flow_carries_each_mask_to_the_next(web: Web) -> None:
    y, x = np.indices(SIZE_HW) + 0.5
    for plan in web.plans[:4]:
        folder, masks = web.out / "flow" / plan.query / plan.title, web.masks(plan)
        for t in sorted(set(range(1, plan.frames)) - {shot.first_frame for shot in plan.shots}):
            flow, _ = flow_at(folder, "backward", t)
            seen = np.asarray(Image.open(folder / "visible" / f"{t:05d}.png")) > 0
            column, row = np.floor(x + flow[..., 0])[seen].astype(int), np.floor(y + flow[..., 1])[seen].astype(int)
            before = masks[t - 1][row.clip(0, SIZE_HW[0] - 1), column.clip(0, SIZE_HW[1] - 1)]
            assert np.mean(before == masks[t][seen]) > 0.98, (plan.title, t)


def flow_at(folder: Path, kind: str, frame: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Flow and validity of a frame."""
    return read_kitti_flow(folder / kind / f"{frame:05d}.png")


# ---- images


def test_the_tags_of_images_are_the_classes_that_cover_enough_pixels(web: Web) -> None:
    rows = rows_of(web.out / "images" / "tags.csv")
    assert len(rows) == web.options.images == web.summary.images
    for row in rows:
        mask = read_mask(web.out / "images" / "SegmentationClass" / f"{row['id']}.png")
        with Image.open(web.out / "images" / "JPEGImages" / f"{row['id']}.jpg") as image:
            assert (image.height, image.width) == mask.shape == SIZE_HW
        shares = np.bincount(mask.ravel(), minlength=len(CLASSES) + 1) / mask.size
        assert len(shares) == len(CLASSES) + 1
        tags = row["classes"].split()
        assert tags
        assert tags == [name for name, share in zip(CLASSES, shares[1:], strict=True) if share >= 0.004]


def test_training_and_validation_are_disjoint_and_complete(web: Web) -> None:
    lists = web.out / "images" / "ImageSets" / "Segmentation"
    train, val = ((lists / f"{name}.txt").read_text().split() for name in ("train", "val"))
    assert train
    assert val
    assert sorted([*train, *val]) == [row["id"] for row in rows_of(web.out / "images" / "tags.csv")]
    assert (web.out / "images" / "labels.txt").read_text().split() == ["background", *CLASSES]


def test_images_alone_make_a_web_without_videos(tmp_path: Path) -> None:
    assert synth(small(tmp_path, videos=0, images=1)) == SynthSummary(0, 0, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "truth"]


# ---- plans


@cache
def many_plans() -> list[VideoPlan]:
    """500 videos as a crawl plans them."""
    return plan_videos(SynthOptions(out=Path("unused"), videos=500, seed=3))


def test_kinds_have_their_shares() -> None:
    counts = Counter(plan.kind for plan in many_plans())
    for kind, share in SHARES.items():
        assert counts[kind] / 500 == pytest.approx(share, abs=0.05), kind


def assert_cast_fits(plan: VideoPlan) -> None:
    """The classes of its shots are what its kind says."""
    shown = [plan.query in shot.classes for shot in plan.shots]
    if plan.kind == "part":
        assert any(shown)
        assert not all(shown)
    else:
        assert set(shown) == {plan.kind != "wrong"}
    if plan.kind == "two":
        assert {len(set(shot.classes)) for shot in plan.shots} == {2}
    assert all(set(shot.classes) <= set(CLASSES) for shot in plan.shots)


def test_queries_take_turns_and_names_are_unique() -> None:
    plans = many_plans()
    assert [plan.query for plan in plans[:12]] == [*CLASSES, *CLASSES]
    assert len({plan.title for plan in plans}) == len({plan.title.casefold() for plan in plans}) == 500
    assert all("/" not in plan.title and plan.title == plan.title.strip() for plan in plans)
    assert len({shot.seed for plan in plans for shot in plan.shots}) == sum(len(plan.shots) for plan in plans)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**40),
    seconds=st.floats(0.05, 60),
    fps=st.sampled_from([1.0, 6.0, 12.0, 23.976, 29.97, 60.0, 120.0]),
)
def test_plans_fit_together_for_any_length_and_rate(seed: int, seconds: float, fps: float) -> None:
    for plan in plan_videos(SynthOptions(out=Path("unused"), videos=12, seed=seed, seconds=seconds, fps=fps)):
        assert_cast_fits(plan)
        starts = [shot.first_frame for shot in plan.shots]
        assert starts == [0, *np.cumsum([shot.frames for shot in plan.shots])[:-1]]
        assert min(shot.frames for shot in plan.shots) >= 1
        assert 1 <= len(plan.shots) <= 4
        assert plan.frames >= 2
        assert 0.6 * seconds * fps - 1 <= plan.frames <= max(2, 1.4 * seconds * fps + 1)
        assert plan.query in plan.tags.split()
        assert 20 <= plan.crf <= 30


# ---- options


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"width_px": 161}, r"--width-px 161 .*even number of 64 or more px"),
        ({"height_px": 62}, r"--height-px 62 .*even number of 64 or more px"),
        ({"videos": -1}, r"--videos -1 .*0 or more"),
        ({"images": -1}, r"--images -1 .*0 or more"),
        ({"videos": 0, "images": 0}, r"--videos 0 .*1 or more, or some --images"),
        ({"seed": -1}, r"--seed -1 .*0 or more"),
        ({"fps": 0.5}, r"--fps 0\.5 .*1 to 120"),
        ({"fps": float("nan")}, r"--fps nan .*1 to 120"),
        ({"seconds": 0.0}, r"--seconds 0\.0 .*above 0 s"),
        ({"seconds": float("nan")}, r"--seconds nan .*above 0 s"),
        ({"seconds": float("inf")}, r"--seconds inf .*above 0 s, up to 3600 s"),
        ({"workers": -2}, r"--workers -2 .*0 \(one per core\) or more"),
    ],
    ids=lambda value: ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_odd_options_are_refused(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said + r".*run again"):
        small(tmp_path / "web", **given)
    assert not (tmp_path / "web").exists()


@pytest.mark.parametrize("there", ["videos", "images", "manifest.csv"])
def test_a_folder_that_holds_a_web_is_left_as_it_is(tmp_path: Path, there: str) -> None:
    (tmp_path / there).mkdir()
    with pytest.raises(UsageError, match=rf"holds {there} already; give a new folder, or remove it first"):
        synth(small(tmp_path))
    assert [path.name for path in tmp_path.rglob("*")] == [there]


def test_the_command_line_refuses_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synth", str(tmp_path / "web"), "--width-px", "161"]) == 2
    assert "--width-px 161 is not accepted" in capsys.readouterr().err
    assert not (tmp_path / "web").exists()
