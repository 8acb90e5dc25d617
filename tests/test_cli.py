"""The command line: quick help, one table of commands, a file of defaults, exit codes."""

from __future__ import annotations

import importlib
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from material import TinyNetworks, crawl, f2f_command, records

from f2f.engine.cli import COMMANDS, main


def cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_quick_and_imports_no_torch() -> None:
    seconds = []
    for _ in range(3):
        start = cpu_seconds_of_children()
        done = subprocess.run(f2f_command("--help"), capture_output=True, text=True, check=True)
        seconds.append(cpu_seconds_of_children() - start)
    assert min(seconds) < 0.3
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    script = "import sys; from f2f.engine.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_no_argument_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "usage: f2f COMMAND" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"f2f {version('f2f')}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_resolves_and_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, function = COMMANDS[name][0].split(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert main([*name.split(), "--help"]) == 0
    assert f"usage: f2f {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([*name.split(), "--help"])
    lines = [line.removeprefix("│ ").rstrip("│ ") for line in capsys.readouterr().out.splitlines()]
    for number, line in enumerate(lines):
        if line.startswith("--"):  # indented, it is a flag in the middle of some option's help
            rest = line.split("  ", 1)[1:] or [lines[number + 1]]
            assert len(rest[0].strip()) > 3, line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lable"], "'lable' is not a command; accepted: demo, label"),
        (["eval", "maks"], "'eval maks' is not a command; accepted: eval masks"),
        (["eval"], "accepted: eval masks"),
    ],
)
def test_unknown_command(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_missing_and_unknown_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "somewhere"]) == 2
    assert "--out" in capsys.readouterr().err
    assert main(["label", "x", "--out", "y", "--classifier", "z", "--taau", "1"]) == 2
    assert "--taau" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "accepted"),
    [
        ("--tau", "1.5", "a number from 0 to 1"),
        ("--tau", "nan", "a number from 0 to 1"),
        ("--theta-f", "-0.1", "a number from 0 to 1"),
        ("--sample-fps", "0", "a rate above 0"),
        ("--sample-fps", "nan", "a rate above 0"),
        ("--max-side", "8", "16 to 8192 px"),
        ("--window-frames", "0", "1 to 100 frames"),
        ("--window-stride", "0", "1 or more frames"),
        ("--max-windows", "-1", "0 (no limit) or more"),
        ("--scales", "0", "one or more factors"),
        ("--shard-videos", "0", "1 to 100000"),
        ("--decoders", "-1", "0 (one per core)"),
        ("--decode-timeout-seconds", "0", "above 0"),
    ],
)
def test_wrong_values(flag: str, value: str, accepted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "x", "--out", "y", "--classifier", "z", flag, value]) == 2
    said = capsys.readouterr().err
    assert f"f2f: {flag} " in said
    assert accepted in said


def test_wrong_types_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, value in (("--tau", "high"), ("--windows", "some"), ("--max-side", "1.5")):
        assert main(["label", "x", "--out", "y", "--classifier", "z", flag, value]) == 2
        assert flag in capsys.readouterr().err


def test_ctrl_c_outside_a_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("f2f.engine.cli._run", interrupted)
    assert main(["status", "x"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_reader_that_is_gone() -> None:
    command = " ".join(f"'{part}'" for part in f2f_command("label", "--help"))
    done = subprocess.run(["/bin/sh", "-c", f"{command} | head -1"], capture_output=True, text=True, check=True)
    assert done.stderr == ""


# ---- the file of defaults


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return crawl(tmp_path / "crawl", "red/a.mp4")


def test_config(source: Path, tmp_path: Path, networks: TinyNetworks, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        f'out = "{tmp_path / "out"}"\nclassifier = "{networks.classifier}"\nflow = "{networks.flow}"\n'
        'saliency = "none"\nwindow_frames = 2\nwindow-stride = 2\nmax_side = 96\nscales = [1.0]\nwindows = "all"\n'
        "trust_query = true\nallow_outside = false\nmax_windows = 1\n"
    )
    assert main(["label", str(source), "--config", str(config)]) == 0
    assert records(tmp_path / "out")["red/a.mp4"]["masks"] == 1
    more = ["--out", str(tmp_path / "other"), "--max-windows=0", "--no-trust-query"]
    assert main(["label", str(source), f"--config={config}", *more]) == 0
    assert records(tmp_path / "other")["red/a.mp4"]["masks"] == 6, "flags override the file"
    assert "masks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("tau = ", "is not TOML"),
        ("[classify]\ntau = 0.5\n", "holds a table [classify]"),
        ("taau = 0.5\n", "taau"),
        ("tau = 7\n", "--tau 7.0 is not accepted"),
    ],
)
def test_config_that_is_wrong(
    content: str, words: str, tmp_path: Path, networks: TinyNetworks, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(content)
    arguments = ["--out", str(tmp_path / "out"), "--classifier", str(networks.classifier), "--config", str(config)]
    assert main(["label", "x", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_config_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "x", "--config", str(tmp_path / "nowhere.toml")]) == 2
    assert "nowhere.toml cannot be read" in capsys.readouterr().err
    assert main(["label", "x", "--config"]) == 2
    assert "--config was given without a file" in capsys.readouterr().err
