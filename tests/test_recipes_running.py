"""Recipes from data to table, on a tiny Pascal VOC and a tiny crawl; interrupted, and gone on with."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from material import crawl, flow_file
from segmentation_material import VAL, write_sbd, write_voc
from torch import Tensor

from f2f.engine.cli import main
from f2f.engine.types import ImageArray
from f2f.training.segmentation.cue_files import CueFolder

SMALL = (
    *("accelerator=cpu", "workers=0", "threads=2", "decoders=1", "scales=[1.0]"),
    *("classifier.network=small", "classifier.width=0.75", "classifier.steps=2", "classifier.batch_size=2"),
    *("classifier.crop_height_px=48", "classifier.crop_width_px=48"),
    *("classifier.min_side_px=48", "classifier.max_side_px=64"),
    *("label.trust_query=true", "label.window_frames=2", "label.max_side=64", "cues.grid=5"),
    *("train-i.network=small", "train-i.width=0.75", "train-i.side_px=33", "train-i.steps=2", "train-i.batch_size=2"),
    *("train-iv.batch_size=2", "retrain-iv.steps=2", "retrain-iv.batch_size=2", "adapt.steps=2", "adapt.batch_size=2"),
)
FICKLE = ("ficklenet.window=3", "ficklenet.steps=2", "ficklenet.batch_size=2", "cues.passes=3")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Every run rounds alike, whatever tests before have set."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Data:
    """What a recipe is given."""

    root: Path

    def command(self, recipe: str, out: Path, *more: str, settings: tuple[str, ...] = SMALL) -> list[str]:
        """Its command line; the settings make everything small."""
        inputs = ["--voc", str(self.root), "--crawl", str(self.root / "crawl"), "--weights", "demo"]
        networks = ["--flow", str(self.root / "flow.onnx"), "--saliency", "none"]
        changes = [word for setting in settings for word in ("--set", setting)]
        return ["recipe", recipe, "--out", str(out), *inputs, *networks, *changes, *more]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    root = tmp_path_factory.mktemp("data")
    write_voc(root)
    write_sbd(root)
    crawl(root / "crawl", "dog/a.mp4", "person/b.mp4", frames=8)
    flow_file(root / "flow.onnx")
    return Data(root)


@pytest.fixture(scope="module")
def sec(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that was never interrupted."""
    out = tmp_path_factory.mktemp("runs") / "sec"
    assert main(data.command("sec-vgg16", out, "--sbd", str(data.root))) == 0
    return out


