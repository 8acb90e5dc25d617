"""Losses of SEC and DSRG against loops over cells, in float64, and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from f2f.training.segmentation.losses import (
    balanced_seeding_loss,
    boundary_loss,
    constrain_loss,
    expansion_loss,
    floored_shares,
    labels_loss,
    rank_pool,
    seeding_loss,
    with_floor,
)
from f2f.training.segmentation.methods import METHODS

any_map = given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**20))
some = settings(max_examples=25, deadline=None, derandomize=True)


def case(batch: int, classes: int, height: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Shares [B,1+C,h,w], seeds [B,h,w] and tags [B,C]."""
    generator = torch.Generator().manual_seed(seed)
    shares = floored_shares(3 * torch.randn(batch, 1 + classes, height, width, generator=generator))
    seeds = torch.randint(0, 2 * classes + 2, (batch, height, width), generator=generator)
    seeds[seeds > classes] = 255
    return shares, seeds, torch.rand(batch, classes, generator=generator) < 0.5


def surprises(shares: Tensor, seeds: Tensor, image: int, labels: range) -> list[float]:
    """-log p of an image's seeds of some labels."""
    found = []
    for y in range(seeds.shape[1]):
        for x in range(seeds.shape[2]):
            label = int(seeds[image, y, x])
            if label in labels:
                found.append(-math.log(float(shares[image, label, y, x])))
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


# Shares


def test_shares_have_a_floor_and_sum_to_one() -> None:
    logits = torch.tensor([0.0, 200.0, -200.0]).view(1, 3, 1, 1).bfloat16()
    shares = floored_shares(logits)
    assert shares.dtype == torch.float32
    torch.testing.assert_close(shares.flatten(), torch.tensor([1e-4, 1 + 1e-4, 1e-4]) / (1 + 3e-4))
    assert (with_floor(shares) > shares.min()).all()


# Seeds


@any_map
@some
def test_seeding_is_a_mean_over_all_seeds(batch: int, classes: int, height: int, width: int, seed: int) -> None:
    shares, seeds, _ = case(batch, classes, height, width, seed)
    wanted = mean([mean(surprises(shares, seeds, image, range(classes + 1))) for image in range(batch)])
    assert float(seeding_loss(shares, seeds)) == pytest.approx(wanted, rel=1e-4)


@any_map
@some
def test_balanced_seeding_is_a_mean_over_classes_and_one_over_background(
    batch: int, classes: int, height: int, width: int, seed: int
) -> None:
    shares, seeds, _ = case(batch, classes, height, width, seed)
    wanted = 0.0
    for image in range(batch):
        for labels in (range(1), range(1, classes + 1)):
            wanted += mean(surprises(shares, seeds, image, labels)) / batch
    assert float(balanced_seeding_loss(shares, seeds)) == pytest.approx(wanted, rel=1e-4)


def test_background_seeds_outweigh_classes_only_without_balance() -> None:
    shares = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1).expand(1, 2, 10, 10)
    seeds = torch.zeros(1, 10, 10, dtype=torch.int64)
    seeds[0, 0, 0] = 1
    balanced = -math.log(0.9) - math.log(0.1)
    assert float(balanced_seeding_loss(shares, seeds)) == pytest.approx(balanced)
    assert float(seeding_loss(shares, seeds)) == pytest.approx(-0.99 * math.log(0.9) - 0.01 * math.log(0.1))


# Expansion


def test_rank_pooling_lies_between_maximum_and_mean() -> None:
    shares = torch.rand(2, 3, 7, 9)
    torch.testing.assert_close(rank_pool(shares, 0.0), shares.amax((2, 3)))
    torch.testing.assert_close(rank_pool(shares, 1.0), shares.mean((2, 3)))
    torch.testing.assert_close(rank_pool(shares, 1e-7), shares.amax((2, 3)))
    pooled = torch.stack([rank_pool(shares, decay) for decay in (0.0, 0.5, 0.9, 0.996, 1.0)])
    assert (pooled.diff(dim=0) < 0).all(), "the slower the decay, the more the low values count"


def test_rank_pooling_of_a_region_has_a_closed_form() -> None:
    """n cells of 1, the rest 0: (1 - d^n) / (1 - d^N)."""
    shares = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    shares[0, 0, 10:20, 10:35] = 1
    wanted = (1 - 0.996**250) / (1 - 0.996**1681)
    assert float(rank_pool(shares, 0.996)) == pytest.approx(wanted, rel=1e-9)


