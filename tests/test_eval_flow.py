"""Measuring flow: metrics against brute force, `f2f eval flow`, its benchmark, and the engine's direction."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from flow_material import shifted_pair, write_chairs, write_masked_video
from material import flow_file
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # scripts that import their neighbours

import flow as benchmark
import tables

from f2f.engine.classify import to_tensor
from f2f.engine.cli import main
from f2f.engine.errors import UsageError, VideoError
from f2f.engine.flow import DisFlow, follow
from f2f.engine.options import FlowOptions, RuntimeOptions
from f2f.engine.stage import StageClock
from f2f.engine.types import ActiveWindow, Frame, ImageArray, MovingWindow, Window
from f2f.training.flow_eval import ExactScores, MaskedFrame, MaskScores, mask_videos, masked_pairs, score_pairs
from f2f.training.flow_files import FlowPair, read_image, video_frames
from f2f.training.flow_methods import OPENCV_METHODS, open_method
from f2f.training.flow_metrics import (
    consistent,
    endpoint_error,
    gather,
    in_frame,
    outliers,
    photometric_error,
    propagated_mask,
)

HEIGHT, WIDTH = 7, 9


def random_flow(scale_px: float = 3.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale_px * torch.randn(2, HEIGHT, WIDTH, generator=generator)


def steady_flow(x_px: float, y_px: float, size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> Tensor:
    return torch.tensor([x_px, y_px], dtype=torch.float32)[:, None, None].expand(2, *size_hw).clone()


def test_videos_are_found_with_their_masks(tmp_path: Path) -> None:
    write_masked_video(tmp_path)
    (video,) = mask_videos(tmp_path / "videos", tmp_path / "masks")
    assert (video.name, video.masks) == ("red", tmp_path / "masks" / "red")
    assert [number for number, _ in video_frames(video.video)] == list(range(6))
    (tmp_path / "masks" / "red").rename(tmp_path / "masks" / "blue")
    with pytest.raises(UsageError, match=r"none of the 1 videos in .* has masks in"):
        mask_videos(tmp_path / "videos", tmp_path / "masks")


def test_pairs_of_every_stride_start_at_every_nth_frame() -> None:
    image, mask = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.bool_)
    frames = [MaskedFrame(number, image, mask) for number in (0, 1, 2, 3, 5, 6)]
    found = [(stride, a.number, b.number) for stride, a, b in masked_pairs(frames, (1, 3), every=2)]
    assert found == [(1, 0, 1), (1, 2, 3), (3, 0, 3), (3, 2, 5)]


# ---- metrics


def test_errors_by_hand() -> None:
    truth = torch.tensor([[[0.0, 30.0, 100.0, 100.0]], [[0.0, 40.0, 0.0, 0.0]]])
    flow = truth + torch.tensor([[[3.0, 3.0, 4.5, 0.0]], [[0.0, 0.1, 0.0, 6.0]]])
    assert endpoint_error(flow, truth)[0].tolist() == pytest.approx([3, math.hypot(3, 0.1), 4.5, 6], rel=1e-4)
    assert outliers(flow, truth)[0].tolist() == [False, True, False, True]  # 3 px; 6 %; 4.5 %; 6 %


def test_scores_of_pairs_are_means_over_pixels(tmp_path: Path) -> None:
    """Against a loop over pixels; pairs of different sizes, some flow unknown, some not visible."""
    pairs = list(made_up_pairs())
    (score,) = score_pairs("made up", {"zero": open_method("zero", RuntimeOptions())}, pairs)
    listed = [
        (math.hypot(*pair.flow_xy_px[y, x]), bool(pair.visible is not None and pair.visible[y, x]))
        for pair in pairs
        for y, x in np.ndindex(pair.known.shape)
        if pair.known[y, x]
    ]
    wrong = [length > 3 for length, _ in listed]  # zero flow is 100 % off
    seen = [length for length, visible in listed if visible]
    assert score.epe_px == pytest.approx(np.mean([length for length, _ in listed]), rel=1e-5)
    assert score.epe_visible_px == pytest.approx(np.mean(seen), rel=1e-5)
    assert score.fl_percent == pytest.approx(100 * np.mean(wrong))
    assert score.fl_visible_percent == pytest.approx(100 * np.mean([length > 3 for length in seen]))
    assert score.pairs == 2


def made_up_pairs() -> Iterator[FlowPair]:
    """Two pairs, and one of which nothing is known."""
    rng = np.random.default_rng(1)
    for height, width, share in ((4, 6, 0.7), (5, 3, 0.5), (4, 4, -1)):
        frame = rng.integers(0, 255, (height, width, 3), np.uint8)
        flow = rng.normal(0, 3, (height, width, 2)).astype(np.float32)
        known = rng.random((height, width)) < share
        yield FlowPair("made up", frame, frame, flow, known, rng.random((height, width)) < 0.5)


def test_sources_without_visibility_have_no_such_score() -> None:
    pairs = [FlowPair(p.name, p.first, p.second, p.flow_xy_px, p.known) for p in made_up_pairs()]
    (score,) = score_pairs("made up", {"zero": open_method("zero", RuntimeOptions())}, pairs)
    assert (score.epe_visible_px, score.fl_visible_percent) == (None, None)
    with pytest.raises(UsageError, match="made up holds no pair"):
        score_pairs("made up", {}, pairs[2:])


def bilinear(values: Tensor, x: float, y: float) -> list[float]:
    """Values [C, H, W] at a point, places outside taken from the border."""
    height, width = values.shape[1:]
    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    left, top = min(int(x), width - 2), min(int(y), height - 2)
    taps = [(top, left, (1 - y + top) * (1 - x + left)), (top, left + 1, (1 - y + top) * (x - left))]
    taps += [(top + 1, left, (y - top) * (1 - x + left)), (top + 1, left + 1, (y - top) * (x - left))]
    return [sum(float(plane[row, column]) * weight for row, column, weight in taps) for plane in values]


def test_gathering_against_a_loop() -> None:
    flow, values = random_flow(), torch.rand(3, HEIGHT, WIDTH)
    expected = torch.empty_like(values)
    inside = torch.empty(HEIGHT, WIDTH, dtype=torch.bool)
    for y, x in np.ndindex(HEIGHT, WIDTH):
        there = x + float(flow[0, y, x]), y + float(flow[1, y, x])
        expected[:, y, x] = torch.tensor(bilinear(values, *there))
        inside[y, x] = 0 <= there[0] <= WIDTH - 1 and 0 <= there[1] <= HEIGHT - 1
    torch.testing.assert_close(gather(values, flow), expected, atol=1e-5, rtol=0)
    assert torch.equal(in_frame(flow), inside)
    frame = torch.rand(3, HEIGHT, WIDTH)
    torch.testing.assert_close(photometric_error(frame, values, flow), (frame - expected).abs().mean(0))


def test_consistency_against_a_loop() -> None:
    flow, back = random_flow(1.0), random_flow(1.0, seed=1) - 0.5
    given = consistent(flow, back)
    for y, x in np.ndindex(HEIGHT, WIDTH):
        u, v = flow[:, y, x].tolist()
        there = bilinear(back, x + u, y + v)
        gap = (u + there[0]) ** 2 + (v + there[1]) ** 2
        allowed = 0.01 * (u**2 + v**2 + there[0] ** 2 + there[1] ** 2) + 0.5
        inside = 0 <= x + u <= WIDTH - 1 and 0 <= y + v <= HEIGHT - 1
        assert bool(given[y, x]) == (gap < allowed and inside), (y, x)
    assert 0.05 < float(given.float().mean()) < 0.95


def test_masks_are_carried_to_where_the_flow_lives() -> None:
    """The object was 2 px further left and 1 px further down before: the flow points there."""
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[3:6, 1:4] = True
    carried = propagated_mask(mask, steady_flow(-2, 1))
    expected = torch.zeros_like(mask)
    expected[2:5, 3:6] = True
    assert torch.equal(carried, expected)
    assert not propagated_mask(mask, steady_flow(-20, 0)).any(), "nothing comes from outside the frame"


def test_carried_masks_are_gathered_where_they_exceed_half() -> None:
    """Away from the border and from ties, the union of the engine is the bilinear sample above one half."""
    flow = random_flow(1.0)
    mask = torch.rand(HEIGHT, WIDTH) > 0.5
    sample = gather(mask[None].float(), flow)[0]
    safe = in_frame(flow) & ((sample - 0.5).abs() > 0.02)
    assert torch.equal(propagated_mask(mask, flow)[safe], sample[safe] > 0.5)


# ---- methods


@pytest.mark.parametrize("name", ["dis", *OPENCV_METHODS])
def test_classical_methods_point_from_the_later_frame_to_the_earlier(name: str) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    later, earlier = shifted_pair(4)
    flow = open_method(name, RuntimeOptions(threads=2))([[earlier, later, later]])[0]
    assert flow.shape == (2, 2, 64, 96)
    assert flow[0, :, 16:48, 24:72].median(2).values.median(1).values.tolist() == pytest.approx([4, 0], abs=0.3)
    assert flow[1].abs().median() < 0.1


@pytest.mark.parametrize("name", OPENCV_METHODS)
def test_tiny_frames_are_refused(name: str) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    with pytest.raises(VideoError, match=r"frames of 12 px or more, got 40 x 11"):
        open_method(name, RuntimeOptions())([[np.zeros((11, 40, 3), np.uint8)] * 2])


def test_opencvs_number_of_threads_is_put_back() -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    DisFlow()  # one thread
    open_method("dis-fast", RuntimeOptions(threads=2))([shifted_pair(2)])
    assert cv2.getNumThreads() == 1


# ---- the command


def figures(arguments: list[str | Path], capsys: pytest.CaptureFixture[str]) -> dict[str, list[dict[str, object]]]:
    assert main(["eval", "flow", "--json", *map(str, arguments)]) == 0
    found: dict[str, list[dict[str, object]]] = json.loads(capsys.readouterr().out)
    return found


def test_command_on_exact_flow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_chairs(tmp_path / "chairs")
    still = flow_file(tmp_path / "still.onnx")
    rows = figures([folder, "--flow", "zero,dis-medium", "--flow", still], capsys)["exact"]
    assert [row["method"] for row in rows] == ["zero", "dis-medium", str(still)]
    assert rows[0] == {**rows[2], "method": "zero", "ms_per_pair": rows[0]["ms_per_pair"]}
    assert (rows[0]["epe_px"], rows[0]["fl_percent"], rows[0]["pairs"]) == (4, 100, 1)
    assert isinstance(rows[1]["epe_px"], float)
    assert rows[1]["epe_px"] < 0.5


def test_command_on_one_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Reversed frames are another direction: the flow of the truth lives on --first."""
    folder = write_chairs(tmp_path, x_px=4)
    names = {"--first": "a_img1.png", "--second": "a_img2.png", "--truth": "a_flow.flo"}
    arguments = [str(word) for flag, name in names.items() for word in (flag, folder / name)]
    (right,) = figures([*arguments, "--flow", "dis"], capsys)["exact"]
    swapped = [word.replace("img1", "img3").replace("img2", "img1").replace("img3", "img2") for word in arguments]
    (wrong,) = figures([*swapped, "--flow", "dis"], capsys)["exact"]
    assert float(str(right["epe_px"])) < 0.5
    assert float(str(wrong["epe_px"])) > 7


