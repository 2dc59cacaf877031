"""What a retrospective campaign found, label by label: read from its store when it has ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from campaign.store import CampaignStore

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from campaign.references.entries import ReferenceSet

TIMES = ("sample", "screen", "score", "train", "build", "job")
"""Kinds of task whose seconds are told."""


def read_outcome(store: CampaignStore, name: str, reference: ReferenceSet) -> dict[str, Any]:
    """Return the labels of a campaign in the order of their choice, and where its time went.

    Args:
        store: The campaign's.
        name: Its name.
        reference: Known crystals, for what is novel.

    Returns:
        `labels` [{candidate, formula, round, e_above_hull, stable, sun}], `promoted` and `refused` (versions of models
        after the first), `first_use_seconds` (from the end of each such version's training to the first candidates
        that it judged), `seconds` by kind of task.
    """
    found = store.query(
        "labels",
        {"purpose": "candidate"},
        fields=["candidate_id", "formula", "round", "rank", "state", "result.e_above_hull", "result.stable"],
    )
    rows = sorted(found, key=lambda one: (one["round"], one["rank"], one["_id"]))
    stable = [one["_id"] for one in rows if (one.get("result") or {}).get("stable")]
    sun = _first_and_novel(_structures(store, stable), reference)
    labels = [
        {
            "candidate": one["candidate_id"],
            "formula": one["formula"],
            "round": one["round"],
            "e_above_hull": (one.get("result") or {}).get("e_above_hull"),
            "stable": bool((one.get("result") or {}).get("stable")),
            "sun": one["_id"] in sun,
        }
        for one in rows
    ]
    models = list(store.query("models", {"term": {"$gt": 0}}, fields=["state", "trained", "first_used"]))
    usage: Mapping[str, float] = (store.get("campaigns", name) or {}).get("usage") or {}
    return {
        "labels": labels,
        "promoted": sum(one["state"] == "promoted" for one in models),
        "refused": sum(one["state"] != "promoted" for one in models),
        "first_use_seconds": [round(_first_use(one), 3) for one in models if one.get("first_used")],
        "seconds": {kind: round(usage.get(f"{kind}_seconds", 0.0), 2) for kind in TIMES},
    }


def _first_use(model: Mapping[str, Any]) -> float:
    trained, used = (datetime.fromisoformat(model[key]) for key in ("trained", "first_used"))
    return (used - trained).total_seconds()


def _structures(store: CampaignStore, names: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return (label, structure) in the order of the names."""
    query = store.query("labels", {"_id": {"$in": list(names)}}, fields=["result.structure"])
    found = {one["_id"]: one["result"]["structure"] for one in query}
    return [(name, found[name]) for name in names]


def _first_and_novel(structures: Iterable[tuple[str, dict[str, Any]]], reference: ReferenceSet) -> set[str]:
    """Return the labels of crystals that no earlier one of these, and none of the reference, is the same as."""
    from pymatgen.core import Structure

    from campaign.references.fingerprint import bucket, reduced, same_reduced

    seen: dict[str, list[Structure]] = {}
    kept = set()
    for name, document in structures:
        structure = Structure.from_dict(document)
        key = bucket(structure)
        if key not in seen:
            seen[key] = [
                reduced(one.structure) for one in reference.in_bucket(key) if one.structure is not None
            ]
        small = reduced(structure)
        if not any(same_reduced(small, other) for other in seen[key]):
            kept.add(name)
            seen[key].append(small)
    return kept


def result_file(folder: Path) -> Path:
    """Return where a campaign's outcome is kept; it is written last."""
    return folder / "result.json"
