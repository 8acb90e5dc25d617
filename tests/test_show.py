"""The picture of how a mask came about: drawn by the run's own stages, refused where video or networks changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from material import (
    CLASSES,
    ImageArray,
    Setup,
    TinyNetworks,
    classifier_file,
    contents,
    crawl,
    flow_file,
    masks,
    pictures,
    write_video,
)
from PIL import Image

from f2f.engine import RunMismatchError, UsageError, label, show_mask
from f2f.engine.cli import main
from f2f.engine.picture import contact_sheet, heat

NAMES = ("red/a.mp4", "green/b.mp4")
CELL_PX, MARGIN_PX, TOP_PX, CELL_HEIGHT_PX = 300, 8, 78, 200
"""of the picture: frames of 96x64 px, two lines of title and one of headings above them"""
ROW_PX = CELL_HEIGHT_PX + 28


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crawl(tmp_path_factory.mktemp("videos"), *NAMES)


@pytest.fixture(scope="module", params=["paper", "f2f"])
def finished(
    request: pytest.FixtureRequest, videos: Path, tmp_path_factory: pytest.TempPathFactory, networks: TinyNetworks
) -> Path:
    """A run by either rule."""
    out = tmp_path_factory.mktemp(request.param) / "out"
    label(Setup(rule=request.param, max_windows=2).options(videos, out, networks))
    return out


@pytest.fixture
def run(videos: Path, tmp_path: Path, networks: TinyNetworks) -> Path:
    """A run whose source, `<tmp_path>/videos`, a test may change."""
    shutil.copytree(videos, tmp_path / "videos")
    label(Setup(max_windows=1).options(tmp_path / "videos", tmp_path / "out", networks))
    return tmp_path / "out"


def id_of(run: Path, name: str = NAMES[0]) -> str:
    return next(str(mask["id"]) for mask in masks(run) if mask["input"] == name)


def edit(run: Path, *gone: str, **changes: Any) -> None:
    """Change the top entries of `run.json`, and remove some."""
    pinned = {**json.loads((run / "run.json").read_text()), **changes}
    (run / "run.json").write_text(json.dumps({name: entry for name, entry in pinned.items() if name not in gone}))


def cell(picture: ImageArray, row: int, column: int) -> ImageArray:
    """What is drawn in a cell, scaled back to the frames' size, uint8 [64, 96, 3]."""
    top, left = TOP_PX + row * ROW_PX, MARGIN_PX + column * (CELL_PX + MARGIN_PX)
    drawn = Image.fromarray(picture[top : top + CELL_HEIGHT_PX, left : left + CELL_PX])
    return np.asarray(drawn.resize((96, 64), Image.Resampling.BOX))


def difference(one: ImageArray, other: ImageArray) -> float:
    return float(np.abs(one.astype(int) - other).mean())


# ---- the picture


def test_the_picture(finished: Path) -> None:
    mask_id = id_of(finished)
    path = show_mask(finished, mask_id)
    assert path == finished / "show" / f"{mask_id}.png"
    picture = np.asarray(Image.open(path))
    assert picture.shape == (TOP_PX + 4 * ROW_PX, MARGIN_PX + 4 * (CELL_PX + MARGIN_PX), 3)
    frame = np.asarray(Image.open(finished / "voc" / "JPEGImages" / f"{mask_id}.jpg"))
    labels = Image.open(finished / "voc" / "SegmentationClass" / f"{mask_id}.png")
    assert difference(cell(picture, 0, 2), frame) < 4, "the last frame, as it was written"
    assert difference(cell(picture, 0, 3), np.asarray(labels.convert("RGB"))) < 4, "the mask, as it was written"
    assert difference(cell(picture, 0, 0), cell(picture, 0, 2)) > 1, "the frames differ"
    assert (cell(picture, 2, 1) == 255).all(), "the tiny flow stands still"
    inside = np.asarray(labels) == CLASSES.index("red") + 1
    for column in range(3):
        activation = cell(picture, 1, column).astype(int).sum(axis=-1)
        assert activation[inside].mean() > activation[~inside].mean() + 100, "hotter on the square"
    assert all((cell(picture, row, 3) > 240).all() for row in (1, 2)), "nothing to show there"


