"""Conditions on label fields, such as `e_above_hull < 0.05 and not magnetic`: parsed, never run as code.

Written like Python's comparisons: `and`, `or`, `not`, `<`, `<=`, `>`, `>=`, `==`, `!=`, chains such as
`0 < band_gap < 2`, `in` and `not in` with a list, numbers, texts, `true`, `false`, and names of fields, dotted where
documents lie in one another. A field that is not known makes a comparison neither true nor false; `and` and `or`
decide without it where they can (Kleene's three-valued logic).
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flows.errors import ConditionError

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda value, known: value in known,
    ast.NotIn: lambda value, known: value not in known,
}
"""What may stand between two values."""

WORDS = {"true": True, "false": False}
"""Names that are values."""

LONGEST = 500
"""Characters of a condition."""

ALLOWED = "comparisons of fields with numbers, texts or lists, joined by and, or, not"


@dataclass(frozen=True)
class Condition:
    """A condition that was parsed; `parse_condition` makes it."""

    text: str
    """As the user wrote it."""
    fields: tuple[str, ...]
    """Names that it asks for, sorted."""

    def holds(self, document: Mapping[str, Any]) -> bool | None:
        """Say whether it holds for a document, None if that hangs on a field that is missing or null.

        Raises:
            ConditionError: A field's value cannot be compared with what stands beside it.
        """
        return _truth(_parsed(self.text), document, self.text)


def parse_condition(text: str) -> Condition:
    """Read a condition.

    Raises:
        ConditionError: It is no condition; says where.
    """
    tree = _parsed(text)
    _check_truth(tree, text)
    names = {_field(node) for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Attribute)}
    inner = {_field(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return Condition(text, tuple(sorted(name for name in names - inner if name and name not in WORDS)))


def _parsed(text: str) -> ast.expr:
    if len(text) > LONGEST:
        raise ConditionError("a condition is too long", value=f"{len(text)} characters", allowed=LONGEST)
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ConditionError(f"a condition cannot be read ({reason})", value=text, allowed=ALLOWED) from error


def _check_truth(node: ast.expr, text: str) -> None:
    """Refuse what is neither a comparison, nor a field on its own, nor made of these by and, or, not."""
    if isinstance(node, ast.BoolOp):
        for part in node.values:
            _check_truth(part, text)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        _check_truth(node.operand, text)
    elif isinstance(node, ast.Compare):
        for comparison, right in zip(node.ops, node.comparators, strict=True):
            wants_list = isinstance(comparison, ast.In | ast.NotIn)
            if type(comparison) not in COMPARISONS or wants_list != isinstance(right, ast.List | ast.Tuple):
                _refuse(right, text)
            _check_value(right, text)
        if isinstance(node.left, ast.List | ast.Tuple):
            _refuse(node.left, text)
        _check_value(node.left, text)
    elif not _field(node):
        _refuse(node, text)


def _check_value(node: ast.expr, text: str) -> None:
    if isinstance(node, ast.List | ast.Tuple):
        for part in node.elts:
            if (_field(part) and _field(part) not in WORDS) or isinstance(part, ast.List | ast.Tuple):
                _refuse(part, text)
            _check_value(part, text)
    elif not _field(node) and not _is_constant(node):
        _refuse(node, text)


def _is_constant(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        node = node.operand
        return isinstance(node, ast.Constant) and type(node.value) in (int, float)
    return isinstance(node, ast.Constant) and type(node.value) in (int, float, str, bool)


def _field(node: ast.expr) -> str:
    """Return the dotted name of a field, "" if the node is none."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _field(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def _refuse(node: ast.expr, text: str) -> None:
    part = ast.get_source_segment(text.strip(), node) or text
    raise ConditionError(
        f"a condition holds something that is not allowed: {part!r}",
        value=text,
        allowed=ALLOWED,
        cure='write for example "e_above_hull < 0.05 and n_atoms <= 20"',
    )


def _truth(node: ast.expr, document: Mapping[str, Any], text: str) -> bool | None:
    if isinstance(node, ast.BoolOp):
        found = [_truth(part, document, text) for part in node.values]
        decisive = isinstance(node.op, ast.Or)  # one true part decides "or", one false part decides "and"
        if decisive in found:
            return decisive
        return None if None in found else not decisive
    if isinstance(node, ast.UnaryOp):
        inner = _truth(node.operand, document, text)
        return None if inner is None else not inner
    if not isinstance(node, ast.Compare):
        return _as_bool(_value(node, document), text)
    values = [_value(part, document) for part in (node.left, *node.comparators)]
    links = [
        _compared(comparison, left, right, text)
        for comparison, left, right in zip(node.ops, values[:-1], values[1:], strict=True)
    ]
    return False if False in links else (None if None in links else True)


def _compared(comparison: ast.cmpop, left: Any, right: Any, text: str) -> bool | None:
    if left is None or right is None:
        return None
    try:
        return bool(COMPARISONS[type(comparison)](left, right))
    except TypeError as error:
        raise ConditionError(
            f"a condition compares what cannot be compared ({error})", value=text, allowed=ALLOWED
        ) from error


def _as_bool(value: Any, text: str) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise ConditionError(
        "a condition takes a field for true or false that is neither",
        value=f"{text} with {value!r}",
        cure="compare it with a number",
    )


def _value(node: ast.expr, document: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(part, document) for part in node.elts]
    name = _field(node)
    if name in WORDS:
        return WORDS[name]
    if name:
        found: Any = document
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found
    return ast.literal_eval(node)
