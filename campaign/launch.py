"""Starts and resumes campaigns: everything between the command line and the driver's loop."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from campaign.blocks import BlockBook
from campaign.components import (
    follow_up_settings,
    label_settings,
    reference_of,
    rung_hashes,
    spec_of,
)
from campaign.config import CampaignConfig, config_hash, stored_config
from campaign.decisions import Decider
from campaign.documents import CampaignDocument, CampaignStatus, now
from campaign.driver import Driver
from campaign.errors import CampaignError
from campaign.lease import Heartbeat
from campaign.orders import OrderBook, model_roles
from campaign.parallel.pooling import Pools
from campaign.parallel.pools import PoolKind, PoolMaker, open_pools
from campaign.parallel.queues import campaign_identity
from campaign.preparing import held_store, prepare_launch, prepare_resume
from campaign.recording import Recorder
from campaign.recover import recover_left
from campaign.recovery import unmade_climbs, unmade_labels
from campaign.references.catalogue import file_sha256, load_prepared, prepare_reference
from campaign.refusals import refuse_changes, refuse_other_settings
from campaign.retrying import retry_failed
from campaign.run_folder import (
    RunFolder,
    remove,
)
from campaign.site import Site, labels_on_one_machine, load_site, worker_cores
from campaign.state import CampaignState
from campaign.storage.credentials import take_from_environment
from campaign.storage.outages import Patience
from campaign.store import CampaignStore
from campaign.task_times import TaskTimes
from campaign.usage import kept_sums
from campaign.versions import package_versions
from campaign.views.progress import Progress

if TYPE_CHECKING:
    pass

SIGTERM_GRACE_S = 20.0
"""Batch systems kill soon after SIGTERM: running tasks get this long, then they are cancelled [s]."""


@dataclass(frozen=True)
class Outcome:
    """How a launch or resume ended."""

    folder: RunFolder
    status: CampaignStatus
    reason: str
    interrupted_by: str = ""
    """Name of the signal that asked the driver to stop, '' if none did."""


def launch(
    config_file: Path, *, run_dir: Path | None, pools: PoolKind | PoolMaker, progress: Progress
) -> Outcome:
    """Start a campaign and run it.

    Raises:
        CampaignError: Something the user has to cure; nothing stored is harmed.
    """
    config, folder, reference = prepare_launch(config_file, run_dir)
    take_from_environment(config.store.uri)
    with held_store(config, folder, new=True) as (store, lease, patience):
        folder.write_config(config)  # first: with it alone, resume can already do the rest
        prepared = prepare_reference(reference, folder.path / "reference")
        _write_campaign(store, config, folder, prepared, reference.summary())
        return _drive(
            store, lease, patience, config=config, folder=folder, pool_kind=pools, progress=progress
        )


def resume(
    run: Path,
    *,
    config_file: Path | None,
    pools: PoolKind | PoolMaker,
    progress: Progress,
    retry: bool = False,
    grace_s: float = SIGTERM_GRACE_S,
) -> Outcome:
    """Carry a campaign on where its documents say it is.

    Args:
        run: Its folder, or the campaign.yaml it was launched from (whose edits are then taken over).
        config_file: An edited configuration, if not `run` itself.
        pools: Kind of pools, or what makes them.
        progress: Where to report.
        retry: Also try the labels again that were given up.
        grace_s: How long running tasks get after SIGTERM or SIGUSR1 [s].

    Raises:
        CampaignError: Something the user has to cure; nothing stored is harmed.
    """
    config, folder, launched = prepare_resume(run, config_file)
    torn = folder.is_config_torn()
    take_from_environment(config.store.uri)
    with held_store(config, folder, new=False, launched=launched) as (store, lease, patience):
        campaign = store.get("campaigns", config.name)
        if campaign is None:  # killed before the first write
            reference = reference_of(config, folder.path)
            prepared = prepare_reference(reference, folder.path / "reference")
            _write_campaign(store, config, folder, prepared, reference.summary())
        else:
            refuse_changes(campaign["config"], config, config_file or folder.config_file)
        remove(folder.stop_file)
        if torn:
            store.log_event("mended", f"{folder.config_file} was torn, and was written again")
        folder.write_config(config)
        if retry:
            retry_failed(store)
        document = stored_config(config)
        store.set_fields("campaigns", config.name, {"config": document, "config_hash": config_hash(config)})
        return _drive(
            store,
            lease,
            patience,
            config=config,
            folder=folder,
            pool_kind=pools,
            progress=progress,
            grace_s=grace_s,
        )


def _drive(
    store: CampaignStore,
    lease: Heartbeat,
    patience: Patience,
    *,
    config: CampaignConfig,
    folder: RunFolder,
    pool_kind: PoolKind | PoolMaker,
    progress: Progress,
    grace_s: float = SIGTERM_GRACE_S,
) -> Outcome:
    """Run the driver between the first and the last write of the campaign's document."""
    site, identity = load_site(config.site, folder.path), campaign_identity(config.name, folder.path)
    start = _recovered(store, config, folder, site)
    status, reason, signals = CampaignStatus.STOPPED, "interrupted", list[str]()
    blocks, pools = BlockBook(store, config.name, lease.lease.epoch), None
    blocks.begin()
    try:
        pools = _opened(pool_kind, site, folder, identity)
        blocks.look(pools.blocks())
        begun = {"state": "running", "reason": "", "settings_hash": start.decider.settings_hash}
        marks = {"epoch": lease.lease.epoch, "rung_hashes": rung_hashes(config)}
        store.set_fields("campaigns", config.name, begun | marks)
        driver = _driver(
            start, pools=pools, blocks=blocks, lease=lease, cores=worker_cores(site), progress=progress
        )
        patience.leaving = driver.must_leave
        patience.on_wait = lambda outage: progress.on_wait(outage, driver.kept, stopping=driver.stopping)
        progress.begin(config, folder, store, dict(pools.slots))
        for warning in store.warnings():
            store.log_event("warning", warning)  # shown, as every event
        with _signals(driver, grace_s) as signals:
            reason = driver.run()
        status = _final_status(driver, reason)
    except CampaignError as error:
        status, reason = CampaignStatus.FAILED, error.one_line()
        patience.end()
        raise
    finally:
        progress.end()
        _close(pools)
        if not lease.lost.is_set():
            blocks.end(pools.blocks() if pools else [], "its driver ended")
            _write_end(store, config.name, status, reason)
    return Outcome(folder, status, reason, signals[0] if signals else "")


