"""What pools become: workers, devices and cores, after every `auto` has been worked out. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from campaign.errors import SiteError
from campaign.site_pools import PoolConfig


class PoolSize(BaseModel):
    """What a pool becomes, after every `auto` has been worked out."""

    model_config = ConfigDict(frozen=True)

    workers: int
    """Tasks at a time: here, or on each node of a block."""
    cores_per_worker: int
    accelerators: tuple[str, ...] = ()
    """One entry per worker, ids or groups of them; empty: no GPU. On batch systems they count the GPUs that the job
    was given, from 0."""
    memory_gb_per_worker: float | None = None
    rule: str = ""
    """How the number was found, in words."""
    provider: str = "local"
    nodes_per_block: int = 1
    max_blocks: int = 1
    cores_per_node: int | None = None
    """Cores that a block asks for on each of its nodes; None for local workers, which share the machine."""
    ranks: int | None = None
    """MPI ranks of one task, which has the nodes of its block for itself."""

    @property
    def slots(self) -> int:
        """Tasks at a time once every block that the site allows is there."""
        return self.max_blocks * self.workers * (1 if self.ranks else self.nodes_per_block)


def local_sizes(pools: Mapping[str, PoolConfig], cores: int, gpus: tuple[str, ...]) -> dict[str, PoolSize]:
    """Return the sizes of pools on this machine.

    The rule: one worker per GPU in `gpu`, or one worker on a CPU core where there is none; all cores for `dft`,
    less one where there are more than two; a quarter of them for `cpu`; at least one worker everywhere. More
    workers than cores on purpose: labels cost nearly everything, and the other pools mostly wait for them.

    Raises:
        SiteError: More GPUs are asked for than there are, or more workers than GPUs.
    """
    # Cores that a pool's workers share; the GPUs' workers share none.
    shared = {"gpu": 1, "dft": cores - (cores > 2), "cpu": cores // 4}
    sizes = {}
    for name, pool in pools.items():
        devices = _devices_here(name, pool, gpus)
        per_task = pool.cores_per_worker * (pool.ranks_per_task or 1)
        if pool.workers == "auto":
            workers = 1 if pool.ranks_per_task else len(devices) or max(1, shared[name] // per_task)
            rule = _rule(name, cores, devices)
        else:
            workers, rule = pool.workers, "as the site says"
        _one_device_each(name, workers, devices, "here")
        sizes[name] = PoolSize(
            workers=workers,
            cores_per_worker=pool.cores_per_worker,
            accelerators=devices[:workers],
            memory_gb_per_worker=pool.memory_gb_per_worker,
            rule=rule,
            ranks=pool.ranks_per_task,
        )
    return sizes


def batch_size(name: str, pool: PoolConfig) -> PoolSize:
    """Return the size of a pool on a batch system, whose nodes nobody can look at from here.

    Raises:
        SiteError: More workers than GPUs.
    """
    devices = _devices_asked(pool)
    if pool.ranks_per_task:
        workers, rule = 1, f"one task of {pool.ranks_per_task} ranks per block"
    elif pool.workers != "auto":
        workers, rule = pool.workers, "as the site says"
    elif devices:
        workers, rule = len(devices), "one worker per GPU of a node"
    elif pool.cores_per_node:
        workers, rule = max(1, pool.cores_per_node // pool.cores_per_worker), "a node's cores"
    else:
        workers, rule = 1, "one, as neither GPUs nor cores_per_node are given"
    _one_device_each(name, workers, devices, "on a node")
    ranks_per_node = (pool.ranks_per_task or workers) // (pool.nodes_per_block if pool.ranks_per_task else 1)
    return PoolSize(
        workers=workers,
        cores_per_worker=pool.cores_per_worker,
        accelerators=devices[:workers]
        if not pool.ranks_per_task
        else (",".join(devices),)
        if devices
        else (),
        memory_gb_per_worker=pool.memory_gb_per_worker,
        rule=rule,
        provider=str(pool.provider),
        nodes_per_block=pool.nodes_per_block,
        max_blocks=pool.max_blocks,
        cores_per_node=pool.cores_per_node or ranks_per_node * pool.cores_per_worker,
        ranks=pool.ranks_per_task,
    )


def gpus_asked(pool: PoolConfig) -> int:
    """Return how many GPUs a block asks for on a node: from `gpus_per_node`, or from `gres`."""
    in_gres = re.search(r"\bgpu(?::[A-Za-z][\w.-]*)?:(\d+)", pool.gres or "")
    return pool.gpus_per_node or (int(in_gres.group(1)) if in_gres else 0)


def _devices_asked(pool: PoolConfig) -> tuple[str, ...]:
    if isinstance(pool.accelerators, tuple):
        return pool.accelerators
    number = gpus_asked(pool) if pool.accelerators == "auto" else pool.accelerators
    return tuple(str(i) for i in range(number))


def _devices_here(name: str, pool: PoolConfig, gpus: tuple[str, ...]) -> tuple[str, ...]:
    wanted = pool.accelerators
    if wanted == "auto":
        return gpus
    if isinstance(wanted, tuple):
        missing = [one for group in wanted for one in group.split(",") if one.strip() not in gpus]
        if missing:
            raise SiteError(
                f"pool {name}: these GPUs are not seen here", value=missing, allowed=list(gpus) or "none",
                cure="correct `accelerators`, or write auto",
            )  # fmt: skip
        return wanted
    if wanted > len(gpus):
        raise SiteError(
            f"pool {name}: not as many GPUs here", value=wanted, allowed=f"at most {len(gpus)}",
            cure="write accelerators: auto, which also works without a GPU",
        )  # fmt: skip
    return gpus[:wanted]


def _one_device_each(name: str, workers: int, devices: tuple[str, ...], where: str) -> None:
    if devices and workers > len(devices):
        raise SiteError(
            f"pool {name}: each worker needs a GPU of its own", value=f"{workers} workers",
            allowed=f"at most {len(devices)} {where}", cure="write workers: auto",
        )  # fmt: skip


def _rule(name: str, cores: int, devices: tuple[str, ...]) -> str:
    if devices:
        return f"one worker per GPU ({', '.join(devices)})"
    return {
        "gpu": "no GPU seen: one worker on the CPU",
        "dft": f"the {cores} cores, less one above two",
        "cpu": f"a quarter of {cores} cores, at least one worker",
    }[name]
