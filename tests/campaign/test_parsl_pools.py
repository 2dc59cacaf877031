"""The Parsl pools, with real processes that are really killed."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import psutil
import pytest
from pool_tasks import add, describe, end_worker, fail, nap, run_program
from pool_waiting import pids_in, runs, until

from campaign.errors import SiteError
from campaign.parallel.block_script import packages_parent
from campaign.parallel.htex import HEARTBEAT_PERIOD_S, HEARTBEAT_THRESHOLD_S
from campaign.parallel.parsl_pools import ParslPools
from campaign.parallel.pools import failure_cause
from campaign.parallel.preflight import compare, preflight, probe
from campaign.parallel.processes import MARKER, carrying
from campaign.site import Site

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills and orphans are Linux's here")

HERE = Path(__file__).parent
ENVIRONMENT = {"PYTHONPATH": str(HERE), "POOL_TEST_COLOUR": "blue sky"}


def _site(**more: object) -> Site:
    return Site.model_validate({"environment": ENVIRONMENT, **more})


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ParslPools]:
    started = ParslPools(_site(pools={"cpu": {"workers": 2}}), tmp_path_factory.mktemp("pools"))
    yield started
    started.close(cancel=True)
    assert carrying(MARKER, started.marker) == []


def test_preflight_agrees_with_the_driver(pools: ParslPools) -> None:
    results = preflight(pools)
    assert [result.pool for result in results] == ["gpu", "cpu", "dft"]
    assert {result.host for result in results} == {platform.node()}
    assert {result.python for result in results} == {platform.python_version()}
    assert all(set(result.parents.values()) == {str(packages_parent())} for result in results)
    assert all(result.versions["parsl"] for result in results)


def test_workers_have_their_variables_and_nothing_heavy(pools: ParslPools) -> None:
    assert (pools.slots["gpu"], pools.slots["cpu"]) == (1, 2)
    seen = pools.submit("dft", describe).result(30)
    assert (seen["omp"], seen["cuda"], seen["colour"]) == ("1", "", "blue sky")
    assert seen["heavy"] == []


def test_tasks_give_results_and_their_own_exceptions(pools: ParslPools) -> None:
    assert [f.result(30) for f in [pools.submit("cpu", add, i, i) for i in range(50)]] == list(
        range(0, 100, 2)
    )
    error = pools.submit("cpu", fail, "a reason").exception(30)
    assert isinstance(error, ValueError)
    assert str(error) == "a reason"
    assert failure_cause(pools.submit("cpu", fail, "memory").exception(30)) == "out_of_memory"


def test_blocks_are_told_for_a_later_driver(pools: ParslPools) -> None:
    blocks = json.loads(json.dumps([block.document() for block in pools.blocks()]))
    assert {block["pool"] for block in blocks} == {"gpu", "cpu", "dft"}
    assert {block["marker"] for block in blocks} == {pools.marker}


def test_a_killed_worker_is_a_lost_node_its_program_ends_and_the_pool_goes_on(
    pools: ParslPools, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    future = pools.submit("dft", run_program, 600, str(note))
    until(lambda: len(pids_in(note)) == 2, 20)
    worker, program = (psutil.Process(pid) for pid in pids_in(note))
    worker.kill()
    assert failure_cause(future.exception(HEARTBEAT_PERIOD_S + 10)) == "node_lost"
    until(lambda: not runs(program), 5)
    assert pools.submit("dft", add, 1, 2).result(30) == 3


def test_a_worker_that_was_ended_for_want_of_memory_is_known_by_what_its_node_has_noted(
    pools: ParslPools,
) -> None:
    """The test writes the note itself, as the kernel's counter cannot be raised at will."""
    [notes] = Path(pools._kernel.run_dir, "cpu").glob("oom-kills-*")
    assert notes.name == f"oom-kills-{platform.node()}", "the warden of the block has begun it"
    notes.write_text(f"{time.time()}\n")
    assert (
        failure_cause(pools.submit("cpu", end_worker).exception(HEARTBEAT_PERIOD_S + 12)) == "out_of_memory"
    )
    assert failure_cause(pools.submit("dft", end_worker).exception(HEARTBEAT_PERIOD_S + 12)) == "node_lost"


@pytest.mark.slow
def test_a_killed_manager_is_a_lost_node_and_its_block_is_replaced(pools: ParslPools, tmp_path: Path) -> None:
    note = tmp_path / "note"
    future = pools.submit("dft", run_program, 600, str(note))
    until(lambda: len(pids_in(note)) == 2, 20)
    worker, program = (psutil.Process(pid) for pid in pids_in(note))
    worker.parent().kill()
    until(lambda: not (runs(worker) or runs(program)), 10)
    assert failure_cause(future.exception(HEARTBEAT_THRESHOLD_S + 15)) == "node_lost"
    assert pools.submit("dft", add, 1, 2).result(30) == 3
    assert len([block for block in pools.blocks() if block.pool == "dft"]) == 2


