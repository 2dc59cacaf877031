"""A database server that is away: a driver's calls wait for it, and each may be made twice without harm.

A call that a broken connection cut off has an unknown outcome: the server may have carried it out, or may never
have heard of it. So it is made again, and every call is such that twice is as good as once:

* Reads are made anew from their beginning. `find` hands nothing out before it has everything, so that a cursor
  that breaks in the middle gives no document twice.
* `put`, `set_fields`, `set_fields_many` and `replace_by` say what a document shall hold, and never what shall be
  added to it; a bulk write that was carried out in part is carried out as a whole. A new document's `_id` comes
  from the caller or follows from its keys, so two tries never make two documents.
* `insert_new` and `set_fields` with `expect` also answer what they found, which a first try may have changed. Their
  answers are put right: a document that is there and is ours was inserted by us, and one that fits `expect` no
  more but holds our values was changed by us. Only the holder of the campaign's lease writes, so nobody else can
  have done it. (The lease itself is the one thing several processes write; it is never written through here.)
* The audit log's `_id`s are made once per event, before the first try.

Two things keep a call from being made too late. Before each write, and before any call is made again, `guard` is
asked: it raises if another driver has taken the campaign over meanwhile, which a driver that was cut off from the
server could not know. And after the server's first answer there is a pause: a server that was frozen still has
the first try in its socket, and carries it out as soon as it wakes, before the second one and what follows it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from campaign.errors import StoreAwayError, StoreUnreachableError
from campaign.storage.documents import Documents
from campaign.storage.plain import plain
from campaign.storage.search import Filter, Search

Answer = TypeVar("Answer")

LOOK_S = 0.25
"""How often a wait looks whether it should end, and tells how long it has lasted [s]."""


@dataclass(frozen=True)
class Outage:
    """A server that does not answer, or did not."""

    where: str
    """The server, without a password."""
    seconds: float
    """How long so far, or in all [s]."""


@dataclass
class Patience:
    """How a driver bears an outage; what it asks and whom it tells are set once they exist."""

    limit_s: float = 12 * 3600.0
    """Longest outage that is waited for [s]."""
    first_s: float = 0.2
    """First pause between two tries [s]; each is twice the one before."""
    longest_s: float = 10.0
    """Longest pause between two tries [s]."""
    settle_s: float = 0.5
    """Pause between the server's first answer and the call that is made again [s]."""
    guard: Callable[[], None] = field(default=lambda: None)
    """Raises if the campaign is no longer ours, or StoreAwayError while that cannot be known."""
    leaving: Callable[[], bool] = field(default=lambda: False)
    """Whether the user wants the driver to end now."""
    on_wait: Callable[[Outage], None] = field(default=lambda _: None)
    """Called a few times per second during an outage."""
    on_return: Callable[[Outage], None] = field(default=lambda _: None)
    """Called once after each outage; it may use the store."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _over: StoreUnreachableError | None = None

    def end(self) -> None:
        """Wait for nothing from now on: the driver is leaving, and each call is tried once."""
        self.limit_s = 0.0

    @property
    def gave_up(self) -> bool:
        """Whether an outage was too long for it: the server is away, and nothing more is asked of it."""
        return self._over is not None

    def outlast(
        self,
        where: str,
        probe: Callable[[], object],
        first: Callable[[], Answer],
        again: Callable[[], Answer],
    ) -> Answer:
        """Make a call; if the server is away, wait until it is back and make it again.

        Args:
            where: The server, as it may be shown.
            probe: Asks the server for a sign of life.
            first: The call.
            again: The call where a first one may have been carried out or not.

        Raises:
            StoreUnreachableError: The outage is longer than `limit_s`, or the user wants to leave. From then on
                every call raises it at once, so that the driver ends within seconds.
            CampaignError: What the call, or the guard, raises otherwise.
        """
        if self._over is not None:
            raise self._over
        try:
            return first()
        except StoreAwayError as error:
            if self.limit_s <= 0:
                raise
            away = error
        begun, pause = self.clock(), self.first_s
        while True:
            self._pause(where, begun, pause, away)
            pause = min(2 * pause, self.longest_s)
            try:
                probe()
                self.sleep(self.settle_s)
                self.guard()
                answer = again()
                break
            except StoreAwayError as error:
                away = error
        self.on_return(Outage(where, self.clock() - begun))
        return answer

    def _pause(self, where: str, begun: float, seconds: float, cause: StoreAwayError) -> None:
        """Wait, in small steps; raise if waiting should end."""
        until = self.clock() + seconds
        while True:
            passed = self.clock() - begun
            self.on_wait(Outage(where, passed))
            if self.leaving():
                self._give_up(f"stopped while the MongoDB server did not answer ({passed:.0f} s)", cause)
            if passed >= self.limit_s:
                self._give_up(f"the MongoDB server has not answered for {passed:.0f} s", cause)
            left = until - self.clock()
            if left <= 0:
                return
            self.sleep(min(left, LOOK_S))

    def _give_up(self, what: str, cause: StoreAwayError) -> None:
        self._over = StoreUnreachableError(
            what,
            value=cause.value,
            cure="once the server answers, carry on with `campaign resume`: results are kept in the job folders",
        )
        raise self._over from cause


class PatientDocuments:
    """The collections of a server, for a driver: calls outlast its outages.

    Args:
        documents: The collections; closing them is their owner's.
        where: The server, as it may be shown.
        patience: How long to wait, and whom to ask and tell.
    """

    def __init__(self, documents: Documents, where: str, patience: Patience) -> None:
        self._documents, self._where, self._patience = documents, where, patience

    def _read(self, call: Callable[[], Answer]) -> Answer:
        return self._patience.outlast(self._where, self._documents.server_time, call, call)

    def _write(self, call: Callable[[], Answer], again: Callable[[], Answer] | None = None) -> Answer:
        def guarded() -> Answer:
            self._patience.guard()
            return call()

        return self._patience.outlast(self._where, self._documents.server_time, guarded, again or call)

    def close(self) -> None:
        """Leave the connection to its owner."""

    def server_time(self) -> float:
        """Return the server's clock in seconds since 1970."""
        return self._read(self._documents.server_time)

    # Reading

    def get(self, collection: str, id_: str) -> dict[str, Any] | None:
        """Return one document, or None."""
        return self._read(lambda: self._documents.get(collection, id_))

    def find(self, collection: str, search: Search) -> Iterator[dict[str, Any]]:
        """Yield the documents asked for, once all of them are here."""
        yield from self._read(lambda: list(self._documents.find(collection, search)))

    def count(self, collection: str, criteria: Filter) -> int:
        """Return how many documents fit."""
        return self._read(lambda: self._documents.count(collection, criteria))

    def count_by(self, collection: str, field: str, criteria: Filter) -> dict[Any, int]:
        """Return how many documents that fit have each value of a field."""
        return self._read(lambda: self._documents.count_by(collection, field, criteria))

    # Writing

    def together(self) -> contextlib.AbstractContextManager[object]:
        """Leave writes one by one, as the server does."""
        return self._documents.together()

    def within(self, seconds: float) -> contextlib.AbstractContextManager[object]:
        """Let the searches of a `with` block take so long together."""
        return self._documents.within(seconds)

    def insert_new(self, collection: str, documents: Sequence[Mapping[str, Any]]) -> list[str]:
        """Store the documents whose `_id` is not there yet; return those ids."""

        def again() -> list[str]:
            new = set(self._documents.insert_new(collection, documents))
            ours = {one["_id"]: plain(one) for one in reversed(documents) if one["_id"] not in new}
            search = Search({"_id": {"$in": sorted(ours)}})
            new |= {one["_id"] for one in self._documents.find(collection, search) if one == ours[one["_id"]]}
            return list(dict.fromkeys(one["_id"] for one in documents if one["_id"] in new))

        return self._write(lambda: self._documents.insert_new(collection, documents), again)

    def put(self, collection: str, documents: Sequence[Mapping[str, Any]]) -> None:
        """Store whole documents, new or in place of those with the same `_id`."""
        self._write(lambda: self._documents.put(collection, documents))

    def set_fields(
        self, collection: str, id_: str, fields: Mapping[str, Any], expect: Filter | None = None
    ) -> bool:
        """Set fields of one document if it is there and fits `expect`; tell whether it was."""

        def again() -> bool:
            if self._documents.set_fields(collection, id_, fields, expect):
                return True
            ours = {"_id": id_, **plain(fields)}
            return bool(expect) and self._documents.count(collection, ours) == 1

        return self._write(lambda: self._documents.set_fields(collection, id_, fields, expect), again)

    def set_fields_many(self, collection: str, updates: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
        """Set fields of many documents, in their order; return how many of them were there."""
        pairs = list(updates)
        return self._write(lambda: self._documents.set_fields_many(collection, pairs))

    def replace_by(
        self, collection: str, keys: Sequence[str], documents: Sequence[Mapping[str, Any]]
    ) -> None:
        """Store whole documents in place of those with the same top-level key fields."""
        self._write(lambda: self._documents.replace_by(collection, keys, documents))

    def ensure_indexes(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Make the indexes of {collection: fields} that are missing."""
        self._write(lambda: self._documents.ensure_indexes(wanted))
