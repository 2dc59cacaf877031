"""One site: a machine or a cluster, how many workers each pool has, and what a worker needs before it starts.

A site file is YAML; every key is optional (the built-in site `local` is all of them left out)::

    name: workstation
    provider: local
    pools:
      gpu: {workers: auto, accelerators: auto}
      cpu: {workers: 4, cores_per_worker: 1}
      dft: {workers: 2, cores_per_worker: 4, memory_gb_per_worker: 16}
    worker_init:
      - source ~/dft/env.sh
    environment: {GPAW_SETUP_PATH: /opt/setups}

On a cluster `provider` names the batch system, and `batch` and the pools say what a job asks for
(`campaign.site_pools`; commented examples are in deploy/sites)::

    provider: slurm
    batch: {account: my_project, walltime: "12:00:00"}
    pools:
      gpu: {partition: gpu, gpus_per_node: 4, max_blocks: 2}
      cpu: {provider: local, workers: 2}
      dft: {partition: cpu, workers: 16, cores_per_worker: 8, max_blocks: 20}

Pools: `gpu` samples and trains, `cpu` screens, `dft` runs the label engine, here or on the workers of a FireWorks
LaunchPad (`campaign.parallel.fireworks_config`). Light: no torch, no parsl, no fireworks here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from campaign.errors import SiteError
from campaign.parallel.fireworks_config import FireworksPoolConfig, LaunchPadConfig, located_launchpad
from campaign.site_driver import DriverConfig
from campaign.site_pools import (
    PROVIDERS,
    BatchKeys,
    KubernetesKeys,
    PoolConfig,
    PoolsConfig,
    Provider,
    fault_of,
    with_batch,
)
from campaign.site_sizes import PoolSize, batch_size, local_sizes
from campaign.storage.credentials import shown
from campaign.yaml_file import read_yaml_file

POOLS = ("gpu", "cpu", "dft")
"""Names of the pools, in the order in which they are shown."""


class Site(BaseModel):
    """One machine (see the module's docstring)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="local", min_length=1, description="How reports call this machine.")
    provider: Provider = Field(
        default="local",
        description="What starts the workers: this machine, a batch system, or (allocation) the Slurm job that the "
        "driver itself runs in.",
    )
    pools: PoolsConfig = PoolsConfig()
    batch: BatchKeys = Field(
        default=BatchKeys(),
        description="Keys of blocks that hold for every pool which does not give them itself.",
    )
    address: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="What the driver listens on for workers on other nodes: loopback, the name of an interface, or "
        "an IP address; else the one address that leads to the batch system. Never all of them.",
    )
    kubernetes: KubernetesKeys | None = Field(
        default=None, description="Where pods run (provider kubernetes)."
    )
    driver: DriverConfig | None = Field(
        default=None, description="The batch job that `campaign launch FILE --detach` lets the driver run in."
    )
    worker_init: tuple[str, ...] = Field(
        default=(),
        description="Shell lines before the workers start ('module load ...'); one that fails is an error.",
    )
    environment: dict[str, str] = Field(default={}, description="Environment variables of the workers.")
    parsl_config: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = Field(
        default=None,
        description="'module:function' that returns your own parsl.Config with executors gpu, cpu and dft; "
        "the pools above are then not used.",
    )
    start_timeout_s: Annotated[float, Field(gt=0)] = Field(
        default=25.0, description="How long local workers may take to start [s]."
    )

    @model_validator(mode="after")
    def _pools_agree(self) -> Self:
        for name in POOLS:
            pool = getattr(self.pools, name)
            if not isinstance(pool, PoolConfig):
                continue
            fault = fault_of(name, with_batch(pool, self.batch, self.provider), pool.model_fields_set)
            if fault:
                raise PydanticCustomError("pools", "{fault}", {"fault": fault})
            if "kubernetes" in (pool.provider, self.provider) and self.kubernetes is None:
                raise PydanticCustomError("pools", "provider kubernetes needs `kubernetes: {image: ...}`")
        return self


def load_site(value: str, base_dir: Path) -> Site:
    """Return the site that `value` names.

    Args:
        value: `local`, or the path of a site file.
        base_dir: Folder against which a relative path is read (that of campaign.yaml).

    Raises:
        SiteError: No such site, not YAML, or a key or value that a site does not know.
    """
    if value == "local":
        return Site()
    path = base_dir / Path(value).expanduser()
    if not path.is_file():
        raise SiteError(
            "there is no such site", value=value, allowed=["local", "the path of a site file (.yaml)"],
            cure=f"create {path}, or write site: local",
        )  # fmt: skip
    try:
        document = read_yaml_file(path, clock_times=True)
    except (yaml.YAMLError, OSError) as error:
        raise SiteError(
            f"{path} cannot be read as YAML", value=" ".join(str(error).split()), cure="correct the file"
        ) from error
    if not isinstance(document, dict):
        raise SiteError(
            f"{path} is not a table of settings", value=shown(document), allowed=sorted(Site.model_fields)
        )
    site = _checked(document, path)
    if isinstance(site.pools.dft, FireworksPoolConfig):
        dft = located_launchpad(site.pools.dft, path.parent)
        site = site.model_copy(update={"pools": site.pools.model_copy(update={"dft": dft})})
    return site


