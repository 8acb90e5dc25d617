"""The demo: render a small crawl, label it by both rules with the bundled networks, score the masks, draw them.

Then train a segmenter on them and run it on videos that it never saw (demo_segmenter.py).
"""

from __future__ import annotations

import json
import shutil
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Literal

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from f2f.engine.cam import Activation, MultiScaleCams
from f2f.engine.errors import UsageError
from f2f.engine.evaluate import evaluate_masks, truth_file
from f2f.engine.job import open_networks
from f2f.engine.labelling import label
from f2f.engine.options import LabelOptions, RuleOptions
from f2f.engine.picture import contact_sheet, overlay
from f2f.engine.progress import print_summary, show_progress
from f2f.engine.records import MaskRecord, Summary, VideoRecord, read_shards
from f2f.engine.types import Frame, ImageArray, Window
from f2f.kernels import compose_labels
from f2f.training import demo_segmenter
from f2f.training.fit import require_extra
from f2f.training.synth import CLASSES, SynthOptions, synth

_HEADINGS = ("frame", "CAM of this frame alone", "rule paper: union over K frames", "rule f2f", "exact mask")


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the demo renders, and where it puts everything."""

    out: Path = Path("out/demo")
    """folder for the crawl, the masks and the picture; what is there already is not done again"""
    videos: int = 18
    """videos of the crawl"""
    rows: int = 6
    """rows of the contact sheet"""
    seed: int = 11
    """seed of the crawl"""

    def __post_init__(self) -> None:
        for name in ("videos", "rows"):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"--{name} {getattr(self, name)} is not accepted; accepted: 1 or more; give a larger one"
                )


@dataclass(frozen=True)
class _Sample:
    """A mask to show, with its video's record."""

    mask: MaskRecord
    video: VideoRecord


def demo(options: DemoOptions) -> int:
    """Render a small crawl, label it, score it, draw it; train a segmenter on it and use that."""
    console = Console()
    crawl, labels = options.out / "crawl", options.out / "labels"
    by_rule: dict[Literal["paper", "f2f"], Path] = {"paper": options.out / "labels-paper", "f2f": labels}
    with _step(console, f"1/8 render {options.videos} videos of a synthetic web into {crawl}"):
        if not crawl.exists():
            _render(crawl, options)
    run = LabelOptions(source=str(crawl / "manifest.csv"), out=labels, classifier="demo", flow="demo")
    summaries = [_label(run, rule, out, console) for rule, out in by_rule.items()]
    with _step(console, "3/8 compare the masks with the exact ones"):
        for rule, out in by_rule.items():
            console.print(f"rule {rule}")
            evaluate_masks(out, crawl / "truth").print_table(console)
    sheet = options.out / "contact_sheet.png"
    with _step(console, "4/8 draw a contact sheet"):
        _draw(list(by_rule.values()), crawl / "truth", run, options.rows).save(sheet)
    console.print(f"masks:   {labels / 'voc' / 'SegmentationClass'}\npicture: {sheet}", soft_wrap=True)
    _deploy(options, labels, console)
    return max(summary.exit_code for summary in summaries)


def _deploy(options: DemoOptions, labels: Path, console: Console) -> None:
    """From masks to a segmenter in use; says why not where training is not installed."""
    try:
        require_extra()
    except UsageError as error:
        console.print(f"no segmenter is trained: {error}", markup=False, soft_wrap=True)
        return
    folders = demo_segmenter.Folders(options.out)
    with _step(console, f"5/8 render {demo_segmenter.IMAGES} tagged images and videos that are held out"):
        demo_segmenter.render_web(folders, options.seed + 1)
    with _step(console, "6/8 find what is surely known of the images"):
        demo_segmenter.find_cues(folders)
    with _step(console, f"7/8 train a small segmenter on images and masks, {demo_segmenter.STEPS} steps; export it"):
        demo_segmenter.train_and_export(folders, labels)
    with _step(console, "8/8 segment the held-out videos"):
        demo_segmenter.segment_held_out(folders, console)


def _label(run: LabelOptions, rule: Literal["paper", "f2f"], out: Path, console: Console) -> Summary:
    with _step(console, f"2/8 label them by the rule {rule} into {out}"), show_progress() as on_progress:
        summary = label(replace(run, out=out, aggregation=RuleOptions(rule=rule)), on_progress)
    print_summary(summary, console)
    return summary


