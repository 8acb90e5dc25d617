"""Region growing on hand-made grids, and against a search cell by cell."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from f2f.training.segmentation.growing import grow


def grid(*rows: str) -> Tensor:
    """Labels [1,h,w] of digits; '.' is 255."""
    return torch.tensor([[[255 if cell == "." else int(cell) for cell in row] for row in rows]])


def sure(labels: Tensor, count: int, share: float = 0.995) -> Tensor:
    """Shares [1,L,h,w] that give each cell's label `share`; all labels the same where there is none."""
    one_hot = torch.nn.functional.one_hot(labels.where(labels != 255, 0), count).permute(0, 3, 1, 2).float()
    shares = one_hot * (share - (1 - share) / (count - 1)) + (1 - share) / (count - 1)
    return torch.where((labels == 255)[:, None], 1 / count, shares)


def grown(shares: Tensor, seeds: Tensor, *tags: int) -> list[str]:
    """The same as rows of text."""
    present = torch.zeros(1, shares.shape[1] - 1, dtype=torch.bool)
    present[0, [tag - 1 for tag in tags]] = True
    result = grow(shares, seeds, present)
    assert (result.dtype, result.shape) == (torch.int64, seeds.shape)
    return ["".join("." if cell == 255 else str(cell) for cell in row) for row in result[0].tolist()]


def test_a_seed_takes_what_is_sure_and_touches_it_also_at_corners() -> None:
    shares = sure(grid("11...1", "..1..1", "......", "..1..."), 2)
    assert grown(shares, grid("1.....", "......", "......", "......"), 1) == ["11....", "..1...", "......", "......"]


def test_the_thresholds_are_exceeded() -> None:
    labels = grid("1111", "0000")
    seeds = grid("1...", "0...")
    assert grown(sure(labels, 2, 0.86), seeds, 1) == ["1111", "0..."]
    assert grown(sure(labels, 2, 0.84), seeds, 1) == ["1...", "0..."]
    assert grown(sure(labels, 2, 0.995), seeds, 1) == ["1111", "0000"]


def test_a_share_at_the_threshold_does_not_do() -> None:
    shares = torch.tensor([0.25, 0.75]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    seeds, tags = grid("1.."), torch.tensor([[True]])
    assert grow(shares, seeds, tags, foreground_share=0.75).tolist() == [[[1, 255, 255]]]
    assert grow(shares, seeds, tags, foreground_share=0.74).tolist() == [[[1, 1, 1]]]


def test_seeds_join_regions_although_the_network_is_not_sure_of_them() -> None:
    shares = sure(grid("1.1.1"), 2)
    assert grown(shares, grid(".1..."), 1) == ["111.."]


def test_seeds_of_others_stay_and_still_connect() -> None:
    """The network is sure of class 1 where class 2 is seeded: that cell stays class 2, and class 1 grows past it."""
    shares = sure(grid("11111"), 3)
    assert grown(shares, grid("1.2.."), 1, 2) == ["11211"]


def test_only_tags_and_background_grow() -> None:
    labels = grid("1122", "1122")
    seeds = grid("1..2", "....")
    assert grown(sure(labels, 3), seeds, 1) == ["11.2", "11.."]
    assert grown(sure(labels, 3), seeds, 1, 2) == ["1122", "1122"]
    assert grown(sure(grid("0000"), 3), grid("0..."), 2) == ["0000"]


def test_the_likeliest_of_the_allowed_is_asked() -> None:
    """Class 2 has .5, class 1 the rest; without the tag of class 2, class 1 is the likeliest, but not sure."""
    shares = torch.tensor([0.01, 0.09, 0.9]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    assert grown(shares, grid("1."), 1) == ["1."]
    assert grown(shares, grid("2."), 1, 2) == ["22"]


def test_without_seeds_nothing_grows() -> None:
    assert grown(sure(grid("1100"), 2), grid("...."), 1) == ["...."]


def test_growth_is_not_carried_over() -> None:
    seeds = grid("1...")
    before = seeds.clone()
    grow(sure(grid("1111"), 2), seeds, torch.tensor([[True]]))
    assert torch.equal(seeds, before)


def test_images_do_not_touch() -> None:
    seeds = torch.cat([grid("1.."), grid("...")])
    shares = sure(grid("111"), 2).expand(2, -1, -1, -1)
    assert grow(shares, seeds, torch.ones(2, 1, dtype=torch.bool)).tolist() == [[[1, 1, 1]], [[255, 255, 255]]]


def by_search(shares: Tensor, seeds: Tensor, tags: Tensor) -> Tensor:
    """DSRG's procedure, class by class in ascending order, seeds updated in place, regions cell by cell."""
    result = seeds.clone()
    count, height, width = shares.shape[1:]
    for image in range(len(seeds)):
        present = [0, *(c + 1 for c in range(count - 1) if tags[image, c])]
        wanted = seeds[image].clone()
        for y in range(height):
            for x in range(width):
                best = max(present, key=lambda label: float(shares[image, label, y, x]))
                if shares[image, best, y, x] > (0.99 if best == 0 else 0.85):
                    wanted[y, x] = best
        for label in range(count):
            start = [
                (y, x)
                for y in range(height)
                for x in range(width)
                if seeds[image, y, x] == label and wanted[y, x] == label
            ]
            for y, x in reach(wanted == label, start):
                if result[image, y, x] == 255:
                    result[image, y, x] = label
    return result


def reach(allowed: Tensor, start: list[tuple[int, int]]) -> set[tuple[int, int]]:
    found, front = set(start), list(start)
    while front:
        y, x = front.pop()
        for step_y in (-1, 0, 1):
            for step_x in (-1, 0, 1):
                cell = (y + step_y, x + step_x)
                inside = 0 <= cell[0] < allowed.shape[0] and 0 <= cell[1] < allowed.shape[1]
                if inside and cell not in found and allowed[cell]:
                    found.add(cell)
                    front.append(cell)
    return found


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**20))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_it_is_the_search(batch: int, classes: int, height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes + 1, height, width, generator=generator)
    shares = (8 * torch.nn.functional.avg_pool2d(logits, 3, 1, 1)).softmax(1)
    seeds = torch.randint(0, 5 * classes, (batch, height, width), generator=generator)
    seeds[seeds > classes] = 255
    tags = torch.rand(batch, classes, generator=generator) < 0.7
    assert torch.equal(grow(shares, seeds, tags), by_search(shares, seeds, tags))


@pytest.mark.parametrize("classes", [1, 20])
def test_a_large_batch(classes: int) -> None:
    shares = torch.rand(4, 1 + classes, 41, 41).softmax(1)
    seeds = torch.full((4, 41, 41), 255)
    seeds[:, 20, 20] = 1
    assert torch.equal(grow(shares, seeds, torch.ones(4, classes, dtype=torch.bool)), seeds)
