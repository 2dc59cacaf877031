"""What the driver listens on."""

from __future__ import annotations

import socket

import psutil
import pytest
from slurm_cluster import SlurmCluster

from campaign.errors import SiteError
from campaign.parallel.addresses import LOOPBACK, listening_address

INTERFACES = {
    name: entry.address
    for name, entries in psutil.net_if_addrs().items()
    for entry in entries
    if entry.family == socket.AF_INET and not entry.address.startswith("127.")
}


def test_local_pools_listen_on_loopback_whatever_the_site_says() -> None:
    assert listening_address(None, "local") == LOOPBACK
    assert listening_address("10.1.2.3", "local") == LOOPBACK


def test_an_address_that_is_not_here_is_refused_with_those_that_are() -> None:
    with pytest.raises(SiteError, match="no such interface or address") as caught:
        listening_address("no-such-interface", "slurm")
    for name in ("loopback", *INTERFACES):
        assert name in str(caught.value)


@pytest.mark.skipif(not INTERFACES, reason="this machine has loopback alone")
def test_an_interface_may_be_named_or_given_by_its_address() -> None:
    for name, address in INTERFACES.items():
        assert listening_address(name, "slurm") == listening_address(address, "pbs") == address


def test_loopback_may_be_chosen() -> None:
    assert listening_address("loopback", "slurm") == LOOPBACK
    assert listening_address("127.0.0.1", "slurm") == LOOPBACK


def test_without_a_choice_it_is_the_one_that_leads_to_the_nodes(slurm: SlurmCluster) -> None:
    assert slurm.run("sinfo", "-h", "-N", "-o", "%o").split()[0] == LOOPBACK
    assert listening_address(None, "slurm") == LOOPBACK
