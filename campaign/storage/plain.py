"""Turns what Python code hands over into plain documents, the same for every store.

    numpy numbers, booleans, arrays   numbers, booleans, nested lists
    NaN and infinities                null: «no value» (JSON knows neither, and MongoDB sorts them oddly)
    date and time                     ISO 8601 text; without a time zone it is taken as UTC
    enumerations, dataclasses         their value, their fields
    tuples, sets                      lists (a set is sorted)
    absolute paths, ObjectId          text
    relative paths, bytes, others     refused: they would mean nothing to the next reader

Refused as well, because MongoDB does: keys that are no text or begin with `$`, whole numbers beyond 64 bits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import orjson

from campaign.errors import DocumentRefusedError

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NAIVE_UTC
_LONG_INTEGER = re.compile(rb"[:,\[]-?\d{19,}[,\]}]")
_INT64 = 2**63

MAX_BYTES = 15_000_000
"""Largest document as JSON: MongoDB's limit is 16 MiB of BSON, which is a little longer than JSON."""


def encode(document: Mapping[str, Any], *, limit: int | None = None) -> str:
    """Return the document as compact JSON text.

    Args:
        document: What to store.
        limit: Most bytes; None: any size.

    Raises:
        DocumentRefusedError: A value or key has no plain form, and the message names its place in the document;
            or the document is too large.
    """
    try:
        data = orjson.dumps(document, default=_convert, option=_OPTIONS)
    except TypeError as error:  # orjson.JSONEncodeError is one
        where = _find_bad(document, "")
        raise DocumentRefusedError(
            "a document holds something that cannot be stored",
            value=where or str(error.__cause__ or error),
            allowed="texts, numbers, booleans, null, lists and objects with text keys",
        ) from None
    if limit is not None and len(data) > limit:
        raise DocumentRefusedError(
            f"the document {str(document.get('_id', ''))!r} is too large for a store",
            value=f"{len(data)} bytes",
            allowed=f"up to {limit} bytes",
            cure="keep large objects in files",
        )
    # Both searches are cheap and nearly always fail; only a hit costs a walk through the document.
    if b'"$' in data or _LONG_INTEGER.search(data):
        _refuse_unstorable(orjson.loads(data), "")
    return data.decode()


def decode(text: str | bytes) -> Any:
    """Return the value that a JSON text says."""
    return orjson.loads(text)


def plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plain copy of a document; see the module for the rules.

    Raises:
        DocumentRefusedError: As `encode`.
    """
    copy: dict[str, Any] = orjson.loads(encode(document, limit=MAX_BYTES))
    return copy


def _convert(value: Any) -> Any:
    """Give orjson a plain stand-in for what it does not know."""
    kind = type(value)
    if kind.__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        return value.tolist()  # scalars and arrays of a kind or memory order that orjson skips
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, PurePath) and value.is_absolute():
        return str(value)
    if kind.__name__ == "ObjectId":
        return str(value)
    for base in (bool, int, float, str):
        if isinstance(value, base):
            return base(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{kind.__module__}.{kind.__qualname__}")


def _find_bad(value: Any, path: str) -> str:
    """Return the place and type of the first value without a plain form, or ''."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"key {key!r} at {path or 'the top'}"
            found = _find_bad(item, f"{path}.{key}" if path else key)
            if found:
                return found
        return ""
    if isinstance(value, list | tuple):
        return next((bad for i, item in enumerate(value) if (bad := _find_bad(item, f"{path}.{i}"))), "")
    try:
        orjson.dumps(value, default=_convert, option=_OPTIONS)
    except TypeError:
        text = repr(value)
        return f"{path} = {text if len(text) < 60 else text[:57] + '...'} ({type(value).__name__})"
    return ""


def _refuse_unstorable(value: Any, path: str) -> None:
    """Raise DocumentRefusedError for keys that begin with `$` and for whole numbers beyond 64 bits."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key.startswith("$"):
                raise DocumentRefusedError(
                    "a key of a document begins with $", value=f"{path}.{key}".lstrip("."), cure="rename it"
                )
            _refuse_unstorable(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _refuse_unstorable(item, f"{path}.{i}")
    elif isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise DocumentRefusedError(
            "a whole number does not fit into 64 bits", value=f"{path} = {value}", cure="store it as text"
        )
