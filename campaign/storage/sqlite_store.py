"""SQLiteStore: a durable maggma Store in one local file, for jobflow's JobStore and maggma's builders.

Documents become plain JSON on the way in (`campaign.storage.plain`): dates come back as ISO 8601 text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maggma.core import Sort, Store, StoreError
from maggma.core.store import DateTimeFormat
from monty.json import jsanitize

from campaign.storage.dotted import MISSING, group_key, group_value, set_at, values_at
from campaign.storage.search import Search
from campaign.storage.sqlite_documents import SqliteDocuments

Criteria = dict[str, Any] | None
Properties = dict[str, Any] | list[str] | None
SortOrder = dict[str, Sort | int] | None


class SQLiteStore(Store):
    """One collection of documents in a SQLite file that several collections and processes may share.

    Args:
        path: The file, absolute: a relative path would mean another file in every job's folder.
        collection_name: Table that holds the documents.
        key: Field that identifies a document.
        last_updated_field: Field with the time of the last change.
        last_updated_type: ISO text, because JSON has no dates.
        read_only: Refuse to create or change anything.

    Raises:
        StoreError: The path is relative.
    """

    def __init__(
        self,
        path: str | Path,
        collection_name: str = "documents",
        *,
        key: str = "task_id",
        last_updated_field: str = "last_updated",
        last_updated_type: DateTimeFormat | str = DateTimeFormat.IsoFormat,
        read_only: bool = False,
    ) -> None:
        if not Path(path).is_absolute():
            raise StoreError(f"the path of a SQLiteStore must be absolute, got {path}")
        self.path = str(path)
        self.collection_name = collection_name
        self.read_only = read_only
        self._documents: SqliteDocuments | None = None
        super().__init__(
            key=key,
            last_updated_field=last_updated_field,
            last_updated_type=DateTimeFormat(last_updated_type),
        )

    @property
    def name(self) -> str:
        """Return what names this source of documents."""
        return f"sqlite://{self.path}#{self.collection_name}"

    @property
    def _collection(self) -> SqliteDocuments:
        if self._documents is None:
            raise StoreError(f"connect the store first: {self.name}")
        return self._documents

    def connect(self, force_reset: bool = False) -> None:
        """Open the file."""
        if force_reset:
            self.close()
        if self._documents is None:
            self._documents = SqliteDocuments(Path(self.path), read_only=self.read_only)

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._documents is not None:
            self._documents.close()
            self._documents = None

    def as_dict(self) -> dict[str, Any]:
        """Return the arguments that make this store again."""
        return {
            "@module": type(self).__module__,
            "@class": type(self).__name__,
            "path": self.path,
            "collection_name": self.collection_name,
            "key": self.key,
            "last_updated_field": self.last_updated_field,
            "last_updated_type": DateTimeFormat(self.last_updated_type).value,
            "read_only": self.read_only,
        }

    @classmethod
    def from_dict(cls, dct: Mapping[str, Any]) -> SQLiteStore:
        """Return the store that `as_dict` describes."""
        return cls(**{name: value for name, value in dct.items() if not name.startswith("@")})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SQLiteStore) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash((self.path, self.collection_name, self.last_updated_field))

    # Reading

    def count(self, criteria: Criteria = None) -> int:
        """Return how many documents fit a MongoDB filter."""
        return self._collection.count(self.collection_name, criteria or {})

    def query(
        self,
        criteria: Criteria = None,
        properties: Properties = None,
        sort: SortOrder = None,
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[dict[str, Any]]:
        """Yield the documents that fit; arguments as in maggma."""
        included, excluded = _projection(properties)
        order = [
            (field, direction.value if isinstance(direction, Sort) else int(direction))
            for field, direction in (sort or {}).items()
        ]
        search = Search(criteria or {}, included, order, limit, skip)
        for document in self._collection.find(self.collection_name, search):
            for field in excluded:
                document.pop(field, None)
            yield document

    def groupby(  # noqa: PLR0917 - the signature is maggma's
        self,
        keys: list[str] | str,
        criteria: Criteria = None,
        properties: Properties = None,
        sort: SortOrder = None,
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Yield (values of the keys, documents that have them); documents without a key group as such."""
        names = [keys] if isinstance(keys, str) else list(keys)
        if properties:
            properties = [*dict.fromkeys([*properties, *names])]
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for document in self.query(criteria, properties, sort, skip, limit):
            label = tuple(group_key(group_value(document, name.split("."))) for name in names)
            groups.setdefault(label, []).append(document)
        for members in groups.values():
            values: dict[str, Any] = {}
            for name in names:
                value = group_value(members[0], name.split("."))
                if value is not MISSING:
                    set_at(values, name, value)
            yield values, members

    def distinct(  # the signature is maggma's
        self,
        field: str,
        criteria: Criteria = None,
        all_exist: bool = False,  # noqa: ARG002
    ) -> list[Any]:
        """Return the different values of a field, of lists their elements, as MongoDB's distinct."""
        found: dict[Any, Any] = {}
        for document in self.query(criteria, [field]):
            for value in values_at(document, field.split(".")):
                for item in value if isinstance(value, list) else [value]:
                    if item is not MISSING:
                        found.setdefault((isinstance(item, bool), group_key(item)), item)
        return list(found.values())

    # Writing

    def update(self, docs: list[dict[str, Any]] | dict[str, Any], key: list[str] | str | None = None) -> None:
        """Store whole documents in place of those with the same key fields, durably and all or none."""
        keys = key or self.key
        clean = [
            jsanitize(doc, allow_bson=True, recursive_msonable=True)
            for doc in (docs if isinstance(docs, list) else [docs])
        ]
        if clean:
            names = [keys] if isinstance(keys, str) else list(keys)
            self._collection.replace_by(self.collection_name, names, clean)

    def remove_docs(self, criteria: dict[str, Any]) -> None:
        """Remove the documents that fit."""
        self._collection.remove(self.collection_name, criteria)

    def ensure_index(self, key: str, unique: bool = False) -> bool:
        """Make an index on a field; False for a field that cannot have one."""
        return self._collection.ensure_index(self.collection_name, key, unique=unique)


def _projection(properties: Properties) -> tuple[list[str] | None, list[str]]:
    """Return (fields to return, or None for all; top-level fields to leave out)."""
    if not properties:
        return None, []
    if isinstance(properties, list):
        return list(dict.fromkeys(properties)), []
    included = [field for field, wanted in properties.items() if wanted and field != "_id"]
    excluded = [field for field, wanted in properties.items() if not wanted]
    if any("." in field for field in excluded):
        raise StoreError(f"only whole top-level fields can be left out, got {excluded}")
    return (included or None), excluded
