"""Rows of measurements: one CSV per benchmark below `results/`, each row with machine, versions and commit."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "onnxruntime", "av", "numpy")


def circumstances(packages: Sequence[str] = _PACKAGES, gpu: str = "") -> dict[str, str]:
    """Machine, versions and commit of this run; `gpu` names the GPU that was measured, if one was."""
    versions = [f"{name} {_version(name)}" for name in packages]
    return {
        "machine": f"{gpu + ', ' if gpu else ''}{_processor()}, {os.cpu_count()} cores",
        "versions": ", ".join([f"Python {platform.python_version()}", *versions]),
        "commit": _commit(),
    }


def write_rows(
    name: str, rows: Sequence[Mapping[str, object]], packages: Sequence[str] = _PACKAGES, gpu: str = ""
) -> Path:
    """Replace `results/<name>.csv` by these rows; those that were measured before keep their circumstances."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    shared = circumstances(packages, gpu)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [*{**rows[0], **shared}], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**shared, **row} for row in rows)
    return path


def read_rows(name: str) -> list[dict[str, str]]:
    """The rows of `results/<name>.csv`."""
    with (RESULTS / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    with Path("/proc/cpuinfo").open(encoding="utf-8") as stream:
        names = [line.partition(":")[2].strip() for line in stream if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    """Short commit, with a plus where the tree had changes; what F2F_COMMIT says where there is no repository."""
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():
        return os.environ.get("F2F_COMMIT", "unknown")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
    )
    changes = ["git", "status", "--porcelain", "--untracked-files=no", "--", "..", ":!results"]
    changed = subprocess.run(changes, cwd=here, capture_output=True, text=True, check=True).stdout
    return commit.stdout.strip() + ("+" if changed.strip() else "")
