"""Starts and resumes campaigns: everything between the command line and the driver's loop."""

from __future__ import annotations

import os
import platform
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from campaign.components import (
    check_components,
    follow_up_settings,
    label_settings,
    reference_of,
    spec_of,
)
from campaign.config import (
    RESUMABLE,
    CampaignConfig,
    changes,
    config_document,
    config_hash,
    load_config,
    stored_config,
)
from campaign.decisions import Decider
from campaign.documents import CampaignDocument, CampaignStatus, now
from campaign.driver import Driver
from campaign.errors import CampaignError, ConfigError, LeaseError, StoreUnreachableError
from campaign.lease import Heartbeat, acquire, holder
from campaign.orders import OrderBook, model_roles
from campaign.parallel.pooling import Pools
from campaign.parallel.pools import PoolKind, open_pools
from campaign.recording import Recorder
from campaign.recovery import project, retry_failed, sweep, unmade_labels
from campaign.references.catalogue import file_sha256, load_prepared, prepare_reference
from campaign.run_folder import RunFolder, default_run_folder, find_run, located_store, private_files
from campaign.site import PoolConfig, load_site
from campaign.storage.credentials import take_from_environment
from campaign.storage.outages import Outage, Patience
from campaign.store import CampaignStore
from campaign.store_claims import claim_store, refuse_lost_store, refuse_other_campaign
from campaign.validation import check_engine
from campaign.views.progress import Progress

LEASE_TTL_S = 30.0
"""A driver that has not renewed its lease for this long counts as dead [s]."""

SIGTERM_GRACE_S = 20.0
"""Batch systems kill soon after SIGTERM: running tasks get this long, then they are cancelled [s]."""

PACKAGES = ("torch", "pymatgen", "atomate2", "jobflow", "maggma", "parsl", "chgnet", "ase", "smact", "spglib")


@dataclass(frozen=True)
class Outcome:
    """How a launch or resume ended."""

    folder: RunFolder
    status: CampaignStatus
    reason: str


def launch(config_file: Path, *, run_dir: Path | None, pools: PoolKind, progress: Progress) -> Outcome:
    """Start a campaign and run it.

    Raises:
        CampaignError: Something the user has to cure; nothing stored is harmed.
    """
    config = load_config(config_file)
    base = config_file.resolve().parent
    config = _with_absolute_paths(config, base)
    folder = RunFolder(run_dir.resolve()) if run_dir else default_run_folder(config_file, config)
    check_components(config)
    check_engine(config, load_site(config.site, base))
    if folder.config_file.exists():
        _refuse_second_launch(folder)
    reference = reference_of(config, base)
    from campaign.decisions import reference_phases

    reference_phases(config, reference)  # a reference that cannot serve is told before anything is written
    take_from_environment(config.store.uri)
    with (
        private_files(),
        CampaignStore.open(located_store(config), folder.path) as opened,
        _holding(opened, config) as (lease, patience),
    ):
        claim_store(opened, config.name)
        folder.create()
        store = opened.patient(patience)
        folder.write_config(config)  # first: with it alone, resume can already do the rest
        prepared = prepare_reference(reference, folder.path / "reference")
        _write_campaign(store, config, folder, prepared, reference.summary())
        return _drive(
            store, lease, patience, config=config, folder=folder, pool_kind=pools, progress=progress
        )


