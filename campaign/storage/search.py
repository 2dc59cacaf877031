"""What is asked of a collection, as one value that both stores understand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Filter = Mapping[str, Any]
"""A MongoDB filter; the operators are `campaign.storage.matching.OPERATORS`."""

Sort = Sequence[tuple[str, int]]
"""Dotted fields with 1 (ascending) or -1 (descending), the most important first."""


@dataclass(frozen=True, slots=True)
class Search:
    """A query: which documents, what of them, in which order, how many."""

    criteria: Filter = field(default_factory=dict)
    """Which documents."""
    fields: Sequence[str] | None = None
    """Dotted fields to return beside `_id`; None: the whole document."""
    sort: Sort = ()
    """Order; empty: any order, on the embedded store the order of insertion."""
    limit: int = 0
    """At most so many; 0: all."""
    skip: int = 0
    """Leave out so many at the start."""
