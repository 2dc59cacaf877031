"""Documents of blocks: written as they change, ended after their driver's death, and what they add up to."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from mongo_server import MongoServer

from campaign import blocks
from campaign.blocks import DRIVER, BlockBook, Remains, ended_with_driver, iso, live_blocks
from campaign.config import StopConfig
from campaign.parallel.pooling import Block
from campaign.storage.config import StoreConfig
from campaign.store import CampaignStore
from campaign.usage import Budget, budgets, kept_sums, lost_seconds, to_warn_of, total_usage, yields

HOUR = 3600.0
_databases = itertools.count()


@pytest.fixture(params=["embedded", "mongodb"])
def store(request: pytest.FixtureRequest, tmp_path: Path):
    config = StoreConfig()
    if request.param == "mongodb":
        server: MongoServer = request.getfixturevalue("mongod")
        config = StoreConfig(kind="mongodb", uri=server.uri, database=f"blocks-{next(_databases)}")
    with CampaignStore.open(config, tmp_path) as opened:
        yield opened


class Clock:
    """A clock that a test sets; starts at the hour 0 of 1970."""

    def __init__(self) -> None:
        self.hours = 0.0

    def __call__(self) -> float:
        return self.hours * HOUR


def batch(number: int, state: Any, **fields: Any) -> Block:
    return Block("dft", str(number), f"40{number}", "slurm", "login", "m", 2, 64, state, **fields)


def local(state: Any = "running") -> Block:
    return Block("gpu", "0", "4711", "local", "login", "m", 0, None, state)


def book(store: CampaignStore, epoch: int, clock: Clock) -> BlockBook:
    found = BlockBook(store, "small", epoch, clock)
    found.begin()
    return found


def test_a_block_is_written_when_it_appears_and_when_it_changes_and_not_otherwise(store, monkeypatch):
    clock, writes = Clock(), []
    ours = book(store, 1, clock)
    put = CampaignStore.put
    monkeypatch.setattr(CampaignStore, "put", lambda self, *a: (writes.append(a[1]["_id"]), put(self, *a)))
    ours.look([batch(0, "queued", submitted=1.0)])
    [document] = store.query("blocks", {"pool": "dft"})
    assert (document["job_id"], document["state"], document["nodes"]) == ("400", "queued", 2)
    assert document["started"] is None
    for _ in range(3):
        ours.look([batch(0, "queued", submitted=1.0)])
    assert len(writes) == 1
    clock.hours = 1.0
    ours.look([batch(0, "running", submitted=1.0)])
    ours.look([batch(0, "running", submitted=1.0)])
    assert len(writes) == 2
    [document] = store.query("blocks", {"pool": "dft"})
    assert document["started"] == iso(HOUR), "when it was first seen at work, where its pool does not know"
    clock.hours = 2.0
    ours.look([])
    [document] = store.query("blocks", {"pool": "dft"})
    assert (document["state"], document["ended"]) == ("ended", iso(2 * HOUR))


def test_a_turn_costs_no_more_for_blocks_that_have_ended(tmp_path, monkeypatch):
    """After months of walltimes there are thousands of them, and the driver looks at its blocks twice a second."""
    clock, built = Clock(), []
    with CampaignStore.open(StoreConfig(), tmp_path) as store:
        ours = book(store, 1, clock)
        over = [batch(number, "ended", submitted=0.0, started=HOUR, ended=2 * HOUR) for number in range(30)]
        ours.look([*over, batch(99, "running", started=HOUR)])
        original = blocks.document_of
        monkeypatch.setattr(blocks, "document_of", lambda *given: built.append(given) or original(*given))
        clock.hours = 3.0
        ours.look([*over, batch(99, "running", started=HOUR)])
        assert [block.block_id for block, *_ in built] == ["99"]
        assert {one["pool"] for one in ours.live()} == {DRIVER, "dft"}
        assert len(ours.live()) == 2
        usage = total_usage({}, 0.0, ours.live(), clock(), ours.ended)
        whole = total_usage({}, 0.0, store.query("blocks"), clock())
    assert usage == whole
    assert usage["node_hours"] == pytest.approx(2 * (30 * 1.0 + 2.0))
    assert usage["wall_seconds"] == pytest.approx(3 * HOUR)


def test_what_dead_drivers_blocks_have_used_is_known_to_the_next_driver(tmp_path):
    clock = Clock()
    with CampaignStore.open(StoreConfig(), tmp_path) as store:
        first = book(store, 1, clock)
        clock.hours = 2.0
        first.end([batch(0, "running", started=HOUR)], "done")
        second = book(store, 2, clock)
        clock.hours = 5.0
        second.look([batch(0, "running", started=4 * HOUR)])
        usage = total_usage({}, 0.0, second.live(), clock(), second.ended)
        assert usage == total_usage({}, 0.0, store.query("blocks"), clock())
    assert usage["node_hours"] == pytest.approx(2 * (1.0 + 1.0))
    assert usage["wall_seconds"] == pytest.approx(5 * HOUR)


def test_blocks_of_several_drivers_and_campaigns_do_not_meet(store):
    for epoch in (1, 2):
        ours = book(store, epoch, Clock())
        ours.look([batch(0, "running"), batch(1, "queued"), local()])
    other = BlockBook(store, "other", 1, Clock())
    other.begin()
    other.look([batch(0, "running")])
    assert store.count("blocks", {"campaign": "small"}) == 2 * 4
    assert store.count("blocks", {"campaign": "other"}) == 2


def test_node_hours_are_blocks_times_nodes_and_the_drivers_own_node(store):
    clock = Clock()
    ours = book(store, 1, clock)
    ours.look([batch(0, "queued"), local()])
    clock.hours = 1.0
    ours.look([batch(0, "running"), local()])
    clock.hours = 4.0
    ours.look([batch(0, "running"), local()])
    usage = total_usage({}, 0.0, ours.documents(), clock())
    assert usage["node_hours"] == pytest.approx(4.0 + 2 * 3.0)
    assert usage["wall_seconds"] == pytest.approx(4 * HOUR)
    ours.end([batch(0, "ended", started=HOUR, ended=3 * HOUR), local()], "its driver ended")
    stored = list(store.query("blocks"))
    assert total_usage({}, 0.0, stored, None)["node_hours"] == pytest.approx(4.0 + 2 * 2.0)
    assert {one["state"] for one in stored} == {"ended"}


def test_a_driver_without_local_pools_holds_no_node(store):
    clock = Clock()
    ours = book(store, 1, clock)
    ours.look([batch(0, "running")])
    clock.hours = 2.0
    assert total_usage({}, 0.0, ours.documents(), clock())["node_hours"] == pytest.approx(4.0)


def test_blocks_of_a_dead_driver_count_until_they_ended(store):
    """The driver dies in its second hour; one job lives on until a resume in the fifth, the other is gone by then."""
    clock = Clock()
    dead = book(store, 1, clock)
    dead.look([batch(0, "running"), batch(1, "running"), local()])
    clock.hours = 2.0
    dead.look([batch(0, "running"), batch(1, "running"), local()])
    left = list(store.query("blocks"))
    before = total_usage({}, 0.0, left, None)["node_hours"]
    assert before == pytest.approx(2.0 + 2 * 2 * 2.0), (
        "nobody knows better than when the driver was last seen"
    )
    remains = {one["_id"]: Remains(alive=one["block_id"] == "0") for one in left if one["pool"] == "dft"}
    for document in ended_with_driver(left, remains, 5 * HOUR):
        store.put("blocks", document)
    after = list(store.query("blocks"))
    assert {one["state"] for one in after} == {"ended"}
    assert {one["message"] for one in after} == {"its driver ended"}
    assert total_usage({}, 0.0, after, None)["node_hours"] == pytest.approx(2.0 + 2 * 5.0 + 2 * 2.0)
    following = book(store, 2, clock)
    clock.hours = 7.0
    following.look([local()])
    usage = total_usage({}, 0.0, following.documents(), clock())
    assert usage["node_hours"] == pytest.approx(16.0 + 5.0)
    assert ended_with_driver(after, {}, 9 * HOUR) == [], "ending them twice changes nothing"


def test_a_job_that_the_batch_system_still_tells_of_counts_as_it_says(store):
    """It was queued when its driver died, and ran for an hour before it noticed."""
    dead = book(store, 1, Clock())
    dead.look([batch(0, "queued")])
    left = list(store.query("blocks"))
    remains = {one["_id"]: Remains(started=3 * HOUR, ended=4 * HOUR) for one in left if one["pool"] == "dft"}
    documents = ended_with_driver(left, remains, 9 * HOUR)
    assert total_usage({}, 0.0, documents, None)["node_hours"] == pytest.approx(2.0)
    unknown = ended_with_driver(left, {}, 9 * HOUR)
    assert total_usage({}, 0.0, unknown, None)["node_hours"] == 0.0, "as far as anybody knows it never began"


def test_live_blocks_are_counted_by_pool():
    documents = [
        {"pool": "dft", "state": state, "nodes": 2, "job_id": job}
        for state, job in (("running", "400"), ("queued", "401"), ("queued", "402"), ("ended", "399"))
    ]
    driver = {"pool": DRIVER, "state": "running", "nodes": 1, "job_id": "1"}
    assert live_blocks([*documents, driver]) == {
        "dft": {
            "queued": 2,
            "running": 1,
            "nodes_queued": 4,
            "nodes_running": 2,
            "job_ids": ["400", "401", "402"],
        }
    }


def test_core_hours_are_those_of_labels_and_of_tasks():
    usage = total_usage({"task_core_hours": 0.5, "screen_tasks": 3.0}, 7.0, [], None)
    assert usage["core_hours"] == 7.5
    assert kept_sums(usage) == {"task_core_hours": 0.5, "screen_tasks": 3.0}
    assert total_usage(kept_sums(usage), 7.0, [], None) == usage, "working it out again gives the same"


def test_a_lost_task_costs_no_more_than_since_its_block_began():
    """It was submitted three hours ago, and most of the time its block waited in a queue."""

    def lost(*blocks: tuple[float | None, float | None], pool: str = "gpu") -> float:
        documents = [
            {"pool": pool, "started": iso(begun and begun * HOUR), "ended": iso(ended and ended * HOUR)}
            for begun, ended in blocks
        ]
        return lost_seconds("gpu", 3 * HOUR, documents, 10 * HOUR) / HOUR

    assert lost((9.5, None)) == pytest.approx(0.5)
    assert lost((None, None)) == lost() == 0.0, "no block has begun: it waited all the time"
    assert lost((9.5, None), pool="dft") == 0.0
    assert lost((9.5, None), pool="all") == pytest.approx(0.5), "threads and processes beside the driver"
    assert lost((8.0, 9.0), (9.75, None)) == pytest.approx(1.0), (
        "it ran on the block that ended, not on the next one"
    )
    assert lost((1.0, 2.0), (9.75, None)) == pytest.approx(0.25), (
        "that one ended before the task was submitted"
    )
    assert lost((1.0, None)) == pytest.approx(3.0), "and no longer than since it was submitted"


def test_a_budget_is_warned_of_once_until_it_is_raised():
    stop = StopConfig(core_hours=10.0, node_hours=100.0, stable_found=1)
    found = budgets(stop, {"core_hours": 8.0, "node_hours": 79.0}, stable=1)
    assert [one.name for one in found] == ["core_hours", "node_hours", "stable_found"]
    assert to_warn_of(found, {}) == [Budget("core_hours", 8.0, 10.0)]
    assert to_warn_of(found, {"core_hours": 10.0}) == []
    raised = budgets(StopConfig(core_hours=11.0), {"core_hours": 9.0}, stable=0)
    assert to_warn_of(raised, {"core_hours": 10.0}) == [Budget("core_hours", 9.0, 11.0)]
    assert raised[0].document()["percent"] == 81.8


def test_yields_are_per_hour_and_unknown_where_nothing_was_used():
    found = yields({"node_hours": 2.0, "core_hours": 0.0}, labels=10, stable=3)
    assert found["labels_per_node_hour"] == 5.0
    assert found["stable_per_node_hour"] == 1.5
    assert found["labels_per_core_hour"] is None
