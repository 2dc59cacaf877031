"""One job, in its folder: whole results are reused, torn ones are not, a kill costs nothing that was finished."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flow_jobs
import pytest

from flows import job_run
from flows.building import job_records
from flows.errors import JobFolderError
from flows.job_context import inside, job_folder
from flows.run import run_job_once

HERE = Path(__file__).resolve().parent


def one(job: Any) -> dict[str, Any]:
    [record] = job_records(job)
    document: dict[str, Any] = record["job"]
    return document


def output(result: dict[str, Any]) -> Any:
    assert result["ok"], result["failure"]
    [document] = result["docs"]
    return document["output"]


def test_a_result_is_plain_and_says_where_and_how_long(tmp_path: Path) -> None:
    result = run_job_once(one(flow_jobs.add(1, 2)), [], str(tmp_path / "a"))
    assert output(result) == 3
    assert json.loads(json.dumps(result)) == result
    assert result["pid"] == os.getpid()
    assert result["wall_seconds"] > 0
    assert 0 < result["core_hours"] <= result["wall_seconds"] * 256 / 3600
    assert result["started"] <= result["ended"]
    assert not result["reused"]


def test_a_whole_result_is_returned_without_running(tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = one(flow_jobs.add(1, 2, log=str(log)))
    first = run_job_once(job, [], str(tmp_path / "a"))
    second = run_job_once(job, [], str(tmp_path / "a"))
    assert flow_jobs.ticks(log) == 1
    assert second == {**first, "reused": True}


@pytest.mark.parametrize("torn", ["", "{", '{"ok": true}', '{"ok": false}', "[]", "null", "\x00" * 100])
def test_a_torn_result_does_not_count(tmp_path: Path, torn: str) -> None:
    log = tmp_path / "log"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text(torn)
    job = one(flow_jobs.add(1, 2, log=str(log)))
    assert output(run_job_once(job, [], str(tmp_path / "a"))) == 3
    assert run_job_once(job, [], str(tmp_path / "a"))["reused"]
    assert flow_jobs.ticks(log) == 1


def test_a_failure_is_kept_and_never_taken_for_a_result(tmp_path: Path) -> None:
    job = one(flow_jobs.fail("no energy today"))
    for count in (1, 2):
        result = run_job_once(job, [], str(tmp_path))
        assert not result["ok"]
        assert not result["reused"]
        assert result["failure"]["cause"] == "unknown"
        assert result["failure"]["message"] == "ValueError: no energy today"
        assert len(list(tmp_path.glob("failure-*.json"))) == count
    assert not (tmp_path / "result.json").exists()
    kept = json.loads((tmp_path / "failure-2.json").read_text())
    assert kept["failure"] == result["failure"]


def test_a_job_that_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    job = one(flow_jobs.add(1, 2))
    job["function"]["@callable"] = "no_such_function"
    result = run_job_once(job, [], str(tmp_path))
    assert not result["ok"]
    assert "no_such_function" in result["failure"]["message"]


def test_another_jobs_folder_is_refused(tmp_path: Path) -> None:
    run_job_once(one(flow_jobs.add(1, 2)), [], str(tmp_path))
    with pytest.raises(JobFolderError, match="another job's result"):
        run_job_once(one(flow_jobs.add(3, 4)), [], str(tmp_path))
    with pytest.raises(JobFolderError, match="must be absolute"):
        run_job_once(one(flow_jobs.add(3, 4)), [], "somewhere")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JobFolderError, match="cannot be used"):
        run_job_once(one(flow_jobs.add(1, 2)), [], str(tmp_path / "file" / "a"))


def test_a_full_disk_does_not_lose_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, result: dict[str, Any]) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(job_run, "write_result", full)
    result = run_job_once(one(flow_jobs.add(1, 2)), [], str(tmp_path))
    assert output(result) == 3
    assert "No space left" in result["not_kept"]


def test_two_at_once_run_it_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = one(flow_jobs.add(1, 2, log=str(log), sleep_s=0.3))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: run_job_once(job, [], str(tmp_path / "a")), range(4)))
    assert flow_jobs.ticks(log) == 1
    assert sorted(result["reused"] for result in results) == [False, True, True, True]


def test_the_working_directory_is_the_jobs_in_a_process_and_nobodys_in_a_thread(tmp_path: Path) -> None:
    before = Path.cwd()
    assert output(run_job_once(one(flow_jobs.where()), [], str(tmp_path / "a"))) == str(tmp_path / "a")
    assert Path.cwd() == before
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(run_job_once, one(flow_jobs.where()), [], str(tmp_path / "b")).result()
    assert output(result) == str(before)


def test_each_thread_has_its_own_job_folder(tmp_path: Path) -> None:
    barrier = threading.Barrier(4)

    def seen(name: str) -> Path:
        (tmp_path / name).mkdir()
        with inside(tmp_path / name):
            barrier.wait()
            return job_folder()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(seen, "abcd")) == [tmp_path / name for name in "abcd"]
    assert job_folder() == Path.cwd()


def _kill_when(condition: Any, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, "the worker ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_job_runs_again_exactly_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = one(flow_jobs.add(1, 2, log=str(log), sleep_s=1.5))
    (tmp_path / "job.json").write_text(json.dumps(job))
    code = (
        "import json, sys; from flows.run import run_job_once;"
        "run_job_once(json.load(open(sys.argv[1])), [], sys.argv[2])"
    )
    path = os.pathsep.join([str(HERE), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "job.json"), str(tmp_path / "a")],
        env={**os.environ, "PYTHONPATH": path},
    )
    _kill_when(lambda: flow_jobs.ticks(log) == 1, process)
    assert not (tmp_path / "a" / "result.json").exists()
    assert output(run_job_once(job, [], str(tmp_path / "a"))) == 3
    assert flow_jobs.ticks(log) == 2
    assert run_job_once(job, [], str(tmp_path / "a"))["reused"]
    assert flow_jobs.ticks(log) == 2


def test_whoever_comes_while_a_job_runs_elsewhere_gets_its_result(tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = one(flow_jobs.add(1, 2, log=str(log), sleep_s=1.0))
    context = multiprocessing.get_context("fork")
    process = context.Process(target=run_job_once, args=(job, [], str(tmp_path / "a")))
    process.start()
    deadline = time.monotonic() + 30
    while flow_jobs.ticks(log) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert run_job_once(job, [], str(tmp_path / "a"))["reused"]
    process.join()
    assert flow_jobs.ticks(log) == 1