def resume(
    run: Path, *, config_file: Path | None, pools: PoolKind, progress: Progress, retry: bool = False
) -> Outcome:
    """Carry a campaign on where its documents say it is.

    Args:
        run: Its folder, or the campaign.yaml it was launched from (whose edits are then taken over).
        config_file: An edited configuration, if not `run` itself.
        pools: Kind of pools.
        progress: Where to report.
        retry: Also try the labels again that were given up.

    Raises:
        CampaignError: Something the user has to cure; nothing stored is harmed.
    """
    folder = find_run(run)
    config = launched = folder.config()
    edited = config_file or (run if run.is_file() and run.resolve() != folder.config_file else None)
    if edited is not None:
        config = _edited(config, load_config(edited), edited)
    check_components(config)
    check_engine(config, load_site(config.site, folder.path))
    refuse_lost_store(config, folder)
    take_from_environment(config.store.uri)
    with (
        private_files(),
        CampaignStore.open(located_store(config), folder.path) as opened,
        _holding(opened, config) as (lease, patience),
    ):
        folder.create()
        if config.store != launched.store:
            refuse_other_campaign(opened, launched)
        claim_store(opened, config.name)
        store = opened.patient(patience)
        if store.get("campaigns", config.name) is None:  # killed before the first write
            reference = reference_of(config, folder.path)
            prepared = prepare_reference(reference, folder.path / "reference")
            _write_campaign(store, config, folder, prepared, reference.summary())
        folder.stop_file.unlink(missing_ok=True)
        folder.write_config(config)
        if retry:
            store.log_event("retried", f"{retry_failed(store)} failed labels are tried again")
        document = stored_config(config)
        store.set_fields("campaigns", config.name, {"config": document, "config_hash": config_hash(config)})
        return _drive(
            store, lease, patience, config=config, folder=folder, pool_kind=pools, progress=progress
        )


def _drive(
    store: CampaignStore,
    lease: Heartbeat,
    patience: Patience,
    *,
    config: CampaignConfig,
    folder: RunFolder,
    pool_kind: PoolKind,
    progress: Progress,
) -> Outcome:
    """Run the driver between the first and the last write of the campaign's document."""
    swept = sweep(store)
    if any(swept.values()):
        store.log_event("swept", f"set back {swept['labels']} running labels", **swept)
    campaign = store.get("campaigns", config.name) or {}
    reference_path = campaign["reference"]["path"]
    settings, settings_hash = label_settings(config)
    _refuse_other_settings(campaign, settings_hash)
    spec = spec_of(config)
    reference, further = load_prepared(Path(reference_path)), follow_up_settings(config)
    decider = Decider(store, config, spec, reference, settings, settings_hash, further)
    state = project(store, campaign)
    for index, chosen in unmade_labels(state).items():
        state = decider.make_labels(index, chosen, state)
    _end_orphans(campaign)
    status, reason = CampaignStatus.STOPPED, "interrupted"
    site = load_site(config.site, folder.path)
    cores = site.pools.dft.cores_per_worker if isinstance(site.pools.dft, PoolConfig) else 1
    pools = open_pools(site, folder.logs, pool_kind)
    try:
        _write_begin(store, config.name, settings_hash, pools)
        driver = Driver(
            store=store,
            pools=pools,
            book=OrderBook(store, config, spec, model_roles(config), folder, reference_path, cores),
            recorder=Recorder(store, config.name, spec),
            decider=decider,
            folder=folder,
            lease=lease,
            state=state,
            on_change=progress.on_change,
        )
        patience.leaving = driver.must_leave
        patience.on_wait = lambda outage: progress.on_wait(outage, driver.kept, stopping=driver.stopping)
        progress.begin(config, folder, store, dict(pools.slots))
        with _signals(driver):
            reason = driver.run()
        status = _final_status(driver, reason)
    except CampaignError as error:
        status, reason = CampaignStatus.FAILED, error.one_line()
        patience.end()
        raise
    finally:
        progress.end()
        pools.close(cancel=True)
        if not lease.lost.is_set():
            _write_end(store, config.name, status, reason)
    return Outcome(folder, status, reason)


def _write_begin(store: CampaignStore, name: str, settings_hash: str, pools: Pools) -> None:
    blocks = [block.document() for block in pools.blocks()]
    fields = {"state": "running", "reason": "", "settings_hash": settings_hash, "blocks": blocks}
    store.set_fields("campaigns", name, fields)


def _write_end(store: CampaignStore, name: str, status: CampaignStatus, reason: str) -> None:
    store.set_fields(
        "campaigns", name, {"state": status.value, "reason": reason, "blocks": [], "updated": now()}
    )
    store.log_event("campaign_" + status.value, reason)


def _final_status(driver: Driver, reason: str) -> CampaignStatus:
    if driver.state.stop_requested:
        return CampaignStatus.STOPPED
    return CampaignStatus.FAILED if reason.startswith("the element") else CampaignStatus.FINISHED


