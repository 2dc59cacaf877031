"""The documents of blocks: workers that were started together, what they were found by, and how long they ran.

A driver writes a document whenever a block appears or changes, so that what it started is found after its death,
and what ran is counted although nobody counted meanwhile. One document more stands for the driver itself: the node
that it shares with local pools, and the time it drove.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from campaign.documents import BlockDocument
from campaign.parallel.pooling import Block
from campaign.store import CampaignStore

DRIVER = "driver"
"""Pool, and provider, of the document that stands for a driver."""

SEEN_PERIOD_S = 5.0
"""How often a driver writes down that it is still there [s]; so much of a dead one's time is not known."""

Document = dict[str, Any]


@dataclass(frozen=True)
class Spent:
    """What blocks have used."""

    node_seconds: float = 0.0
    driver_seconds: float = 0.0
    """Seconds of drivers alone."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.node_seconds + other.node_seconds, self.driver_seconds + other.driver_seconds)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.node_seconds - other.node_seconds, self.driver_seconds - other.driver_seconds)


@dataclass
class BlockBook:
    """Keeps the documents of one driver's blocks, and knows those of all drivers before it.

    Args:
        store: The campaign's store.
        campaign: Name of the campaign.
        epoch: Number of the driver's lease; every driver of a campaign has its own.
        clock: Seconds since 1970.
    """

    store: CampaignStore
    campaign: str
    epoch: int
    clock: Callable[[], float] = time.time
    ended: Spent = field(default_factory=Spent, init=False)
    """What the blocks have used that have ended: after months there are thousands, and each turn asks."""
    _documents: dict[str, Document] = field(default_factory=dict)
    _live: dict[str, Document] = field(default_factory=dict)
    """Those of them that did not end."""
    _over: set[tuple[str, str, str]] = field(default_factory=set)
    """Pool, number and marker of this driver's blocks that have ended: they change no more."""
    _seen: float = 0.0

    def begin(self) -> None:
        """Write the driver's own document, and read those of the drivers before it."""
        for one in self.store.query("blocks"):
            self._know(one)
        me = Block(DRIVER, "0", str(os.getpid()), DRIVER, platform.node(), "", started=self.clock())
        self._put(document_of(me, self.campaign, self.epoch))
        self._seen = self.clock()

    def look(self, blocks: Sequence[Block]) -> None:
        """Write down what has changed since the last look; nothing is written where nothing has."""
        current = self.clock()
        fresh = [one for one in blocks if (one.pool, one.block_id, one.marker) not in self._over]
        names = [name_of(one, self.campaign, self.epoch) for one in fresh]
        known = self._live | {name: self._documents[name] for name in names if name in self._documents}
        for document in changed(known, fresh, self.campaign, self.epoch, current):
            self._put(document)
        self._over |= {(one.pool, one.block_id, one.marker) for one in fresh if one.state == "ended"}
        if current - self._seen >= SEEN_PERIOD_S:
            self._seen = current
            own = self._own()
            own["seen"] = iso(current)
            self.store.set_fields("blocks", own["_id"], {"seen": own["seen"]})

    def end(self, blocks: Sequence[Block], reason: str) -> None:
        """Write down that the driver's blocks have ended, and the driver with them."""
        self.look(blocks)
        moment = iso(self.clock())
        for document in self.live():
            if document["epoch"] == self.epoch:
                words = document["message"] or reason
                self._put({**document, "state": "ended", "ended": moment, "message": words})

    def documents(self) -> list[Document]:
        """Return the documents of all blocks that the campaign ever had."""
        return list(self._documents.values())

    def live(self) -> list[Document]:
        """Return the documents of those that did not end."""
        return list(self._live.values())

    def _own(self) -> Document:
        return next(
            one for one in self._live.values() if one["pool"] == DRIVER and one["epoch"] == self.epoch
        )

    def _put(self, document: Document) -> None:
        self.store.put("blocks", document)
        self._know(document)

    def _know(self, document: Document) -> None:
        name = document["_id"]
        before = self._documents.get(name)
        self._documents[name] = document
        if before is not None and before["state"] == "ended":  # told anew: counted anew
            self.ended -= spent_by(before)
        if document["state"] == "ended":
            self.ended += spent_by(document)
            self._live.pop(name, None)
        else:
            self._live[name] = document


def name_of(block: Block, campaign: str, epoch: int) -> str:
    """Return the `_id` of a block's document."""
    return f"{campaign}-{epoch:04d}-{block.pool}-{block.block_id}-{block.marker}"


