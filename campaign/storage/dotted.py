"""Dotted paths in plain documents, with MongoDB's meaning: look up, set, project, sort and group."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from campaign.errors import QueryError, StoreError
from campaign.storage.plain import encode

MISSING: Final = object()
"""Stands for a field that a document does not have; differs from a field that is null."""

Order = tuple[int, Any]
"""A value's place in MongoDB's order of all values: rank of its type, then the value."""

EMPTY_LIST_RANK = 3
_NULL, _NUMBER, _TEXT, _OBJECT, _LIST, _BOOLEAN = 5, 10, 15, 20, 25, 40


def rank(value: Any) -> int:
    """Return the rank of a value's type in MongoDB's order: null, numbers, text, objects, lists, booleans."""
    if isinstance(value, str):
        return _TEXT
    if isinstance(value, bool):
        return _BOOLEAN
    if isinstance(value, int | float):
        return _NUMBER
    if value is None or value is MISSING:
        return _NULL
    return _OBJECT if isinstance(value, dict) else _LIST


def order(value: Any) -> Order:
    """Return what orders and equates values as MongoDB does: 1 equals 1.0, true is no number."""
    kind = rank(value)
    if kind == _OBJECT:
        return kind, [(rank(item), key, order(item)) for key, item in value.items()]
    if kind == _LIST:
        return kind, [order(item) for item in value]
    return kind, None if kind == _NULL else value


def reached(
    value: Any, parts: Sequence[str], start: int = 0, by_place: bool = False
) -> list[tuple[Any, bool]]:
    """Return what a path reaches: one value, or several where it passes through lists; MISSING for none.

    Returns:
        Pairs (value, whether the last step was a place in a list); MongoDB does not look into a list that was
        reached so.
    """
    if start == len(parts):
        return [(value, by_place)]
    head = parts[start]
    if isinstance(value, dict):
        if head not in value:
            return [(MISSING, False)]
        return reached(value[head], parts, start + 1)
    if not isinstance(value, list):
        return [(MISSING, False)]
    found: list[tuple[Any, bool]] = []
    if head.isdigit() and int(head) < len(value):
        item = value[int(head)]
        if start + 1 == len(parts) or isinstance(item, dict | list):
            found += reached(item, parts, start + 1, True)
    for item in value:
        if isinstance(item, dict):
            found += reached(item, parts, start)
    return found


def values_at(value: Any, parts: Sequence[str]) -> list[Any]:
    """Return the values that a path reaches; see `reached`."""
    return [found for found, _ in reached(value, parts)]


def group_value(value: Any, parts: Sequence[str]) -> Any:
    """Return the one value that MongoDB groups by: lists are passed through, numbers in paths are keys."""
    for place, head in enumerate(parts):
        if isinstance(value, list):
            inner = (group_value(item, parts[place:]) for item in value if isinstance(item, dict))
            return [item for item in inner if item is not MISSING]
        if not isinstance(value, dict) or head not in value:
            return MISSING
        value = value[head]
    return value


def group_key(value: Any) -> Any:
    """Return a hashable form of a group's value; lists and objects become their JSON text."""
    if value is MISSING:
        return None
    return encode({"v": value})[5:-1] if isinstance(value, dict | list) else value


def set_at(document: dict[str, Any], path: str, value: Any) -> None:
    """Set one dotted path in place, as MongoDB's $set: objects on the way are made, lists take places.

    Raises:
        StoreError: The path passes through a value that has no fields.
    """
    holder: Any = document
    *way, last = path.split(".")
    for place, head in enumerate(way):
        if isinstance(holder, dict):
            holder = holder.setdefault(head, {})
        else:
            is_new = _grow(holder, head, path)
            if is_new:
                holder[int(head)] = {}
            holder = holder[int(head)]
        if not isinstance(holder, dict | list):
            reached = ".".join(way[: place + 1])
            raise StoreError(f"cannot set {path!r}: {reached!r} has no fields", value=holder)
    if isinstance(holder, dict):
        holder[last] = value
    else:
        _grow(holder, last, path)
        holder[int(last)] = value


