"""Scores of saliency beside formulas written out, and `f2f eval saliency`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from material import saliency_file
from numpy.typing import NDArray
from PIL import Image
from saliency_material import picture_and_mask, write_pairs
from segmentation_material import save, save_image, write_voc

from f2f.engine.cli import main
from f2f.engine.errors import NetworkError, UsageError
from f2f.engine.options import RuntimeOptions
from f2f.engine.saliency import CLASSICAL_THETA_B, classical_saliency
from f2f.training.checkpoint import save_network
from f2f.training.saliency.evaluate import evaluate_saliency
from f2f.training.saliency.files import save_saliency
from f2f.training.saliency.network import SaliencyNetwork
from f2f.training.saliency.options import SaliencyEvaluation
from f2f.training.saliency.scores import SaliencyTally

ONE_THREAD = RuntimeOptions(threads=1)
Case = tuple[NDArray[np.float32], NDArray[np.uint8]]


def cases(seed: int) -> list[Case]:
    """Maps with masks: levels that tie, unknown pixels, one without an object, one of which nothing is known."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(6):
        hw = (int(rng.integers(3, 9)), int(rng.integers(3, 9)))
        mask = rng.choice(np.array([0, 1, 255], np.uint8), hw, p=[0.6, 0.3, 0.1])
        mask[0, 0] = 1
        values = (0.6 * rng.random(hw) + 0.4 * (mask == 1)).astype(np.float32)
        made.append((np.where(rng.random(hw) < 0.2, np.float32(0.5), values).astype(np.float32), mask))
        if number == 4:
            mask[mask == 1] = 0
        if number == 5:
            mask[:] = 255
    return made


def brute_max_f(made: list[Case]) -> float:
    best = 0.0
    for level in range(256):
        precisions, recalls = [], []
        for values, mask in made:
            pixels = [(float(v), int(m)) for v, m in zip(values.ravel(), mask.ravel(), strict=True) if m != 255]
            if not any(m for _, m in pixels):
                continue
            said = [m for v, m in pixels if round(v * 255) >= level]
            precisions.append(sum(said) / len(said) if said else 0.0)
            recalls.append(sum(said) / sum(m for _, m in pixels))
        p, r = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
        if p + r > 0:
            best = max(best, 1.3 * p * r / (0.3 * p + r))
    return best


@pytest.mark.parametrize("seed", range(5))
def test_scores_by_their_formulas(seed: int) -> None:
    made = cases(seed)
    tally = SaliencyTally(0.37)
    for values, mask in made:
        tally.add(values, mask)
    found = tally.scores()
    errors = [np.mean([abs(float(v) - m) for v, m in zip(values[mask < 255], mask[mask < 255], strict=True)])
              for values, mask in made if (mask < 255).any()]  # fmt: skip
    assert found.images == 6
    assert found.mae == pytest.approx(np.mean(errors), rel=1e-6)
    assert found.max_f == pytest.approx(brute_max_f(made), rel=1e-9)
    objects = np.concatenate([values[mask == 1] for values, mask in made])
    ground = np.concatenate([values[mask == 0] for values, mask in made])
    assert found.objects_lost == pytest.approx(sum(v < 0.37 for v in objects) / len(objects))
    assert found.ground_found == pytest.approx(sum(v < 0.37 for v in ground) / len(ground))
    safe = max(place for place in range(101) if sum(v < place / 100 for v in objects) <= 0.04 * len(objects))
    assert found.safe_theta_b == safe / 100
    assert found.safe_ground_found == pytest.approx(sum(v < safe / 100 for v in ground) / len(ground))
    assert found.safe_objects_lost == pytest.approx(sum(v < safe / 100 for v in objects) / len(objects))


def test_a_perfect_map_and_its_opposite() -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[2:4, 3:6] = 1
    perfect, opposite = SaliencyTally(0.5), SaliencyTally(0.5)
    perfect.add(mask.astype(np.float32), mask)
    opposite.add(1 - mask.astype(np.float32), mask)
    best, worst = perfect.scores(), opposite.scores()
    assert (best.mae, best.max_f, best.objects_lost, best.ground_found, best.safe_theta_b) == (0, 1, 0, 1, 1)
    assert best.max_f_threshold == pytest.approx(1 / 255)
    assert (worst.mae, worst.objects_lost, worst.ground_found, worst.safe_theta_b) == (1, 1, 0, 0)


def test_what_there_is_nothing_of_has_no_figure() -> None:
    tally = SaliencyTally(0.5)
    assert tally.scores().mae is None
    tally.add(np.full((2, 2), 0.25, np.float32), np.zeros((2, 2), np.uint8))
    found = tally.scores()
    assert (found.images, found.mae, found.ground_found) == (1, 0.25, 1)
    assert (found.max_f, found.max_f_threshold, found.objects_lost, found.safe_theta_b) == (None, None, None, None)
    assert (found.safe_objects_lost, found.safe_ground_found) == (None, None)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pairs")
    return write_pairs(folder / "images", folder / "masks")