def test_rank_pooling_gives_each_rank_its_weight_in_the_gradient() -> None:
    shares = torch.rand(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(rank_pool(shares, 0.8).sum(), shares)
    weights = 0.8 ** torch.arange(25, dtype=torch.float64)
    order = shares.detach().flatten(2).argsort(2, descending=True)
    torch.testing.assert_close(gradient.flatten(2).gather(2, order), (weights / weights.sum()).expand(1, 2, 25))


@any_map
@some
def test_expansion_is_the_papers(batch: int, classes: int, height: int, width: int, seed: int) -> None:
    shares, _, tags = case(batch, classes, height, width, seed)
    wanted = 0.0
    for image in range(batch):
        pooled = []
        for label in range(classes + 1):
            ranked = sorted(shares[image, label].flatten().tolist(), reverse=True)
            decay = 0.999 if label == 0 else 0.996
            total = sum(decay**rank for rank in range(len(ranked)))
            pooled.append(sum(value * decay**rank for rank, value in enumerate(ranked)) / total)
        seen = [-math.log(pooled[c + 1]) for c in range(classes) if tags[image, c]]
        unseen = [-math.log(1 - float(shares[image, c + 1].max())) for c in range(classes) if not tags[image, c]]
        wanted += (mean(seen) + mean(unseen) - math.log(pooled[0])) / batch
    assert float(expansion_loss(shares, tags)) == pytest.approx(wanted, rel=1e-3)


# The refined shares


@any_map
@some
def test_constrain_is_the_divergence(batch: int, classes: int, height: int, width: int, seed: int) -> None:
    shares, _, _ = case(batch, classes, height, width, seed)
    refined = floored_shares(torch.randn_like(shares))
    floored = with_floor(refined).double()
    wanted = (floored * (floored / shares.double()).log()).sum() / (batch * height * width)
    assert float(constrain_loss(shares, refined)) == pytest.approx(float(wanted), rel=1e-3, abs=1e-6)


def test_the_boundary_loss_is_the_divergence_with_a_bounded_ratio() -> None:
    shares = torch.tensor([[0.01, 0.99], [0.5, 0.5], [0.98, 0.02]]).T.view(1, 2, 1, 3)
    refined = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.02, 0.98]]).T.view(1, 2, 1, 3)
    wanted = 0.0
    for cell in range(3):
        for label in range(2):
            q = (float(refined[0, label, 0, cell]) + 1e-4) / 1.0002
            wanted += q * math.log(min(max(q / float(shares[0, label, 0, cell]), 0.05), 20.0)) / 3
    assert float(boundary_loss(shares, refined)) == pytest.approx(wanted, rel=1e-5)
    unclipped = torch.tensor([0.4, 0.6]).view(1, 2, 1, 1)
    half = torch.tensor([0.5, 0.5]).view(1, 2, 1, 1)
    assert float(boundary_loss(unclipped, half)) == pytest.approx(float(constrain_loss(unclipped, half)), rel=1e-4)


@pytest.mark.parametrize("loss", [constrain_loss, boundary_loss])
def test_what_the_crf_leaves_alone_costs_nothing_and_it_gets_no_gradient(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    shares = floored_shares(torch.randn(2, 4, 5, 6)).requires_grad_()
    refined = floored_shares(torch.randn(2, 4, 5, 6)).requires_grad_()
    torch.autograd.backward(loss(shares, refined))
    assert refined.grad is None
    assert shares.grad is not None
    assert (shares.grad != 0).any()
    assert abs(float(loss(with_floor(refined), refined).detach())) < 1e-6


# Full labels


def test_labels_loss_is_cross_entropy_of_what_is_labelled() -> None:
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    labels[0, :2] = 255
    wanted = torch.nn.functional.cross_entropy(logits.permute(0, 2, 3, 1)[labels != 255], labels[labels != 255])
    torch.testing.assert_close(labels_loss(logits, labels), wanted)


# Nothing to go by, and extremes


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "seeding": lambda logits, seeds, _: seeding_loss(floored_shares(logits), seeds),
    "balanced": lambda logits, seeds, _: balanced_seeding_loss(floored_shares(logits), seeds),
    "expansion": lambda logits, _, tags: expansion_loss(floored_shares(logits), tags),
    "constrain": lambda logits, _, __: constrain_loss(floored_shares(logits), (-logits).detach().softmax(1)),
    "boundary": lambda logits, _, __: boundary_loss(floored_shares(logits), (-logits).detach().softmax(1)),
    "labels": lambda logits, seeds, _: labels_loss(logits, seeds),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("filled", ["nothing", "everything", "one image"])
def test_losses_and_gradients_are_finite(name: str, scale: float, filled: str) -> None:
    logits = (scale * torch.randn(2, 4, 5, 6)).requires_grad_()
    seeds = torch.full((2, 5, 6), 255)
    tags = torch.zeros(2, 3, dtype=torch.bool)
    if filled != "nothing":
        images = slice(None) if filled == "everything" else slice(1)
        seeds[images], tags[images] = 2, True
    loss = LOSSES[name](logits, seeds, tags)
    torch.autograd.backward(loss)
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    if filled == "nothing" and name in {"seeding", "balanced", "labels"}:
        assert loss == 0
        assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", ["seeding", "balanced", "expansion", "constrain", "boundary"])
def test_gradients_are_those_of_differences(name: str) -> None:
    seeds = torch.tensor([[[0, 1, 255], [2, 255, 0]]])
    tags = torch.tensor([[True, False]])
    refined = with_floor(torch.rand(1, 3, 2, 3, dtype=torch.float64))
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "seeding": lambda shares: seeding_loss(shares, seeds),
        "balanced": lambda shares: balanced_seeding_loss(shares, seeds),
        "expansion": lambda shares: expansion_loss(shares, tags),
        "constrain": lambda shares: constrain_loss(shares, refined),
        "boundary": lambda shares: boundary_loss(shares, refined),
    }
    shares = torch.randn(1, 3, 2, 3, dtype=torch.float64).softmax(1).requires_grad_()
    assert torch.autograd.gradcheck(losses[name], (shares,))


