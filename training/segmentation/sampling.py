"""What a training batch is made of: half I, half V, augmented; all of it a function of (seed, step) alone.

Cell (i, j) of a grid stands for the i-th of gh equal bands and the j-th of gw equal columns of the picture, as
interpolation with align_corners=False has it. Letters: C classes, H, W image size, h, w size of the training picture,
gh, gw grid of its seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
import torchvision.transforms.v2.functional as T
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from f2f.engine.errors import UsageError
from f2f.engine.picture import BAD_IMAGE
from f2f.engine.types import IGNORE, ImageArray
from f2f.training.data import read_image
from f2f.training.segmentation.cue_files import CUE_GRID_HW, CueFolder
from f2f.training.segmentation.images import LabelledImage, LabelledSet, read_confidence

_MEAN_COLOUR = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
"""of ImageNet; what lies outside an image has it"""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How an image becomes a training picture."""

    fit: Literal["warp", "crop"] = "warp"
    """warp: the whole image, whatever its shape; crop: a part of it at a scale drawn from `scales`"""
    size_hw: tuple[int, int] = (321, 321)
    """of the picture, px"""
    grid_hw: tuple[int, int] = CUE_GRID_HW
    """of its seeds; that of the picture for training on masks at full size"""
    flip: bool = True
    """mirror every other one"""
    scales: tuple[float, float] = (0.5, 1.5)
    """smallest and largest size of the image before the crop, as a factor"""
    colours: float = 0.0
    """largest change of brightness, contrast and saturation, as a share; hue changes by a third of it"""

    def __post_init__(self) -> None:
        assert min(*self.size_hw, *self.grid_hw) > 0, (self.size_hw, self.grid_hw)
        assert 0 < self.scales[0] <= self.scales[1], self.scales
        assert 0 <= self.colours < 1, self.colours


SEC = Augmentation(flip=False)
DSRG = Augmentation()
RETRAINING = Augmentation(fit="crop", grid_hw=(321, 321), scales=(1.0, 1.0))
"""DSRG's second step: crops, mirrored, as large as they come"""


class SampleKey(NamedTuple):
    """Which sample of the run this is."""

    origin: int
    """number of the source"""
    image: int
    """number of the image in it"""
    number: int
    """counts the samples taken from this source since the run began"""


