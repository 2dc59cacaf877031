"""A job whose block ends is cut in time: its geometry is saved, its code has ended, and the block is to blame."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from crystals import silicon
from pymatgen.core import Lattice, Structure

from flows import job_limits
from flows.engines.abinit import AbinitEngine
from flows.engines.cp2k import Cp2kEngine
from flows.job_limits import BLOCK_ENDS, BLOCK_GRACE, Limits, block_seconds_left
from flows.run import build_label, run_job_once

SLOW = {"calculator": "troubled:Slow", "fmax_ev_per_ang": 0.01}
"""Takes more than half a second for each geometry."""
WORKER = (
    "import json, sys; from flows.run import run_job_once; "
    "run_job_once(json.load(open('job.json')), [], sys.argv[1])"
)


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a way to say when the jobs of this worker's block have to end."""

    def ends_in(seconds: float, grace_s: float = 10.0) -> None:
        monkeypatch.setenv(BLOCK_ENDS, repr(time.time() + seconds + grace_s))
        monkeypatch.setenv(BLOCK_GRACE, repr(grace_s))

    return ends_in


def compound() -> Structure:
    return Structure(Lattice.cubic(3.6), ["Ca", "Si"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def relaxation(structure: Structure) -> dict[str, Any]:
    found: dict[str, Any] = build_label(structure.as_dict(), "relax", "mlip", SLOW, {})["jobs"][0]["job"]
    return found


def geometries(folder: Path) -> int:
    """Return how many geometries all tries together have computed."""
    marks = folder / "geometries"
    return marks.stat().st_size if marks.exists() else 0


def left_running(folder: Path) -> list[str]:
    """Return the processes that still run in a job's folder."""
    found = []
    for one in psutil.process_iter():
        try:
            if one.cwd().startswith(str(folder)) and one.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{one.pid} {one.name()}")
        except psutil.Error:
            continue
    return found


def test_without_a_block_there_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BLOCK_ENDS, raising=False)
    assert block_seconds_left() is None
    monkeypatch.setenv(BLOCK_ENDS, "tomorrow")
    assert block_seconds_left() is None


def test_what_is_left_of_a_block_leaves_out_its_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BLOCK_ENDS, str(time.time() + 100))
    monkeypatch.delenv(BLOCK_GRACE, raising=False)
    assert block_seconds_left() == pytest.approx(70, abs=1)
    monkeypatch.setenv(BLOCK_GRACE, "10")
    assert block_seconds_left() == pytest.approx(90, abs=1)
    monkeypatch.setenv(BLOCK_ENDS, str(time.time() - 100))
    assert block_seconds_left() == 0.0


@pytest.mark.slow
def test_a_relaxation_goes_on_through_block_after_block(
    tmp_path: Path, block: Callable[[float], None]
) -> None:
    job, folder = relaxation(compound()), tmp_path / "a"
    whole = run_job_once(job, [], str(tmp_path / "whole"))
    assert whole["ok"], whole.get("failure")
    cuts = 0
    while True:
        block(2.0)
        result = run_job_once(job, [], str(folder), limits=Limits(seconds=60.0))
        if result["ok"]:
            break
        cuts += 1
        assert result["failure"]["cause"] == "walltime"
        assert result["failure"]["block_ended"]
        assert "the block ended" in result["failure"]["message"]
        assert result["geometries"] >= 1, "each block takes the relaxation further"
        assert result["wall_seconds"] < 5.0
        assert cuts < 30
    assert cuts >= 2
    energies = [one["docs"][0]["output"]["output"]["energy"] for one in (whole, result)]
    assert energies[1] == pytest.approx(energies[0], abs=2e-3)


def test_a_jobs_own_limit_is_not_the_blocks(tmp_path: Path, block: Callable[[float], None]) -> None:
    block(60.0)
    cut = run_job_once(relaxation(compound()), [], str(tmp_path / "a"), limits=Limits(seconds=1.0))
    assert cut["failure"]["cause"] == "walltime"
    assert not cut["failure"]["block_ended"]


