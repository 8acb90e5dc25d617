"""The README says what is so: its tables are the results, its files, commands and options exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from f2f.engine.cli import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tables_are_the_results() -> None:
    script = ROOT / "benchmarks" / "tables.py"
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"
    }  # it imports a neighbour
    check = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False, env=environment
    )
    assert check.returncode == 0, check.stdout + check.stderr


def test_every_table_is_filled() -> None:
    blocks = re.findall(r"<!-- table:(\w+) -->(.*?)<!-- end -->", README, re.DOTALL)
    names = [
        "trust",
        "engine",
        "runtimes",
        "quality_real",
        "quality_synthetic",
        "quality_score",
        "flow",
        "networks",
        "kernels",
    ]
    names += ["study", "study_frames", "study_filter"]
    assert [name for name, _ in blocks] == names
    assert all("| --- |" in body for _, body in blocks)


@pytest.mark.parametrize("line", re.findall(r"^\.venv/bin/f2f (.+)$", README, re.MULTILINE))
def test_commands_exist(line: str) -> None:
    assert any(line.startswith(name) for name in COMMANDS), line


@pytest.mark.parametrize(
    "command",
    [
        *("label", "segment", "cues", "synth", "export classifier", "export saliency"),
        *("train classifier", "train flow", "train saliency", "train segmenter"),
    ],
)
def test_options_exist(command: str) -> None:
    lines = [line for line in re.findall(r"^\.venv/bin/f2f (.+)$", README, re.MULTILINE) if line.startswith(command)]
    flags = {flag for line in lines for flag in re.findall(r"--[a-z-]+", line)}
    program = Path(sys.executable).with_name("f2f")
    shown = subprocess.run([program, *command.split(), "--help"], capture_output=True, text=True, check=False)
    assert lines
    assert {flag for flag in flags if flag not in shown.stdout} == set()


def test_file_map_names_files_that_exist() -> None:
    block = README.split("## File map, in data order")[1].split("```")[1]
    names = re.findall(r"\b(\w+\.py)\b", block)
    existing = {path.name for folder in ("engine", "kernels", "training") for path in (ROOT / folder).rglob("*.py")}
    assert names
    assert set(names) <= existing


def test_the_kernels_example_runs() -> None:
    code = README.split("## The kernels alone")[1].split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  # our own README
    assert names["united"].shape == (1, 20, 321, 321)


def test_pictures_exist() -> None:
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / name).is_file(), name