def document_of(block: Block, campaign: str, epoch: int) -> Document:
    """Return the document of a block."""
    times = {name: iso(getattr(block, name)) for name in ("submitted", "started", "ended")}
    return BlockDocument(
        id=name_of(block, campaign, epoch),
        campaign=campaign,
        epoch=epoch,
        seen=times["started"] if block.pool == DRIVER else None,
        **{**block.document(), **times},
    ).doc()


def spent_by(document: Mapping[str, Any], until: float | None = None) -> Spent:
    """Return what a block has used, up to `until` [s since 1970] if it did not end; nothing if it never began."""
    begun = seconds_of(document["started"])
    ended = until if document["ended"] is None else seconds_of(document["ended"])
    if begun is None or ended is None:
        return Spent()
    ran = max(0.0, ended - begun)
    return Spent(document["nodes"] * ran, ran if document["pool"] == DRIVER else 0.0)


def changed(
    known: Mapping[str, Document], blocks: Iterable[Block], campaign: str, epoch: int, current: float
) -> list[Document]:
    """Return the documents that differ from what is known of them. Pure.

    A pool that does not know when a block began or ended leaves it to the driver, which knows when it first saw it.
    A block that is not told of any more has ended. A driver with local blocks holds its node.
    """
    told = {one["_id"]: one for one in (document_of(block, campaign, epoch) for block in blocks)}
    mine = {name: one for name, one in known.items() if one["epoch"] == epoch}
    now, found = iso(current), []
    for name, one in told.items():
        before = mine.get(name) or {}
        if one["state"] != "queued":
            one["started"] = (
                one["started"] or before.get("started") or (now if one["state"] == "running" else None)
            )
        if one["state"] == "ended":
            one["ended"] = one["ended"] or before.get("ended") or now
        if one != before:
            found.append(one)
    for name, before in mine.items():
        if before["pool"] == DRIVER:
            if not before["nodes"] and any(not one["nodes"] for one in told.values()):
                found.append({**before, "nodes": 1})
        elif name not in told and before["state"] != "ended":
            words = before["message"] or "its pool does not know it any more"
            found.append({**before, "state": "ended", "ended": now, "message": words})
    return found


@dataclass(frozen=True)
class Remains:
    """What is known of a dead driver's block."""

    alive: bool = False
    """Something of it was still there when it was looked for."""
    started: float | None = None
    """When its batch job began, as the batch system says [s since 1970]; None: it does not say."""
    ended: float | None = None


def ended_with_driver(
    documents: Iterable[Document], remains: Mapping[str, Remains], current: float
) -> list[Document]:
    """Return dead drivers' blocks as ended, each at the time that is known best. Pure.

    That is now for what was still there, what the batch system says of a job that is gone, and else when its driver
    was last seen.

    Args:
        documents: All block documents.
        remains: `_id` -> what is known of those that did not end.
        current: Seconds since 1970.
    """
    every = list(documents)
    seen = last_seen(every)
    ended = []
    for one in every:
        if one["state"] != "ended":
            found = remains.get(one["_id"], Remains())
            started = one["started"] or iso(found.started)
            moment = current if found.alive else found.ended
            last = iso(moment) or max(filter(None, (seen.get(one["epoch"]), started)), default=None)
            words = one["message"] or "its driver ended"
            ended.append({**one, "state": "ended", "started": started, "ended": last, "message": words})
    return ended


def last_seen(documents: Iterable[Document]) -> dict[int, str]:
    """Return epoch of a driver -> when it was last seen at work."""
    return {one["epoch"]: one["ended"] or one["seen"] for one in documents if one["pool"] == DRIVER}


def live_blocks(documents: Iterable[Document]) -> dict[str, Document]:
    """Return pool -> numbers of its queued and running blocks, their nodes and the ids of their jobs."""
    pools: dict[str, Document] = {}
    for one in documents:
        if one["state"] == "ended" or one["pool"] == DRIVER:
            continue
        empty: Document = {"queued": 0, "running": 0, "nodes_queued": 0, "nodes_running": 0, "job_ids": []}
        pool = pools.setdefault(one["pool"], empty)
        pool[one["state"]] += 1
        pool[f"nodes_{one['state']}"] += one["nodes"]
        pool["job_ids"].append(one["job_id"])
    return pools


def seconds_of(moment: str | None) -> float | None:
    """Return a time that documents hold [s since 1970]."""
    return None if moment is None else datetime.fromisoformat(moment).timestamp()


def iso(seconds: float | None) -> str | None:
    """Return a time [s since 1970] as documents hold it."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
