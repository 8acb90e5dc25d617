"""Evaluate a trained segmenter on a list of images: predict, then score as Pascal VOC does."""

from __future__ import annotations

from f2f.engine.files import write_aside
from f2f.training.checkpoint import read_network
from f2f.training.segmentation.adaptation_options import SCORES, SegmenterEvaluation
from f2f.training.segmentation.evaluate import count_labels
from f2f.training.segmentation.predict import OnImage, predict_masks
from f2f.training.segmentation.predictions import Predictions
from f2f.training.segmentation.score_tables import as_json
from f2f.training.segmentation.scores import SegmentationScores
from f2f.training.segmentation.sources import read_images


def evaluate_segmenter(options: SegmenterEvaluation, on_image: OnImage = lambda *_: None) -> SegmentationScores | None:
    """What `f2f eval segmenter` does: OUT/masks, and OUT/scores.json where the list has masks (None where it has none).

    Raises:
        UsageError: the images or the network cannot be used, or OUT holds masks of another network or other options.
        MachineError: the disk does not take the masks.
    """
    content = read_network(options.checkpoint, "segmenter")
    masks = predict_masks(options, content, tags=False, mirror=options.mirror, on_image=on_image)
    images = read_images(options.images, options.list)
    if all(one.labels is None for one in images.images):
        return None
    scores = count_labels(Predictions(masks.folder, masks.classes), images).scores()
    write_aside(options.out / SCORES, as_json(scores).encode())
    return scores
