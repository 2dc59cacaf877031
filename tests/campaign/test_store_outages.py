"""A MongoDB server that goes away and comes back: a driver's calls wait, and each may be made twice without harm."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mongo_server
import pytest

from campaign.errors import LeaseError, StoreAwayError, StoreError, StoreUnreachableError
from campaign.lease import Heartbeat, acquire
from campaign.storage.mongo_documents import MongoDocuments
from campaign.storage.outages import Outage, Patience, PatientDocuments
from campaign.storage.search import Search
from campaign.store import CampaignStore, StoreConfig


def quick(**hooks: Any) -> Patience:
    return Patience(limit_s=30.0, first_s=0.01, longest_s=0.1, settle_s=0.0, **hooks)


class Breaking:
    """The collections of a real server, whose connection breaks before, or after, the next call reaches it."""

    def __init__(self, documents: MongoDocuments) -> None:
        self._documents = documents
        self.breaks: list[str] = []
        """What happens to the next calls: `before` or `after`."""
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._documents, name)
        if name in {"server_time", "together", "close"}:
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            how = self.breaks.pop(0) if self.breaks else None
            if how == "before":
                raise StoreAwayError("no answer")
            answer = real(*arguments, **options)
            if how == "after":
                raise StoreAwayError("the answer was lost")
            if how == "midway":
                return self._torn(answer)
            return answer

        return call

    @staticmethod
    def _torn(documents: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        yield next(documents)
        raise StoreAwayError("the cursor broke")


@pytest.fixture
def breaking(mongod: mongo_server.MongoServer) -> Iterator[Breaking]:
    documents = MongoDocuments(mongod.uri, "outages", "t_")
    yield Breaking(documents)
    documents._database.client.drop_database("outages")
    documents.close()


@pytest.fixture
def patient(breaking: Breaking) -> PatientDocuments:
    return PatientDocuments(breaking, "here", quick())


TIMES = [["before"], ["after"], ["before", "after", "after", "before"]]


@pytest.mark.parametrize("breaks", TIMES)
def test_every_write_may_be_made_twice(breaks: list[str], breaking: Breaking, patient: PatientDocuments):
    def broken(call: Callable[[], Any]) -> Any:
        breaking.breaks = list(breaks)
        return call()

    rows = [{"_id": f"{n:04d}", "n": n} for n in range(5)]
    breaking.insert_new("labels", [{"_id": "0000", "n": -1}])
    assert broken(lambda: patient.insert_new("labels", rows)) == ["0001", "0002", "0003", "0004"]
    assert patient.get("labels", "0000") == {"_id": "0000", "n": -1}, "what was there stays"
    broken(lambda: patient.put("labels", [{"_id": "put", "n": 1}]))
    assert broken(lambda: patient.set_fields("labels", "put", {"a.b": 2}))
    assert not broken(lambda: patient.set_fields("labels", "nobody", {"a": 2}))
    updates = [("put", {"n": 2}), ("put", {"n": 3}), ("0001", {"n": 9})]
    assert broken(lambda: patient.set_fields_many("labels", iter(updates))) == 3
    assert patient.get("labels", "put") == {"_id": "put", "n": 3, "a": {"b": 2}}
    outputs = [{"uuid": "u", "index": i, "output": i} for i in (1, 2)]
    for _ in range(2):
        broken(lambda: patient.replace_by("jobs", ["uuid", "index"], outputs))
    stored = list(patient.find("jobs", Search({"uuid": "u"}, sort=[("index", 1)])))
    assert [(one["index"], one["output"]) for one in stored] == [(1, 1), (2, 2)]
    assert patient.count("labels", {}) == 6


@pytest.mark.parametrize("breaks", TIMES)
def test_a_conditional_write_says_whether_it_was_carried_out(
    breaks: list[str], breaking: Breaking, patient: PatientDocuments
):
    patient.put("labels", [{"_id": "a", "epoch": 1, "owner": {"pid": 1}}])
    breaking.breaks = list(breaks)
    change = {"epoch": 2, "owner": {"pid": 2}}
    assert patient.set_fields("labels", "a", change, expect={"epoch": 1})
    breaking.breaks = list(breaks)
    assert not patient.set_fields("labels", "a", {"epoch": 3}, expect={"epoch": 1})
    assert patient.get("labels", "a") == {"_id": "a", **change}


def test_a_cursor_that_breaks_midway_gives_no_document_twice(breaking: Breaking, patient: PatientDocuments):
    patient.put("labels", [{"_id": str(n)} for n in range(4)])
    breaking.breaks = ["midway", "before", "midway"]
    found = [one["_id"] for one in patient.find("labels", Search({}, sort=[("_id", 1)]))]
    assert found == ["0", "1", "2", "3"]
    assert breaking.calls.count("find") == 4


def test_a_first_try_that_arrives_late_makes_no_second_document(breaking: Breaking):
    """Two upserts at once, as when a frozen server wakes with the first try in its socket and gets the second."""
    for number in range(20):
        outputs = [{"uuid": f"u{number}", "index": 1, "output": number}]
        threads = [
            threading.Thread(target=breaking.replace_by, args=("jobs", ["uuid", "index"], outputs))
            for _ in range(4)
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert breaking.count("jobs", {"uuid": f"u{number}"}) == 1


def test_the_driver_is_told_what_it_waits_for_and_that_it_is_over(breaking: Breaking):
    waits: list[Outage] = []
    over: list[Outage] = []
    patience = quick(on_wait=waits.append, on_return=over.append)
    patient = PatientDocuments(breaking, "db.example.org:27017 (x)", patience)
    breaking.breaks = ["before"] * 6
    patient.count("labels", {})
    assert len(waits) >= 6
    assert {one.where for one in waits} == {"db.example.org:27017 (x)"}
    assert [one.seconds for one in waits] == sorted(one.seconds for one in waits)
    (one,) = over
    assert one.seconds >= waits[-1].seconds
    patient.count("labels", {})
    assert len(over) == 1


def test_pauses_grow_to_their_limit_and_ten_hours_are_borne():
    """Ten hours as arithmetic: each pause moves a clock of ours."""
    clock = [0.0]
    tries: list[float] = []

    def pass_by(seconds: float) -> None:
        clock[0] += seconds

    def away() -> None:
        tries.append(clock[0])
        if clock[0] < 10 * 3600:
            raise StoreAwayError("no answer")

    patience = Patience(settle_s=0.0, clock=lambda: clock[0], sleep=pass_by)
    patience.outlast("here", lambda: None, away, away)
    pauses = [after - before for before, after in itertools.pairwise(tries)]
    assert pauses[:6] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4])
    assert pauses[6:] == pytest.approx([10.0] * len(pauses[6:]))
    assert tries[-1] == pytest.approx(10 * 3600, abs=10)


def test_after_the_limit_the_driver_ends_at_once_with_the_way_to_go_on(breaking: Breaking):
    patient = PatientDocuments(breaking, "here", Patience(limit_s=0.3, first_s=0.05))
    breaking.breaks = ["before"] * 100
    with pytest.raises(StoreUnreachableError, match=r"not answered for .*campaign resume") as caught:
        patient.put("labels", [{"_id": "x"}])
    assert not isinstance(caught.value, StoreAwayError)
    tries = len(breaking.calls)
    with pytest.raises(StoreUnreachableError):
        patient.count("labels", {})
    assert len(breaking.calls) == tries, "what follows does not wait, and does not try"


def test_no_patience_is_as_a_reader_has_it(breaking: Breaking):
    patient = PatientDocuments(breaking, "here", Patience(limit_s=0.0))
    breaking.breaks = ["before"]
    with pytest.raises(StoreAwayError):
        patient.count("labels", {})
    assert patient.count("labels", {}) == 0


def test_a_user_who_wants_to_leave_is_heard(breaking: Breaking):
    leave = threading.Event()
    patient = PatientDocuments(breaking, "here", quick(leaving=leave.is_set))
    breaking.breaks = ["before"] * 100_000
    threading.Timer(0.5, leave.set).start()
    begin = time.monotonic()
    with pytest.raises(StoreUnreachableError, match=r"stopped while .*campaign resume"):
        patient.count("labels", {})
    assert time.monotonic() - begin < 2


def test_a_driver_that_was_replaced_meanwhile_writes_nothing_more(breaking: Breaking):
    def taken_over() -> None:
        raise LeaseError("taken over")

    patience = quick()
    patient = PatientDocuments(breaking, "here", patience)
    breaking.breaks = ["before", "before"]
    patience.on_wait = lambda _outage: setattr(patience, "guard", taken_over)
    with pytest.raises(LeaseError):
        patient.put("labels", [{"_id": "x"}])
    with pytest.raises(LeaseError):
        patient.put("labels", [{"_id": "x"}])
    breaking.breaks.clear()
    assert breaking.count("labels", {}) == 0


def test_other_errors_are_not_waited_for(breaking: Breaking, patient: PatientDocuments):
    with pytest.raises(StoreError, match="lacks the fields"):
        patient.replace_by("jobs", ["uuid"], [{"index": 1}])
    assert breaking.calls.count("replace_by") == 1


@pytest.fixture
def server(tmp_path: Path) -> Iterator[list[mongo_server.MongoServer]]:
    """A server of this test alone, in a list so that a restarted one takes its place."""
    binary = mongo_server.find_mongod()
    if binary is None:
        pytest.skip("no mongod")
    folder = tmp_path / "db"
    folder.mkdir()
    holder = [mongo_server.start(binary, folder, mongo_server.free_port())]
    yield holder
    mongo_server.kill(holder[0])


def restarted(server: list[mongo_server.MongoServer], after_s: float) -> threading.Thread:
    """Kill a server now, and start it again after a while in a thread."""
    mongo_server.kill(server[0])

    def again() -> None:
        time.sleep(after_s)
        binary = mongo_server.find_mongod()
        assert binary is not None
        server[0] = mongo_server.start(binary, server[0].folder, server[0].port)

    thread = threading.Thread(target=again)
    thread.start()
    return thread


@pytest.mark.slow
def test_writers_outlast_kills_of_a_real_server_and_every_event_is_there_once(
    server: list[mongo_server.MongoServer], tmp_path: Path
):
    config = StoreConfig(kind="mongodb", uri=server[0].uri, database="kills")
    with CampaignStore.open(config, tmp_path) as opened:
        over: list[Outage] = []
        store = opened.patient(Patience(longest_s=1.0, on_return=over.append))
        for kill, away_s in enumerate((0.5, 6.0)):  # pymongo waits for a server for four seconds by itself
            store.insert_new("labels", [{"_id": f"{kill}-{n}", "jobs": []} for n in range(1200)])
            ready = restarted(server, after_s=away_s)
            for n in range(100):
                store.set_fields("labels", f"{kill}-{n}", {"jobs": [n], "state": "done"})
                store.log_event("done", f"{kill}-{n}")
            found = list(store.query("labels", {"state": "done"}))
            ready.join()
        assert len(over) >= 1
        assert len(found) == 200
        assert store.count("labels") == 2400
        assert store.count("events") == 200


def test_the_lease_outlives_an_outage_longer_than_its_time_to_live(
    server: list[mongo_server.MongoServer], tmp_path: Path
):
    config = StoreConfig(kind="mongodb", uri=server[0].uri, database="lease")
    with CampaignStore.open(config, tmp_path) as opened:
        lease = acquire(opened, "c", ttl_s=1.0)
        with Heartbeat(lease) as heartbeat:
            store = opened.patient(Patience(longest_s=0.5, guard=heartbeat.confirm))
            ready = restarted(server, after_s=3.0)
            heartbeat.check()
            store.put("labels", {"_id": "a"})
            ready.join()
            heartbeat.check()
            assert not heartbeat.lost.is_set()
            assert store.count("labels") == 1


@pytest.mark.slow
def test_a_frozen_server_is_noticed_and_outlasted(server: list[mongo_server.MongoServer], tmp_path: Path):
    """As a network that drops everything: connections stay open and nothing comes back."""
    config = StoreConfig(kind="mongodb", uri=server[0].uri, database="frozen")
    with CampaignStore.open(config, tmp_path) as opened:
        over: list[Outage] = []
        noticed = threading.Event()
        patience = Patience(longest_s=1.0, on_wait=lambda _: noticed.set(), on_return=over.append)
        store = opened.patient(patience)
        store.put("labels", {"_id": "a", "n": 0})
        with mongo_server.frozen(server[0]):
            writing = threading.Thread(target=store.set_fields, args=("labels", "a", {"n": 1}))
            begin = time.monotonic()
            writing.start()
            assert noticed.wait(15), "the socket's own limit is a minute"
            noticed_s = time.monotonic() - begin
            with pytest.raises(StoreAwayError):
                opened.get("labels", "a")  # a reader is told within seconds
        writing.join(30)
        store.set_fields("labels", "a", {"n": 2})
        time.sleep(1.0)
        assert store.get("labels", "a") == {"_id": "a", "n": 2}, (
            "the first try did not come after its followers"
        )
        assert over
        assert noticed_s < 15


@pytest.mark.slow
def test_a_primary_that_dies_is_replaced_by_a_secondary(tmp_path: Path):
    binary = mongo_server.find_mongod()
    if binary is None:
        pytest.skip("no mongod")
    with mongo_server.replica_set(binary) as servers:
        config = StoreConfig(kind="mongodb", uri=servers.uri, database="failover")
        with CampaignStore.open(config, tmp_path) as opened:
            lease = acquire(opened, "c", ttl_s=1.0)
            with Heartbeat(lease) as heartbeat:
                store = opened.patient(Patience(longest_s=0.5, guard=heartbeat.confirm))
                store.insert_new("labels", [{"_id": f"{n:03d}", "tries": []} for n in range(200)])
                first = servers.primary()
                for n in range(200):
                    if n == 50:
                        mongo_server.kill(first)
                    store.set_fields("labels", f"{n:03d}", {"tries": [n]})
                    store.put_job_outputs([{"uuid": f"u{n}", "index": 1, "output": n}])
                    store.log_event("done", str(n))
                assert servers.primary().port != first.port
                assert store.count("labels", {"tries": {"$ne": []}}) == 200
                assert store.count("jobs") == 200
                assert store.count("events", {"kind": "done"}) == 200
                heartbeat.confirm()
