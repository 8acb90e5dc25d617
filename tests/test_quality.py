"""The quality score: what it says of good, poor and degenerate masks, and what --min-quality does with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from material import Setup, TinyNetworks, contents, crawl, masks, picture, records
from PIL import Image
from torch.nn.functional import avg_pool2d

from f2f.engine import LabelOptions, Progress, UsageError, label, read_summary, show_mask
from f2f.engine.camera import residual_motion
from f2f.engine.cli import main
from f2f.engine.evidence import own_motion
from f2f.engine.quality import WEIGHTS, estimated_iou, keep_good, signs
from f2f.engine.records import Summary
from f2f.engine.refine import probabilities
from f2f.engine.types import Failure, Frame, LabelledWindow, VideoEnd, Window
from f2f.training.synth import exact_flow, random_scene

NAMES = tuple(f"{query}/{number}.mp4" for query in ("red", "green", "blue") for number in range(2))


def disc(top: float, left: float, radius_px: float = 15, softness_px: float = 2) -> torch.Tensor:
    """The probability [1, 80, 120] of something round."""
    y, x = torch.meshgrid(torch.arange(80.0), torch.arange(120.0), indexing="ij")
    distance = ((y - top).square() + (x - left).square()).sqrt()
    return torch.sigmoid((radius_px - distance) / softness_px)[None]


# ---- the estimate


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 10_000))
def test_any_probabilities_give_numbers_from_0_to_1(classes: int, height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 6 * torch.randn(1 + classes, height, width, generator=generator)
    estimates = estimated_iou(logits.softmax(0)[1:], torch.rand(height, width, generator=generator))
    assert len(estimates) == classes
    assert all(0 <= estimate <= 1 for estimate in estimates)


def test_degenerate_masks() -> None:
    moves = disc(40, 60)[0]
    full, empty = torch.ones(1, 80, 120), torch.zeros(1, 80, 120)
    assert estimated_iou(empty, moves) == (0.0,)
    assert estimated_iou(torch.full((1, 80, 120), 0.49), moves) == (0.0,), "less likely than not"
    assert estimated_iou(full, moves)[0] < 0.01
    assert estimated_iou(full, torch.zeros(80, 120))[0] < 0.01


def test_without_motion_the_rest_still_counts() -> None:
    still = torch.zeros(80, 120)
    sharp, soft = (estimated_iou(disc(40, 60, softness_px=softness), still)[0] for softness in (0.5, 4))
    assert 0 < soft < sharp < 1
    assert signs(disc(40, 60), still)[0, 0] == 0


def test_signs_are_what_they_are_called() -> None:
    generator = torch.Generator().manual_seed(3)
    classes, moves = torch.rand(3, 31, 47, generator=generator), torch.rand(31, 47, generator=generator)
    classes[1] = (0.7 * moves + 0.3 * classes[1]).clamp(0, 1)
    for found, single in zip(signs(classes, moves), classes.numpy(), strict=True):
        assert float(found[0]) == pytest.approx(np.corrcoef(single.ravel(), moves.numpy().ravel())[0, 1], abs=1e-4)
        assert float(found[1]) == pytest.approx((single > 0.9).sum() / (single > 0.1).sum(), abs=1e-6)
        border = [*single[0], *single[-1], *single[:, 0], *single[:, -1]]
        assert float(found[2]) == pytest.approx(np.mean(np.array(border) > 0.5), abs=1e-6)


def test_it_rises_with_motion_and_decision_and_falls_with_the_border() -> None:
    moves = disc(40, 60)[0]
    motion, decided, border = WEIGHTS
    assert motion > 0
    assert decided > 0
    assert border < 0
    estimates = [estimated_iou(disc(40, left), moves)[0] for left in (60, 68, 76, 84)]
    assert estimates == sorted(estimates, reverse=True), "less and less of it moves"
    estimates = [estimated_iou(disc(40, 60, softness_px=softness), moves)[0] for softness in (0.5, 1, 2, 4)]
    assert estimates == sorted(estimates, reverse=True), "less and less decided"
    still = torch.zeros(80, 120)
    estimates = [estimated_iou(disc(40, left, softness_px=0.5), still)[0] for left in (20, 14, 9, 0)]
    assert estimates == sorted(estimates, reverse=True), "more and more of it on the border"


def test_each_class_is_judged_by_itself() -> None:
    both = torch.cat([disc(40, 30), disc(40, 90)])
    moves = disc(40, 30)[0]
    assert estimated_iou(both, moves) == (*estimated_iou(both[:1], moves), *estimated_iou(both[1:], moves))
    assert estimated_iou(both, moves)[0] > estimated_iou(both, moves)[1]


@pytest.mark.parametrize("seed", [1, 2, 4])
def test_a_good_mask_of_a_rendered_scene_outranks_corrupted_ones(seed: int) -> None:
    scene = random_scene(seed, (120, 200))
    rendered = scene.render(1.0)
    flow, _ = exact_flow(scene, 1.0, 1.0 - 1 / 6)
    moves = own_motion(residual_motion(torch.from_numpy(flow).permute(2, 0, 1)))
    true = torch.from_numpy(rendered.labels > 0)[None].float()  # [1, H, W]

    def quality(evidence: torch.Tensor) -> float:
        blurred = avg_pool2d(evidence[None], 17, 1, 8, count_include_pad=False)[0]
        return estimated_iou(probabilities(blurred / blurred.amax(), rendered.image, 0.22)[1:], moves)[0]

    good = quality(true)
    assert good > 0.5
    assert quality(true.roll(100, dims=-1)) < 0.75 * good, "in the wrong place"
    assert quality(1 - true) < 0.1, "the background"
    assert quality(torch.rand(true.shape, generator=torch.Generator().manual_seed(seed))) < 0.1, "noise"


# ---- the stage


def labelled(video: int, number: int, quality: float | None) -> LabelledWindow:
    """A mask whose query is the second of its classes."""
    window = Window(video, number, (Frame(video, 0, number / 6, picture()),), (4, 7), None)
    return LabelledWindow(window, np.zeros((64, 96), np.uint8), None, None if quality is None else (0.99, quality))


def test_what_is_good_enough_passes_and_the_end_counts_the_rest() -> None:
    items: list[LabelledWindow | VideoEnd] = [labelled(0, 0, 0.5), labelled(1, 0, 0.2), labelled(0, 1, 0.49)]
    items += [VideoEnd(0), labelled(1, 1, 0.3), VideoEnd(1), labelled(2, 0, 1.0), VideoEnd(2)]
    out = list(keep_good(iter(items), {0: 7, 1: 7, 2: 7}, 0.5))
    assert [item for item in out if isinstance(item, LabelledWindow)] == [items[0], items[6]]
    ends = [item for item in out if isinstance(item, VideoEnd)]
    assert [(end.video, end.left_out) for end in ends] == [(0, 1), (1, 2), (2, 0)]
    detail = "the best of 2 masks has an estimated IoU of 0.3; --min-quality is 0.5"
    assert ends[1].note == ("low_quality", detail)
    assert ends[2] == VideoEnd(2)


def test_at_0_all_pass_those_without_a_quality_too() -> None:
    items: list[LabelledWindow | VideoEnd] = [labelled(0, 0, 0.0), labelled(0, 1, None), VideoEnd(0)]
    assert list(keep_good(iter(items), {0: 7}, 0.0)) == items


def test_a_video_that_failed_or_broke_off_keeps_its_reason() -> None:
    broken, failed = ("broken", "cut short"), Failure("decode", "crashed", "")
    items: list[LabelledWindow | VideoEnd] = [labelled(0, 0, 0.1), VideoEnd(0, note=broken)]
    items += [labelled(1, 0, 0.1), VideoEnd(1, failure=failed)]
    first, second = keep_good(iter(items), {0: 7, 1: 7}, 0.5)
    assert first == VideoEnd(0, note=broken, left_out=1)
    assert second == VideoEnd(1, failure=failed)


# ---- end to end


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crawl(tmp_path_factory.mktemp("videos"), *NAMES)


@pytest.fixture(scope="module")
def everything(videos: Path, tmp_path_factory: pytest.TempPathFactory, networks: TinyNetworks) -> Path:
    """A run that keeps all masks."""
    out = tmp_path_factory.mktemp("everything") / "out"
    label(Setup(rule="f2f").options(videos, out, networks))
    return out


@pytest.fixture(scope="module")
def least(everything: Path) -> float:
    """A quality that some masks have and others do not."""
    qualities = sorted({float(mask["quality"]) for mask in masks(everything)})
    assert len(qualities) > 4
    return qualities[len(qualities) // 2]


def choosy(least: float, videos: Path, out: Path, networks: TinyNetworks, **changes: int) -> LabelOptions:
    options = replace(Setup(rule="f2f"), **changes).options(videos, out, networks)  # type: ignore[arg-type]  # integers
    return replace(options, aggregation=replace(options.aggregation, min_quality=least))


def test_every_mask_has_a_quality(everything: Path) -> None:
    table = pq.read_table(everything / "labels.parquet")
    assert str(table.schema.field("quality").type) == "float"
    found = dict(zip(table["id"].to_pylist(), table["quality"].to_pylist(), strict=True))
    assert found == {mask["id"]: pytest.approx(mask["quality"]) for mask in masks(everything)}
    assert all(0 < mask["quality"] < 1 for mask in masks(everything))


def test_the_picture_of_a_mask_says_it(everything: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = list[tuple[str, ...]]()

    def sheet(*parts: Any) -> Image.Image:
        titles.append(parts[-1])
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr("f2f.engine.show.contact_sheet", sheet)
    mask = masks(everything)[0]
    show_mask(everything, mask["id"])
    assert f"rule f2f;  estimated IoU {mask['quality']:.2f};" in titles[0][1]


def test_poor_masks_are_left_out(
    everything: Path, least: float, videos: Path, tmp_path: Path, networks: TinyNetworks
) -> None:
    label(choosy(least, videos, tmp_path / "out", networks))
    good = [mask for mask in masks(everything) if mask["quality"] >= least]
    assert masks(tmp_path / "out") == good
    assert 0 < len(good) < len(masks(everything))
    written = {path.stem for path in (tmp_path / "out" / "voc" / "SegmentationClass").iterdir()}
    assert written == {mask["id"] for mask in good}
    left_out = {name: record["left_out"] for name, record in records(tmp_path / "out").items()}
    assert {name: 4 - record["masks"] for name, record in records(tmp_path / "out").items()} == left_out
    assert read_summary(tmp_path / "out").left_out == len(masks(everything)) - len(good)


def test_a_video_without_a_good_mask_is_skipped(
    videos: Path, tmp_path: Path, networks: TinyNetworks, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = label(choosy(1.0, videos, tmp_path / "out", networks))
    assert (summary.skipped, summary.masks, summary.left_out) == (6, 0, 24)
    assert summary.reasons == {"low_quality": 6}
    record = records(tmp_path / "out")[NAMES[0]]
    assert (record["status"], record["reason"], record["left_out"]) == ("skipped", "low_quality", 4)
    assert "the best of 4 masks has an estimated IoU of 0." in record["detail"]
    assert main(["status", str(tmp_path / "out")]) == 0
    assert "masks left out for their quality: 24" in capsys.readouterr().out


class StopHereError(Exception):
    pass


def test_resumed_and_with_more_decoders_it_leaves_out_the_same(
    least: float, videos: Path, tmp_path: Path, networks: TinyNetworks
) -> None:
    def stop(progress: Progress) -> None:
        if progress.committed_shards == 1:
            raise StopHereError

    whole = choosy(least, videos, tmp_path / "whole", networks)
    label(whole)
    resumed = choosy(least, videos, tmp_path / "resumed", networks, decoders=3)
    with pytest.raises(StopHereError):
        label(resumed, stop)
    label(resumed)
    assert contents(resumed.out) == contents(whole.out)


def test_rule_paper_has_none_and_refuses_a_bound(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    options = Setup(rule="paper", max_windows=1).options(videos, tmp_path / "out", networks)
    label(options)
    assert {mask["quality"] for mask in masks(tmp_path / "out")} == {None}
    assert pq.read_table(tmp_path / "out" / "labels.parquet")["quality"].null_count == 6
    with pytest.raises(UsageError, match="--min-quality with --rule paper is not accepted; accepted: --rule f2f"):
        replace(options.aggregation, min_quality=0.5)
    with pytest.raises(UsageError, match=r"--min-quality 1\.5 is not accepted; accepted: a number from 0 to 1"):
        replace(options.aggregation, rule="f2f", min_quality=1.5)


def test_runs_from_before_there_was_a_quality_are_still_read(everything: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for path in (everything / "shards").iterdir():
        shard = json.loads(path.read_text())
        for record in (*shard["masks"], *shard["videos"]):
            record.pop("quality", None)
            record.pop("left_out", None)
        (tmp_path / "shards" / path.name).write_text(json.dumps(shard))
    (tmp_path / "run.json").write_bytes((everything / "run.json").read_bytes())
    assert read_summary(tmp_path) == Summary(**json.loads((everything / "summary.json").read_text()))