def test_the_union_grows_into_the_mask(run: Path) -> None:
    picture = np.asarray(Image.open(show_mask(run, id_of(run))))
    tinted = [cell(picture, 3, column) for column in range(4)]
    labels = np.asarray(Image.open(run / "voc" / "SegmentationClass" / f"{id_of(run)}.png"))
    inside = labels == CLASSES.index("red") + 1
    assert np.abs(tinted[2].astype(int) - tinted[3])[inside].mean() < 4, "without saliency the union is the mask"
    reds = [((part[..., 0] > 90) & (part[..., 1:].max(axis=-1) < 60)).sum() for part in tinted[:3]]
    assert reds[0] <= reds[1] <= reds[2]
    assert reds[0] < reds[2]


def test_a_window_of_one_frame(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    for rule in ("paper", "f2f"):
        setup = Setup(rule=rule, window_frames=1, max_windows=1)
        label(setup.options(videos, tmp_path / rule, networks))
        picture = np.asarray(Image.open(show_mask(tmp_path / rule, id_of(tmp_path / rule))))
        assert picture.shape[1] == MARGIN_PX + 2 * (CELL_PX + MARGIN_PX)


def test_names_in_any_script(tmp_path: Path, networks: TinyNetworks) -> None:
    crawl(tmp_path / "videos", "red/ré 猫.mp4")
    label(Setup(max_windows=1).options(tmp_path / "videos", tmp_path / "out", networks))
    assert show_mask(tmp_path / "out", masks(tmp_path / "out")[0]["id"]).is_file()


def test_heat_leaves_the_frame_where_there_is_none() -> None:
    frame = np.full((2, 3, 3), 100, np.uint8)
    strength = np.array([[0, 0.5, 1], [0, 0, 0]], np.float32)
    drawn = heat(frame, strength)
    assert (drawn[1] == 60).all(), "dark grey"
    assert drawn[0, 2].min() > drawn[0, 0].max(), "light where it is hottest"


def test_a_sheet_with_empty_cells_and_a_title() -> None:
    full = np.full((10, 20, 3), 7, np.uint8)
    plain = contact_sheet(["a", "b"], [[full, full]], ["c"], 20)
    titled = contact_sheet(["a", "b"], [[None, full]], ["c"], 20, ["one line"])
    assert titled.height > plain.height
    assert (np.asarray(titled) == 7).all(axis=-1).sum() * 2 == (np.asarray(plain) == 7).all(axis=-1).sum()


# ---- which mask


def test_the_beginning_of_an_id(run: Path, tmp_path: Path) -> None:
    path = show_mask(run, id_of(run)[:6], out=tmp_path / "pictures" / "a.png")
    assert path == tmp_path / "pictures" / "a.png"
    with Image.open(path) as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("start", "words"), [("nonsense", "no id begins with it"), ("", "2 ids begin"), ("../run", "no id begins")]
)
def test_no_single_mask(run: Path, start: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"names none of the 2 masks in .*{words}.* `id` of .*labels.parquet"):
        show_mask(run, start)


def test_a_run_that_is_not_finished(run: Path) -> None:
    (run / "labels.parquet").unlink()
    (run / "summary.json").unlink()
    assert show_mask(run, id_of(run)).is_file()


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(run), id_of(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'show' / id_of(run)}.png\n"
    assert main(["show", str(run), id_of(run), "--out", str(tmp_path / "a.png"), "--source", "nowhere"]) == 2
    assert "source 'nowhere' is not there" in capsys.readouterr().err
    assert main(["show", str(run), id_of(run), "--out", str(tmp_path / "a.jpg")]) == 2
    assert "a.jpg is not accepted; accepted: a file name that ends in .png" in capsys.readouterr().err
    assert main(["show", str(tmp_path), "abc"]) == 2
    assert "holds no run" in capsys.readouterr().err


# ---- what the run was made from


