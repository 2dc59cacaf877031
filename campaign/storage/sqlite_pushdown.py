"""Turns the part of a MongoDB filter that indexes can answer into SQL.

The SQL may keep too many documents, never too few: what it keeps is matched again unless the clause is exact.
SQLite may read a number with many digits one unit in the last place off, so bounds on fractional numbers are
widened and never exact.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from campaign.storage.matching import is_operators

_PART = re.compile(r"[A-Za-z_@][A-Za-z0-9_@ -]*\Z")
_SAFE_INTEGER = 2**53
_WIDEN = 1e-12


@dataclass(frozen=True)
class Pushed:
    """A WHERE clause for part of a filter, or for all of it."""

    sql: str
    """SQL text; '1' when nothing could be pushed."""
    parameters: tuple[Any, ...]
    """Values of its question marks."""
    exact: bool
    """Whether it keeps exactly the documents that fit the filter."""


_EVERYTHING = Pushed("1", (), True)
_NOTHING_KNOWN = Pushed("1", (), False)


def expression(field: str) -> str | None:
    """Return the SQL of a field's value, or None for a name that SQL cannot look up safely."""
    if field == "_id":
        return "id"
    path = json_path(field)
    return None if path is None else f"json_extract(doc, '{path}')"


def json_path(field: str) -> str | None:
    """Return a dotted field as SQLite's JSON path, or None."""
    parts = field.split(".")
    if not all(_PART.match(part) for part in parts):
        return None
    return "$" + "".join(f'."{part}"' for part in parts)


def odd_condition(field: str) -> str:
    """Return the SQL that finds documents whose field SQL would misread: lists, objects, true and false."""
    parts = field.split(".")
    prefixes = [".".join(parts[:n]) for n in range(1, len(parts))]
    tests = [f"json_type(doc, '{json_path(prefix)}') = 'array'" for prefix in prefixes]
    tests.append(f"json_type(doc, '{json_path(field)}') IN ('array', 'object', 'true', 'false')")
    return " OR ".join(tests)


def push(criteria: Mapping[str, Any], usable: Callable[[str], bool]) -> Pushed:
    """Return the SQL for a filter.

    Args:
        criteria: A filter that `compile_filter` accepts.
        usable: Says whether a field has an index and holds only texts, numbers and nulls.
    """
    return _all_of(_clause(key, condition, usable) for key, condition in criteria.items())


def _all_of(clauses: Iterable[Pushed]) -> Pushed:
    clauses = list(clauses)
    terms = [clause for clause in clauses if clause.sql != "1"]
    return Pushed(
        " AND ".join(f"({clause.sql})" for clause in terms) or "1",
        tuple(value for clause in terms for value in clause.parameters),
        all(clause.exact for clause in clauses),
    )


def _clause(key: str, condition: Any, usable: Callable[[str], bool]) -> Pushed:
    if key == "$and":
        return _all_of(push(part, usable) for part in condition)
    if key.startswith("$"):
        return _NOTHING_KNOWN
    sql = expression(key)
    if sql is None or not (key == "_id" or usable(key)):
        return _NOTHING_KNOWN
    if not is_operators(condition):
        return _operator(sql, "$eq", condition)
    return _all_of(_operator(sql, name, operand) for name, operand in condition.items())


def _operator(sql: str, name: str, operand: Any) -> Pushed:
    if name in ("$in", "$nin"):
        return _members(sql, name, operand)
    if operand is None and name in ("$eq", "$ne"):
        return Pushed(f"{sql} IS {'NOT ' if name == '$ne' else ''}NULL", (), True)
    if isinstance(operand, str):
        return _text(sql, name, operand)
    if isinstance(operand, int | float) and not isinstance(operand, bool):
        return _number(sql, name, operand)
    return _NOTHING_KNOWN


def _text(sql: str, name: str, operand: str) -> Pushed:
    if name == "$eq":
        return Pushed(f"{sql} = ?", (operand,), True)
    if name == "$ne":
        return Pushed(f"{sql} IS NOT ?", (operand,), True)
    signs = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
    if name not in signs:
        return _NOTHING_KNOWN
    # Texts sort after numbers in SQLite: the second bound keeps numbers out.
    return Pushed(f"{sql} {signs[name]} ? AND {sql} >= ''", (operand,), True)


def _number(sql: str, name: str, operand: float) -> Pushed:
    exact = isinstance(operand, int) and abs(operand) < _SAFE_INTEGER
    slack = 0.0 if exact else abs(operand) * _WIDEN
    low, high = operand - slack, operand + slack
    if name == "$eq":
        return Pushed(f"{sql} BETWEEN ? AND ?", (low, high), exact)
    if name in ("$gt", "$gte"):
        return Pushed(f"{sql} >= ? AND {sql} < ''", (low,), False)
    if name in ("$lt", "$lte"):
        return Pushed(f"{sql} <= ?", (high,), False)
    return _NOTHING_KNOWN


def _members(sql: str, name: str, operand: Sequence[Any]) -> Pushed:
    """Push lists of texts and whole numbers; one parameter carries the whole list."""
    simple = all(
        isinstance(item, str) or (type(item) is int and abs(item) < _SAFE_INTEGER) for item in operand
    )
    if not simple:
        return _NOTHING_KNOWN
    members = "(SELECT value FROM json_each(?))"
    if name == "$in":
        return Pushed(f"{sql} IN {members}", (json.dumps(list(operand)),), True)
    return Pushed(f"({sql} IS NULL OR {sql} NOT IN {members})", (json.dumps(list(operand)),), True)
