"""Recipes as files: those that ship are the paper's, their commands are ours, and what is wrong is refused at once."""

from __future__ import annotations

import functools
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from material import crawl
from segmentation_material import save, write_voc

from f2f.engine.cli import COMMANDS, main
from f2f.engine.errors import UsageError
from f2f.training.recipes import checks
from f2f.training.recipes.files import COMMANDS_OF_STAGES, shipped_recipes
from f2f.training.recipes.options import RecipeOptions
from f2f.training.recipes.plan import Plan, make_plan
from f2f.training.recipes.run import run_recipe
from f2f.training.recipes.values import accepted, option_types, options_class

SHIPPED = shipped_recipes()


def planned(recipe: str | Path, **given: Any) -> Plan:
    return make_plan(RecipeOptions(recipe=str(recipe), dry_run=True, **given))


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Commands of stages do nothing but note their options."""
    notes: list[tuple[str, Any]] = []

    def noting(command: str, function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def note(options: Any, **_: Any) -> int:
            notes.append((command, options))
            return 0

        return note

    for command in COMMANDS_OF_STAGES:
        target = COMMANDS[command][0].replace(":", ".")
        module, _, name = target.rpartition(".")
        function = getattr(__import__(module, fromlist=[name]), name)
        monkeypatch.setattr(target, noting(command, function))
    return notes


# ---- those that ship


@pytest.mark.parametrize("name", SHIPPED)
def test_the_dry_run_is_commands_that_our_command_line_takes(
    name: str, called: list[tuple[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    stages = planned(name, sbd=Path("SBD")).stages
    assert main(["recipe", name, "--dry-run", "--sbd", "SBD"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith("# ")] == [f"# {stage.name}" for stage in stages]
    lines = [shlex.split(line) for line in printed if not line.startswith("# ")]
    for f2f, *arguments in lines:
        assert f2f == "f2f"
        assert main(arguments) == 0, capsys.readouterr().err
    assert called == [(stage.command, stage.options) for stage in stages]


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("sec-vgg16", (50.7, 59.5, 61.1)),
        ("dsrg-vgg16", (59.0, 62.1, 62.9)),
        ("ficklenet-vgg16", (61.2, 63.2, 63.9)),
        ("dsrg-resnet101", (61.4, math.nan, math.nan)),
        ("ficklenet-resnet101", (64.9, math.nan, 66.5)),
    ],
)
def test_the_table_has_the_papers_figures(name: str, figures: tuple[float, ...]) -> None:
    rows = planned(name).table()
    assert [row.name for row in rows] == ["I", "I + V", "I + V + DA"]
    assert [row.paper for row in rows] == pytest.approx(list(figures), nan_ok=True)
    assert name in SHIPPED


def options_of(recipe: str, stage: str) -> Any:
    (found,) = (one.options for one in planned(recipe).stages if one.name == stage)
    return found


def test_hyper_parameters_are_the_published_ones() -> None:
    sec, dsrg = options_of("sec-vgg16", "train-i"), options_of("dsrg-vgg16", "train-i")
    shared = ("side_px", "optimiser", "weight_decay", "steps", "schedule")
    assert all(tuple(getattr(one, name) for name in shared) == (321, "sgd", 5e-4, 8000, "step") for one in (sec, dsrg))
    own = ("method", "network", "learning_rate", "decay", "decay_steps", "batch_size", "flip")
    assert tuple(getattr(sec, name) for name in own) == ("sec", "vgg16-largefov", 1e-3, 0.1, 2000, 15, False)
    assert tuple(getattr(dsrg, name) for name in own) == ("dsrg", "vgg16-aspp", 5e-4, 0.33, 1000, 20, True)
    cues = options_of("ficklenet-vgg16", "cues")
    assert (cues.theta, cues.passes, cues.grid) == (0.35, 200, 41)
    fickle = options_of("ficklenet-resnet101", "ficklenet")
    assert (fickle.method, fickle.network, fickle.window, fickle.rate) == ("ficklenet", "vgg16", 9, 0.9)
    assert options_of("ficklenet-resnet101", "train-iv").network == "resnet101-aspp"


@pytest.mark.parametrize("name", SHIPPED)
def test_videos_are_labelled_and_networks_adapted_as_the_paper_says(name: str) -> None:
    label = options_of(name, "label")
    assert (label.aggregation.rule, label.classify.tau, label.cam.theta_f) == ("paper", 0.9, 0.2)
    assert (label.window.window_frames, label.window.windows) == (5, "first")
    train, retrain, adapt = (options_of(name, stage) for stage in ("train-iv", "retrain-iv", "adapt"))
    assert train.videos == (label.out,)
    assert train.batch_size % 2 == 0, "half I, half V"
    assert train.learning_rate * retrain.rate_factor == pytest.approx(1e-3)
    assert retrain.steps == 20000
    assert adapt.rate_factor == 0.01
    assert adapt.fit == retrain.fit == "crop"
    assert adapt.checkpoint == retrain.out / "network.pt"


def test_the_list_of_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in SHIPPED)
    assert "61.1" in shown
    assert "_web-crawl" not in shown


@pytest.mark.parametrize("command", COMMANDS_OF_STAGES)
def test_the_options_of_stages_can_be_said_in_toml(command: str) -> None:
    types = option_types(options_class(command))
    assert types
    for name, hint in types.items():
        assert accepted(hint), name


# ---- recipes of one's own


def test_a_recipe_changes_another_key_by_key(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('title = "K = 1"\nbase = "dsrg-vgg16"\n[label]\nwindow-frames = 1\n[train-i]\nsteps = 4000\n')
    theirs, ours = planned("dsrg-vgg16"), planned(mine)
    assert [stage.name for stage in ours.stages] == [stage.name for stage in theirs.stages]
    found = {stage.name: stage.options for stage in ours.stages}
    assert found["label"].window.window_frames == 1
    assert (found["train-i"].steps, found["train-iv"].steps) == (4000, 4000), "train-iv is like train-i"
    assert found["train-i"].batch_size == 20
    again = tmp_path / "again.toml"
    again.write_text('base = "mine.toml"\n[train-iv]\nsteps = 3\n')
    assert {one.name: one.options for one in planned(again).stages}["train-iv"].steps == 3


def test_stages_run_after_those_that_they_read(tmp_path: Path) -> None:
    order = [stage.name for stage in planned("ficklenet-vgg16").stages]
    assert order.index("ficklenet") < order.index("cues"), "though its file names it last"
    mine = tmp_path / "mine.toml"
    mine.write_text('[b]\ncommand = "adapt"\ncheckpoint = "{a}/network.pt"\nimages = "{voc}"\n' + TRAIN)
    assert [stage.name for stage in planned(mine).stages] == ["a", "b"]


TRAIN = '[a]\ncommand = "train segmenter"\nimages = "{voc}"\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (TRAIN + "stepz = 5\n", r"mine\.toml: \[a\] stepz is no option; accepted: .*side_px, start_from, steps"),
        (TRAIN + "steps = 0\n", r"mine\.toml: \[a\] steps is 0; accepted: a number above 0"),
        (TRAIN + 'steps = "many"\n', r"\[a\] steps is 'many'; accepted: a whole number"),
        (TRAIN + "steps = true\n", r"\[a\] steps is True; accepted: a whole number"),
        (TRAIN + "steps = 1.5\n", r"\[a\] steps is 1\.5; accepted: a whole number"),
        (TRAIN + 'flip = "yes"\n', r"\[a\] flip is 'yes'; accepted: true or false"),
        (TRAIN + 'learning_rate = "fast"\n', r"\[a\] learning_rate is 'fast'; accepted: a number"),
        (TRAIN + 'method = "magic"\n', r"\[a\] method is 'magic'; accepted: sec, dsrg, labels"),
        (TRAIN + 'videos = "{a}"\n', r"\[a\] videos is 'OUT/a'; accepted: a list, in brackets, of a path in quotes"),
        (TRAIN + "weights = 3\n", r"\[a\] weights is 3; accepted: a path in quotes"),
        (
            TRAIN + 'weights = "{wieghts}"\n',
            r"\[a\] \{wieghts\} is neither a stage nor an input; accepted: a, voc, sbd",
        ),
        (TRAIN + 'row = "I"\n', r"\[a\] row is 'I'; accepted: words in quotes, of a stage with the command eval segm"),
        (TRAIN + 'paper = "best"\n', r"\[a\] paper is 'best'; accepted: a mean IoU"),
        (TRAIN + 'when = "full moon"\n', r"\[a\] when is 'full moon'; accepted: voc, sbd, crawl"),
        ('[a]\ncommand = "cues"\nimages = "x"\n', r"\[a\] classifier is missing; accepted: words in quotes; give it"),
        ('[a]\ncommand = "train"\n', r"\[a\] command is 'train'; accepted: data voc-aug, .*eval segmenter"),
        ("[a]\nsteps = 5\n", r"\[a\] command is None; accepted"),
        ('[a]\nlike = "b"\n', r"\[a\] is like 'b'; accepted: another stage, of a"),
        ('[a]\nlike = "b"\n[b]\nlike = "a"\n', r"\] is like '[ab]'; accepted: another stage, of a, b"),
        ("steps = 5\n", r"mine\.toml has the key steps; accepted: title, base, and tables"),
        ("steps = \n", r"mine\.toml cannot be read .*accepted: a recipe in TOML"),
        ('base = "sce-vgg16"\n', r"sce-vgg16 is no recipe; accepted: dsrg-resnet101, dsrg-vgg16"),
        ('base = "mine.toml"\n', r"mine\.toml is its own base"),
        (
            TRAIN + 'weights = "{b}/x.pt"\n[b]\nlike = "a"\nweights = "{a}/x.pt"\n',
            r"the stages a -> b -> a read each other",
        ),
    ],
)
def test_wrong_recipes_are_refused(content: str, words: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(content)
    with pytest.raises(UsageError, match=words):
        planned(mine)


def test_unknown_recipes_are_refused() -> None:
    for name in ("sec", "nowhere.toml", "../recipes/sec-vgg16", "_web-crawl"):
        with pytest.raises(UsageError, match="is no recipe; accepted: dsrg-resnet101"):
            planned(name)
    with pytest.raises(UsageError, match="--out is missing; give a folder, or --dry-run"):
        RecipeOptions(recipe="sec-vgg16")


# ---- settings


def test_settings_are_for_a_stage_or_for_all_that_have_the_option() -> None:
    changed = ("train-i.learning-rate=1e-2", "train-iv.flip=true", "workers=0", "scales=[1.0]", "label.flow=dis")
    found = {stage.name: stage.options for stage in planned("sec-vgg16", set=changed).stages}
    assert (found["train-i"].learning_rate, found["train-iv"].learning_rate) == (1e-2, 1e-2)
    assert (found["train-i"].flip, found["train-iv"].flip) == (False, True)
    assert {one.workers for one in found.values() if hasattr(one, "workers")} == {0}
    assert found["label"].cam.scales == found["cues"].scales == found["eval-i"].scales == (1.0,)
    assert found["label"].flow == "dis"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train-j.steps=5", "--set train-j.steps=5 names no stage's option; .*stages: trainaug, classifier"),
        ("stepz=5", "--set stepz=5 names no stage's option"),
        ("train-i.steps", "--set train-i.steps names no stage's option"),
        ("train-i.stepz=5", r"\[train-i\] stepz is no option"),
        ("train-i.steps=few", r"\[train-i\] steps is 'few'; accepted: a whole number"),
    ],
)
def test_wrong_settings_are_refused(setting: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        planned("sec-vgg16", set=(setting,))


def test_folders_from_elsewhere(tmp_path: Path) -> None:
    stages = planned("sec-vgg16", use=(f"cues={tmp_path}",)).stages
    assert "cues" not in [stage.name for stage in stages]
    assert {stage.options.cues for stage in stages if stage.command == "train segmenter"} == {tmp_path}
    for entry in (f"cuse={tmp_path}", "cues=nowhere", "cues"):
        with pytest.raises(UsageError, match=f"--use {entry} names no stage or no folder; .*stages: classifier"):
            planned("sec-vgg16", use=(entry,))


# ---- data, before any work


@pytest.fixture
def data(tmp_path: Path, called: list[tuple[str, Any]]) -> dict[str, Any]:
    """What a recipe wants, tiny; commands do nothing."""
    voc = write_voc(tmp_path)
    lists = voc / "ImageSets" / "Segmentation"
    save(lists / "trainaug.txt", (lists / "train.txt").read_text())
    videos = crawl(tmp_path / "crawl", "dog/a.mp4", frames=2)
    small = ("classifier.network=small", "classifier.width=0.75", "train-i.network=small", "train-i.width=0.75")
    inputs = {"voc": voc, "crawl": str(videos), "weights": Path("demo"), "saliency": "none", "flow": "demo"}
    return {"recipe": "sec-vgg16", "out": tmp_path / "out", **inputs, "set": small}


def test_data_that_fits_is_worked_on(data: dict[str, Any], called: list[tuple[str, Any]]) -> None:
    run_recipe(RecipeOptions(**data))
    assert [command for command, _ in called] == [stage.command for stage in planned("sec-vgg16").stages]


def without_images(data: dict[str, Any]) -> dict[str, Any]:
    (data["voc"] / "JPEGImages" / "2007_000001.jpg").unlink()
    return {}


def without_tags(data: dict[str, Any]) -> dict[str, Any]:
    (data["voc"] / "Annotations" / "2007_000001.xml").unlink()
    return {}


def without_trainaug(data: dict[str, Any]) -> dict[str, Any]:
    (data["voc"] / "ImageSets" / "Segmentation" / "trainaug.txt").unlink()
    return {}


def of_other_queries(data: dict[str, Any]) -> dict[str, Any]:
    return {"crawl": str(crawl(data["voc"].parent / "other", "unicorn/a.mp4", frames=2))}


def without_a_list_of_sbd(data: dict[str, Any]) -> dict[str, Any]:
    (data["voc"] / "cls").mkdir()
    return {"sbd": data["voc"]}


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda _: {"voc": Path("nowhere")}, r"\[classifier\] nowhere holds no JPEGImages"),
        (lambda _: {"voc": None}, r"\[classifier\] needs --voc, which is not given; give it, or --use this stage"),
        (lambda _: {"crawl": None}, r"\[label\] needs --crawl, which is not given"),
        (lambda _: {"recipe": "dsrg-resnet101"}, r"\[train-i\] needs --segmenter-weights, which is not given"),
        (lambda _: {"weights": Path("nowhere.pth")}, r"\[classifier\] --weights nowhere.pth does not exist"),
        (lambda given: {"set": given["set"][2:]}, r"\[classifier\] .*demo_backbone\.safetensors does not fit"),
        (lambda given: {"set": given["set"][:2]}, r"\[train-i\] .*demo_backbone\.safetensors does not fit"),
        (lambda _: {"crawl": "nowhere"}, r"\[label\] .*nowhere"),
        (of_other_queries, r"\[label\] no query is a class of the classifier; queries: unicorn"),
        (lambda _: {"flow": "nowhere.onnx"}, r"\[label\] .*nowhere\.onnx"),
        (lambda _: {"saliency": "nowhere.onnx"}, r"\[label\] .*nowhere\.onnx"),
        (without_images, r"\[classifier\] 1 of 3 images of .* no image file \(2007_000001\)"),
        (without_tags, r"\[classifier\] 1 of 3 images of .* no tag \(2007_000001\)"),
        (without_trainaug, r"\[classifier\] .* no list 'trainaug' .*make it with `f2f data voc-aug`"),
        (lambda _: {"sbd": Path("nowhere")}, r"nowhere holds no cls folder"),
        (without_a_list_of_sbd, r"train\.txt"),
    ],
)
def test_data_that_does_not_fit_is_refused_before_any_work(
    data: dict[str, Any],
    called: list[tuple[str, Any]],
    broken: Callable[[dict[str, Any]], dict[str, Any]],
    words: str,
) -> None:
    with pytest.raises(UsageError, match=words):
        run_recipe(RecipeOptions(**(data | broken(data))))
    assert called == []
    assert not data["out"].exists()


def test_extras_are_asked_for_before_any_work(data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"\[network\] ONNX Runtime, .* pip install 'f2f\[cpu\]'"):
        run_recipe(RecipeOptions(**data))
