"""First versions of models: trained once with the order that a driver would give, and shared by all campaigns."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import orjson

from campaign.actions import Train
from campaign.benchmarking.parallel import mapped
from campaign.benchmarking.pool_data import write_json
from campaign.components import spec_of
from campaign.config import CampaignConfig
from campaign.errors import ComponentError
from campaign.orders import ModelRole, OrderBook, model_roles
from campaign.run_folder import RunFolder
from campaign.state import CampaignState
from campaign.store import CampaignStore, StoreConfig


def pretrain(
    configs: Mapping[str, CampaignConfig],
    reference: Path,
    folder: Path,
    *,
    seeds: Collection[int],
    workers: int,
) -> dict[int, dict[str, dict[str, Path]]]:
    """Train the first version of every model that campaigns name with each seed, unless that was done.

    Args:
        configs: Variant -> its configuration.
        reference: The prepared reference.
        folder: Where checkpoints lie.
        seeds: Of the training and of the split of the reference, if a variant names none.
        workers: Processes.

    Returns:
        Seed -> variant -> model key -> checkpoint. Models that the user gave a checkpoint, and those that found nothing
        to learn from, are not among them.

    Raises:
        ComponentError: A training failed.
    """
    orders: dict[str, dict[str, Any]] = {}
    places: dict[int, dict[str, dict[str, Path]]] = {}
    for seed in seeds:
        places[seed] = {name: {} for name in configs}
        for name, config in configs.items():
            for key, role in model_roles(config).items():
                if role.checkpoint is None:
                    order = _order(config, role, reference, folder, seed)
                    orders[str(order["folder"])] = order
                    places[seed][name][key] = Path(order["folder"])
    missing = [order for place, order in orders.items() if not _verdict(Path(place)).is_file()]
    for order, problem in zip(missing, mapped(_train, missing, workers), strict=True):
        if problem:
            raise ComponentError(f"the training of {order['role']} {order['kind']} failed ({problem})")
    return {
        seed: {name: {key: one for key, one in found.items() if one.is_dir()} for name, found in of.items()}
        for seed, of in places.items()
    }


def with_checkpoints(
    document: Mapping[str, Any], config: CampaignConfig, found: Mapping[str, Path]
) -> dict[str, Any]:
    """Return a variant's document with the checkpoints of its models put in."""
    named = {
        "generator": config.generators,
        "head": config.learn.heads,
        "discriminator": config.learn.discriminators,
    }
    roles = list(model_roles(config).values())
    blocks: dict[str, list[dict[str, Any]]] = {role: [] for role in named}
    for role in roles:
        one = named[role.role][len(blocks[role.role])].model_dump(mode="json")
        place = found.get(role.key)
        blocks[role.role].append(one | ({"checkpoint": str(place)} if place is not None else {}))
    learn = {**document.get("learn", {}), "heads": blocks["head"], "discriminators": blocks["discriminator"]}
    return {**document, "generators": blocks["generator"], "learn": learn}


def _order(
    config: CampaignConfig, role: ModelRole, reference: Path, folder: Path, seed: int
) -> dict[str, Any]:
    """Return the order of a first training, in a folder that is called by what decides its outcome."""
    from campaign.documents import derive_seed
    from campaign.references.catalogue import file_sha256

    spec, run = spec_of(config), RunFolder(folder)
    with CampaignStore.open(StoreConfig(durable=False), folder) as store:
        book = OrderBook(store, config, spec, model_roles(config), run, str(reference))
        _, order = book.order(Train("train", None, role.key, 0), CampaignState())
    order["seed"] = derive_seed(seed, "train", role.role, role.kind)
    deciding = {
        key: value for key, value in order.items() if key not in {"folder", "reference", "gate_tolerance"}
    }
    text = orjson.dumps([deciding, file_sha256(reference)], option=orjson.OPT_SORT_KEYS)
    text = text.replace(str(folder.parent).encode(), b"")  # a benchmark may be moved
    name = f"{role.role}-{role.kind.replace(':', '.')}-{hashlib.sha256(text).hexdigest()[:12]}"
    return {**order, "folder": str(folder / name)}


def _verdict(place: Path) -> Path:
    return place.with_name(f"{place.name}.json")


def _train(order: dict[str, Any]) -> str:
    """Train a version; return what went wrong; on a worker."""
    from campaign.tasks import train

    result = train(order)
    if result.get("ok", True) is False:
        return str(result["failure"]["message"])
    write_json(_verdict(Path(order["folder"])), result)
    return ""
