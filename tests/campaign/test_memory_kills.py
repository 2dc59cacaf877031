"""The kernel's counter of processes ended for want of memory: found wherever it lies, noted, and read by the driver."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from campaign.parallel import processes
from campaign.parallel.memory_kills import LATELY_S, KillNotes, noted_lately, oom_kills

EVENTS = "low 0\nhigh 0\nmax 12\noom 5\noom_kill {}\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
VMSTAT = "nr_free_pages 1\noom_kill {}\n"
STEP = "system.slice/slurmstepd.scope/job_7/step_0"


def written(folder: Path, files: dict[str, str]) -> int:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return oom_kills(folder / "proc", folder / "groups")


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        ({"proc/self/cgroup": f"0::/{STEP}\n", f"groups/{STEP}/memory.events": EVENTS.format(3)}, 3),
        ({"proc/self/cgroup": f"0::/{STEP}/task_0\n", f"groups/{STEP}/memory.events": EVENTS.format(4)}, 4),
        ({"proc/self/cgroup": "0::/\n", "groups/memory.events": EVENTS.format(5)}, 5),
        ({"proc/self/cgroup": "4:memory:/slurm/job_7\n2:cpu:/x\n0::/\n",
          "groups/memory/slurm/job_7/memory.oom_control": CONTROL.format(6)}, 6),
        ({"proc/self/cgroup": "4:memory:/host/name\n", "groups/memory/memory.oom_control": CONTROL.format(7)}, 7),
        ({"proc/self/cgroup": "4:memory:/\n", "groups/memory/memory.oom_control": "under_oom 0\n"}, 9),
        ({"proc/self/cgroup": "torn"}, 9),
        ({}, 9),
    ],
)  # fmt: skip
def test_the_counter_of_the_own_control_group_is_taken_before_that_of_the_machine(
    tmp_path: Path, files: dict[str, str], kills: int
) -> None:
    assert written(tmp_path, {"proc/vmstat": VMSTAT.format(9)} | files) == kills


def test_where_no_kernel_counts_there_were_none(tmp_path: Path) -> None:
    assert written(tmp_path, {}) == 0


def test_what_rises_while_a_block_runs_is_noted_and_known_for_a_moment(tmp_path: Path) -> None:
    counter, host = [4], platform.node()
    notes = KillNotes(tmp_path / "cpu", lambda: counter[0])
    notes.look()
    now = time.time()
    assert not noted_lately(tmp_path / "cpu", host, now), "what was before the block began is not its own"
    counter[0] = 6
    notes.look()
    assert noted_lately(tmp_path / "cpu", host, now)
    assert not noted_lately(tmp_path / "cpu", "another-node", now)
    assert not noted_lately(tmp_path / "dft", host, now)
    assert not noted_lately(tmp_path / "cpu", host, now + 2 * LATELY_S)
    text = next((tmp_path / "cpu").iterdir()).read_text()
    notes.look()
    assert next((tmp_path / "cpu").iterdir()).read_text() == text


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's counters are Linux's")
def test_a_warden_keeps_the_notes_of_its_node_in_the_pools_folder(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "cpu"
    command = processes.warden_command("true", folder=str(folder), here=False)
    parent = Path(processes.__file__).resolve().parents[2]
    ended = subprocess.run(
        ["/bin/sh", "-c", command], env={**os.environ, "PYTHONPATH": str(parent)}, timeout=30, check=False
    )
    assert ended.returncode == 0
    assert [file.name for file in folder.iterdir()] == [f"oom-kills-{platform.node()}"]
