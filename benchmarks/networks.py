"""How good the bundled networks are, on rendered material that they have not seen.

    python benchmarks/networks.py

Renders 36 videos (seed 2019) and looks at their frames at 2 frames/s: mean average precision of the classifier, and
recall and precision of single-frame CAM masks of the classes a frame shows, at the network's theta_f. Renders 60 pairs
of frames 1/6 s apart (seed 2020): end-point error of the flow network beside zero flow and OpenCV's DIS. Writes
benchmarks/results/networks.csv.
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

from f2f.engine.cam import Activation
from f2f.engine.classify import Classifier, to_tensor
from f2f.engine.decode import DecodeState, sample_frames
from f2f.engine.evaluate import MaskScores, overlap
from f2f.engine.flow import DisFlow, NetworkFlow, open_flow
from f2f.engine.options import CamOptions, DecodeOptions, RuntimeOptions
from f2f.engine.types import Frame, ImageArray, Window
from f2f.kernels import unpack_planes
from f2f.training.evaluate import average_precision
from f2f.training.synth import CLASSES, SynthOptions, exact_flow, random_scene, synth

_VISIBLE_SHARE = 0.004
_PAIRS, _GAP_SECONDS = 60, 1 / 6


def main() -> None:
    """Measure and write the rows."""
    with tempfile.TemporaryDirectory(prefix="f2f-") as folder:
        synth(SynthOptions(out=Path(folder), videos=36, images=0, seed=2019))
        rows = _classifier_rows(Path(folder))
    rows += _flow_rows()
    print(write_rows("networks", rows).read_text(encoding="utf-8"))


def _row(network: str, measure: str, bundled: float, zero: str = "", dis: str = "") -> dict[str, object]:
    return {"network": network, "measure": measure, "bundled": f"{bundled:.3f}", "zero_flow": zero, "opencv_dis": dis}


def _classifier_rows(crawl: Path) -> list[dict[str, object]]:
    classifier = Classifier.open("demo", RuntimeOptions())
    theta_f = classifier.info.defaults.get("theta_f", 0.2)
    activation = Activation(classifier, CamOptions().scales, theta_f)
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


def _flow_rows() -> list[dict[str, object]]:
    networks: dict[str, NetworkFlow | DisFlow] = {"bundled": _network(), "dis": DisFlow()}
    errors: dict[str, list[npt.NDArray[np.float32]]] = {"bundled": [], "zero": [], "dis": []}
    seen: list[npt.NDArray[np.bool_]] = []
    for number in range(_PAIRS):
        scene = random_scene([2020, number], (240, 426))
        now, before = 1.0 + _GAP_SECONDS, 1.0
        exact, visible = exact_flow(scene, now, before)  # on the later frame, to the earlier one
        images = [scene.render(before).image, scene.render(now).image]
        errors["zero"].append(np.linalg.norm(exact, axis=-1))
        for name, flow in networks.items():
            errors[name].append(np.linalg.norm(flow(images)[0].permute(1, 2, 0).numpy() - exact, axis=-1))
        seen.append(visible)
    everywhere = [np.ones_like(visible) for visible in seen]
    return [
        _flow_row(f"end-point error px, all pixels of {_PAIRS} held-out pairs", errors, everywhere),
        _flow_row("end-point error px, pixels seen in both frames", errors, seen),
    ]


def _network() -> NetworkFlow:
    flow = open_flow("demo", RuntimeOptions())
    assert isinstance(flow, NetworkFlow)
    return flow


def _flow_row(
    measure: str, errors: dict[str, list[npt.NDArray[np.float32]]], where: list[npt.NDArray[np.bool_]]
) -> dict[str, object]:
    means = {
        name: float(np.concatenate([error[mask] for error, mask in zip(parts, where, strict=True)]).mean())
        for name, parts in errors.items()
    }
    return _row("flow", measure, means["bundled"], f"{means['zero']:.3f}", f"{means['dis']:.3f}")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