def test_a_job_without_time_is_given_back_unbegun(
    tmp_path: Path, block: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_limits, "GIVE_BACK_S", 0.1)
    block(-1.0)
    job, folder = relaxation(compound()), tmp_path / "a"
    back = run_job_once(job, [], str(folder))
    assert (back["failure"]["cause"], back["failure"]["block_ended"]) == ("walltime", True)
    assert (back["wall_seconds"], back["core_hours"], back["geometries"]) == (0.0, 0.0, 0)
    assert geometries(folder) == 0


def test_a_finished_job_is_not_given_back(tmp_path: Path, block: Callable[[float], None]) -> None:
    job = build_label(compound().as_dict(), "static", "mlip", {"calculator": "lj"}, {})["jobs"][0]["job"]
    done = run_job_once(job, [], str(tmp_path / "a"))
    block(-1.0)
    assert run_job_once(job, [], str(tmp_path / "a")) == {**done, "reused": True}


def ended_by(number: signal.Signals, job: dict[str, Any], folder: Path, when: Callable[[], bool]) -> int:
    """Run a job in a worker of its own, send it a signal when a condition holds, and return its exit code."""
    folder.parent.mkdir(exist_ok=True)
    (folder.parent / "job.json").write_text(json.dumps(job))
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder)],
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    end = time.monotonic() + 60
    while not when():
        assert worker.poll() is None, "the worker ended by itself"
        assert time.monotonic() < end
        time.sleep(0.02)
    worker.send_signal(number)
    return worker.wait(timeout=30)


def test_sigterm_saves_the_geometry_and_ends_the_worker(tmp_path: Path) -> None:
    job, folder = relaxation(compound()), tmp_path / "b" / "a"
    code = ended_by(signal.SIGTERM, job, folder, lambda: geometries(folder) >= 4)
    assert code == -signal.SIGTERM, "as without a job"
    reached = Structure.from_dict(json.loads((folder / "last_geometry.json").read_text()))
    assert abs(reached.volume - compound().volume) > 1e-3
    kept = json.loads((folder / "failure-1.json").read_text())
    assert kept["failure"]["cause"] == "node_lost"


@pytest.mark.slow
def test_a_killed_relaxation_needs_fewer_steps_than_from_scratch(tmp_path: Path) -> None:
    """SIGKILL leaves no time to save anything: what counts is what was saved as it went."""
    # starts far from its minimum, so that it takes far longer than the geometry is saved apart
    far = Structure(Lattice.tetragonal(3.4, 5.6), ["Ca", "Si"], [[0, 0, 0], [0.5, 0.5, 0.43]])
    job, folder = relaxation(far), tmp_path / "b" / "a"
    assert run_job_once(job, [], str(tmp_path / "whole"))["ok"]
    scratch = geometries(tmp_path / "whole")
    saved = folder / "last_geometry.json"
    assert ended_by(signal.SIGKILL, job, folder, saved.exists) == -signal.SIGKILL
    before = geometries(folder)
    result = run_job_once(job, [], str(folder))
    assert result["ok"], result.get("failure")
    assert geometries(folder) - before < scratch


@pytest.mark.parametrize(
    ("engine", "works", "options"),
    [
        ("abinit", AbinitEngine().check().ok, {"preset": "precise", "kpts_per_inverse_ang": 4.0}),
        ("cp2k", Cp2kEngine().check().ok, {"preset": "precise", "kpts_per_inverse_ang": 4.0}),
    ],
)
def test_a_code_has_ended_with_the_time_of_its_block(
    engine: str, works: bool, options: dict[str, Any], tmp_path: Path, block: Callable[[float], None]
) -> None:
    if not works:
        pytest.skip(f"{engine} is not installed")
    built = build_label(silicon().as_dict(), "static", engine, options, {})
    folder = tmp_path / "a"
    block(6.0)
    cut = run_job_once(built["jobs"][0]["job"], [], str(folder))
    assert not cut["ok"], "the calculation was too short for this test"
    assert cut["failure"]["block_ended"], cut["failure"]
    assert cut["wall_seconds"] < 12.0
    assert any(folder.glob(f"{engine}.*")), "the code was running"
    assert left_running(folder) == []
