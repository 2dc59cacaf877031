"""Keys of a site's pools: resources of a worker, and on batch systems what a block of workers asks for.

A **block** is one job of the batch system: `nodes_per_block` nodes with `workers` workers each. Blocks come and go
with the work (`campaign.parallel.scaling`). Keys of blocks may be given once for all pools, under `batch`, and again
for a pool, which then wins. Light: no torch, no parsl here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from campaign.parallel.fireworks_config import FireworksPoolConfig

Provider = Literal["local", "slurm", "pbs", "kubernetes", "allocation"]
PROVIDERS = ("local", "slurm", "pbs", "kubernetes", "allocation")
"""What starts the workers; see `campaign.parallel.providers`."""

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Word = Annotated[str, Field(pattern=r"^\S+$")]
"""One word of a batch system's directive: no blanks, no line ends."""

_CLOCK = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>[0-5]?\d)(?::(?P<seconds>[0-5]?\d))?")
_SPELT = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>s|min|minutes?|h|hours?|d|days?)")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(value: object) -> object:
    """Return a duration in seconds; what is no duration raises ValueError with the ways to write one."""
    text = str(value).strip()
    if clock := _CLOCK.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        found = float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    elif spelt := _SPELT.fullmatch(text):
        found = float(spelt["number"]) * _UNITS[spelt["unit"][0]]
    elif isinstance(value, float) and value > 0:  # seconds, as a validated site gives them back
        found = value
    else:
        raise ValueError("a duration is written as 4:00:00 (hours, minutes, seconds), 90 min, 4 h or 2 d")
    if found < 60:
        raise ValueError("a block lives for at least a minute")
    return found


Walltime = Annotated[float, BeforeValidator(seconds_of)]


class BatchKeys(BaseModel):
    """What the blocks of a pool ask of a batch system, and how many of them there may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: Word | None = Field(default=None, description="Partition of Slurm, or queue of PBS.")
    account: Word | None = Field(default=None, description="Account that is charged.")
    qos: Word | None = Field(default=None, description="Quality of service (Slurm).")
    constraint: Word | None = Field(default=None, description="Features that the nodes must have (Slurm).")
    gres: Word | None = Field(default=None, description="Generic resources of a node, such as gpu:a100:2.")
    gpus_per_node: Positive | None = Field(default=None, description="GPUs of a node.")
    walltime: Walltime = Field(
        default=14400.0,
        description="How long a block lives: 4:00:00, 90 min or 4 h. Longer than the longest task, best several times.",
    )
    grace_s: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="A block takes no task in its last seconds [s]; else 5 % of the walltime, at most 60 s.",
    )
    nodes_per_block: Positive = Field(default=1, description="Nodes of one job.")
    cores_per_node: Positive | None = Field(
        default=None, description="CPU cores asked for on a node; else what the workers need."
    )
    memory_gb_per_node: Positive | None = Field(default=None, description="Memory asked for on a node [GB].")
    exclusive: bool = Field(default=False, description="Ask for whole nodes.")
    min_blocks: Count = Field(default=0, description="Blocks that are kept without work.")
    max_blocks: Positive = Field(default=1, description="Blocks at a time, queued ones included.")
    idle_minutes: Annotated[float, Field(gt=0)] = Field(
        default=10.0, description="A block without work for so long is given back, down to min_blocks."
    )
    scheduler_options: tuple[str, ...] = Field(
        default=(), description="Further lines for the scheduler, such as --mail-type=FAIL."
    )
    launcher: Literal["auto", "single", "srun", "mpiexec"] = Field(
        default="auto",
        description="What starts the workers of a block's nodes; auto: single on one node, else srun or mpiexec.",
    )
    poll_seconds: Annotated[float, Field(ge=1)] = Field(
        default=2.0, description="How often the batch system is asked, once for all pools [s]."
    )

    lost_after_seconds: Annotated[int, Field(ge=20)] = Field(
        default=180,
        description="Workers on another node that were not heard of for so long are lost, and so is the driver to "
        "them [s]; a network or a driver's machine may hang for as long. Where the job has ended, 20 s suffice.",
    )

    @property
    def grace(self) -> float:
        """Seconds before the end of a block in which it takes no task."""
        return min(60.0, 0.05 * self.walltime) if self.grace_s is None else self.grace_s


class PoolConfig(BatchKeys):
    """One pool: workers of one resource shape, one task per worker at a time."""

    kind: Literal["workers"] = Field(
        default="workers",
        description="workers, started by the site; for dft also fireworks, with other keys.",
    )
    provider: Provider | None = Field(
        default=None, description="What starts this pool's workers, where the site's provider does not."
    )
    workers: Positive | Literal["auto"] = Field(
        default="auto", description="Tasks at a time, in a block per node; auto: from machine or node."
    )
    cores_per_worker: Positive = Field(
        default=1, description="CPU cores (OpenMP threads) of one task, or of one rank."
    )
    accelerators: Literal["auto"] | Annotated[int, Field(ge=0)] | tuple[str, ...] = Field(
        default=0,
        description="GPUs: a number, a list of ids or groups of them ('0,1'), 'auto' (all that are seen, or that "
        "a node is asked for), 0 for none; one entry per worker.",
    )
    memory_gb_per_worker: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Memory of one task in GB; fewer workers start where it does not suffice."
    )
    ranks_per_task: Positive | None = Field(
        default=None, description="MPI ranks of one code of a task; it then has a whole block for itself."
    )
    worker_init: tuple[str, ...] = Field(
        default=(), description="Shell lines after the site's own ones, before this pool's workers start."
    )
    environment: dict[str, str] = Field(
        default={}, description="Environment variables of this pool's workers, over the site's."
    )


class KubernetesKeys(BaseModel):
    """Where a site's pods run (provider kubernetes)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: Word = Field(description="Image with this software, the same version as the driver's.")
    namespace: Word = Field(default="default", description="Namespace of the pods.")
    volumes: dict[str, str] = Field(
        default={}, description="Volume claim -> folder it is mounted at; one holds the run folder."
    )
    secret: Word | None = Field(default=None, description="Secret with which the image is pulled.")
    service_account: Word | None = Field(default=None, description="Account that the pods run as.")
    gpu_resource: Word = Field(default="nvidia.com/gpu", description="What a GPU is called in limits.")


