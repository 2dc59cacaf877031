"""From a benchmark to the configurations of its campaigns. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from campaign.benchmarking.config import BenchmarkConfig
from campaign.config import CampaignConfig, parse_config
from campaign.errors import ConfigError

Document = dict[str, Any]

ENGINE = "campaign.benchmarking.engine:OracleEngine"
"""Stands in campaign.yaml for the oracle."""

OWN = (
    "name",
    "seed",
    "site",
    "store",
    "stop",
    "labels.flow",
    "labels.flow_options",
    "labels.engine",
    "labels.engine_options",
    "labels.hull",
    "labels.then",
)
"""What the benchmark itself decides; a campaign block or a variant that names one of these is refused."""

ANY_ENERGY = {"min_ev_per_atom": -1e3, "max_ev_per_atom": 1e3}
"""Options of the screen `e_above_hull` that let everything pass: it only writes what the surrogate says."""


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Document:
    """Return a document with changes put in: blocks are merged, everything else is replaced."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def nested(changes: Mapping[str, Any]) -> Document:
    """Return changes with dotted keys as nested blocks: {"a.b": 1} is {"a": {"b": 1}}."""
    result: Document = {}
    for key, value in changes.items():
        inner = nested(value) if isinstance(value, Mapping) else value
        *outer, last = str(key).split(".")
        branch: Document = {last: inner}
        for part in reversed(outer):
            branch = {part: branch}
        result = merged(result, branch)
    return result


def variant_documents(config: BenchmarkConfig, pool: Mapping[str, Any] | None) -> dict[str, Document]:
    """Return the campaign of each variant, its seed and checkpoints left open.

    Args:
        config: The benchmark, as `load_benchmark` returns it.
        pool: `size`, `file` and `chemistry` (elements, n_elements, max_atoms) of the pool; None without one.

    Raises:
        ConfigError: A variant names what the benchmark decides, or is no valid campaign.
    """
    campaign = nested(dict(config.campaign)) if isinstance(config.campaign, dict) else {}
    _refuse_own(campaign, "campaign")
    if pool is not None and "generators" in campaign:
        raise ConfigError(
            "truth: pool has its own generator",
            value="campaign.generators",
            cure="leave generators out, or choose truth: surrogate",
        )
    found = {}
    for name, changes in config.policies.items():
        _refuse_own(nested(changes), f"policies.{name}")
        document = merged(_defaults(config, pool), merged(campaign, nested(changes)))
        document = merged(document, {"name": f"{config.name}-{name}", **_own(config)})
        parse_config(document, f"policies.{name}")
        found[name] = document
    return found


def checked(document: Mapping[str, Any], origin: str) -> CampaignConfig:
    """Return a variant as a configuration.

    Raises:
        ConfigError: A key or value is wrong.
    """
    return parse_config(dict(document), origin)


def _defaults(config: BenchmarkConfig, pool: Mapping[str, Any] | None) -> Document:
    """Return what holds unless the campaign or a variant says otherwise."""
    shared: Document = {
        "acquisition": {"labels_per_round": config.labels_per_round},
        "learn": {"split_seed": config.training_seed},
    }
    if pool is None:
        return shared
    size = int(pool["size"])
    asked = config.predictions != "none"
    whole: Document = {
        "chemistry": dict(pool["chemistry"]),
        "generators": [{"kind": "pool", "options": {"file": str(pool["file"])}}],
        "screen": [{"kind": "e_above_hull", "options": ANY_ENERGY} if asked else {"kind": "composition"}],
        "acquisition": {"candidates_per_round": size, "sampled_rounds": 1, "backlog": size},
        "learn": {"generators": False},
        "batching": {"sample": size, "screen": size},
    }
    return merged(shared, whole)


def _own(config: BenchmarkConfig) -> Document:
    return {
        "stop": {"rounds": config.rounds, "labels": config.labels},
        "store": {"kind": "embedded", "durable": False, "indexed": False},
        "labels": {"flow": "static", "engine": ENGINE, "hull": "given"},
    }


def _refuse_own(document: Mapping[str, Any], where: str) -> None:
    for key in OWN:
        place: Any = document
        for part in key.split("."):
            place = place.get(part) if isinstance(place, Mapping) else None
        if place is not None and not (where == "campaign" and key in {"name", "seed"}):
            raise ConfigError(
                f"{where} names {key}, which the benchmark decides itself",
                value=place,
                cure="leave it out; labels, labels_per_round and seeds stand at the top of the file",
            )