def test_command_on_videos_with_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    folder = write_masked_video(tmp_path)
    rows = figures([folder, "--flow", "zero", "--flow", "dis", "--strides", "1", "2"], capsys)["masks"]
    assert [(row["method"], row["stride"], row["pairs"]) for row in rows] == [
        ("zero", 1, 5),
        ("dis", 1, 5),
        ("zero", 2, 4),
        ("dis", 2, 4),
    ]
    ious = [float(str(row["iou"])) for row in rows]
    assert ious[0] == pytest.approx(21 / 27)  # 24 px wide, 3 px on
    assert ious[2] == pytest.approx(18 / 30)
    assert ious[1] > ious[0] + 0.05
    assert ious[3] > ious[2] + 0.1
    assert rows[0]["per_video"] == {"red": ious[0]}
    assert (rows[0]["consistent"], rows[0]["videos"]) == (1, 1)
    apart = figures([folder / "videos", "--masks", folder / "masks", "--flow", "zero", "--strides", "2"], capsys)
    assert apart["masks"][0]["iou"] == rows[2]["iou"]


def test_command_shows_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs, videos = write_chairs(tmp_path / "pairs"), write_masked_video(tmp_path, count=2)
    assert main(["eval", "flow", str(pairs), str(videos), "--flow", "zero", "--strides", "1", "--every", "4"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("EPE px", "Fl %", "mask IoU", "consistent", "zero", "0.778"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no SOURCE was given"),
        (["--first", "a.png"], "--second and --truth missing; give all of --first, --second, --truth, or none"),
        (["nowhere"], "nowhere is not a folder; accepted: a folder of pairs"),
        (["."], "holds no frames with flow; accepted: "),
        ([".", "--flow", "raft"], "--flow raft is no file and no method; accepted: a network"),
        ([".", "--strides", "0"], "strides is (0,); accepted: one or more above 0"),
        ([".", "--every", "0"], "every is 0; accepted"),
        ([".", "--max-side", "3"], "max-side is 3; accepted: 0"),
        ([".", "--masks", "nowhere"], "none of the 0 videos in . has masks in nowhere"),
    ],
)
def test_wrong_usage(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "flow", *(arguments if "--flow" in arguments else [*arguments, "--flow", "zero"])]) == 2
    assert words in capsys.readouterr().err


