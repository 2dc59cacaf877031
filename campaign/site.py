"""One machine: how many workers each pool has, and what a worker needs before it starts.

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

Pools: `gpu` samples and trains, `cpu` screens, `dft` runs the label engine, here or on the workers of a FireWorks
LaunchPad (`campaign.parallel.fireworks_config`). Light: no torch, no parsl, no fireworks here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from campaign.errors import SiteError
from campaign.parallel.fireworks_config import FireworksPoolConfig, LaunchPadConfig, located_launchpad
from campaign.yaml_file import read_yaml_file

POOLS = ("gpu", "cpu", "dft")
"""Names of the pools, in the order in which they are shown."""
PROVIDERS = ("local",)
"""What starts the workers; batch systems are added here and in `campaign.parallel.parsl_pools`."""

Positive = Annotated[int, Field(ge=1)]


class PoolConfig(BaseModel):
    """One pool: workers of one resource shape, one task per worker at a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["workers"] = Field(
        default="workers",
        description="workers, started by the site; for dft also fireworks, with other keys.",
    )
    workers: Positive | Literal["auto"] = Field(
        default="auto", description="Tasks at a time; auto: from the machine."
    )
    cores_per_worker: Positive = Field(default=1, description="CPU cores (OpenMP threads) of one task.")
    accelerators: Literal["auto"] | Annotated[int, Field(ge=0)] | tuple[str, ...] = Field(
        default=0,
        description="GPUs: a number, a list of ids, 'auto' (all that are seen), 0 for none; one per worker.",
    )
    memory_gb_per_worker: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Memory of one task in GB; fewer workers start where it does not suffice."
    )


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


class Site(BaseModel):
    """One machine (see the module's docstring)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="local", min_length=1, description="How reports call this machine.")
    provider: Literal["local"] = Field(
        default="local", description="What starts the workers: local (this machine)."
    )
    pools: PoolsConfig = PoolsConfig()
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
        default=25.0, description="How long the workers may take to start [s]."
    )


class PoolSize(BaseModel):
    """What a pool becomes on this machine, after every `auto` has been worked out."""

    model_config = ConfigDict(frozen=True)

    workers: int
    """Tasks at a time."""
    cores_per_worker: int
    accelerators: tuple[str, ...] = ()
    """One id per worker, for CUDA_VISIBLE_DEVICES; empty: no GPU."""
    memory_gb_per_worker: float | None = None
    rule: str = ""
    """How the number was found, in words."""


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
        document = read_yaml_file(path)
    except (yaml.YAMLError, OSError) as error:
        raise SiteError(
            f"{path} cannot be read as YAML", value=" ".join(str(error).split()), cure="correct the file"
        ) from error
    if not isinstance(document, dict):
        raise SiteError(
            f"{path} is not a table of settings", value=document, allowed=sorted(Site.model_fields)
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
        what = "unknown key" if fault["type"] == "extra_forbidden" else fault["msg"]
        more = f" ({error.error_count()} faults in all)" if error.error_count() > 1 else ""
        secret = "launchpad" in fault["loc"]  # may hold a password
        raise SiteError(
            f"{path.name}: {place or 'site'}: {what}", value=None if secret else fault["input"], allowed=allowed,
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


def size_pools(site: Site, cores: int, gpus: tuple[str, ...]) -> dict[str, PoolSize]:
    """Work out every `auto` of a local site. Pure.

    The rule: one worker per GPU in `gpu`, or one worker on a CPU core where there is none; all cores for `dft`,
    less one where there are more than two; a quarter of them for `cpu`; at least one worker everywhere. More
    workers than cores on purpose: labels cost nearly everything, and the other pools mostly wait for them.

    Args:
        site: The site.
        cores: CPU cores that may be used.
        gpus: Ids of the CUDA devices that are seen.

    Returns:
        Pool name -> size, of the pools whose workers the site starts.

    Raises:
        SiteError: More GPUs are asked for than there are, or more workers than GPUs.
    """
    pools: dict[str, PoolConfig] = {name: getattr(site.pools, name) for name in pools_with_workers(site)}
    devices = {name: _devices(name, pool, gpus) for name, pool in pools.items()}
    # Cores that a pool's workers share; the GPUs' workers share none.
    shared = {"gpu": 1, "dft": cores - (cores > 2), "cpu": cores // 4}
    sizes = {}
    for name, pool in pools.items():
        if pool.workers == "auto":
            workers = len(devices[name]) or max(1, shared[name] // pool.cores_per_worker)
            rule = _rule(name, cores, devices[name])
        else:
            workers, rule = pool.workers, "as the site says"
        if devices[name] and workers > len(devices[name]):
            raise SiteError(
                f"pool {name}: each worker needs a GPU of its own", value=f"{workers} workers",
                allowed=f"at most {len(devices[name])} here", cure="write workers: auto",
            )  # fmt: skip
        sizes[name] = PoolSize(
            workers=workers,
            cores_per_worker=pool.cores_per_worker,
            accelerators=devices[name][:workers],
            memory_gb_per_worker=pool.memory_gb_per_worker,
            rule=rule,
        )
    return sizes


def _devices(name: str, pool: PoolConfig, gpus: tuple[str, ...]) -> tuple[str, ...]:
    wanted = pool.accelerators
    if wanted == "auto":
        return gpus
    if isinstance(wanted, tuple):
        missing = [device for device in wanted if device not in gpus]
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


def _rule(name: str, cores: int, devices: tuple[str, ...]) -> str:
    if devices:
        return f"one worker per GPU ({', '.join(devices)})"
    return {
        "gpu": "no GPU seen: one worker on the CPU",
        "dft": f"the {cores} cores, less one above two",
        "cpu": f"a quarter of {cores} cores, at least one worker",
    }[name]


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
