"""Public data sets of flow: read as they were written, split without leaks, refused with words."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import flow_folders
import numpy as np
import pytest
import torch
from flow_folders import WRITERS, kitti_known, made_up_flow, made_up_frame, save_pfm
from PIL import Image

from f2f.engine.errors import UsageError
from f2f.training.flow_datasets import FlowFolder, open_flow_dataset
from f2f.training.flow_files import FlowPair
from f2f.training.losses import multiscale_flow_loss
from f2f.training.pairs import Pair, PairDataset, _sample_flow, augment

Numbers = tuple[int, int, int]
"""of the first frame, the second frame, the flow"""


def _assert_is(pair: FlowPair, numbers: Numbers) -> None:
    first, second, flow = numbers
    np.testing.assert_array_equal(pair.first, made_up_frame(first))
    np.testing.assert_array_equal(pair.second, made_up_frame(second))
    np.testing.assert_array_equal(pair.flow_xy_px[pair.known], made_up_flow(flow)[pair.known])


def _names(folder: FlowFolder) -> list[str]:
    return [pair.name for pair in folder.spread(len(folder))]


@pytest.mark.parametrize(
    ("name", "training", "held_out"),
    [
        ("chairs", [(0, 1, 0), (2, 3, 1), (4, 5, 2)], [(6, 7, 3)]),
        # (scene, way, frame); each twice: clean and final
        ("things", [(0, 1, 10)] * 2 + [(1, 2, 11)] * 2 + [(1, 0, 21)] * 2 + [(2, 1, 22)] * 2, None),
        ("sintel", [(0, 1, 0)] * 2 + [(1, 2, 1)] * 2 + [(10, 11, 10)] * 2, [(11, 12, 11)] * 2),
        ("kitti", [(0, 1, 0), (2, 3, 1)], [(4, 5, 2)]),
    ],
)
def test_pairs_come_back_as_they_were_written(
    tmp_path: Path, name: str, training: list[Numbers], held_out: list[Numbers] | None
) -> None:
    folders = open_flow_dataset(name, WRITERS[name](tmp_path))
    for folder, expected in zip(folders, (training, held_out or training), strict=True):
        assert len(folder) == len(expected)
        for number, numbers in enumerate(expected):
            _assert_is(folder[number], numbers)
            assert name == "kitti" or folder[number].known.all()
    assert not {*_names(folders[0])} & {*_names(folders[1])}, "no truth is on both sides"


def test_sparse_truth_is_known_where_the_file_says_so(tmp_path: Path) -> None:
    folder, _ = open_flow_dataset("kitti", flow_folders.write_kitti(tmp_path))
    np.testing.assert_array_equal(folder[1].known, kitti_known(1))
    assert not folder[1].flow_xy_px[~folder[1].known].any()
    drawn = folder.draw(np.random.default_rng(0))
    assert drawn.known is not None
    assert 0 < drawn.known.mean() < 0.3


def test_nan_and_flow_beyond_all_frames_are_unknown(tmp_path: Path) -> None:
    flow = made_up_flow(10)
    flow[3, 5, 0], flow[4, 6, 1], flow[5, 7, 0] = np.nan, -np.inf, 2e4
    root = flow_folders.write_things(tmp_path)
    path = next(root.rglob("TRAIN/**/OpticalFlowIntoFuture_0006_L.pfm"))
    save_pfm(path, flow)
    pair = open_flow_dataset("things", root)[0][0]
    assert np.argwhere(~pair.known).tolist() == [[3, 5], [4, 6], [5, 7]]
    assert np.isfinite(pair.flow_xy_px).all()


@pytest.mark.parametrize("passes", [("clean",), ("final",)])
def test_one_pass_is_enough(tmp_path: Path, passes: tuple[str, ...]) -> None:
    training, held_out = open_flow_dataset("sintel", flow_folders.write_sintel(tmp_path, passes))
    assert (len(training), len(held_out)) == (3, 1)


def test_five_percent_are_held_out(tmp_path: Path) -> None:
    training, held_out = open_flow_dataset("kitti", flow_folders.write_kitti(tmp_path, 40))
    assert (len(training), len(held_out)) == (38, 2)
    assert [Path(name).name for name in _names(held_out)] == ["000038_10.png", "000039_10.png"]
    assert len(list(training.spread(10))) == 10


def test_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    root = flow_folders.write_sintel(tmp_path, scenes=4)
    listed = os.listdir
    orders = []
    for turned in (False, True):
        monkeypatch.setattr(os, "listdir", lambda path, turned=turned: sorted(listed(path), reverse=turned))
        training, held_out = open_flow_dataset("sintel", root)
        orders.append((_names(training), _names(held_out)))
    assert orders[0] == orders[1]


@pytest.mark.parametrize("name", WRITERS)
def test_missing_folder_is_refused(tmp_path: Path, name: str) -> None:
    root = WRITERS[name](tmp_path)
    inner = next(root.iterdir())
    with pytest.raises(UsageError, match=rf"--root .* has no folder {inner.name}; accepted for --dataset {name}: "):
        open_flow_dataset(name, inner)


def _empty(path: Path) -> None:
    path.write_text("")


@pytest.mark.parametrize(
    ("name", "place", "harm", "reason"),
    [
        ("chairs", "FlyingChairs_train_val.txt", Path.unlink, "was not found"),
        ("chairs", "FlyingChairs_train_val.txt", lambda path: path.write_text("1\nx\n"), "could not convert"),
        ("chairs", "FlyingChairs_train_val.txt", lambda path: path.write_text("1\n1\n"), "out of bounds"),
        ("chairs", "FlyingChairs_train_val.txt", lambda path: path.write_text("1\n1\n1\n1\n"), "split val has 0 pairs"),
        ("chairs", "data", shutil.rmtree, "split train has 0 pairs"),
        (
            "chairs",
            "data/00001_img2.ppm",
            Path.unlink,
            "takes .*1_img1.ppm, .*2_img1.ppm and .*1_flow.flo for",
        ),
        ("things", "optical_flow", shutil.rmtree, "Could not find"),
        ("things", "frames_finalpass/TEST", shutil.rmtree, "Could not find"),
        ("sintel", "training/flow", shutil.rmtree, "split train has 8 pairs of frames and 0 flows"),
        ("sintel", "training/flow/scene_0/frame_0002.flo", Path.unlink, "8 pairs of frames and 6 flows"),
        ("sintel", "training", shutil.rmtree, "No such file"),
        ("kitti", "training/image_2", shutil.rmtree, "Could not find"),
        ("kitti", "training/flow_occ/000001_10.png", Path.unlink, "3 pairs of frames and 2 flows"),
    ],
)
def test_wrong_layout_is_refused(
    tmp_path: Path, name: str, place: str, harm: Callable[[Path], object], reason: str
) -> None:
    folder = next(WRITERS[name](tmp_path).iterdir())
    harm(folder / place)
    with pytest.raises(UsageError, match=rf"is not laid out as --dataset {name} \(.*{reason}.*\); accepted: .*restore"):
        open_flow_dataset(name, tmp_path)


def test_a_single_pair_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds 1 pair; one is held out"):
        open_flow_dataset("kitti", flow_folders.write_kitti(tmp_path, 1))


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("chairs", "00001_flow.flo"),
        ("chairs", "00001_img1.ppm"),
        ("things", "TRAIN/**/*Future_0006_L.pfm"),
        ("sintel", "clean/scene_0/frame_0001.png"),
        ("kitti", "flow_occ/000000_10.png"),
    ],
)
@pytest.mark.parametrize("harm", [Path.unlink, _empty, lambda path: path.write_bytes(path.read_bytes()[:-77])])
def test_damaged_files_are_named(tmp_path: Path, name: str, pattern: str, harm: Callable[[Path], object]) -> None:
    root = WRITERS[name](tmp_path)
    folder, _ = open_flow_dataset(name, root)
    path = next(root.rglob(pattern))
    harm(path)
    with pytest.raises(UsageError, match=rf"{path.name}.* cannot be read as two frames with flow \(.*\); restore them"):
        folder[0]


def test_files_of_several_sizes_are_refused(tmp_path: Path) -> None:
    root = flow_folders.write_chairs(tmp_path)
    Image.new("RGB", (50, 40)).save(root / "FlyingChairs" / "data" / "00001_img2.ppm")
    with pytest.raises(UsageError, match="accepted: one size for all"):
        open_flow_dataset("chairs", root)[0][0]


# ---- as training takes them


def test_unknown_pixels_stay_unknown_in_crops() -> None:
    known = kitti_known(0)
    pair = Pair(made_up_frame(0), made_up_frame(1), made_up_flow(0) * known[..., None], known, known)
    place = torch.stack(torch.meshgrid(torch.arange(-2.0, 106), torch.arange(-3.0, 75), indexing="xy"), -1)
    flow, where = _sample_flow(pair, place)
    np.testing.assert_array_equal(where[3:-3, 2:-2], known)
    assert where.sum() == known.sum(), "nothing is known outside"
    np.testing.assert_array_equal(flow[3:-3, 2:-2], pair.flow_xy_px)


@pytest.mark.parametrize("frame_hw", [(375, 1242), (436, 1024), (384, 512), (72, 104)])
def test_crops_of_frames_of_any_size(frame_hw: tuple[int, int]) -> None:
    frame, everywhere = np.full((*frame_hw, 3), 128, np.uint8), np.ones(frame_hw, np.bool_)
    pair = Pair(frame, frame, np.zeros((*frame_hw, 2), np.float32), everywhere, everywhere)
    shares = [float(augment(pair, (192, 320), np.random.default_rng(seed)).flow[2].mean()) for seed in range(6)]
    assert min(shares) > (0.9 if frame_hw[0] > 192 else 0.04)


def test_drawing_depends_on_seed_and_index_alone(tmp_path: Path) -> None:
    folder, _ = open_flow_dataset("sintel", flow_folders.write_sintel(tmp_path))
    other, _ = open_flow_dataset("kitti", flow_folders.write_kitti(tmp_path))
    dataset = PairDataset([folder.draw, folder.draw, other.draw], (64, 64), seed=5)
    wanted = [dataset[index] for index in range(12)]
    for index in (11, 3, 0):
        torch.testing.assert_close(dataset[index], wanted[index], rtol=0, atol=0)
    sparse = sum(float(flow[2].mean()) < 0.5 for _, flow in wanted)
    assert 0 < sparse < 12, "pairs come from both"


def test_coarse_pixels_of_sparse_truth_count_where_asked() -> None:
    known = torch.from_numpy(np.random.default_rng(0).random((1, 1, 64, 64)) < 0.2).float()
    target = 40 * known.expand(1, 2, 64, 64)  # unknown flow is stored as 0
    flows = [torch.full((1, 2, 64 >> level, 64 >> level), 2.0) for level in (6, 5, 4, 3, 2)]
    assert multiscale_flow_loss(flows, target, known, least_known=0.0) < 0.05
    wrong = [flow + 1 for flow in flows]
    dense, sparse = (multiscale_flow_loss(wrong, target, known, least_known=least) for least in (0.5, 0.0))
    assert sparse > 100 * dense