# Weights of images


WEIGHTED: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "seeding": lambda logits, _, seeds, __, weights: seeding_loss(floored_shares(logits), seeds, weights),
    "balanced": lambda logits, _, seeds, __, weights: balanced_seeding_loss(floored_shares(logits), seeds, weights),
    "expansion": lambda logits, _, __, tags, weights: expansion_loss(floored_shares(logits), tags, weights),
    "constrain": lambda logits, _, __, ___, weights: constrain_loss(
        floored_shares(logits), (-logits).softmax(1), weights
    ),
    "boundary": lambda logits, _, __, ___, weights: boundary_loss(
        floored_shares(logits), (-logits).softmax(1), weights
    ),
    "labels": lambda logits, _, seeds, __, weights: labels_loss(logits, seeds, weights),
    **{
        f"method {name}": lambda *given, method=method: torch.stack(list(method(*given).values())).sum()
        for name, method in METHODS.items()
    },
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_are_of_images_beside_each_other(name: str) -> None:
    """Equal ones change nothing, 0 leaves an image out, 2 counts it twice; all of 0 leave nothing."""
    logits, cells, tags = torch.randn(3, 4, 5, 6), torch.rand(3, 3, 5, 6), torch.rand(3, 3) < 0.5
    seeds = torch.randint(0, 4, (3, 5, 6))
    seeds[0, :2], seeds[1, :4], seeds[2, 1:] = 255, 255, 255  # each with another number of seeds

    def loss(images: list[int], weights: list[float] | None = None) -> Tensor:
        counted = None if weights is None else torch.tensor(weights)
        return WEIGHTED[name](logits[images], cells[images], seeds[images], tags[images], counted)

    whole = loss([0, 1, 2])
    torch.testing.assert_close(loss([0, 1, 2], [1.0, 1.0, 1.0]), whole)
    torch.testing.assert_close(loss([0, 1, 2], [0.3, 0.3, 0.3]), whole)
    torch.testing.assert_close(loss([0, 1], [1.0, 0.0]), loss([0]))
    torch.testing.assert_close(loss([0, 1, 2], [0.0, 0.5, 0.5]), loss([1, 2]))
    torch.testing.assert_close(loss([0, 1, 2], [1.0, 0.5, 0.5]), loss([0, 0, 1, 2]))
    assert not torch.isclose(loss([0, 1, 2], [1.0, 0.2, 0.1]), whole)
    assert loss([0, 1, 2], [0.0, 0.0, 0.0]) == 0


@pytest.mark.parametrize("name", ["seeding", "balanced", "expansion", "labels"])
def test_losses_can_be_minimised(name: str) -> None:
    """Descent on logits comes to predict the seeds, or the tags."""
    logits = torch.zeros(1, 4, 6, 6, requires_grad=True)
    seeds = torch.full((1, 6, 6), 255)
    seeds[0, :3], seeds[0, 4:] = 0, 2
    tags = torch.tensor([[False, True, False]])
    optimiser = torch.optim.Adam([logits], 0.3)
    for _ in range(60):
        optimiser.zero_grad()
        torch.autograd.backward(LOSSES[name](logits, seeds, tags))
        optimiser.step()
    found = logits.argmax(1)
    if name == "expansion":
        assert set(torch.unique(found).tolist()) <= {0, 2}
        assert floored_shares(logits)[0, [1, 3]].max() < 0.05
    else:
        assert torch.equal(found[seeds != 255], seeds[seeds != 255])
