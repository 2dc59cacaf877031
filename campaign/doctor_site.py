"""The part of `campaign doctor` that starts a site's pools and asks a worker of each, where it runs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from campaign.doctor import NEEDED_FREE_GB, Check
from campaign.errors import CampaignError, SiteError
from campaign.parallel.fireworks_config import FireworksPoolConfig, LaunchPadConfig
from campaign.parallel.preflight import compare, probe
from campaign.parallel.survey import Survey, survey_pools
from campaign.site import Site, load_site, pools_with_workers

CLOCK_S = 30.0
"""Clocks that differ by more confuse people who read logs [s]; ages are measured by the store's clock alone."""


def check_site(site: str, folder: Path, limit_s: float, tell: Callable[[str], None]) -> list[Check]:
    """Start the site's pools and have a worker of every one describe itself.

    Args:
        site: `local`, or a site file.
        folder: Where run folders are kept: logs, scripts and a file for the workers to find are left there meanwhile.
        limit_s: How long the workers may take to answer, the wait in a queue included [s].
        tell: Called with a line about what is waited for.
    """
    try:
        return _site_rows(load_site(site, folder), folder, limit_s, tell)
    except CampaignError as error:
        found = error.what if error.value is None else f"{error.what}: {error.value}"
        return [Check(f"site {site}", False, found, error.cure)]
    except OSError as error:
        return [Check(f"site {site}", False, str(error), "go to a folder that you can write to")]


def _site_rows(site: Site, folder: Path, limit_s: float, tell: Callable[[str], None]) -> list[Check]:
    from campaign.parallel.pooling import site_sizes
    from campaign.parallel.pools import open_pools

    rules = {} if site.parsl_config else {name: size.rule for name, size in site_sizes(site).items()}
    scratch = Path(
        tempfile.mkdtemp(prefix=".campaign-doctor-", dir=folder)
    )  # on the disk of runs, not in /tmp
    try:
        pools = open_pools(site, scratch / "logs")
        try:
            surveys = survey_pools(pools, pools_with_workers(site), scratch, limit_s, tell)
            slots = dict(pools.slots)
        finally:
            pools.close(cancel=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    here = probe()
    rows = [
        row
        for one in surveys
        for row in pool_rows(one, here, slots[one.pool], rules.get(one.pool, ""), folder)
    ]
    rows.append(Check("database on nodes", True, "not needed: workers talk to the driver alone"))
    dft = site.pools.dft
    return [*rows, _launchpad_row(dft)] if isinstance(dft, FireworksPoolConfig) else rows


def pool_rows(survey: Survey, here: Mapping[str, Any], slots: int, rule: str, folder: Path) -> list[Check]:
    """Return the rows of one pool. Pure.

    Args:
        survey: What its worker said.
        here: `preflight.probe` of this process.
        slots: Tasks that the pool runs at a time.
        rule: How that number was found.
        folder: Where runs are kept.
    """
    name = f"pool {survey.pool}"
    there = survey.answer
    if there is None:
        cure = (
            "look into the queue; --wait waits longer"
            if "queued" in survey.failure
            else "correct the site file"
        )
        return [Check(name, False, survey.failure, cure)]
    node = f" (node {there['node']})" if there["node"] else ""
    gpus = f", {', '.join(there['gpus'])}" if there["gpus"] else ""
    found = (
        f"{slots} worker{'s' if slots > 1 else ''}{f' ({rule})' if rule else ''} on {there['host']}{node}, "
        f"Python {there['python']}{gpus}; answered after {survey.seconds:.0f} s"
    )
    rows = [Check(name, True, found), _packages_row(survey.pool, there, here)]
    rows += [
        Check(
            f"{name}: {engine}",
            ok,
            f"there: {what}",
            f"install it where pool {survey.pool} runs",
            optional=True,
        )
        for engine, ok, what in there["engines"]
    ]
    free = there["scratch_free_gb"]
    ahead = survey.clock_ahead_s
    return [
        *rows,
        Check(
            f"{name}: run folders", there["shared"],
            f"{folder} is {'the same' if there['shared'] else 'not seen'} there",
            "keep runs on a disk that login and compute nodes share",
        ),
        Check(
            f"{name}: scratch", free >= NEEDED_FREE_GB, f"{free:.1f} GB free in {there['scratch']}",
            "set TMPDIR under `environment` of the site file to a disk with more space", optional=True,
        ),
        Check(
            f"{name}: clock", abs(ahead) <= CLOCK_S,
            f"agrees within {max(1.0, abs(ahead)):.0f} s" if abs(ahead) <= CLOCK_S else f"{ahead:+.0f} s",
            "have the machine's clocks set by NTP", optional=True,
        ),
    ]  # fmt: skip


def _packages_row(pool: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> Check:
    name = f"pool {pool}: packages"
    try:
        compare(pool, there, here)
    except SiteError as error:
        return Check(name, False, f"{error.what}: {error.value}; here {error.allowed}", error.cure)
    return Check(name, True, f"from {there['parents']['campaign']}, all versions as here")


def _launchpad_row(dft: FireworksPoolConfig) -> Check:
    """Return what is known of a pool on a LaunchPad, which has answered; its workers come and go by themselves."""
    from campaign.parallel.launchpad import fireworks_version

    where = dft.launchpad.where() if isinstance(dft.launchpad, LaunchPadConfig) else str(dft.launchpad)
    marks = [f"{word} {mark}" for word, mark in (("category", dft.category), ("worker", dft.fworker)) if mark]
    found = f"{dft.slots} Fireworks at a time{''.join(f', {mark}' for mark in marks)}; FireWorks {fireworks_version()}"
    note = dft.launchpad.note if isinstance(dft.launchpad, LaunchPadConfig) else ""
    return Check("pool dft", True, f"{found}, LaunchPad {where} answers{f'; {note}' if note else ''}")
