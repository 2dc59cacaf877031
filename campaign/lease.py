"""One driver per campaign: a lease in the store, with heartbeat, expiry and epoch.

The lease is a document of its own (collection `meta`), so that no write of the campaign's documents can lose
it. Every acquisition raises the epoch by one; whoever finds another epoch than its own has been replaced.
Ages are measured by the store's clock (MongoDB's server's), so that hosts need not agree about the time.

An outage of the store never loses a lease by itself. To take one is a conditional write to the same store, so while
nobody reaches it nobody takes it, however long the heartbeat has been silent; once it answers again the holder's
epoch tells whether somebody was faster. What an outage does is to leave open whose the campaign is (only our way to
the server may be cut): therefore nothing is written after a silence longer than the time to live before a renewal
has succeeded (`Heartbeat.confirm`, which the driver's store asks before each write), and nothing ends for a silence
alone. The lease's own calls never wait for a server, so no thread is held by them for longer than one try.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from campaign.errors import LeaseError, StoreError, StoreUnreachableError
from campaign.storage.schema import META
from campaign.store import CampaignStore

_JOIN_S = 1.0
DEFAULT_TTL_S = 60.0
"""A lease whose holder was not heard of for so long may be taken."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lease: a process, told apart from later processes with the same number."""

    host: str
    pid: int
    user: str
    start: str
    """When the process started, in the kernel's count since boot."""
    machine: str
    """Boot and process-number space: only a process that sees the same may judge whether the holder lives."""

    @classmethod
    def this_process(cls) -> Owner:
        """Return the owner that this process is."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _user(), process_start(pid), _machine())

    def is_dead(self) -> bool:
        """Tell whether the process is known to have ended; False where that cannot be known."""
        if self.host != socket.gethostname() or self.machine != _machine() or not self.machine:
            return False
        return process_start(self.pid) != self.start


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def _machine() -> str:
    """Return boot id and process-number space, or '' where the kernel does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def process_start(pid: int) -> str:
    """Return when a process started, '' if there is none or only its remains (a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # the name in parentheses may hold blanks
    return "" if fields[0] in "ZX" else fields[19]


@dataclass(frozen=True)
class Holder:
    """What the store says about a lease that is held."""

    owner: Owner
    epoch: int
    age_s: float
    """Seconds since the last heartbeat, by the store's clock."""
    ttl_s: float

    @property
    def is_live(self) -> bool:
        """Whether the lease must be respected."""
        return self.age_s <= self.ttl_s and not self.owner.is_dead()


class Lease:
    """The right to change one campaign, held by this process until it is released, lost or expired."""

    def __init__(self, store: CampaignStore, campaign: str, owner: Owner, epoch: int, ttl_s: float) -> None:
        self._store = store
        self.campaign = campaign
        self.owner = owner
        self.epoch = epoch
        """Number of this acquisition; results of an older epoch are not ours."""
        self.ttl_s = ttl_s

    def renew(self) -> None:
        """Tell the store that the holder lives.

        Raises:
            LeaseError: Another process has taken the campaign over.
        """
        now = self._store.time()
        if not self._store.set_fields(META, _id(self.campaign), {"heartbeat": now}, expect=self._mine()):
            raise self.taken_over()

    def release(self) -> None:
        """Give the lease back; without effect when another process has it already."""
        self._store.set_fields(META, _id(self.campaign), {"owner": None}, expect=self._mine())

    def taken_over(self) -> LeaseError:
        """Return the error that names the present holder."""
        present = holder(self._store, self.campaign)
        who = f"process {present.owner.pid} on {present.owner.host}" if present else "another process"
        return LeaseError(
            f"the campaign {self.campaign!r} has been taken over by {who}",
            value=f"epoch {present.epoch if present else '?'}, ours was {self.epoch}",
            cure="nothing is to be done: the other driver carries on",
        )

    def _mine(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "owner.host": self.owner.host, "owner.pid": self.owner.pid}


def holder(store: CampaignStore, campaign: str) -> Holder | None:
    """Return who holds a campaign's lease, live or not, or None."""
    return _holder(store, store.get(META, _id(campaign)))


