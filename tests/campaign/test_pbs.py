"""PBS: what a block's script asks for, and what the commands' answers mean. The commands themselves are stood in for.

No PBS runs here: these tests hold the texts that go to it and come from it, as its manual gives them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from parsl.jobs.states import JobState

from campaign.errors import SiteError
from campaign.parallel.pbs import PbsQueue, parse_jobs
from campaign.parallel.providers import Systems, provider_of
from campaign.parallel.queues import QueueSilentError, SubmissionError
from campaign.site import Site, size_pools

DFT = {
    "partition": "workq",
    "account": "p1",
    "nodes_per_block": 2,
    "workers": 4,
    "cores_per_worker": 8,
    "walltime": "12 h",
    "memory_gb_per_node": 64,
    "exclusive": True,
    "scheduler_options": ["-l filesystems=home"],
}
SITE = Site.model_validate(
    {"provider": "pbs", "pools": {"dft": DFT, "gpu": {"gpus_per_node": 4, "accelerators": "auto"}}}
)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins for PBS's commands; each notes its words."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, printed in {"qsub": "1234.server", "qselect": "", "qstat": "{}", "qdel": ""}.items():
        stand_in(folder, name, f"echo '{printed}'")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def stand_in(folder: Path, name: str, line: str) -> None:
    (folder / name).write_text(f'#!/bin/bash\necho "{name} $@" >> {folder}/said\n{line}\n', encoding="utf-8")
    (folder / name).chmod(0o755)


def test_a_block_asks_pbs_for_what_the_site_says(commands: Path, tmp_path: Path) -> None:
    sizes = size_pools(SITE, 2, ())
    provider = provider_of("dft", Systems(SITE), sizes["dft"], identity="abc", marker="1-2-0")
    provider.script_dir = str(tmp_path)
    assert provider.submit("exec manager", 1) == "1234.server"
    (script,) = tmp_path.glob("cg-abc-dft-1-2-0.*")
    lines = script.read_text().splitlines()
    for expected in (
        "#PBS -N cg-abc-dft-1-2-0", "#PBS -q workq", "#PBS -A p1", "#PBS -l walltime=12:00:00", "#PBS -r n",
        "#PBS -l select=2:ncpus=32:mem=64gb", "#PBS -l place=scatter:excl", "#PBS -l filesystems=home",
    ):  # fmt: skip
        assert expected in lines
    assert lines.index("#PBS -r n") < lines.index("set -e")
    assert lines[-1] == "exec mpiexec -n 2 /bin/bash -c 'exec manager'"
    assert (commands / "said").read_text() == f"qsub {script}\n"
    assert script.stat().st_mode & 0o777 == 0o700
    gpu = PbsQueue().header("cg-abc-gpu-1", SITE.pools.gpu, sizes["gpu"], tmp_path / "x")
    assert "#PBS -l select=1:ncpus=4:ngpus=4" in gpu


def test_a_refusal_is_told_in_pbs_own_words(commands: Path, tmp_path: Path) -> None:
    stand_in(commands, "qsub", "echo 'qsub: Unknown queue' >&2; exit 170")
    with pytest.raises(SubmissionError, match=r"^Unknown queue$") as caught:
        PbsQueue().submit(tmp_path / "script", "name")
    assert not caught.value.passing
    stand_in(commands, "qsub", "echo 'Connection refused, qsub: cannot connect to server' >&2; exit 1")
    with pytest.raises(SubmissionError) as caught:
        PbsQueue().submit(tmp_path / "script", "name")
    assert caught.value.passing


def test_jobs_are_read_and_those_that_left_the_list_are_not_there() -> None:
    printed = {
        "Jobs": {
            "1.server": {"Job_Name": "cg-a-dft-1", "job_state": "R", "stime": "Sat Nov 22 00:00:00 2025"},
            "2.server": {"Job_Name": "cg-a-dft-2", "job_state": "Q", "comment": "Not Running: no nodes"},
        }
    }
    jobs = parse_jobs(json.dumps(printed), ["1.server", "2.server", "3.server"])
    assert {key: job.state for key, job in jobs.items()} == {"1.server": "running", "2.server": "queued"}
    assert jobs["1.server"].started
    assert jobs["2.server"].message == "Not Running: no nodes"
    assert parse_jobs("{}", ["1.server"]) == {}, "an answer that can be read and names no job"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("exit 1", "cannot be read: nothing"),
        ("echo '[1]'", r"cannot be read: \[1\]"),
        ("""echo '{"Jobs": {"1234.server": {"job_state": "R"'""", "cannot be read"),
        ("echo '{}'; echo 'qstat: cannot connect to server' >&2; exit 111", "cannot connect to server"),
    ],
)
def test_a_qstat_that_fails_ends_no_block(commands: Path, tmp_path: Path, line: str, words: str) -> None:
    """`qselect` names the job, so what `qstat` does not say of it is not known."""
    size = size_pools(SITE, 2, ())["dft"]
    provider = provider_of("dft", Systems(SITE), size, identity="abc", marker="1-2-0")
    provider.script_dir = str(tmp_path)
    job_id = provider.submit("exec manager", 1)
    provider._jobs[job_id].submitted -= 60  # long ago: one that had left the list has ended
    stand_in(commands, "qselect", f"echo {job_id}")
    stand_in(commands, "qstat", line)
    with pytest.raises(QueueSilentError, match=words):
        PbsQueue().jobs()
    assert [one.state for one in provider.status([job_id])] == [JobState.PENDING]
    stand_in(commands, "qstat", "echo '{}'")
    assert [one.state for one in provider.status([job_id])] == [JobState.COMPLETED]


def test_without_pbs_here_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SiteError, match="PBS's commands are not here"):
        PbsQueue()
