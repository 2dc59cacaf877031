"""Collections of JSON documents on a MongoDB server, reached through maggma, with the embedded store's calls.

Every write waits until the server's journal has it (write concern majority, journaled).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from campaign.errors import (
    DocumentRefusedError,
    QueryError,
    StoreAwayError,
    StoreError,
    StoreFullError,
    StoreUnreachableError,
)
from campaign.storage.credentials import database_in, redact, scrub, secrets_of
from campaign.storage.dotted import check_fields, group_key, id_from_keys
from campaign.storage.matching import compile_filter
from campaign.storage.plain import plain
from campaign.storage.search import Filter, Search
from campaign.storage.time_limit import too_long

_DUPLICATE_KEY = 11000
_TOO_LARGE = {10334, 17419}  # BSONObjectTooLarge, and an update that would make a document so
_OUT_OF_DISK = 14031
_UNAUTHORIZED = frozenset({13, 18})
_AWAY = frozenset(
    {6, 7, 89, 9001}  # the server cannot reach another one
    | {91, 11600, 11602, 189, 10107, 13435, 13436, 10058}  # it shuts down, or is primary no more
    | {43, 237, 11601}  # a cursor or an operation ended with it
    | {64, 100, 133, 134, 262}  # too few servers of the set answer at present
)
"""Codes of refusals that pass by themselves: error_codes.yml of MongoDB's sources."""
_BATCH = 1000
_SRV_SECONDS = 4
_CLOSE_SECONDS = 1


def client_options() -> dict[str, Any]:
    """Return the pymongo options of every connection: short waits for the server, durable writes."""
    return {
        "serverSelectionTimeoutMS": 4000,
        "connectTimeoutMS": 4000,
        "socketTimeoutMS": 60000,
        # A frozen server, which accepts and never answers, is noticed after this and connectTimeoutMS.
        "heartbeatFrequencyMS": 2000,
        "w": "majority",
        "journal": True,
        "appname": "crystal-campaign",
    }