def test_strides_beyond_the_video_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_masked_video(tmp_path, count=2)
    assert main(["eval", "flow", str(tmp_path), "--flow", "zero", "--strides", "2", "4"]) == 2
    assert "that are 2 or 4 frames apart have masks; give smaller --strides" in capsys.readouterr().err


# ---- the benchmark


def test_benchmark_counts_videos_above_dis() -> None:
    masks = [
        made_up_scores("dis-medium", 2, {"a": 0.8, "b": 0.7, "c": 0.9}),
        made_up_scores("demo", 2, {"a": 0.81, "b": 0.7, "c": 0.95}),
        made_up_scores("demo", 4, {"a": 0.5, "b": 0.6, "c": 0.7}),
    ]
    exact = ExactScores("Sintel", "demo", 1.23456, 7.5, None, None, 2, 40.0)
    rows = [*benchmark.exact_rows([exact]), *benchmark.mask_rows(masks)]
    written = [{name: str(value) for name, value in asdict(row).items()} | MACHINE for row in rows]
    own, dis = tables.flow_methods(written)
    shown = {"EPE px, Sintel": "1.235", "mask IoU, stride 2": "0.820", "mask IoU, stride 4": "0.600"}
    counted = {"above DIS medium, stride 2": "2 of 3 videos", "ms per pair": "20.0"}
    assert own == {"flow": "bundled network", **shown, **counted, **MACHINE}
    assert dis["above DIS medium, stride 2"] == "\u2013"
    assert len(rows) == 1 + 3 * 4


