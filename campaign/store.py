"""The campaign's documents: one interface over a MongoDB server and the embedded SQLite file.

The same filters, sorts and updates mean the same on both. Documents are made plain on the way in
(`campaign.storage.plain` says how), `_id` is a text, and every write is durable when its call returns.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from campaign.errors import QueryError, StoreError, StoreVersionError
from campaign.storage.config import StoreConfig
from campaign.storage.documents import Documents
from campaign.storage.dotted import check_fields, check_settable
from campaign.storage.large_files import BULK, LargeFiles
from campaign.storage.matching import compile_filter
from campaign.storage.outages import Patience, PatientDocuments
from campaign.storage.schema import COLLECTIONS, INDEXES, META, OF_DRIVERS, STORE_VERSION
from campaign.storage.search import Filter, Search, Sort

if TYPE_CHECKING:
    from jobflow import JobStore

__all__ = ["COLLECTIONS", "STORE_VERSION", "CampaignStore", "StoreConfig"]


class CampaignStore:
    """The documents of one campaign. Threads may share it; each process opens its own.

    Open it with `CampaignStore.open`, as a context manager or with `close`.
    """

    def __init__(
        self, documents: Documents, config: StoreConfig, location: str, *, large: LargeFiles, read_only: bool
    ) -> None:
        self._documents = documents
        self._large = large
        self.config = config
        self.location = location
        """File or server, without a password."""
        self.read_only = read_only
        self._event_lock = threading.Lock()
        self._last_event = (0, 0)

    # Opening and closing

    @classmethod
    def open(cls, config: StoreConfig, run_dir: Path, *, read_only: bool = False) -> CampaignStore:
        """Open the store, and make it if it is not there.

        Args:
            config: Which store.
            run_dir: The run's folder: holds the embedded store's file unless `config.path` is set, and the files
                of objects that are too large for any document.
            read_only: Never create, migrate or write anything.

        Raises:
            StoreUnreachableError: No server, no file (read-only), or no permission.
            StoreVersionError: Written by a newer version of this software; nothing was changed.
            StoreError: The file is damaged or no store; the settings cannot be used.
        """
        documents: Documents
        if config.kind == "embedded":
            from campaign.storage.sqlite_documents import SqliteDocuments

            path = embedded_path(config, run_dir)
            documents, location = (
                SqliteDocuments(path, read_only=read_only, durable=config.durable),
                str(path),
            )
        else:
            from campaign.storage.credentials import redact
            from campaign.storage.mongo_documents import MongoDocuments

            uri = config.resolved_uri()
            mongo = MongoDocuments(uri, config.database, config.collection_prefix)
            documents, location = mongo, f"{redact(uri)} ({mongo.database_name})"
        large = LargeFiles(run_dir.absolute() / "large")
        store = cls(documents, config, location, large=large, read_only=read_only)
        try:
            store.check_version()
            if not read_only:
                store._sign()
                store.ensure_indexes()
        except BaseException:
            store.close()
            raise
        return store

    def patient(self, patience: Patience) -> CampaignStore:
        """Return this store for a driver: its calls outlast the server's outages.

        Readers stay with the store itself, which tells within seconds that the server does not answer. The embedded
        store has no server, and is returned as it is.
        """
        if self.config.kind == "embedded":
            return self
        where = self.location.removeprefix("mongodb://")
        documents = PatientDocuments(self._documents, where, patience)
        return CampaignStore(
            documents, self.config, self.location, large=self._large, read_only=self.read_only
        )

    def close(self) -> None:
        """Close the store; closing twice is fine."""
        self._documents.close()

    def __enter__(self) -> CampaignStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def warnings(self) -> list[str]:
        """Return what is risky about where the store lies, one sentence each."""
        if self.config.kind == "mongodb":
            return []
        from campaign.storage.sqlite_file import network_risk

        risk = network_risk(Path(self.location))
        return [risk] if risk else []

    def check_version(self) -> None:
        """Raise StoreVersionError when a newer version of this software wrote the store."""
        signed = self._documents.get(META, "store")
        version = signed.get("version", 0) if signed else 0
        if not isinstance(version, int) or version > STORE_VERSION:
            raise StoreVersionError(
                f"the store {self.location} was written by a newer version of this software",
                value=version,
                allowed=f"up to {STORE_VERSION}",
                cure="upgrade crystal-campaign; nothing was changed",
            )

    def ensure_indexes(self) -> None:
        """Make the indexes that the documented queries need."""
        fewer = {} if self.config.indexed else {"candidates": OF_DRIVERS}
        self._documents.ensure_indexes({**INDEXES, **fewer})

    def _sign(self) -> None:
        mark = {"_id": "store", "version": STORE_VERSION, "created": datetime.now(UTC)}
        self._documents.insert_new(META, [mark])

    # Reading

    def get(self, collection: str, id_: str) -> dict[str, Any] | None:
        """Return the document with this `_id`, or None."""
        _check_name(collection)
        found = self._documents.get(collection, id_)
        return None if found is None else self._large.bring_back(collection, found)

    def query(
        self,
        collection: str,
        filter: Filter | None = None,
        fields: Sequence[str] | None = None,
        sort: Sort | None = None,
        *,
        limit: int = 0,
        skip: int = 0,
    ) -> Iterator[dict[str, Any]]:
        """Yield documents.

        Args:
            collection: One of COLLECTIONS.
            filter: MongoDB filter; None: all documents.
            fields: Dotted fields to return beside `_id`; None: whole documents.
            sort: (field, 1 or -1) pairs; documents that tie come in the order of their `_id`.
            limit: At most so many; 0: all.
            skip: Leave out so many at the start.

        Raises:
            QueryError: An unknown collection or operator, a malformed filter or field.
            StoreError: The file of a large object is missing or damaged.

        What lies within a large object, and so in a file, no filter finds.
        """
        _check_name(collection)
        compile_filter(filter or {})  # here, and not when the first document is asked for
        check_fields(fields or ())
        order = list(sort or ())
        if any(direction not in (1, -1) for _, direction in order):
            raise QueryError("a sort direction is 1 or -1", value=order)
        if limit < 0 or skip < 0:
            raise QueryError("limit and skip are not negative", value=[limit, skip])
        if order and "_id" not in (field for field, _ in order):
            order.append(("_id", 1))  # without it the two stores would order ties differently
        found = self._documents.find(collection, Search(filter or {}, fields, order, limit, skip))
        return found if collection not in BULK else (self._large.bring_back(collection, one) for one in found)

    def count(self, collection: str, filter: Filter | None = None) -> int:
        """Return how many documents fit a filter."""
        _check_name(collection)
        return self._documents.count(collection, filter or {})

    def count_by(self, collection: str, field: str, filter: Filter | None = None) -> dict[Any, int]:
        """Return {value of a field: number of documents}; None counts documents without it.

        Lists and objects count under their JSON text. Fast where the field has an index.
        """
        _check_name(collection)
        return self._documents.count_by(collection, field, filter or {})

    def within(self, seconds: float) -> contextlib.AbstractContextManager[object]:
        """Bound how long the queries of a `with` block take together; QueryError ends them."""
        return self._documents.within(seconds)

    def time(self) -> float:
        """Return seconds since 1970 by the one clock that all users of this store share, for leases."""
        return self._documents.server_time()

    # Writing

    def insert_new(self, collection: str, docs: Iterable[Mapping[str, Any]]) -> list[str]:
        """Store documents whose `_id` is not there yet; return those ids. Others stay as they are."""
        return self._documents.insert_new(collection, self._checked(collection, docs))

    def put(self, collection: str, doc: Mapping[str, Any]) -> None:
        """Store a whole document, new or in place of the one with its `_id`."""
        [checked] = self._checked(collection, [doc])
        self._documents.put(collection, [self._large.put_aside(collection, checked)])

    def set_fields(
        self, collection: str, id_: str, fields: Mapping[str, Any], expect: Filter | None = None
    ) -> bool:
        """Set fields (dotted, as MongoDB's $set) of a document that fits `expect`, in one indivisible step.

        Returns:
            Whether the document was there and fitted.
        """
        self._check_write(collection)
        check_settable(fields)
        return self._documents.set_fields(collection, id_, fields, expect)

    def set_fields_many(self, collection: str, updates: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
        """Set fields of many documents: one transaction (embedded) or one bulk write.

        Returns:
            How many of the documents were there.
        """
        self._check_write(collection)
        pairs = list(updates)
        for _, fields in pairs:
            check_settable(fields)
        return self._documents.set_fields_many(collection, pairs)

    def together(self) -> contextlib.AbstractContextManager[object]:
        """Group the writes of a `with` block: on the embedded store one transaction and one wait for the disk.

        If the block raises, the embedded store forgets all of its writes. On MongoDB each write stays on its own,
        so their order must still be one that may stop anywhere. Keep blocks short: other threads wait.
        """
        self._check_write(META)
        return self._documents.together()

    def log_event(self, kind: str, message: str, **data: Any) -> str:
        """Append a line to the audit log; return its `_id`, which sorts by time."""
        with self._event_lock:
            # Two events of one microsecond, or a clock set back, still get rising ids.
            moment, number = time.time_ns() // 1000, 0
            if moment <= self._last_event[0]:
                moment, number = self._last_event[0], self._last_event[1] + 1
            self._last_event = (moment, number)
        when = datetime.fromtimestamp(moment / 1e6, UTC).isoformat(timespec="microseconds")
        id_ = f"{when}-{number:06d}-{socket.gethostname()}-{os.getpid()}"
        self.insert_new(
            "events", [{"_id": id_, "time": when, "kind": kind, "message": message, "data": data}]
        )
        return id_

    # jobflow

    def put_job_outputs(
        self, docs: Sequence[Mapping[str, Any]], data: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Store what a jobflow job gave back: first the large objects, then the documents that point to them.

        Repeating it changes nothing: documents are replaced by (`uuid`, `index`), objects by `blob_uuid`.
        """
        self._check_write("jobs")
        if data:
            blobs = [self._large.put_aside("data", one) for one in data]
            self._documents.replace_by("data", ["blob_uuid"], blobs)
        outputs = [self._large.put_aside("jobs", one) for one in docs]
        self._documents.replace_by("jobs", ["uuid", "index"], outputs)

    def job_store(self) -> JobStore:
        """Return an unconnected jobflow JobStore on the collections `jobs` and, for large objects, `data`.

        It shows what lies in files (`campaign.storage.large_files`) as their names and checksums.
        """
        from jobflow import JobStore

        if self.config.kind == "embedded":
            from campaign.storage.sqlite_store import SQLiteStore

            return JobStore(
                SQLiteStore(self.location, "jobs", key="uuid"),
                additional_stores={"data": SQLiteStore(self.location, "data", key="blob_uuid")},
            )
        from maggma.stores.mongolike import MongoStore

        from campaign.storage.mongo_documents import client_options

        uri, prefix = self.config.resolved_uri(), self.config.collection_prefix

        def collection(name: str, key: str) -> MongoStore:
            return MongoStore(
                self.config.database, prefix + name, uri=uri, key=key, mongoclient_kwargs=client_options()
            )

        return JobStore(
            collection("jobs", "uuid"), additional_stores={"data": collection("data", "blob_uuid")}
        )

    # Inside

    def _check_write(self, collection: str) -> None:
        _check_name(collection)
        if self.read_only:
            raise StoreError("the store is open for reading only", value=self.location)

    def _checked(self, collection: str, docs: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        self._check_write(collection)
        checked = list(docs)
        for doc in checked:
            id_ = doc.get("_id")
            if not isinstance(id_, str) or not id_ or "\0" in id_:
                raise StoreError("the _id of a document must be a text", value=id_)
        return checked


def embedded_path(config: StoreConfig, run_dir: Path) -> Path:
    """Return the absolute file of the embedded store; a relative `path` counts from the run's folder."""
    return (run_dir.absolute() / (config.path or "store.sqlite")).resolve()


def _check_name(collection: str) -> None:
    if collection not in COLLECTIONS and collection != META:
        raise QueryError("there is no such collection", value=collection, allowed=COLLECTIONS)
