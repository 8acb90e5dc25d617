"""What the `f2f` command runs from this package. Each function answers on stdout and returns an exit code."""

from __future__ import annotations

from f2f.training.options import ClassifierExport, ClassifierTraining, FlowExport, FlowTraining
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
    """Write a flow network from its checkpoint as .onnx or .pt2."""
    from f2f.training.export import export_flow as export

    print(f"wrote {export(options)}")
    return 0


def synth_command(options: SynthOptions) -> int:
    """Render a synthetic web: videos, tagged images, exact masks and flow."""
    from f2f.training.synth import synth

    summary = synth(options)
    print(f"{summary.videos} videos ({summary.frames} frames) and {summary.images} images in {options.out}")
    return 0