def test_the_command(pairs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "saliency", "classical", str(pairs[0]), "--masks", str(pairs[1]), "--threads", "1"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["theta_b"]) == (8, CLASSICAL_THETA_B)
    errors, lost, total = [], 0, 0
    for number in range(8):
        pixels = np.array(Image.open(pairs[0] / f"image{number:02d}.jpg"))
        values = classical_saliency(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)[0, 0].numpy()
        mask = picture_and_mask(number)[1]
        errors.append(np.abs(values - mask).mean())
        lost, total = lost + int((values[mask == 1] < CLASSICAL_THETA_B).sum()), total + int(mask.sum())
    assert found["mae"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert found["objects_lost"] == pytest.approx(lost / total)
    assert main([*command, "--theta-b", "0.35"]) == 0
    table = capsys.readouterr().out
    assert "8 images: MAE 0." in table
    assert "0.350" in table


def test_large_images_are_seen_small_and_maps_come_back_to_size(tmp_path: Path) -> None:
    mask = np.zeros((60, 900), np.uint8)
    mask[:, 300:600] = 255
    save_image(tmp_path / "images" / "a.png", np.repeat(mask[..., None], 3, 2))
    save_image(tmp_path / "masks" / "a.png", mask)
    red = saliency_file(tmp_path / "red.onnx")
    for max_side, most in ((900, 1e-6), (90, 0.02)):
        given = SaliencyEvaluation(
            model=str(red),
            images=tmp_path / "images",
            masks=tmp_path / "masks",
            max_side=max_side,
            runtimes=ONE_THREAD,
        )
        found = evaluate_saliency(given)
        assert found.mae is not None
        assert found.mae < most
        assert found.theta_b == 0.5  # the network's own


def test_a_checkpoint_is_measured_at_its_own_theta_b(tmp_path: Path) -> None:
    voc = write_voc(tmp_path)
    for held_out, theta in (({"safe_theta_b": 0.31}, 0.31), ({}, 0.12)):
        save_saliency(tmp_path / "network.pt", SaliencyNetwork(0.125, "small"), 48, {"held_out": held_out})
        model = str(tmp_path / "network.pt")
        given = SaliencyEvaluation(model=model, images=voc, list="trainval", runtimes=ONE_THREAD)
        found = evaluate_saliency(given)
        assert (found.images, found.theta_b) == (5, theta)


def test_what_cannot_be_measured_is_refused(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    def evaluate(model: str, **given: object) -> None:
        usual = {"images": pairs[0], "masks": pairs[1], "runtimes": ONE_THREAD}
        evaluate_saliency(SaliencyEvaluation(model=model, **(usual | given)))  # type: ignore[arg-type]

    with pytest.raises(UsageError, match="the model is none; accepted: classical, a network file"):
        evaluate("none")
    with pytest.raises(UsageError, match=r"saliency x\.onnx: there is no such file"):
        evaluate("x.onnx")
    with pytest.raises(UsageError, match=r"give the network\.pt of `f2f train saliency`"):
        evaluate(str(tmp_path / "network.pt"))
    save_network(tmp_path / "network.pt", "flow", torch.nn.Linear(1, 1))
    with pytest.raises(UsageError, match=r"holds flow; give the network\.pt of `f2f train saliency`"):
        evaluate(str(tmp_path / "network.pt"))
    with pytest.raises(UsageError, match=r"theta-b is 1\.5; accepted: 0 to 1"):
        evaluate("classical", theta_b=1.5)
    with pytest.raises(UsageError, match="max-side is 3; accepted: 16 or more px"):
        evaluate("classical", max_side=3)
    with pytest.raises(UsageError, match="lists image77"):
        evaluate("classical", list=str(save(tmp_path / "list.txt", "image77\n")))
    with pytest.raises(UsageError, match="holds no JPEGImages"):
        evaluate("classical", masks=None)


def test_maps_beyond_the_contract_are_refused(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    network = SaliencyNetwork(0.125, "small")
    torch.nn.init.constant_(network.fused.weight, float("nan"))
    save_saliency(tmp_path / "network.pt", network, 48, {})
    model = str(tmp_path / "network.pt")
    given = SaliencyEvaluation(model=model, images=pairs[0], masks=pairs[1], runtimes=ONE_THREAD)
    with pytest.raises(NetworkError, match="the saliency of image00 reaches from nan to nan; accepted: 0 to 1"):
        evaluate_saliency(given)
