"""Batches of segmentation: which samples, and that picture, seeds and tags stay of one piece under augmentation."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as T
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from segmentation_material import coloured, save, write_run
from torch import Tensor
from torch.utils.data import DataLoader

from f2f.engine.errors import UsageError
from f2f.engine.types import ImageArray
from f2f.engine.write import encode_mask, voc_palette
from f2f.training.segmentation.cue_files import CueFolder
from f2f.training.segmentation.engine_output import read_engine_output
from f2f.training.segmentation.images import LabelledImage, LabelledSet
from f2f.training.segmentation.sampling import (
    DSRG,
    RETRAINING,
    SEC,
    Augmentation,
    Sample,
    SampleKey,
    SegmentationSamples,
    Source,
    StepSampler,
    View,
    augment,
    batch_indices,
)

PALETTE = torch.tensor(voc_palette()[:12], dtype=torch.float32).view(4, 3) / 255  # of labels 0..3


def quarters(hw: tuple[int, int]) -> ImageArray:
    """Labels 0..3 in the four quarters of an image."""
    labels = np.zeros(hw, np.uint8)
    labels[:, hw[1] // 2 :] = 1
    labels[hw[0] // 2 :] += 2
    return labels


def as_tensor(pixels: ImageArray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def seen(picture: Tensor, grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """[gh,gw]: the label whose colour stands in the middle of each cell, and how near it comes."""
    y, x = ((((torch.arange(n) + 0.5) / n) * m).long() for n, m in zip(grid_hw, picture.shape[-2:], strict=True))
    colours = picture[:, y[:, None], x]  # [3,gh,gw]
    distance, labels = (colours[None] - PALETTE[:, :, None, None]).abs().amax(1).min(0)
    return labels, distance


# ---- which samples


def test_a_batch_is_half_of_each_and_an_epoch_shows_everything_once() -> None:
    sizes = (12, 5)
    keys = [batch_indices(3, step, 4, sizes) for step in range(30)]
    assert all([key.origin for key in batch] == [0, 0, 1, 1] for batch in keys)
    for origin, size in enumerate(sizes):
        drawn = [key for batch in keys for key in batch if key.origin == origin]
        assert [key.number for key in drawn] == list(range(60))
        epochs = [[key.image for key in drawn[first : first + size]] for first in range(0, 60, size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_sources_of_one_size_are_shuffled_apart() -> None:
    batch = batch_indices(0, 0, 40, (20, 20))
    assert [key.image for key in batch[:20]] != [key.image for key in batch[20:]]


def test_a_step_is_known_without_those_before() -> None:
    assert batch_indices(3, 7, 4, (12, 5)) == batch_indices(3, 7, 4, (12, 5))
    assert batch_indices(3, 7, 4, (12, 5)) != batch_indices(4, 7, 4, (12, 5))
    whole = list(StepSampler(0, range(10), 6, (7, 9)))
    assert whole == [*StepSampler(0, range(4), 6, (7, 9)), *StepSampler(0, range(4, 10), 6, (7, 9))]
    assert len(StepSampler(0, range(4, 10), 6, (7, 9))) == 6


def test_processes_share_a_batch_half_and_half() -> None:
    parts = [list(StepSampler(0, range(5), 8, (7, 9), rank, 2)) for rank in range(2)]
    for step, batch in enumerate(StepSampler(0, range(5), 8, (7, 9))):
        mine = [part[step] for part in parts]
        assert sorted([*mine[0], *mine[1]]) == sorted(batch)
        assert all(Counter(key.origin for key in one) == {0: 2, 1: 2} for one in mine)


@pytest.mark.parametrize(("batch", "ranks", "accepted"), [(5, 1, "multiple of 2"), (0, 1, "of 2"), (6, 2, "of 4")])
def test_a_batch_that_cannot_be_shared_is_refused(batch: int, ranks: int, accepted: str) -> None:
    with pytest.raises(UsageError, match=f"batch-size is {batch}; accepted: .*{accepted}"):
        StepSampler(0, range(1), batch, (3, 4), 0, ranks)


# ---- one piece


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    hw=st.tuples(st.integers(60, 130), st.integers(60, 130)),
    scales=st.sampled_from([(1.0, 1.0), (0.5, 0.6), (0.5, 1.5), (1.4, 1.6)]),
    fit=st.sampled_from(["warp", "crop"]),
)
def test_seeds_lie_where_their_colours_are(
    seed: int, hw: tuple[int, int], scales: tuple[float, float], fit: str
) -> None:
    labels = quarters(hw)
    options = Augmentation(fit=fit, size_hw=(81, 97), grid_hw=(21, 25), scales=scales)  # type: ignore[arg-type]
    picture, view = augment(as_tensor(coloured(labels)), options, np.random.default_rng(seed))
    assert picture.shape == (3, 81, 97)
    seeds = torch.from_numpy(view.labels(labels, options.grid_hw)).long()
    found, distance = seen(picture, options.grid_hw)
    pure = distance < 0.02
    if fit == "warp":
        assert pure.float().mean() > 0.6
        assert (seeds != 255).all()
    assert (seeds == found)[pure & (seeds != 255)].all()
    assert (distance[seeds == 255] > 0.1).all()  # outside stands the mean colour


def test_what_lies_outside_a_crop_is_grey_and_unknown() -> None:
    image = torch.zeros(3, 20, 30)
    options = Augmentation(fit="crop", size_hw=(40, 60), grid_hw=(40, 60), scales=(1.0, 1.0), flip=False)
    picture, view = augment(image, options, np.random.default_rng(0))
    seeds = view.labels(np.zeros((20, 30), np.uint8), options.grid_hw)
    assert (seeds == 0).sum() == 600
    outside = picture[:, torch.from_numpy(seeds == 255)]  # [3,1800]
    torch.testing.assert_close(outside, torch.tensor([[0.485], [0.456], [0.406]]).expand(3, 1800))
    assert (picture[:, torch.from_numpy(seeds == 0)].abs() < 1e-6).all()


@pytest.mark.parametrize("grid", [(41, 41), (7, 5), (24, 34), (50, 80)])
def test_the_whole_image_is_resized_to_the_nearest(grid: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 4, (24, 34)).astype(np.uint8)
    expected = T.resize(torch.from_numpy(labels)[None], list(grid), T.InterpolationMode.NEAREST_EXACT)[0].numpy()
    np.testing.assert_array_equal(View(0, 0, 1, 1, flip=False).labels(labels, grid), expected)
    np.testing.assert_array_equal(View(0, 0, 1, 1, flip=True).labels(labels, grid), expected[:, ::-1])


def test_a_crop_at_full_size_is_a_cut() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (50, 60)).astype(np.uint8)
    picture = as_tensor(coloured(labels))
    options = replace(RETRAINING, size_hw=(32, 40), grid_hw=(32, 40))
    for seed in range(4):
        crop, view = augment(picture, options, np.random.default_rng(seed))
        expected = as_tensor(coloured(view.labels(labels, options.grid_hw)))
        torch.testing.assert_close(crop, expected, atol=1e-6, rtol=0)


def test_what_each_method_does() -> None:
    image, rng = as_tensor(coloured(quarters((30, 44)))), np.random.default_rng(0)
    methods = {"SEC": SEC, "DSRG": DSRG}
    flips = {name: [augment(image, one, rng)[1].flip for _ in range(40)] for name, one in methods.items()}
    assert not any(flips["SEC"])
    assert 10 < sum(flips["DSRG"]) < 30
    warped = augment(image, SEC, rng)[0]
    torch.testing.assert_close(warped, T.resize(image, [321, 321], antialias=True))


def test_colours_change_and_stay_colours() -> None:
    image = torch.rand(3, 20, 20)
    options = Augmentation(size_hw=(20, 20), flip=False, colours=0.3)
    pictures = torch.stack([augment(image, options, np.random.default_rng(seed))[0] for seed in range(8)])
    assert 0 <= pictures.min() < pictures.max() <= 1
    assert len(torch.unique(pictures.mean((1, 2, 3)))) == 8
    assert (pictures - image).abs().mean() < 0.25


# ---- the samples of a run


CLASSES = ("cat", "dog", "bus")


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Source, Source]:
    """I with cues, V with label maps, weights and the classes in another order."""
    labels = quarters((30, 44))
    images = []
    cues = CueFolder.create(tmp_path / "cues", ("bus", "dog", "cat"))
    for number in range(3):
        Image.fromarray(coloured(labels)).save(tmp_path / f"i{number}.png")
        images.append(LabelledImage(f"i{number}", tmp_path / f"i{number}.png", tags=(number,)))
        grid = np.full((41, 41), 255, np.uint8)
        grid[:, :10], grid[5, 30] = 0, 3
        cues.write(f"i{number}", grid)
    rows = [{"id": f"v{number}", "classes": ["bus", "cat"], "quality": 0.5 * number} for number in range(4)]
    web = read_engine_output(write_run(tmp_path / "run", ("bus", "cat", "dog"), rows))
    return Source(LabelledSet("I", CLASSES, tuple(images)), cues), Source(web.arranged(CLASSES))


def test_samples_hold_seeds_tags_and_weights(sources: tuple[Source, Source]) -> None:
    samples = SegmentationSamples(sources, SEC, seed=0)
    assert samples.sizes == (3, 4)
    still = samples[SampleKey(0, 2, 0)]
    assert [*map(tuple, (still.image.shape, still.seeds.shape, still.tags.shape))] == [(3, 321, 321), (41, 41), (3,)]
    assert (still.image.dtype, still.seeds.dtype, still.tags.dtype) == (torch.float32, torch.int64, torch.bool)
    assert still.tags.tolist() == [False, False, True]
    assert (float(still.weight), still.origin) == (1.0, 0)
    assert (still.seeds == 0).sum() == 410
    assert still.seeds[5, 30] == 1  # label 3 of the cues is `cat`
    web = samples[SampleKey(1, 1, 0)]
    assert web.tags.tolist() == [True, False, True]
    assert (float(web.weight), web.origin) == (0.5, 1)
    expected = View(0, 0, 1, 1, flip=False).labels(sources[1].images.labels(sources[1].images.images[1]), (41, 41))
    assert set(np.unique(expected).tolist()) == {0, 1, 3, 255}
    np.testing.assert_array_equal(web.seeds.numpy(), expected)


def test_samples_depend_on_seed_and_key_alone(sources: tuple[Source, Source]) -> None:
    options = Augmentation(fit="crop", size_hw=(33, 33), colours=0.2)
    one, again, other = (SegmentationSamples(sources, options, seed) for seed in (1, 1, 2))
    key = SampleKey(1, 2, 8)
    torch.testing.assert_close(one[key], again[key], rtol=0, atol=0)
    for different in (one[SampleKey(1, 2, 9)], other[key]):
        assert not torch.equal(different.image, one[key].image)
    twice = SegmentationSamples([sources[0], sources[0]], options, seed=1)
    assert not torch.equal(twice[SampleKey(0, 2, 8)].image, twice[SampleKey(1, 2, 8)].image)


def test_a_loader_with_workers_serves_the_same_batches(sources: tuple[Source, Source]) -> None:
    samples = SegmentationSamples(sources, DSRG, seed=1)
    alone, helped = (
        list(DataLoader(samples, batch_sampler=StepSampler(1, range(2), 4, samples.sizes), num_workers=workers))
        for workers in (0, 2)
    )
    assert isinstance(alone[0], Sample)
    assert alone[0].image.shape == (4, 3, 321, 321)
    assert torch.as_tensor(alone[0].origin).tolist() == [0, 0, 1, 1]
    for one, other in zip(alone, helped, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_doubtful_labels_can_be_left_out(tmp_path: Path) -> None:
    save(tmp_path / "a.png", encode_mask(np.ones((4, 6), np.uint8)))
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg")
    Image.fromarray(np.repeat(np.array([[255, 100, 99]], np.uint8), 4, 0).repeat(2, 1)).save(tmp_path / "sure.png")
    image = LabelledImage("a", tmp_path / "a.jpg", tmp_path / "a.png", (0,), confidence=tmp_path / "sure.png")
    source = Source(LabelledSet("here", ("cat",), (image,)))
    options = Augmentation(size_hw=(4, 6), grid_hw=(4, 6), flip=False)
    for least, row in ((0.0, [1] * 6), (100 / 255, [1, 1, 1, 1, 255, 255]), (0.9, [1, 1, 255, 255, 255, 255])):
        seeds = SegmentationSamples([source], options, 0, least)[SampleKey(0, 0, 0)].seeds
        assert seeds.tolist() == [row] * 4


def test_what_cannot_be_trained_on_is_refused(sources: tuple[Source, Source], tmp_path: Path) -> None:
    still, web = sources
    with pytest.raises(UsageError, match="run has the classes bus, cat, dog and I has cat, dog, bus"):
        SegmentationSamples([still, Source(web.images.arranged(("bus", "cat", "dog")))], SEC, 0)
    with pytest.raises(UsageError, match="3 of 3 images of I have no label map"):
        Source(still.images)
    with pytest.raises(UsageError, match="no cues for 4 of 4 images"):
        Source(web.images, still.cues)
    (tmp_path / "i0.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(UsageError, match=r"i0\.png cannot be read as an image"):
        _ = SegmentationSamples([still], SEC, 0)[SampleKey(0, 0, 0)]
