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
from typing import TYPE_CHECKING, Any

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
from campaign.errors import CampaignError, ConfigError
from campaign.lease import Heartbeat, acquire
from campaign.orders import OrderBook, model_roles
from campaign.parallel.pools import PoolKind, open_pools
from campaign.parallel.queues import campaign_identity
from campaign.recording import Recorder
from campaign.recovery import project, retry_failed, sweep, unmade_labels
from campaign.references.catalogue import file_sha256, load_prepared, prepare_reference
from campaign.refusals import (
    refuse_foreign_store,
    refuse_lost_store,
    refuse_other_settings,
    refuse_second_launch,
)
from campaign.run_folder import RunFolder, default_run_folder, find_run, located_store
from campaign.site import Site, load_site
from campaign.site_pools import PoolConfig
from campaign.store import CampaignStore
from campaign.validation import check_engine
from campaign.views.progress import Progress

if TYPE_CHECKING:
    from campaign.references.entries import ReferenceSet

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
    interrupted_by: str = ""
    """Name of the signal that asked the driver to stop, '' if none did."""


def launch(config_file: Path, *, run_dir: Path | None, pools: PoolKind, progress: Progress) -> Outcome:
    """Start a campaign and run it.

    Raises:
        CampaignError: Something the user has to cure; nothing stored is harmed.
    """
    config, folder, reference = prepare_launch(config_file, run_dir)
    with new_store(config, folder) as store, _holding(store, config.name) as lease:
        folder.write_config(config)  # first: with it alone, resume can already do the rest
        prepared = prepare_reference(reference, folder.path / "reference")
        _write_campaign(store, config, folder, prepared, reference.summary())
        return _drive(store, lease, config=config, folder=folder, pool_kind=pools, progress=progress)


def prepare_launch(config_file: Path, run_dir: Path | None) -> tuple[CampaignConfig, RunFolder, ReferenceSet]:
    """Check all that a launch can fail at before anything is written.

    Returns:
        The configuration with absolute paths, the run folder, and the reference.

    Raises:
        CampaignError: Something the user has to cure.
    """
    from campaign.decisions import reference_phases

    config = load_config(config_file)
    base = config_file.resolve().parent
    config = _with_absolute_paths(config, base)
    folder = RunFolder(run_dir.resolve()) if run_dir else default_run_folder(config_file, config)
    check_components(config)
    check_engine(config, load_site(config.site, base))
    if folder.config_file.exists():
        refuse_second_launch(folder)
    reference = reference_of(config, base)
    reference_phases(config, reference)
    return config, folder, reference


@contextmanager
def new_store(config: CampaignConfig, folder: RunFolder) -> Iterator[CampaignStore]:
    """Open the store of a campaign that is being launched, and make the run folder.

    Raises:
        CampaignError: The store cannot be opened, or holds a campaign.
    """
    with CampaignStore.open(located_store(config), folder.path) as store:
        refuse_foreign_store(store)
        folder.create()
        yield store


def resume(
    run: Path,
    *,
    config_file: Path | None,
    pools: PoolKind,
    progress: Progress,
    retry: bool = False,
    grace_s: float = SIGTERM_GRACE_S,
) -> Outcome:
    """Carry a campaign on where its documents say it is.

    Args:
        run: Its folder, or the campaign.yaml it was launched from (whose edits are then taken over).
        config_file: An edited configuration, if not `run` itself.
        pools: Kind of pools.
        progress: Where to report.
        retry: Also try the labels again that were given up.
        grace_s: How long running tasks get after SIGTERM or SIGUSR1 [s].

    Raises:
        CampaignError: Something the user has to cure; nothing stored is harmed.
    """
    config, folder = prepare_resume(run, config_file)
    with (
        CampaignStore.open(located_store(config), folder.path) as store,
        _holding(store, config.name) as lease,
    ):
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
            store, lease, config=config, folder=folder, pool_kind=pools, progress=progress, grace_s=grace_s
        )


def prepare_resume(run: Path, config_file: Path | None) -> tuple[CampaignConfig, RunFolder]:
    """Check all that a resume can fail at before anything is written; return the configuration, edits taken over.

    Raises:
        CampaignError: Something the user has to cure.
    """
    folder = find_run(run)
    config = folder.config()
    edited = config_file or (run if run.is_file() and run.resolve() != folder.config_file else None)
    if edited is not None:
        config = _edited(config, load_config(edited), edited)
    check_components(config)
    check_engine(config, load_site(config.site, folder.path))
    refuse_lost_store(config, folder)
    folder.create()
    return config, folder


def _drive(
    store: CampaignStore,
    lease: Heartbeat,
    *,
    config: CampaignConfig,
    folder: RunFolder,
    pool_kind: PoolKind,
    progress: Progress,
    grace_s: float = SIGTERM_GRACE_S,
) -> Outcome:
    """Run the driver between the first and the last write of the campaign's document."""
    swept = sweep(store)
    if any(swept.values()):
        store.log_event("swept", f"set back {swept['labels']} running labels", **swept)
    campaign = store.get("campaigns", config.name) or {}
    reference_path = campaign["reference"]["path"]
    settings, settings_hash = label_settings(config)
    refuse_other_settings(campaign, settings_hash)
    spec = spec_of(config)
    reference, further = load_prepared(Path(reference_path)), follow_up_settings(config)
    decider = Decider(store, config, spec, reference, settings, settings_hash, further)
    state = project(store, campaign)
    for index, chosen in unmade_labels(state).items():
        state = decider.make_labels(index, chosen, state)
    site, identity = load_site(config.site, folder.path), campaign_identity(config.name, folder.path)
    _end_orphans(campaign, site, identity)
    status, reason, signals = CampaignStatus.STOPPED, "interrupted", list[str]()
    dft = site.pools.dft
    cores = dft.cores_per_worker * (dft.ranks_per_task or 1) if isinstance(dft, PoolConfig) else 1
    pools = open_pools(site, folder.logs, pool_kind, identity)
    try:
        blocks = [block.document() for block in pools.blocks()]
        begun = {"state": "running", "reason": "", "settings_hash": settings_hash, "blocks": blocks}
        store.set_fields("campaigns", config.name, begun | {"epoch": lease.lease.epoch})
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
        progress.begin(config, folder, store, dict(pools.slots))
        with _signals(driver, grace_s) as signals:
            reason = driver.run()
        status = _final_status(driver, reason)
    except CampaignError as error:
        status, reason = CampaignStatus.FAILED, error.one_line()
        raise
    finally:
        progress.end()
        pools.close(cancel=True)
        if not lease.lost.is_set():
            _write_end(store, config.name, status, reason)
    return Outcome(folder, status, reason, signals[0] if signals else "")


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


@contextmanager
def _holding(store: CampaignStore, name: str) -> Iterator[Heartbeat]:
    """Hold the campaign's lease, renewed by a thread, and give it back."""
    lease = acquire(store, name, ttl_s=LEASE_TTL_S)
    try:
        with Heartbeat(lease) as heartbeat:
            yield heartbeat
    finally:
        lease.release()


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


def _end_orphans(campaign: dict[str, Any], site: Site, identity: str) -> int:
    """End what a dead driver's pools left on this machine and in batch systems."""
    from campaign.parallel.orphans import end_orphans, find_orphans

    found = find_orphans(campaign.get("blocks") or [], site, identity, host=platform.node())
    return end_orphans(found, site)
