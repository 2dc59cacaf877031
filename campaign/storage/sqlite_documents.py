"""Collections of JSON documents in one SQLite file, queried and changed with MongoDB's words.

A collection is a table of (row number, `_id`, JSON text), made at its first write. A field's index is two
SQL indexes: one of its values, and one that is normally empty and lists the documents whose value SQL would
misread (lists, objects, booleans). As long as the second is empty, SQL may answer for the field; otherwise
the documents are read and matched one by one.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from campaign.errors import StoreError
from campaign.storage.dotted import (
    MISSING,
    check_fields,
    group_key,
    group_value,
    id_from_keys,
    project,
    set_at,
    sort_documents,
)
from campaign.storage.matching import compile_filter
from campaign.storage.plain import MAX_BYTES, decode, encode
from campaign.storage.schema import LARGE_COLLECTIONS
from campaign.storage.search import Filter, Search, Sort
from campaign.storage.sqlite_file import SqliteFile
from campaign.storage.sqlite_pushdown import expression, json_path, odd_condition, push
from campaign.storage.time_limit import time_limit

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")
_CHUNK = 256
_MOST_PATHS = 100  # a function of SQLite takes at most 127 arguments


class SqliteDocuments:
    """The embedded store's collections. Threads may share it; other processes open their own.

    Args:
        path: The file; made when it is missing and `read_only` is not set.
        read_only: Never create, migrate or write.
        durable: Wait for the disk at every write.
    """

    def __init__(self, path: Path, *, read_only: bool = False, durable: bool = True) -> None:
        self.file = SqliteFile(path, read_only=read_only, durable=durable)
        self._tables: set[str] = set()
        self._indexed: set[tuple[str, str]] = set()

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self.file.close()

    @staticmethod
    def server_time() -> float:
        """Return seconds since 1970; the one host that may write has one clock."""
        return time.time()

    # Reading

    @staticmethod
    def within(seconds: float) -> contextlib.AbstractContextManager[object]:
        """Bound how long the queries of a `with` block take: they are matched in this process."""
        return time_limit(seconds)

    def get(self, collection: str, id_: str) -> dict[str, Any] | None:
        """Return one document, or None."""
        if not self._has_table(collection):
            return None
        rows = self.file.read(f'SELECT doc FROM "{collection}" WHERE id = ?', (id_,))
        return decode(rows[0][0]) if rows else None

    def find(self, collection: str, search: Search) -> Iterator[dict[str, Any]]:
        """Yield the documents asked for, without holding any lock between two of them."""
        for _, document in self._find_rows(collection, search):
            yield document

    def count(self, collection: str, criteria: Filter) -> int:
        """Return how many documents fit."""
        compile_filter(criteria)
        if not self._has_table(collection):
            return 0
        pushed = push(criteria, lambda field: self._usable(collection, field))
        if pushed.exact:
            sql = f'SELECT count(*) FROM "{collection}" WHERE {pushed.sql}'
            return int(self.file.read(sql, pushed.parameters)[0][0])
        return sum(1 for _ in self._find_rows(collection, Search(criteria, fields=())))

    def count_by(self, collection: str, field: str, criteria: Filter) -> dict[Any, int]:
        """Return how many documents that fit have each value of a field; None counts missing and null."""
        compile_filter(criteria)
        check_fields([field])
        if not self._has_table(collection):
            return {}
        pushed = push(criteria, lambda name: self._usable(collection, name))
        if pushed.exact and self._usable(collection, field):
            sql = f'SELECT {expression(field)}, count(*) FROM "{collection}" WHERE {pushed.sql} GROUP BY 1'
            return dict(self.file.read(sql, pushed.parameters))
        counts: dict[Any, int] = {}
        for document in self.find(collection, Search(criteria, fields=[field])):
            key = group_key(group_value(document, field.split(".")))
            counts[key] = counts.get(key, 0) + 1
        return counts

    # Writing

    def together(self) -> contextlib.AbstractContextManager[object]:
        """Make one transaction of the writes of a `with` block."""
        return self.file.transaction()

    def insert_new(self, collection: str, documents: Sequence[Mapping[str, Any]]) -> list[str]:
        """Store the documents whose `_id` is not there yet, all in one transaction; return those ids."""
        rows = [(document["_id"], encode(document, limit=_limit(collection))) for document in documents]
        with self._writing(collection) as connection:
            sql = f'INSERT INTO "{collection}" (id, doc) VALUES (?, ?) ON CONFLICT (id) DO NOTHING'
            return [row[0] for row in rows if connection.execute(sql, row).rowcount == 1]

    def put(self, collection: str, documents: Sequence[Mapping[str, Any]]) -> None:
        """Store whole documents, new or in place of those with the same `_id`, in one transaction."""
        rows = [(document["_id"], encode(document, limit=_limit(collection))) for document in documents]
        sql = (
            f'INSERT INTO "{collection}" (id, doc) VALUES (?, ?) '
            "ON CONFLICT (id) DO UPDATE SET doc = excluded.doc"
        )
        with self._writing(collection) as connection:
            connection.executemany(sql, rows)

    def set_fields(
        self, collection: str, id_: str, fields: Mapping[str, Any], expect: Filter | None = None
    ) -> bool:
        """Set fields of one document if it is there and fits `expect`; tell whether it was."""
        with self._writing(collection) as connection:
            return self._set(connection, collection, id_, fields, expect)

    def set_fields_many(self, collection: str, updates: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
        """Set fields of many documents in one transaction; return how many of them were there."""
        with self._writing(collection) as connection:
            return sum(self._set(connection, collection, id_, fields, None) for id_, fields in updates)

    def replace_by(
        self, collection: str, keys: Sequence[str], documents: Sequence[Mapping[str, Any]]
    ) -> None:
        """Store whole documents in place of those with the same key fields, in one transaction.

        A document keeps the `_id` of the one it replaces; a new one gets its own, or one made from its keys.

        Raises:
            StoreError: A document lacks a key field.
        """
        with self._writing(collection):
            for document in documents:
                criteria = {key: group_value(document, key.split(".")) for key in keys}
                missing = [key for key, value in criteria.items() if value is MISSING]
                if missing:
                    raise StoreError("a document lacks the fields that identify it", value=missing)
                found = next(self.find(collection, Search(criteria, fields=(), limit=1)), None)
                id_ = found["_id"] if found else document.get("_id") or id_from_keys(criteria)
                rest = {key: value for key, value in document.items() if key != "_id"}
                self.put(collection, [{"_id": str(id_), **rest}])

    def remove(self, collection: str, criteria: Filter) -> int:
        """Remove the documents that fit; return how many."""
        with self._writing(collection) as connection:
            rows = [(number,) for number, _ in self._find_rows(collection, Search(criteria, fields=()))]
            connection.executemany(f'DELETE FROM "{collection}" WHERE row = ?', rows)
            return len(rows)

    def ensure_index(self, collection: str, field: str, *, unique: bool = False) -> bool:
        """Make a field's indexes if they are missing; False for a field that cannot be indexed."""
        value = expression(field)
        if value is None:
            return False
        if field == "_id" or self._is_indexed(collection, field):
            return True
        name = f"{collection}:{field}"
        with self._writing(collection) as connection:
            kind = "UNIQUE INDEX" if unique else "INDEX"
            connection.execute(f'CREATE {kind} IF NOT EXISTS "ix:{name}" ON "{collection}" ({value})')
            connection.execute(
                f'CREATE INDEX IF NOT EXISTS "odd:{name}" ON "{collection}" (row) '
                f"WHERE {odd_condition(field)}"
            )
        return True

    def ensure_indexes(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Make the indexes of {collection: fields} that are missing, in one transaction."""
        missing = [(name, field) for name, fields in wanted.items() for field in fields]
        missing = [(name, field) for name, field in missing if not self._is_indexed(name, field)]
        if missing:
            with self.file.transaction():
                for name, field in missing:
                    self.ensure_index(name, field)

    # Inside

    @contextlib.contextmanager
    def _writing(self, collection: str) -> Iterator[sqlite3.Connection]:
        """Hold a transaction on a collection that exists from then on."""
        if not _NAME.match(collection) or collection.startswith("sqlite_"):
            raise StoreError("a collection cannot have this name", value=collection)
        with self.file.transaction() as connection:
            if collection not in self._tables:
                # `id` has no type, so that SQLite never takes a number for a text.
                connection.execute(
                    f'CREATE TABLE IF NOT EXISTS "{collection}" '
                    "(row INTEGER PRIMARY KEY, id NOT NULL UNIQUE, doc TEXT NOT NULL)"
                )
            yield connection
        self._has_table(collection)

    @staticmethod
    def _set(
        connection: sqlite3.Connection,
        collection: str,
        id_: str,
        fields: Mapping[str, Any],
        expect: Filter | None,
    ) -> bool:
        found = connection.execute(f'SELECT row, doc FROM "{collection}" WHERE id = ?', (id_,)).fetchone()
        if found is None:
            return False
        document = decode(found[1])
        if expect and not compile_filter(expect)(document):
            return False
        for path, value in fields.items():
            set_at(document, path, value)
        text = encode(document, limit=_limit(collection))
        connection.execute(f'UPDATE "{collection}" SET doc = ? WHERE row = ?', (text, found[0]))
        return True

    def _has_table(self, collection: str) -> bool:
        if collection in self._tables:
            return True
        sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        found = bool(self.file.read(sql, (collection,)))
        if found and not self.file.in_transaction:  # a table made in an open transaction may go again
            self._tables.add(collection)
        return found

    def _is_indexed(self, collection: str, field: str) -> bool:
        if (collection, field) in self._indexed:
            return True
        names = (f"ix:{collection}:{field}", f"odd:{collection}:{field}")
        sql = "SELECT count(*) FROM sqlite_master WHERE type = 'index' AND name IN (?, ?)"
        found = bool(self.file.read(sql, names)[0][0] == 2)
        if found and not self.file.in_transaction:
            self._indexed.add((collection, field))
        return found

    def _usable(self, collection: str, field: str) -> bool:
        """Tell whether SQL may answer for a field."""
        if field == "_id":
            return True
        if not self._is_indexed(collection, field):
            return False
        odd = f'"{collection}" INDEXED BY "odd:{collection}:{field}" WHERE {odd_condition(field)}'
        return not self.file.read(f"SELECT EXISTS (SELECT 1 FROM {odd})")[0][0]

    def _order_by(self, collection: str, sort: Sort) -> str | None:
        """Return the ORDER BY terms for a sort, or None when SQL would order differently from MongoDB."""
        if not all(self._usable(collection, field) for field, _ in sort):
            return None
        terms = [f"{expression(field)} {'DESC' if direction < 0 else 'ASC'}" for field, direction in sort]
        return ", ".join([*terms, "row"])

    def _find_rows(self, collection: str, search: Search) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (row number, document) for each document asked for."""
        matcher = compile_filter(search.criteria)
        check_fields(search.fields or ())
        if not self._has_table(collection):
            return
        orders = self._order_by(collection, search.sort)
        if orders is None:
            yield from self._find_sorted_here(collection, search)
            return
        limit, skip = search.limit, search.skip
        pushed = push(search.criteria, lambda field: self._usable(collection, field))
        # Only row numbers are fetched at once, so that memory stays small and no snapshot is held open.
        sql = f'SELECT row FROM "{collection}" WHERE {pushed.sql} ORDER BY {orders}'
        if pushed.exact and (limit or skip):
            sql += f" LIMIT {limit or -1} OFFSET {skip}"
            limit, skip = 0, 0
        numbers = [row[0] for row in self.file.read(sql, pushed.parameters)]
        fields = search.fields
        needed = None if fields is None else [*fields, *_filter_fields(search.criteria)]
        found = 0
        for number, document in self._load(collection, numbers, needed):
            if not matcher(document):  # also drops what changed since its row number was read
                continue
            found += 1
            if found > skip:
                yield number, document if fields is None else project(document, fields)
            if limit and found == skip + limit:
                return

    def _find_sorted_here(self, collection: str, search: Search) -> Iterator[tuple[int, dict[str, Any]]]:
        """Sort in Python by the sort fields alone, then fetch the documents."""
        keys = _without_nested(field for field, _ in search.sort)
        rows = [
            (document, number)
            for number, document in self._find_rows(collection, Search(search.criteria, fields=keys))
        ]
        end = search.skip + search.limit if search.limit else None
        numbers = [number for _, number in sort_documents(rows, search.sort)][search.skip : end]
        for number, document in self._load(collection, numbers, search.fields):
            yield number, document if search.fields is None else project(document, search.fields)

    def _load(
        self, collection: str, numbers: Sequence[int], fields: Sequence[str] | None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (row number, document) in the order given; of the document at least the fields asked for."""
        tops = None if fields is None else sorted({"_id", *(field.split(".")[0] for field in fields)})
        paths = [json_path(top) for top in tops or ()]
        if tops is None or None in paths or len(tops) > _MOST_PATHS:
            tops, columns = None, "doc"
        else:
            if len(paths) == 1:  # with one path json_extract would return the bare value
                tops, paths = tops * 2, paths * 2
            found = " || ".join(f"(json_type(doc, '{path}') IS NOT NULL)" for path in paths)
            columns = "json_extract(doc, " + ", ".join(f"'{path}'" for path in paths) + f"), {found}"
        for start in range(0, len(numbers), _CHUNK):
            chunk = numbers[start : start + _CHUNK]
            marks = ", ".join("?" * len(chunk))
            rows = self.file.read(f'SELECT row, {columns} FROM "{collection}" WHERE row IN ({marks})', chunk)
            by_number = {row[0]: row for row in rows}
            for number in chunk:
                row = by_number.get(number)
                if row is not None:
                    yield number, decode(row[1]) if tops is None else _rebuilt(tops, decode(row[1]), row[2])


def _rebuilt(tops: Sequence[str], values: Sequence[Any], found: str) -> dict[str, Any]:
    """Return the part of a document whose fields were read one by one; '0' marks a field it does not have."""
    return {top: value for top, value, mark in zip(tops, values, found, strict=True) if mark == "1"}


def _filter_fields(criteria: Filter) -> list[str]:
    """Return the fields that a filter looks at."""
    fields: list[str] = []
    for key, condition in criteria.items():
        if key.startswith("$"):
            fields += [field for part in condition for field in _filter_fields(part)]
        else:
            fields.append(key)
    return fields


def _without_nested(fields: Iterable[str]) -> list[str]:
    """Return fields without those that lie inside another of them."""
    names = list(dict.fromkeys(fields))
    return [name for name in names if not any(name.startswith(other + ".") for other in names)]


def _limit(collection: str) -> int | None:
    """Return the most bytes of a document; as on MongoDB, but for what is meant to be large."""
    return None if collection in LARGE_COLLECTIONS else MAX_BYTES
