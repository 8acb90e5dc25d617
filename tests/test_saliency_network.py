"""DSS: which side feeds which, on both backbones, its loss, and resizing as matrix products."""

from __future__ import annotations

import pytest
import torch
import torchvision.transforms.v2.functional as T
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from f2f.training.imagenet import DEMO, load_backbone
from f2f.training.saliency.network import SaliencyBackbone, SaliencyNetwork, saliency_loss, stretched
from f2f.training.saliency.sizes import warped
from f2f.training.segmentation.backbones import backbone

BACKBONES: tuple[SaliencyBackbone, ...] = ("small", "vgg16")
REACHED = {6: {6, 4, 3, 2, 1}, 5: {5, 4, 3, 2, 1}, 4: {4, 2, 1}, 3: {3, 2, 1}, 2: {2}, 1: {1}}
"""of the paper: which sides change with what side n says by itself; the fused map always does"""


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("side", range(1, 7))
def test_a_side_reaches_the_sides_of_the_paper(name: SaliencyBackbone, side: int) -> None:
    network = SaliencyNetwork(0.125, name).eval()
    image = torch.rand(1, 3, 70, 90)
    with torch.no_grad():
        before = network(image)
        network.own[side - 1].get_parameter("4.bias").add_(1.0)
        after = network(image)
    changed = {number for number in range(1, 8) if not torch.equal(before[number - 1], after[number - 1])}
    assert changed == REACHED[side] | {7}


class Constant(nn.Module):
    """A side that says a number everywhere."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, features: Tensor) -> Tensor:
        return torch.full_like(features[:, :1], self.value)


@pytest.mark.parametrize("name", BACKBONES)
def test_sides_are_joined_directly_and_in_order(name: SaliencyBackbone) -> None:
    network = SaliencyNetwork(0.125, name).eval()
    network.own = nn.ModuleList(Constant(number) for number in range(1, 7))
    factors = {"1": [1, 10, 100, 1000, 10000], "2": [2, 10, 100, 1000, 10000], "3": [1, 0, 0], "4": [1, 0, 0]}
    with torch.no_grad():
        for number, values in factors.items():
            network.joined[number].get_parameter("weight").copy_(torch.tensor(values).view(1, -1, 1, 1))
        network.fused.weight.copy_(torch.tensor([1, 0, 0, 0, 0, -1.0]).view(1, -1, 1, 1))
        outputs = [float(logits[0, 0, 20, 30]) for logits in network(torch.rand(1, 3, 61, 90))]
    assert outputs == [1 + 65430, 4 + 65430, 3, 4, 5, 6, 65431 - 6]


@pytest.mark.parametrize("size_hw", [(64, 64), (61, 100), (1, 1)], ids=str)
def test_sides_on_the_small_backbone_have_the_images_size(size_hw: tuple[int, int]) -> None:
    network = SaliencyNetwork(0.125, "small")
    outputs = network(torch.rand(2, 3, *size_hw))
    assert [tuple(side.shape) for side in outputs] == [(2, 1, *size_hw)] * 7
    torch.autograd.backward(saliency_loss(outputs, (torch.rand(2, 1, *size_hw) > 0.5).float()))
    assert all(value.grad is not None and value.grad.isfinite().all() for value in network.parameters())


def test_the_bundled_classifiers_backbone_fits_below_the_sides() -> None:
    network, alone = SaliencyNetwork(0.75, "small"), backbone("small", 0.75)
    for target in (network.backbone, alone):
        load_backbone(target, DEMO)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        features = network.eval()._features(image)
        torch.testing.assert_close(features[3], alone.eval()(image))
    assert [tuple(maps.shape[2:]) for maps in features] == [(32, 48), (16, 24), (8, 12), (8, 12), (4, 6), (2, 3)]


def test_maps_begin_undecided_and_evenly_mixed() -> None:
    network = SaliencyNetwork(0.25)
    own, mixing = network.scores()
    assert (len(own), len(mixing)) == (6, 5)
    assert all(layer.get_parameter("weight").std() < 0.05 for layer in own)
    for layer in mixing:
        weight = layer.get_parameter("weight")
        assert torch.equal(weight, torch.full_like(weight, 1 / weight.shape[1]))


@pytest.mark.parametrize("balanced", [False, True])
def test_the_loss_by_its_formula_counts_what_is_known(balanced: bool) -> None:
    masks = (torch.rand(3, 1, 5, 7) > 0.7).float()
    known = torch.rand(3, 1, 5, 7) > 0.3
    known[2] = False
    outputs = [3 * torch.randn(3, 1, 5, 7) for _ in range(7)]
    total = 0.0
    for image in range(2):
        pixels = [(y, x) for y in range(5) for x in range(7) if known[image, 0, y, x]]
        salient = sum(float(masks[image, 0, y, x]) for y, x in pixels) / len(pixels)
        for logits in outputs:
            for y, x in pixels:
                p = float(logits[image, 0, y, x].double().sigmoid())
                is_salient = bool(masks[image, 0, y, x])
                weight = (1 - salient if is_salient else salient) if balanced else 1.0
                total -= weight * float(torch.tensor(p if is_salient else 1 - p).log())
    wanted = total / (int(known.sum()) + 1)  # an image of which nothing is known counts as a pixel
    assert float(saliency_loss(outputs, masks, known, balanced)) == pytest.approx(wanted, rel=1e-4)


def test_unknown_pixels_teach_nothing() -> None:
    logits = torch.randn(1, 1, 4, 4, requires_grad=True)
    known = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    torch.autograd.backward(saliency_loss([logits], torch.ones(1, 1, 4, 4), known))
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@settings(max_examples=25)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.integers(1, 90))
def test_matrix_products_resize_as_torch_does(height: int, width: int, h: int, w: int) -> None:
    """An axis at a time: torch 2.15 repeats a row where both change and the width becomes 1."""
    image = torch.rand(2, 3, height, width)
    expected = T.resize(T.resize(image, [height, w], antialias=True), [h, w], antialias=True)
    torch.testing.assert_close(warped(image, (h, w)), expected, rtol=0, atol=4e-6)


def test_each_map_of_a_batch_is_stretched_by_itself() -> None:
    maps = torch.rand(3, 1, 6, 7) * torch.tensor([0.5, 0.04, 1]).view(3, 1, 1, 1) + 0.001
    first, blank, _ = stretched(maps)
    assert (float(first.min()), float(first.max())) == (0, 1)
    assert torch.equal(blank, maps[1])