class MongoDocuments:
    """The collections of one campaign in a database. Threads may share it.

    Args:
        uri: mongodb://...
        database: The database; None: the one the URI names.
        prefix: Put before every collection's name.

    Raises:
        StoreUnreachableError: No answer within five seconds, or the login is refused.
        StoreError: The URI does not parse or names no database.
    """

    def __init__(self, uri: str, database: str | None, prefix: str = "") -> None:
        from maggma.stores.mongolike import MongoStore

        self._where, self._secrets = redact(uri), secrets_of(uri)
        self._prefix = prefix
        with self.translated():
            check_uri(uri)
            self.database_name = database or database_in(uri)
            if not self.database_name:
                raise StoreError(
                    "no database is named",
                    value=self._where,
                    cure="set store.database, or end the URI in /name",
                )
            store = MongoStore(
                self.database_name, prefix + "meta", uri=uri, mongoclient_kwargs=client_options()
            )
            store.connect()
            self._database = store._collection.database
            try:
                self._database.client.admin.command("ping")
                # A login may be allowed to ping and still not to read.
                self._database[prefix + "meta"].find_one({"_id": "store"})
            except BaseException:
                store.close()
                raise
        self._store = store

    def close(self) -> None:
        """Close the connection; closing twice is fine."""
        import pymongo

        if self._store._coll is not None:
            with pymongo.timeout(_CLOSE_SECONDS):  # it tells the server, which may be away
                self._store.close()

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Turn pymongo's errors into the project's."""
        from bson.errors import BSONError
        from pymongo.errors import PyMongoError

        try:
            yield
        except (PyMongoError, BSONError, OverflowError, RecursionError) as error:
            raise explain(error, self._where, self._secrets) from error

    def server_time(self) -> float:
        """Return the server's clock in seconds since 1970, so that hosts need not agree about the time."""
        with self.translated():
            moment: datetime = self._database.client.admin.command("hello")["localTime"]
            return moment.replace(tzinfo=UTC).timestamp()  # pymongo gives UTC without saying so

    # Reading

    @staticmethod
    @contextlib.contextmanager
    def within(seconds: float) -> Iterator[None]:
        """Bound how long the queries of a `with` block take: the server ends them, or the wait for it does."""
        import pymongo

        begin = time.monotonic()
        with pymongo.timeout(seconds):
            try:
                yield
            except (StoreError, QueryError) as error:
                # pymongo may also call it a connection that does not answer
                if time.monotonic() - begin >= 0.9 * seconds:
                    raise too_long(seconds) from error
                raise

    def get(self, collection: str, id_: str) -> dict[str, Any] | None:
        """Return one document, or None."""
        return next(self.find(collection, Search({"_id": id_}, limit=1)), None)

    def find(self, collection: str, search: Search) -> Iterator[dict[str, Any]]:
        """Yield the documents asked for."""
        compile_filter(search.criteria)
        check_fields(search.fields or ())
        projection = None if search.fields is None else {"_id": 1, **dict.fromkeys(search.fields, 1)}
        with self.translated():
            cursor = self._collection(collection).find(
                dict(search.criteria),
                projection,
                sort=list(search.sort) or None,
                limit=search.limit,
                skip=search.skip,
            )
            for document in cursor.allow_disk_use(True) if search.sort else cursor:
                if not isinstance(document["_id"], str):
                    document["_id"] = str(document["_id"])  # jobflow's documents have ObjectIds
                yield document

    def count(self, collection: str, criteria: Filter) -> int:
        """Return how many documents fit."""
        compile_filter(criteria)
        with self.translated():
            return int(self._collection(collection).count_documents(dict(criteria)))

    def count_by(self, collection: str, field: str, criteria: Filter) -> dict[Any, int]:
        """Return how many documents that fit have each value of a field; None counts missing and null."""
        compile_filter(criteria)
        check_fields([field])
        pipeline = [{"$match": dict(criteria)}, {"$group": {"_id": f"${field}", "n": {"$sum": 1}}}]
        counts: dict[Any, int] = {}
        with self.translated():
            for row in self._collection(collection).aggregate(pipeline, allowDiskUse=True):
                key = group_key(row["_id"])
                counts[key] = counts.get(key, 0) + int(row["n"])
        return counts

    # Writing

    @staticmethod
    def together() -> contextlib.AbstractContextManager[object]:
        """Leave writes one by one: transactions would need a replica set."""
        return contextlib.nullcontext()

    def insert_new(self, collection: str, documents: Sequence[Mapping[str, Any]]) -> list[str]:
        """Store the documents whose `_id` is not there yet; return those ids."""
        from pymongo.errors import BulkWriteError

        first: dict[str, dict[str, Any]] = {}
        for document in documents:
            first.setdefault(document["_id"], plain(document))
        rows = list(first.values())
        new: list[str] = []
        with self.translated():
            for start in range(0, len(rows), _BATCH):
                batch = rows[start : start + _BATCH]
                present: set[int] = set()
                try:
                    self._collection(collection).insert_many(batch, ordered=False)
                except BulkWriteError as error:
                    failures = (error.details or {}).get("writeErrors", [])
                    only_known = all(failure.get("code") == _DUPLICATE_KEY for failure in failures)
                    # A concern about durability beside duplicates: what is new may still be rolled back.
                    if not failures or not only_known or (error.details or {}).get("writeConcernErrors"):
                        raise
                    present = {failure["index"] for failure in failures}
                new += [row["_id"] for place, row in enumerate(batch) if place not in present]
        return new

    def put(self, collection: str, documents: Sequence[Mapping[str, Any]]) -> None:
        """Store whole documents, new or in place of those with the same `_id`."""
        from pymongo import ReplaceOne

        writes = [ReplaceOne({"_id": row["_id"]}, row, upsert=True) for row in map(plain, documents)]
        if writes:
            with self.translated():
                self._collection(collection).bulk_write(writes, ordered=False)

    def set_fields(
        self, collection: str, id_: str, fields: Mapping[str, Any], expect: Filter | None = None
    ) -> bool:
        """Set fields of one document if it is there and fits `expect`; tell whether it was."""
        compile_filter(expect or {})
        with self.translated():
            result = self._collection(collection).update_one(
                {**(expect or {}), "_id": id_}, {"$set": plain(fields)}
            )
            return int(result.matched_count) == 1

    def set_fields_many(self, collection: str, updates: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
        """Set fields of many documents; return how many of them were there."""
        from pymongo import UpdateOne

        writes = [UpdateOne({"_id": id_}, {"$set": plain(fields)}) for id_, fields in updates]
        if not writes:
            return 0
        with self.translated():
            return int(self._collection(collection).bulk_write(writes, ordered=True).matched_count)

    def replace_by(
        self, collection: str, keys: Sequence[str], documents: Sequence[Mapping[str, Any]]
    ) -> None:
        """Store whole documents in place of those with the same top-level key fields.

        A document keeps the `_id` of the one it replaces; a new one gets its own, or one that follows from its
        keys: so two writes of one document, of which the first was thought lost, never make two documents.
        """
        from pymongo import ReplaceOne

        rows = [plain(document) for document in documents]
        for row in rows:
            missing = [key for key in keys if key not in row]
            if missing:
                raise StoreError("a document lacks the fields that identify it", value=missing)
        identities = [{key: row[key] for key in keys} for row in rows]
        if not rows:
            return
        with self.translated():
            found = self._collection(collection).find({"$or": identities}, dict.fromkeys(keys, 1))
            stored = {id_from_keys({key: one[key] for key in keys}): one["_id"] for one in found}
            writes = []
            for row, identity in zip(rows, identities, strict=True):
                made, own = id_from_keys(identity), row.pop("_id", None)
                id_ = stored.setdefault(made, own or made)
                writes.append(ReplaceOne({"_id": id_}, row, upsert=True))
            self._collection(collection).bulk_write(writes, ordered=True)

    def ensure_indexes(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Make the indexes of {collection: fields} that are missing."""
        from pymongo import IndexModel

        with self.translated():
            for collection, fields in wanted.items():
                self._collection(collection).create_indexes([IndexModel(field) for field in fields])

    def _collection(self, name: str) -> Any:
        return self._database[self._prefix + name]


def check_uri(uri: str) -> None:
    """Refuse a URI that does not parse.

    pymongo's own words are shown only where they cannot quote a piece of a password: a login that was not escaped
    ends up in any part of a mistyped URI.

    Raises:
        StoreError: It does not parse, a file of certificates is not there, or a name server does not know the host.
    """
    from pymongo import uri_parser
    from pymongo.errors import ConfigurationError, InvalidURI

    try:
        uri_parser.parse_uri(uri, connect_timeout=_SRV_SECONDS)
    except OSError as error:  # of tlsCAFile or tlsCertificateKeyFile
        raise StoreError(
            f"a file that store.uri names cannot be read ({error.strerror})",
            value=error.filename,
            cure="check its path and permissions",
        ) from None
    except (ValueError, ConfigurationError) as error:
        if not isinstance(error, ValueError | InvalidURI) and "?" not in uri.rpartition("@")[0]:
            words = scrub(str(error), secrets_of(uri))
            raise StoreError(f"store.uri cannot be used: {words}", value=redact(uri)) from None
        raise StoreError(
            "store.uri does not parse",
            value=redact(uri),
            allowed="mongodb://user:password@host:27017/database?options",
            cure="write special characters of user and password as %40 for @, %3A for :, %2F for /",
        ) from None


def explain(error: Exception, where: str, secrets: frozenset[str] = frozenset()) -> StoreError | QueryError:
    """Return the project's error for one of pymongo's.

    Args:
        error: What pymongo raised.
        where: The server, as it may be shown.
        secrets: What must not be shown of the URI.
    """
    from bson.errors import BSONError
    from pymongo.errors import ConfigurationError, ConnectionFailure, DocumentTooLarge, OperationFailure

    code = getattr(error, "code", None)
    details = getattr(error, "details", None) or {}
    concerns = [*details.get("writeConcernErrors", []), details.get("writeConcernError") or {}]
    codes = {code, *(one.get("code") for one in [*details.get("writeErrors", []), *concerns])}
    if _OUT_OF_DISK in codes:
        return StoreFullError(f"no space left on the MongoDB server {where}", cure="free space, then resume")
    if codes & _UNAUTHORIZED:
        return StoreUnreachableError(
            "the MongoDB server refuses the login",
            value=where,
            cure="check user, password and authSource in store.uri",
        )
    if isinstance(error, ConnectionFailure) or codes & _AWAY:
        return StoreAwayError(
            "no answer from the MongoDB server", value=where, cure="check store.uri, and that the server runs"
        )
    if isinstance(error, ConfigurationError):
        return StoreError(f"store.uri cannot be used: {scrub(str(error), secrets)}", value=where)
    if isinstance(error, DocumentTooLarge | BSONError | OverflowError | RecursionError) or codes & _TOO_LARGE:
        return DocumentRefusedError(
            f"MongoDB cannot hold a document: {error}", cure="keep large objects in files"
        )
    message = str(details.get("errmsg") or error)
    failures = details.get("writeErrors") or []
    if failures:
        message = str(failures[0].get("errmsg", message))
    kind = (
        QueryError
        if isinstance(error, OperationFailure) and not failures and code in (2, 9, 51091)
        else StoreError
    )
    return kind(f"MongoDB refused: {scrub(message, secrets)}", value=where)
