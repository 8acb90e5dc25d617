"""Fixtures all tests share, and the one place where a missing GPU turns from a skip into a failure."""

from __future__ import annotations

import os
import random
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from material import TinyNetworks

if not torch.cuda.is_available():  # before anything imports Triton: its kernels then run in the interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

os.environ.setdefault("F2F_ONNX_RUNTIME", "onnxruntime")  # no timing decides what a test runs

# The same examples every time, however slow the machine; `--hypothesis-profile default` looks for others.
settings.register_profile("f2f", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("f2f")

_REAL = Path(__file__).parents[1].parent / "shared" / "real"


@pytest.fixture(autouse=True)
def seed() -> int:
    """Every test starts from the same random state."""
    random.seed(42)
    np.random.seed(42)
    torch.manual_seed(42)
    return 42


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> TinyNetworks:
    """The hand-made networks."""
    return TinyNetworks.write(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="session")
def real() -> Path:
    """Real videos, masks and weights, which are not part of the repository."""
    if not _REAL.is_dir():
        pytest.skip(f"real material is missing: no folder {_REAL.name}/ beside the repository's shared material")
    return _REAL


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With F2F_REQUIRE_CUDA=1 a test that skips for want of CUDA fails: on a GPU machine a skip is not a pass."""
    report = yield
    if report.skipped and os.environ.get("F2F_REQUIRE_CUDA") == "1" and "CUDA" in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped although F2F_REQUIRE_CUDA=1: {report.longrepr}"
    return report
