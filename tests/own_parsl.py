"""A user's own Parsl configuration, as a site file names it: `parsl_config: own_parsl:config`."""

from __future__ import annotations

import parsl
from parsl.executors import HighThroughputExecutor, ThreadPoolExecutor
from parsl.providers import LocalProvider


def config() -> parsl.Config:
    """Return executors for the three pools: labels in processes, the rest in threads of the driver."""
    labels = HighThroughputExecutor(
        label="dft",
        address="127.0.0.1",
        max_workers_per_node=2,
        cores_per_worker=0.1,
        heartbeat_period=2,
        heartbeat_threshold=10,
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
    )
    threads = [ThreadPoolExecutor(label=name, max_threads=1) for name in ("gpu", "cpu")]
    return parsl.Config(executors=[*threads, labels], strategy="simple")


def without_labels() -> parsl.Config:
    """Return a configuration that lacks a pool."""
    return parsl.Config(executors=[ThreadPoolExecutor(label="gpu")])
