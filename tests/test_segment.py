"""`f2f segment`: masks of images and videos by a deployed segmenter, and what becomes of bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest
from material import (
    CLASSES,
    SQUARE_PX,
    ImageArray,
    contents,
    picture,
    pictures,
    segmenter_file,
    square_corner,
    truncated,
    write_video,
)
from PIL import Image
from torch import Tensor

from f2f.engine.cli import main
from f2f.engine.errors import NetworkError, UsageError
from f2f.engine.options import InferenceOptions, RuntimeOptions, SegmentOptions
from f2f.engine.runtimes.open import bundled, open_network
from f2f.engine.segment import SegmentSummary, segment
from f2f.engine.segmenter import Segmenter

GREEN = CLASSES.index("green") + 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return segmenter_file(tmp_path_factory.mktemp("networks") / "segmenter.onnx")


def run(model: Path, source: Path, out: Path, **options: object) -> SegmentSummary:
    given = {"inference": InferenceOptions(max_side=200), "decoders": 1} | options
    return segment(SegmentOptions(model=str(model), source=source, out=out, **given))  # type: ignore[arg-type]


def square(time: int = 0, *, width: int = 96, height: int = 64) -> ImageArray:
    """Where the square of `picture` is, bool [H, W]."""
    top, left = square_corner(width, height, time)
    where = np.zeros((height, width), np.bool_)
    where[top : top + SQUARE_PX, left : left + SQUARE_PX] = True
    return where  # type: ignore[return-value]


def iou(found: ImageArray, true: ImageArray) -> float:
    return float((found & true).sum() / (found | true).sum())


def read(path: Path) -> ImageArray:
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.array(image)


def test_an_image(model: Path, tmp_path: Path) -> None:
    Image.fromarray(picture("green")).save(tmp_path / "one.png")
    summary = run(model, tmp_path / "one.png", tmp_path / "out")
    assert [record.status for record in summary.records] == ["ok"]
    labels = read(tmp_path / "out/masks/one.png")
    assert set(np.unique(labels)) == {0, GREEN}
    assert iou(labels == GREEN, square()) > 0.8  # the stripes are darker
    assert (tmp_path / "out/overlays/one.jpg").exists()
    assert (tmp_path / "out/labels.txt").read_text().split() == ["background", *CLASSES]


def test_masks_have_the_size_of_the_image(model: Path, tmp_path: Path) -> None:
    Image.fromarray(picture("green", width=300, height=201)).save(tmp_path / "large.png")
    run(model, tmp_path / "large.png", tmp_path / "out", inference=InferenceOptions(max_side=150))
    labels = read(tmp_path / "out/masks/large.png")
    assert labels.shape == (201, 300)
    assert iou(labels == GREEN, square(width=300, height=201)) > 0.6


def test_an_image_is_turned_upright(model: Path, tmp_path: Path) -> None:
    image = Image.fromarray(picture("green"))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees to see it
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    run(model, tmp_path / "turned.jpg", tmp_path / "out")
    assert read(tmp_path / "out/masks/turned.png").shape == (96, 64)


def test_a_video(model: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mp4", pictures("green", 12))
    summary = run(model, video, tmp_path / "out")
    assert summary.records[0].masks == 12
    for time in (0, 11):
        assert iou(read(tmp_path / f"out/masks/clip/{time:06d}.png") == GREEN, square(time)) > 0.7
    with av.open(str(tmp_path / "out/overlays/clip.mp4")) as film:
        frames = list(film.decode(video=0))
    assert [round(frame.time * 12) for frame in frames] == list(range(12))
    assert (frames[0].height, frames[0].width) == (64, 96)


def test_sampling_and_odd_sizes(model: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mp4", pictures("green", 12, width=98, height=66))
    summary = run(
        model, video, tmp_path / "out", sample_fps=4.0, inference=InferenceOptions(max_side=97), overlays=True
    )
    assert summary.records[0].masks == 4
    assert read(tmp_path / "out/masks/clip/000000.png").shape == (65, 97)
    with av.open(str(tmp_path / "out/overlays/clip.mp4")) as film:
        assert (film.streams.video[0].height, film.streams.video[0].width) == (66, 98)


def test_a_folder_keeps_its_order_and_records_what_is_broken(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    Image.fromarray(picture("red")).save(source / "deep/a.png")
    (source / "b.jpg").write_bytes(b"no image")
    (source / "notes.txt").write_text("passed over")
    write_video(source / "c.mp4", pictures("blue", 4))
    (source / "d.mp4").write_bytes(b"no video")
    summary = run(model, source, tmp_path / "out")
    status = {record.input: (record.status, record.reason) for record in summary.records}
    assert status == {
        "b.jpg": ("failed", "not_an_image"),
        "deep/a.png": ("ok", ""),
        "c.mp4": ("ok", ""),
        "d.mp4": ("failed", "not_media"),
    }
    assert summary.exit_code == 3
    found = json.loads((tmp_path / "out/summary.json").read_text())
    assert (found["inputs"], found["failed"], found["masks"]) == (4, 2, 5)
    assert not [name for name in contents(tmp_path / "out") if ".part" in name]


def test_a_truncated_video_keeps_what_there_is(model: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mkv", pictures("green", 96, width=192, height=128))
    truncated(video, 0.5)
    (record,) = run(model, video, tmp_path / "out").records
    assert record.status in {"ok", "partial"}  # Matroska does not say how long it should be
    assert 0 < record.masks < 96
    assert len(list((tmp_path / "out/masks/clip").iterdir())) == record.masks
    with av.open(str(tmp_path / "out/overlays/clip.mp4")) as film:
        assert len(list(film.decode(video=0))) == record.masks


def test_links_out_of_the_source_are_not_followed(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    Image.fromarray(picture("red")).save(tmp_path / "outside.png")
    Image.fromarray(picture("red")).save(source / "inside.png")
    (source / "link.png").symlink_to(tmp_path / "outside.png")
    assert [record.input for record in run(model, source, tmp_path / "out").records] == ["inside.png"]


def test_inputs_with_one_name_are_refused(model: Path, tmp_path: Path) -> None:
    for suffix in ("png", "bmp"):
        Image.fromarray(picture("red")).save(tmp_path / f"same.{suffix}")
    with pytest.raises(UsageError, match=r"same\.bmp and same\.png would get the same masks"):
        run(model, tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_sources_without_input_are_refused(model: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=f"source .*{name} (is not there|holds no image)"):
        run(model, tmp_path / name, tmp_path / "out")


def test_a_network_of_another_kind_is_refused() -> None:
    with pytest.raises(NetworkError, match="classifier network"):
        Segmenter.open(str(bundled("classifier")), InferenceOptions(), RuntimeOptions())


def test_a_network_without_a_channel_for_background_is_refused(tmp_path: Path) -> None:
    four = {"f2f.kind": "segmenter", "f2f.classes": json.dumps([*CLASSES, "fourth"])}
    segmenter = Segmenter.open(str(segmenter_file(tmp_path / "n.onnx", four)), InferenceOptions(), RuntimeOptions())
    with pytest.raises(NetworkError, match=r"accepted: \[1, 5, 64, 96\]"):
        segmenter(picture("red"))


def test_scales_mend_noise_and_the_crf_makes_sure(tmp_path: Path) -> None:
    model = str(segmenter_file(tmp_path / "unsure.onnx", gain=4.0))
    noisy = picture("green")
    noisy[np.random.default_rng(0).random(noisy.shape[:2]) < 0.1] = 128
    choices = (InferenceOptions(), InferenceOptions(scales=(0.75, 1.0, 1.25)), InferenceOptions(crf=True))
    plain, scales, crf = (Segmenter.open(model, one, RuntimeOptions()).probabilities(noisy) for one in choices)
    for shares in (plain, scales, crf):
        assert shares.shape == (4, 64, 96)
        np.testing.assert_allclose(shares.sum(dim=0), 1, atol=1e-5)
    plain_iou, scales_iou = (iou((shares.argmax(0) == GREEN).numpy(), square()) for shares in (plain, scales))
    assert plain_iou < 0.9 < 0.95 < scales_iou
    assert plain.amax(0).mean() < 0.9 < 0.99 < crf.amax(0).mean()


def test_flip_alone_changes_nothing_for_a_pointwise_network(model: Path) -> None:
    plain, mirrored = (
        Segmenter.open(str(model), InferenceOptions(flip=flip), RuntimeOptions()).probabilities(picture("green"))
        for flip in (False, True)
    )
    np.testing.assert_allclose(plain, mirrored, atol=1e-6)


def test_known_tags_leave_no_other_class(model: Path) -> None:
    segmenter = Segmenter.open(str(model), InferenceOptions(), RuntimeOptions())
    free = segmenter(picture("green"))
    assert np.array_equal(segmenter(picture("green"), tags=[GREEN - 1]), free)
    assert np.array_equal(segmenter(picture("green"), tags=[2, GREEN - 1]), free)  # in any order
    assert set(np.unique(segmenter(picture("green"), tags=[0, 2]))) <= {0, 1, 3}
    assert (segmenter(picture("green"), tags=[]) == 0).all()
    assert segmenter.probabilities(picture("green"), tags=[GREEN - 1]).shape == (2, 64, 96)


class Watched:
    """A network that notes what it sees, and says that it was trained so."""

    def __init__(self, model: Path, training: dict[str, Any]) -> None:
        self._network = open_network(str(model), "segmenter", RuntimeOptions())
        self.info = replace(self._network.info, training=training)
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        self.seen.append(tuple(batch.shape))
        return self._network(batch)


@pytest.mark.parametrize(
    ("training", "looks", "sizes"),
    [
        ({}, {}, [(64, 96)]),
        ({"options": {"side_px": 40, "fit": "warp"}}, {}, [(40, 40)]),
        ({"options": {"side_px": 40}}, {"scales": (0.5, 2.0)}, [(20, 20), (80, 80)]),
        ({"options": {"side_px": 40, "fit": "crop"}}, {"scales": (0.5,)}, [(32, 48)]),
        ({"options": {"side_px": 40, "fit": "warp"}}, {"own_size": True}, [(64, 96)]),
        ({"options": {"side_px": 40, "fit": "warp"}}, {"squares": (64,)}, [(64, 64)]),
        ({"options": {"side_px": "large"}}, {}, [(64, 96)]),
    ],
)
def test_an_image_is_seen_as_in_the_training(
    model: Path, training: dict[str, Any], looks: dict[str, Any], sizes: list[tuple[int, int]]
) -> None:
    watched = Watched(model, training)
    labels = Segmenter(watched, InferenceOptions(**looks))(picture("green"))
    padded = [
        tuple(-(-side // watched.info.size_multiple) * watched.info.size_multiple for side in size) for size in sizes
    ]
    assert [shape[2:] for shape in watched.seen] == padded
    assert labels.shape == (64, 96)


@pytest.mark.parametrize("pool", ["probabilities", "logits"])
def test_squares_replace_the_images_own_shape(model: Path, pool: Literal["probabilities", "logits"]) -> None:
    watched = Watched(model, {})
    options = InferenceOptions(squares=(40, 64), scales=(2.0,), flip=True, pool=pool)
    labels = Segmenter(watched, options)(picture("green"))
    assert watched.seen == [(1, 3, 40, 40)] * 2 + [(1, 3, 64, 64)] * 2
    assert labels.shape == (64, 96)
    assert iou(labels == GREEN, square()) > 0.7


def test_sums_of_logits_are_surer_than_means_of_probabilities(model: Path) -> None:
    image = picture("green")
    once, thrice = (
        Segmenter.open(str(model), InferenceOptions(scales=scales, pool="logits"), RuntimeOptions())
        for scales in ((1.0,), (1.0, 1.0, 1.0))
    )
    logits = once.probabilities(image).double().log()
    np.testing.assert_allclose(thrice.probabilities(image), (3 * logits).softmax(dim=0), atol=1e-5)


@pytest.mark.parametrize(("name", "value"), [("squares", (0,)), ("pool", "maximum"), ("scales", ())])
def test_wrong_ways_of_looking_are_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"--{name} .* is not accepted"):
        InferenceOptions(**{name: value})  # type: ignore[arg-type]


def test_the_command(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(picture("red")).save(tmp_path / "one.png")
    assert (
        main(["segment", str(model), str(tmp_path / "one.png"), "--out", str(tmp_path / "out"), "--no-overlays"]) == 0
    )
    assert "1 masks of 1 inputs, 0 failed" in capsys.readouterr().out
    assert not (tmp_path / "out/overlays").exists()
    assert (
        main(["segment", str(model), str(tmp_path / "one.png"), "--out", str(tmp_path / "out"), "--max-side", "3"]) == 2
    )
    assert "--max-side 3 is not accepted" in capsys.readouterr().err
