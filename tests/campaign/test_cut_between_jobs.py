"""A driver that dies after every single job of a phonon label: what is left runs, what is done never runs again.

Each driver is a process of its own that ends at once, without a word, just before or just after it writes down that a
job of the label is done; the next one resumes. Every execution of a job, by whichever driver, leaves a line.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from test_driver import quiet, small_campaign

from campaign.launch import launch, resume
from campaign.recording import Recorder
from campaign.run_folder import RunFolder
from flows import job_run

CUT = 77
"""Exit status of a driver that was cut off."""
MOST_DRIVERS = 40
HEAVY = ("atomate2.common.jobs.phonons", "flows.engines.ase_maker", "flows.phonon_jobs", "torch")
"""What every driver would import anew; as children of a process that has imported it, they find it there."""


def phonon_campaign(folder: Path) -> Path:
    """Write a campaign of one candidate whose static label calls for phonons; one label job runs at a time."""
    (folder / "site.yaml").write_text("name: one\npools: {dft: {workers: 1}}\n")
    lennard_jones = {
        "calculator": "lj",
        "calculator_options": {"sigma": 2.5, "epsilon": 0.3, "rc": 6.0, "smooth": True},
        "fmax_ev_per_ang": 0.02,
    }
    phonon = {
        "flow_options": {"min_supercell_ang": 5.0, "q_points_per_inverse_ang": 1.0, "symprec_ang": 0.1},
    }
    return small_campaign(
        folder,
        site="site.yaml",
        acquisition={"candidates_per_round": 4, "labels_per_round": 1},
        labels={"engine_options": lennard_jones, "then": {"phonon": phonon}},
        stop={"rounds": 1},
    )


def executions(folder: Path) -> Counter[str]:
    """Return how often each job was executed, by its folder."""
    log = folder / "executed"
    return Counter(log.read_text().splitlines()) if log.exists() else Counter()


def driven(folder: Path, file: Path, when: str) -> None:
    """Drive the campaign until a job of a further label is done, in a process of its own."""
    run_job, job_done = job_run._run, Recorder.job_done

    def noted(job: Any, upstream: Any, work_dir: Path) -> Any:
        with (folder / "executed").open("a") as log:
            log.write(f"{work_dir.parent.name}/{work_dir.name}\n")
        return run_job(job, upstream, work_dir)

    def cut_off(recorder: Recorder, action: Any, result: Any, state: Any) -> Any:
        further = state.labels[action.label].purpose == "follow_up"
        if further and when == "before it is written":
            # A driver that finds the job done by an earlier one writes it down and goes on to the next.
            if not result["reused"]:
                os._exit(CUT)
            return job_done(recorder, action, result, state)
        after = job_done(recorder, action, result, state)
        if further:
            os._exit(CUT)
        return after

    job_run._run = noted
    Recorder.job_done = cut_off  # type: ignore[method-assign]
    begin = {"run_dir": None} if not (folder / "small").exists() else {"config_file": None}
    outcome = (launch if "run_dir" in begin else resume)(file, pools="threads", progress=quiet(), **begin)  # type: ignore[operator]
    os._exit(0 if outcome.status == "finished" else 1)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before it is written", "after it is written"])
def test_each_job_of_a_phonon_label_runs_once_however_often_the_driver_dies(
    tmp_path: Path, when: str
) -> None:
    # not children of this process itself, whose other threads may hold locks while it forks
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(HEAVY))
    file = phonon_campaign(tmp_path)
    cuts, counts = 0, []
    for _ in range(MOST_DRIVERS):
        driver = context.Process(target=driven, args=(tmp_path, file, when))
        driver.start()
        driver.join(120)
        if driver.exitcode is None:
            driver.kill()
        counts.append(sum(executions(tmp_path).values()))
        if driver.exitcode != CUT:
            break
        cuts += 1
    assert driver.exitcode == 0
    with RunFolder(tmp_path / "small").store() as store:
        labels = list(store.query("labels"))
        outputs = {f"{one['uuid']}-{one['index']}" for one in store.query("jobs", fields=["uuid", "index"])}
    [phonon] = [label for label in labels if label["purpose"] == "follow_up"]
    assert phonon["state"] == "done"
    assert phonon["result"]["phonon"]["n_displacements"] >= 1
    # Every cut-off came after another job: each driver but the first ran exactly one more.
    jobs = [f"{job['uuid']}-{job['index']}" for job in phonon["jobs"]]
    assert cuts == len(jobs) >= 8
    assert {later - earlier for earlier, later in pairwise(counts[:cuts])} == {1}
    # Every job of every label has run once, and its output is there.
    wanted = {f"{label['_id']}/{job['uuid']}-{job['index']}" for label in labels for job in label["jobs"]}
    assert executions(tmp_path) == Counter(dict.fromkeys(wanted, 1))
    assert {name.partition("/")[2] for name in wanted} <= outputs
    tries = Counter(f"{one['job']}-{one['index']}" for one in phonon["attempts"])
    assert tries == Counter(dict.fromkeys(jobs, 1))
    assert all(one["reused"] == (when == "before it is written") for one in phonon["attempts"])