def acquire(
    store: CampaignStore, campaign: str, owner: Owner | None = None, ttl_s: float = DEFAULT_TTL_S
) -> Lease:
    """Take the lease of a campaign if nobody holds it, or if its holder is dead or silent for too long.

    Args:
        store: The campaign's store, open for writing.
        campaign: Name of the campaign.
        owner: Who takes it; default: this process.
        ttl_s: Seconds without heartbeat after which others may take the lease.

    Raises:
        LeaseError: Another process holds it, or was faster.
    """
    owner = owner or Owner.this_process()
    store.insert_new(
        META, [{"_id": _id(campaign), "epoch": 0, "owner": None, "heartbeat": 0.0, "ttl_s": ttl_s}]
    )
    found = store.get(META, _id(campaign)) or {}
    present = _holder(store, found)
    if present is not None and present.is_live:
        raise _refused(campaign, present)
    epoch = int(found.get("epoch", 0))
    taken = {"epoch": epoch + 1, "owner": asdict(owner), "heartbeat": store.time(), "ttl_s": ttl_s}
    # The heartbeat is expected too: a holder that was silent and has just come back keeps its lease.
    expect = {"epoch": epoch, "heartbeat": found.get("heartbeat")}
    if not store.set_fields(META, _id(campaign), taken, expect=expect):
        present = holder(store, campaign)
        if present is None:  # it was released in this moment
            raise LeaseError("the campaign's lease changed hands just now", value=campaign, cure="try again")
        raise _refused(campaign, present)
    return Lease(store, campaign, owner, epoch + 1, ttl_s)


def _id(campaign: str) -> str:
    return f"lease:{campaign}"


def _holder(store: CampaignStore, found: Mapping[str, Any] | None) -> Holder | None:
    if not found or not found.get("owner"):
        return None
    age = max(0.0, store.time() - float(found["heartbeat"]))
    return Holder(Owner(**found["owner"]), int(found["epoch"]), age, float(found["ttl_s"]))


def _refused(campaign: str, present: Holder) -> LeaseError:
    who = present.owner
    wait = max(1, round(present.ttl_s - present.age_s))
    return LeaseError(
        f"the campaign {campaign!r} is driven by process {who.pid} of {who.user} on {who.host}, "
        f"last heard of {present.age_s:.0f} s ago",
        cure=f"look with `campaign status`, end it with `campaign stop`; if that process is gone, "
        f"resume in {wait} s, when its lease has expired",
    )


class Heartbeat:
    """Thread that renews a lease and notices its loss; use it as a context manager.

    Args:
        lease: The lease to keep.
        interval_s: Seconds between renewals; default: a third of the lease's time to live.
        on_lost: Called once, in the thread, with the reason when the lease is lost.
    """

    def __init__(
        self,
        lease: Lease,
        interval_s: float | None = None,
        on_lost: Callable[[LeaseError], None] | None = None,
    ) -> None:
        self.lease = lease
        self.lost = threading.Event()
        """Set when the lease is no longer ours: stop writing at once."""
        self.reason: LeaseError | None = None
        self._interval_s = interval_s or lease.ttl_s / 3
        self._on_lost = on_lost
        self._renewed = _clock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease-heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the thread; the lease stays as it is.

        A thread that waits for a server is not waited for: all it can still do is one renewal, harmless because
        conditional on the lease being ours.
        """
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=_JOIN_S)

    def check(self) -> None:
        """Raise LeaseError if the lease is known to be lost; a store that does not answer is no loss."""
        with contextlib.suppress(StoreUnreachableError):
            self.confirm()

    def confirm(self) -> None:
        """Make sure that the lease is ours: renew it if this process was silent for longer than its time to live.

        The driver's store asks it before each write; as a rule it costs no round trip.

        Raises:
            LeaseError: It is lost.
            StoreUnreachableError: The store does not answer, so it cannot be known.
        """
        if not self.lost.is_set() and _clock() - self._renewed > self.lease.ttl_s:
            try:
                self._renew()
            except LeaseError as error:
                self._lose(error)
        if self.lost.is_set():
            raise self.reason or self.lease.taken_over()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self._renew()
            except LeaseError as error:
                self._lose(error)
                return
            except StoreError:  # tried again; what it means for the driver is told by its own calls
                continue

    def _renew(self) -> None:
        asked = _clock()
        self.lease.renew()
        self._renewed = asked

    def _lose(self, reason: LeaseError) -> None:
        if not self.lost.is_set():
            self.reason = reason
            self.lost.set()
            if self._on_lost is not None:
                self._on_lost(reason)


@contextmanager
def holding(store: CampaignStore, name: str, ttl_s: float = DEFAULT_TTL_S) -> Iterator[Heartbeat]:
    """Hold the campaign's lease, renewed by a thread, and give it back."""
    lease = acquire(store, name, ttl_s=ttl_s)
    try:
        with Heartbeat(lease) as heartbeat:
            yield heartbeat
    finally:
        lease.release()


def _clock() -> float:
    """Return seconds that also pass while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
