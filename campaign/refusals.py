"""What a launch or a resume refuses, because it would harm or confuse what a store and a run folder hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from campaign.config import RESUMABLE, CampaignConfig, changes, config_document, parse_config
from campaign.errors import ConfigError, LeaseError
from campaign.lease import holder
from campaign.run_folder import RunFolder


def refuse_second_launch(folder: RunFolder) -> None:
    """Refuse to launch into a folder that holds a campaign; one that was killed before its first write is none.

    Raises:
        LeaseError: There is a campaign, running or not.
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


def refuse_other_settings(campaign: dict[str, Any], settings_hash: str, rungs: Mapping[str, str]) -> None:
    """Refuse to carry on with label settings that would make labels of two kinds.

    Args:
        campaign: The campaign's document.
        settings_hash: Of first labels now.
        rungs: Rung of the ladder -> hash of its settings now.

    Raises:
        ConfigError: They are not those of the launch.
    """
    stored = campaign.get("settings_hash")
    if stored and stored != settings_hash:
        raise ConfigError(
            "the label settings are not those the campaign was launched with",
            value=settings_hash,
            allowed=stored,
            cure="restore the engine's version and options, or launch a new campaign",
        )
    for rung, known in (campaign.get("rung_hashes") or {}).items():
        if rungs.get(rung) != known:
            raise ConfigError(
                f"the settings of the rung {rung} are not those the campaign was launched with",
                value=rungs.get(rung),
                allowed=known,
                cure="restore the engine's version and options, or launch a new campaign",
            )


def refuse_changes(stored: dict[str, Any], new: CampaignConfig, origin: Path) -> None:
    """Refuse a configuration that would change labels or choices, with every difference.

    Args:
        stored: The configuration that the campaign has, as a document.
        new: The configuration to go on with.
        origin: Where that comes from.

    Raises:
        ConfigError: It differs in more than may change.
    """
    try:
        old = config_document(parse_config(stored, "store"))  # with the defaults of keys that are newer
    except ConfigError:
        old = stored
    differing = changes(old, config_document(new))
    if differing:
        told = ", ".join(f"{key} {before!r} -> {after!r}" for key, (before, after) in differing.items())
        raise ConfigError(
            f"{origin}: what would change the campaign's labels or choices cannot be edited: {told}",
            allowed="changes of " + ", ".join(sorted(RESUMABLE)),
            cure="undo the change, or launch a new campaign",
        )
