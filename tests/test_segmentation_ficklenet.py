"""FickleNet: the stochastic convolution against its literal definition, the maps against autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from f2f.training.segmentation.ficklenet import FickleNet, Localisation, StochasticConv2d


def layer(rate: float, window: int = 5, rescale: bool = True, channels: tuple[int, int] = (6, 3)) -> StochasticConv2d:
    made = StochasticConv2d(*channels, window, rate, rescale)
    nn.init.normal_(made.weight)
    return made


def expanded(convolution: StochasticConv2d, features: Tensor, selections: Tensor) -> Tensor:
    """As published: every window gets cells of its own, some are dropped, and a strided convolution follows."""
    size, (height, width) = convolution.window, features.shape[-2:]
    columns = F.unfold(features, size, padding=size // 2)  # [B,F*S,h*w]
    windows = columns.reshape(*features.shape[:2], size**2, -1) * selections.flatten(2)[:, None]  # [B,F,S,h*w]
    tiles = windows.reshape(*features.shape[:2], size, size, height, width)
    large = tiles.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)  # [B,F,h*s,w*s]
    return F.conv2d(large, convolution.weight, convolution.bias, stride=size)


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 8), (11, 7)], ids=str)
@pytest.mark.parametrize("window", [1, 3, 9])
def test_dropping_nothing_is_the_plain_convolution(window: int, size_hw: tuple[int, int]) -> None:
    convolution = layer(0.0, window).double()
    features = torch.randn(2, 6, *size_hw, dtype=torch.float64)
    wanted = F.conv2d(features, convolution.weight, convolution.bias, padding=window // 2)
    torch.testing.assert_close(convolution(features), wanted)


@pytest.mark.parametrize("rescale", [True, False])
def test_dropping_everything_leaves_the_centre(rescale: bool) -> None:
    convolution = layer(1.0, rescale=rescale).double()
    features = torch.randn(2, 6, 9, 13, dtype=torch.float64)
    wanted = F.conv2d(features, convolution.weight[:, :, 2:3, 2:3], convolution.bias)
    torch.testing.assert_close(convolution(features), wanted)


@given(
    st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 5, 9]), st.floats(0, 1),
    st.booleans(),
)  # fmt: skip
@settings(max_examples=30, deadline=None, derandomize=True)
def test_it_is_the_expanded_convolution(
    batch: int, height: int, width: int, window: int, rate: float, rescale: bool
) -> None:
    """Values and gradients, for the same draw."""
    torch.manual_seed(height * width)
    convolution = layer(rate, window, rescale).double()
    features = torch.randn(batch, 6, height, width, dtype=torch.float64, requires_grad=True)
    products = convolution.products(features)
    selections = convolution.draw(batch, products, torch.Generator().manual_seed(5))
    out, wanted = convolution.select(products, selections), expanded(convolution, features, selections)
    torch.testing.assert_close(out, wanted, rtol=1e-9, atol=1e-9)
    inputs, weights = (features, *convolution.parameters()), torch.randn_like(wanted)
    ours, theirs = (torch.autograd.grad((value * weights).sum(), inputs) for value in (out, wanted))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_gradients_are_those_of_differences() -> None:
    convolution = layer(0.5, 3).double()
    features = torch.randn(1, 6, 4, 5, dtype=torch.float64, requires_grad=True)

    def of_one_draw(given: Tensor) -> Tensor:
        return convolution.forward(given, torch.Generator().manual_seed(5))

    assert torch.autograd.gradcheck(of_one_draw, (features,))


def test_the_centre_is_kept_and_the_rest_at_its_rate() -> None:
    convolution = layer(0.9, 9)
    products = torch.empty(1, 81, 3, 20, 30)
    selections = convolution.draw(8, products)
    assert (selections[:, 40] == 1).all()
    others = torch.cat([selections[:, :40], selections[:, 41:]], 1)
    torch.testing.assert_close(torch.unique(others), torch.tensor([0.0, 10.0]))
    assert abs(float((others > 0).double().mean()) - 0.1) < 0.003
    assert (torch.unique(layer(0.9, 9, rescale=False).draw(1, products)) == torch.tensor([0.0, 1.0])).all()


def test_the_mean_of_rescaled_draws_is_the_plain_convolution() -> None:
    convolution, features = layer(0.5, 3), torch.randn(1, 6, 5, 4)
    with torch.no_grad():
        mean = convolution(features.expand(4000, -1, -1, -1)).mean(0)
        plain = F.conv2d(features, convolution.weight, convolution.bias, padding=1)[0]
    assert (mean - plain).abs().max() < 0.6
    assert (mean - plain).abs().mean() < 0.12


def test_every_image_position_and_pass_has_its_own_draw() -> None:
    selections = layer(0.5, 5).draw(3, torch.empty(1, 25, 1, 6, 7))
    windows = selections.permute(0, 2, 3, 1).flatten(0, 2)
    assert len(torch.unique(windows, dim=0)) > 0.99 * len(windows)


def test_maps_are_grad_cam_of_the_same_draw() -> None:
    """sum_f x_f dS_c/dx_f by autograd through the expanded convolution, S_c the mean over the image."""
    convolution = layer(0.7, 5).double()
    features = torch.randn(2, 6, 7, 9, dtype=torch.float64, requires_grad=True)
    products = convolution.products(features)
    selections = convolution.draw(3, products)
    maps = convolution.localise(products, selections)
    assert maps.shape == (2, 3, 3, 7, 9)
    for number in range(3):
        scores = expanded(convolution, features, selections[number].expand(2, -1, -1, -1)).mean((2, 3))
        for c in range(3):
            (gradient,) = torch.autograd.grad(scores[:, c].sum(), features, retain_graph=True)
            wanted = 7 * 9 * (features * gradient).sum(1)
            torch.testing.assert_close(maps[:, number, c], wanted)


def test_a_seed_decides_the_passes() -> None:
    network = FickleNet(["a", "b"], "small", 0.25, window=5).eval()
    image = torch.rand(2, 3, 40, 56)

    def run(seed: int) -> Tensor:
        scores: Tensor = network(image, torch.Generator().manual_seed(seed))[0]
        return scores

    with torch.no_grad():
        assert torch.equal(run(1), run(1))
        assert not torch.equal(run(1), run(2))


@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_localisation_aggregates_the_passes(chunk: int) -> None:
    network = FickleNet(["a", "b"], "small", 0.25, window=5).eval()
    image = torch.rand(2, 3, 40, 56)
    found = network.localise(image, 5, torch.Generator().manual_seed(3), chunk)
    generator, convolution = torch.Generator().manual_seed(3), network.to_classes
    with torch.no_grad():
        products = convolution.products(network.backbone(image))
        maps = [convolution.localise(products, convolution.draw(1, products, generator))[:, 0] for _ in range(5)]
    scaled = torch.stack([one.relu() / (one.relu().amax((2, 3), keepdim=True) + 1e-5) for one in maps])
    torch.testing.assert_close(found.peak, scaled.amax(0))
    torch.testing.assert_close(found.mean, scaled.mean(0))
    assert found.peak.shape == (2, 2, 5, 7)


def test_an_image_has_the_same_maps_in_any_batch() -> None:
    network = FickleNet(["a", "b"], "small", 0.25, window=5).eval()
    image = torch.rand(3, 3, 40, 56)
    whole = network.localise(image, 4, torch.Generator().manual_seed(3))
    alone = network.localise(image[1:2], 4, torch.Generator().manual_seed(3))
    torch.testing.assert_close(whole.peak[1:2], alone.peak, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole.mean[1:2], alone.mean, rtol=1e-5, atol=1e-5)


def test_seeds_are_claimed_by_any_pass_and_won_by_the_mean() -> None:
    peak = torch.tensor([[0.9, 0.9, 0.34, 0.9, 0.1], [0.1, 0.5, 0.2, 0.4, 0.9], [0.9, 0.9, 0.9, 0.9, 0.9]])
    mean = torch.tensor([[0.2, 0.2, 0.3, 0.1, 0.1], [0.9, 0.3, 0.1, 0.3, 0.0], [0.8, 0.8, 0.8, 0.8, 0.8]])
    found = Localisation(peak.view(1, 3, 1, 5), mean.view(1, 3, 1, 5))
    labels = found.seeds(torch.tensor([[True, True, False]]))
    assert labels.dtype == torch.int64
    assert labels.tolist() == [[[1, 2, 255, 2, 2]]]
    assert found.seeds(torch.ones(1, 3, dtype=torch.bool)).tolist() == [[[3, 3, 3, 3, 3]]]
    assert (found.seeds(torch.zeros(1, 3, dtype=torch.bool)) == 255).all()


def test_the_classifier_keeps_the_contract_and_learns() -> None:
    network = FickleNet(["a", "b", "c"], "small", 0.25)
    scores, cam = network(torch.rand(2, 3, 57, 82))
    assert (scores.shape, cam.shape) == ((2, 3), (2, 3, 8, 11))
    torch.testing.assert_close(torch.logit(scores), cam.mean((2, 3)), rtol=1e-3, atol=1e-4)
    torch.autograd.backward(scores.sum())
    assert all(value.grad is not None and value.grad.isfinite().all() for value in network.parameters())
    assert len(network.head_parameters()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((4, 0.5), "window is 4; accepted: an odd size"), ((3, 1.5), "rate is 1.5; accepted: 0 .* to 1")],
)
def test_bad_options_are_refused(arguments: tuple[int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StochasticConv2d(2, 2, *arguments)
    with pytest.raises(ValueError, match="passes is 0; accepted: 1 or more"):
        FickleNet(["a"], "small", 0.25).localise(torch.rand(1, 3, 8, 8), 0)
