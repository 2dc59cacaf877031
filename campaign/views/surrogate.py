"""How far the surrogate's versions were from DFT, on labels that came after them: read from the store."""

from __future__ import annotations

from typing import Any

from campaign.store import CampaignStore


def surrogate_rows(store: CampaignStore) -> list[dict[str, Any]]:
    """Return one row per version of a learning surrogate that labels have judged; [] if it does not learn.

    A version is judged by labels that came later than it and have taught it nothing: `mae` is its error of
    their energies in DFT's geometry [eV/atom], `packaged_mae` that of the surrogate before it learned anything, both
    worked out by the training of the next version; `relaxed_mae` that of e_above_hull on labels whose candidates it
    relaxed itself, of which there are `relaxed`.
    """
    models = list(store.query("models", {"key": {"$regex": "^surrogate-"}}, sort=[("term", 1)]))
    promoted = {one["_id"]: one for one in models if one["state"] == "promoted"}
    rows = []
    for name, version in promoted.items():
        judges = [one for one in models if one.get("parent") == name and one["metrics_before"].get("later")]
        relaxed = _relaxed_errors(store, name)
        if not judges and not relaxed:
            continue
        later = judges[-1]["metrics_before"]["later"] if judges else {}
        rows.append(
            {
                "term": version["term"],
                "model": name,
                "labels": int(later.get("labels", 0)),
                "mae": later.get("energy:mae"),
                "packaged_mae": later.get("packaged:mae"),
                "relaxed": len(relaxed),
                "relaxed_mae": sum(relaxed) / len(relaxed) if relaxed else None,
            }
        )
    return rows


def _relaxed_errors(store: CampaignStore, version: str) -> list[float]:
    """Return |surrogate - DFT| of e_above_hull [eV/atom] of the labels whose candidates a version relaxed."""
    labels = store.query(
        "labels",
        {"purpose": "candidate", "state": "done", "predicted.surrogate_model": version},
        fields=["predicted", "result.e_above_hull"],
    )
    pairs = [(one["predicted"].get("e_above_hull"), one["result"].get("e_above_hull")) for one in labels]
    return [abs(told - found) for told, found in pairs if told is not None and found is not None]
