"""The shell lines of a block: when it ends, what prepares its workers, what starts them. Pure."""

from __future__ import annotations

import shlex
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from campaign.parallel.pooling import worker_environment
from campaign.parallel.processes import MARKER
from campaign.site import Site
from campaign.site_pools import PoolConfig
from campaign.site_sizes import PoolSize

BLOCK_ENDS = "CAMPAIGN_BLOCK_ENDS"
"""Environment variable of a block's workers: when its walltime is over [s since 1970]."""
BLOCK_GRACE = "CAMPAIGN_BLOCK_GRACE"
"""Environment variable: how long before that end it takes no more tasks [s]."""
MPI_PREFIX = "CAMPAIGN_MPI_PREFIX"
"""Environment variable: the words that start a code's ranks, read by `flows.engines.code_run`."""
MPI_RANKS = "CAMPAIGN_MPI_RANKS"
"""Environment variable: how many ranks they start."""


def packages_parent() -> Path:
    """Return the folder that this process's `campaign`, and hopefully `models` and `flows`, come from."""
    return Path(__file__).resolve().parents[2]


def worker_init(site: Site, pool: PoolConfig, size: PoolSize, marker: str) -> str:
    """Return the shell lines that run before a block's manager; a line that fails ends the block."""
    environment = {
        **worker_environment(size, {**site.environment, **pool.environment}),
        **mpi_environment(pool, size),
        MARKER: marker,
    }
    if pool.provider != "local" and pool.memory_gb_per_node:
        environment["PARSL_MEMORY_GB"] = str(pool.memory_gb_per_node)
    lines = ["set -e", "umask 077", *block_ends(pool), *site.worker_init, *pool.worker_init]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    parent = packages_parent()
    if parent != Path(sysconfig.get_path("purelib")).resolve():
        # A checkout: first on the path, lest another package called `models` is found. (site-packages itself
        # must not come first: it would hide the standard library's modules behind old backports.)
        lines.append(f"export PYTHONPATH={shlex.quote(str(parent))}${{PYTHONPATH:+:$PYTHONPATH}}")
    return "\n".join(lines)


def block_ends(pool: PoolConfig) -> list[str]:
    """Return the lines that tell a block's workers when it ends; Slurm knows it best, as it may shorten a job."""
    if pool.provider == "local":
        return []
    lines = [f"export {BLOCK_GRACE}={pool.grace:.0f}"]
    if pool.provider in ("slurm", "allocation"):
        lines += [
            'if [ -z "${SLURM_JOB_END_TIME:-}" ]; then',
            '  block_end=$(timeout 20 squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e 2>/dev/null || true)',
            '  SLURM_JOB_END_TIME=$(date -d "${block_end:-unknown}" +%s 2>/dev/null'
            f" || echo $(( $(date +%s) + {pool.walltime:.0f} )))",
            "fi",
            f"export {BLOCK_ENDS}=$SLURM_JOB_END_TIME",
        ]
    else:
        lines.append(f"export {BLOCK_ENDS}=$(( $(date +%s) + {pool.walltime:.0f} ))")
    return lines


def mpi_environment(pool: PoolConfig, size: PoolSize) -> Mapping[str, str]:
    """Return the variables that make a code of a task run as several ranks; none for codes of one process."""
    if not size.ranks:
        return {}
    nodes = size.nodes_per_block
    if pool.provider in ("slurm", "allocation"):
        words = (
            f"srun --overlap --nodes={nodes} --ntasks={size.ranks} --ntasks-per-node={size.ranks // nodes} "
            f"--cpus-per-task={size.cores_per_worker}"
        )
    else:
        words = f"mpiexec -n {size.ranks}"
    return {MPI_PREFIX: words, MPI_RANKS: str(size.ranks)}


def on_every_node(command: str, pool: PoolConfig, size: PoolSize) -> str:
    """Return the command that starts the workers on all nodes of a block."""
    nodes = pool.nodes_per_block
    launcher = pool.launcher
    if launcher == "auto":
        several = "srun" if pool.provider in ("slurm", "allocation") else "mpiexec"
        launcher = "single" if nodes == 1 or size.ranks else several  # type: ignore[assignment]
    shell = f"/bin/bash -c {shlex.quote(command)}"
    if launcher == "srun":
        return (
            f"exec srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 "
            f"--cpus-per-task={size.cores_per_node} --kill-on-bad-exit=0 --mpi=none {shell}"
        )
    if launcher == "mpiexec":
        return f"exec mpiexec -n {nodes} {shell}"
    return command
