"""Renders a synthetic web to disk: videos as a crawl finds them, tagged images, and the truth beside them.

OUT/videos/<query>/<name>.mp4, OUT/manifest.csv          what the engine sees
OUT/images/{JPEGImages,SegmentationClass,ImageSets/…}    tagged still images, Pascal VOC layout
OUT/truth/<query>/<name>/00000.png …                     palette masks by frame; classes.json; shots.json
OUT/flow/<query>/<name>/{backward,forward,visible}/      exact flow, with flow_truth
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from f2f.engine.errors import UsageError
from f2f.engine.files import machine_errors
from f2f.engine.write import encode_frame, encode_mask
from f2f.training.synth.casting import random_scene
from f2f.training.synth.classes import CLASSES
from f2f.training.synth.kitti import write_kitti_flow
from f2f.training.synth.options import SynthOptions, SynthSummary
from f2f.training.synth.plan import ShotPlan, VideoPlan, plan_videos
from f2f.training.synth.scene import Rendered, Scene, exact_flow

_KEYFRAME_SECONDS = 2.0
_VISIBLE_SHARE = 0.004  # an image carries the tag of a class that covers at least this share of it
_VALIDATION_SHARE = 0.15
Task = TypeVar("Task")
Result = TypeVar("Result")


def synth(options: SynthOptions) -> SynthSummary:
    """Render the web that `options` describe; the same bytes for any number of workers.

    Raises:
        UsageError: the folder holds one already.
        MachineError: the disk does not take it.
    """
    for name in ("videos", "images", "manifest.csv"):
        if (options.out / name).exists():
            raise UsageError(f"{options.out} holds {name} already; give a new folder, or remove it first")
    with machine_errors(options.out):
        (options.out / "truth").mkdir(parents=True, exist_ok=True)
        (options.out / "truth" / "classes.json").write_text(json.dumps(CLASSES), encoding="utf-8")
        plans = plan_videos(options)
        frames = sum(_in_processes(_render_video, options, plans))
        tags = list(_in_processes(_render_image, options, range(options.images)))
        if tags:
            _write_image_lists(options.out / "images", tags)
        if plans:
            _write_manifest(options.out / "manifest.csv", plans)
    return SynthSummary(len(plans), frames, len(tags))


def _in_processes(
    work: Callable[[SynthOptions, Task], Result], options: SynthOptions, tasks: Iterable[Task]
) -> Iterator[Result]:
    """Results of `work` in the order of `tasks`, from a pool of processes."""
    listed = list(tasks)
    workers = min(options.worker_count, len(listed))
    if not listed:
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield from pool.map(work, [options] * len(listed), listed)


def _render_video(options: SynthOptions, plan: VideoPlan) -> int:
    """Render, encode and write the truth of one video; returns its number of frames."""
    path = options.out / "videos" / plan.query / f"{plan.title}.mp4"
    truth = options.out / "truth" / plan.query / plan.title
    for folder in (path.parent, truth):
        folder.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream, av.open(stream, "w", format="mp4") as container:
        video = _video_stream(container, options, plan)
        for number, rendered in enumerate(_rendered(options, plan)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(rendered.image, "rgb24")))
            (truth / f"{number:05d}.png").write_bytes(encode_mask(rendered.labels))
        container.mux(video.encode())
    shots = [{"first_frame": shot.first_frame, "frames": shot.frames, "classes": shot.classes} for shot in plan.shots]
    (truth / "shots.json").write_text(json.dumps({"kind": plan.kind, "shots": shots}, indent=1), encoding="utf-8")
    if options.flow_truth:
        _write_flow(options, plan)
    return plan.frames


def _video_stream(
    container: av.container.OutputContainer, options: SynthOptions, plan: VideoPlan
) -> av.video.stream.VideoStream:
    """The H.264 stream. Without cpu-independent, x264 decides by the processor, and with AVX-512 by unset memory."""
    rate = Fraction(options.fps).limit_denominator(1001)
    settings = {"crf": str(plan.crf), "preset": "veryfast", "threads": "1", "x264-params": "cpu-independent=1"}
    stream = container.add_stream("libx264", rate=rate, options=settings)
    stream.height, stream.width = options.size_hw
    stream.pix_fmt = "yuv420p"
    stream.codec_context.gop_size = max(1, round(_KEYFRAME_SECONDS * options.fps))
    stream.codec_context.thread_count = 1  # slices depend on the number of threads
    return stream


def _scene(options: SynthOptions, shot: ShotPlan) -> Scene:
    return random_scene(
        shot.seed, options.size_hw, classes=shot.classes, duration_seconds=max(0.5, shot.frames / options.fps)
    )


def _rendered(options: SynthOptions, plan: VideoPlan) -> Iterator[Rendered]:
    for shot in plan.shots:
        scene = _scene(options, shot)
        for frame in range(shot.frames):
            yield scene.render(frame / options.fps)


def _write_flow(options: SynthOptions, plan: VideoPlan) -> None:
    """For each frame t >= 1: flow on t's pixels to t-1 and back, and what of t is seen in t-1; nothing across cuts."""
    folder = options.out / "flow" / plan.query / plan.title
    for name in ("backward", "forward", "visible"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    everywhere, nowhere = np.ones(options.size_hw, np.bool_), np.zeros(options.size_hw, np.bool_)
    for shot in plan.shots:
        scene = _scene(options, shot)
        for frame in range(shot.frames):
            number, now = shot.first_frame + frame, frame / options.fps
            if number == 0:
                continue
            before = now - 1 / options.fps
            valid = everywhere if frame else nowhere
            backward, visible = exact_flow(scene, now, before)
            forward, _ = exact_flow(scene, before, now)
            write_kitti_flow(folder / "backward" / f"{number:05d}.png", backward, valid)
            write_kitti_flow(folder / "forward" / f"{number:05d}.png", forward, valid)
            seen = (visible & valid).astype(np.uint8) * np.uint8(255)
            Image.fromarray(seen).save(folder / "visible" / f"{number:05d}.png")


def _render_image(options: SynthOptions, number: int) -> tuple[str, ...]:
    """Render one tagged image; returns its id and its classes."""
    name = f"synth_{number:06d}"
    for attempt in range(100):
        rng = np.random.default_rng([options.seed, 3, number, attempt])
        scene = random_scene((options.seed, 4, number, attempt), options.size_hw)
        rendered = scene.render(float(rng.uniform(0.3, 2.7)))
        classes = _visible(rendered.labels)
        if classes:
            break
    else:
        raise AssertionError(f"no scene of image {number} shows a class")
    for folder, suffix, data in (
        ("JPEGImages", "jpg", encode_frame(rendered.image)),
        ("SegmentationClass", "png", encode_mask(rendered.labels)),
    ):
        path = options.out / "images" / folder / f"{name}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return name, *classes


def _visible(labels: NDArray[np.uint8]) -> list[str]:
    shares = np.bincount(labels.ravel(), minlength=len(CLASSES) + 1)[1:] / labels.size
    return [name for name, share in zip(CLASSES, shares, strict=False) if share >= _VISIBLE_SHARE]


def _write_image_lists(folder: Path, tags: Sequence[tuple[str, ...]]) -> None:
    validation = max(1, round(_VALIDATION_SHARE * len(tags)))
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", tags[:-validation]), ("val", tags[-validation:])):
        (lists / f"{name}.txt").write_text("".join(f"{image}\n" for image, *_ in part), encoding="utf-8")
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in ("background", *CLASSES)), encoding="utf-8")
    with (folder / "tags.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("id", "classes"))
        writer.writerows((image, " ".join(classes)) for image, *classes in tags)


def _write_manifest(path: Path, plans: Sequence[VideoPlan]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("video", "query", "tags"))
        writer.writerows((f"videos/{plan.query}/{plan.title}.mp4", plan.query, plan.tags) for plan in plans)
