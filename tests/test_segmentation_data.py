"""Data sets of segmentation: lists, Pascal VOC, SBD, what a run wrote, the synthetic web, cues."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from material import Setup, TinyNetworks, crawl
from PIL import Image
from segmentation_material import (
    DOG,
    HW,
    PERSON,
    TRAIN,
    VAL,
    VOC_TAGS,
    annotation,
    made_up_labels,
    save,
    write_run,
    write_sbd,
    write_sec_cues,
    write_synthetic,
    write_voc,
)

from f2f.engine import label
from f2f.engine.cli import main
from f2f.engine.errors import UsageError
from f2f.engine.records import MaskRecord, ShardRecord, VideoRecord, to_json
from f2f.engine.write import encode_mask
from f2f.training.imagenet import VOC_TO_IMAGENET
from f2f.training.segmentation.cue_files import CUE_GRID_HW, CueFolder
from f2f.training.segmentation.engine_output import read_engine_output
from f2f.training.segmentation.image_lists import ListedImage, parse_image_list
from f2f.training.segmentation.images import LabelledImage, LabelledSet, read_confidence, read_label_map
from f2f.training.segmentation.sampling import Source
from f2f.training.segmentation.sbd import make_trainaug, read_sbd_labels
from f2f.training.segmentation.sec_cues import import_sec_cues
from f2f.training.segmentation.synthetic import read_synthetic_images, with_exact_masks
from f2f.training.segmentation.voc import VOC_CLASSES, read_box_tags, read_voc
from f2f.training.synth import CLASSES

IDS = st.from_regex(r"[A-Za-z0-9_]{1,12}", fullmatch=True)


# ---- records


def test_labels_are_read_by_the_order_that_is_asked_for(tmp_path: Path) -> None:
    stored = np.array([[0, 1, 2, 255]], np.uint8)
    save(tmp_path / "a.png", encode_mask(stored))
    Image.new("RGB", (4, 1)).save(tmp_path / "a.jpg")
    image = LabelledImage("a", tmp_path / "a.jpg", tmp_path / "a.png", (0, 1))
    images = LabelledSet("made up", ("cat", "dog"), (image,))
    np.testing.assert_array_equal(images.labels(image), stored)
    arranged = images.arranged(("bird", "dog", "cat"))
    assert arranged.images[0].tags == (1, 2)
    np.testing.assert_array_equal(arranged.labels(arranged.images[0]), [[0, 3, 2, 255]])
    back = arranged.arranged(("cat", "dog", "bird"))
    assert back.images[0].tags == (0, 1)
    np.testing.assert_array_equal(back.labels(back.images[0]), stored)
    with pytest.raises(UsageError, match="has the class 'cat'; accepted: dog"):
        images.arranged(("dog",))


@pytest.mark.parametrize("mode", ["P", "L"])
def test_palette_and_grey_masks_hold_the_same_labels(tmp_path: Path, mode: str) -> None:
    labels = made_up_labels(3, (1, 2))
    image = Image.fromarray(labels)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    image.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as written:
        assert written.mode == mode
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.png", 3), labels)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: Image.new("L", (3, 2), 7).save(path), "holds the labels 7; accepted: 0 to 3"),
        (lambda path: Image.new("L", (3, 2), 254).save(path), "holds the labels 254"),
        (lambda path: Image.new("RGB", (3, 2)).save(path), "a picture of mode RGB; accepted: a palette or grey PNG"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\nnothing"), "cannot be read"),
        (lambda path: path.write_bytes(encode_mask(np.zeros((40, 40), np.uint8))[:60]), "cannot be read"),
        (lambda path: None, "cannot be read"),
    ],
    ids=["beyond", "254", "colours", "broken", "cut off", "missing"],
)
def test_what_is_no_label_map_is_refused(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    make(tmp_path / "a.png")
    with pytest.raises(UsageError, match=reason):
        read_label_map(tmp_path / "a.png", 3)


def test_a_mask_of_another_size_is_refused_naming_both(tmp_path: Path) -> None:
    save(tmp_path / "a.png", encode_mask(np.zeros((4, 5), np.uint8)))
    Image.new("RGB", (4, 5)).save(tmp_path / "b.jpg")
    image = LabelledImage("a", tmp_path / "b.jpg", tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"a\.png is 5x4 px and .*b\.jpg is 4x5 px"):
        LabelledSet("made up", ("cat",), (image,)).labels(image)


def image_of(id_: str = "a", tags: tuple[int, ...] = (), weight: float = 1.0) -> LabelledImage:
    return LabelledImage(id_, Path("nowhere.jpg"), None, tags, weight)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: image_of("../a"), "'../a' is no image id"),
        (lambda: image_of(".."), "is no image id"),
        (lambda: image_of(weight=float("nan")), "weight of a is nan"),
        (lambda: image_of(weight=-1.0), "weight of a is -1"),
        (lambda: LabelledSet("here", ("cat",), ()), "here holds no images"),
        (lambda: LabelledSet("here", ("cat", "cat"), (image_of(),)), "here has the classes cat, cat"),
        (lambda: LabelledSet("here", tuple(map(str, range(255))), (image_of(),)), "255"),
        (lambda: LabelledSet("here", ("cat",), (image_of(), image_of())), "here has a twice"),
        (
            lambda: LabelledSet("here", ("cat",), (image_of(tags=(1,)),)),
            r"tags a with classes \(1,\); accepted: 0 to 0",
        ),
        (lambda: LabelledSet("here", ("cat",), (image_of(),)).need_tags(), "1 of 1 images of here have no tag"),
        (lambda: LabelledSet("here", ("cat",), (image_of(),)).need_labels(), "have no label map"),
        (lambda: LabelledSet("here", ("cat",), (image_of(),)).need_image_files(), "have no image file"),
    ],
)
def test_wrong_records_are_refused(make: Callable[[], object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        make()


# ---- lists


def test_the_three_spellings_of_a_list() -> None:
    text = "2007_000001\n\n/JPEGImages/b.jpg /SegmentationClassAug/b.png\r\nc.jpg 17\n/JPEGImages/d.jpg\n"
    assert parse_image_list(text, "list") == (
        ListedImage("2007_000001"),
        ListedImage("b", PurePosixPath("SegmentationClassAug/b.png")),
        ListedImage("c", number=17),
        ListedImage("d"),
    )


@given(st.lists(IDS, min_size=1, max_size=8, unique=True), st.lists(st.sampled_from("ips"), min_size=8, max_size=8))
def test_lists_are_read_as_they_were_written(ids: list[str], kinds: list[str]) -> None:
    spell: dict[str, Callable[[str, int], tuple[str, ListedImage]]] = {
        "i": lambda id_, _: (id_, ListedImage(id_)),
        "p": lambda id_, _: (f"/JPEGImages/{id_}.jpg /M/{id_}.png", ListedImage(id_, PurePosixPath(f"M/{id_}.png"))),
        "s": lambda id_, number: (f"{id_}.jpg {number}", ListedImage(id_, number=number)),
    }
    written = [spell[kind](id_, number) for number, (id_, kind) in enumerate(zip(ids, kinds, strict=False))]
    assert parse_image_list("\n".join(line for line, _ in written), "list") == tuple(image for _, image in written)


@settings(max_examples=200)
@given(st.text(alphabet="ab/.\\ \n19-jpgn_", max_size=40))
def test_no_list_leads_out_of_the_data_set(text: str) -> None:
    try:
        images = parse_image_list(text, "list")
    except UsageError:
        return
    for image in images:
        assert not {"/", "\\"} & set(image.id)
        assert image.id not in {"", ".", ".."}
        assert image.labels is None or (not image.labels.is_absolute() and ".." not in image.labels.parts)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "lists no image"),
        ("a\nb\na\n", "lists a twice"),
        ("a b c\n", "line 1 is 'a b c'"),
        ("a -1\n", "line 1 is 'a -1'"),
        ("a\n../b\n", "line 2 is '../b'"),
        ("a.jpg /../../b.png\n", "line 1"),
        ("/elsewhere/a.jpg\n", "line 1"),
    ],
)
def test_wrong_lists_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_image_list(text, "list")


# ---- Pascal VOC


def test_voc_is_read_with_the_tags_of_its_boxes(tmp_path: Path) -> None:
    folder = write_voc(tmp_path)
    for root in (tmp_path, folder.parent, folder):
        images = read_voc(root, "train")
        assert [one.id for one in images.images] == list(TRAIN)
        assert [one.tags for one in images.images] == [VOC_TAGS[id_] for id_ in TRAIN]
    assert images.classes == tuple(VOC_TO_IMAGENET) == VOC_CLASSES
    np.testing.assert_array_equal(images.labels(images.images[2]), made_up_labels(3, (DOG, PERSON)))
    test = read_voc(folder, "test").images[0]
    assert test.labels is None


def test_a_list_file_can_name_masks_of_its_own(tmp_path: Path) -> None:
    folder = write_voc(tmp_path)
    save(folder / "Mine" / "2009_000001.png", encode_mask(np.full(HW, 20, np.uint8)))
    listed = save(tmp_path / "mine.txt", "/JPEGImages/2009_000001.jpg /Mine/2009_000001.png\n")
    images = read_voc(folder, str(listed))
    assert images.labels(images.images[0]).min() == 20
    save(tmp_path / "mine.txt", "/JPEGImages/2009_000001.jpg /Mine/2009_000002.png\n")
    with pytest.raises(UsageError, match=r"Mine/2009_000002\.png, which is not there"):
        read_voc(folder, str(listed))


def test_what_is_missing_of_voc_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no JPEGImages; accepted: the folder VOC2012"):
        read_voc(tmp_path)
    folder = write_voc(tmp_path)
    with pytest.raises(
        UsageError, match=r"no list 'trainaug' .* accepted: test, train, trainval, val, .* `f2f data voc"
    ):
        read_voc(folder, "trainaug")
    (folder / "JPEGImages" / f"{TRAIN[1]}.jpg").unlink()
    with pytest.raises(UsageError, match=f"1 of 3 images of .* have no image file \\({TRAIN[1]}\\)"):
        read_voc(folder, "train").need_image_files()
    (folder / "Annotations" / f"{TRAIN[0]}.xml").unlink()
    with pytest.raises(UsageError, match=f"1 of 3 images of .* have no tag \\({TRAIN[0]}\\)"):
        read_voc(folder, "train").need_tags()


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (annotation((1,), BOMB).replace("bicycle", "&c;"), "declares a document type a"),
        (annotation((1,), '<!DOCTYPE a SYSTEM "file:///etc/hostname">'), "declares a document type a"),
        (annotation((1,)).replace("bicycle", "unicorn"), "a box of class 'unicorn'"),
        ("<annotation>", "cannot be read"),
        ("", "cannot be read"),
    ],
    ids=["entities", "outside", "class", "cut off", "empty"],
)
def test_wrong_annotations_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        read_box_tags(save(tmp_path / "a.xml", text), VOC_CLASSES)


# ---- SBD


def test_trainaug_is_voc_and_sbd_without_val(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_voc(tmp_path)
    assert main(["data", "voc-aug", str(tmp_path), str(write_sbd(tmp_path))]) == 0
    assert "6 images" in capsys.readouterr().out
    images = read_voc(folder, "trainaug").need_image_files().need_labels()
    expected = {*TRAIN, "2008_000003", "2009_000001", "2009_000002"}
    assert [one.id for one in images.images] == sorted(expected - set(VAL))
    masks = {one.id: read_label_map(folder / "SegmentationClassAug" / f"{one.id}.png", 20) for one in images.images}
    np.testing.assert_array_equal(masks["2008_000001"], made_up_labels(3, (DOG, PERSON)))  # VOC's own, not SBD's
    assert (masks["2009_000001"] == 6).all()
    save(folder / "SegmentationClassAug" / "2009_000001.png", encode_mask(np.zeros(HW, np.uint8)))
    again = make_trainaug(folder, tmp_path)
    assert (again.images, again.written, again.kept) == (6, 0, 6)


def test_what_is_wrong_with_sbd_is_named(tmp_path: Path) -> None:
    folder = write_voc(tmp_path)
    with pytest.raises(UsageError, match="holds no cls folder"):
        make_trainaug(folder, tmp_path)
    sbd = write_sbd(tmp_path)
    mat = sbd / "benchmark_RELEASE" / "dataset" / "cls" / "2009_000002.mat"
    mat.write_bytes(mat.read_bytes()[:150])
    with pytest.raises(UsageError, match=r"2009_000002\.mat cannot be read"):
        read_sbd_labels(mat)
    (folder / "JPEGImages" / "2009_000001.jpg").unlink()
    with pytest.raises(UsageError, match=r"lacks 1 of 6 images \(2009_000001\)"):
        make_trainaug(folder, sbd)


def test_an_sbd_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    folder, sbd = write_voc(tmp_path), write_sbd(tmp_path)
    Image.new("RGB", (8, 9)).save(folder / "JPEGImages" / "2009_000001.jpg")
    with pytest.raises(UsageError, match=r"2009_000001\.mat is 34x24 px and .* is 8x9 px"):
        make_trainaug(folder, sbd)


# ---- what a run wrote


ROWS = [
    {"id": "0123456789abcdef-0000", "classes": ["dog"]},
    {"id": "0123456789abcdef-0001", "classes": ["cat", "dog"]},
]


def test_output_of_a_run_is_read_with_its_label_sets(tmp_path: Path) -> None:
    images = read_engine_output(write_run(tmp_path, ("cat", "dog"), ROWS))
    assert images.classes == ("cat", "dog")
    assert [(one.tags, one.weight, one.confidence) for one in images.images] == [((1,), 1.0, None), ((0, 1), 1.0, None)]
    np.testing.assert_array_equal(images.labels(images.images[1]), made_up_labels(1, (0, 1)))


def test_a_run_of_the_engine_is_read(tmp_path: Path, networks: TinyNetworks) -> None:
    videos = crawl(tmp_path / "videos", "red/a.mp4", "blue/b.mp4")
    label(Setup(rule="f2f", confidence=True, max_windows=1).options(videos, tmp_path / "out", networks))
    images = read_engine_output(tmp_path / "out").need_tags()
    assert sorted([*map(images.classes.__getitem__, one.tags)] for one in images.images) == [["blue"], ["red"]]
    for one in images.images:
        assert set(np.unique(images.labels(one)).tolist()) - {255} == {0, one.tags[0] + 1}
        assert read_confidence(one).shape == images.labels(one).shape


def test_quality_weighs_and_confidence_is_found(tmp_path: Path) -> None:
    rows = [{**row, "quality": quality} for row, quality in zip(ROWS, (0.25, 0.75), strict=True)]
    out = write_run(tmp_path, ("cat", "dog"), rows)
    confidence = out / "voc" / "Confidence" / f"{ROWS[1]['id']}.png"
    confidence.parent.mkdir()
    Image.new("L", (HW[1], HW[0]), 200).save(confidence)
    images = read_engine_output(out).images
    assert [one.weight for one in images] == [0.25, 0.75]
    assert [one.confidence for one in images] == [None, confidence]


def test_nothing_outside_a_run_is_read(tmp_path: Path) -> None:
    secret = save(tmp_path / "secret.png", encode_mask(np.zeros(HW, np.uint8)))
    out = write_run(tmp_path / "out", ("cat", "dog"), ROWS)
    mask = out / "voc" / "SegmentationClass" / f"{ROWS[0]['id']}.png"
    mask.unlink()
    mask.symlink_to(secret)
    with pytest.raises(UsageError, match="leads out of"):
        read_engine_output(out)
    out = write_run(tmp_path / "other", ("cat", "dog"), [{"id": "../../../secret", "classes": ["dog"]}])
    with pytest.raises(UsageError, match="leads out of"):
        read_engine_output(out)


def test_a_broken_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no labels\.parquet; accepted: the --out folder of `f2f label`"):
        read_engine_output(tmp_path)
    out = write_run(tmp_path / "a", ("cat",), [{"id": "a", "classes": ["cat"]}])
    (out / "voc" / "labels.txt").write_text("background\nbird\n")
    with pytest.raises(UsageError, match="gives a the class 'cat'"):
        read_engine_output(out)
    (out / "labels.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"labels\.parquet cannot be read"):
        read_engine_output(out)
    out = write_run(tmp_path / "b", ("cat",), [{"id": "a", "classes": ["cat"]}])
    (out / "voc" / "SegmentationClass" / "a.png").unlink()
    with pytest.raises(UsageError, match=r"a\.png is missing"):
        read_engine_output(out)


# ---- the synthetic web


def test_synthetic_images_keep_the_order_of_their_masks(tmp_path: Path) -> None:
    tags = {"s0": ["peacock", "deer"], "s1": ["ambulance"], "s2": ["deer"]}
    folder = write_synthetic(tmp_path, tags, CLASSES)
    images = read_synthetic_images(folder, "train")
    assert images.classes == CLASSES != tuple(sorted(CLASSES))
    assert [[CLASSES[tag] for tag in one.tags] for one in images.images] == [["deer", "peacock"], ["ambulance"]]
    np.testing.assert_array_equal(np.unique(images.labels(images.images[1])), [0, CLASSES.index("ambulance") + 1, 255])
    assert [one.id for one in read_synthetic_images(folder / "images", "val").images] == ["s2"]


def test_tagged_images_need_no_masks_to_learn_from_cues(tmp_path: Path) -> None:
    folder = write_synthetic(tmp_path, {"s0": ["deer"], "s1": ["ambulance"], "s2": ["deer"]}, CLASSES)
    shutil.rmtree(folder / "images" / "SegmentationClass")
    images = read_synthetic_images(folder, "train")
    assert [one.labels for one in images.images] == [None, None]
    cues = CueFolder.create(tmp_path / "cues", CLASSES)
    for one in images.images:
        cues.write(one.id, np.zeros((4, 4), np.uint8))
    Source(images, cues)
    with pytest.raises(UsageError, match=r"2 of 2 images of .* have no label map \(s0, s1\)"):
        Source(images)


def test_exact_masks_take_the_place_of_a_runs_own(tmp_path: Path) -> None:
    """The run names its classes in another order than the truth."""
    ordered = tuple(sorted(CLASSES))
    video = VideoRecord("deer/v.mp4", "deer/v.mp4", "deer", "ok", fps=10.0)
    mask = MaskRecord("m", video.id, video.video, "deer", "deer", 0, 0, ("deer",), (0.3,), None, (1,), 0, 0, *HW[::-1])
    out = write_run(tmp_path / "out", ordered, [{"id": "m", "classes": ["deer"]}])
    save(out / "shards" / "000000.json", to_json(ShardRecord(0, (video,), (mask,))))
    truth = np.full(HW, CLASSES.index("deer") + 1, np.uint8)
    with pytest.raises(UsageError, match=r"1 of 1 images of .* have no label map"):
        with_exact_masks(out, tmp_path / "truth")
    save(tmp_path / "truth" / "deer" / "v" / "00003.png", encode_mask(truth))
    images = with_exact_masks(out, tmp_path / "truth")
    assert images.classes == ordered
    np.testing.assert_array_equal(images.labels(images.images[0]), np.full(HW, ordered.index("deer") + 1))


# ---- cues


@settings(max_examples=30)
@given(arrays(np.uint8, st.tuples(st.integers(1, 50), st.integers(1, 50)), elements=st.sampled_from([0, 1, 2, 3, 255])))
def test_cues_are_read_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, cues: np.ndarray) -> None:
    folder = CueFolder.create(tmp_path_factory.mktemp("cues"), ("a", "b", "c"))
    folder.write("x", cues)
    np.testing.assert_array_equal(CueFolder.open(folder.folder).read("x"), cues)
    turned = np.array([0, 3, 1, 2, *[0] * 251, 255], np.uint8)[cues]
    np.testing.assert_array_equal(folder.read("x", ("b", "c", "a")), turned)


def test_wrong_cue_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"labels\.txt cannot be read"):
        CueFolder.open(tmp_path)
    folder = CueFolder.create(tmp_path, ("cat", "dog"))
    assert CueFolder.create(tmp_path, ("cat", "dog")) == folder
    with pytest.raises(UsageError, match="holds cues of cat, dog; accepted: dog"):
        CueFolder.create(tmp_path, ("dog",))
    with pytest.raises(UsageError, match="has no cues for 1 of 1 images of here"):
        folder.need(LabelledSet("here", ("cat", "dog"), (image_of(),)))
    with pytest.raises(UsageError, match="has the class 'cat'"):
        folder.need(LabelledSet("here", ("dog",), (image_of(),)))
    with pytest.raises(UsageError, match="no image id"):
        folder.read("../a")


def sec_material() -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
    rng = np.random.default_rng(0)
    ids = ("2007_000001", "2008_000001")
    tags = {id_: VOC_TAGS[id_] for id_ in ids}
    cues = {id_: rng.choice([0, 255, *(tag + 1 for tag in tags[id_])], CUE_GRID_HW).astype(np.uint8) for id_ in ids}
    return cues, tags


def test_released_cues_of_sec_become_label_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cues, tags = sec_material()
    pickled, listed = write_sec_cues(tmp_path, cues, tags)
    out = tmp_path / "cues"
    assert main(["data", "sec-cues", str(pickled), str(listed), "--out", str(out)]) == 0
    assert "cues of 2 images" in capsys.readouterr().out
    folder = CueFolder.open(out)
    assert folder.classes == VOC_CLASSES
    for id_, grid in cues.items():
        np.testing.assert_array_equal(folder.read(id_), grid)
    assert (out / "tags.csv").read_text().splitlines() == [
        "id,classes",
        "2007_000001,bicycle",
        "2008_000001,dog person",
    ]


def python_2_pickle() -> bytes:
    """{"0_cues": int64 [[0], [40], [3]], "0_labels": int64 [12]} as Python 2 wrote it, protocol 0: bytes as text."""

    def array(shape: list[int], values: list[int]) -> str:
        text = "".join(f"\\x{byte:02x}" for byte in np.array(values, "<i8").tobytes())
        sizes = "".join(f"I{size}\n" for size in shape)
        return (
            "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
            f"({sizes}tcnumpy\ndtype\n(S'i8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'{text}'\ntb"
        )

    cues, labels = array([3, 1], [0, 40, 3]), array([1], [12])
    return f"(dS'0_cues'\n{cues}sS'0_labels'\n{labels}s.".encode()


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    save(tmp_path / "cues.pickle", python_2_pickle())
    save(tmp_path / "list.txt", "a.jpg 0\n")
    import_sec_cues(tmp_path / "cues.pickle", tmp_path / "list.txt", tmp_path / "out")
    cues = CueFolder.open(tmp_path / "out").read("a")
    assert (cues != 255).sum() == 1
    assert cues[40, 3] == 0
    assert "a,dog" in (tmp_path / "out" / "tags.csv").read_text()


class _Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_runs_nothing(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    save(tmp_path / "list.txt", "a.jpg 0\n")
    for data in (pickle.dumps({"0_cues": _Touch(harm)}, 2), gzip.compress(pickle.dumps(_Touch(harm)))):
        save(tmp_path / "cues.pickle", data)
        with pytest.raises(UsageError, match=r"asks for posix\.mkdir, which arrays do not need: nothing was run"):
            import_sec_cues(tmp_path / "cues.pickle", tmp_path / "list.txt", tmp_path / "out")
    assert not harm.exists()


def entries(cues: object, labels: object = (1,)) -> dict[str, object]:
    return {"0_cues": np.asarray(cues), "0_labels": np.asarray(labels)}


@pytest.mark.parametrize(
    ("content", "listed", "reason"),
    [
        ([1, 2], "a.jpg 0", "holds a list"),
        ({}, "a.jpg 0", "has no 0_cues"),
        (entries([[1], [2], [3]]), "a", "gives a no number"),
        (entries([1, 2, 3]), "a.jpg 0", r"cues \(3,\); accepted: \[3, N\]"),
        (entries([[1], [41], [3]]), "a.jpg 0", "cues beyond"),
        (entries([[21], [4], [3]]), "a.jpg 0", "cues beyond"),
        (entries([[1.5], [4], [3]]), "a.jpg 0", "float64 under 0_cues"),
        (entries([[1, 2], [4, 4], [3, 3]]), "a.jpg 0", "cued for two classes"),
        (entries([[1], [4], [3]], [0]), "a.jpg 0", "tag 0; accepted: 1 to 20"),
    ],
)
def test_what_is_no_file_of_cues_is_refused(tmp_path: Path, content: object, listed: str, reason: str) -> None:
    save(tmp_path / "cues.pickle", pickle.dumps(content, 3))
    save(tmp_path / "list.txt", listed)
    with pytest.raises(UsageError, match=reason):
        import_sec_cues(tmp_path / "cues.pickle", tmp_path / "list.txt", tmp_path / "out")
