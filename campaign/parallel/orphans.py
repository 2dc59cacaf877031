"""What a dead driver left behind: processes on this machine, jobs of batch systems. Found first, then ended.

Processes are found by the marker in their environment, jobs by their id as it was stored and by their name, which
holds the campaign's identity: a driver may die between a job's submission and the note of its id. Whoever asks must
hold the campaign's lease, so that every such job is a dead driver's. Nothing else is ever touched: an id counts only
while the job that has it has our name, since batch systems begin to count anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from campaign.errors import SiteError
from campaign.parallel.processes import MARKER, carrying, end_carrying
from campaign.parallel.queues import QueueSilentError, job_prefix, open_queue
from campaign.site import Site, pool_of, pools_with_workers


@dataclass(frozen=True)
class Orphan:
    """Something that a dead driver's pools left running."""

    provider: str
    """`local`, or the batch system."""
    id: str
    """Of the job; of local processes their common marker."""
    name: str
    """Of the job, or of the first process."""
    count: int = 1
    """Processes."""
    state: str = "running"
    """`queued` or `running`."""


def find_orphans(
    blocks: Iterable[Mapping[str, Any]], site: Site, identity: str, *, host: str
) -> list[Orphan]:
    """Find what dead drivers of a campaign left. Reads only.

    Args:
        blocks: Their blocks as documents (`Block.document`), as they were stored.
        site: The site as it is now; batch systems of the blocks are asked too, if it has changed.
        identity: `queues.campaign_identity` of the campaign.
        host: This host's name, as `platform.node()` gives it; processes of other hosts cannot be seen.

    Raises:
        SiteError: A batch system that may hold jobs does not answer, or its commands are not here.
    """
    blocks = [block for block in blocks if block.get("marker")]
    markers = {str(block["marker"]) for block in blocks if block.get("host") == host}
    found = []
    for marker in sorted(markers):
        processes = carrying(MARKER, marker)
        if processes:
            found.append(Orphan("local", marker, _name_of(processes), count=len(processes)))
    providers = {str(block.get("provider", "local")) for block in blocks if block.get("state") != "ended"}
    if not site.parsl_config:
        providers |= {str(pool_of(site, name).provider) for name in pools_with_workers(site)}
    for provider in sorted(providers - {"local", "allocation"}):
        found += _jobs(provider, blocks, site, identity)
    return found


def _jobs(provider: str, blocks: Sequence[Mapping[str, Any]], site: Site, identity: str) -> list[Orphan]:
    try:
        jobs = open_queue(provider, site).jobs()
    except QueueSilentError as error:
        raise SiteError(
            f"{provider} does not say whether a dead driver left jobs", value=str(error),
            cure="try again once it answers",
        ) from error  # fmt: skip
    stored = {
        str(block["job_id"]): str(block["marker"]) for block in blocks if block.get("provider") == provider
    }
    return [
        Orphan(provider, job.job_id, job.name, state=job.state)
        for job in jobs.values()
        if job.state != "ended"
        and (job.name.startswith(job_prefix(identity)) or _is_of(job.name, stored.get(job.job_id)))
    ]


def _is_of(name: str, marker: str | None) -> bool:
    return marker is not None and name.startswith("cg-") and name.endswith(f"-{marker}")


def end_orphans(found: Iterable[Orphan], site: Site) -> int:
    """End what was found; return how many processes and jobs that were.

    Raises:
        SiteError: A batch system does not answer.
    """
    ended = 0
    jobs: dict[str, list[str]] = {}
    for orphan in found:
        if orphan.provider == "local":
            ended += end_carrying(MARKER, orphan.id)
        else:
            jobs.setdefault(orphan.provider, []).append(orphan.id)
    for provider, job_ids in jobs.items():
        try:
            open_queue(provider, site).cancel(job_ids)
        except QueueSilentError as error:
            raise SiteError(
                f"{provider} does not cancel what a dead driver left", value=str(error),
                cure=f"try again, or cancel by hand: {' '.join(job_ids)}",
            ) from error  # fmt: skip
        ended += len(job_ids)
    return ended


def _name_of(processes: Sequence[Any]) -> str:
    try:
        return str(processes[0].name())
    except Exception:  # ended meanwhile
        return ""
