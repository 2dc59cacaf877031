"""Pools on the nodes of the Slurm job that the driver itself runs in: one big job instead of many.

Each block gets nodes of its own from the job's list, and a job step (`srun`) that starts its workers there. What is
left of the job is all the time there is; when it ends, `campaign resume` in the next job goes on.
"""

from __future__ import annotations

import os
import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from campaign.errors import SiteError
from campaign.parallel.queues import QueueSilentError, answer
from campaign.parallel.slurm import end_of_job
from campaign.site import POOLS, Site, pool_of, pools_with_workers
from campaign.site_pools import PoolConfig
from campaign.site_sizes import PoolSize


@dataclass
class Allocation:
    """The job that this process runs in."""

    free: list[str]
    """Names of the nodes that no block has."""
    ends: float
    """When the job ends [s since 1970]."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of_this_job(cls, site: Site, environment: Mapping[str, str] = os.environ) -> Allocation:
        """Return it.

        Raises:
            SiteError: This process runs in no Slurm job, or in one with too few nodes for the site's pools.
        """
        job, nodes = environment.get("SLURM_JOB_ID"), environment.get("SLURM_JOB_NODELIST")
        if not job or not nodes:
            raise SiteError(
                "provider allocation: this driver does not run in a Slurm job",
                cure="start it with sbatch or in salloc, or write provider: slurm",
            )
        try:
            names = answer(["scontrol", "show", "hostnames", nodes], "scontrol").split()
        except QueueSilentError as error:
            raise SiteError(
                "this job's nodes are not known", value=str(error), cure="load Slurm's module"
            ) from error
        needed = nodes_needed(site)
        if sum(needed.values()) > len(names):
            raise SiteError(
                "the pools ask for more nodes than this job has", value=needed, allowed=f"{len(names)} nodes together",
                cure="lower max_blocks or nodes_per_block, let pools be provider: local, or ask for a larger job",
            )  # fmt: skip
        return cls(names, end_of_job(job, environment) or time.time() + longest(site))

    def take(self, number: int) -> tuple[str, ...]:
        """Return nodes that no other block gets before they are given back."""
        with self._lock:
            if len(self.free) < number:
                raise RuntimeError(f"{number} nodes are wanted, {len(self.free)} of this job are free")
            taken, self.free = (
                tuple(self.free[-number:]),
                self.free[:-number],
            )  # the driver is on the first one
        return taken

    def give_back(self, nodes: Sequence[str]) -> None:
        """Take nodes back from a block that has ended."""
        with self._lock:
            self.free += nodes


def nodes_needed(site: Site) -> dict[str, int]:
    """Return pool -> nodes, of the pools that share the driver's job. Pure."""
    pools = {name: pool_of(site, name) for name in POOLS if name in pools_with_workers(site)}
    return {
        name: pool.nodes_per_block * pool.max_blocks
        for name, pool in pools.items()
        if pool.provider == "allocation"
    }


def longest(site: Site) -> float:
    """Return the longest walltime that the site gives [s]: all that is known where Slurm tells no end."""
    return max(pool_of(site, name).walltime for name in pools_with_workers(site))


def on_nodes(command: str, nodes: Sequence[str], pool: PoolConfig, size: PoolSize) -> str:
    """Return the command that starts the workers on these nodes of the job; on the first one for a task of ranks."""
    number = 1 if size.ranks else len(nodes)
    return (
        f"exec srun --overlap --nodelist={','.join(nodes[:number])} --nodes={number} --ntasks={number} "
        f"--ntasks-per-node=1 --cpus-per-task={size.cores_per_node} --kill-on-bad-exit=0 --mpi=none "
        f"/bin/bash -c {shlex.quote(_own_nodes(nodes, pool, size) + command)}"
    )


def _own_nodes(nodes: Sequence[str], pool: PoolConfig, size: PoolSize) -> str:
    """Return the shell words that keep the ranks of a task to the block's nodes."""
    if not size.ranks or pool.provider != "allocation":
        return ""
    return f'export CAMPAIGN_MPI_PREFIX="$CAMPAIGN_MPI_PREFIX --nodelist={",".join(nodes)}"; '
