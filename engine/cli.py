"""The `f2f` command: a table of sub-commands, each resolved when it is called, so that `f2f --help` imports nothing."""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from f2f.engine.errors import F2FError, UsageError

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": (
        "f2f.training.demo:demo",
        "render a small crawl, label it, train a segmenter on it, use it; with pictures",
    ),
    "label": ("f2f.engine.commands:label_command", "turn videos that carry a search term into pixel masks"),
    "segment": ("f2f.engine.commands:segment_command", "segment images and videos with a deployed network"),
    "show": ("f2f.engine.commands:show_command", "draw how a mask came about, frame by frame"),
    "status": ("f2f.engine.commands:status_command", "say how far the run in an output folder is, and what failed"),
    "retry": ("f2f.engine.commands:retry_command", "mark failed inputs of a run to be done again"),
    "verify": ("f2f.engine.commands:verify_command", "check that nothing of a run is lost or damaged; repair it"),
    "probe": ("f2f.engine.commands:probe_command", "say what `label` would do with a video, and why"),
    "recipe": ("f2f.training.commands:recipe_command", "run a whole experiment of the paper, from data to table"),
    "train classifier": ("f2f.training.commands:train_classifier", "train a CAM classifier on tagged images"),
    "train flow": ("f2f.training.commands:train_flow", "train PWC-Net on pairs of frames with exact flow"),
    "train saliency": ("f2f.training.commands:train_saliency", "train DSS, which says what is background"),
    "train segmenter": ("f2f.training.commands:train_segmenter", "train a segmenter on images and labelled videos"),
    "adapt": ("f2f.training.commands:adapt_command", "train a segmenter on its own masks of tagged images, gently"),
    "retrain": ("f2f.training.commands:retrain_command", "the same anew, on crops: DSRG's second step"),
    "cues": ("f2f.training.commands:cues_command", "find what is surely known of tagged images, for training"),
    "export classifier": ("f2f.training.commands:export_classifier", "write a classifier as .onnx or .pt2"),
    "export flow": ("f2f.training.commands:export_flow", "write a flow network as .onnx or .pt2"),
    "export saliency": (
        "f2f.training.commands:export_saliency",
        "write our or a released saliency network by contract",
    ),
    "export segmenter": ("f2f.training.commands:export_segmenter", "write a segmenter as .onnx or .pt2"),
    "eval masks": ("f2f.engine.commands:eval_masks", "score masks against exact ones"),
    "eval classifier": ("f2f.training.commands:eval_classifier", "measure a classifier's tags and activation maps"),
    "eval flow": ("f2f.training.commands:eval_flow", "measure flow beside exact flow, and by carrying true masks"),
    "eval saliency": ("f2f.training.commands:eval_saliency", "measure saliency, and the background it leads to"),
    "eval segmenter": ("f2f.training.commands:eval_segmenter", "predict a list of images, and score the masks"),
    "eval voc": ("f2f.training.commands:eval_voc", "score label maps as Pascal VOC does; pack them for its server"),
    "eval youtube-objects": ("f2f.training.commands:eval_youtube_objects", "score label maps on YouTube-Objects"),
    "data voc-aug": ("f2f.training.commands:make_voc_aug", "make the list trainaug from Pascal VOC 2012 and SBD"),
    "data sec-cues": ("f2f.training.commands:import_sec_cues", "turn SEC's released cues into label maps"),
    "doctor": ("f2f.engine.commands:doctor_command", "say what this installation can do, and which kernels run"),
    "synth": ("f2f.training.commands:synth_command", "render a synthetic web: videos, images, exact masks and flow"),
}

EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns its exit code (see `f2f --help`)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help"}:
        sys.stdout.write(_help())
        return 0
    if arguments[0] == "--version":
        sys.stdout.write(f"f2f {version('f2f')}\n")
        return 0
    try:
        name, rest = _split_command(arguments)
        return _run(name, _with_config(rest))
    except F2FError as error:
        sys.stderr.write(f"f2f: {error}\n")
        return error.exit_code
    except BrokenPipeError:  # the reader of our output is gone, for instance `f2f label --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("f2f: interrupted\n")
        return EXIT_INTERRUPTED


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: f2f COMMAND [OPTIONS]     (f2f COMMAND --help lists the options of one)",
            "",
            "From web videos and a search term to pixel masks.",
            "",
            *lines,
            "",
            "Every command takes --config FILE.toml for its options; flags override the file.",
            "Exit codes of `label`: 0 done, 3 done with failed inputs, 2 wrong usage, 1 stopped by the machine,",
            "130 interrupted (1 and 130: run again to go on).",
            "",
        ]
    )


def _split_command(arguments: list[str]) -> tuple[str, list[str]]:
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, arguments[words:]
    group = [name for name in COMMANDS if name.split()[0] == arguments[0]]
    raise UsageError(
        f"{' '.join(arguments[:2])!r} is not a command; accepted: {', '.join(group or COMMANDS)}; "
        "`f2f --help` says what each does"
    )


def _run(name: str, arguments: list[str]) -> int:
    import tyro

    module, function = COMMANDS[name][0].split(":")
    command: Callable[..., int] = getattr(importlib.import_module(module), function)
    try:
        return tyro.cli(
            command,
            prog=f"f2f {name}",
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def _with_config(arguments: list[str]) -> list[str]:
    """Replace `--config FILE` by the file's options as flags; those given on the command line win."""
    path, rest = _take_config(arguments)
    if path is None:
        return rest
    given = {argument.split("=")[0].replace("_", "-") for argument in rest if argument.startswith("--")}
    for key, value in _read_config(path).items():
        flag = "--" + key.replace("_", "-")
        if not {flag, flag.replace("--", "--no-", 1)} & given:
            rest += as_flag(flag, value)
    return rest


def _take_config(arguments: list[str]) -> tuple[Path | None, list[str]]:
    for place, argument in enumerate(arguments):
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config=")), arguments[:place] + arguments[place + 1 :]
        if argument == "--config":
            if place + 1 == len(arguments):
                raise UsageError("--config was given without a file; accepted: --config FILE.toml")
            return Path(arguments[place + 1]), arguments[:place] + arguments[place + 2 :]
    return None, arguments


def _read_config(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path} cannot be read ({error.strerror}); give a TOML file of options") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not TOML ({error}); accepted: lines such as `tau = 0.9`") from error


def as_flag(flag: str, value: object) -> list[str]:
    """An option's value, as TOML has it, on the command line."""
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, list):
        return [flag, *map(str, value)]
    if isinstance(value, dict):
        raise UsageError(f"--config holds a table [{flag[2:]}]; accepted: flat `option = value` lines")
    return [flag, str(value)]
