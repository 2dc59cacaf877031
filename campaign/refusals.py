"""What a launch or a resume is refused for, before anything is harmed: each with the cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from campaign.config import RESUMABLE, CampaignConfig, changes, config_document, parse_config
from campaign.errors import ConfigError, LeaseError, StoreError
from campaign.lease import holder
from campaign.run_folder import RunFolder, located_store
from campaign.store import CampaignStore, embedded_path


def refuse_second_launch(folder: RunFolder) -> None:
    """Refuse to launch where a campaign is.

    Raises:
        LeaseError: A campaign runs there, or ran.
    """
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


def refuse_lost_store(config: CampaignConfig, folder: RunFolder) -> None:
    """Refuse to begin anew where work was done: its store was lost, moved, or another one is named.

    Raises:
        StoreError: The run folder holds the campaign's work, the store does not hold the campaign.
    """
    if not any(next(place.glob("*"), None) for place in (folder.work, folder.models)):
        return  # killed before its first task: there is nothing to lose
    where, found = config.store.redacted()["uri"], None
    if config.store.kind == "embedded":
        where = embedded_path(config.store, folder.path)
    if not isinstance(where, Path) or (where.exists() and where.stat().st_size):
        with CampaignStore.open(located_store(config), folder.path, read_only=True) as store:
            found = store.get("campaigns", config.name)
    if found is None:
        raise StoreError(
            f"the store of campaign {config.name!r} is not there, but its run folder holds work",
            value=str(where),
            cure="put the store back, or name it with --config; to begin anew, launch with another --run-dir",
        )


def refuse_foreign_store(store: CampaignStore) -> None:
    """Refuse to launch into a store that holds a campaign.

    Raises:
        ConfigError: It does.
    """
    others = [one["_id"] for one in store.query("campaigns", fields=["_id", "run_dir"])]
    if others:
        raise ConfigError(
            "the store holds a campaign already",
            value=others[0],
            cure="one store (file, or database and prefix) per campaign: resume that one, or name another",
        )


def refuse_other_settings(campaign: dict[str, Any], settings_hash: str) -> None:
    """Refuse to go on with label settings that have another hash.

    Raises:
        ConfigError: They have.
    """
    stored = campaign.get("settings_hash")
    if stored and stored != settings_hash:
        raise ConfigError(
            "the label settings are not those the campaign was launched with",
            value=settings_hash,
            allowed=stored,
            cure="restore the engine's version and options, or launch a new campaign",
        )


def refuse_changes(stored: dict[str, Any], new: CampaignConfig, origin: Path) -> None:
    """Refuse a configuration that would change labels or choices, with every difference.

    Args:
        stored: The configuration as the campaign's document holds it.
        new: The configuration to go on with.
        origin: Where that comes from.

    Raises:
        ConfigError: It differs in more than may change.
    """
    try:
        old = config_document(parse_config(stored, "store"))  # with the defaults of keys that are newer
    except (ConfigError, ValidationError):
        old = stored
    differing = changes(old, config_document(new))
    if differing:
        told = ", ".join(f"{key} {before!r} -> {after!r}" for key, (before, after) in differing.items())
        raise ConfigError(
            f"{origin}: what would change the campaign's labels or choices cannot be edited: {told}",
            allowed="changes of " + ", ".join(sorted(RESUMABLE)),
            cure="undo the change, or launch a new campaign",
        )
