"""What the compilers make of the Triton kernels, found out without a GPU: no spills, registers within the budgets."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed: nothing to compile with")

CAPABILITIES = (80, 90, 100)
PROCESSES = 2
# Triton's interpreter, in use in this process where there is no GPU, replaces the compiler for good: so elsewhere.
COMPILE = """
import dataclasses, itertools, json, sys
from f2f.kernels.gpu import variants
jobs = list(itertools.product(variants.all_variants(), map(int, sys.argv[3:])))
for variant, capability in jobs[int(sys.argv[1]) :: int(sys.argv[2])]:
    used = variants.resources(variants.compile_variant(variant, capability))
    print(json.dumps([capability, variant.name, variant.registers, dataclasses.asdict(used)]))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compiled() -> list[Any]:
    """(compute capability, variant, its register budget, what it uses) of every variant."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    commands = [
        [sys.executable, "-c", COMPILE, str(number), str(PROCESSES), *map(str, CAPABILITIES)]
        for number in range(PROCESSES)
    ]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for command in commands]
    try:
        outputs = [process.communicate(timeout=280)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * PROCESSES
    return [json.loads(line) for output in outputs for line in output.splitlines()]


def test_every_variant_compiles_for_every_gpu(compiled: list[Any]) -> None:
    from f2f.kernels.gpu import variants

    wanted = itertools.product(CAPABILITIES, (variant.name for variant in variants.all_variants()))
    assert sorted((capability, name) for capability, name, _, _ in compiled) == sorted(wanted)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_nothing_spills(compiled: list[Any], capability: int) -> None:
    for _, name, _, used in filter(lambda row: row[0] == capability, compiled):
        assert (used["stack_bytes"], used["local_bytes"], used["local_accesses"]) == (0, 0, 0), name


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_registers_stay_within_budget(compiled: list[Any], capability: int) -> None:
    over = [
        (name, used["registers"], budget)
        for _, name, budget, used in filter(lambda row: row[0] == capability, compiled)
        if used["registers"] > budget
    ]
    assert not over
