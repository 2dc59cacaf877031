"""Resuming: sweep what a dead driver left, finish what it had begun to write, project the store.

Every step may itself be cut off and is repeated at the next start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from campaign.documents import CandidateStatus, LabelStatus
from campaign.state import (
    LABEL_FIELDS,
    MEMBER_FIELDS,
    CampaignState,
    LabelState,
    Member,
    project_label,
    project_member,
    project_model,
    project_round,
)
from campaign.store import CampaignStore


def sweep(store: CampaignStore) -> dict[str, int]:
    """Set back every claim of a dead driver: running labels and jobs are queued again.

    The results of jobs that ended meanwhile are found in their folders by the next try, and not computed again.

    Returns:
        What was swept: number of labels and of candidates whose state was put right.
    """
    labels = 0
    for label in store.query("labels", {"state": LabelStatus.RUNNING.value}, fields=["_id", "jobs"]):
        jobs = [
            {**job, "state": LabelStatus.QUEUED.value} if job["state"] == LabelStatus.RUNNING else job
            for job in label["jobs"]
        ]
        store.set_fields("labels", label["_id"], {"jobs": jobs, "state": LabelStatus.QUEUED.value})
        labels += 1
    return {"labels": labels, "candidates": _mend_candidates(store)}


def retry_failed(store: CampaignStore) -> int:
    """Queue labels again that were given up, with their attempts forgiven; return how many.

    What their jobs finished before is kept; only the failed jobs run again.
    """
    labels = list(store.query("labels", {"state": LabelStatus.FAILED.value}))
    for label in labels:
        jobs = [
            {**job, "state": LabelStatus.QUEUED.value} if job["state"] == LabelStatus.FAILED else job
            for job in label["jobs"]
        ]
        fields = {
            "jobs": jobs,
            "attempts": [{**attempt, "forgiven": True} for attempt in label["attempts"]],
            "state": LabelStatus.QUEUED.value,
            "failure": None,
            "followed": False,  # what it calls for is asked again once it is done
        }
        if label["purpose"] == "candidate":
            state = {"state": CandidateStatus.SELECTED.value}
            store.set_fields("candidates", label["candidate_id"], state)
        store.set_fields("labels", label["_id"], fields)
    return len(labels)


def _mend_candidates(store: CampaignStore) -> int:
    """Give candidates the state of their label where a crash fell between the two writes.

    Those that were chosen and do not know it yet matter most: in the backlog they would be chosen again.
    """
    wanted = {
        LabelStatus.QUEUED: CandidateStatus.SELECTED,
        LabelStatus.RUNNING: CandidateStatus.LABELLING,
        LabelStatus.DONE: CandidateStatus.LABELLED,
        LabelStatus.FAILED: CandidateStatus.FAILED,
    }
    chosen = [
        name for one in store.query("rounds", fields=["selected"]) for name in one.get("selected") or ()
    ]
    unsettled = [CandidateStatus.SCREENED, CandidateStatus.SELECTED, CandidateStatus.LABELLING]
    candidates = store.query(
        "candidates", {"_id": {"$in": chosen}, "state": {"$in": [state.value for state in unsettled]}},
        fields=["_id", "state"],
    )  # fmt: skip
    states = {one["_id"]: one["state"] for one in candidates}
    labels = store.query(
        "labels",
        {"candidate_id": {"$in": sorted(states)}, "purpose": {"$ne": "follow_up"}},
        fields=["_id", "candidate_id", "state"],
    )
    updates: list[tuple[str, dict[str, Any]]] = []
    for label in labels:
        name, state = label["candidate_id"], wanted[LabelStatus(label["state"])].value
        if states[name] != state:
            updates.append((name, {"state": state, "label_id": label["_id"]}))
    if updates:
        store.set_fields_many("candidates", updates)
    return len(updates)


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
        for document in store.query("models", fields=["_id", "key", "term", "state", "checkpoint"])
    ]
    return CampaignState(
        rounds={one["index"]: project_round(one, members.get(one["index"], ())) for one in rounds},
        models={(model.key, model.term): model for model in models},
        references_known=bool((campaign.get("reference") or {}).get("labels_written")),
        usage=_usage(campaign.get("usage") or {}, labels),
    ).with_labels(labels)


def _usage(written: Mapping[str, float], labels: Iterable[LabelState]) -> dict[str, float]:
    """Return what was used: at least what labels cost, though a driver died before it had written that down."""
    spent = sum(label.core_hours for label in labels)
    return {**written, "core_hours": max(written.get("core_hours", 0.0), spent)}


def unmade_labels(state: CampaignState) -> dict[int, list[str]]:
    """Return round -> its whole choice, for rounds whose choice was written but not all of its labels."""
    return {
        index: list(current.selected)
        for index, current in state.rounds.items()
        if current.selected and any(name not in state.by_candidate for name in current.selected)
    }
