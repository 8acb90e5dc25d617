"""The classical saliency: odd frames, independence from the batch, and what it is worth on real video."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from f2f.engine.saliency import CLASSICAL_THETA_B, _lab, classical_saliency


def frame_with_object(height: int = 60, width: int = 90) -> Tensor:
    """A red block on noisy green ground, float32 [1, 3, H, W]; the block is rows 20-39, columns 35-59."""
    frame = torch.tensor([0.2, 0.5, 0.2]).reshape(1, 3, 1, 1) + 0.02 * torch.randn(1, 3, height, width)
    frame[:, :, 20:40, 35:60] = torch.tensor([0.8, 0.1, 0.1]).reshape(1, 3, 1, 1)
    return frame.clamp(0, 1)


def test_an_object_stands_out() -> None:
    (saliency,) = classical_saliency(frame_with_object())[0]
    inside = torch.zeros(60, 90, dtype=torch.bool)
    inside[20:40, 35:60] = True
    assert (saliency[inside] > CLASSICAL_THETA_B).float().mean() > 0.98
    assert (saliency[~inside] < CLASSICAL_THETA_B).float().mean() > 0.8


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 200), (200, 1), (2, 2), (3, 3), (5, 400), (63, 63)], ids=str)
@pytest.mark.parametrize("fill", [0.0, 0.5, 1.0, None])
def test_odd_frames_give_finite_maps(size_hw: tuple[int, int], fill: float | None) -> None:
    image = torch.rand(1, 3, *size_hw) if fill is None else torch.full((1, 3, *size_hw), fill)
    saliency = classical_saliency(image)
    assert saliency.shape == (1, 1, *size_hw)
    assert saliency.isfinite().all()
    assert 0 <= saliency.min() <= saliency.max() <= 1
    if fill is not None:
        assert saliency.max() < 1e-3, "nothing stands out in a blank frame"


def test_a_map_does_not_depend_on_batch_layout_or_threads() -> None:
    images = torch.cat([torch.rand(1, 3, 240, 426), frame_with_object(240, 426), torch.zeros(1, 3, 240, 426)])
    together = classical_saliency(images)
    alone = torch.cat([classical_saliency(image[None]) for image in images.flip(0)]).flip(0)
    assert torch.equal(together, alone)
    assert torch.equal(classical_saliency(images.to(memory_format=torch.channels_last)), together)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(classical_saliency(images), together)
    finally:
        torch.set_num_threads(threads)


def test_a_batch_of_none() -> None:
    assert classical_saliency(torch.zeros(0, 3, 5, 6)).shape == (0, 1, 5, 6)


def test_lab_of_known_colours() -> None:
    colours = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]]).T.reshape(1, 3, 4, 1)
    expected = torch.tensor([[0, 0, 0], [100, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]])
    torch.testing.assert_close(_lab(colours)[0, :, :, 0].T, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 5), torch.zeros(1, 1, 4, 5), torch.zeros(1, 3, 4, 5).byte()])
def test_other_shapes_and_dtypes_are_refused(image: Tensor) -> None:
    with pytest.raises(ValueError, match=r"image is \[.*accepted: \[B,3,H,W\] float32 RGB in 0..1; for a frame of"):
        classical_saliency(image)
    with pytest.raises(ValueError, match="image is"):
        classical_saliency(torch.zeros(1, 3, 0, 5))


def test_background_on_real_video(real: Path) -> None:
    """One frame of each real video: what theta_b calls background is background, and it is much of the ground."""
    purity, coverage = [], []
    for video in sorted(real.glob("videos/*/*.mp4")):
        with av.open(str(video)) as container:
            frame = next(container.decode(video=0)).to_ndarray(format="rgb24", width=426, height=240)
        mask = Image.open(real / "masks" / video.stem / "00000.png").convert("L").resize((426, 240))
        thing = np.asarray(mask) > 127
        saliency = classical_saliency(torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255)
        ground = (saliency[0, 0] < CLASSICAL_THETA_B).numpy()
        purity.append((ground & ~thing).sum() / ground.sum())
        coverage.append((ground & ~thing).sum() / (~thing).sum())
    assert len(purity) == 9
    assert np.mean(purity) > 0.99
    assert np.mean(coverage) > 0.4
