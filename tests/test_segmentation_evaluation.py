"""Scores of label maps against brute force and torchmetrics; `f2f eval voc` and `f2f eval youtube-objects`."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from material import segmenter_file
from PIL import Image
from segmentation_material import (
    HW,
    VAL,
    VOC_TAGS,
    made_up_labels,
    save,
    write_predictions,
    write_synthetic,
    write_voc,
    write_youtube_objects,
)
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from f2f.engine.cli import main
from f2f.engine.errors import UsageError
from f2f.engine.types import ImageArray
from f2f.engine.write import encode_mask
from f2f.training.segmentation.confusion_picture import confusion_picture
from f2f.training.segmentation.evaluate import evaluate_voc
from f2f.training.segmentation.options import VocEvaluation
from f2f.training.segmentation.scores import Confusion
from f2f.training.segmentation.voc import VOC_CLASSES
from f2f.training.segmentation.youtube_objects import (
    YOUTUBE_CLASSES,
    AnnotatedFrame,
    frame_file,
    read_object_mask,
    read_youtube_objects,
)
from f2f.training.segmentation.youtube_scores import OTHER, count_frame, youtube_scores

CLASSES = ("cat", "dog", "bus")


# ---- scores


def labels_of(*values: int) -> st.SearchStrategy[ImageArray]:
    return arrays(np.uint8, (4, 5), elements=st.sampled_from(values))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(labels_of(0, 1, 2, 3, 255), labels_of(0, 1, 2, 3, 255)), min_size=1, max_size=3))
def test_scores_by_brute_force(pairs: list[tuple[ImageArray, ImageArray]]) -> None:
    confusion = Confusion(CLASSES)
    for predicted, truth in pairs:
        confusion.add(predicted, truth)
    scores = confusion.scores()
    pixels = [(int(p), int(t)) for predicted, truth in pairs for p, t in zip(predicted.flat, truth.flat, strict=True)]
    known = [(p, t) for p, t in pixels if t != 255]
    expected = []
    for label, name in enumerate(("background", *CLASSES)):
        either = sum(label in pair for pair in known)
        expected.append(sum(pair == (label, label) for pair in known) / either if either else None)
        assert scores.iou[name] == (None if expected[-1] is None else pytest.approx(expected[-1]))
        assert (name in scores.absent) == (not either)
    if known:
        assert scores.mean_iou == pytest.approx(np.mean([value for value in expected if value is not None]))
        assert scores.pixel_accuracy == pytest.approx(np.mean([p == t for p, t in known]))
    else:
        assert np.isnan([scores.mean_iou, scores.pixel_accuracy]).all()


def test_scores_agree_with_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    jaccard = MulticlassJaccardIndex(4, average="none", ignore_index=255)
    accuracy = MulticlassAccuracy(4, average="micro", ignore_index=255)
    confusion = Confusion(CLASSES)
    for _ in range(3):
        truth = rng.choice([0, 1, 2, 3, 255], (17, 23)).astype(np.uint8)
        predicted = np.where(rng.random((17, 23)) < 0.6, truth, rng.integers(0, 4, (17, 23))).astype(np.uint8)
        predicted[predicted == 255] = 0
        confusion.add(predicted, truth)
        for metric in (jaccard, accuracy):
            metric.update(torch.from_numpy(predicted).long()[None], torch.from_numpy(truth).long()[None])
    scores = confusion.scores()
    assert list(scores.iou.values()) == pytest.approx(jaccard.compute().tolist())
    assert scores.pixel_accuracy == pytest.approx(float(accuracy.compute()))
    assert scores.images == 3


def test_a_class_that_is_missed_altogether_counts_as_zero() -> None:
    """Some published code takes the mean over classes with a right pixel only."""
    confusion = Confusion(CLASSES)
    confusion.add(np.array([[0, 0, 1, 255]], np.uint8), np.array([[0, 2, 1, 1]], np.uint8))
    scores = confusion.scores()
    assert scores.iou == {"background": 0.5, "cat": 0.5, "dog": 0.0, "bus": None}
    assert scores.mean_iou == pytest.approx(1 / 3)
    assert scores.absent == ("bus",)


# ---- f2f eval voc


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return write_voc(tmp_path / "data")


def perfect(ids: tuple[str, ...] = VAL) -> dict[str, ImageArray]:
    """Predictions like the truth, background where that is open."""
    order = list(VOC_TAGS)
    truths = {id_: made_up_labels(order.index(id_), VOC_TAGS[id_]) for id_ in ids}
    return {id_: np.where(labels == 255, 0, labels).astype(np.uint8) for id_, labels in truths.items()}


def test_perfect_predictions_score_one(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pred = write_predictions(tmp_path / "pred", perfect())
    picture = tmp_path / "confusion.png"
    assert main(["eval", "voc", "--pred", str(pred), "--voc", str(voc.parents[1]), "--confusion", str(picture)]) == 0
    shown = capsys.readouterr().out
    assert [line.split() for line in shown.splitlines() if line.startswith(("dog", "mean"))] == [
        ["dog", "1.000"],
        ["mean", "1.000"],
    ]
    assert "2 images; 100.0% of the pixels right" in shown
    assert "not in the mean, as no pixel is or is predicted to be: aeroplane" in shown
    with Image.open(picture) as drawn:
        assert drawn.width > 20 * 30


def test_scores_as_json(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maps = perfect()
    maps[VAL[0]][:] = 0
    write_predictions(tmp_path / "out" / "masks", maps)
    assert main(["eval", "voc", "--pred", str(tmp_path / "out"), "--voc", str(voc), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["iou"]["bird"] is scores["iou"]["train"] is None
    assert (scores["iou"]["boat"], scores["iou"]["dog"]) == (0.0, 1.0)
    assert scores["images"] == 2
    assert scores["mean_iou"] == pytest.approx((scores["iou"]["background"] + 0 + 1 + 1) / 4)


def test_predictions_may_name_their_classes_in_another_order(voc: Path, tmp_path: Path) -> None:
    turned = VOC_CLASSES[::-1]
    table = np.zeros(256, np.uint8)
    table[1:21] = np.arange(20, 0, -1)
    pred = write_predictions(tmp_path / "pred", {id_: table[labels] for id_, labels in perfect().items()})
    save(pred / "labels.txt", "\n".join(["background", *turned]))
    confusion = evaluate_voc(VocEvaluation(pred=pred, voc=voc))
    assert confusion is not None
    assert confusion.scores().mean_iou == 1
    save(pred / "labels.txt", "background\ncat\nunicorn\n")
    with pytest.raises(UsageError, match="pred has the class 'unicorn'"):
        evaluate_voc(VocEvaluation(pred=pred, voc=voc))


def test_the_synthetic_web_is_laid_out_alike(tmp_path: Path) -> None:
    folder = write_synthetic(tmp_path, {"s0": ["deer"], "s1": ["peacock"]}, ("peacock", "deer"))
    pred = write_predictions(tmp_path / "pred", {"s1": np.zeros(HW, np.uint8)})
    confusion = evaluate_voc(VocEvaluation(pred=pred, voc=folder / "images"))
    assert confusion is not None
    assert confusion.scores().iou["peacock"] == 0
    assert confusion.scores().absent == ("deer",)


def test_what_f2f_segment_writes_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network of red, green and blue on a picture of a red and a blue half, of which the truth calls all red."""
    data = tmp_path / "data"
    colours = np.zeros((16, 24, 3), np.uint8)
    colours[:, :12, 0], colours[:, 12:, 2] = 255, 255
    (data / "JPEGImages").mkdir(parents=True)
    Image.fromarray(colours).save(data / "JPEGImages" / "a.jpg", quality=100, subsampling=0)
    save(data / "SegmentationClass" / "a.png", encode_mask(np.full((16, 24), 2, np.uint8)))
    save(data / "labels.txt", "background\ngreen\nred\nblue\n")
    save(data / "ImageSets" / "Segmentation" / "val.txt", "a\n")
    model = segmenter_file(tmp_path / "model.onnx")
    assert main(["segment", str(model), str(data / "JPEGImages"), "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["eval", "voc", "--pred", str(tmp_path / "out"), "--voc", str(data), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["iou"] == {"background": None, "green": None, "red": 0.5, "blue": 0.0}


def test_the_archive_is_as_the_server_wants_it(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 21, HW).astype(np.uint8)
    pred = tmp_path / "pred"
    pred.mkdir()
    Image.fromarray(labels).save(pred / "2009_000003.png")  # grey: becomes a palette picture
    archives = [tmp_path / "a.tgz", tmp_path / "b.tar.gz"]
    for archive in archives:
        arguments = ["--pred", str(pred), "--voc", str(voc), "--list", "test", "--submit", str(archive)]
        assert main(["eval", "voc", *arguments]) == 0
        assert "list test has no masks to score against" in capsys.readouterr().out
    assert archives[0].read_bytes() == archives[1].read_bytes()
    assert archives[0].read_bytes()[4:8] == bytes(4), "no time of day"
    name = "results/VOC2012/Segmentation/comp6_test_cls/2009_000003.png"
    with tarfile.open(archives[0]) as packed:
        assert packed.getnames() == [name]
        packed.extractall(tmp_path / "unpacked", filter="data")
    with Image.open(tmp_path / "unpacked" / name) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), labels)


