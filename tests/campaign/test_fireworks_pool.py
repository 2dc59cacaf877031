"""Label jobs through FireWorks: a real LaunchPad on a real MongoDB, and real `rlaunch` workers."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mongo_server
import pytest
from fireworks_site import Site, Worker, executions, opened, order_of, orders_of, until

from campaign.errors import SiteError
from campaign.parallel.fireworks_pool import job_key
from campaign.parallel.fireworks_verdicts import priority
from campaign.parallel.launchpad import ABOUT, Board, Sight
from campaign.parallel.pools import classify_exception
from campaign.tasks import run_job

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def site(mongod: Any, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A LaunchPad of this module, and the files of its workers."""
    return Site(mongod.uri, "pool", tmp_path_factory.mktemp("fireworks"))


@pytest.fixture(scope="module")
def workers(site: Site) -> Iterator[list[Worker]]:
    """Two `rlaunch rapidfire` processes."""
    started = [site.worker(), site.worker()]
    until(lambda: all(worker.ready for worker in started), 60)
    yield started
    for worker in started:
        worker.end()


def same(result: dict[str, Any]) -> dict[str, Any]:
    """Return a job's result without what depends on place and time."""
    text = json.dumps({key: result[key] for key in ("ok", "docs", "data", "new_jobs", "stop_children")})
    return {key: value for key, value in without_times(json.loads(text)).items() if key != "host"}


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        dropped = {"wall_seconds", "dir_name", "last_updated", "completed_at", "elapsed_time", "time", "_id"}
        return {key: without_times(one) for key, one in value.items() if key not in dropped}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def test_a_jobs_result_is_that_of_a_pool_of_our_own(
    site: Site, workers: list[Worker], tmp_path: Path
) -> None:
    pools = opened(site)
    there = order_of(tmp_path / "there")
    here = order_of(tmp_path / "here")
    answer = pools.submit("dft", run_job, there).result(90)
    pools.close(cancel=True)
    assert answer["ok"]
    assert answer["pid"] in {worker.pid for worker in workers}
    assert (answer["reused"], answer["host"]) == (False, os.uname().nodename)
    assert same(answer) == same(run_job(here))


def test_two_workers_run_every_job_once_and_large_orders_pass(
    site: Site, workers: list[Worker], tmp_path: Path
) -> None:
    pools = opened(site)
    log = tmp_path / "log.jsonl"
    orders = orders_of(tmp_path, 8, log, sleep_s=0.3)
    ballast = {
        "uuid": "other",
        "index": 1,
        "output": {"numbers": "7" * 20_000_000},
    }  # MongoDB's limit is 16 MB
    orders[0]["upstream"] = [ballast]
    answers = [future.result(120) for future in [pools.submit("dft", run_job, order) for order in orders]]
    pools.close(cancel=True)
    assert all(answer["ok"] for answer in answers)
    assert sorted(one["folder"] for one in executions(log)) == sorted(order["work_dir"] for order in orders)
    assert {answer["pid"] for answer in answers} == {worker.pid for worker in workers}


def test_a_firework_says_what_it_is_for(site: Site, tmp_path: Path) -> None:
    pools = opened(
        site, category="elsewhere", fworker="big", priority_base=7, queueadapter={"walltime": "1:00"}
    )
    order = order_of(tmp_path)
    pools.submit("dft", run_job, order)
    spec = until(lambda: site.spec(order))
    pools.close(cancel=True)
    about = order["about"]
    assert {key: spec[key] for key in ("_category", "_fworker", "_queueadapter")} == {
        "_category": "elsewhere",
        "_fworker": "big",
        "_queueadapter": {"walltime": "1:00"},
    }
    assert spec["_priority"] == priority(about, 7)
    assert {key: spec[ABOUT][key] for key in about} == about
    assert site.db.workflows.find_one({f"metadata.{ABOUT}.candidate": about["candidate"]})
    assert len(json.dumps(spec, default=str)) < 2000


def test_a_failure_has_the_cause_that_it_has_here(site: Site, workers: list[Worker], tmp_path: Path) -> None:
    pools = opened(site)
    options = {"calculator": "components:Breaking", "calculator_options": {}}
    answer = pools.submit("dft", run_job, order_of(tmp_path / "there", options)).result(60)
    pools.close(cancel=True)
    here = run_job(order_of(tmp_path / "here", options))
    assert not answer["ok"]
    assert answer["failure"]["cause"] == here["failure"]["cause"] == "out_of_memory"
    assert answer["failure"]["message"] == here["failure"]["message"]
    assert set(answer) == set(here)


