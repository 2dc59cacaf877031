"""Matches plain documents against MongoDB filters, with the server's meaning, for the embedded store.

Only the operators below exist, on both stores, so that a filter never works on one and fails on the other.
None of them runs code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from campaign.errors import QueryError
from campaign.storage.dotted import MISSING, order, rank, reached

Predicate = Callable[[Any], bool]
"""Says whether one value, or MISSING, fits."""

Matcher = Callable[[dict[str, Any]], bool]
"""Says whether a document fits."""

LOGICAL = ("$and", "$or", "$nor")
COMPARISONS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin")
OTHERS = ("$exists", "$type", "$not", "$all", "$elemMatch", "$size", "$regex", "$options", "$mod")
OPERATORS = (*LOGICAL, *COMPARISONS, *OTHERS)
CODE_OPERATORS = frozenset({"$where", "$expr", "$function", "$accumulator", "$jsonSchema"})
"""Operators that run code or expressions on the server: refused."""

_TYPES: dict[str, Predicate] = {
    "null": lambda v: v is None,
    "bool": lambda v: isinstance(v, bool),
    "string": lambda v: isinstance(v, str),
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "double": lambda v: isinstance(v, float),
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool) and -(2**31) <= v < 2**31,
    "long": lambda v: isinstance(v, int) and not isinstance(v, bool) and not -(2**31) <= v < 2**31,
}


def compile_filter(criteria: Mapping[str, Any]) -> Matcher:
    """Return a function that says whether a document fits a filter.

    Raises:
        QueryError: The filter is malformed or uses an operator outside `OPERATORS`.
    """
    if not isinstance(criteria, Mapping):
        raise QueryError("a filter must be an object", value=criteria, cure='for example {"state": "done"}')
    parts = [_clause(key, condition) for key, condition in criteria.items()]
    if len(parts) == 1:
        return parts[0]
    return lambda document: all(part(document) for part in parts)


def is_operators(condition: Any) -> bool:
    """Tell whether a condition is an object of operators and not a value to be equal to."""
    if not isinstance(condition, Mapping) or not condition:
        return False
    dollars = [isinstance(key, str) and key.startswith("$") for key in condition]
    if any(dollars) and not all(dollars):
        raise QueryError("operators and plain fields are mixed in one object", value=dict(condition))
    return dollars[0]


def _clause(key: str, condition: Any) -> Matcher:
    if key in LOGICAL:
        return _logical(key, condition)
    if not isinstance(key, str) or key.startswith("$"):
        raise _unknown(key, LOGICAL)
    path = key.split(".")
    if not is_operators(condition):
        return _on_any(path, _equal(condition))
    tests = [_field_operator(path, name, operand, condition) for name, operand in condition.items()]
    return tests[0] if len(tests) == 1 else lambda document: all(test(document) for test in tests)


def _logical(key: str, condition: Any) -> Matcher:
    if not isinstance(condition, list | tuple) or not condition:
        raise QueryError(f"{key} needs a list of filters that is not empty", value=condition)
    parts = [compile_filter(part) for part in condition]
    if key == "$and":
        return lambda document: all(part(document) for part in parts)
    if key == "$or":
        return lambda document: any(part(document) for part in parts)
    return lambda document: not any(part(document) for part in parts)


def _unknown(name: object, allowed: tuple[str, ...]) -> QueryError:
    if name in CODE_OPERATORS:
        return QueryError(f"{name} runs code on the server and is refused", allowed=OPERATORS)
    return QueryError("unknown operator in a filter", value=name, allowed=allowed)


def _on_any(path: list[str], predicate: Predicate, *, into_lists: bool = True) -> Matcher:
    """Match when any value at the path fits, lists element by element too."""

    def matcher(document: dict[str, Any]) -> bool:
        for value, by_place in reached(document, path):
            if predicate(value):
                return True
            if into_lists and not by_place and isinstance(value, list) and any(map(predicate, value)):
                return True
        return False

    return matcher


def _field_operator(path: list[str], name: str, operand: Any, condition: Mapping[str, Any]) -> Matcher:
    """Return the matcher of one operator on one path."""
    if name in ("$ne", "$nin"):
        return _negated(_field_operator(path, {"$ne": "$eq", "$nin": "$in"}[name], operand, condition))
    if name == "$not":
        if not is_operators(operand):
            raise QueryError("$not needs an object of operators", value=operand)
        return _negated(_clause(".".join(path), operand))
    if name == "$exists":
        present = _on_any(path, lambda value: value is not MISSING, into_lists=False)
        return present if operand else _negated(present)
    if name == "$all":
        return _all(path, operand)
    whole_lists = {"$size": _size, "$elemMatch": _element_match}
    if name in whole_lists:
        return _on_any(path, whole_lists[name](operand), into_lists=False)
    return _on_any(path, value_predicate(name, operand, condition))


def _negated(matcher: Matcher) -> Matcher:
    return lambda document: not matcher(document)


def value_predicate(name: str, operand: Any, condition: Mapping[str, Any]) -> Predicate:
    """Return the test of one value for the operators that judge single values."""
    if name == "$eq":
        return _equal(operand)
    if name in ("$gt", "$gte", "$lt", "$lte"):
        return _compare(name, operand)
    if name == "$in":
        return _member(operand)
    if name in ("$regex", "$options"):
        if "$regex" not in condition:
            raise QueryError("$options belongs to a $regex", value=dict(condition))
        return _regex(condition["$regex"], condition.get("$options", ""))
    if name in ("$type", "$mod"):
        return _type(operand) if name == "$type" else _mod(operand)
    raise _unknown(name, COMPARISONS + OTHERS)


def _member(operand: Any) -> Predicate:
    if not isinstance(operand, list | tuple):
        raise QueryError("$in and $nin need a list", value=operand)
    if any(is_operators(item) for item in operand):
        raise QueryError("$in and $nin take values, no operators", value=operand)
    members = [order(item) for item in operand]
    texts = {item for item in operand if isinstance(item, str)}
    has_null = any(item is None for item in operand)

    def is_member(value: Any) -> bool:
        if isinstance(value, str):
            return value in texts
        if value is None or value is MISSING:
            return has_null
        return order(value) in members

    return is_member


def _equal(operand: Any) -> Predicate:
    if is_operators(operand):
        raise QueryError("$eq takes a value, no operators", value=operand)
    if operand is None:
        return lambda value: value is None or value is MISSING
    if isinstance(operand, str):
        return lambda value: value == operand
    target = order(operand)
    return lambda value: value is not MISSING and order(value) == target


def _compare(name: str, operand: Any) -> Predicate:
    """Compare within one type only, as the server does."""
    if is_operators(operand):
        raise QueryError(f"{name} takes a value, no operators", value=operand)
    kind, target = rank(operand), order(operand)
    if operand is None:
        return (lambda v: v is None or v is MISSING) if name in ("$gte", "$lte") else lambda _: False
    if name == "$gt":
        return lambda v: rank(v) == kind and order(v) > target
    if name == "$gte":
        return lambda v: rank(v) == kind and order(v) >= target
    if name == "$lt":
        return lambda v: rank(v) == kind and order(v) < target
    return lambda v: rank(v) == kind and order(v) <= target


def _regex(pattern: Any, options: Any) -> Predicate:
    if not isinstance(pattern, str) or not isinstance(options, str) or set(options) - set("imsx"):
        raise QueryError("$regex needs a text, $options some of i, m, s, x", value=[pattern, options])
    flags = 0
    for letter in options:
        flags |= {"i": re.I, "m": re.M, "s": re.S, "x": re.X}[letter]
    try:
        compiled = re.compile(pattern, flags)
    except re.error as error:
        raise QueryError(f"the regular expression does not parse: {error}", value=pattern) from None
    return lambda value: isinstance(value, str) and compiled.search(value) is not None


def _type(operand: Any) -> Predicate:
    names = operand if isinstance(operand, list | tuple) else [operand]
    if not names or any(not isinstance(name, str) or name not in _TYPES for name in names):
        raise QueryError("unknown $type", value=operand, allowed=_TYPES)
    tests = [_TYPES[name] for name in names]
    return lambda value: any(test(value) for test in tests)


def _mod(operand: Any) -> Predicate:
    if not (isinstance(operand, list | tuple) and len(operand) == 2 and all(type(n) is int for n in operand)):
        raise QueryError("$mod needs [divisor, remainder]", value=operand)
    divisor, remainder = operand
    if divisor == 0:
        raise QueryError("$mod by zero", value=operand)
    return lambda v: (
        isinstance(v, int | float)
        and not isinstance(v, bool)
        and abs(v) < 2**63
        and abs(int(v)) % abs(divisor) * (1 if v >= 0 else -1) == remainder
    )


def _size(operand: Any) -> Predicate:
    number = isinstance(operand, int | float) and not isinstance(operand, bool)
    if not number or operand < 0 or operand != int(operand):
        raise QueryError("$size needs a whole number that is not negative", value=operand)
    return lambda v: isinstance(v, list) and len(v) == operand


def _all(path: list[str], operand: Any) -> Matcher:
    tests: list[Matcher] = []
    for item in _all_values(operand):
        if isinstance(item, Mapping) and set(item) == {"$elemMatch"}:
            tests.append(_on_any(path, _element_match(item["$elemMatch"]), into_lists=False))
        else:
            tests.append(_on_any(path, _equal(item)))
    return lambda document: bool(tests) and all(test(document) for test in tests)


def _element_match(operand: Any) -> Predicate:
    """Match a list one element of which fits every condition at once."""
    if not isinstance(operand, Mapping):
        raise QueryError("$elemMatch needs an object", value=operand)
    if is_operators(operand) and not set(operand) & set(LOGICAL):
        tests = [_element_operator(name, value, operand) for name, value in operand.items()]
        return lambda v: isinstance(v, list) and any(all(test(item) for test in tests) for item in v)
    inner = compile_filter(operand)

    def fits(item: Any) -> bool:
        if isinstance(item, list):
            item = {str(place): part for place, part in enumerate(item)}
        return isinstance(item, dict) and inner(item)

    return lambda v: isinstance(v, list) and any(fits(item) for item in v)


def _element_operator(name: str, operand: Any, condition: Mapping[str, Any]) -> Predicate:
    """Return the test of one element of a list; an element that is a list itself is not entered."""
    if name in ("$ne", "$nin"):
        positive = _element_operator({"$ne": "$eq", "$nin": "$in"}[name], operand, condition)
        return lambda item: not positive(item)
    if name == "$not":
        if not is_operators(operand):
            raise QueryError("$not needs an object of operators", value=operand)
        tests = [_element_operator(inner, value, operand) for inner, value in operand.items()]
        return lambda item: not all(test(item) for test in tests)
    if name == "$exists":
        return lambda _: bool(operand)
    if name in ("$size", "$elemMatch"):
        return _size(operand) if name == "$size" else _element_match(operand)
    if name == "$all":
        every = [_equal(value) for value in _all_values(operand)]
        return lambda item: bool(every) and all(test(item) for test in every)
    return value_predicate(name, operand, condition)


def _all_values(operand: Any) -> list[Any]:
    if not isinstance(operand, list | tuple):
        raise QueryError("$all needs a list", value=operand)
    return list(operand)