def test_an_archive_of_a_list_with_masks_is_scored_too(voc: Path, tmp_path: Path) -> None:
    pred = write_predictions(tmp_path / "pred", perfect())
    confusion = evaluate_voc(VocEvaluation(pred=pred, voc=voc, submit=tmp_path / "val.tgz"))
    assert confusion is not None
    assert confusion.scores().mean_iou == 1
    with tarfile.open(tmp_path / "val.tgz") as packed:
        assert packed.getnames()[0].startswith("results/VOC2012/Segmentation/comp6_val_cls/")


@pytest.mark.parametrize(
    ("labels", "more", "reason"),
    [
        (None, [], r"lacks the predictions of 1 of 2 images \(2008_000002\)"),
        (np.zeros((3, 4), np.uint8), [], r"2008_000002\.png is 4x3 px and .* is 34x24 px"),
        (np.full(HW, 21, np.uint8), [], "holds the labels 21; accepted: 0 to 20"),
        (np.full(HW, 255, np.uint8), ["--submit", "x.tgz"], r"leaves 100.0% of its pixels open"),
        (np.zeros(HW, np.uint8), ["--submit", "x.zip"], r"submit is x.zip; accepted: a file \.tgz or \.tar\.gz"),
        (np.zeros(HW, np.uint8), ["--confusion", "x.jpg"], r"confusion is x.jpg; accepted: a file \.png"),
        (np.zeros(HW, np.uint8), ["--list", "test"], "1 of 1 images of .* have no label map"),
        (np.zeros(HW, np.uint8), ["--list", "dev"], "no list 'dev'"),
    ],
    ids=["missing", "size", "beyond", "open", "zip", "jpg", "no masks", "list"],
)
def test_what_cannot_be_scored_is_refused(
    voc: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    labels: ImageArray | None,
    more: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    pred = write_predictions(tmp_path / "pred", perfect(VAL[:1]))
    if labels is not None:
        write_predictions(pred, {VAL[1]: labels})
    assert main(["eval", "voc", "--pred", str(pred), "--voc", str(voc), *more]) == 2
    assert_told(reason, capsys)


def assert_told(reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, in one line of ours or in tyro's box."""
    told = capsys.readouterr().err
    with pytest.raises(UsageError, match=reason):
        raise UsageError(" ".join(told.replace("│", " ").split()))


def test_a_folder_that_is_not_there_is_refused(voc: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--pred .*nowhere is no folder"):
        evaluate_voc(VocEvaluation(pred=tmp_path / "nowhere", voc=voc))


# ---- the picture


def test_the_picture_is_darker_where_more_pixels_are() -> None:
    confusion = Confusion(VOC_CLASSES)
    truth = np.repeat(np.array([[0, 1, 2]], np.uint8), 10, 0)
    predicted = truth.copy()
    predicted[:3, 2] = 1
    confusion.add(predicted, truth)
    picture = np.asarray(confusion_picture(confusion).convert("L"), np.float32)
    cells = corners(picture, 21)
    assert cells[0, 0] == cells[1, 1] < cells[2, 2] < cells[2, 1] < cells[0, 1] == 255
    assert 240 < cells[3].min() == cells[3].max() < 255  # paper: no pixel of `bird`
    confusion.add(np.array([[255]], np.uint8), np.array([[0]], np.uint8))
    assert confusion_picture(confusion).width == picture.shape[1] + 36  # a column for what is left open


def corners(picture: np.ndarray, count: int) -> np.ndarray:
    """[count,count]: brightness in a corner of every cell, beside its figure."""
    tops, lefts = (range(side - 12 - 36 * count, side - 12, 36) for side in picture.shape)
    return np.array([[picture[y + 3 : y + 8, x + 3 : x + 8].mean() for x in lefts] for y in tops])


# ---- YouTube-Objects


def frame(tag: str, number: int, video: str, shot: str) -> AnnotatedFrame:
    return AnnotatedFrame(tag, video, shot, number, Path("nowhere"))


def random_frames() -> list[tuple[AnnotatedFrame, ImageArray, np.ndarray]]:
    """Three classes; clips of different lengths, one frame empty in both."""
    rng = np.random.default_rng(0)
    clips = [
        ("cat", "0001", "001", 3),
        ("cat", "0001", "002", 1),
        ("dog", "0002", "001", 2),
        ("train", "0001", "001", 2),
    ]
    frames = [frame(tag, 1 + 10 * place, video, shot) for tag, video, shot, count in clips for place in range(count)]
    choices = [0, 0, *(YOUTUBE_CLASSES.index(name) + 1 for name in ("cat", "dog", "train")), OTHER, 255]
    made = [(one, rng.choice(choices, (6, 7)).astype(np.uint8), rng.random((6, 7)) < 0.5) for one in frames]
    made[1][1][:], made[1][2][:] = 0, False
    return made


def brute_iou(predicted: list[bool], truth: list[bool]) -> float:
    either = sum(p or t for p, t in zip(predicted, truth, strict=True))
    return sum(p and t for p, t in zip(predicted, truth, strict=True)) / either if either else 1.0


def test_both_protocols_by_brute_force() -> None:
    frames = random_frames()
    scores = youtube_scores([count_frame(*one) for one in frames])
    assert (scores.frames, scores.sequences) == (8, 4)
    assert list(scores.per_class) == ["cat", "dog", "train"]
    rows = []
    for tag, row in scores.per_class.items():
        label = YOUTUBE_CLASSES.index(tag) + 1
        own = [one for one in frames if one[0].tag == tag]
        expected = {
            "frame_iou": clip_mean({id(p): p == label for _, p, _ in own}, own),
            "frame_iou_any": clip_mean({id(p): (p > 0) & (p < 255) for _, p, _ in own}, own),
            "pooled_iou": pooled([(p == label, t & (one.tag == tag)) for one, p, t in frames]),
            "pooled_iou_tag": pooled([(p == label, t) for _, p, t in own]),
            "pooled_iou_any": pooled([((p > 0) & (p < 255), t) for _, p, t in own]),
        }
        assert vars(row) == pytest.approx(expected)
        rows.append(expected)
    assert vars(scores.mean) == pytest.approx({key: np.mean([row[key] for row in rows]) for key in rows[0]})
    assert scores.mean.pooled_iou < scores.mean.pooled_iou_tag


def clip_mean(predicted: dict[int, np.ndarray], frames: list[tuple[AnnotatedFrame, ImageArray, np.ndarray]]) -> float:
    clips: dict[str, list[float]] = {}
    for one, labels, truth in frames:
        iou = brute_iou(predicted[id(labels)].ravel().tolist(), truth.ravel().tolist())
        clips.setdefault(f"{one.video}/{one.shot}", []).append(iou)
    return float(np.mean([np.mean(values) for values in clips.values()]))


def pooled(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    predicted, truth = (np.concatenate([pair[place].ravel() for pair in pairs]).tolist() for place in range(2))
    return brute_iou(predicted, truth)


def box(first: int, last: int) -> ImageArray:
    mask = np.zeros((32, 48), np.uint8)
    mask[8:24, first:last] = 1
    return mask


MASKS: Mapping[str, ImageArray] = {
    "cat/0001/001/1": box(8, 24),
    "cat/0001/001/11": box(16, 32),
    "dog/0007/012/1": box(8, 24),
}


def test_youtube_objects_are_found_with_their_frames(tmp_path: Path) -> None:
    frames = read_youtube_objects(write_youtube_objects(tmp_path, MASKS))
    assert [(one.sequence, one.number) for one in frames] == [
        ("cat/0001/001", 1),
        ("cat/0001/001", 11),
        ("dog/0007/012", 1),
    ]
    assert frame_file(tmp_path, frames[1]).name == "frame0011.jpg"
    assert read_youtube_objects(tmp_path / "youtube_masks") == frames
    (tmp_path / "v1" / "cat" / "data" / "0001" / "shots" / "001" / "frame0011.jpg").unlink()
    with pytest.raises(UsageError, match=r"frame0011\.jpg is not there"):
        frame_file(tmp_path, frames[1])


def test_masks_are_read_as_they_were_before_jpeg(tmp_path: Path) -> None:
    """A border inside JPEG's blocks of 8 px rings: neither side is pure any more."""
    write_youtube_objects(tmp_path, {"cat/0001/001/1": box(11, 27)})
    (one,) = read_youtube_objects(tmp_path)
    with Image.open(one.mask) as stored:
        assert len(np.unique(np.asarray(stored))) > 4
    np.testing.assert_array_equal(read_object_mask(one.mask), box(11, 27) == 1)


def test_eval_youtube_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Predictions by VOC's classes: right, half a frame off, and a dog taken for a sheep."""
    write_youtube_objects(tmp_path, MASKS)
    cat, sheep = VOC_CLASSES.index("cat") + 1, VOC_CLASSES.index("sheep") + 1
    frames = read_youtube_objects(tmp_path)
    maps = [cat * box(8, 24), cat * box(24, 40), sheep * box(8, 24)]
    write_predictions(
        tmp_path / "out" / "masks" / "v1", {str(one.path): labels for one, labels in zip(frames, maps, strict=True)}
    )
    arguments = ["eval", "youtube-objects", "--pred", str(tmp_path / "out"), "--root", str(tmp_path)]
    assert main([*arguments, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["per_class"]["cat"]["frame_iou"] == pytest.approx((1 + 1 / 3) / 2)
    assert scores["per_class"]["cat"]["pooled_iou"] == pytest.approx(24 / 40)
    assert scores["per_class"]["dog"]["frame_iou"] == scores["per_class"]["dog"]["pooled_iou_tag"] == 0
    assert scores["per_class"]["dog"]["frame_iou_any"] == scores["per_class"]["dog"]["pooled_iou_any"] == 1
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "cat" in shown
    assert "3 frames of 2 clips" in shown


def test_what_is_wrong_with_youtube_objects_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pred = write_predictions(tmp_path / "pred", {})
    pred.mkdir()
    arguments = ["eval", "youtube-objects", "--pred", str(pred), "--root", str(tmp_path / "data")]
    assert main(arguments) == 2
    assert_told("holds no masks; accepted: youtube_masks/<class>", capsys)
    write_youtube_objects(tmp_path / "data", MASKS)
    assert main(arguments) == 2
    assert_told("lacks the predictions of 3 of 3 images", capsys)
    for one in read_youtube_objects(tmp_path / "data"):
        save(pred / f"{one.path}.png", encode_mask(np.zeros((5, 6), np.uint8)))
    assert main(arguments) == 2
    assert_told(r"frame0001\.png is 6x5 px and .*00001\.jpg is 48x32 px", capsys)
    save(pred / "labels.txt", "background\ncat\n")
    assert main(arguments) == 2
    assert_told("has no class 'aeroplane'", capsys)
    write_youtube_objects(tmp_path / "data", {"unicorn/0001/001/1": box(1, 2)})
    assert main(arguments) == 2
    assert_told("has a class 'unicorn'", capsys)