def _render(crawl: Path, options: DemoOptions) -> None:
    """Render beside `crawl` and rename, so that an interrupted demo can be started again."""
    unfinished = crawl.with_name("crawl.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    synth(SynthOptions(out=unfinished, videos=options.videos, images=0, seed=options.seed))
    unfinished.rename(crawl)


@contextmanager
def _step(console: Console, text: str) -> Iterator[None]:
    console.print(text, soft_wrap=True)
    start = time.perf_counter()
    yield
    console.print(f"    {time.perf_counter() - start:.0f} s")


def _draw(runs: Sequence[Path], truth: Path, run: LabelOptions, rows: int) -> Image.Image:
    """The contact sheet of a crawl labelled several times."""
    names: list[str] = json.loads((runs[0] / "run.json").read_text(encoding="utf-8"))["classes"]
    networks = open_networks(run)
    activation = Activation(MultiScaleCams(networks.classifier, run.cam.scales), networks.theta_f)
    samples = _choose(runs[-1], truth, rows)
    pictures = [_row(runs, truth, sample, names, activation) for sample in samples]
    return contact_sheet(_HEADINGS, pictures, [_caption(sample.mask) for sample in samples])


def _caption(mask: MaskRecord) -> str:
    """Query, file and time, in the letters that the picture's font has."""
    name = unicodedata.normalize("NFKD", PurePath(mask.video).name).encode("ascii", "ignore").decode()
    return f"{mask.query}: {name}, {mask.pts_seconds[-1]:.2f} s"


def _choose(labels: Path, truth: Path, rows: int) -> list[_Sample]:
    """Masks of as many different queries as there are, each query's largest object first."""
    shards = read_shards(labels)
    videos = {video.id: video for shard in shards for video in shard.videos}
    samples = [_Sample(mask, videos[mask.input]) for shard in shards for mask in shard.masks]
    samples = [sample for sample in samples if truth_file(truth, sample.mask, sample.video)]
    samples.sort(key=lambda sample: -sum(sample.mask.areas_px))
    chosen: list[_Sample] = []
    while samples and len(chosen) < rows:
        shown = [sample.mask.query for sample in chosen]
        chosen.append(min(samples, key=lambda sample: shown.count(sample.mask.query)))
        samples.remove(chosen[-1])
    return chosen


def _row(
    runs: Sequence[Path], truth: Path, sample: _Sample, names: Sequence[str], activation: Activation
) -> list[ImageArray]:
    """Frame, single-frame CAM mask, the mask of every run, exact mask."""
    mask = sample.mask
    frame = np.asarray(Image.open(runs[0] / "voc" / "JPEGImages" / f"{mask.id}.jpg"))
    masks = [np.asarray(Image.open(run / "voc" / "SegmentationClass" / f"{mask.id}.png")) for run in runs]
    path = truth_file(truth, mask, sample.video)
    assert path is not None, "samples have a truth"
    exact = Image.open(path).resize((frame.shape[1], frame.shape[0]), Image.Resampling.NEAREST)
    single = _single_frame_mask(frame, [names.index(name) for name in mask.classes], activation)
    recoloured = _run_labels(names)[np.asarray(exact)]
    return [frame, *(overlay(frame, labels) for labels in (single, *masks, recoloured))]


def _run_labels(names: Sequence[str]) -> ImageArray:
    """Label of the exact masks -> label of the run's classes, uint8 [256], so that a class has one colour."""
    table = np.zeros(256, np.uint8)
    for place, name in enumerate(CLASSES):
        table[place + 1] = names.index(name) + 1 if name in names else 0
    return table


def _single_frame_mask(frame: ImageArray, channels: Sequence[int], activation: Activation) -> ImageArray:
    """The mask that the CAM of one frame gives, without its neighbours and without a background."""
    window = Window(0, 0, (Frame(0, 0, 0.0, frame),), tuple(channels), None)
    bits = activation(window).bits  # [1, N, H, W]
    labels = compose_labels(bits, torch.tensor([list(channels)]), None, 0.0)[0].numpy()  # [H, W]
    return np.where(labels == 255, 0, labels).astype(np.uint8)
