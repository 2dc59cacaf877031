"""`campaign recover`: what resume does before it goes on, told in advance (`--dry-run`) or done by itself.

The same functions serve `campaign resume`: `recover_left` ends what outlived a dead driver, sets its claims back and
mends files; `findings` only reads.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from campaign.actions import Train
from campaign.blocks import DRIVER, Remains
from campaign.components import spec_of
from campaign.config import CampaignConfig
from campaign.documents import CampaignStatus, LabelStatus
from campaign.errors import RunNotFoundError
from campaign.lease import Holder, holder, holding
from campaign.mending import damaged_versions, forget_versions, mend_reference, reference_damage
from campaign.parallel.fireworks_config import FireworksPoolConfig
from campaign.parallel.queues import Job, campaign_identity
from campaign.plan import Spec, plan
from campaign.recovery import project, unmade_labels
from campaign.retrying import requested
from campaign.run_folder import RunFolder, find_run, private_files
from campaign.site import Site, load_site, worker_cores
from campaign.state import CampaignState
from campaign.store import CampaignStore
from campaign.sweeping import Left, Sweep, decide, read_left, write


@dataclass(frozen=True)
class Recovered:
    """A campaign that can go on."""

    campaign: dict[str, Any]
    state: CampaignState
    sweep: Sweep
    mended: list[str]
    """What was torn in the run folder, and is whole again or will be made again."""


@dataclass(frozen=True)
class Findings:
    """What a resume would meet, each as lines for people."""

    campaign: str
    state: str
    lease: str
    live: bool
    claims: list[str]
    """Labels that are set back."""
    results: list[str]
    """Folders of jobs whose results will be adopted."""
    blocks: list[str]
    candidates: list[str]
    labels: list[str]
    """Labels that are open."""
    rounds: list[str]
    """Rounds whose choice is not made into labels yet."""
    models: list[str]
    """Versions to be trained next."""
    files: list[str]
    """Torn or foreign files, and requests."""

    def lines(self) -> list[str]:
        """Return what `campaign recover` prints."""
        lines = [f"campaign {self.campaign} is {self.state}; {self.lease}"]
        named = {
            "labels set back": self.claims, "results to adopt": self.results, "blocks to end": self.blocks,
            "candidates to mend": self.candidates, "labels to finish": self.labels,
            "choices without labels": self.rounds, "models to train": self.models, "files": self.files,
        }  # fmt: skip
        for title, ones in named.items():
            lines.append(f"{title}: {len(ones)}")
            lines += [f"  {one}" for one in ones]
        return lines

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def recover(run: Path, *, dry_run: bool) -> Findings:
    """Say what a resume would do first, and unless it is a dry run do it.

    Raises:
        RunNotFoundError: There is no campaign at `run`, or it wrote nothing yet.
        LeaseError: A driver lives (only if it is no dry run).
    """
    folder = find_run(run)
    config = folder.config()
    with folder.store() as store:
        found = findings(store, folder, config)
    if dry_run:
        return found
    with private_files(), folder.store(read_only=False) as store, holding(store, config.name):
        folder.create()
        recover_left(store, folder, config)
        folder.write_config(config)
        if found.state == CampaignStatus.RUNNING:
            fields = {"state": CampaignStatus.STOPPED.value, "reason": "its driver ended; recovered"}
            store.set_fields("campaigns", config.name, fields)
    return found


def recover_left(store: CampaignStore, folder: RunFolder, config: CampaignConfig) -> Recovered:
    """End what outlived a dead driver, set its claims back and mend what is torn; call it with the lease held.

    Raises:
        ReferenceDataError: The prepared reference is lost, and its sources have changed.
    """
    open_blocks = store.query("blocks", {"state": {"$ne": "ended"}})
    remains = remains_of(open_blocks, folder, config, end=True)
    sweep = _decided(read_left(store, folder.work, remains), folder, config)
    write(store, sweep)
    campaign = store.get("campaigns", config.name) or {}
    mended = [one for one in [mend_reference(config, folder, campaign)] if one]
    for one in mended:
        store.log_event("mended", f"{one}; it is whole again")
    state, spec = project(store, campaign), spec_of(config)
    lost = damaged_versions(state, spec, _checksums(store))
    state = forget_versions(store, state, lost)
    return Recovered(campaign, state, sweep, mended + [str(one.checkpoint) for one in lost])


def remains_of(
    documents: Iterable[Mapping[str, Any]], folder: RunFolder, config: CampaignConfig, *, end: bool
) -> dict[str, Remains]:
    """Return what is left of blocks that did not end; end it if asked.

    Local processes are found by their marker, on this host only: elsewhere their wardens have ended them. Jobs of
    batch systems are found by their id and by their name, so that one is ended whose id was not stored yet.

    Raises:
        SiteError: A batch system that may hold jobs does not answer.
    """
    from campaign.parallel.orphans import end_orphans, find_orphans

    site, identity = load_site(config.site, folder.path), campaign_identity(config.name, folder.path)
    every = [one for one in documents if one["pool"] != DRIVER]
    jobs = _jobs_of(every, site)
    orphans = find_orphans(every, site, identity, host=platform.node())
    there = {(one.provider, one.id) for one in orphans}
    if end:
        end_orphans(orphans, site)
    remains = {}
    for one in every:
        job = jobs.get((one["provider"], one["job_id"]))
        alive = (one["provider"], one["marker"] if one["provider"] == "local" else one["job_id"]) in there
        remains[one["_id"]] = Remains(alive, job.started if job else None, job.ended if job else None)
    return remains


def _jobs_of(documents: Iterable[Mapping[str, Any]], site: Site) -> dict[tuple[str, str], Job]:
    """Return (batch system, id) -> job, of those that the batch systems still tell of and that are ours."""
    from campaign.parallel.queues import QueueSilentError, open_queue

    wanted: dict[str, dict[str, str]] = {}
    for one in documents:
        if one["provider"] not in {"local", "allocation"}:
            wanted.setdefault(one["provider"], {})[one["job_id"]] = one["marker"]
    found = {}
    for provider, markers in wanted.items():
        with contextlib.suppress(QueueSilentError):  # told by `find_orphans`
            for name, job in open_queue(provider, site).jobs().items():
                if name in markers and job.name.endswith(markers[name]):
                    found[provider, name] = job
    return found


def findings(store: CampaignStore, folder: RunFolder, config: CampaignConfig) -> Findings:
    """Read what a resume would meet; nothing is written.

    Raises:
        RunNotFoundError: The store holds no campaign yet.
    """
    campaign = store.get("campaigns", config.name)
    if campaign is None:
        raise RunNotFoundError(
            "the campaign was ended before it wrote anything", value=str(folder.path),
            cure=f"begin it with `campaign resume {folder.path}`",
        )  # fmt: skip
    driver = holder(store, config.name)
    live = driver is not None and driver.is_live
    open_blocks = list(store.query("blocks", {"state": {"$ne": "ended"}}))
    remains = {} if live else remains_of(open_blocks, folder, config, end=False)
    left = read_left(store, folder.work, remains)
    sweep = Sweep() if live else _decided(left, folder, config)
    state, spec = project(store, campaign), spec_of(config)
    lost = damaged_versions(state, spec, _checksums(store))
    names = {one["_id"]: one for one in left.labels}
    return Findings(
        campaign=config.name,
        state=campaign["state"],
        lease=_lease_words(driver),
        live=live,
        claims=[_claim_words(names[name]) for name, _ in sweep.labels],
        results=[f"{names[label]['formula']}: {path}" for label, path in sweep.adopted],
        blocks=[_block_words(one, remains[one["_id"]]) for one in open_blocks if one["_id"] in remains],
        candidates=[f"{name} -> {fields['state']}" for name, fields in sweep.candidates],
        labels=list(_open_labels(state)),
        rounds=[f"round {index}: {len(chosen)} chosen" for index, chosen in unmade_labels(state).items()],
        models=_to_train(state.without_models(lost), spec),
        files=[
            *_file_words(folder, campaign, left),
            *(f"{one.checkpoint} is torn or was changed: {one.id} is trained again" for one in lost),
        ],
    )


def _decided(left: Left, folder: RunFolder, config: CampaignConfig) -> Sweep:
    site = load_site(config.site, folder.path)
    outlive = isinstance(site.pools.dft, FireworksPoolConfig)
    return decide(left, cores=None if outlive else worker_cores(site)["dft"], current=time.time())


def _checksums(store: CampaignStore) -> dict[str, str | None]:
    return {one["_id"]: one.get("sha256") for one in store.query("models", fields=["_id", "sha256"])}


def _lease_words(driver: Holder | None) -> str:
    if driver is None:
        return "nobody drives it"
    who = f"process {driver.owner.pid} of {driver.owner.user} on {driver.owner.host}"
    left = driver.ttl_s - driver.age_s
    if driver.is_live:
        return f"{who} drives it, last heard of {driver.age_s:.0f} s ago; the lease expires in {left:.0f} s"
    why = "is dead" if driver.owner.is_dead() else f"was not heard of for {driver.age_s:.0f} s"
    return f"its driver, {who}, {why}: its lease is void"


def _claim_words(label: Mapping[str, Any]) -> str:
    running = sum(job["state"] == LabelStatus.RUNNING for job in label["jobs"])
    who = f"candidate {label['candidate_id']}" if label["purpose"] == "candidate" else label["purpose"]
    what = "failed, and stays so" if label["state"] == LabelStatus.FAILED else "running -> queued"
    return f"{label['formula']} (label {label['_id']}, {who}): {what}, {running} jobs"


def _block_words(block: Mapping[str, Any], remains: Remains) -> str:
    what = f"{block['pool']} {block['block_id']}: {block['provider']} {block['job_id']} on {block['host']}"
    return f"{what}, {block['state']}, {'still there' if remains.alive else 'gone'}"


def _open_labels(state: CampaignState) -> Iterator[str]:
    for label in state.labels.values():
        if not label.final:
            left = sum(job.state != LabelStatus.DONE for job in label.jobs)
            what = f"{left} of {len(label.jobs)} jobs left" if label.jobs else "its flow is not built yet"
            yield f"{label.formula} (label {label.id}): {what}"


def _to_train(state: CampaignState, spec: Spec) -> list[str]:
    free = dict.fromkeys(("gpu", "cpu", "dft"), 1_000_000)
    wanted = plan(replace(state, stop_requested=None), spec, free, set())
    return [f"{one.model}, term {one.term}" for one in wanted if isinstance(one, Train)]


def _file_words(folder: RunFolder, campaign: Mapping[str, Any], left: Left) -> Iterator[str]:
    """Yield what is torn or foreign in the run folder, and which requests wait there."""
    if folder.is_config_torn():
        yield f"{folder.config_file} is torn: written again from the store"
    damage = reference_damage(campaign)
    if damage:
        yield f"{damage}: prepared again"
    if folder.stop_file.exists():
        yield f"{folder.stop_file} asks for a stop: resume removes it"
    for path, which in requested(folder):
        yield f"{path} " + ("is torn: removed" if which is None else "asks to try labels again")
    for trace in left.traces.values():
        if not trace.result and (Path(trace.folder) / "result.json").exists():
            yield f"{trace.folder}/result.json is torn: the job runs again"
    known = {str(label["_id"]) for label in left.labels}
    for path in sorted(folder.work.iterdir()) if folder.work.is_dir() else []:
        if not path.is_dir() or (path.name not in known and len(path.name) != 32):
            yield f"{path} is no folder of a label: left alone"