MACHINE = {"machine": "m", "versions": "v", "commit": "c"}


def made_up_scores(method: str, stride: int, per_video: dict[str, float]) -> MaskScores:
    mean = sum(per_video.values()) / len(per_video)
    return MaskScores("real videos", method, stride, mean, 5.0, 0.9, 30, len(per_video), 20.0, per_video)


def test_benchmark_pairs_frames_with_flow_both_ways(real: Path) -> None:
    forth, back = benchmark.sintel_pairs(real / "flow")
    np.testing.assert_array_equal(forth.first, back.second)
    assert forth.flow_xy_px.mean() > 0 > back.flow_xy_px.mean()


# ---- the engine's direction, on real frames


def stage_flow(images: list[ImageArray]) -> Tensor:
    """What the engine's flow stage gives for the frames of a window: [K-1, 2, H, W]."""
    frames = tuple(Frame(0, 0, float(number), image) for number, image in enumerate(images))
    bits = torch.zeros(len(images), 1, *images[0].shape[:2], dtype=torch.int32)
    window = ActiveWindow(Window(0, 0, frames, (0,), None), bits)
    (moving,) = follow(iter([window]), DisFlow(), FlowOptions(), StageClock())
    assert isinstance(moving, MovingWindow)
    return moving.flow_xy_px


def real_frames(real: Path, name: str) -> list[ImageArray]:
    """Three frames, 4 apart, of a video; or the two of Sintel."""
    if name == "Sintel":
        return [read_image(real / "flow" / f"frame_00{number}.png") for number in (10, 11)]
    (path,) = (real / "videos").rglob(f"{name}.mp4")
    return [image for number, image in video_frames(path) if number in {8, 12, 16}]


@pytest.mark.parametrize("name", ["Sintel", "car-shadow", "scooter-black"])
def test_flow_leads_from_each_frame_to_the_one_before(real: Path, name: str) -> None:
    """Gathering a frame along the flow gives the next one; along the negated flow it is worse than no flow at all."""
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    images = real_frames(real, name)
    colours = to_tensor(images)
    for flow, before, frame in zip(stage_flow(images), *zip(*pairwise(colours), strict=True), strict=True):
        errors = {sign: float(photometric_error(frame, before, sign * flow).mean()) for sign in (1, 0, -1)}
        assert errors[1] < 0.5 * errors[0], errors
        assert errors[-1] > errors[0], errors