@dataclass(frozen=True)
class _Start:
    """Where a driver begins, once everything that a dead one left was set right."""

    folder: RunFolder
    campaign: dict[str, Any]
    decider: Decider
    state: CampaignState


def _recovered(store: CampaignStore, config: CampaignConfig, folder: RunFolder, site: Site) -> _Start:
    """Set right what a dead driver left."""
    recovered = recover_left(store, folder, config)
    campaign, state = recovered.campaign, recovered.state
    settings, settings_hash = label_settings(config)
    refuse_other_settings(campaign, settings_hash, rung_hashes(config))
    reference, further = load_prepared(Path(campaign["reference"]["path"])), follow_up_settings(config)
    spec = replace(spec_of(config), one_machine=labels_on_one_machine(site))
    decider = Decider(store, config, spec, reference, settings, settings_hash, further)
    for index, chosen in unmade_labels(state).items():
        state = decider.make_labels(index, chosen, state)
    for name in unmade_climbs(store):
        state = decider.make_climbs(name, state)
    return _Start(folder, campaign, decider, state)


def _driver(
    start: _Start,
    *,
    pools: Pools,
    blocks: BlockBook,
    lease: Heartbeat,
    cores: Mapping[str, int],
    progress: Progress,
) -> Driver:
    """Return the driver, with all that it works with."""
    decider, campaign, folder = start.decider, start.campaign, start.folder
    store, config, spec = decider.store, decider.config, decider.spec
    path = campaign["reference"]["path"]
    return Driver(
        store=store,
        pools=pools,
        book=OrderBook(store, config, spec, model_roles(config), folder, path, cores["dft"]),
        recorder=Recorder(store, config.name, spec),
        decider=decider,
        folder=folder,
        lease=lease,
        blocks=blocks,
        state=start.state,
        times=TaskTimes.of(store, config, campaign, cores["dft"]),
        on_change=progress.on_change,
        cores=cores,
        tasks=kept_sums(campaign.get("usage") or {}),
        warned=dict(campaign.get("warned") or {}),
    )


def _opened(kind: PoolKind | PoolMaker, site: Site, folder: RunFolder, identity: str) -> Pools:
    return open_pools(site, folder.logs, kind, identity) if isinstance(kind, str) else kind(site)


def _close(pools: Pools | None) -> None:
    if pools is not None:
        pools.close(cancel=True)


def _write_end(store: CampaignStore, name: str, status: CampaignStatus, reason: str) -> None:
    fields = {"state": status.value, "reason": reason, "updated": now()}
    store.set_fields("campaigns", name, fields)
    store.log_event("campaign_" + status.value, reason)


def _final_status(driver: Driver, reason: str) -> CampaignStatus:
    if driver.state.stop_requested:
        return CampaignStatus.STOPPED
    return CampaignStatus.FAILED if reason.startswith("the element") else CampaignStatus.FINISHED


@contextmanager
def _signals(driver: Driver, grace_s: float) -> Iterator[list[str]]:
    """First SIGINT, SIGTERM or SIGUSR1: drain; a second one, or the end of the grace: cancel what runs.

    Batch systems send SIGTERM, or SIGUSR1 if asked to, some time before they kill. Yields the names of the signals
    that came.
    """
    received: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def on_signal(number: int, _frame: Any) -> None:
        received.append(signal.Signals(number).name)
        if number != signal.SIGINT and driver.grace_s is None:
            driver.grace_s = grace_s
        driver.request_stop("now" if driver.stopping else "drain")

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    old = {number: signal.signal(number, on_signal) for number in numbers}
    signal.pthread_sigmask(
        signal.SIG_UNBLOCK, {signal.SIGUSR1}
    )  # one that came during the start is dealt with now
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _write_campaign(
    store: CampaignStore, config: CampaignConfig, folder: RunFolder, prepared: Path, summary: str
) -> None:
    document = CampaignDocument(
        id=config.name,
        name=config.name,
        config=stored_config(config),
        config_hash=config_hash(config),
        seed=config.seed,
        run_dir=str(folder.path),
        versions=package_versions(),
        reference={"path": str(prepared), "sha256": file_sha256(prepared), "summary": summary},
        created=now(),
    ).doc()
    store.insert_new("campaigns", [document])
    store.log_event("launched", f"campaign {config.name} on {socket.gethostname()} (process {os.getpid()})")
