"""Evaluate: folders of predicted label maps against Pascal VOC and YouTube-Objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from f2f.engine.errors import UsageError
from f2f.engine.types import IGNORE
from f2f.training.segmentation.images import LabelledSet, check_size, label_table
from f2f.training.segmentation.options import VocEvaluation, YoutubeEvaluation
from f2f.training.segmentation.predictions import Predictions, write_submission
from f2f.training.segmentation.scores import Confusion
from f2f.training.segmentation.voc import read_voc
from f2f.training.segmentation.youtube_objects import (
    YOUTUBE_CLASSES,
    AnnotatedFrame,
    read_object_mask,
    read_youtube_objects,
)
from f2f.training.segmentation.youtube_scores import OTHER, FrameCounts, YoutubeScores, count_frame, youtube_scores

OnImage = Callable[[object, int], None]
"""is told of every image that is done, and how many there are"""


def evaluate_voc(options: VocEvaluation, on_image: OnImage = lambda *_: None) -> Confusion | None:
    """What `f2f eval voc` does: counts where the list has masks (None where it has none), and the archive if asked for.

    Raises:
        UsageError: a list, mask or prediction is missing or does not fit.
        MachineError: the disk does not take the archive.
    """
    images = read_voc(options.voc, options.list)
    predictions = Predictions.open(options.pred, images.classes)
    if options.submit is not None:
        write_submission(predictions, images, Path(options.list).stem, options.submit, on_image)
        if all(one.labels is None for one in images.images):  # of the test set, only the server knows them
            return None
    return count_labels(predictions, images, on_image)


def count_labels(predictions: Predictions, images: LabelledSet, on_image: OnImage = lambda *_: None) -> Confusion:
    """Predicted against true labels, over all images of a set.

    Raises:
        UsageError: a mask or prediction is missing, broken or of another size, or the classes do not fit.
    """
    images.need_labels()
    predictions.need([Path(one.id) for one in images.images])
    table = label_table(str(predictions.folder), predictions.classes, images.classes)
    confusion = Confusion(images.classes)
    for one in images.images:
        assert one.labels is not None
        truth, predicted = images.true_labels(one), table[predictions.read(Path(one.id))]
        check_size(predictions.file(Path(one.id)), predicted.shape, one.labels, truth.shape)
        confusion.add(predicted, truth)
        on_image(one, len(images.images))
    return confusion


def evaluate_youtube_objects(options: YoutubeEvaluation, on_image: OnImage = lambda *_: None) -> YoutubeScores:
    """What `f2f eval youtube-objects` does.

    Raises:
        UsageError: masks or predictions are missing, broken or of different sizes, or the classes do not fit.
    """
    frames = read_youtube_objects(options.root)
    predictions = Predictions.open(options.pred)
    if (predictions.folder / "v1").is_dir():
        predictions = Predictions(predictions.folder / "v1", predictions.classes)
    missing = sorted(set(YOUTUBE_CLASSES) - set(predictions.classes))
    if missing:
        raise UsageError(
            f"{predictions.folder} has no class {missing[0]!r}; accepted: at least the ten of the data set"
        )
    predictions.need([frame.path for frame in frames])
    counts = []
    for frame in frames:
        counts.append(_count(frame, predictions))
        on_image(frame, len(frames))
    return youtube_scores(counts)


def _count(frame: AnnotatedFrame, predictions: Predictions) -> FrameCounts:
    labels = [YOUTUBE_CLASSES.index(name) + 1 if name in YOUTUBE_CLASSES else OTHER for name in predictions.classes]
    table = np.full(256, IGNORE, np.uint8)
    table[: len(labels) + 1] = [0, *labels]
    predicted, truth = table[predictions.read(frame.path)], read_object_mask(frame.mask)
    check_size(predictions.file(frame.path), predicted.shape, frame.mask, truth.shape)
    return count_frame(frame, predicted, truth)
