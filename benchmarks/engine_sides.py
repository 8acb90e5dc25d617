"""The sides of the engine's benchmark, each run in a process of its own: the script, f2f, f2f without a cause."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from engine_networks import bundled_classifier, bundled_flow, dis_flow, imagenet_classifier, network_flow
from engine_script import Settings, label_videos
from torch import Tensor, nn

from f2f.engine import classify, flow, label, pipeline, window
from f2f.engine.job import Job
from f2f.engine.options import DecodeOptions, LabelOptions, RuleOptions, RuntimeOptions
from f2f.engine.pool import DecodePool
from f2f.engine.prefetch import Lanes
from f2f.engine.runtimes.network import NetworkInfo
from f2f.engine.runtimes.open import bundled, open_network
from f2f.engine.stage import StageClock
from f2f.engine.write import voc_palette

SCRIPTS = ("script", "frugal script")
INT8 = "f2f int8"
ALONE = "stages alone"
CAUSES = ("overlap", "leaving out", "runtime", "kernels")
"""overlap: stages at the same time; leaving out: frames that can be in no window, activation that the scan saw;
runtime: ONNX Runtime instead of eager torch; kernels: C++ instead of torch (chosen by the process's environment)"""


@dataclass(frozen=True)
class Workload:
    """What is labelled, and with what."""

    name: str
    source: str
    classifier: str
    """network file, or demo"""
    flow: str
    """demo or dis"""
    weights: str = ""
    """of the torchvision network that `classifier` was exported from"""
    classes: str = ""
    smaller: tuple[str, str] = ("", "")
    """classifier and flow in 8 bits where that passes its gates, as above where not"""

    def options(self, out: Path, int8: bool = False) -> LabelOptions:
        """As f2f is asked."""
        classifier, flow_network = self.smaller if int8 else (self.classifier, self.flow)
        return LabelOptions(
            source=self.source,
            out=out,
            classifier=classifier,
            flow=flow_network,
            saliency="none",
            aggregation=RuleOptions(rule="paper"),
            runtimes=RuntimeOptions(threads=torch.get_num_threads()),
        )

    def modules(self) -> tuple[nn.Module, nn.Module | None]:
        """Classifier and flow as torch modules; no flow network where OpenCV's is used."""
        if self.classifier == "demo":
            classifier = bundled_classifier(bundled("classifier"))
        else:
            classifier = imagenet_classifier("squeezenet1_0", Path(self.weights), Path(self.classes))
        return classifier, bundled_flow(bundled("flow")) if self.flow == "demo" else None


def side(name: str, work: Workload, out: Path) -> dict[str, Any]:
    """Run a side; what it took and wrote."""
    shutil.rmtree(out, ignore_errors=True)
    if name in SCRIPTS:
        return _script(work, out, frugal=name == SCRIPTS[1])
    if name == ALONE:
        stages = _stages_alone(work, out)
        return {"seconds": sum(stages.values()), "stages": stages}
    with _without(name.removeprefix("f2f without "), work):
        start = time.perf_counter()
        summary = label(work.options(out, int8=name == INT8))
        seconds = time.perf_counter() - start
    spent = summary.account
    assert spent is not None, "there was something to do"
    return {
        "seconds": seconds,
        "videos": summary.inputs,
        "masks": summary.masks,
        "cores_busy": spent.cores_busy,
        "held_up_by": spent.bottleneck,
    }


def _script(work: Workload, out: Path, frugal: bool) -> dict[str, Any]:
    job = Job.open(work.options(out))  # for the inputs, and the thresholds that the networks bring along
    channels = job.channels(job.rows)
    videos = [(Path(row.location), channel) for n, row in enumerate(job.rows) if (channel := channels[n]) is not None]
    classifier, network = work.modules()
    flows = network_flow(network) if network else dis_flow()
    settings = Settings(job.networks.tau, job.networks.theta_f, frugal=frugal)
    out.mkdir(parents=True)
    with torch.inference_mode():
        start = time.perf_counter()
        masks = label_videos(videos, classifier, flows, settings, voc_palette(), out)
        return {"seconds": time.perf_counter() - start, "videos": len(job.rows), "masks": masks}


@contextmanager
def _without(cause: str, work: Workload) -> Iterator[None]:
    """f2f as it would be without a cause of its speed; the process is not used for anything else."""
    if cause == "overlap":
        _replace(Lanes, "prefetch", lambda _, items, *__: items)
    elif cause == "leaving out":
        _replace(classify.Wanted, "enough_of_shot", lambda *_: None)
        _replace(pipeline, "_scouted", lambda frames, *_: frames)
        _replace(window, "_all_of", lambda _: None)
    elif cause == "runtime":
        classifier, network = work.modules()
        _replace(classify, "open_network", _eagerly(open_network, classifier))
        _replace(flow, "open_network", _eagerly(open_network, network))
    yield


def _replace(owner: object, name: str, value: object) -> None:
    assert hasattr(owner, name), f"{owner} has no {name} any more"
    setattr(owner, name, value)


class _Eager:
    """A torch module behind the interface of exported networks."""

    def __init__(self, module: nn.Module, info: NetworkInfo) -> None:
        self.info, self._module = info, module

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            found = self._module(batch)
        return (found,) if isinstance(found, Tensor) else tuple(found)


def _eagerly(opener: Callable[..., Any], module: nn.Module | None) -> Callable[..., Any]:
    def open_(*given: Any) -> Any:
        network = opener(*given)
        return _Eager(module, network.info) if module is not None else network

    return open_


@contextmanager
def _busy_of_process(clock: StageClock, stage: str) -> Iterator[None]:
    """Count CPU time of the whole process, not time: right where nothing else runs in it."""
    start = time.process_time()
    try:
        yield
    finally:
        clock.busy_seconds[stage] = clock.busy_seconds.get(stage, 0.0) + time.process_time() - start


def _stages_alone(work: Workload, out: Path) -> dict[str, float]:
    """CPU seconds of every stage while no other runs: decoding by itself, then one after the other."""
    options = replace(work.options(out), decode=DecodeOptions(decoders=1))
    decode = _cpu_of_decoding(options)
    _replace(Lanes, "prefetch", lambda _, items, *__: items)
    _replace(StageClock, "busy", _busy_of_process)
    clocks: list[StageClock] = []
    label(options, lambda progress: clocks.append(progress.clock))
    return {"decode": decode, **{stage: s for stage, s in clocks[-1].busy_seconds.items() if stage != "decode"}}


def _cpu_of_decoding(options: LabelOptions) -> float:
    rows = [(number, row) for number, row in enumerate(Job.open(options).rows) if not row.problem]
    before = _children_cpu()
    with DecodePool(options.decode) as pool:
        for _ in pool.frames(rows):
            pass
    return _children_cpu() - before


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
