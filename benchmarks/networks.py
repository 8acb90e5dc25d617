"""How good the bundled networks are, on rendered material that they have not seen.

    python benchmarks/networks.py

Renders 36 videos (seed 2019) and looks at their frames at 2 frames/s: mean average precision of the classifier, and
recall and precision of single-frame CAM masks of the classes a frame shows, at the network's theta_f. Writes
benchmarks/results/networks.csv; flow is measured by flow.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from record import write_rows

from f2f.engine.cam import Activation, MultiScaleCams
from f2f.engine.classify import Classifier, to_tensor
from f2f.engine.decode import DecodeState, sample_frames
from f2f.engine.evaluate import MaskScores, overlap
from f2f.engine.options import CamOptions, DecodeOptions, RuntimeOptions
from f2f.engine.types import Frame, ImageArray, Window
from f2f.kernels import unpack_planes
from f2f.training.classifier_eval import average_precision
from f2f.training.synth import CLASSES, SynthOptions, synth

_VISIBLE_SHARE = 0.004


def main() -> None:
    """Measure and write the rows."""
    with tempfile.TemporaryDirectory(prefix="f2f-") as folder:
        synth(SynthOptions(out=Path(folder), videos=36, images=0, seed=2019))
        rows = _classifier_rows(Path(folder))
    print(write_rows("networks", rows).read_text(encoding="utf-8"))


def _row(network: str, measure: str, bundled: float) -> dict[str, object]:
    return {"network": network, "measure": measure, "bundled": f"{bundled:.3f}"}


def _classifier_rows(crawl: Path) -> list[dict[str, object]]:
    classifier = Classifier.open("demo", RuntimeOptions())
    theta_f = classifier.info.defaults.get("theta_f", 0.2)
    activation = Activation(MultiScaleCams(classifier, CamOptions().scales), theta_f)
    names = classifier.info.classes
    scores: list[npt.NDArray[np.float32]] = []
    tags: list[list[bool]] = []
    masks: list[MaskScores] = []
    for frame, truth in _frames(crawl):
        shown = [bool((truth == CLASSES.index(name) + 1).mean() >= _VISIBLE_SHARE) for name in names]
        scores.append(classifier(to_tensor([frame.image]))[0][0].numpy())
        tags.append(shown)
        masks += _cam_scores(frame, truth, [channel for channel, here in enumerate(shown) if here], activation, names)
    table, truths = np.stack(scores), np.array(tags)  # [n, C]
    precision = [average_precision(table[:, channel], truths[:, channel]) for channel in range(len(names))]
    where = f"{len(scores)} held-out frames"
    return [
        _row("classifier", f"mean average precision, {where}", float(np.nanmean(precision))),
        _row("classifier", f"recall of single-frame CAM masks at theta_f {theta_f:g}", _mean(masks, "recall")),
        _row("classifier", f"precision of single-frame CAM masks at theta_f {theta_f:g}", _mean(masks, "precision")),
    ]


def _mean(masks: list[MaskScores], name: str) -> float:
    return float(np.nanmean([getattr(scores, name) for scores in masks]))


def _frames(crawl: Path) -> Iterator[tuple[Frame, ImageArray]]:
    """Frames of the videos with their exact labels."""
    options = DecodeOptions(sample_fps=2)
    for path in sorted((crawl / "videos").rglob("*.mp4")):
        state = DecodeState()
        truth = crawl / "truth" / path.parent.name / path.stem
        for frame in sample_frames(0, str(path), options, state):
            number = round(frame.pts_seconds * state.fps)
            yield frame, np.asarray(Image.open(truth / f"{number:05d}.png"))


def _cam_scores(
    frame: Frame, truth: ImageArray, channels: list[int], activation: Activation, names: tuple[str, ...]
) -> list[MaskScores]:
    if not channels:
        return []
    bits = activation(Window(0, 0, (frame,), tuple(channels), None)).bits  # [1, N, H, W]
    planes = unpack_planes(bits, len(channels))[0].numpy()  # [P, H, W]
    exact = [truth == CLASSES.index(names[channel]) + 1 for channel in channels]
    return [overlap(plane, mask) for plane, mask in zip(planes, exact, strict=True)]


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
