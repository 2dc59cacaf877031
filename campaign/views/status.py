"""Where a campaign is, read from its store: counts, best candidates, models, budgets. Reads only."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from campaign.blocks import live_blocks
from campaign.config import StopConfig
from campaign.lease import holder
from campaign.quarantine import quarantined
from campaign.state import alarm_of
from campaign.store import CampaignStore
from campaign.usage import Budget, budgets, kept_sums, total_usage, yields
from campaign.views.surrogate import surrogate_rows

FUNNEL = ("sampled", "screened", "selected", "labelling", "labelled", "failed", "rejected")
"""Candidate states in the order of the funnel."""


def summary(store: CampaignStore, name: str, *, best: int = 5) -> dict[str, Any]:
    """Return everything that `campaign status` prints, as one JSON-able document.

    Args:
        store: The campaign's store.
        name: The campaign's name.
        best: How many of the best labels to list.
    """
    campaign = store.get("campaigns", name) or {}
    driver = _driver(store, name)
    wanted = {"purpose": "candidate"}
    labels = store.count_by("labels", "state", wanted)
    ladder = _ladder(campaign)
    verdict = "verdict" if ladder else "result"
    stable = store.count("labels", {**wanted, "state": "done", f"{verdict}.stable": True})
    blocks = list(store.query("blocks"))
    usage = _usage(store, campaign, blocks, driver)
    config = campaign.get("config") or {}
    stop = config.get("stop") or {}
    return {
        "name": name,
        "state": campaign.get("state", "unknown"),
        "reason": campaign.get("reason", ""),
        "run_dir": campaign.get("run_dir"),
        "driver": driver,
        "rounds": rounds(store),
        "alarms": alarms(store, trusted=bool((config.get("learn") or {}).get("trust_alarmed"))),
        "candidates": store.count_by("candidates", "state"),
        "rejected_by": _without_none(store.count_by("candidates", "rejected_by")),
        "labels": labels,
        "references": store.count_by("labels", "state", {"purpose": "reference"}),
        "ladder": {rung: store.count_by("labels", "state", _of_rung(rung)) for rung in ladder},
        "stable": stable,
        "failures": _without_none(store.count_by("labels", "failure.cause", {"state": "failed"})),
        "models": store.count_by("models", "state"),
        "surrogate": surrogate_rows(store),
        "best": best_labels(store, best, verdict),
        "usage": usage,
        "stop": stop,
        "budgets": [one.document() for one in _budgets(stop, usage, labels, stable)],
        "yield": yields(usage, labels=labels.get("done", 0), stable=stable),
        "blocks": live_blocks(blocks),
        "updated": campaign.get("updated"),
        "seconds_since_update": _age(campaign.get("updated")),
    }


def _driver(store: CampaignStore, name: str) -> dict[str, Any] | None:
    """Return who drives the campaign, or did when it died; None if nobody holds its lease."""
    present = holder(store, name)
    if present is None:
        return None
    return {
        "host": present.owner.host,
        "pid": present.owner.pid,
        "live": present.is_live,
        "seconds_since_heartbeat": round(present.age_s, 1),
    }


def _usage(
    store: CampaignStore,
    campaign: Mapping[str, Any],
    blocks: Sequence[Mapping[str, Any]],
    driver: Mapping[str, Any] | None,
) -> dict[str, float]:
    """Return what was used until now, or until the last driver was last seen."""
    spent = sum(one.get("core_hours") or 0.0 for one in store.query("labels", fields=["core_hours"]))
    live = time.time() if driver is not None and driver["live"] else None
    return total_usage(kept_sums(campaign.get("usage") or {}), spent, blocks, live)


def _budgets(
    stop: Mapping[str, Any], usage: Mapping[str, float], labels: Mapping[str, int], stable: int
) -> list[Budget]:
    """Return every budget that was set, that of labels included."""
    known = StopConfig.model_validate(
        {key: stop[key] for key in stop.keys() & StopConfig.model_fields.keys()}
    )
    found = budgets(known, usage, stable=stable)
    if known.labels is not None:
        found.append(Budget("labels", float(sum(labels.values())), known.labels))
    return found


def rounds(store: CampaignStore) -> list[dict[str, Any]]:
    """Return one row per round: candidates made, chosen and labelled."""
    rows = []
    for one in store.query("rounds", fields=["index", "batches", "selected"], sort=[("index", 1)]):
        batches = (one.get("batches") or {}).values()
        rows.append(
            {
                "round": one["index"],
                "asked": sum(batch["asked"] for batch in batches),
                "returned": sum(batch["returned"] for batch in batches),
                "new": sum(batch["new"] for batch in batches),
                "selected": None if one.get("selected") is None else len(one["selected"]),
            }
        )
    return rows


def _ladder(campaign: Mapping[str, Any]) -> list[str]:
    """Return the names of the rungs that a campaign has."""
    labels = (campaign.get("config") or {}).get("labels") or {}
    return [rung["name"] for rung in labels.get("ladder") or ()]


def _of_rung(rung: str) -> dict[str, Any]:
    return {"purpose": "follow_up", "step": rung}


def alarms(store: CampaignStore, *, trusted: bool) -> list[dict[str, Any]]:
    """Return the rounds whose labels raised an alarm: what is wrong, how large, whether nothing learns from them.

    Args:
        store: The campaign's store.
        trusted: The user has said `learn.trust_alarmed`.
    """
    found = list(store.query("rounds", fields=["index", "inspection"], sort=[("index", 1)]))
    kinds = {one["index"]: alarm_of(one) or "" for one in found}
    held = quarantined(kinds, len(kinds)) if not trusted else frozenset()
    return [
        {
            "round": one["index"],
            "what": one["inspection"]["alarm"],
            "message": one["inspection"]["message"],
            "quarantined": one["index"] in held,
        }
        for one in found
        if (one.get("inspection") or {}).get("alarm")
    ]


def best_labels(store: CampaignStore, n: int, verdict: str = "result") -> list[dict[str, Any]]:
    """Return the labels of the candidates closest to, or furthest below, the hull.

    Args:
        store: The campaign's store.
        n: How many.
        verdict: `verdict` in a campaign with a ladder, where it stands in that field.
    """
    found = store.query(
        "labels",
        {"purpose": "candidate", "state": "done", f"{verdict}.e_above_hull": {"$ne": None}},
        fields=LABEL_FIELDS,
        sort=[(f"{verdict}.e_above_hull", 1)],
        limit=n,
    )
    return [label_row(one, store) for one in found]


def result_rows(store: CampaignStore) -> list[dict[str, Any]]:
    """Return one row per finished or failed label of a candidate, the best first, failures last."""
    found = store.query(
        "labels", {"purpose": "candidate", "state": {"$in": ["done", "failed"]}}, fields=LABEL_FIELDS
    )
    rows = [label_row(one, store) for one in found]
    return sorted(
        rows, key=lambda row: (row["e_above_hull"] is None, row["e_above_hull"] or 0.0, row["formula"])
    )


LABEL_FIELDS = [
    "_id", "candidate_id", "formula", "round", "rank", "state", "engine", "core_hours", "predicted",
    "result.e_above_hull", "result.formation_energy_per_atom", "result.stable", "result.spacegroup_after",
    "failure.cause", "verdict",
]  # fmt: skip


def label_row(label: dict[str, Any], store: CampaignStore) -> dict[str, Any]:
    """Join a label with its candidate into a flat row."""
    candidate = store.get("candidates", label["candidate_id"]) or {}
    result, predicted = label.get("result") or {}, label.get("predicted") or {}
    belief, verdict = predicted.get("belief_e_above_hull") or {}, label.get("verdict") or result
    return {
        "formula": label["formula"],
        "spacegroup": result.get("spacegroup_after") or spacegroup_of(candidate),
        "gene": gene_of(candidate),
        "generator": str(candidate.get("generator", "")).split("-", 2)[-1],
        "round": label["round"],
        "surrogate_e_above_hull": predicted.get("e_above_hull"),
        "predicted_e_above_hull": belief.get("mean"),
        "predicted_std": belief.get("std"),
        "e_above_hull": verdict.get("e_above_hull"),
        "formation_energy_per_atom": verdict.get("formation_energy_per_atom"),
        "stable": bool(verdict.get("stable")),
        "rung": verdict.get("step"),
        "core_hours": label.get("core_hours", 0.0),
        "state": label["state"],
        "cause": (label.get("failure") or {}).get("cause"),
        "label_id": label["_id"],
        "verdict_label_id": verdict.get("label") or label["_id"],
        "candidate_id": label["candidate_id"],
    }


def spacegroup_of(candidate: Mapping[str, Any]) -> int | None:
    """Return a candidate's space group after the screens so far."""
    found = candidate.get("predictions") or {}
    known: int | None = (
        found.get("spacegroup") or found.get("spacegroup_after") or candidate.get("spacegroup")
    )
    return known


def gene_of(candidate: Mapping[str, Any]) -> str | None:
    """Return the text of a candidate's Wyckoff gene: as the screen `wyckoff` found it last, or as it was built."""
    found: str | None = (candidate.get("predictions") or {}).get("gene")
    built: str | None = ((candidate.get("structure") or {}).get("properties") or {}).get("gene")
    return found or built


def _without_none(counts: dict[Any, int]) -> dict[str, int]:
    return {str(key): number for key, number in counts.items() if key is not None}


def _age(updated: str | None) -> float | None:
    if updated is None:
        return None
    return round((datetime.now(UTC) - datetime.fromisoformat(updated)).total_seconds(), 1)
