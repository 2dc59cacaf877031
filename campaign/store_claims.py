"""Whose a store is: one campaign per file, or per database and prefix; told before anything is written over."""

from __future__ import annotations

from campaign.config import CampaignConfig, changes, config_document
from campaign.errors import ConfigError, StoreError
from campaign.lease import holder
from campaign.run_folder import RunFolder, located_store
from campaign.storage.schema import META
from campaign.store import CampaignStore, embedded_path

_CLAIM = "campaign"


def claim_store(store: CampaignStore, name: str, *, new: bool = False) -> None:
    """Make a store a campaign's own, in one indivisible step: of two that are launched at once, one gets it.

    Call it with the campaign's lease in hand: a claim whose campaign neither is there nor is driven was left by a
    launch that got no further, and is taken over.

    Args:
        store: The store.
        name: The campaign's name.
        new: It is being launched, so that one of the same name is another one.

    Raises:
        ConfigError: It holds another campaign, or another one is just being launched into it.
    """
    if new and store.get("campaigns", name) is not None:
        raise _occupied(store, name, name)
    for one in store.query("campaigns", {"_id": {"$ne": name}}, fields=["_id"], limit=1):
        raise _occupied(store, one["_id"], name)
    store.insert_new(META, [{"_id": _CLAIM, "name": name}])
    owner = str((store.get(META, _CLAIM) or {}).get("name", name))
    if owner == name:
        return
    present = holder(store, owner)
    left_over = store.get("campaigns", owner) is None and (present is None or not present.is_live)
    # Expected is what was seen: another launch may be taking it over as well.
    if not left_over or not store.set_fields(META, _CLAIM, {"name": name}, expect={"name": owner}):
        raise _occupied(store, owner, name)


def _occupied(store: CampaignStore, other: str, name: str) -> ConfigError:
    if store.config.kind == "mongodb":
        cure = (
            f"put `collection_prefix: {name}_` below `store:` to share the database (one prefix per campaign), "
            f"or name another with `database:`; to carry {other!r} on, resume it"
        )
    else:
        cure = f"name another file with `path:` below `store:`; to carry {other!r} on, resume it"
    return ConfigError(f"the store {store.location} holds a campaign already", value=other, cure=cure)


def refuse_lost_store(config: CampaignConfig, folder: RunFolder) -> None:
    """Refuse to begin anew where work was done: its store was lost, moved, or another one is named.

    Raises:
        StoreError: The run folder holds the campaign's work, the store does not hold the campaign.
    """
    if not any(next(place.glob("*"), None) for place in (folder.work, folder.models)):
        return  # killed before its first task: there is nothing to lose
    where, found = f"{config.store.redacted()['uri']} (prefix {config.store.collection_prefix!r})", None
    exists = True
    if config.store.kind == "embedded":
        file = embedded_path(config.store, folder.path)
        where, exists = str(file), file.exists() and file.stat().st_size > 0
    if exists:
        with CampaignStore.open(located_store(config), folder.path, read_only=True) as store:
            where, found = store.location, store.get("campaigns", config.name)
            if config.store.collection_prefix:
                where += f", prefix {config.store.collection_prefix}"
    if found is None:
        raise StoreError(
            f"the store of campaign {config.name!r} is not there, but its run folder holds work",
            value=where,
            cure="put the store back, or name it with --config; a store that moves takes all its collections "
            "along (mongodump, mongorestore); to begin anew, launch with another --run-dir",
        )


def refuse_other_campaign(store: CampaignStore, launched: CampaignConfig) -> None:
    """Refuse a store to which a campaign was moved, if it holds another campaign of the same name.

    Raises:
        ConfigError: What the store says the campaign is and what was launched in this run folder differ.
    """
    found = store.get("campaigns", launched.name)
    if found is None:
        return
    # A key that only one of them has came with another version of this software.
    pairs = changes(config_document(launched), found["config"]).items()
    differing = [(key, here, there) for key, (here, there) in pairs if None not in (here, there)]
    if differing:
        key, here, there = differing[0]
        raise ConfigError(
            f"the store {store.location} holds another campaign called {launched.name!r}: its {key} is {there!r}",
            value=here,
            cure="name the store that this run folder's campaign was moved to",
        )
