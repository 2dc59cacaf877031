"""Sites and tasks for the tests of pools on a real Slurm."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from slurm_cluster import SlurmCluster

from campaign.parallel.parsl_pools import ParslPools
from campaign.parallel.processes import MARKER, carrying
from campaign.parallel.queues import campaign_identity
from campaign.site import Site

HERE = Path(__file__).parent
LOCAL = {"provider": "local"}


def slurm_site(**pools: Mapping[str, object]) -> Site:
    """Return a site on Slurm; pools that get no task start no block."""
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    return Site.model_validate({"provider": "slurm", "environment": {"PYTHONPATH": path}, "pools": pools})


@contextlib.contextmanager
def pools_on(slurm: SlurmCluster, folder: Path, **pools: Mapping[str, object]) -> Iterator[ParslPools]:
    """Run pools, and see that nothing of them is left."""
    started = ParslPools(slurm_site(**pools), folder / "pools", campaign_identity("test", folder))
    try:
        yield started
    finally:
        started.close(cancel=True)
        slurm.wait_for(lambda: not slurm.live_jobs())
        assert carrying(MARKER, started.marker) == []


def where_and_nap(seconds: float) -> dict[str, str | None]:
    """Sleep, and tell what this worker was given."""
    time.sleep(seconds)
    names = (
        "SLURM_JOB_ID",
        "SLURMD_NODENAME",
        "CUDA_VISIBLE_DEVICES",
        "CAMPAIGN_BLOCK_ENDS",
        "SLURM_JOB_GPUS",
    )
    return {"pid": str(os.getpid()), **{name: os.environ.get(name) for name in names}}
