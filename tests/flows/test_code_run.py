"""Codes that run as programs of their own end with their worker, and tell how they ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.causes import MissingSetupError, classify
from flows.engines.code_run import answer_of, crash_of, launched, run_code, words_of
from flows.job_context import cores_held
from flows.schemas import FailureCause

NAP = "100"
"""Seconds that no test waits for."""


def sleeping(parent: int) -> list[psutil.Process]:
    return [
        one
        for one in psutil.Process(parent).children(recursive=True)
        if one.name() == "sleep" and one.is_running()
    ]


def wait_for(question: object, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if question():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def test_what_a_code_prints_is_its_log(tmp_path: Path) -> None:
    run_code(["sh", "-c", "echo threads $OMP_NUM_THREADS; echo oops >&2; cat"], tmp_path, "log")
    said = (tmp_path / "log").read_text().split()
    assert said[0] == "threads"
    assert int(said[1]) >= 1
    assert said[2:] == ["oops"]  # and standard input was closed, or cat would still wait


def test_a_code_may_read_its_input(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("hello")
    run_code(["cat"], tmp_path, "log", read="in")
    assert (tmp_path / "log").read_text() == "hello"


@pytest.mark.skipif(
    shutil.which("setpriv") is None, reason="no setpriv (util-linux): Linux alone ends orphans"
)
def test_a_code_ends_with_a_killed_worker(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from flows.engines.code_run import run_code; "
        f"run_code(['sleep', '{NAP}'], Path('.'), 'log')"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert wait_for(lambda: sleeping(worker.pid))
    (nap,) = sleeping(worker.pid)
    worker.kill()
    worker.wait()
    assert wait_for(lambda: not nap.is_running() or nap.status() == psutil.STATUS_ZOMBIE)


def test_a_code_and_what_it_started_end_when_the_job_is_interrupted(tmp_path: Path) -> None:
    class OverError(Exception):
        pass

    def over(*_: object) -> None:
        raise OverError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(OverError):
            run_code(["sh", "-c", f"sleep {NAP} & sleep {NAP}"], tmp_path, "log")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert wait_for(lambda: not sleeping(os.getpid()))


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("kill -9 $$", FailureCause.OUT_OF_MEMORY),
        ("echo 'Cannot allocate memory'; exit 1", FailureCause.OUT_OF_MEMORY),
        ("kill -11 $$", FailureCause.CODE_CRASHED),
        ("echo 'wrong input'; exit 14", FailureCause.CODE_CRASHED),
    ],
)
def test_how_a_code_ended_has_its_cause(script: str, cause: FailureCause, tmp_path: Path) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as raised:
        run_code(["sh", "-c", script], tmp_path, "log")
    assert classify(raised.value) == cause


def test_launchers_tell_of_a_signal_by_a_status() -> None:
    assert isinstance(crash_of(["mpirun", "abinit"], 137, ""), MemoryError)
    assert str(crash_of(["mpirun", "abinit"], 139, "end")) == "mpirun ended by signal 11: end"


def test_a_program_that_is_not_here_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no program 'no-such-code'") as raised:
        run_code(["no-such-code", "in"], tmp_path, "log")
    assert classify(raised.value) == FailureCause.MISSING_SETUP
    assert answer_of(("no-such-code", "--version")) == ""


def test_launch_lines_are_read_as_a_shell_reads_them() -> None:
    assert words_of("mpirun -n 4 '/opt/my codes/abinit'") == ("mpirun", "-n", "4", "/opt/my codes/abinit")
    assert answer_of(("echo", "9.6.2")) == "9.6.2\n"


def test_ranks_of_the_pool_start_before_a_command_that_has_no_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert launched(["abinit", "in"]) == ["abinit", "in"]
    monkeypatch.setenv("CAMPAIGN_MPI_PREFIX", "env FROM_POOL=yes")
    monkeypatch.setenv("CAMPAIGN_MPI_RANKS", "4")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert launched(["/opt/bin/mpirun", "-n", "2", "abinit"]) == ["/opt/bin/mpirun", "-n", "2", "abinit"]
    run_code(["sh", "-c", "echo $FROM_POOL $OMP_NUM_THREADS"], tmp_path, "said")
    assert (tmp_path / "said").read_text() == "yes 2\n"
    assert cores_held() == 8


def test_a_launcher_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMPAIGN_MPI_PREFIX", "no-such-srun -n 4")
    with pytest.raises(MissingSetupError, match="no-such-srun"):
        run_code(["true"], tmp_path, "said")
