"""What the `f2f` command runs from this package. Each function answers on stdout and returns an exit code."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from f2f.training.options import (
    ClassifierEvaluation,
    ClassifierExport,
    ClassifierTraining,
    FlowEvaluation,
    FlowExport,
    FlowTraining,
)
from f2f.training.recipes.options import RecipeOptions
from f2f.training.saliency.options import SaliencyEvaluation, SaliencyExport, SaliencyTraining
from f2f.training.segmentation.adaptation_options import SegmenterAdaptation, SegmenterEvaluation, SegmenterRetraining
from f2f.training.segmentation.options import SecCues, VocAugmentation, VocEvaluation, YoutubeEvaluation
from f2f.training.segmentation.training_options import CueOptions, SegmenterExport, SegmenterTraining
from f2f.training.synth.options import SynthOptions

if TYPE_CHECKING:
    from f2f.engine.runtimes.network import Kind
    from f2f.training.engines import ExportOptions


def recipe_command(options: RecipeOptions) -> int:
    """Run an experiment from its data to its table; running it again goes on where it stopped."""
    from rich.console import Console

    from f2f.training.recipes.plan import make_plan
    from f2f.training.recipes.tables import print_recipes, print_rows

    if not options.recipe:
        print_recipes(Console())
    elif options.dry_run:
        for stage in make_plan(options).stages:
            print(f"# {stage.name}\n{stage.line}")
    else:
        from f2f.training.recipes.run import run_recipe

        print_rows(run_recipe(options, say=partial(print, flush=True)), Console())
    return 0


def train_classifier(options: ClassifierTraining) -> int:
    """Train a CAM classifier on tagged still images; running it again goes on where it stopped."""
    from f2f.training.checkpoint import read_network
    from f2f.training.classifier_table import held_out_line
    from f2f.training.train import train_classifier as train

    path = train(options)
    print(f"wrote {path}")
    print(held_out_line(read_network(path, "classifier")["training"]["held_out"]))
    return 0


def train_flow(options: FlowTraining) -> int:
    """Train PWC-Net on pairs of frames with exact flow; running it again goes on where it stopped."""
    from f2f.training.train import train_flow as train

    print(f"wrote {train(options)}")
    return 0


def train_saliency(options: SaliencyTraining) -> int:
    """Train DSS, a saliency network, on images with masks; running it again goes on where it stopped."""
    from f2f.training.checkpoint import read_network
    from f2f.training.saliency.table import held_out_line
    from f2f.training.saliency.train import train_saliency as train

    path = train(options)
    print(f"wrote {path}")
    print(held_out_line(read_network(path, "saliency")["training"]["held_out"]))
    return 0


def train_segmenter(options: SegmenterTraining) -> int:
    """Train a segmenter on images and labelled videos; running it again goes on where it stopped."""
    from f2f.training.segmentation.train import train_segmenter as train

    print(f"wrote {train(options)}")
    return 0


def adapt_command(options: SegmenterAdaptation) -> int:
    """Predict masks of tagged images, then train on them at a reduced rate; running it again goes on."""
    return _adapt(options)


def retrain_command(options: SegmenterRetraining) -> int:
    """Predict masks of tagged images, then train on crops of them anew, as DSRG does; running it again goes on."""
    return _adapt(options)


def _adapt(options: SegmenterAdaptation) -> int:
    from f2f.engine.progress import show_inputs
    from f2f.training.segmentation.adapt import make_masks, train_on_masks

    with show_inputs() as on_image:
        make_masks(options, on_image)
    print(f"wrote {train_on_masks(options)}")
    return 0


def cues_command(options: CueOptions) -> int:
    """Find what is surely known of tagged images, for `f2f train segmenter --cues`."""
    from f2f.engine.progress import show_inputs
    from f2f.training.segmentation.cues import make_cues

    with show_inputs() as on_image:
        folder = make_cues(options, on_image)
    print(f"wrote {folder.folder}")
    return 0


def export_classifier(options: ClassifierExport) -> int:
    """Write a classifier (a torchvision ImageNet network or our own checkpoint) as .onnx or .pt2."""
    from f2f.training.export import export_classifier as export

    return _export("classifier", options, lambda: export(options, on_verdict=print))


def export_flow(options: FlowExport) -> int:
    """Write a flow network (our own checkpoint or a released PWC-Net) as .onnx or .pt2."""
    from f2f.training.export import export_flow as export

    return _export("flow", options, lambda: export(options, on_verdict=print))


def export_saliency(options: SaliencyExport) -> int:
    """Write a saliency network (our own checkpoint or a released one in the manner of U²-Net), for `f2f label`."""
    from f2f.training.saliency.export import export_saliency as export

    return _export("saliency", options, lambda: export(options, on_verdict=print))


def export_segmenter(options: SegmenterExport) -> int:
    """Write a segmenter (our own checkpoint) as .onnx or .pt2, for `f2f segment`."""
    from f2f.training.export import export_segmenter as export

    return _export("segmenter", options, lambda: export(options, on_cost=print))


def _export(kind: Kind, options: ExportOptions, export: Callable[[], Path]) -> int:
    from f2f.training.engines import with_engine

    for path in with_engine(kind, options, export):
        print(f"wrote {path}")
    return 0


def eval_classifier(options: ClassifierEvaluation, *, json: bool = False) -> int:
    """Measure a classifier: average precision of its tags, and its activation maps against masks where there are any.

    Args:
        options: what is measured, and on what.
        json: print JSON instead of a table
    """
    from rich.console import Console

    from f2f.engine.progress import show_inputs
    from f2f.training.classifier_eval import evaluate_classifier
    from f2f.training.classifier_table import classifier_scores_as_json, print_classifier_scores

    with show_inputs() as on_image:
        scores = evaluate_classifier(options, on_image)
    if json:
        print(classifier_scores_as_json(scores))
    else:
        print_classifier_scores(scores, Console())
    return 0


def eval_flow(options: FlowEvaluation, *, json: bool = False) -> int:
    """Measure optical flow beside exact flow, and on videos by carrying their true masks from frame to frame.

    Args:
        options: what is measured, and on what.
        json: print JSON instead of tables
    """
    from rich.console import Console

    from f2f.training.flow_eval import evaluate_flows
    from f2f.training.flow_table import print_scores, scores_as_json

    scores = evaluate_flows(options)
    if json:
        print(scores_as_json(scores))
    else:
        print_scores(scores, Console())
    return 0


def eval_saliency(options: SaliencyEvaluation, *, json: bool = False) -> int:
    """Measure saliency beside exact masks: its error, its F, and what the engine would call background by it.

    Args:
        options: what is measured, and on what.
        json: print JSON instead of a table
    """
    from rich.console import Console

    from f2f.engine.progress import show_inputs
    from f2f.training.saliency.evaluate import evaluate_saliency
    from f2f.training.saliency.table import print_saliency_scores, saliency_scores_as_json

    with show_inputs() as on_image:
        scores = evaluate_saliency(options, on_image)
    if json:
        print(saliency_scores_as_json(scores))
    else:
        print_saliency_scores(scores, Console())
    return 0


def eval_segmenter(options: SegmenterEvaluation, *, json: bool = False) -> int:
    """Predict the images of a list with a segmenter, at several sizes, and score the masks as Pascal VOC does.

    Args:
        options: what is predicted, and how.
        json: print JSON instead of a table
    """
    from rich.console import Console

    from f2f.engine.progress import show_inputs
    from f2f.training.segmentation.score_tables import as_json, print_voc_scores
    from f2f.training.segmentation.segmenter_eval import evaluate_segmenter

    with show_inputs() as on_image:
        scores = evaluate_segmenter(options, on_image)
    if scores is None:
        print(f"wrote {options.out / 'masks'}; list {options.list} has no masks to score against")
    elif json:
        print(as_json(scores))
    else:
        print_voc_scores(scores, Console())
    return 0


def eval_voc(options: VocEvaluation, *, json: bool = False) -> int:
    """Score predicted label maps as Pascal VOC does: one table of counts over all pixels, IoU per class, their mean.

    Args:
        options: what is scored, and against what.
        json: print JSON instead of a table
    """
    from rich.console import Console

    from f2f.engine.progress import show_inputs
    from f2f.training.segmentation.confusion_picture import write_confusion_picture
    from f2f.training.segmentation.evaluate import evaluate_voc
    from f2f.training.segmentation.score_tables import as_json, print_voc_scores

    with show_inputs() as on_image:
        confusion = evaluate_voc(options, on_image)
    if confusion is None:
        print(f"wrote {options.submit}; list {options.list} has no masks to score against")
        return 0
    scores = confusion.scores()
    if options.confusion:
        write_confusion_picture(confusion, options.confusion)
    if json:
        print(as_json(scores))
    else:
        print_voc_scores(scores, Console())
    return 0


def eval_youtube_objects(options: YoutubeEvaluation, *, json: bool = False) -> int:
    """Score predicted label maps on YouTube-Objects: frame by frame and pooled, as predicted and restricted to the tag.

    Args:
        options: what is scored, and against what.
        json: print JSON instead of a table
    """
    from rich.console import Console

    from f2f.engine.progress import show_inputs
    from f2f.training.segmentation.evaluate import evaluate_youtube_objects
    from f2f.training.segmentation.score_tables import as_json, print_youtube_scores

    with show_inputs() as on_image:
        scores = evaluate_youtube_objects(options, on_image)
    if json:
        print(as_json(scores))
    else:
        print_youtube_scores(scores, Console())
    return 0


def make_voc_aug(options: VocAugmentation) -> int:
    """Make the list trainaug (VOC train and SBD, without VOC val) and its masks, inside the VOC folder."""
    from f2f.engine.progress import show_inputs
    from f2f.training.segmentation.sbd import make_trainaug

    with show_inputs() as on_image:
        made = make_trainaug(options.voc, options.sbd, on_image)
    print(f"{made.images} images in {made.path}; {made.written} masks written, {made.kept} were there")
    return 0


def import_sec_cues(options: SecCues) -> int:
    """Turn the cues that SEC's authors released into a folder of label maps."""
    from f2f.engine.progress import show_inputs
    from f2f.training.segmentation.sec_cues import import_sec_cues as import_cues

    with show_inputs() as on_image:
        count = import_cues(options.cues, options.list, options.out, on_image)
    print(f"cues of {count} images in {options.out}")
    return 0


def synth_command(options: SynthOptions) -> int:
    """Render a synthetic web: videos, tagged images, exact masks and flow."""
    from f2f.training.synth import synth

    summary = synth(options)
    print(f"{summary.videos} videos ({summary.frames} frames) and {summary.images} images in {options.out}")
    return 0
