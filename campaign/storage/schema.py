"""Names the store's collections and the fields that its documented queries need an index for."""

from __future__ import annotations

STORE_VERSION = 1
"""Version of the layout below; a store of a higher version is refused, never changed."""

COLLECTIONS = (
    "campaigns",
    "rounds",
    "ladder",
    "candidates",
    "labels",
    "flows",
    "models",
    "blocks",
    "events",
    "jobs",
    "data",
)
"""What a user queries. `jobs` and `data` hold jobflow's output as jobflow writes it."""

META = "meta"
"""Housekeeping beside the user's collections: the store's version and the drivers' leases."""

LARGE_COLLECTIONS = frozenset({"data"})
"""Where the embedded store accepts documents beyond MongoDB's limit: large outputs of jobs."""

INDEXES: dict[str, tuple[str, ...]] = {
    "campaigns": ("name", "state"),
    "rounds": ("campaign", "index"),
    "ladder": ("campaign", "index"),
    "candidates": (
        "campaign",
        "state",
        "round",
        "formula",
        "chemsys",
        "spacegroup",
        "generator",
        "bucket",
        "rejected_by",
        "score",
        "predictions.e_above_hull",
    ),
    "labels": (
        "campaign",
        "state",
        "candidate_id",
        "purpose",
        "formula",
        "chemsys",
        "settings_hash",
        "failure.cause",
        "result.e_above_hull",
        "verdict.e_above_hull",
    ),
    "flows": ("campaign", "label_id"),
    "models": ("campaign", "key", "state"),
    "blocks": ("campaign", "pool", "state"),
    "events": ("campaign", "kind", "time"),
    "jobs": ("uuid", "index"),
    "data": ("blob_uuid", "job_uuid"),
}
"""Indexed fields per collection. They hold numbers, texts or nothing: a list or an object there is still
found, but by reading the whole collection."""

OF_DRIVERS = ("state", "round", "bucket")
"""Fields of candidates that drivers ask for."""
