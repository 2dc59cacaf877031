from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from command_line import environment
from pool_tasks import add, describe, fail, nap, run_program
from pool_waiting import pids_in, runs, until

from campaign.parallel.orphans import end_orphans, find_orphans
from campaign.parallel.pooling import PoolLostError, worker_environment
from campaign.parallel.pools import (
    ProcessPools,
    ThreadPools,
    classify_exception,
    failure_cause,
)
from campaign.parallel.processes import MARKER, alive, carrying, end_carrying, new_marker
from campaign.site import PoolSize, Site

SIZES = {name: PoolSize(workers=n, cores_per_worker=1) for name, n in {"gpu": 1, "cpu": 2, "dft": 2}.items()}


def _named(name: str, text: str = "", bases: tuple[type, ...] = (Exception,)) -> Exception:
    """An exception of a library that is not imported for this test."""
    return type(name, bases, {})(text)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (MemoryError(), "out_of_memory"),
        (OSError(errno.ENOMEM, "fork"), "out_of_memory"),
        (
            _named("OutOfMemoryError", "CUDA out of memory. Tried to allocate", (RuntimeError,)),
            "out_of_memory",
        ),
        (RuntimeError("terminate called after throwing an instance of 'std::bad_alloc'"), "out_of_memory"),
        (_named("WorkerLost"), "node_lost"),
        (_named("ManagerLost"), "node_lost"),
        (PoolLostError("pool cpu"), "node_lost"),
        (_named("AppTimeout"), "walltime"),
        (subprocess.TimeoutExpired("vasp", 10), "walltime"),
        (RuntimeError("slurmstepd: JOB 7 CANCELLED AT ... DUE TO TIME LIMIT"), "walltime"),
        (ValueError("negative volume"), "unknown"),
        (ConnectionResetError(), "unknown"),
    ],
)
def test_cause_of_an_exception(error: Exception, cause: str) -> None:
    assert failure_cause(error) == cause


def test_cause_is_found_behind_a_wrapping_exception_and_the_message_is_one_line() -> None:
    try:
        try:
            raise MemoryError("host\nmemory")
        except MemoryError as inner:
            raise RuntimeError("the task\nfailed") from inner
    except RuntimeError as error:
        assert classify_exception(error) == ("out_of_memory", "RuntimeError: the task failed")


def test_worker_environment_has_threads_as_cores_and_the_site_has_the_last_word() -> None:
    size = PoolSize(workers=1, cores_per_worker=4)
    environment = worker_environment(size, {"MKL_NUM_THREADS": "2"})
    assert environment["OMP_NUM_THREADS"] == "4"
    assert environment["MKL_NUM_THREADS"] == "2"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    pinned = PoolSize(workers=1, cores_per_worker=1, accelerators=("0",))
    assert "CUDA_VISIBLE_DEVICES" not in worker_environment(pinned, {})


def test_threads_run_tasks_and_label_flows_one_at_a_time() -> None:
    pools = ThreadPools(SIZES)
    assert pools.slots == {"gpu": 1, "cpu": 2, "dft": 1}
    assert [pools.submit("cpu", add, i, 1).result(10) for i in range(5)] == [1, 2, 3, 4, 5]
    assert isinstance(pools.submit("dft", fail, "x").exception(10), ValueError)
    pools.close(cancel=False)


def test_processes_survive_a_killed_worker_and_leave_nothing_behind(tmp_path: Path) -> None:
    pools = ProcessPools({"cpu": SIZES["gpu"]}, environment={"POOL_TEST_COLOUR": "red"})
    first = pools.submit("cpu", describe).result(60)
    assert (first["omp"], first["cuda"], first["colour"]) == ("1", "", "red")
    doomed = pools.submit("cpu", nap, 60, str(tmp_path / "doomed"))
    until((tmp_path / "doomed").exists, 30)
    psutil.Process(first["pid"]).kill()
    assert failure_cause(doomed.exception(30)) == "node_lost"
    assert pools.submit("cpu", add, 20, 3).result(60) == 23
    running = pools.submit("cpu", run_program, 60, str(tmp_path / "running"))
    until(lambda: len(pids_in(tmp_path / "running")) == 2, 30)
    worker, program = (psutil.Process(pid) for pid in pids_in(tmp_path / "running"))
    (block,) = pools.blocks()
    assert program in carrying(MARKER, block.marker)
    pools.close(cancel=True)
    assert running.exception(10) is not None
    assert not runs(worker)
    assert not runs(program)


BORN_LATE = """
import sys, time
from campaign.parallel.pools import ProcessPools
from campaign.site import PoolSize
if __name__ == "__main__":
    ProcessPools({"cpu": PoolSize(workers=2, cores_per_worker=1)}).submit("cpu", time.sleep, 0)
    print("submitted", flush=True)
    time.sleep(60)
"""


def test_workers_whose_driver_died_while_they_started_end_by_themselves(tmp_path: Path) -> None:
    """They bind themselves to a driver that is no more: the kernel never tells them of its death."""
    script = tmp_path / "driver.py"
    script.write_text(BORN_LATE)
    driver = subprocess.Popen([sys.executable, script], env=environment(), stdout=subprocess.PIPE)
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"submitted\n"
    workers = psutil.Process(driver.pid).children(recursive=True)
    assert len(workers) >= 2
    driver.kill()
    driver.wait()
    try:
        until(lambda: not any(runs(worker) for worker in workers), 30)
    finally:
        for worker in filter(runs, workers):
            worker.kill()


def test_marked_processes_are_found_and_ended_also_the_stubborn() -> None:
    marker = new_marker()
    command = ["bash", "-c", "trap '' TERM; while true; do sleep 1; done"]
    program = subprocess.Popen(command, env={"PATH": "/usr/bin:/bin", MARKER: marker}, start_new_session=True)
    other = subprocess.Popen(["sleep", "60"], env={MARKER: marker + "0"})
    until(lambda: bool(carrying(MARKER, marker)), 10)
    started = psutil.Process(program.pid).create_time()
    try:
        assert find_orphans([{"host": "elsewhere", "marker": marker}], Site(), "none", host="here") == []
        found = find_orphans([{"host": "here", "marker": marker}] * 2, Site(), "none", host="here")
        assert {(orphan.provider, orphan.id) for orphan in found} == {("local", marker)}
        assert alive(program.pid, started)
        assert end_orphans(found, Site()) >= 1
        until(lambda: not alive(program.pid, started), 5)
        assert other.poll() is None, "another driver's process"
    finally:
        assert end_carrying(MARKER, marker + "0") == 1
        other.wait(5)


def test_a_zombie_and_a_reused_number_count_as_dead() -> None:
    program = subprocess.Popen(["sleep", "60"])
    started = psutil.Process(program.pid).create_time()
    assert alive(program.pid, started)
    assert not alive(program.pid, started - 3600)
    program.kill()
    until(lambda: not alive(program.pid, started), 5)  # not waited for: a zombie until the next line
    program.wait()
    assert not alive(program.pid, started)
