"""What the `f2f` command runs from this package. Each function answers on stdout and returns an exit code."""

from __future__ import annotations

from f2f.training.options import ClassifierExport, ClassifierTraining, FlowEvaluation, FlowExport, FlowTraining
from f2f.training.synth.options import SynthOptions


def train_classifier(options: ClassifierTraining) -> int:
    """Train a CAM classifier on tagged still images; running it again goes on where it stopped."""
    from f2f.training.train import train_classifier as train

    print(f"wrote {train(options)}")
    return 0


def train_flow(options: FlowTraining) -> int:
    """Train PWC-Net on pairs of frames with exact flow; running it again goes on where it stopped."""
    from f2f.training.train import train_flow as train

    print(f"wrote {train(options)}")
    return 0


def export_classifier(options: ClassifierExport) -> int:
    """Write a classifier (a torchvision ImageNet network or our own checkpoint) as .onnx or .pt2."""
    from f2f.training.export import export_classifier as export

    print(f"wrote {export(options)}")
    return 0


def export_flow(options: FlowExport) -> int:
    """Write a flow network (our own checkpoint or a released PWC-Net) as .onnx or .pt2."""
    from f2f.training.export import export_flow as export

    print(f"wrote {export(options)}")
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


def synth_command(options: SynthOptions) -> int:
    """Render a synthetic web: videos, tagged images, exact masks and flow."""
    from f2f.training.synth import synth

    summary = synth(options)
    print(f"{summary.videos} videos ({summary.frames} frames) and {summary.images} images in {options.out}")
    return 0
