"""Job: what a run computes with, on what, and everything that decides its results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import torch

from f2f.engine import nvdec
from f2f.engine.background import Saliency, open_saliency
from f2f.engine.classify import Classifier
from f2f.engine.decoder import choose_decoder
from f2f.engine.errors import UsageError
from f2f.engine.flow import Flow, open_flow
from f2f.engine.options import LabelOptions, pinned
from f2f.engine.places import is_url
from f2f.engine.source import class_of_query, printable, read_query_map, read_source
from f2f.engine.types import InputRow

_PAPER = {"tau": 0.9, "theta_f": 0.2}


@dataclass(frozen=True)
class Networks:
    """What a run computes with, opened once."""

    classifier: Classifier
    flow: Flow
    saliency: Saliency
    tau: float | None
    """None: the query is trusted"""
    theta_f: float


@dataclass(frozen=True)
class Job:
    """What `f2f label` is asked for, opened."""

    options: LabelOptions
    networks: Networks
    rows: Sequence[InputRow]
    """the source as it is now"""
    query_map: Mapping[str, str]

    @classmethod
    def open(cls, options: LabelOptions) -> Job:
        """Open networks and source.

        Raises:
            UsageError: they cannot be used.
        """
        networks = open_networks(options)
        names = networks.classifier.info.classes
        query_map = read_query_map(options.sources.query_map, names)
        job = cls(options, networks, read_source(options.source, options.sources), query_map)
        refuse_foreign_queries(job.rows, job.channels(job.rows), names)
        return job

    def channels(self, rows: Sequence[InputRow]) -> dict[int, int | None]:
        """Number of each input -> channel of its query's class; None where it is no class."""
        names = self.networks.classifier.info.classes
        queries = {row.query for row in rows}  # few, whatever the number of rows
        channel_of = {query: class_of_query(query, names, self.query_map) for query in queries}
        return {number: channel_of[row.query] for number, row in enumerate(rows)}

    @property
    def decisive(self) -> dict[str, Any]:
        """Everything that decides results, JSON-ready: what `run.json` pins."""
        networks, options = self.networks, self.options
        resolved = {"tau": networks.tau, "theta_f": networks.theta_f, "theta_b": networks.saliency.theta_b}
        info = networks.classifier.info
        return {
            "f2f": version("f2f"),
            "options": {
                **pinned(options),
                **resolved,
                "threads": options.runtimes.thread_count,
                "batch_frames": options.batch_frame_count,
            },
            "networks": {
                "classifier": {"sha256": info.fingerprint, "runtime": info.runtime},
                "flow": {"sha256": networks.flow.fingerprint, "runtime": networks.flow.description},
                "saliency": {"sha256": networks.saliency.fingerprint, "runtime": networks.saliency.description},
            },
            "decoder": ", ".join(_decoder(options.decode.decoder)),
            "classes": list(info.classes),
            "query_map": dict(self.query_map),
        }

    def with_decoder(self, pinned: Callable[[], object]) -> Job:
        """The same with a decoder that is decided on; `pinned`: what the run pins of it, None where it is new.

        Raises:
            UsageError: a GPU is asked for and cannot decode.
        """
        decode = self.options.decode
        if "cpu" in self.options.spread.device_list and decode.decoder == "auto":  # some workers see no GPU
            decode = replace(decode, decoder="cpu")
        decoder = choose_decoder(decode, self.rows, pinned)
        return replace(self, options=replace(self.options, decode=replace(decode, decoder=decoder)))

    @property
    def given(self) -> dict[str, str | None]:
        """Where source and networks lie, JSON-ready: what `f2f show` opens again; decides nothing, so is not pinned."""
        options, query_map = self.options, self.options.sources.query_map
        return {
            "source": options.source if is_url(options.source) else str(Path(options.source).absolute()),
            "classifier": _absolute(options.classifier),
            "flow": _absolute(options.flow),
            "saliency": _absolute(options.saliency),
            "query_map": str(query_map.absolute()) if query_map else None,
        }


def open_networks(options: LabelOptions) -> Networks:
    """Open what `options` names; thresholds that are not given are the network's own, else the paper's."""
    torch.set_num_threads(options.runtimes.thread_count)
    classifier = Classifier.open(options.classifier, options.runtimes)
    defaults = {**_PAPER, **classifier.info.defaults}
    tau = defaults["tau"] if options.classify.tau is None else options.classify.tau
    theta_f = defaults["theta_f"] if options.cam.theta_f is None else options.cam.theta_f
    return Networks(
        classifier,
        open_flow(options.flow, options.runtimes),
        open_saliency(options.saliency, options.background.theta_b, options.runtimes),
        None if options.classify.trust_query else tau,
        theta_f,
    )


def _decoder(chosen: str) -> Iterator[str]:
    yield f"PyAV {av.__version__}"
    yield f"libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"
    if chosen == "cuda":
        yield nvdec.description()


def refuse_foreign_queries(rows: Sequence[InputRow], queries: Mapping[int, int | None], classes: Sequence[str]) -> None:
    """Refuse a source of which no query is a class; one strange query is a record of its own.

    Raises:
        UsageError: the classifier or the spelling is wrong.
    """
    if all(channel is None for channel in queries.values()) and any(not row.problem for row in rows):
        found = sorted({printable(row.query) for row in rows if row.query})
        raise UsageError(
            f"no query is a class of the classifier; queries: {', '.join(found[:10])}; classes: {', '.join(classes)}; "
            "name the class of each query in a JSON file for --query-map, or give another --classifier"
        )


def _absolute(network: str) -> str:
    """The absolute path of a network file; words such as `demo`, which have no suffix, as they are."""
    return str(Path(network).absolute()) if Path(network).suffix else network