def _kind_of(pool: object) -> str:
    kind = pool.get("kind") if isinstance(pool, Mapping) else getattr(pool, "kind", None)
    return "fireworks" if kind == "fireworks" else "workers"


DftPoolConfig = Annotated[
    Annotated[PoolConfig, Tag("workers")] | Annotated[FireworksPoolConfig, Tag("fireworks")],
    Discriminator(_kind_of),
]


class PoolsConfig(BaseModel):
    """The three pools of a site."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpu: PoolConfig = PoolConfig(accelerators="auto")
    """Sampling, surrogate and training; runs on a CPU core where there is no GPU."""
    cpu: PoolConfig = PoolConfig()
    """Screening."""
    dft: DftPoolConfig = PoolConfig()
    """The label engine; `kind: fireworks` leaves it to a LaunchPad's workers."""


def with_batch(pool: PoolConfig, batch: BatchKeys, provider: Provider) -> PoolConfig:
    """Return the pool with its provider, and with the site's keys of blocks that it does not give itself.

    On a batch system a pool that does not speak of accelerators uses the GPUs that it asks for.
    """
    shared: dict[str, object] = {
        key: getattr(batch, key) for key in batch.model_fields_set - pool.model_fields_set
    }
    shared["provider"] = pool.provider or provider
    if shared["provider"] != "local" and "accelerators" not in pool.model_fields_set:
        shared["accelerators"] = "auto"
    return pool.model_copy(update=shared)


def fault_of(name: str, pool: PoolConfig, given: set[str]) -> str:
    """Return what is wrong with a pool whose keys are all known, or nothing. Pure.

    Args:
        name: The pool's name.
        pool: The pool as `with_batch` gives it.
        given: The keys that the site file gives for this pool itself.
    """
    blocks_only = sorted(given & set(BatchKeys.model_fields))
    ranks, nodes = pool.ranks_per_task or pool.nodes_per_block, pool.nodes_per_block
    faults = {
        f"{', '.join(blocks_only)}: for blocks of a batch system, but this pool's provider is local; set "
        "`provider`, or leave the keys out": pool.provider == "local" and blocks_only,
        "a block on kubernetes is one pod; leave out nodes_per_block": pool.provider == "kubernetes"
        and nodes > 1,
        f"min_blocks {pool.min_blocks} is more than max_blocks {pool.max_blocks}": pool.min_blocks
        > pool.max_blocks,
        f"grace_s {pool.grace:g} leaves nothing of the walltime, {pool.walltime:g} s": pool.grace
        >= pool.walltime,
        "a task with ranks_per_task has a block for itself; write workers: 1": pool.ranks_per_task
        and pool.provider != "local"
        and pool.workers not in (1, "auto"),
        f"{ranks} ranks do not spread evenly over {nodes} nodes": ranks % nodes,
    }
    return next((f"pool {name}: {fault}" for fault, found in faults.items() if found), "")