def weights(stage: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(stage / "network.pt", weights_only=True)["state_dict"]
    return state


def the_same(stage: Path, other: Path) -> bool:
    ours, theirs = weights(stage), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@contextmanager
def untouched(*files: Path) -> Iterator[None]:
    before = [path.stat().st_mtime_ns for path in files]
    yield
    assert [path.stat().st_mtime_ns for path in files] == before


def mean_iou(stage: Path) -> float:
    return 100 * float(json.loads((stage / "scores.json").read_text())["mean_iou"])


def test_sec_from_data_to_table(data: Data, sec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [*json.loads((sec / "recipe.json").read_text())["stages"]]
    assert stages[:5] == ["trainaug", "classifier", "network", "label", "cues"]
    assert (data.root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "trainaug.txt").is_file()
    files = [path for path in sec.rglob("*") if path.is_file() and path.name != ".lock"]
    with untouched(*files):
        assert main(data.command("sec-vgg16", sec, "--sbd", str(data.root))) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if "finished before" in line] == [
        f"{number}/12 {name}: finished before" for number, name in enumerate(stages, 1)
    ]
    rows = {" ".join(line.split()[:-2]): line.split()[-2:] for line in shown[-3:]}
    evaluated = (("I", "eval-i"), ("I + V", "eval-iv"), ("I + V + DA", "eval-adapted"))
    assert rows == {
        row: [f"{mean_iou(sec / stage):.1f}", paper]
        for (row, stage), paper in zip(evaluated, ("50.7", "59.5", "61.1"), strict=True)
    }
    assert torch.get_num_threads() == 1, "threads of one stage are no matter of the next"
    assert len(list((sec / "eval-i" / "masks").glob("*.png"))) == len(VAL)


def test_an_interrupted_recipe_goes_on_and_ends_the_same(
    data: Data, sec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(data.command("sec-vgg16", out, "--only", "classifier", "network", "label")) == 0
    assert not (out / "cues").exists()
    write = CueFolder.write
    written: list[Path] = []

    def stopping(self: CueFolder, id_: str, cues: ImageArray) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        write(self, id_, cues)
        written.append(self.folder / f"{id_}.png")

    with monkeypatch.context() as patch, untouched(out / "classifier" / "network.pt"):
        patch.setattr(CueFolder, "write", stopping)
        assert main(data.command("sec-vgg16", out)) == 130
    assert not (out / "train-i").exists()
    capsys.readouterr()
    half = (*SMALL, "train-i.checkpoint_steps=1", "train-i.stop_at_step=1")
    with untouched(out / "classifier" / "network.pt", *written):
        assert main(data.command("sec-vgg16", out, settings=half)) == 0
    said = capsys.readouterr().out
    assert "train-i stopped at step 1; run again without stop_at_step to go on" in said
    assert "trained on" in said
    assert not (out / "eval-i").exists()
    assert not the_same(out / "train-i", sec / "train-i")
    with untouched(out / "classifier" / "network.pt", *written):
        assert main(data.command("sec-vgg16", out)) == 0
    for stage in ("classifier", "train-i", "train-iv", "retrain-iv", "adapt"):
        assert the_same(out / stage, sec / stage), stage


def test_another_recipe_does_not_go_on_with_finished_stages(
    data: Data, sec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for changes, words in (
        (("train-i.steps=3",), "the stage train-i in {out} is finished and was another one (there -> asked for):\n"),
        (("train-i.steps=3",), "  steps: 2 -> 3\n"),
        (("label.window_frames=1",), "  window_frames: 2 -> 1\n"),
        (("eval-i.crf=false",), "  crf: True -> False\n"),
        (("cues.classifier=demo",), "  classifier: OUT/classifier/network.pt -> demo\n"),
    ):
        with untouched(sec / "recipe.json"):
            assert main(data.command("sec-vgg16", sec, settings=(*SMALL, *changes))) == 2
        assert words.format(out=sec) in capsys.readouterr().err
    assert main(data.command("sec-vgg16", sec, settings=(*SMALL, "workers=1", "checkpoint_steps=7"))) == 0


def test_stages_that_are_read_must_be_finished(
    data: Data, tmp_path: Path, sec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(data.command("sec-vgg16", tmp_path / "out", "--only", "cues")) == 2
    wanted = "the stage cues reads classifier, which is not finished; add it to --only, or give its folder as --use"
    assert wanted in capsys.readouterr().err
    assert main(data.command("sec-vgg16", tmp_path / "out", "--only", "sues")) == 2
    assert "--only sues is no stage that runs; accepted: classifier, network" in capsys.readouterr().err
    kept = f"classifier={sec / 'classifier'}"
    assert main(data.command("sec-vgg16", tmp_path / "out", "--only", "cues", "--use", kept)) == 0
    ours, theirs = (
        {path.name: path.read_bytes() for path in (out / "cues").glob("*")} for out in (tmp_path / "out", sec)
    )
    assert ours == theirs


def test_a_book_that_is_broken_is_refused(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    assert main(data.command("sec-vgg16", tmp_path)) == 2
    assert "recipe.json cannot be read" in capsys.readouterr().err


@pytest.mark.slow
def test_dsrg_with_another_recipes_labels_is_its_commands_by_hand(
    data: Data, sec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use = [word for name in ("classifier", "network", "label", "cues") for word in ("--use", f"{name}={sec / name}")]
    command = data.command("dsrg-vgg16", tmp_path / "out", *use)
    assert main(command) == 0
    capsys.readouterr()
    by_hand = data.command("dsrg-vgg16", tmp_path / "by-hand", *use, "--dry-run")
    assert main(by_hand) == 0
    for line in capsys.readouterr().out.splitlines():
        assert line.startswith("# ") or main(shlex.split(line)[1:]) == 0
    for stage in ("train-i", "retrain-i", "train-iv", "retrain-iv", "adapt"):
        assert the_same(tmp_path / "out" / stage, tmp_path / "by-hand" / stage), stage
    assert mean_iou(tmp_path / "out" / "eval-adapted") == mean_iou(tmp_path / "by-hand" / "eval-adapted")


@pytest.mark.slow
def test_ficklenet_on_a_resnet(data: Data, sec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The backbone is replaced as well as the cues; its weights are their own input."""
    use = [word for name in ("classifier", "network", "label") for word in ("--use", f"{name}={sec / name}")]
    own = ["--segmenter-weights", "demo"]
    settings = (*SMALL, *FICKLE)
    assert main(data.command("ficklenet-resnet101", tmp_path / "out", *use, *own, settings=settings)) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()[-3:]]
    assert [row[-1] for row in shown] == ["64.9", "-", "66.5"]
    cues = json.loads((tmp_path / "out" / "cues" / "cues.json").read_text())
    assert (cues["theta"], cues["passes"]) == (0.35, 3)