def batch_indices(seed: int, step: int, batch_size: int, sizes: Sequence[int]) -> list[SampleKey]:
    """The samples of a step: the same share from each source (so I, then V), each source shuffled anew per epoch.

    `batch_size` is a multiple of the number of sources.
    """
    share, rest = divmod(batch_size, len(sizes))
    assert share > 0, (batch_size, len(sizes))
    assert rest == 0, (batch_size, len(sizes))
    numbers = range(step * share, (step + 1) * share)
    return [
        SampleKey(origin, int(_order(seed, origin, number // size, size)[number % size]), number)
        for origin, size in enumerate(sizes)
        for number in numbers
    ]


@lru_cache(maxsize=8)
def _order(seed: int, origin: int, epoch: int, size: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, 0, origin, epoch)).permutation(size)


@dataclass(frozen=True)
class View:
    """Which part of an image a picture shows, in shares of its height and width; may reach beyond 0..1."""

    top: float
    left: float
    bottom: float
    right: float
    flip: bool

    def labels(self, labels: ImageArray, grid_hw: tuple[int, int]) -> ImageArray:
        """Labels [a,b] that cover the image, at the cells' middles: [gh,gw], 255 outside the image."""
        rows, inside_rows = _places(self.top, self.bottom, grid_hw[0], labels.shape[0])
        columns, inside_columns = _places(self.left, self.right, grid_hw[1], labels.shape[1])
        seen = labels[rows[:, None], columns]  # [gh,gw]
        seen = np.where(inside_rows[:, None] & inside_columns, seen, np.uint8(IGNORE))
        return np.ascontiguousarray(seen[:, ::-1]) if self.flip else seen


def _places(first: float, last: float, cells: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """[cells] places in 0..size-1 of cells that span the shares `first` to `last`, and which of them are inside."""
    places = np.floor((first + (np.arange(cells) + 0.5) / cells * (last - first)) * size).astype(np.int64)
    return places.clip(0, size - 1), (places >= 0) & (places < size)


def augment(image: Tensor, options: Augmentation, rng: np.random.Generator) -> tuple[Tensor, View]:
    """A picture [3,h,w] of an image [3,H,W], RGB 0..1, and what it shows of it."""
    picture, view = (_crop if options.fit == "crop" else _warp)(image, options, rng)
    flip = options.flip and rng.random() < 0.5
    if flip:
        picture = T.horizontal_flip(picture)
    if options.colours:
        picture = _recolour(picture, options.colours, rng)
    return picture, View(*view, flip)


_Box = tuple[float, float, float, float]


def _warp(image: Tensor, options: Augmentation, _: np.random.Generator) -> tuple[Tensor, _Box]:
    return T.resize(image, list(options.size_hw), antialias=True), (0.0, 0.0, 1.0, 1.0)


def _crop(image: Tensor, options: Augmentation, rng: np.random.Generator) -> tuple[Tensor, _Box]:
    scale = float(rng.uniform(*options.scales))
    height, width = (max(1, round(scale * side)) for side in image.shape[-2:])
    top, left = (_offset(rng, given, want) for given, want in zip((height, width), options.size_hw, strict=True))
    image = T.resize(image, [height, width], antialias=True)
    picture = T.crop(image - _MEAN_COLOUR, top, left, *options.size_hw) + _MEAN_COLOUR
    bottom, right = top + options.size_hw[0], left + options.size_hw[1]
    return picture, (top / height, left / width, bottom / height, right / width)


def _offset(rng: np.random.Generator, given: int, wanted: int) -> int:
    """Where a crop begins; before the image where that is the smaller one."""
    spare = given - wanted
    return int(rng.integers(min(spare, 0), max(spare, 0) + 1))


def _recolour(picture: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    for change in (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation):
        picture = change(picture, float(rng.uniform(1 - strength, 1 + strength)))
    hued: Tensor = T.adjust_hue(picture, float(rng.uniform(-strength, strength)) / 3)
    return hued


@dataclass(frozen=True)
class Source:
    """Images with what supervises them: their cues where a folder of them is given, else their label maps."""

    images: LabelledSet
    cues: CueFolder | None = None

    def __post_init__(self) -> None:
        self.images.need_image_files()
        if self.cues is None:
            self.images.need_labels()
        else:
            self.cues.need(self.images)


class Sample(NamedTuple):
    """A training sample; a loader stacks every field."""

    image: Tensor
    """[3,h,w] RGB 0..1"""
    seeds: Tensor
    """int64 [gh,gw]: 0 background, c+1 class c, 255 nothing known"""
    tags: Tensor
    """bool [C]"""
    weight: Tensor
    """float32 []"""
    origin: int
    """number of the source"""


class SegmentationSamples(Dataset[Sample]):
    """Augmented samples, drawn by (seed, key) alone: the same key gives the same sample on every run."""

    def __init__(
        self, sources: Sequence[Source], augmentation: Augmentation, seed: int, least_confidence: float = 0.0
    ) -> None:
        """`sources` share their classes; labels below `least_confidence`, where a map of it is, count as unknown."""
        classes = sources[0].images.classes
        for source in sources:
            if source.images.classes != classes:
                raise UsageError(
                    f"{source.images.source} has the classes {', '.join(source.images.classes)} and "
                    f"{sources[0].images.source} has {', '.join(classes)}; accepted: the same in the same order"
                )
        self.sources, self.augmentation, self.seed = sources, augmentation, seed
        self.least_confidence = least_confidence

    @property
    def sizes(self) -> tuple[int, ...]:
        """Images of every source."""
        return tuple(len(source.images.images) for source in self.sources)

    def __getitem__(self, key: SampleKey) -> Sample:
        """The sample that a key of `batch_indices` means."""
        source = self.sources[key.origin]
        image = source.images.images[key.image]
        rng = np.random.default_rng((self.seed, 1, key.origin, key.number))
        picture, view = augment(read_picture(image), self.augmentation, rng)
        seeds = view.labels(self._labels(source, image), self.augmentation.grid_hw)
        tags = torch.zeros(len(source.images.classes), dtype=torch.bool)
        tags[list(image.tags)] = True
        return Sample(picture, torch.from_numpy(seeds).long(), tags, torch.tensor(image.weight), key.origin)

    def _labels(self, source: Source, image: LabelledImage) -> ImageArray:
        if source.cues is not None:
            return source.cues.read(image.id, source.images.classes)
        labels = source.images.labels(image)
        if image.confidence is not None and self.least_confidence:
            labels[read_confidence(image) < self.least_confidence * 255] = IGNORE
        return labels


def read_picture(image: LabelledImage) -> Tensor:
    """The picture [3,H,W] of an image, RGB 0..1; raises UsageError where it cannot be read."""
    try:
        return read_image(image.image)
    except BAD_IMAGE as error:
        raise UsageError(f"{image.image} cannot be read as an image ({error}); restore it, or take it out") from error


def check_shares(batch_size: int, sources: int, ranks: int) -> None:
    """Refuse a batch that sources and processes cannot share evenly."""
    if batch_size < 1 or batch_size % (sources * ranks):
        raise UsageError(
            f"batch-size is {batch_size}; accepted: a multiple of {sources * ranks}, as each of {ranks} processes "
            f"takes the same share from each of {sources} sources"
        )


class StepSampler(Sampler[list[SampleKey]]):
    """A `batch_sampler`: the keys of the steps from `first` to before `last`, of one of `ranks` processes.

    It knows nothing but the step, so a run that goes on sees what an uninterrupted one sees. Whoever shares it out
    again (Lightning's `use_distributed_sampler`) must be told not to.
    """

    def __init__(
        self, seed: int, steps: range, batch_size: int, sizes: Sequence[int], rank: int = 0, ranks: int = 1
    ) -> None:
        check_shares(batch_size, len(sizes), ranks)
        self.seed, self.steps, self.batch_size, self.sizes = seed, steps, batch_size, sizes
        self.rank, self.ranks = rank, ranks

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for step in self.steps:
            yield batch_indices(self.seed, step, self.batch_size, self.sizes)[self.rank :: self.ranks]
