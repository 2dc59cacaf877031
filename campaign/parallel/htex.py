"""Parsl's HighThroughputExecutor as the campaign uses it: one per pool.

What is done differently from its defaults, and why:

* It listens on one address; without one it would listen on all interfaces. Traffic is encrypted.
* The interchange is ours (`campaign.parallel.interchange`), which places tasks by the time that blocks have left. It
  runs in a session of its own (Ctrl-C) and is bound to the driver's life; each block runs under a warden
  (`campaign.parallel.processes`).
* How many blocks there are is decided in `campaign.parallel.scaling`.
* Interpreter and scripts are named by absolute path, so neither PATH nor an activated environment matters.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD

from campaign.parallel import block_start
from campaign.parallel.processes import detached_command, warden_command
from campaign.parallel.providers import AllocationBlocks, LocalBlocks, QueueBlocks
from campaign.site_sizes import PoolSize

HEARTBEAT_PERIOD_S = 3
"""How often a manager looks after its workers: a dead one is reported within this time."""
HEARTBEAT_THRESHOLD_S = 20
"""Silence after which a manager on this machine counts as lost; on contended cores one may be late by several seconds.
On other nodes the site says it (`lost_after_seconds`): a hitch of the network must not end what runs there."""
ANSWER_S = 60.0
"""How long the interchange may take to answer before it counts as lost [s]."""


class PoolExecutor(HighThroughputExecutor):
    """The executor of one pool."""

    def validate_resource_spec(self, resource_specification: dict[str, Any]) -> None:
        """Let `expected_s` pass to the interchange, beside what Parsl knows."""
        known = {key: value for key, value in resource_specification.items() if key != "expected_s"}
        super().validate_resource_spec(known)

    def connected_managers(self) -> list[dict[str, Any]]:
        """Return the managers; an interchange that hangs raises instead of hanging its caller."""
        managers: list[dict[str, Any]] = self.command_client.run("MANAGERS", timeout_s=ANSWER_S)
        return managers

    def connected_blocks(self) -> list[str]:
        """Return the ids of all blocks whose managers ever answered."""
        blocks: list[str] = self.command_client.run("CONNECTED_BLOCKS", timeout_s=ANSWER_S)
        return blocks


def executor_of(
    name: str, size: PoolSize, provider: LocalBlocks | QueueBlocks, *, address: str, marker: str, bind: bool
) -> PoolExecutor:
    """Return a pool's executor.

    Args:
        name: The pool's name.
        size: Its workers.
        provider: What starts its blocks.
        address: What it listens on.
        marker: That of this driver's pools.
        bind: Whether the kernel may bind the interchange to this thread's life: of the main thread only.
    """
    import parsl.executors.high_throughput as htex

    scripts = Path(htex.__file__).parent
    python = shlex.quote(sys.executable)
    worker_pool = f"{python} -P {shlex.quote(str(scripts / 'process_worker_pool.py'))}"
    start = f"{python} -P {shlex.quote(str(block_start.__file__))} -- "
    command = start + DEFAULT_LAUNCH_CMD.replace("process_worker_pool.py", worker_pool, 1)
    here = provider.beside_driver
    silence_s = (
        provider.pool.lost_after_seconds
        if isinstance(provider, AllocationBlocks | QueueBlocks)
        else HEARTBEAT_THRESHOLD_S
    )
    return PoolExecutor(
        label=name,
        address=address,
        provider=provider,
        launch_cmd=warden_command(
            DEFAULT_LAUNCH_CMD.replace("process_worker_pool.py", worker_pool, 1) if here else command,
            folder="{logdir}",
            here=here,
        ),
        interchange_launch_cmd=detached_command(
            [sys.executable, "-P", str(Path(__file__).with_name("interchange.py"))], marker, bind=bind
        ),
        # The number of workers is ours to say; were this a real number of cores, Parsl would start fewer
        # workers on a machine with fewer cores, and none on one with fewer than a single worker wants.
        cores_per_worker=1e-3,
        max_workers_per_node=size.workers,
        mem_per_worker=size.memory_gb_per_worker,
        available_accelerators=list(size.accelerators),
        heartbeat_period=HEARTBEAT_PERIOD_S,
        heartbeat_threshold=silence_s,
        block_error_handler=False,
        encrypted=True,
    )
