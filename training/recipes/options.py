"""Options of `f2f recipe`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from f2f.training.options import require


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """Run an experiment from its data to its table; without a name, say which there are."""

    recipe: Annotated[Positional[str], arg(metavar="NAME|FILE")] = ""
    """name of a recipe, or a .toml file of one's own, which may begin with `base = "NAME"`"""
    out: Path | None = None
    """folder that receives a folder per stage, and recipe.json; give it again to go on"""
    voc: Path | None = None
    """VOC2012 with the list trainaug, or with SBD to make it of"""
    sbd: Path | None = None
    """benchmark_RELEASE of the Semantic Boundaries Dataset: makes the list trainaug first"""
    crawl: str | None = None
    """the web videos, as in `f2f label`: folder <query>/**/*.mp4, or a manifest"""
    weights: Path | None = None
    """torchvision's weights of VGG-16 for ImageNet, .safetensors or .pth"""
    segmenter_weights: Path | None = None
    """those of the segmenter's backbone, where the recipe has another one than VGG-16"""
    flow: str = "auto"
    """optical flow, as in `f2f label`; the paper's is PWC-Net (`f2f export flow --weights`)"""
    saliency: str = "classical"
    """foreground prior, as in `f2f label` and `f2f cues`; the paper's is DSS"""
    only: tuple[str, ...] = ()
    """run these stages alone; those that they read must be finished"""
    use: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="STAGE=FOLDER")] = ()
    """take a stage's folder from elsewhere in place of running it; repeat it for others"""
    set: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="STAGE.OPTION=VALUE")] = ()
    """change an option of a stage, or without STAGE that of all stages that have it; repeat it for others"""
    dry_run: bool = False
    """print the commands that it consists of, and run nothing"""

    def __post_init__(self) -> None:
        runs = bool(self.recipe) and not self.dry_run
        require(not runs or self.out is not None, "--out is missing; give a folder, or --dry-run to see the commands")