def test_run_json_notes_where_everything_was(
    run: Path, tmp_path: Path, networks: TinyNetworks, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = json.loads((run / "run.json").read_text())["given"]
    assert given == {
        "source": str(tmp_path / "videos"),
        "classifier": str(networks.classifier),
        "flow": str(networks.flow),
        "saliency": "none",
        "query_map": None,
    }
    monkeypatch.chdir(tmp_path)
    label(Setup(max_windows=1).options(Path("videos"), Path("relative"), networks))
    assert json.loads(Path("relative", "run.json").read_text())["given"] == given


def test_a_run_goes_on_from_elsewhere(run: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    before = contents(run)
    shutil.copytree(tmp_path / "videos", tmp_path / "moved" / "videos")
    moved = TinyNetworks(*(Path(shutil.copy(path, tmp_path / "moved")) for path in vars(networks).values()))
    label(Setup(max_windows=1).options(tmp_path / "moved" / "videos", run, moved))
    given = json.loads((run / "run.json").read_text())["given"]
    assert given["source"] == str(tmp_path / "moved" / "videos")
    assert {name for name, data in contents(run).items() if data != before[name]} == {"run.json"}


def test_runs_from_before_the_note(run: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    before = contents(run)
    edit(run, "given")
    with pytest.raises(UsageError, match=r"run\.json does not say where .* give --source, --classifier, --flow as"):
        show_mask(run, id_of(run))
    with pytest.raises(UsageError, match="give --classifier, --flow as"):
        show_mask(run, id_of(run), source=str(tmp_path / "videos"))
    paths = {"classifier": str(networks.classifier), "flow": str(networks.flow)}
    assert show_mask(run, id_of(run), source=str(tmp_path / "videos"), **paths, out=tmp_path / "a.png").is_file()
    label(Setup(max_windows=1).options(tmp_path / "videos", run, networks))
    assert contents(run) == before, "going on adds the note"


def test_runs_from_before_there_were_rules(run: Path, tmp_path: Path) -> None:
    wanted = show_mask(run, id_of(run), out=tmp_path / "a.png").read_bytes()
    options = json.loads((run / "run.json").read_text())["options"]
    edit(run, options={name: value for name, value in options.items() if name not in {"rule", "theta", "sure"}})
    assert show_mask(run, id_of(run), out=tmp_path / "b.png").read_bytes() == wanted


@pytest.mark.parametrize("kind", ["classifier", "flow"])
def test_another_network(run: Path, tmp_path: Path, kind: str) -> None:
    other = tmp_path / "other.onnx"
    if kind == "classifier":
        classifier_file(other, gain=2.0)
    else:
        flow_file(other, {"f2f.kind": "flow", "f2f.training": '{"steps": 1}'})
    pinned = json.loads((run / "run.json").read_text())["networks"][kind]["sha256"]
    found = hashlib.sha256(other.read_bytes()).hexdigest()
    with pytest.raises(RunMismatchError, match=f"--{kind} {other} has sha256 {found}; the run .* sha256 {pinned} "):
        show_mask(run, id_of(run), **{kind: str(other)})  # type: ignore[arg-type]  # one of the paths


# ---- the video


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 7}, "shows something else at 0.333 s"),
        ({"speed_px": 9}, "shows something else at 0.333 s"),
        ({"count": 4}, r"has no frame at 0.333 s \(other frames are sampled now\)"),
        ({"width": 80}, "has frames of 80x64 px where 96x64 px were written"),
    ],
    ids=["background", "speed", "length", "size"],
)
def test_another_video(run: Path, tmp_path: Path, change: dict[str, int], words: str) -> None:
    write_video(tmp_path / "videos" / NAMES[0], pictures("red", **{"seed": 0, **change}))
    with pytest.raises(UsageError, match=f"red/a.mp4 changed since it was labelled: it {words}.* --source"):
        show_mask(run, id_of(run))


def test_the_same_picture_encoded_again(run: Path, tmp_path: Path) -> None:
    """A copy that looks the same is no change."""
    write_video(tmp_path / "videos" / NAMES[0], pictures("red", seed=0), options={"crf": "8"})
    assert show_mask(run, id_of(run)).is_file()


def test_a_video_that_is_broken_or_gone(run: Path, tmp_path: Path) -> None:
    video = tmp_path / "videos" / NAMES[0]
    video.write_bytes(b"")
    with pytest.raises(UsageError, match=r"has no frame at 0.000 s \(the file has no bytes\)"):
        show_mask(run, id_of(run))
    video.unlink()
    with pytest.raises(UsageError, match=r"has no input 'red/a.mp4', which the mask is of; .* --source"):
        show_mask(run, id_of(run))


def test_links_out_of_the_source_are_not_followed(run: Path, tmp_path: Path) -> None:
    video = tmp_path / "videos" / NAMES[0]
    video.rename(tmp_path / "outside.mp4")
    video.symlink_to(tmp_path / "outside.mp4")
    with pytest.raises(UsageError, match="it leaves the source's folder; --allow-outside admits it"):
        show_mask(run, id_of(run))


def test_a_mask_that_is_gone(run: Path) -> None:
    (run / "voc" / "SegmentationClass" / f"{id_of(run)}.png").unlink()
    with pytest.raises(UsageError, match=r"\.png cannot be read as an image"):
        show_mask(run, id_of(run))