def test_a_result_that_its_folder_does_not_take_comes_through_the_launchpad(
    site: Site, workers: list[Worker], tmp_path: Path
) -> None:
    pools, order = opened(site), order_of(tmp_path)
    folder = Path(order["work_dir"])
    # As little use as a full disk: a folder in the result's place that cannot be moved out of the way either.
    for place in ("result.json", "result.json.aside-2/taken"):
        (folder / place).mkdir(parents=True)
    answer = pools.submit("dft", run_job, order).result(60)
    pools.close(cancel=True)
    assert answer["ok"]
    assert answer["not_kept"]
    assert answer["docs"][0]["uuid"] == order["about"]["job"]


def test_a_job_without_its_order_tells_that_the_disk_is_not_shared(
    site: Site, workers: list[Worker], tmp_path: Path
) -> None:
    pools = opened(site, category="later")
    order = order_of(tmp_path)
    future = pools.submit("dft", run_job, order)
    until(lambda: site.spec(order))
    (Path(order["work_dir"]) / "order.json").unlink()
    site.db.fireworks.update_one(
        {f"spec.{ABOUT}.label": order["about"]["label"]}, {"$set": {"spec._category": "dft"}}
    )
    failure = future.result(60)["failure"]
    pools.close(cancel=True)
    assert failure["cause"] == "unknown"
    assert "a disk that driver and workers share" in failure["message"]


@pytest.mark.slow
def test_a_killed_worker_is_noticed_and_its_job_tried_again(site: Site, tmp_path: Path) -> None:
    pools = opened(site, category="fragile")
    log = tmp_path / "log.jsonl"
    order = orders_of(tmp_path, 1, log, sleep_s=7.0)[0]
    future = pools.submit("dft", run_job, order)
    victim = site.worker(category="fragile")
    until(lambda: executions(log), 60)
    time.sleep(4.5)  # longer than the silence that is suffered: the worker's reports keep the run alive
    assert not future.done()
    os.kill(victim.pid, signal.SIGKILL)
    died = time.monotonic()
    lost = future.result(20)
    noticed = time.monotonic() - died
    assert (lost["ok"], lost["failure"]["cause"]) == (False, "node_lost")
    assert (lost["host"], lost["folder"]) == (os.uname().nodename, order["work_dir"])
    assert 4 < lost["wall_seconds"] < 20
    assert noticed < 8, "the heartbeat is short"
    assert site.states(order) == ["FIZZLED"]

    again = {**order, "about": {**order["about"], "attempt": 2}}
    worker = site.worker(category="fragile")
    answer = pools.submit("dft", run_job, again).result(60)
    pools.close(cancel=True)
    worker.end()
    assert answer["ok"]
    assert site.states(order) == ["FIZZLED", "COMPLETED"]


