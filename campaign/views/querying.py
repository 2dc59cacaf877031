"""`campaign query`: the same MongoDB filters on either store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.query import parse_fields, parse_filter, parse_sort
from campaign.run_folder import find_run
from campaign.store import COLLECTIONS

LONGEST_S = 60.0
"""A query that takes longer is ended [s]."""

DEFAULT_FIELDS = {
    "candidates": ("_id", "state", "round", "formula", "spacegroup", "generator", "rejected_by", "score"),
    "labels": ("_id", "purpose", "state", "formula", "result.e_above_hull", "core_hours", "failure.cause"),
    "models": ("_id", "state", "term", "verdict"),
    "rounds": ("index", "batches", "selected"),
    "events": ("time", "kind", "message"),
    "jobs": ("uuid", "index", "name"),
    "campaigns": ("_id", "state", "reason", "run_dir"),
    "flows": ("_id", "output_uuid"),
}
"""Columns shown where `--fields` names none."""


@dataclass(frozen=True)
class Found:
    """Documents with the fields to show."""

    documents: list[dict[str, Any]]
    fields: Sequence[str]
    left_out: int = 0
    """How many more would have come without the limit."""


def run_query(
    run: Path,
    collection: str,
    filter_text: str,
    *,
    fields: str = "",
    sort: str = "",
    count_by: str = "",
    limit: int = 0,
    count: bool = False,
) -> Found | int:
    """Return the documents that match, or their number, or their numbers by the value of a field.

    Raises:
        QueryError: Unknown collection, or a filter, sort or field list that cannot be read.
        RunNotFoundError: There is no campaign at `run`.
    """
    from campaign.errors import QueryError

    if collection not in COLLECTIONS:
        raise QueryError(
            "unknown collection", value=collection, allowed=COLLECTIONS, cure="choose one of these"
        )
    wanted, shown, order = parse_filter(filter_text), parse_fields(fields), parse_sort(sort)
    with find_run(run).store() as store, store.within(LONGEST_S):
        if count:
            return store.count(collection, wanted)
        if count_by:
            counts = sorted(store.count_by(collection, count_by, wanted).items(), key=lambda item: -item[1])
            return Found(
                [{count_by: value, "count": number} for value, number in counts], (count_by, "count")
            )
        documents = list(
            store.query(collection, wanted, fields=shown or None, sort=order or None, limit=limit)
        )
        left_out = store.count(collection, wanted) - limit if 0 < limit == len(documents) else 0
    return Found(documents, shown or DEFAULT_FIELDS.get(collection, ("_id",)), left_out)
