"""The kernel benchmark: who disagrees has no time, rows are complete, byte models count, the README table condenses."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # scripts that import their neighbours

import record
import tables
from kernel_baselines import (
    DENSECRF,
    compose_labels_eager,
    cost_volume_eager,
    soft_union_eager,
    warp_cost_volume_eager,
    warp_union_eager,
)
from kernel_contenders import Absent, Contender, defined, disagreement, forced, in_bytes, over_levels
from kernel_timing import Stopwatch, alternate, extra_memory_mb, percentiles, time_limit
from kernel_workloads import (
    BOTH,
    OPERATORS,
    CamInputs,
    Case,
    LabelInputs,
    SoftUnionInputs,
    WarpUnionInputs,
    grid,
    make_inputs,
    must_move_bytes,
    smooth_flow,
)

from f2f.kernels import dispatch, reference, unpack_planes
from kernels import Bench, Options, check, expected_of, is_wrong, main, measure, parse

SMALL = Case(op="warp_union", size_hw=(24, 40), planes=6, flow="smooth")
COLUMNS = [
    *("op", "mode", "backend", "form", "shape", "dtype", "flow", "threads", "runs", "p20_ms", "p50_ms", "p80_ms"),
    *("speedup", "gbps", "copy_gbps", "pct_of_copy", "peak_memory_mb", "disagreement", "status"),
]


def contender(value: torch.Tensor, band: float = 0.0) -> Contender:
    return Contender(backend="f2f cpp", call=lambda: value, finish=lambda result: [result], band=band)


def test_agreement_refuses_a_wrong_version() -> None:
    right = torch.rand(2, 3, 16, 16) > 0.5
    wrong = right.clone()
    wrong[0, 0, 0, 0] ^= True
    assert check(contender(right), [right]) == ("ok", 0.0)
    status, share = check(contender(wrong), [right])
    assert status.startswith("disagrees")
    assert share == 1 / int((right | wrong).sum())
    assert check(contender(wrong, band=0.01), [right])[0] == "ok"


@pytest.mark.parametrize(
    ("result", "share"),
    [
        (torch.zeros(4, dtype=torch.uint8), 0.5),
        (torch.zeros(5, dtype=torch.uint8), float("inf")),
        (torch.zeros(4, dtype=torch.int32), float("inf")),
    ],
    ids=["labels", "shape", "dtype"],
)
def test_disagreement_of_labels(result: torch.Tensor, share: float) -> None:
    assert disagreement([result], [torch.tensor([0, 0, 1, 2], dtype=torch.uint8)]) == share


def test_disagreement_of_floats_is_relative_and_refuses_nan() -> None:
    wanted = torch.tensor([1.0, -4.0])
    assert disagreement([wanted + torch.tensor([0.0, 0.5])], [wanted]) == pytest.approx(0.125)
    assert disagreement([torch.tensor([1.0, torch.nan])], [wanted]) == float("inf")
    assert disagreement([], [wanted]) == float("inf")


def test_a_crash_is_a_row_and_ours_fails_the_run() -> None:
    def crash() -> None:
        raise RuntimeError("no such\ninstruction")

    broken = Contender(backend="f2f cpp", call=crash, finish=lambda _: [])
    status, share = check(broken, [])
    assert (status, share) == ("failed: RuntimeError: no such instruction", None)
    assert is_wrong({"status": status, "backend": "f2f cpp"})
    assert not is_wrong({"status": status, "backend": "torch compile"})
    assert check(Absent(backend="kornia", reason="not installed"), []) == ("not run: not installed", None)


def bench() -> Bench:
    options = Options(case_seconds=0.05, compile_seconds=0)  # 0: without torch.compile
    return Bench(options, Stopwatch("cpu"), copy_gbps=10.0, memory_bytes=1e9)


def test_rows_have_every_column_and_only_who_agrees_has_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.baselines", lambda *_: [contender(torch.zeros(1, 6, 24, 40, dtype=torch.bool))])
    rows = measure(SMALL, bench())
    assert all(list(row) == COLUMNS for row in rows)
    assert {row["shape"] for row in rows} == {"B1 K5 P6 24x40"}
    reference_row, wrong = rows[0], rows[-1]
    assert (reference_row["backend"], reference_row["status"]) == ("f2f torch", "ok")
    assert float(str(reference_row["p20_ms"])) <= float(str(reference_row["p80_ms"]))
    assert (wrong["runs"], wrong["p50_ms"], wrong["speedup"]) == (0, "", "")
    assert str(wrong["status"]).startswith("disagrees: 1")


def test_a_wrong_version_makes_the_run_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr("kernels.copy_gbps", lambda _: 10.0)
    monkeypatch.setattr("kernels.grid", lambda *_: [SMALL])
    monkeypatch.setattr("kernels.baselines", lambda *_: [])
    assert main(Options(case_seconds=0.05)) == 0
    monkeypatch.setattr("kernels.baselines", lambda *_: [contender(torch.zeros(1, 6, 24, 40, dtype=torch.bool))])
    assert main(Options(case_seconds=0.05)) == 1
    with (tmp_path / "kernels.csv").open(encoding="utf-8", newline="") as stream:
        assert next(csv.DictReader(stream)).keys() == {*COLUMNS, "machine", "versions", "commit"}


def test_a_run_of_some_operators_keeps_the_rows_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr("kernels.copy_gbps", lambda _: 10.0)
    monkeypatch.setattr("kernels.baselines", lambda *_: [])
    labels = Case(op="compose_labels", size_hw=(24, 40), planes=6)
    monkeypatch.setattr("kernels.grid", lambda *_: [SMALL, labels])
    main(Options(case_seconds=0.05))
    monkeypatch.setattr(record, "_commit", lambda: "later")
    before = record.read_rows("kernels")
    main(Options(case_seconds=0.05, ops=["compose_labels"]))
    after = record.read_rows("kernels")
    assert [row for row in after if row["op"] == "warp_union"] == [row for row in before if row["op"] == "warp_union"]
    assert len(after) == len(before)
    assert {row["commit"] for row in after if row["op"] == "compose_labels"} == {"later"}


def test_pydensecrf_stands_in_where_the_definition_takes_minutes() -> None:
    large, small = (Case(op="crf_refine", size_hw=size, planes=2) for size in ((240, 427), (6, 9)))
    inputs, answer = make_inputs(small, "cpu"), torch.zeros(1, dtype=torch.uint8)
    peer = replace(contender(answer), backend=DENSECRF)
    assert expected_of(large, inputs, [peer], "cpu") == [answer]
    for case, everyone, device in ((small, [peer], "cpu"), (large, [], "cpu"), (large, [peer], "cuda")):
        assert torch.equal(expected_of(case, inputs, everyone, device)[0], defined(small, inputs)[0])


def test_baselines_compute_what_the_reference_computes() -> None:
    warp = make_inputs(SMALL, "cpu")
    assert isinstance(warp, WarpUnionInputs)
    masks = unpack_planes(warp.bits, 6)
    expected = unpack_planes(reference.warp_union(warp.bits, warp.flow_xy_px), 6)
    assert disagreement([warp_union_eager(masks.float(), warp.flow_xy_px) > 0.5], [expected]) < 0.01
    soft = make_inputs(Case(op="soft_union", size_hw=(48, 80), planes=2, flow="smooth"), "cpu")
    assert isinstance(soft, SoftUnionInputs)
    maps = (soft.maps, soft.flow_xy_px, soft.return_xy_px)
    united = reference.soft_union(*maps)
    assert disagreement([in_bytes(soft_union_eager(*maps))], [in_bytes(united)]) < 0.005
    assert ((united - soft.maps[:, -1]) > 0.01).float().mean() > 0.05  # something is carried
    labels = make_inputs(Case(op="compose_labels", size_hw=(24, 40), planes=6), "cpu")
    assert isinstance(labels, LabelInputs)
    composed = compose_labels_eager(unpack_planes(labels.bits, 6), labels.saliency[:, 0], 0.12)
    assert torch.equal(composed, reference.compose_labels(labels.bits, labels.classes, labels.saliency, 0.12))


@pytest.mark.parametrize("op", ["cost_volume", "warp_cost_volume"])
def test_cost_volume_baselines_have_the_reference_s_values_and_gradients(op: str) -> None:
    case = Case(op=op, size_hw=(64, 64), mode=BOTH)
    levels = make_inputs(case, "cpu")
    assert isinstance(levels, list)
    eager: Callable[..., torch.Tensor] = cost_volume_eager if op == "cost_volume" else warp_cost_volume_eager
    fine = levels[-1:]  # the coarsest is one pixel
    results = over_levels(eager, fine, case)()
    assert len(results) == 1 + len(fine[0].features)
    assert disagreement(results, defined(case, fine)) < 1e-5


def test_byte_models() -> None:
    pixels = 24 * 40
    assert must_move_bytes(SMALL) == pixels * (5 * 4 + 4 * 2 * 4 + 4)
    half = Case(op="warp_union", size_hw=(24, 40), planes=40, clips=3, flow="smooth", dtype=torch.float16)
    assert must_move_bytes(half) == 3 * pixels * (5 * 2 * 4 + 4 * 2 * 2 + 2 * 4)
    soft = make_inputs(Case(op="soft_union", size_hw=(24, 40), planes=6, clips=3), "cpu")
    assert isinstance(soft, SoftUnionInputs)
    moved = soft.maps.nbytes + soft.flow_xy_px.nbytes + soft.return_xy_px.nbytes + soft.maps[:, 0].nbytes
    assert must_move_bytes(Case(op="soft_union", size_hw=(24, 40), planes=6, clips=3)) == moved
    labels = Case(op="compose_labels", size_hw=(24, 40), planes=20)
    assert must_move_bytes(labels) == pixels * (4 + 4 + 1) + 20 * 8
    forward, both = (Case(op="cost_volume", size_hw=(64, 64), mode=mode) for mode in ("forward", BOTH))
    levels = [(1, 196), (4, 128), (16, 96), (64, 64), (256, 32)]  # (pixels, channels)
    assert must_move_bytes(forward) == 4 * sum(count * (2 * channels + 81) for count, channels in levels)
    assert must_move_bytes(both) == 4 * sum(count * (6 * channels + 2 * 81) for count, channels in levels)


def test_byte_model_of_activate_cams_is_the_size_of_its_tensors() -> None:
    case = Case(op="activate_cams", size_hw=(33, 50), planes=7, clips=2)
    inputs = make_inputs(case, "cpu")
    assert isinstance(inputs, CamInputs)
    bits, peaks = reference.activate_cams(inputs.cams, inputs.flips, inputs.classes, inputs.size_hw, 0.2)
    assert must_move_bytes(case) == sum(tensor.nbytes for tensor in (*inputs.cams, bits, peaks))


def test_workloads_are_the_same_every_time_and_look_like_flow() -> None:
    first, second = make_inputs(SMALL, "cpu"), make_inputs(SMALL, "cpu")
    assert isinstance(first, WarpUnionInputs)
    assert isinstance(second, WarpUnionInputs)
    assert torch.equal(first.bits, second.bits)
    assert torch.equal(first.flow_xy_px, second.flow_xy_px)
    assert 0.01 < unpack_planes(first.bits, 6).float().mean() < 0.5
    flow = smooth_flow(2, (120, 200), torch.Generator().manual_seed(0))
    change = flow.diff(dim=-1).abs()
    assert (change < 0.1).float().mean() > 0.95  # smooth nearly everywhere
    assert change.max() > 0.5  # with edges


def test_grid_has_each_case_once_and_the_headlines_first() -> None:
    for device in ("cpu", "cuda"):
        quick, full = list(grid(quick=True, device=device)), list(grid(quick=False, device=device))
        assert full[: len(quick)] == quick
        assert len(set(full)) == len(full)
        assert {case.op for case in quick} == set(OPERATORS)
        keys = {(case.op, case.mode, case.shape) for case in quick}
        assert set(tables._HEADLINES["kernels" if device == "cpu" else "kernels_cuda"]) <= keys


def test_turns_alternate_and_percentiles_are_ordered() -> None:
    calls: list[str] = []
    samples = alternate([lambda: calls.append("a"), lambda: calls.append("b")], Stopwatch("cpu"), 0.01)
    assert all(len(times) >= 5 for times in samples)
    assert calls[:42] == ["a"] * 21 + ["b"] * 21  # the first of a turn is not timed
    assert percentiles([3.0, 1.0, 2.0]) == pytest.approx((1.4, 2.0, 2.6))
    assert alternate([], Stopwatch("cpu"), 1.0) == []


def test_extra_memory_is_what_a_call_allocates() -> None:
    megabytes = extra_memory_mb(lambda: torch.ones(16, 1024, 1024) * 2, "cpu")
    assert megabytes is None or 120 < megabytes < 160


def test_time_limit_and_forced_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless() -> None:
        while True:
            pass

    with pytest.raises(TimeoutError, match="waiting had not ended after"), time_limit(0.05, "waiting"):
        endless()
    monkeypatch.delenv(dispatch.ENVIRONMENT, raising=False)
    with forced("torch"):
        assert dispatch.choose("warp_union") == "torch"
    assert dispatch.ENVIRONMENT not in os.environ


def test_command_line() -> None:
    assert parse(["--quick", "--ops", "warp_union", "--threads", "1"]) == Options(
        quick=True, ops=["warp_union"], threads=1
    )


def made_up(backend: str, ms: str, **changes: str) -> dict[str, str]:
    row = {
        "op": "warp_union", "mode": "forward", "shape": "B1 K5 P20 321x321", "backend": backend, "form": "",
        "dtype": "float32", "flow": "smooth", "p50_ms": ms, "pct_of_copy": "31.4",
        "machine": "a machine", "versions": "torch 2", "commit": "abc",
    }  # fmt: skip
    return {**row, **changes}


def test_table_has_one_row_per_headline_case(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [
        made_up("f2f torch", "17.7"),
        made_up("f2f cpp", "0.5"),
        made_up("f2f triton", "", status="not run: no GPU"),
        made_up("torch eager", "49.04"),
        made_up("opencv", "2.6", form="4-channel images"),
        made_up("opencv", "99", flow="random"),
        made_up("f2f cpp", "0.1", shape="B8 K5 P20 321x321"),
    ]
    (row,) = tables.condensed("kernels", rows)
    assert row["operator"] == "warp_union: 20 classes, 5 frames, 321²"
    assert (row["f2f"], row["of_copy"]) == ("**0.5 ms** (cpp)", "31 %")
    assert (row["torch eager"], row["opencv"], row["kornia"]) == ("49 ms (98\u00d7)", "2.6 ms (5.2\u00d7)", "\u2013")
    assert "45" in row["target"]
    monkeypatch.setattr(tables, "read_rows", lambda _: rows)
    block = tables.with_tables("<!-- table:kernels -->\nold\n<!-- end -->")
    assert "| **0.5 ms** (cpp) |" in block
    assert "old" not in block
    assert "<sub>a machine; torch 2; commit abc</sub>" in block
    assert "kornia" not in block  # a column without a time
    crf = {"op": "crf_refine", "shape": "B1 L2 240x427", "flow": "", "commit": "def"}
    rows += [made_up("f2f cpp", "7", **crf), made_up("pydensecrf", "98", **crf)]
    block = tables.with_tables("<!-- table:kernels -->\nold\n<!-- end -->")
    assert "| 98 ms (14\u00d7) |" in block
    assert "warp_union: a machine; torch 2; commit abc<br>crf_refine: a machine; torch 2; commit def" in block
