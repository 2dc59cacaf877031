"""What a store's collections can do, whichever kind of store holds them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from campaign.storage.search import Filter, Search


class Documents(Protocol):
    """Collections of JSON documents; see `sqlite_documents`, `mongo_documents` and `outages`."""

    def close(self) -> None:
        """Close the store; closing twice is fine."""

    def get(self, collection: str, id_: str) -> dict[str, Any] | None:
        """Return one document, or None."""

    def find(self, collection: str, search: Search) -> Iterator[dict[str, Any]]:
        """Yield the documents asked for."""

    def count(self, collection: str, criteria: Filter) -> int:
        """Return how many documents fit."""

    def count_by(self, collection: str, field: str, criteria: Filter) -> dict[Any, int]:
        """Return how many documents that fit have each value of a field; None counts missing and null."""

    def insert_new(self, collection: str, documents: Sequence[Mapping[str, Any]]) -> list[str]:
        """Store the documents whose `_id` is not there yet; return those ids."""

    def put(self, collection: str, documents: Sequence[Mapping[str, Any]]) -> None:
        """Store whole documents, new or in place of those with the same `_id`."""

    def set_fields(
        self, collection: str, id_: str, fields: Mapping[str, Any], expect: Filter | None = None
    ) -> bool:
        """Set fields of one document if it is there and fits `expect`; tell whether it was."""

    def set_fields_many(self, collection: str, updates: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
        """Set fields of many documents, in their order; return how many of them were there."""

    def replace_by(
        self, collection: str, keys: Sequence[str], documents: Sequence[Mapping[str, Any]]
    ) -> None:
        """Store whole documents in place of those with the same top-level key fields."""

    def ensure_indexes(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Make the indexes of {collection: fields} that are missing."""

    def server_time(self) -> float:
        """Return seconds since 1970 by the one clock that all users of the store share."""

    def together(self) -> contextlib.AbstractContextManager[object]:
        """Group the writes of a `with` block, where the store can."""

    def within(self, seconds: float) -> contextlib.AbstractContextManager[object]:
        """Let the searches of a `with` block take so long together [s], where the store can."""