def _checked(document: Mapping[str, object], path: Path) -> Site:
    """Return the document as a `Site`, or raise its first fault in one line."""
    try:
        return Site.model_validate({"name": path.stem, **document})
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"] if str(part) in _known_words(document))
        allowed: object = None
        if fault["type"] == "extra_forbidden":
            allowed = _fields_at(fault["loc"])
        elif "provider" in fault["loc"]:
            allowed = PROVIDERS
        what = (
            "unknown key"
            if fault["type"] == "extra_forbidden"
            else fault["msg"].removeprefix("Value error, ")
        )
        more = f" ({error.error_count()} faults in all)" if error.error_count() > 1 else ""
        secret = "launchpad" in fault["loc"]  # may hold a password
        hidden = secret or fault["type"] == "pools"  # where the value would be the whole file
        raise SiteError(
            f"{path.name}: {place or 'site'}: {what}", value=None if hidden else shown(fault["input"]), allowed=allowed,
            cure=f"correct {path}{more}",
        ) from error  # fmt: skip


def _known_words(document: object) -> set[str]:
    """Return all keys and list positions of a document: pydantic's places also name branches of unions."""
    if isinstance(document, Mapping):
        return {str(key) for key in document} | {
            w for value in document.values() for w in _known_words(value)
        }
    if isinstance(document, list):
        return {str(i) for i in range(len(document))} | {w for value in document for w in _known_words(value)}
    return set()


def _fields_at(place: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are allowed beside the unknown key at `place`."""
    blocks: dict[Any, type[BaseModel]] = {
        "batch": BatchKeys,
        "kubernetes": KubernetesKeys,
        "driver": DriverConfig,
    }
    if place[0] in blocks and len(place) > 1:
        return sorted(blocks[place[0]].model_fields)
    if place[:1] != ("pools",) or len(place) == 1:
        return sorted(Site.model_fields)
    if len(place) == 2:
        return sorted(POOLS)
    if "launchpad" in place[:-1]:
        return sorted(LaunchPadConfig.model_fields)
    return sorted((FireworksPoolConfig if "fireworks" in place else PoolConfig).model_fields)


def pools_with_workers(site: Site) -> tuple[str, ...]:
    """Return the names of the pools whose workers the site starts: all, but for one on a LaunchPad."""
    return tuple(name for name in POOLS if isinstance(getattr(site.pools, name), PoolConfig))


def worker_cores(site: Site) -> dict[str, int]:
    """Return pool -> cores of one task of it, all its ranks together; 1 where others start its workers."""
    pools = {name: getattr(site.pools, name) for name in POOLS}
    return {
        name: one.cores_per_worker * (one.ranks_per_task or 1) if isinstance(one, PoolConfig) else 1
        for name, one in pools.items()
    }


def pool_of(site: Site, name: str) -> PoolConfig:
    """Return a pool whose workers the site starts: with its provider, and with the site's keys of blocks."""
    return with_batch(getattr(site.pools, name), site.batch, site.provider)


def labels_on_one_machine(site: Site) -> bool:
    """Tell whether all labels' jobs run on the driver's machine, and so share its memory."""
    if site.parsl_config or "dft" not in pools_with_workers(site):
        return False  # nobody tells where those run
    return pool_of(site, "dft").provider == "local"


def size_pools(site: Site, cores: int, gpus: tuple[str, ...]) -> dict[str, PoolSize]:
    """Work out every `auto` of a site. Pure.

    Args:
        site: The site.
        cores: CPU cores of this machine that may be used.
        gpus: Ids of the CUDA devices that are seen on this machine.

    Returns:
        Pool name -> size, of the pools whose workers the site starts.

    Raises:
        SiteError: More GPUs are asked for than there are, or more workers than GPUs.
    """
    pools = {name: pool_of(site, name) for name in pools_with_workers(site)}
    here = local_sizes({n: pool for n, pool in pools.items() if pool.provider == "local"}, cores, gpus)
    return {name: here[name] if name in here else batch_size(name, pool) for name, pool in pools.items()}


def cores_available() -> int:
    """Return the CPU cores that this process may use: affinity mask and container limit respected."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no limit ("max"), or no control groups
        pass
    return cores


def gpus_visible(environment: Mapping[str, str], device_folder: Path = Path("/dev")) -> tuple[str, ...]:
    """Return the ids of the CUDA devices that a worker may use, without importing torch.

    Args:
        environment: The process's environment: a batch system's CUDA_VISIBLE_DEVICES is kept to.
        device_folder: Where the driver's device files are.
    """
    numbers = sorted(int(p.name[6:]) for p in device_folder.glob("nvidia[0-9]*") if p.name[6:].isdigit())
    if not numbers:
        return ()
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name for part in visible.split(",") if (name := part.strip()) and name != "-1")
    # CUDA counts the devices it sees from 0, whatever their files are called.
    return tuple(str(i) for i in range(len(numbers)))
