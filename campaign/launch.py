"""Starts and resumes campaigns: everything between the command line and the driver's loop."""

from __future__ import annotations

import os
import platform
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from campaign.blocks import BlockBook
from campaign.components import (
    check_components,
    follow_up_settings,
    label_settings,
    reference_of,
    spec_of,
)
from campaign.config import CampaignConfig, config_document, config_hash, load_config, stored_config
from campaign.decisions import Decider
from campaign.documents import CampaignDocument, CampaignStatus, now
from campaign.driver import Driver
from campaign.errors import CampaignError
from campaign.lease import Heartbeat, holding
from campaign.orders import OrderBook, model_roles
from campaign.parallel.pooling import Pools
from campaign.parallel.pools import PoolKind, open_pools
from campaign.recording import Recorder
from campaign.recover import recover_left
from campaign.recovery import unmade_labels
from campaign.references.catalogue import file_sha256, load_prepared, prepare_reference
from campaign.refusals import (
    refuse_changes,
    refuse_foreign_store,
    refuse_lost_store,
    refuse_other_settings,
    refuse_second_launch,
)
from campaign.retrying import retry_failed
from campaign.run_folder import RunFolder, default_run_folder, find_run, located_store, remove
from campaign.site import load_site, worker_cores
from campaign.store import CampaignStore
from campaign.usage import kept_sums
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
        refuse_second_launch(folder)
    reference = reference_of(config, base)
    from campaign.decisions import reference_phases

    reference_phases(config, reference)  # a reference that cannot serve is told before anything is written
    with CampaignStore.open(located_store(config), folder.path) as store:
        refuse_foreign_store(store)
        folder.create()
        with holding(store, config.name, LEASE_TTL_S) as lease:
            folder.write_config(config)  # first: with it alone, resume can already do the rest
            prepared = prepare_reference(reference, folder.path / "reference")
            _write_campaign(store, config, folder, prepared, reference.summary())
            return _drive(store, lease, config=config, folder=folder, pool_kind=pools, progress=progress)


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
    edited = config_file or (run if run.is_file() and run.resolve() != folder.config_file else None)
    torn = folder.is_config_torn()
    if edited is not None:
        config = _with_absolute_paths(load_config(edited), edited.resolve().parent)
        if not torn:
            refuse_changes(config_document(folder.config()), config, edited)
    else:
        config = folder.config()
    check_components(config)
    check_engine(config, load_site(config.site, folder.path))
    refuse_lost_store(config, folder)
    folder.create()
    with (
        CampaignStore.open(located_store(config), folder.path) as store,
        holding(store, config.name, LEASE_TTL_S) as lease,
    ):
        campaign = store.get("campaigns", config.name)
        if campaign is None:  # killed before the first write
            reference = reference_of(config, folder.path)
            prepared = prepare_reference(reference, folder.path / "reference")
            _write_campaign(store, config, folder, prepared, reference.summary())
        else:
            refuse_changes(campaign["config"], config, edited or folder.config_file)
        remove(folder.stop_file)
        if torn:
            store.log_event("mended", f"{folder.config_file} was torn, and was written again")
        folder.write_config(config)
        if retry:
            retry_failed(store)
        document = stored_config(config)
        store.set_fields("campaigns", config.name, {"config": document, "config_hash": config_hash(config)})
        return _drive(store, lease, config=config, folder=folder, pool_kind=pools, progress=progress)


def _drive(
    store: CampaignStore,
    lease: Heartbeat,
    *,
    config: CampaignConfig,
    folder: RunFolder,
    pool_kind: PoolKind,
    progress: Progress,
) -> Outcome:
    """Run the driver between the first and the last write of the campaign's document."""
    swept = recover_left(store, folder, config)
    settings, settings_hash = label_settings(config)
    refuse_other_settings(swept.campaign, settings_hash)
    spec, further = spec_of(config), follow_up_settings(config)
    reference_path = swept.campaign["reference"]["path"]
    reference = load_prepared(Path(reference_path))
    decider = Decider(store, config, spec, reference, settings, settings_hash, further)
    state = swept.state
    for index, chosen in unmade_labels(state).items():
        state = decider.make_labels(index, chosen, state)
    status, reason = CampaignStatus.STOPPED, "interrupted"
    site = load_site(config.site, folder.path)
    blocks = BlockBook(store, config.name, lease.lease.epoch)
    blocks.begin()
    pools: Pools | None = None
    try:
        pools = open_pools(site, folder.logs, pool_kind)
        blocks.look(pools.blocks())
        running = {"state": "running", "reason": "", "settings_hash": settings_hash}
        store.set_fields("campaigns", config.name, running)
        cores = worker_cores(site)
        driver = Driver(
            store=store,
            pools=pools,
            book=OrderBook(store, config, spec, model_roles(config), folder, reference_path, cores["dft"]),
            recorder=Recorder(store, config.name, spec),
            decider=decider,
            folder=folder,
            lease=lease,
            blocks=blocks,
            state=state,
            on_change=progress.on_change,
            cores=cores,
            tasks=kept_sums(swept.campaign.get("usage") or {}),
            warned=dict(swept.campaign.get("warned") or {}),
        )
        progress.begin(config, folder, store, dict(pools.slots))
        with _signals(driver):
            reason = driver.run()
        status = _final_status(driver, reason)
    except CampaignError as error:
        status, reason = CampaignStatus.FAILED, error.one_line()
        raise
    finally:
        progress.end()
        if pools is not None:
            pools.close(cancel=True)
        if not lease.lost.is_set():
            blocks.end(pools.blocks() if pools is not None else [], "its driver ended")
            _write_end(store, config.name, status, reason)
    return Outcome(folder, status, reason)


def _write_end(store: CampaignStore, name: str, status: CampaignStatus, reason: str) -> None:
    fields = {"state": status.value, "reason": reason, "updated": now()}
    store.set_fields("campaigns", name, fields)
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