@pytest.mark.slow
def test_a_killed_interchange_loses_its_tasks_only_and_says_so(tmp_path: Path) -> None:
    pools = ParslPools(_site(), tmp_path / "pools")
    lost = pools.submit("cpu", nap, 600, str(tmp_path / "lost"))
    kept = pools.submit("dft", nap, 4, str(tmp_path / "kept"))
    until(lambda: (tmp_path / "lost").exists() and (tmp_path / "kept").exists(), 20)
    pools._kernel.executors["cpu"].interchange_proc.kill()
    assert failure_cause(lost.exception(10)) == "node_lost"
    with pytest.raises(SiteError, match="pool cpu broke down"):
        pools.submit("cpu", add, 1, 1)
    assert kept.result(20)
    pools.close(cancel=False)
    assert carrying(MARKER, pools.marker) == []


@pytest.mark.slow
@pytest.mark.parametrize("cancel", [False, True])
def test_close_waits_only_as_told_and_leaves_no_process(tmp_path: Path, cancel: bool) -> None:
    pools = ParslPools(_site(), tmp_path / "pools")
    running = pools.submit("cpu", nap, 3 if not cancel else 600, str(tmp_path / "running"))
    until((tmp_path / "running").exists, 20)
    queued = pools.submit("cpu", add, 1, 1)
    started = time.monotonic()
    pools.close(cancel=cancel)
    took = time.monotonic() - started
    assert carrying(MARKER, pools.marker) == []
    if cancel:
        assert took < 10
        for future in (running, queued):
            with pytest.raises(CancelledError):
                future.result(0)
    else:
        assert "ended" in (tmp_path / "running").read_text()
        assert queued.result(0) == 2
    pools.close(cancel=True)  # a second time: nothing


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "told"),
    [("module load no-such-thing", "module"), ("echo no licence here >&2; exit 3", "no licence")],
)
def test_a_bad_worker_init_is_one_line_within_half_a_minute(tmp_path: Path, line: str, told: str) -> None:
    started = time.monotonic()
    with pytest.raises(SiteError, match="do not start") as caught:
        ParslPools(_site(worker_init=[line]), tmp_path / "pools")
    assert time.monotonic() - started < 30
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "worker_init" in caught.value.cure


@pytest.mark.slow
def test_a_pool_without_room_for_a_worker_is_refused(tmp_path: Path) -> None:
    site = _site(pools={"dft": {"memory_gb_per_worker": 1e6}})
    with pytest.raises(SiteError, match="no room"):
        ParslPools(site, tmp_path / "pools")


def _start_driver(folder: Path, seconds: float, mode: str) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(HERE.parent.parent), str(HERE)])
    return subprocess.Popen(
        [sys.executable, "-P", str(HERE / "pool_driver.py"), str(folder), str(seconds), mode],
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )


@pytest.mark.slow
def test_nothing_outlives_a_driver_that_was_killed(tmp_path: Path) -> None:
    driver = _start_driver(tmp_path, 600, "kill")
    notes = [tmp_path / f"{name}.note" for name in ("gpu", "cpu", "dft")]
    until(lambda: all(len(pids_in(note)) == 2 for note in notes), 60)
    until((tmp_path / "blocks.json").exists, 5)
    (marker,) = {block["marker"] for block in json.loads((tmp_path / "blocks.json").read_text())}
    family = set(carrying(MARKER, marker)) | set(psutil.Process(driver.pid).children(recursive=True))
    interchanges = [p for p in family if "detached" in p.cmdline() or "interchange" in " ".join(p.cmdline())]
    programs = [psutil.Process(pid) for note in notes for pid in pids_in(note)]
    assert len(interchanges) == 3
    assert len(programs) == 6
    assert set(programs) <= family
    os.kill(driver.pid, signal.SIGKILL)  # not waited for yet: even as a zombie it must count as dead
    until(lambda: not any(runs(process) for process in family), 20)
    driver.wait()
    assert carrying(MARKER, marker) == []


@pytest.mark.slow
def test_ctrl_c_reaches_the_driver_only(tmp_path: Path) -> None:
    driver = _start_driver(tmp_path, 8, "interrupt")
    notes = [tmp_path / f"{name}.note" for name in ("gpu", "cpu", "dft")]
    until(lambda: all(note.exists() for note in notes), 60)
    os.killpg(driver.pid, signal.SIGINT)  # what a terminal does on Ctrl-C
    assert driver.wait(60) == 0
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome == {"interrupts": 1, "errors": []}
    assert all("ended" in note.read_text() for note in notes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"parents": {"campaign": "/a", "models": "/b", "flows": "/a"}}, "different folders"),
        ({"parents": {"campaign": "/a", "models": "/a", "flows": ""}}, "do not find flows"),
        ({"parents": dict.fromkeys(("campaign", "models", "flows"), "/a")}, "another installation"),
        ({"python": "3.9.1"}, "another Python"),
        ({"versions": {**probe()["versions"], "torch": "1.0"}}, "other versions"),
    ],
)
def test_preflight_refuses_a_worker_that_differs(change: dict[str, object], told: str) -> None:
    with pytest.raises(SiteError, match=told):
        compare("dft", {**probe(), **change}, probe())