def _grow(items: list[Any], head: str, path: str) -> bool:
    """Pad a list with nulls up to the place a path names; tell whether the place is new."""
    if not head.isdigit():
        raise StoreError(f"cannot set {path!r}: {head!r} is no place in a list", value=items[:3])
    missing = int(head) + 1 - len(items)
    items.extend([None] * missing)
    return missing > 0


def check_settable(paths: Iterable[str]) -> None:
    """Raise StoreError for no path, an empty path part, a change of `_id`, or paths inside each other."""
    paths = list(paths)
    if not paths:
        raise StoreError("there is nothing to set", cure="name at least one field")
    for path in paths:
        if path == "_id" or path.startswith("_id."):
            raise StoreError("a document keeps its _id", value=path)
        if not all(path.split(".")) or any(part.startswith("$") for part in path.split(".")):
            raise StoreError("a field path has an empty part, or one that begins with $", value=path)
    clash = _clash(paths)
    if clash:
        raise StoreError("a field and a part of it are set at once", value=clash)


def check_fields(fields: Sequence[str]) -> None:
    """Raise QueryError for a projection that MongoDB would refuse."""
    for field in fields:
        if not field or not all(field.split(".")) or not _is_plain(field):
            raise QueryError(
                "a field name is empty, or holds $ or half a character",
                value=field,
                cure="fields look like result.energy",
            )
    clash = _clash(fields)
    if clash:
        raise QueryError(
            "a field and a part of it are asked for at once", value=clash, cure="name one of them"
        )


def _is_plain(field: str) -> bool:
    """Tell whether a name holds no $ and nothing that is no Unicode."""
    return "$" not in field and not any("\ud800" <= letter <= "\udfff" for letter in field)


def _clash(paths: Sequence[str]) -> tuple[str, str] | None:
    """Return a path and one inside it, or None."""
    ordered = sorted(set(paths), key=lambda path: path.split("."))
    for first, second in itertools.pairwise(ordered):
        if second.startswith(first + "."):
            return first, second
    return None


def project(document: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """Return the document with `_id` and the given dotted fields only, as MongoDB's projection."""
    wanted: dict[str, Any] = {"_id": {}}
    for field in fields:
        branch = wanted
        for part in field.split("."):
            branch = branch.setdefault(part, {})
    kept: dict[str, Any] = _keep(document, wanted)
    return kept


def _keep(value: Any, wanted: dict[str, Any]) -> Any:
    if not wanted:
        return value
    if isinstance(value, dict):
        pairs = ((key, _keep(item, wanted[key])) for key, item in value.items() if key in wanted)
        return {key: item for key, item in pairs if item is not MISSING}
    if isinstance(value, list):
        kept = (_keep(item, wanted) for item in value)
        return [item for item in kept if item is not MISSING]
    return MISSING


def sort_documents(
    rows: list[tuple[dict[str, Any], int]], sort: Sequence[tuple[str, int]]
) -> list[tuple[dict[str, Any], int]]:
    """Sort (document, row number) pairs as MongoDB's sort does; pairs that tie stay in their order."""
    for field, direction in reversed(sort):
        key = functools.partial(_sort_key, parts=field.split("."), descending=direction < 0)
        rows = sorted(rows, key=key, reverse=direction < 0)
    return rows


def _sort_key(row: tuple[dict[str, Any], int], *, parts: list[str], descending: bool) -> Order:
    """Return the order of a field; of a list counts its smallest element, or its largest when descending."""
    orders: list[Order] = []
    for value in values_at(row[0], parts):
        if isinstance(value, list):
            orders += [order(item) for item in value] or [(EMPTY_LIST_RANK, None)]
        else:
            orders.append(order(value))
    if not orders:
        return order(None)
    return max(orders) if descending else min(orders)


def id_from_keys(keys: Mapping[str, Any]) -> str:
    """Return an `_id` that follows from a document's key fields, as long as MongoDB's own."""
    return hashlib.sha256(encode(keys).encode()).hexdigest()[:24]
