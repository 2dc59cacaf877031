"""Faults that are done to a campaign on the test-bed, each by what really causes it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import mongo_server
import psutil
from slurm_campaign import SlurmCampaign

AWAY_S = 8.0
"""How long a server or a node stays away [s]."""


@dataclass(frozen=True)
class Injection:
    """A fault that was done."""

    fault: str
    time: float
    """When it struck, in seconds since 1970."""
    done: float
    """When the machine was as before (a server back, a node again in use, a driver started anew)."""


def _told(campaign: SlurmCampaign, variable: str) -> list[str]:
    """Return what Slurm told the workers that compute a label just now, such as their job's id or their node."""
    found = set()
    for one in campaign.running():
        with contextlib.suppress(psutil.Error):
            found.add(psutil.Process(one.pid).environ().get(variable, ""))
    return sorted(found - {""})


def block_cancelled(campaign: SlurmCampaign, dice: random.Random) -> None:
    """Cancel a block of the label pool, as a user or a preemption does."""
    campaign.cluster.cancel(dice.choice(_told(campaign, "SLURM_JOB_ID")))


def worker_killed(campaign: SlurmCampaign, dice: random.Random) -> None:
    """Kill a worker in the middle of a label's job."""
    os.kill(dice.choice(campaign.running()).pid, signal.SIGKILL)


def node_drained(campaign: SlurmCampaign, dice: random.Random) -> None:
    """Take a node out of service: what runs there goes on, nothing new begins there."""
    node = dice.choice(_told(campaign, "SLURMD_NODENAME"))
    campaign.cluster.drain(node)
    time.sleep(AWAY_S)
    campaign.cluster.undrain(node)


def node_failed(campaign: SlurmCampaign, dice: random.Random) -> None:
    """Lose a node with everything that runs on it."""
    node = dice.choice(_told(campaign, "SLURMD_NODENAME"))
    campaign.cluster.kill_node(node)
    campaign.cluster.down(node)
    time.sleep(AWAY_S)
    campaign.cluster.start_node(node)


def walltime_expired(campaign: SlurmCampaign, dice: random.Random) -> None:
    """Let a block's time end earlier than its workers know: the batch system ends it in the middle of its work."""
    campaign.cluster.expire(dice.choice(_told(campaign, "SLURM_JOB_ID")))


def mongod_killed(campaign: SlurmCampaign, dice: random.Random) -> None:
    """Kill the database server, and start it again a while later."""
    mongo_server.kill(campaign.server)
    time.sleep(dice.uniform(1.0, AWAY_S))
    binary = mongo_server.find_mongod()
    assert binary is not None
    campaign.server.process = mongo_server.start(binary, campaign.server.folder, campaign.server.port).process


def driver_killed(campaign: SlurmCampaign, dice: random.Random) -> None:
    """Kill the driver, and resume the campaign."""
    campaign.kill_driver()
    time.sleep(dice.uniform(0.0, 3.0))
    campaign.start("resume")


FAULTS: dict[str, Callable[[SlurmCampaign, random.Random], None]] = {
    "block cancelled": block_cancelled,
    "worker killed": worker_killed,
    "node drained": node_drained,
    "node failed": node_failed,
    "walltime expired": walltime_expired,
    "mongod killed": mongod_killed,
    "driver killed": driver_killed,
}


def may_strike(campaign: SlurmCampaign) -> bool:
    """Return whether there is something to hit: workers in the middle of labels' jobs."""
    return not campaign.ended and bool(_told(campaign, "SLURM_JOB_ID"))


def inject(fault: str, campaign: SlurmCampaign, dice: random.Random) -> Injection:
    """Do a fault."""
    begun = time.time()
    FAULTS[fault](campaign, dice)
    return Injection(fault, begun, time.time())
