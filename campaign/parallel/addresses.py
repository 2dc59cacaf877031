"""The one address that the driver listens on for workers on other nodes; never all of them.

Without a choice in the site file it is the address from which this machine talks to the first compute node; where
that cannot be told, the address that this host's name stands for.
"""

from __future__ import annotations

import ipaddress
import socket

import psutil  # type: ignore[import-untyped]  # comes with parsl

from campaign.errors import SiteError
from campaign.parallel.queues import run_command

LOOPBACK = "127.0.0.1"


def listening_address(wanted: str | None, provider: str) -> str:
    """Return the address for the workers of a pool.

    Args:
        wanted: The site's `address`: `loopback`, the name of an interface, an IP address, or None to find one.
        provider: What starts the pool's workers; local ones always get loopback.

    Raises:
        SiteError: There is no such interface or address here, or none is found.
    """
    if provider == "local" or wanted == "loopback":
        return LOOPBACK
    here = _addresses()
    if wanted in here:
        return here[wanted]
    if wanted is not None:
        if wanted in here.values() or _is_loopback(wanted):
            return wanted
        raise SiteError(
            "this machine has no such interface or address", value=wanted,
            allowed=["loopback", *(f"{name} ({address})" for name, address in here.items())],
            cure="correct `address`, or leave it out",
        )  # fmt: skip
    found = _towards(_first_node()) if provider in ("slurm", "allocation") else None
    found = found or _of_host_name()
    if found is None and len(here) == 1:
        (found,) = here.values()
    if found is None:
        raise SiteError(
            "no address is found that compute nodes can reach",
            allowed=[f"{name} ({address})" for name, address in here.items()] or "none here",
            cure="name the interface towards the nodes: `address: <interface>` in the site file",
        )
    return found


def _addresses() -> dict[str, str]:
    """Return interface -> IPv4 address of this machine, loopback left out."""
    return {
        name: entry.address
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family == socket.AF_INET and not _is_loopback(entry.address)
    }


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _first_node() -> str | None:
    """Return the address of Slurm's first node."""
    listed = run_command(["sinfo", "--noheader", "--Node", "--format=%o"]).stdout.split()
    return listed[0] if listed else None


def _towards(host: str | None) -> str | None:
    """Return the address of this machine from which packets to `host` leave; nothing is sent."""
    if host is None:
        return None
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            address = str(probe.getsockname()[0])
    except OSError:
        return None
    return address if address != "0.0.0.0" else None


def _of_host_name() -> str | None:
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        return None
    return None if _is_loopback(address) else address