def test_a_run_that_lives_on_after_being_called_lost_is_waited_for_and_not_repeated(
    site: Site, workers: list[Worker], tmp_path: Path
) -> None:
    pools, log = opened(site), tmp_path / "log.jsonl"
    order = orders_of(tmp_path, 1, log, sleep_s=8.0)[0]
    first = pools.submit("dft", run_job, order)
    pid = until(lambda: executions(log), 60)[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert first.result(20)["failure"]["cause"] == "node_lost"
        second = pools.submit("dft", run_job, {**order, "about": {**order["about"], "attempt": 2}})
        until(lambda: "RUNNING" in site.states(order))
    finally:
        os.kill(pid, signal.SIGCONT)
    answer = second.result(60)
    pools.close(cancel=True)
    assert answer["ok"]
    assert answer["reused"]
    assert len(executions(log)) == 1


@pytest.mark.slow
def test_a_later_driver_adopts_what_waits_runs_and_has_ended(site: Site, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    orders = orders_of(tmp_path, 3, log, sleep_s=2.0)
    for order, rank in zip(orders, (0, 1, 2), strict=True):
        order["about"]["rank"] = rank
    first = opened(site, category="later")
    for order in orders:
        first.submit("dft", run_job, order)
    until(lambda: all(site.states(order) for order in orders))
    worker = site.worker(category="later")
    until(lambda: len(executions(log)) == 2, 60)  # one has ended, one runs, one waits
    first.close(cancel=True)
    assert [site.states(order) for order in orders] == [["COMPLETED"], ["RUNNING"], ["DEFUSED"]]
    second = opened(site, category="later")
    answers = [future.result(60) for future in [second.submit("dft", run_job, order) for order in orders]]
    second.close(cancel=True)
    worker.end()
    assert all(answer["ok"] for answer in answers)
    assert [site.states(order) for order in orders] == [["COMPLETED"]] * 3
    assert len(executions(log)) == 3


def test_what_a_driver_left_half_written_is_removed(site: Site, tmp_path: Path) -> None:
    board, about = Board(site.config), order_of(tmp_path)["about"]
    key = job_key(about)
    board.add(key, {}, about, {"folder": str(tmp_path), "heartbeat_s": 1.0})
    site.db.fireworks.delete_one({f"spec.{ABOUT}.key": key})
    assert board.find(key) is None
    assert site.db.workflows.count_documents({f"metadata.{ABOUT}.key": key}) == 0
    fw_id = board.add(key, {}, about, {"folder": str(tmp_path), "heartbeat_s": 1.0})
    assert board.find(key) == Sight(fw_id, "READY")
    with pytest.raises(Exception, match="duplicate key"):
        board.add(key, {}, about, {"folder": str(tmp_path), "heartbeat_s": 1.0})
    site.db.fireworks.delete_one({"fw_id": fw_id})
    board.close()


@pytest.mark.parametrize("command", ["defuse_fw", "archive_wf", "delete_wf"])
def test_what_a_person_takes_out_is_given_up(site: Site, tmp_path: Path, command: str) -> None:
    pools, order = opened(site, category="never"), order_of(tmp_path)
    future = pools.submit("dft", run_job, order)
    fw_id = until(lambda: site.fw_ids(order))[0]
    getattr(site.lpad(), command)(fw_id)
    failure = future.result(20)["failure"]
    pools.close(cancel=True)
    assert failure["cause"] == "cancelled"
    assert "by a person" in failure["message"]


def test_the_other_pools_stay_where_they_were(site: Site) -> None:
    pools = opened(site, slots=5)
    assert dict(pools.slots) == {"gpu": 1, "cpu": 1, "dft": 5}
    assert pools.submit("cpu", abs, -3).result(10) == 3
    with pytest.raises(TypeError):
        pools.submit("dft", abs, -3)
    pools.close(cancel=True)


def test_an_order_that_cannot_be_written_fails_by_itself(site: Site, tmp_path: Path) -> None:
    pools, order = opened(site, category="never"), order_of(tmp_path)
    (tmp_path / "file").touch()
    error = pools.submit("dft", run_job, {**order, "work_dir": str(tmp_path / "file" / "x")}).exception(10)
    pools.close(cancel=True)
    assert error is not None
    assert classify_exception(error)[0] == "unknown"
    assert site.fw_ids(order) == []


def test_an_outage_of_the_launchpad_costs_nothing(mongod: Any, tmp_path: Path) -> None:
    binary = mongo_server.find_mongod()
    assert binary is not None
    (tmp_path / "data").mkdir()
    server = mongo_server.start(binary, tmp_path / "data", mongo_server.free_port())
    site = Site(server.uri, "outage", tmp_path)
    quick = {**site.launchpad, "mongoclient_kwargs": {"serverSelectionTimeoutMS": 300}}
    pools, log = opened(site, launchpad=quick), tmp_path / "log.jsonl"
    order = orders_of(tmp_path, 1, log, sleep_s=6.0)[0]
    future = pools.submit("dft", run_job, order)
    worker = site.worker()
    until(lambda: executions(log), 60)
    mongo_server.kill(server)
    time.sleep(4)  # longer than the silence that is suffered
    later = pools.submit("dft", run_job, order_of(tmp_path / "later"))
    server = mongo_server.start(binary, tmp_path / "data", server.port)
    assert future.result(60)["ok"]
    assert later.result(60)["ok"]
    assert site.states(order) == ["COMPLETED"]
    assert len(executions(log)) == 1
    pools.close(cancel=True)
    worker.end()
    mongo_server.kill(server)


def test_a_launchpad_that_stays_away_ends_the_driver(
    mongod: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("campaign.parallel.fireworks_pool.OUTAGE_S", 1.0)
    binary = mongo_server.find_mongod()
    assert binary is not None
    (tmp_path / "data").mkdir()
    server = mongo_server.start(binary, tmp_path / "data", mongo_server.free_port())
    site = Site(server.uri, "outage", tmp_path)
    quick = {**site.launchpad, "mongoclient_kwargs": {"serverSelectionTimeoutMS": 300}}
    pools, order = opened(site, launchpad=quick), order_of(tmp_path)
    future = pools.submit("dft", run_job, order)
    until(lambda: site.fw_ids(order))
    mongo_server.kill(server)
    error = future.exception(20)
    assert error is not None
    assert classify_exception(error)[0] == "node_lost"
    with pytest.raises(SiteError, match=r"has not answered.*then campaign resume"):
        pools.submit("dft", run_job, order)
    pools.close(cancel=True)


def test_a_launchpad_that_cannot_be_read_ends_the_driver(site: Site, tmp_path: Path) -> None:
    pools, order = opened(site, category="never"), order_of(tmp_path)
    future = pools.submit("dft", run_job, order)
    fw_id = until(lambda: site.fw_ids(order))[0]
    site.db.fireworks.update_one({"fw_id": fw_id}, {"$unset": {"state": ""}})
    error = future.exception(20)
    assert error is not None
    assert classify_exception(error)[0] == "node_lost"
    with pytest.raises(SiteError, match="cannot be read: KeyError"):
        pools.submit("dft", run_job, order)
    pools.close(cancel=True)
