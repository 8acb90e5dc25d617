"""`f2f eval segmenter`: what is predicted, how it is scored, going on after a stop, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from segmentation_material import VAL, write_voc

from f2f.engine.cli import main
from f2f.engine.errors import RunMismatchError
from f2f.training.checkpoint import save_network
from f2f.training.segmentation.adaptation_options import SegmenterEvaluation
from f2f.training.segmentation.cue_files import CueFolder
from f2f.training.segmentation.deeplab import segmenter
from f2f.training.segmentation.segmenter_eval import evaluate_segmenter
from f2f.training.segmentation.voc import VOC_CLASSES

SIDE = 33


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("voc"))


def network(path: Path, seed: int = 0) -> Path:
    """A segmenter of random weights, strong enough that its labels differ from pixel to pixel."""
    torch.manual_seed(seed)
    made = segmenter("small", VOC_CLASSES, 0.25)
    for layer in made.scores.score_layers():
        torch.nn.init.normal_(layer.weight)
    save_network(
        path, "segmenter", made, name="small", classes=VOC_CLASSES, width=0.25, training={"options": {"side_px": SIDE}}
    )
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return network(tmp_path_factory.mktemp("network") / "network.pt")


def options(out: Path, checkpoint: Path, voc: Path, **given: object) -> SegmenterEvaluation:
    return SegmenterEvaluation(out=out, checkpoint=checkpoint, images=voc, accelerator="cpu", **given)  # type: ignore[arg-type]


def masks(out: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (out / "masks").glob("*.png")}


@pytest.mark.parametrize("mirror", [False, True])
def test_masks_are_those_of_the_network(voc: Path, checkpoint: Path, tmp_path: Path, mirror: bool) -> None:
    evaluate_segmenter(options(tmp_path, checkpoint, voc, scales=(1.0,), mirror=mirror, crf=False))
    content = torch.load(checkpoint, weights_only=True)
    by_hand = segmenter("small", VOC_CLASSES, 0.25)
    by_hand.load_state_dict(content["state_dict"])
    by_hand.eval()
    assert masks(tmp_path).keys() == set(VAL)
    for id_ in VAL:
        pixels = np.array(Image.open(voc / "JPEGImages" / f"{id_}.jpg"))
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
        seen = F.interpolate(image, (SIDE, SIDE), mode="bilinear", antialias=True)
        with torch.no_grad():
            looks = [by_hand(seen)] + ([by_hand(seen.flip(3)).flip(3)] if mirror else [])
        full = [F.interpolate(one, (SIDE, SIDE), mode="bilinear") for one in looks]
        logits = torch.stack([F.interpolate(one, image.shape[2:], mode="bilinear", antialias=True) for one in full])
        two = logits.sum(0)[0].topk(2, dim=0)
        sure = (two.values[0] - two.values[1] > 1e-4).numpy()
        found = CueFolder.open(tmp_path / "masks").read(id_)
        assert sure.mean() > 0.9
        assert np.array_equal(found[sure], two.indices[0].numpy()[sure])


def test_the_scores_are_those_of_eval_voc(
    voc: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["eval", "segmenter", "--checkpoint", str(checkpoint), "--images", str(voc)]
    assert main([*command, "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert main(["eval", "voc", "--pred", str(out), "--voc", str(voc), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == printed == json.loads((out / "scores.json").read_text())
    assert printed["images"] == len(VAL)


def test_a_list_without_masks_is_only_predicted(
    voc: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "segmenter", "--checkpoint", str(checkpoint), "--images", str(voc), "--list", "test"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'masks'}; list test has no masks to score against\n"
    assert masks(tmp_path).keys() == {"2009_000003"}
    assert not (tmp_path / "scores.json").exists()


def test_an_interrupted_one_goes_on(voc: Path, checkpoint: Path, tmp_path: Path) -> None:
    def stop(image: object, count: int) -> None:
        raise KeyboardInterrupt

    whole = evaluate_segmenter(options(tmp_path / "whole", checkpoint, voc))
    given = options(tmp_path / "parts", checkpoint, voc)
    with pytest.raises(KeyboardInterrupt):
        evaluate_segmenter(given, stop)
    (first,) = (tmp_path / "parts" / "masks").glob("*.png")
    made = first.stat().st_mtime_ns
    assert evaluate_segmenter(given) == whole
    assert first.stat().st_mtime_ns == made
    assert masks(tmp_path / "parts") == masks(tmp_path / "whole")


def test_masks_of_another_network_or_other_options_are_not_gone_on_with(
    voc: Path, checkpoint: Path, tmp_path: Path
) -> None:
    given = options(tmp_path / "out", checkpoint, voc)
    evaluate_segmenter(given)
    before = masks(tmp_path / "out")
    other = network(tmp_path / "other.pt", seed=1)
    for changed in ({"checkpoint": other}, {"mirror": False}, {"scales": (1.0,)}, {"crf": False}):
        with pytest.raises(RunMismatchError, match="another network or other options"):
            evaluate_segmenter(replace(given, **changed))
    assert masks(tmp_path / "out") == before
    evaluate_segmenter(replace(given, checkpoint=other, resume=False))
    assert masks(tmp_path / "out") != before
