"""Resuming: project the store, and find what a choice still lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from campaign.documents import ModelStatus
from campaign.state import (
    LABEL_FIELDS,
    MEMBER_FIELDS,
    MODEL_FIELDS,
    CampaignState,
    Member,
    project_label,
    project_member,
    project_model,
    project_round,
    project_step,
)
from campaign.store import CampaignStore


def project(store: CampaignStore, campaign: Mapping[str, Any]) -> CampaignState:
    """Return the state of a campaign as its documents say.

    Args:
        store: The store.
        campaign: The campaign's own document.
    """
    rounds = list(store.query("rounds", {"campaign": campaign["_id"]}))
    members: dict[int, list[Member]] = {one["index"]: [] for one in rounds if one.get("selected") is None}
    if members:
        open_rounds = {"round": {"$in": sorted(members)}}
        for document in store.query("candidates", open_rounds, fields=MEMBER_FIELDS):
            members[document["round"]].append(project_member(document))
    labels = [project_label(document) for document in store.query("labels", fields=LABEL_FIELDS)]
    models = [
        project_model(document)
        for document in store.query(
            "models",
            {"state": {"$ne": ModelStatus.LOST.value}},
            fields=MODEL_FIELDS,
        )
    ]
    return CampaignState(
        rounds={one["index"]: project_round(one, members.get(one["index"], ())) for one in rounds},
        labels={label.id: label for label in labels},
        by_candidate={label.candidate_id: label.id for label in labels if label.is_first},
        models={(model.key, model.term): model for model in models},
        steps={one["index"]: project_step(one) for one in store.query("ladder")},
        references_known=bool((campaign.get("reference") or {}).get("labels_written")),
        usage=dict(campaign.get("usage") or {}),
    )


def unmade_labels(state: CampaignState) -> dict[int, list[str]]:
    """Return round -> its whole choice, for rounds whose choice was written but not all of its labels."""
    return {
        index: list(current.selected)
        for index, current in state.rounds.items()
        if current.selected and any(name not in state.by_candidate for name in current.selected)
    }


def unmade_climbs(store: CampaignStore) -> list[str]:
    """Return the steps of the ladder whose choice was written but not all of its labels."""
    return [one["_id"] for one in store.query("ladder", {"made": False}, fields=["_id"], sort=[("index", 1)])]
