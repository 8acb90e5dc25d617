"""A run on a Ray cluster of this machine, to be called in a process of its own.

Ray's threads outlive `ray.shutdown()`, and may end their process once the cluster is gone.
"""

from __future__ import annotations

from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from f2f.engine import Progress, label
from f2f.engine.options import LabelOptions, SpreadOptions


def label_while_a_node_is_killed(options: LabelOptions, told: Connection) -> None:
    """Label on a head without cores and two nodes with one each; tells how many videos are ok, how many nodes died."""
    from ray import cluster_utils

    cluster: Any = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        nodes = [cluster.add_node(wait=False, num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes(timeout=120)
        killed: list[Any] = []

        def kill_a_node(progress: Progress) -> None:
            if progress.committed_shards and not killed:
                killed.append(nodes.pop())
                cluster.remove_node(killed[0], allow_graceful=False)

        spread = SpreadOptions(ray=cluster.address)
        summary = label(replace(options, spread=spread), kill_a_node)
        told.send((summary.ok, len(killed)))  # before the cluster ends, and maybe this process with it
    finally:
        cluster.shutdown()
