"""What the study's trainings learn from: the synthetic web, cues of its images (I), masks of its videos (V).

    WORK/web/images       I: 1000 tagged images, 850 of them to train on; seed 100
    WORK/held/images      400 images to measure on; seed 500
    WORK/crawl            160 videos; seed 300
    WORK/classifier       a classifier of the tags of I alone: the training that the bundled one comes from
    WORK/ficklenet        FickleNet, of the same tags
    WORK/cues, WORK/cues-ficklenet                    cues of I by either
    WORK/labels/<rule>-<K>, trusted, kept-<filter>    V

Everything is made once; what an interrupted run left is gone on with.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from study_cases import FILTERS, USUAL_FRAMES, Case
from study_filter import classes_of, filter_row, kept_masks, masks_of, write_kept
from study_frames import FrameScores, read_scores

from f2f.engine.evaluate import MaskEvaluation, evaluate_masks
from f2f.engine.labelling import label
from f2f.engine.options import ClassifyOptions, DecodeOptions, LabelOptions, RuleOptions, RuntimeOptions, WindowOptions
from f2f.training.options import ClassifierTraining
from f2f.training.segmentation.cues import make_cues
from f2f.training.segmentation.training_options import CueOptions
from f2f.training.synth import SynthOptions, synth
from f2f.training.train import train_classifier

IMAGES, HELD_OUT, VIDEOS = (1000, 100), (400, 500), (160, 300)
"""how many, and their seed"""
TAU = 0.5
"""of the bundled classifier"""
TRUSTED = "trusted"
RULES = {"f2f": RuleOptions(rule="f2f", sure_background=True), "paper": RuleOptions(rule="paper")}
"""background that saliency is not sure of is ignored by both, for the losses grow seeds"""


@dataclass(frozen=True)
class Material:
    """Paths below `work`; whoever asks for one makes what is missing."""

    work: Path
    threads: int

    @cached_property
    def images(self) -> Path:
        """I."""
        return self._rendered("web", images=IMAGES)

    @cached_property
    def held_out(self) -> Path:
        """Images with exact masks that no training sees."""
        return self._rendered("held", images=HELD_OUT)

    @cached_property
    def crawl(self) -> Path:
        """Videos with search terms."""
        return self._rendered("crawl", videos=VIDEOS)

    def _rendered(self, name: str, images: tuple[int, int] = (0, 0), videos: tuple[int, int] = (0, 0)) -> Path:
        out = self.work / name
        last = out / "truth" / "classes.json"  # written at the end
        if not last.exists():
            seed = images[1] + videos[1]
            synth(SynthOptions(out=out, images=images[0], videos=videos[0], seed=seed, workers=self.threads))
        return out

    @cached_property
    def classifier(self) -> Path:
        """network.pt of the classifier, whose backbone every segmenter starts from."""
        return self._trained("classifier", steps=3000, learning_rate=3e-3)

    @cached_property
    def ficklenet(self) -> Path:
        """network.pt of FickleNet; it starts from the classifier's backbone, as the published one from ImageNet's."""
        return self._trained("ficklenet", method="ficklenet", weights=self.classifier, steps=1000, learning_rate=1e-3)

    def _trained(self, name: str, **options: Any) -> Path:
        out = self.work / name
        if not (out / "network.pt").exists():
            train_classifier(ClassifierTraining(images=self.images / "images", out=out, workers=1, **options))
        return out / "network.pt"

    def cues(self, case: Case) -> Path:
        """Cues of I: the bundled classifier's, or FickleNet's."""
        fickle = case.method == "ficklenet"
        out = self.work / ("cues-ficklenet" if fickle else "cues")
        done = out.with_suffix(".done")
        if not done.exists():
            make_cues(
                CueOptions(
                    images=self.images,
                    out=out,
                    classifier=str(self.ficklenet) if fickle else "demo",
                    runtimes=RuntimeOptions(threads=self.threads),
                )
            )
            done.touch()
        return out

    def videos(self, case: Case) -> Path:
        """V: the output folder of `f2f label`, or a part of it."""
        return self.kept(case.kept) if case.kept else self.labelled(case.rule, case.frames)

    def labelled(self, rule: str, frames: int, trusted: bool = False) -> Path:
        """The crawl, labelled by a rule over K frames; a finished run is only looked at."""
        out = self.work / "labels" / (TRUSTED if trusted else f"{rule}-{frames}")
        label(
            LabelOptions(
                source=str(self.crawl / "manifest.csv"),
                out=out,
                classifier="demo",
                classify=ClassifyOptions(trust_query=trusted),
                decode=DecodeOptions(decoders=1),
                window=WindowOptions(window_frames=frames, window_stride=USUAL_FRAMES, windows="all"),
                aggregation=RULES[rule],
                runtimes=RuntimeOptions(threads=self.threads),
            )
        )
        return out

    def scores_of(self, labelled: Path) -> MaskEvaluation:
        """Proxy masks beside exact ones."""
        return evaluate_masks(labelled, self.crawl / "truth")

    @cached_property
    def frame_scores(self) -> dict[str, FrameScores]:
        """What the classifier says of every frame, and what the frame shows."""
        return read_scores(self.crawl, self.work / "frames.parquet", self.threads)

    def kept(self, name: str) -> Path:
        """The masks of trusted queries that a filter leaves."""
        out = self.work / "labels" / f"kept-{name}"
        if not out.exists():
            run = self.labelled("f2f", USUAL_FRAMES, trusted=True)
            write_kept(run, out, kept_masks(name, masks_of(run), self.frame_scores, classes_of(run), TAU))
        return out

    def filter_rows(self) -> list[dict[str, object]]:
        """How good every filter is at choosing windows."""
        run = self.labelled("f2f", USUAL_FRAMES, trusted=True)
        return [filter_row(name, masks_of(run), self.frame_scores, classes_of(run), TAU) for name in FILTERS]
