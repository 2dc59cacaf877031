"""Reads filters, sort orders and field lists from the command line: JSON only, nothing is evaluated.

Also the documented queries, each of which runs on both stores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from campaign.errors import QueryError
from campaign.storage.dotted import check_fields
from campaign.storage.matching import compile_filter
from campaign.storage.search import Filter, Sort

MAX_DEPTH = 40
"""Deepest nesting of a filter."""

_CURE = """write JSON, for example '{"state": "done", "result.e_above_hull": {"$lt": 0.05}}'"""


def parse_filter(text: str) -> dict[str, Any]:
    """Return the MongoDB filter that a text says; an empty text is every document.

    Raises:
        QueryError: No JSON object (with the place of the mistake), a field twice, an unknown operator or one
            that runs code.
    """
    if not text.strip():
        return {}
    try:
        parsed = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constants,
            parse_float=_finite,
            parse_int=_whole,
        )
    except json.JSONDecodeError as error:
        raise QueryError(
            f"the filter is not JSON: {error.msg} at character {error.pos + 1}",
            value=_marked(text, error.pos),
            cure=_CURE,
        ) from None
    except RecursionError:
        raise QueryError("the filter is nested too deeply", cure=_CURE) from None
    if not isinstance(parsed, dict):
        raise QueryError("the filter is no JSON object", value=text.strip(), cure=_CURE)
    _check_values(parsed, 1)
    compile_filter(parsed)
    return parsed


def parse_sort(text: str) -> list[tuple[str, int]]:
    """Return the sort order that `field,-field2` says; a minus sorts from high to low."""
    order = []
    for name in _names(text):
        field = name.lstrip("+-")
        check_fields([field])
        order.append((field, -1 if name.startswith("-") else 1))
    return order


def parse_fields(text: str) -> list[str]:
    """Return the fields that `field,other.field` says."""
    fields = _names(text)
    check_fields(fields)
    return fields


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if names == [""]:
        return []
    if not all(name.strip("+-") for name in names):
        raise QueryError("a name is missing between commas", value=text, cure="write field,other.field")
    return names


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise QueryError(
            "a name stands twice in one object of the filter", value=twice, cure='join them by "$and"'
        )
    return dict(pairs)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise QueryError("a number is too large", value=text, cure="leave the bound out")
    return number


def _whole(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise QueryError("a whole number does not fit into 64 bits", value=text, cure="leave the bound out")
    return int(text)


def _check_values(value: Any, depth: int) -> None:
    """Refuse what one of the stores could not take: endless nesting, and text that is no Unicode."""
    if depth > MAX_DEPTH:
        raise QueryError(f"the filter is nested more than {MAX_DEPTH} levels deep", cure=_CURE)
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_values(name, depth)
            _check_values(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_values(inner, depth + 1)
    elif isinstance(value, str):
        check_text(value)


def check_text(text: str) -> None:
    """Refuse a text with half of a surrogate pair, which no file or database can hold.

    Raises:
        QueryError: It is no Unicode.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise QueryError("a text is no Unicode", value=text) from None


def _no_constants(name: str) -> NoReturn:
    raise QueryError(f"{name} is no JSON number", cure="documents hold null where a number is missing")


def _marked(text: str, place: int) -> str:
    """Return the surroundings of a mistake with an arrow at it."""
    start = max(0, place - 20)
    return f"{text[start:place]}⟶{text[place : place + 20]}"


@dataclass(frozen=True)
class Example:
    """A documented query."""

    purpose: str
    """What it answers."""
    collection: str
    filter: Filter
    """`$candidate`, `$chemsys` and the like stand for what `filled` is given."""
    fields: Sequence[str] | None = None
    sort: Sort = ()
    limit: int = 0
    count_by: str | None = None
    """Counts per value of this field instead of documents."""
    index: str = "_id"
    """Field whose index serves it."""

    def filled(self, **values: str) -> dict[str, Any]:
        """Return the filter with the values in place of their names.

        Raises:
            QueryError: A value is missing.
        """
        filled: dict[str, Any] = {}
        for field, condition in self.filter.items():
            is_name = isinstance(condition, str) and condition.startswith("$")
            if is_name and condition[1:] not in values:
                raise QueryError("the example needs a value", value=condition[1:])
            filled[field] = values[condition[1:]] if is_name else condition
        return filled


EXAMPLES: dict[str, Example] = {
    "stable": Example(
        "Stable crystals by formula: labels on or below the hull, with what they cost.",
        "labels",
        {"state": "done", "purpose": "candidate", "result.e_above_hull": {"$lte": 0.0}},
        fields=(
            "formula",
            "candidate_id",
            "result.e_above_hull",
            "result.formation_energy_per_atom",
            "core_hours",
        ),
        sort=(("formula", 1), ("result.e_above_hull", 1)),
        index="result.e_above_hull",
    ),
    "rejected": Example(
        "How many candidates each screen rejected.",
        "candidates",
        {"state": "rejected"},
        count_by="rejected_by",
        index="state",
    ),
    "failed": Example(
        "Failed labels by cause, with all their attempts.",
        "labels",
        {"state": "failed", "failure.cause": {"$exists": True}},
        fields=("formula", "failure", "attempts", "core_hours"),
        sort=(("failure.cause", 1),),
        index="state",
    ),
    "best": Example(
        "The ten most promising candidates of a chemical system that have passed the screens.",
        "candidates",
        {
            "chemsys": "$chemsys",
            "state": {"$in": ["screened", "selected", "labelling", "labelled"]},
            "predictions.e_above_hull": {"$ne": None},
        },
        fields=("formula", "spacegroup", "generator", "state", "predictions.e_above_hull"),
        sort=(("predictions.e_above_hull", 1),),
        limit=10,
        index="chemsys",
    ),
    "lineage": Example(
        "Where a candidate comes from: generator, model version, seed, and which models judged it.",
        "candidates",
        {"_id": "$candidate"},
        fields=(
            "round",
            "generator",
            "model_version",
            "seed",
            "judged_by",
            "rejected_by",
            "reason",
            "label_id",
        ),
    ),
}
"""The queries of the documentation, by name."""
