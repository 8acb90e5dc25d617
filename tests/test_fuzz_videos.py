"""Damaged videos: a run over some dozens of them ends, and each has its record; `make fuzz-videos` takes thousands."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from material import TinyNetworks, flags, masks, pictures, records, write_video

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # scripts that import their neighbours

from fuzz_videos import MUTATIONS, SEEDS, WORTH_A_LOOK, Mutation, outcomes, write_mutants

from f2f.engine.cli import main
from f2f.engine.options import DecodeOptions
from f2f.engine.video_tars import VIDEO_SUFFIXES

FILES = 52
REASONS = {
    *("broken", "corrupt_packets", "no_moov", "not_media", "no_video_stream", "undecodable", "no_decoder", "empty"),
    *("format_refused", "too_large", "too_long", "too_short", "blank", "no_window"),
}


def test_every_damaged_video_has_a_record(tmp_path: Path, networks: TinyNetworks) -> None:
    (tmp_path / "crawl" / "red").mkdir(parents=True)
    mutants = list(write_mutants(tmp_path / "crawl" / "red", FILES, seed=7))
    write_video(tmp_path / "crawl" / "red" / "good.mp4", pictures("red"))
    out = tmp_path / "out"
    code = main(["label", str(tmp_path / "crawl"), "--out", str(out), *flags(networks, "--trust-query")])
    assert code in {0, 3}
    found = records(out)
    assert set(found) == {f"red/{path.name}" for path in (tmp_path / "crawl" / "red").iterdir()}
    assert found["red/good.mp4"]["status"] == "ok"
    assert {found[f"red/{mutant.path.name}"]["reason"] for mutant in mutants} - {""} <= REASONS
    assert len(masks(out)) == sum(record["masks"] for record in found.values()) > 4


def test_outcomes_are_a_function_of_the_seed(tmp_path: Path) -> None:
    options = DecodeOptions(max_side=96, decoders=1)
    some = list(write_mutants(tmp_path, len(SEEDS), seed=3))
    content = [mutant.path.read_bytes() for mutant in some]
    found = outcomes(some, options)
    assert len(found) == len(SEEDS)
    assert not set(found) & WORTH_A_LOOK
    assert [mutant.path.read_bytes() for mutant in write_mutants(tmp_path, len(SEEDS), seed=3)] == content
    assert outcomes(some, options) == found
    assert {path.suffix for path in tmp_path.iterdir()} <= VIDEO_SUFFIXES


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS)
def test_mutations(mutation: Mutation) -> None:
    data = bytes(range(256)) * 8
    changed = [mutation(data, np.random.default_rng(number)) for number in range(20)]
    assert sum(other != data for other in changed) >= 15
    assert mutation(data, np.random.default_rng(0)) == changed[0]
    assert all(mutation(b"x", np.random.default_rng(number)) is not None for number in range(20)), "tiny files too"
