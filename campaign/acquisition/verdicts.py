"""What a term may know of candidates that climbed the ladder: the result of the highest judged rung of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from campaign.plan import Spec
from campaign.store import CampaignStore


def climbed_results(
    store: CampaignStore, spec: Spec, term: int, fields: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return id of a first label -> result of its candidate's highest judged rung, where there is one.

    Args:
        store: The campaign's store.
        spec: Its configuration.
        term: Which steps of the ladder count is said by this number alone.
        fields: Of the result.
    """
    if not spec.config.labels.ladder:
        return {}
    found = store.query(
        "labels",
        {
            "purpose": "follow_up",
            "rung": {"$gt": 0},
            "state": "done",
            "round": {"$lt": spec.climbed(term)},
            "result.e_above_hull": {"$ne": None},
        },
        fields=["parent", "rung", *(f"result.{name}" for name in fields)],
    )
    return {one["parent"]: one["result"] for one in sorted(found, key=lambda one: one["rung"])}
