"""Metrics: how a run goes, for Prometheus; read from its progress whenever somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from f2f.engine.errors import UsageError
from f2f.engine.options import LabelOptions
from f2f.engine.pipeline import Progress

if TYPE_CHECKING:
    from prometheus_client.core import Metric

OnProgress = Callable[[Progress], None]


@contextmanager
def serve_metrics(options: LabelOptions, on_progress: OnProgress) -> Iterator[OnProgress]:
    """Serve the metrics of a run where `options` say, if they do, while the block lasts.

    Yields:
        the callback for `label`, which hands on to `on_progress`.

    Raises:
        UsageError: the port is taken, the address is not ours, or the library is not installed.
    """
    host, port = options.metrics_host, options.metrics_port
    if not port:
        yield on_progress
        return
    client = _prometheus()
    board = _Board(client)
    registry = client.CollectorRegistry()
    registry.register(board)
    try:
        server, thread = client.start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise UsageError(
            f"--metrics-port {port} at {host} cannot be opened ({error.strerror}); accepted: a port that is free, and "
            "an address of this machine for --metrics-host; give another"
        ) from error

    def note(progress: Progress) -> None:
        board.progress = progress
        on_progress(progress)

    try:
        yield note
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Board:
    """The latest progress, as what prometheus_client calls a collector."""

    def __init__(self, client: Any) -> None:
        self._core = client.core
        self.progress = Progress(0)

    def collect(self) -> Iterator[Metric]:
        """Every metric as it is now."""
        now = self.progress
        counters = {
            "inputs_settled": ("inputs with a record, those of earlier runs included", now.settled),
            "inputs_failed": ("inputs that failed in this run", now.failed),
            "frames": ("sampled frames looked at in this run", now.frames),
            "masks": ("masks written in this run", now.masks),
            "shards_committed": ("shards committed in this run", now.committed_shards),
        }
        yield self._core.GaugeMetricFamily("f2f_inputs", "inputs of the run", value=now.inputs)
        yield self._core.GaugeMetricFamily("f2f_processes", "engine processes", value=now.workers)
        for name, (what, value) in counters.items():
            yield self._core.CounterMetricFamily(f"f2f_{name}", what, value=value)
        yield self._stages(now)

    def _stages(self, now: Progress) -> Metric:
        what = "seconds of every stage: of work, of waiting for something to do, of waiting for the next stage"
        family = self._core.CounterMetricFamily("f2f_stage_seconds", what, labels=("stage", "state"))
        clock = now.clock
        for state, seconds in (
            ("busy", clock.busy_seconds),
            ("starved", clock.starved_seconds),
            ("blocked", clock.blocked_seconds),
        ):
            for stage, value in dict(seconds).items():
                family.add_metric((stage, state), value)
        metric: Metric = family
        return metric


def _prometheus() -> Any:
    try:
        import prometheus_client
        import prometheus_client.core
    except ImportError as error:
        raise UsageError("--metrics-port needs prometheus-client; install f2f[metrics]") from error
    return prometheus_client
