"""What the surrogate's training gets beside that of other models: which labels' frames, and its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from campaign.frames import label_frames

if TYPE_CHECKING:
    from campaign.config import CampaignConfig
    from campaign.store import CampaignStore


def surrogate_order(
    store: CampaignStore, config: CampaignConfig, term: int, labelled: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the part of a training order that only the surrogate has; see `campaign.surrogate_task`.

    Args:
        store: The campaign's.
        config: Of the campaign.
        term: Of the version: it may learn from the labels of the rounds before.
        labelled: Those that may be learned from, oldest first; see `campaign.training_task`.
    """
    learn = config.learn.surrogate
    due = term > 0 and term % learn.every == 0
    return {
        "first": term == 0,
        "due": due,
        "labelled": _with_frames(store, config, labelled) if due else [],
        "min_labels": learn.min_labels,
        "max_reference": learn.max_reference,
        "gate_tolerance": learn.gate_tolerance,
    }


def _with_frames(
    store: CampaignStore, config: CampaignConfig, labelled: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the newest labels with their frames, as many as `max_frames` allows, oldest first."""
    learn = config.learn.surrogate
    newest = list(labelled)[-learn.max_frames :]
    ids = [one["id"] for one in newest]
    found = {
        one["_id"]: one
        for one in store.query("labels", {"_id": {"$in": ids}}, fields=["round", "jobs", "result.steps"])
    }
    per_label = max(1, min(learn.frames_per_label, learn.max_frames // max(1, len(ids))))
    frames: dict[str, list[dict[str, Any]]] = {name: [] for name in ids}
    for frame in label_frames(store, [found[name] for name in ids if name in found], per_label):
        frames[frame["label"]].append(frame)
    return [{**one, "frames": frames[one["id"]]} for one in newest]
