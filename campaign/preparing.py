"""What comes before a driver: all that a launch or a resume can fail at, and the hold on the campaign's store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from campaign.components import check_components, reference_of
from campaign.config import CampaignConfig, config_document, load_config
from campaign.config_paths import with_absolute_paths
from campaign.errors import StoreUnreachableError
from campaign.lease import Heartbeat, acquire
from campaign.refusals import refuse_changes, refuse_second_launch
from campaign.run_folder import RunFolder, default_run_folder, find_run, located_store, private_files
from campaign.site import load_site
from campaign.storage.outages import Outage, Patience
from campaign.store import CampaignStore
from campaign.store_claims import claim_store, refuse_lost_store, refuse_other_campaign
from campaign.validation import check_engine, check_store

if TYPE_CHECKING:
    from campaign.references.entries import ReferenceSet

LEASE_TTL_S = 30.0
"""A driver that has not renewed its lease for this long counts as dead [s]."""


def prepare_launch(config_file: Path, run_dir: Path | None) -> tuple[CampaignConfig, RunFolder, ReferenceSet]:
    """Check all that a launch can fail at before anything is written.

    Returns:
        The configuration with absolute paths, the run folder, and the reference.

    Raises:
        CampaignError: Something the user has to cure.
    """
    from campaign.reference_phases import reference_phases

    config = load_config(config_file)
    base = config_file.resolve().parent
    config = with_absolute_paths(config, base)
    folder = RunFolder(run_dir.resolve()) if run_dir else default_run_folder(config_file, config)
    check_components(config)
    site = load_site(config.site, base)
    check_engine(config, site)
    check_store(config, site, folder.path)
    if folder.config_file.exists():
        refuse_second_launch(folder)
    reference = reference_of(config, base)
    reference_phases(config, reference)
    return config, folder, reference


def prepare_resume(
    run: Path, config_file: Path | None
) -> tuple[CampaignConfig, RunFolder, CampaignConfig | None]:
    """Check all that a resume can fail at before anything is written.

    Returns:
        The configuration, edits taken over; the run folder; what was launched, None where its file is torn and only
        the edited one is left (the store then says whether it fits).

    Raises:
        CampaignError: Something the user has to cure.
    """
    folder = find_run(run)
    edited = config_file or (run if run.is_file() and run.resolve() != folder.config_file else None)
    launched = None if edited is not None and folder.is_config_torn() else folder.config()
    if edited is None:
        config = folder.config()
    else:
        config = with_absolute_paths(load_config(edited), edited.resolve().parent)
        if launched is not None:
            refuse_changes(config_document(launched), config, edited)
    check_components(config)
    site = load_site(config.site, folder.path)
    check_engine(config, site)
    check_store(config, site, folder.path)
    refuse_lost_store(config, folder)
    return config, folder, launched


@contextmanager
def held_store(
    config: CampaignConfig, folder: RunFolder, *, new: bool, launched: CampaignConfig | None = None
) -> Iterator[tuple[CampaignStore, Heartbeat, Patience]]:
    """Open a campaign's store, hold its lease, make the store and the run folder the campaign's own.

    Args:
        config: The configuration.
        folder: The run folder; made if it is not there.
        new: It is being launched just now.
        launched: What the campaign was launched with, if `config` is an edited one.

    Yields:
        The store, patient when its server is away; the lease; and how outages are borne.

    Raises:
        CampaignError: The store cannot be opened, or holds another campaign; another driver has the lease.
    """
    with (
        private_files(),
        CampaignStore.open(located_store(config), folder.path) as opened,
        _holding(opened, config) as (lease, patience),
    ):
        if launched is not None and config.store != launched.store:
            refuse_other_campaign(opened, launched)
        claim_store(opened, config.name, new=new)
        folder.create()
        yield opened.patient(patience), lease, patience


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
