"""The worlds that masks are judged in: windows with all that a rule starts from, beside their exact masks.

Real videos are taken as a curated crawl is: queries trusted, 12 frames/s, 427 px. The synthetic web is labelled as it
comes, wrong search results and all. One window starts every 7 sampled frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt
from PIL import Image

from f2f.engine.cam import MultiScaleCams, activate_softly
from f2f.engine.classify import classify, without_scores
from f2f.engine.flow import follow_both_ways
from f2f.engine.job import Networks
from f2f.engine.options import ClassifyOptions, DecodeOptions, LabelOptions, RuntimeOptions, WindowOptions
from f2f.engine.pool import DecodePool
from f2f.engine.source import class_of_query, read_source
from f2f.engine.stage import StageClock
from f2f.engine.types import InputRow, MovingSoftWindow
from f2f.engine.window import find_windows
from f2f.training.synth import CLASSES, SynthOptions, synth

DEMO_CRAWL = 18, 11
"""number of videos and seed of `f2f demo`'s crawl"""


@dataclass(frozen=True, kw_only=True)
class WorldOptions:
    """Where the worlds are, and the classifier that sees them."""

    videos: Path | None = None
    """folder <query>/*.mp4 of real videos"""
    truth: Path | None = None
    """folder <video>/%05d.png of their masks"""
    crawl: Path | None = None
    """folder of the synthetic crawl where it is rendered already, as out/demo/crawl by `make demo`"""
    classifier: str = "demo"
    """network file, or demo"""
    threads: int = 2
    """threads of networks and kernels"""


@dataclass(frozen=True)
class JudgedWindow:
    """A window and what its mask should be."""

    video: str
    """id of the input"""
    moving: MovingSoftWindow
    place: int
    """of the query's class in the label set"""
    true: npt.NDArray[np.bool_]
    """bool [H, W]"""


def real_world(options: WorldOptions) -> tuple[LabelOptions, Path]:
    """How real videos are labelled, and the folder of their exact masks."""
    if options.videos is None or options.truth is None:
        raise SystemExit("real videos are not part of the project: give --videos and --truth")
    decode, trusted = DecodeOptions(sample_fps=12, max_side=427), ClassifyOptions(trust_query=True)
    return replace(_run(options, options.videos), decode=decode, classify=trusted), options.truth


def synthetic_world(options: WorldOptions, folder: Path, videos: int, seed: int) -> tuple[LabelOptions, Path]:
    """How the synthetic web is labelled, and the folder of its exact masks; rendered below `folder` unless it is."""
    crawl = options.crawl or folder / "crawl"
    if not (crawl / "manifest.csv").exists():
        synth(SynthOptions(out=crawl, videos=videos, images=0, seed=seed))
    return _run(options, crawl / "manifest.csv"), crawl / "truth"


def _run(options: WorldOptions, source: Path) -> LabelOptions:
    return LabelOptions(
        source=str(source),
        out=Path(),
        classifier=options.classifier,
        window=WindowOptions(window_stride=7, windows="all"),
        runtimes=RuntimeOptions(threads=options.threads),
    )


def judged_windows(run: LabelOptions, networks: Networks, truth: Path) -> Iterator[JudgedWindow]:
    """Every window that has a truth, with its activation and flow."""
    rows = dict(enumerate(read_source(run.source, run.sources)))
    names = networks.classifier.info.classes
    for moving, fps in _windows(run, networks, rows):
        row = rows[moving.window.video]
        query = class_of_query(row.query, names, {})
        assert query is not None, "a window contains its query"
        true = _true_mask(truth, row, names[query], round(moving.window.frames[-1].pts_seconds * fps), moving)
        if true is not None:
            yield JudgedWindow(row.id, moving, moving.window.classes.index(query), true)


def _windows(
    run: LabelOptions, networks: Networks, rows: Mapping[int, InputRow]
) -> Iterator[tuple[MovingSoftWindow, float]]:
    """Every window with its activation and flow, and its video's frames per second."""
    names = networks.classifier.info.classes
    queries = {number: class_of_query(row.query, names, {}) for number, row in rows.items()}
    known = {number: query for number, query in queries.items() if query is not None}
    clock = StageClock()
    with DecodePool(run.decode) as pool:
        frames = pool.frames([(number, rows[number]) for number in known if not rows[number].problem])
        trusted = networks.tau is None
        scored = (
            without_scores(frames) if trusted else classify(frames, networks.classifier, run.batch_frame_count, clock)
        )
        windows = find_windows(scored, known, networks.tau, run.window, enough=pool.cancel)
        soft = activate_softly(windows, MultiScaleCams(networks.classifier, run.cam.scales), clock)
        for item in follow_both_ways(soft, networks.flow, run.motion, clock):
            if isinstance(item, MovingSoftWindow):
                yield item, item.window.frames[-1].report.fps


def _true_mask(
    truth: Path, row: InputRow, name: str, number: int, moving: MovingSoftWindow
) -> npt.NDArray[np.bool_] | None:
    stem = PurePath(row.video).stem
    for folder in (truth / row.query / stem, truth / stem):
        with suppress(FileNotFoundError):
            image = Image.open(folder / f"{number:05d}.png")
            height, width = moving.window.size_hw
            pixels = np.asarray(image.resize((width, height), Image.Resampling.NEAREST))
            return np.asarray(pixels if image.mode == "1" else pixels == CLASSES.index(name) + 1, np.bool_)
    return None
