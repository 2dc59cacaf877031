"""One driver per campaign, on both stores: refusal, take-over, races, heartbeat."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from campaign.errors import LeaseError, StoreUnreachableError
from campaign.lease import Heartbeat, Owner, acquire, holder, process_start
from campaign.store import CampaignStore, StoreConfig


@pytest.fixture(params=["embedded", "mongodb"])
def config(request):
    if request.param == "embedded":
        yield StoreConfig()
        return
    server = request.getfixturevalue("mongod")
    yield StoreConfig(kind="mongodb", uri=server.uri, database="leases")
    import pymongo

    with pymongo.MongoClient(server.uri) as client:
        client.drop_database("leases")


@pytest.fixture
def store(config, tmp_path):
    with CampaignStore.open(config, tmp_path) as opened:
        yield opened


def other_host(**changes) -> Owner:
    return dataclasses.replace(Owner("login7", 4242, "ana", "1", "boot/pid"), **changes)


def test_a_second_driver_is_refused_with_the_holders_name(store):
    first = acquire(store, "c", other_host(), ttl_s=60)
    with pytest.raises(
        LeaseError, match=r"process 4242 of ana on login7, last heard of \d+ s ago.*cure"
    ) as caught:
        acquire(store, "c")
    assert "campaign stop" in caught.value.cure
    assert first.epoch == 1
    acquire(store, "another campaign")


def test_release_frees_the_lease_and_the_epoch_rises(store):
    first = acquire(store, "c")
    first.renew()
    with pytest.raises(LeaseError):
        acquire(store, "c")
    first.release()
    assert holder(store, "c") is None
    second = acquire(store, "c", other_host())
    assert second.epoch == 2
    first.release()  # without effect: it is another's
    assert holder(store, "c").owner.host == "login7"


def test_an_expired_lease_is_taken_over_and_its_holder_told(store):
    first = acquire(store, "c", other_host(), ttl_s=0.2)
    first.renew()
    time.sleep(0.3)
    second = acquire(store, "c")
    assert second.epoch == 2
    with pytest.raises(LeaseError, match=f"taken over by process {os.getpid()}"):
        first.renew()
    second.renew()


def test_ages_do_not_depend_on_the_time_zone(store, monkeypatch):
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        assert abs(store.time() - time.time()) < 5
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_holder_that_comes_back_in_time_keeps_its_lease(store, monkeypatch):
    first = acquire(store, "c", other_host(), ttl_s=0.1)
    time.sleep(0.2)
    seen = store.get

    def get_and_let_the_holder_renew(collection, id_):
        found = seen(collection, id_)
        first.renew()
        return found

    monkeypatch.setattr(store, "get", get_and_let_the_holder_renew)
    with pytest.raises(LeaseError):
        acquire(store, "c")
    first.renew()


def test_a_dead_process_of_this_host_is_replaced_at_once(store):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = dataclasses.replace(Owner.this_process(), pid=child.pid, start=process_start(child.pid))
    acquire(store, "c", owner, ttl_s=600)
    with pytest.raises(LeaseError, match=f"process {child.pid} "):
        acquire(store, "c")
    child.kill()
    child.wait()
    assert acquire(store, "c").epoch == 2


def test_a_reused_process_number_is_not_the_holder(store):
    acquire(store, "c", dataclasses.replace(Owner.this_process(), start="12345"), ttl_s=600)
    assert acquire(store, "c").epoch == 2


def test_a_process_elsewhere_is_not_judged(store):
    here = Owner.this_process()
    assert not dataclasses.replace(here, host="elsewhere", pid=2**22).is_dead()
    assert not dataclasses.replace(here, machine="other boot/pid:[1]", pid=2**22).is_dead()
    assert not here.is_dead()
    assert dataclasses.replace(here, pid=2**22 + 1).is_dead()


@pytest.mark.slow
def test_of_many_processes_exactly_one_wins(config, store, tmp_path):
    racer = [sys.executable, str(Path(__file__).with_name("lease_racer.py"))]
    arguments = [config.model_dump_json(), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    for epoch in (1, 2):
        # The first round's winner is killed: the second round takes over a dead process's lease.
        start_at = str(time.time() + 4.0)
        racers = [
            subprocess.Popen(
                [*racer, *arguments, start_at, "60"], stdout=subprocess.PIPE, text=True, env=environment
            )
            for _ in range(6)
        ]
        lines = [process.stdout.readline().strip() for process in racers]
        for process in racers:
            process.kill()
            process.wait()
            process.stdout.close()
        assert sorted(lines) == ["lost"] * 5 + [f"won {epoch}"]


def test_threads_race_for_an_expired_lease(store):
    acquire(store, "c", other_host(), ttl_s=0.0)
    time.sleep(0.05)
    outcomes: list[int] = []
    barrier = threading.Barrier(6)

    def race(worker: int) -> None:
        barrier.wait()
        try:
            outcomes.append(acquire(store, "c", other_host(pid=worker), ttl_s=60).epoch)
        except LeaseError:
            outcomes.append(0)

    threads = [threading.Thread(target=race, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [0, 0, 0, 0, 0, 2]


def test_the_heartbeat_keeps_a_short_lease(store):
    lease = acquire(store, "c", other_host(), ttl_s=0.6)
    with Heartbeat(lease) as heartbeat:
        time.sleep(1.5)
        heartbeat.check()
        assert holder(store, "c").is_live
        with pytest.raises(LeaseError):
            acquire(store, "c")
    time.sleep(0.8)
    assert not holder(store, "c").is_live


def test_the_heartbeat_notices_a_take_over(store):
    lease = acquire(store, "c", other_host(), ttl_s=0.3)
    told: list[LeaseError] = []
    time.sleep(0.4)
    acquire(store, "c", other_host(pid=2), ttl_s=60)
    with Heartbeat(lease, interval_s=0.05, on_lost=told.append) as heartbeat:
        assert heartbeat.lost.wait(5)
        with pytest.raises(LeaseError, match="taken over by process 2 on login7"):
            heartbeat.check()
    assert len(told) == 1


def test_a_process_that_slept_too_long_is_told_before_it_writes(store):
    lease = acquire(store, "c", other_host(), ttl_s=0.2)
    with Heartbeat(lease, interval_s=30) as heartbeat:
        heartbeat.check()
        time.sleep(0.3)
        heartbeat.check()  # nobody took it: it is ours again
        time.sleep(0.3)
        acquire(store, "c", other_host(pid=2))
        with pytest.raises(LeaseError, match="process 2"):
            heartbeat.check()


def test_an_outage_however_long_does_not_lose_the_lease(store, monkeypatch):
    lease = acquire(store, "c", other_host(), ttl_s=0.3)
    with Heartbeat(lease, interval_s=0.05) as heartbeat:
        renew = lease.renew

        def fail():
            raise StoreUnreachableError("no answer")

        monkeypatch.setattr(lease, "renew", fail)
        time.sleep(1.0)
        heartbeat.check()
        with pytest.raises(StoreUnreachableError):
            heartbeat.confirm()  # whose it is cannot be known, so nothing may be written
        assert not heartbeat.lost.is_set()
        monkeypatch.setattr(lease, "renew", renew)
        heartbeat.confirm()
        time.sleep(0.2)
        assert holder(store, "c").is_live, "the thread has not given up"


def test_a_lease_that_was_taken_during_an_outage_is_found_out_before_anything_is_written(store, monkeypatch):
    lease = acquire(store, "c", other_host(), ttl_s=0.2)
    with Heartbeat(lease, interval_s=0.05) as heartbeat:
        renew = lease.renew

        def fail():
            raise StoreUnreachableError("no answer")

        monkeypatch.setattr(lease, "renew", fail)  # only this driver is cut off
        time.sleep(0.5)
        acquire(store, "c", other_host(pid=2))
        monkeypatch.setattr(lease, "renew", renew)
        with pytest.raises(LeaseError, match="taken over by process 2"):
            heartbeat.confirm()
        with pytest.raises(LeaseError):
            heartbeat.check()
