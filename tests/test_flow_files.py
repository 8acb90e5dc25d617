"""Exact flow on disk: .flo and KITTI's PNG, what is refused, and the folders that hold pairs."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flow_material import shifted_pair, write_chairs
from PIL import Image

from f2f.engine.classify import to_tensor
from f2f.engine.errors import UsageError
from f2f.training.flow_files import FlowPair, flow_pairs, read_flo, read_flow, write_flo
from f2f.training.flow_metrics import photometric_error
from f2f.training.synth import SynthOptions, synth, write_kitti_flow

# ---- files


def test_flo_round_trip(tmp_path: Path) -> None:
    flow = np.random.default_rng(0).normal(0, 20, (5, 8, 2)).astype(np.float32)
    write_flo(tmp_path / "a.flo", flow)
    content = (tmp_path / "a.flo").read_bytes()
    assert content[:12] == b"PIEH" + struct.pack("<ii", 8, 5)
    assert content[12:20] == struct.pack("<ff", *flow[0, 0])
    np.testing.assert_array_equal(read_flo(tmp_path / "a.flo"), flow)


def test_flow_of_the_released_network_is_read(real: Path) -> None:
    flow = read_flo(real / "flow" / "pwcnet_caffe_0010_to_0011.flo")
    assert flow.shape == (436, 1024, 2)
    assert flow.reshape(-1, 2).mean(0) == pytest.approx([1.623, 2.357], abs=1e-3)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: b"", "has 0 bytes"),
        (lambda content: content[:9], "has 9 bytes"),
        (lambda content: b"HEIP" + content[4:], "begins with"),
        (lambda content: content[:-1], "says 8 x 5 px"),
        (lambda content: content + b"\0", "says 8 x 5 px"),
        (lambda content: content[:4] + struct.pack("<ii", -8, -5) + content[12:], "says -8 x -5 px"),
        (lambda content: content[:4] + struct.pack("<ii", 0, 5), "says 0 x 5 px"),
    ],
    ids=["empty", "header", "magic", "short", "long", "negative", "no width"],
)
def test_damaged_flo_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes], words: str) -> None:
    path = tmp_path / "a.flo"
    write_flo(path, np.zeros((5, 8, 2), np.float32))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match=f"a.flo {words}.*accepted: 202021.25"):
        read_flo(path)


@pytest.mark.parametrize("name", ["none.flo", "none.png"])
def test_missing_flow_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_flow(tmp_path / name)


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'.pfm'; accepted: .flo"):
        read_flow(tmp_path / "a.pfm")


def test_unknown_flow_is_left_out(tmp_path: Path) -> None:
    flow = np.ones((2, 3, 2), np.float32)
    flow[0, 0], flow[0, 1, 1], flow[1, 2, 0] = 1e10, np.nan, -np.inf
    write_flo(tmp_path / "a.flo", flow)
    read, known = read_flow(tmp_path / "a.flo")
    assert known.tolist() == [[False, False, True], [True, True, False]]
    np.testing.assert_array_equal(read, known[..., None] * np.ones(2, np.float32))


def test_sizes_that_differ_are_refused() -> None:
    frame, flow = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 5, 2), np.float32)
    with pytest.raises(UsageError, match=r"pair: frames and flow have the sizes \[\(4, 5\), \(4, 6\)\]"):
        FlowPair("pair", frame, frame, flow, np.ones((4, 5), np.bool_))


# ---- folders


@pytest.mark.parametrize(("suffix", "known"), [(".flo", 96), (".png", 92)])
@pytest.mark.parametrize("image_suffix", [".png", ".ppm"])
def test_pairs_named_as_flying_chairs(tmp_path: Path, suffix: str, known: int, image_suffix: str) -> None:
    (pair,) = flow_pairs(write_chairs(tmp_path, suffix, image_suffix))
    first, second = shifted_pair(4)
    np.testing.assert_array_equal(pair.first, first)
    np.testing.assert_array_equal(pair.second, second)
    assert (pair.flow_xy_px[:, :known] == [4, 0]).all()
    assert int(pair.known.sum()) == 64 * known
    assert pair.visible is None


def write_kitti(folder: Path) -> Path:
    for name in ("image_2", "flow_occ", "flow_noc"):
        (folder / name).mkdir()
    for number in range(3):
        for place, image in zip((10, 11), shifted_pair(4), strict=True):
            Image.fromarray(image).save(folder / "image_2" / f"{number:06d}_{place}.png")
        flow = np.full((64, 96, 2), (4, 0), np.float32)
        write_kitti_flow(folder / "flow_occ" / f"{number:06d}_10.png", flow, np.ones((64, 96), np.bool_))
        inside = np.arange(96) < np.full((64, 1), 92)
        write_kitti_flow(folder / "flow_noc" / f"{number:06d}_10.png", flow, inside)
    return folder


def test_kittis_folders(tmp_path: Path) -> None:
    pairs = list(flow_pairs(write_kitti(tmp_path), every=2))
    assert [pair.name for pair in pairs] == ["000000_10.png", "000002_10.png"]
    assert pairs[0].visible is not None
    assert (pairs[0].known.mean(), pairs[0].visible.mean()) == (1, pytest.approx(92 / 96))
    np.testing.assert_array_equal(pairs[0].second, shifted_pair(4)[1])


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("web")
    synth(
        SynthOptions(
            out=out, videos=1, images=0, seed=5, seconds=0.7, height_px=64, width_px=96, flow_truth=True, workers=1
        )
    )
    return out


def test_exact_flow_of_the_web_takes_each_frame_to_its_predecessor(web: Path) -> None:
    pairs = list(flow_pairs(web))
    frames = len(list((web / "truth").glob("*/*/*.png")))
    assert len(pairs) == frames - 1
    errors = {"exact": [], "still": [], "wrong sign": []}  # type: dict[str, list[float]]
    for pair in (pair for pair in pairs if pair.known.any()):  # nothing is known across a cut
        assert pair.visible is not None
        seen = torch.from_numpy(pair.known & pair.visible)
        flow = torch.from_numpy(pair.flow_xy_px).permute(2, 0, 1)
        first, second = to_tensor([pair.first, pair.second])
        for name, sign in (("exact", 1), ("still", 0), ("wrong sign", -1)):
            errors[name].append(float(photometric_error(first, second, sign * flow)[seen].mean()))
    exact, still, wrong = (float(np.mean(values)) for values in errors.values())
    assert exact < 0.6 * still < still < wrong


def test_a_missing_frame_is_named(tmp_path: Path) -> None:
    (write_chairs(tmp_path) / "a_img2.png").unlink()
    with pytest.raises(UsageError, match=r"has no frame a_img2 beside it; accepted: a_img2 with one of .png"):
        list(flow_pairs(tmp_path))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no frames with flow; accepted: <name>_img1.*image_2/.*f2f synth"):
        flow_pairs(tmp_path)
