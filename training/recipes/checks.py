"""What can be said of a recipe's data before hours of work: what a stage would refuse then is refused now."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from f2f.engine.background import open_saliency
from f2f.engine.errors import UsageError
from f2f.engine.flow import open_flow
from f2f.engine.job import refuse_foreign_queries
from f2f.engine.options import LabelOptions
from f2f.engine.source import class_of_query, read_query_map, read_source
from f2f.training.classifier_data import read_classifier_images
from f2f.training.fit import require_extra
from f2f.training.imagenet import load_backbone
from f2f.training.recipes.plan import Stage
from f2f.training.segmentation.backbones import backbone
from f2f.training.segmentation.sbd import sbd_root, trainaug_ids
from f2f.training.segmentation.sources import read_images
from f2f.training.segmentation.voc import voc_root

_Check = tuple[Callable[..., object], tuple[Hashable, ...]]


def check_inputs(stages: Sequence[Stage], out: Path) -> None:
    """Refuse data that one of the stages could not use; what lies in `out` is not made yet.

    Raises:
        UsageError: a folder, list, image, tag, video, query or file of weights is missing or does not fit, or an extra
            is not installed.
    """
    require_extra()
    done: set[_Check] = set()
    for stage in stages:
        for check in _checks(stage, stages, out):
            if check not in done:
                _do(stage, check)
                done.add(check)


def _do(stage: Stage, check: _Check) -> None:
    function, given = check
    try:
        function(*given)
    except UsageError as error:
        raise UsageError(f"[{stage.name}] {error}") from error


def _checks(stage: Stage, stages: Sequence[Stage], out: Path) -> Iterator[_Check]:
    options = stage.options
    if stage.command == "train classifier":
        yield read_classifier_images, (options.images, options.list, options.val_list)
    if stage.command == "export classifier":
        yield _need_runtime, ()
    if stage.command in {"cues", "adapt", "retrain", "train segmenter"} and options.images is not None:
        yield _need_tagged, (options.images, options.list)
    if stage.command == "eval segmenter":
        yield _need_images, (options.images, options.list)
    if stage.command == "label":
        yield _need_crawl, (options, next(_lists(stages), None))
    if stage.command == "cues":
        yield open_saliency, (options.saliency, options.theta_b, options.runtimes)
    weights = getattr(options, "weights", None)
    if weights is not None and not weights.absolute().is_relative_to(out.absolute()):
        yield _need_weights, (options.network.partition("-")[0], _width(options), weights)


def check_augmentation(voc: Path, sbd: Path) -> None:
    """Refuse data that the list trainaug cannot be made of.

    Raises:
        UsageError: a folder, a list or an image is missing.
    """
    root, masks = voc_root(voc), sbd_root(sbd)
    for id_ in trainaug_ids(root, masks):
        if not (root / "JPEGImages" / f"{id_}.jpg").is_file():
            raise UsageError(f"{root} lacks the image {id_} of SBD; add the JPEG file")


def _lists(stages: Sequence[Stage]) -> Iterator[tuple[Path, str]]:
    """The lists of images that the stages read."""
    for stage in stages:
        images: Path | None = getattr(stage.options, "images", None)
        if images is not None:
            yield images, stage.options.list


def _need_tagged(images: Path, split: str) -> None:
    read_images(images, split).need_image_files().need_tags()


def _need_images(images: Path, split: str) -> None:
    read_images(images, split).need_image_files()


def _need_crawl(options: LabelOptions, images: tuple[Path, str] | None) -> None:
    """Videos whose queries are classes of the images; and what else labelling reads."""
    rows = read_source(options.source, options.sources)
    if images is not None:
        classes = read_images(*images).classes
        query_map = read_query_map(options.sources.query_map, classes)
        queries = {number: class_of_query(row.query, classes, query_map) for number, row in enumerate(rows)}
        refuse_foreign_queries(rows, queries, classes)
    open_flow(options.flow, options.runtimes)
    open_saliency(options.saliency, options.background.theta_b, options.runtimes)


def _need_weights(name: str, width: float, path: Path) -> None:
    load_backbone(backbone(name, width), path)


def _width(options: Any) -> float:
    settled = options.settled() if hasattr(options, "settled") else options
    return float(settled.width)


def _need_runtime() -> None:
    if find_spec("onnxruntime") is None:
        raise UsageError("ONNX Runtime, which runs networks, is not installed; pip install 'f2f[cpu]'")