@contextmanager
def _signals(driver: Driver) -> Iterator[None]:
    """First SIGINT or SIGTERM: drain; a second one, or the end of SIGTERM's grace: cancel what runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, _frame: Any) -> None:
        if number == signal.SIGTERM and driver.grace_s is None:
            driver.grace_s = SIGTERM_GRACE_S
        driver.request_stop("now" if driver.stopping else "drain")

    old = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def _holding(store: CampaignStore, config: CampaignConfig) -> Iterator[tuple[Heartbeat, Patience]]:
    """Hold the campaign's lease, renewed by a thread, and give it back; tell how its store's outages are borne."""
    lease, patience = acquire(store, config.name, ttl_s=LEASE_TTL_S), Patience()
    try:
        with Heartbeat(lease) as heartbeat:
            patience.limit_s, patience.guard = config.store.outage_hours * 3600, heartbeat.confirm
            patience.on_return = partial(_log_outage, store.patient(patience))
            yield heartbeat, patience
    finally:
        if not patience.gave_up:  # without a server it expires by itself
            with suppress(StoreUnreachableError):
                lease.release()


def _log_outage(store: CampaignStore, outage: Outage) -> None:
    message = f"the MongoDB server did not answer for {outage.seconds:.1f} s"
    store.log_event("store_outage", message, seconds=round(outage.seconds, 1), where=outage.where)


def _refuse_second_launch(folder: RunFolder) -> None:
    name = folder.config().name
    with folder.store() as store:
        campaign, present = store.get("campaigns", name), holder(store, name)
    if present is not None and present.is_live:
        raise LeaseError(
            f"campaign {name!r} is running: process {present.owner.pid} on {present.owner.host} drives it",
            value=str(folder.path),
            cure=f"look with `campaign status {folder.path}`, or launch with --run-dir elsewhere",
        )
    if campaign is not None:
        raise LeaseError(
            f"{folder.path} holds a campaign already ({campaign['state']})",
            value=name,
            cure=f"carry it on with `campaign resume {folder.path}`, or launch with --run-dir elsewhere",
        )


def _refuse_other_settings(campaign: dict[str, Any], settings_hash: str) -> None:
    stored = campaign.get("settings_hash")
    if stored and stored != settings_hash:
        raise ConfigError(
            "the label settings are not those the campaign was launched with",
            value=settings_hash,
            allowed=stored,
            cure="restore the engine's version and options, or launch a new campaign",
        )


def _edited(old: CampaignConfig, new: CampaignConfig, origin: Path) -> CampaignConfig:
    """Take over an edited configuration if it changes neither labels nor choices."""
    new = _with_absolute_paths(new, origin.resolve().parent)
    differing = changes(config_document(old), config_document(new))
    if differing:
        key, (before, after) = next(iter(differing.items()))
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise ConfigError(
            f"{origin}: {key} changed from {before!r}{more}: it would change what the campaign's labels mean",
            value=after,
            allowed="changes of " + ", ".join(sorted(RESUMABLE)),
            cure="undo the change, or launch a new campaign",
        )
    return new


def _with_absolute_paths(config: CampaignConfig, base: Path) -> CampaignConfig:
    """Return the configuration with every path absolute: nothing relative is ever stored."""

    def absolute(source: str) -> str:
        if source.startswith("builtin:") or source.split(":", maxsplit=1)[0] == "materials-project":
            return source
        return str((base / Path(source).expanduser()).resolve())

    reference = config.reference.model_copy(
        update={
            "crystals": tuple(map(absolute, config.reference.crystals)),
            "hull": None if config.reference.hull is None else tuple(map(absolute, config.reference.hull)),
        }
    )
    store, site = config.store, config.site
    if store.path is not None:
        store = store.model_copy(update={"path": (base / store.path.expanduser()).resolve()})
    if site != "local":
        site = absolute(site)
    return config.model_copy(update={"reference": reference, "store": store, "site": site})


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


def package_versions() -> dict[str, str]:
    """Return the versions of what decides a campaign's results."""
    found = {"python": platform.python_version()}
    for name in ("crystal-campaign", *PACKAGES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _end_orphans(campaign: dict[str, Any]) -> None:
    """End what a dead driver's pools left on this machine."""
    from campaign.parallel.processes import end_orphans

    end_orphans(campaign.get("blocks") or [], platform.node())
