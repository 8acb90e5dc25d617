"""Options of the commands on segmentation data: one frozen class each. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from f2f.training.options import require


def _require_suffix(name: str, path: Path | None, suffixes: tuple[str, ...]) -> None:
    ok = path is None or path.name.lower().endswith(suffixes)
    require(ok, f"{name} is {path}; accepted: a file {' or '.join(suffixes)}; rename it")


@dataclass(frozen=True, kw_only=True)
class VocAugmentation:
    """Make the list trainaug and its masks from Pascal VOC 2012 and SBD."""

    voc: Positional[Path]
    """VOC2012, or a folder with VOCdevkit/VOC2012; receives trainaug.txt and SegmentationClassAug/"""
    sbd: Positional[Path]
    """benchmark_RELEASE of the Semantic Boundaries Dataset, or the folder above"""


@dataclass(frozen=True, kw_only=True)
class SecCues:
    """Turn the cues that SEC's authors released into a folder of label maps."""

    cues: Positional[Path]
    """localization_cues.pickle or localization_cues.pickle.gz; nothing in it is run"""
    list: Positional[Path]
    """input_list.txt, which says what image each number is"""
    out: Path
    """folder that receives <id>.png, labels.txt and tags.csv"""


@dataclass(frozen=True, kw_only=True)
class VocEvaluation:
    """Score predicted label maps as Pascal VOC does."""

    pred: Path
    """folder with <id>.png, palette or grey, or the output folder of `f2f segment`; a labels.txt beside them gives the
    order of their classes"""
    voc: Path
    """VOC2012, a folder with VOCdevkit/VOC2012, or one laid out like it with a labels.txt, as `f2f synth` makes"""
    list: str = "val"
    """list of ImageSets/Segmentation, or a list file"""
    confusion: Path | None = None
    """PNG file that receives a picture of the confusion matrix"""
    submit: Path | None = None
    """archive (.tgz or .tar.gz) that receives the predictions as the test server wants them; a list without masks, such
    as test, is then only packed"""

    def __post_init__(self) -> None:
        _require_suffix("confusion", self.confusion, (".png",))
        _require_suffix("submit", self.submit, (".tgz", ".tar.gz"))


@dataclass(frozen=True, kw_only=True)
class YoutubeEvaluation:
    """Score predicted label maps on YouTube-Objects by both protocols."""

    pred: Path
    """folder with <class>/data/<video>/shots/<shot>/frame0001.png …, as `f2f segment ROOT/v1` writes below masks/"""
    root: Path
    """folder with youtube_masks/"""
