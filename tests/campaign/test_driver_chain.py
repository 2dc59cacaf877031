"""A driver in batch jobs on a real Slurm cluster: each job hands over to the next until the campaign has ended."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import command_line
import mongo_server
import psutil
import pytest
import yaml
from command_line import campaign
from slurm_cluster import SlurmCluster
from test_detaching import slow_labels, state_of
from test_driver import executions, labels_of, small_campaign

from campaign import driver_job
from campaign.config import load_config
from campaign.driver_chain import Chain, ChainJob, drivers_in_vain, read_chain, submit_job, update_chain
from campaign.run_folder import RunFolder
from campaign.stopping import request_stop
from campaign.storage import credentials


@pytest.fixture
def cluster(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    for name, value in command_line.environment().items():
        monkeypatch.setenv(name, value)
    yield slurm
    slurm.cancel_all()


def batch_campaign(folder: Path, *, walltime: str = "10 min", partition: str = "main", **blocks) -> RunFolder:
    """Write a campaign whose driver runs in batch jobs, and launch it."""
    site = {"driver": {"partition": partition, "walltime": walltime, "memory_gb": 1}}
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    file = small_campaign(folder, site="site.yaml", **blocks)
    ran = campaign("launch", file, "--detach", "--pools", "threads")
    assert ran.code == 0, ran.err
    assert "will drive campaign small" in ran.out
    return RunFolder(folder / "small")


def chain_of(run: RunFolder) -> Chain:
    chain = read_chain(run)
    assert chain is not None
    return chain


@pytest.mark.slow
def test_a_campaign_that_outlasts_a_walltime_is_carried_on_by_the_next_job(cluster, tmp_path):
    run = batch_campaign(tmp_path, walltime="1 min", labels=slow_labels(tmp_path, 5.0))
    cluster.wait_for(lambda: len(cluster.live_jobs()) == 2, 60)
    told = campaign("status", run.path).out
    assert f"job {chain_of(run).jobs[0].id} runs; " in told
    assert "(Dependency)" in told
    cluster.wait_for(lambda: chain_of(run).ended is not None and not cluster.live_jobs(), 170)

    chain = chain_of(run)
    assert chain.ended == "campaign finished", run.driver_log.read_text()
    ends = [job.end for job in chain.jobs if job.began]
    assert (ends[0], ends[-1]) == ("walltime", "over")
    assert state_of(run) == "finished"
    assert len(labels_of(run)) == 6
    assert len(executions(tmp_path)) >= 9  # six labels and three elements; one that was cut runs again
    assert {job.name for job in cluster.jobs()[-len(chain.jobs) :]} == {"campaign-small"}


@pytest.mark.slow
def test_stop_ends_the_chain_whether_its_job_runs_or_waits(cluster, tmp_path):
    cluster.drain("n2")
    run = batch_campaign(tmp_path, partition="cpu", labels=slow_labels(tmp_path, 0.5), stop={"rounds": 90})
    waiting = chain_of(run).jobs[0].id
    assert f"job {waiting} waits" in campaign("status", run.path).out
    assert "has a driver: batch job" in campaign("resume", run.path, "--detach").error
    assert f"batch job {waiting} is cancelled" in campaign("stop", run.path).out
    assert cluster.job(waiting).state == "CANCELLED"

    cluster.undrain("n2")
    assert campaign("resume", run.path, "--detach", "--pools", "threads").code == 0
    cluster.wait_for(lambda: len(executions(tmp_path)) > 2, 60)
    running, successor = (job.id for job in chain_of(run).jobs)
    assert cluster.job(successor).reason == "Dependency"
    assert f"batch job {successor} is cancelled" in campaign("stop", run.path).out
    cluster.wait_for(lambda: not cluster.live_jobs())
    assert cluster.job(running).state == "COMPLETED"
    assert state_of(run) == "stopped"
    assert chain_of(run).ended == "stopped by `campaign stop`"


@pytest.mark.slow
def test_a_killed_driver_is_succeeded_and_drivers_that_die_young_end_the_chain(cluster, tmp_path):
    deadly = {"engine_options": {"calculator": "troubled:Deadly", "calculator_options": {}}}
    run = batch_campaign(tmp_path, labels=deadly)  # in threads the calculator's end is the driver's
    cluster.wait_for(lambda: chain_of(run).ended is not None and not cluster.live_jobs(), 120)
    chain = chain_of(run)
    assert "3 drivers in a row died within 60 s" in str(chain.ended)
    assert len(chain.jobs) == 4
    assert "no further batch job: 3 drivers in a row died" in run.driver_log.read_text()
    with run.store() as store:
        assert store.count("events", {"kind": "driver_chain_ended"}) == 1
    assert "no further one: 3 drivers" in " ".join(campaign("status", run.path).out.split())


@pytest.mark.slow
def test_a_chain_outlives_an_outage_at_a_hand_over(cluster, tmp_path):
    """The driver is killed while the server is away: its successor waits, and carries on."""
    binary = mongo_server.find_mongod()
    if binary is None:
        pytest.skip("no mongod")
    (tmp_path / "db").mkdir()
    server = mongo_server.start(binary, tmp_path / "db", mongo_server.free_port())
    try:
        store = {"kind": "mongodb", "uri": server.uri, "database": "small"}
        run = batch_campaign(tmp_path, labels=slow_labels(tmp_path, 0.5), store=store)
        cluster.wait_for(lambda: len(executions(tmp_path)) > 0, 120)
        mongo_server.kill(server)
        [driver] = [
            one for one in psutil.process_iter(["cmdline"])
            if {"campaign.driver_job", str(run.path)} <= set(one.info["cmdline"] or ())
        ]  # fmt: skip
        driver.kill()
        cluster.wait_for(lambda: "waiting for at most 12 h" in run.driver_log.read_text(), 120)
        server = mongo_server.start(binary, tmp_path / "db", server.port)
        cluster.wait_for(lambda: chain_of(run).ended is not None and not cluster.live_jobs(), 240)
        assert chain_of(run).ended == "campaign finished", run.driver_log.read_text()
        assert len(labels_of(run)) == 6
    finally:
        mongo_server.kill(server)


@pytest.mark.slow
def test_a_cancelled_driver_is_not_succeeded(cluster, tmp_path):
    run = batch_campaign(tmp_path, labels=slow_labels(tmp_path, 0.5), stop={"rounds": 90})
    cluster.wait_for(lambda: len(executions(tmp_path)) > 0, 60)
    cluster.cancel(chain_of(run).jobs[0].id)
    cluster.wait_for(lambda: chain_of(run).ended is not None and not cluster.live_jobs(), 60)
    assert "was cancelled" in str(chain_of(run).ended)


def test_drivers_that_got_somewhere_do_not_count_as_in_vain():
    crashed = [ChainJob(id=str(i), submitted="") for i in range(3)]
    ended = crashed[2].model_copy(update={"end": "walltime", "tasks": 2})
    assert drivers_in_vain(Chain(jobs=(*crashed, ChainJob(id="3", submitted=""))), "3") == 3
    assert drivers_in_vain(Chain(jobs=(*crashed[:2], ended, ChainJob(id="3", submitted=""))), "3") == 0
    too_short = ended.model_copy(update={"tasks": 0, "steady": True})
    assert drivers_in_vain(Chain(jobs=(*crashed[:2], too_short)), "9") == 3
    steady = crashed[1].model_copy(update={"steady": True})
    assert drivers_in_vain(Chain(jobs=(crashed[0], steady, crashed[2])), "9") == 1


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins for Slurm's commands: `queue` holds what squeue prints, `said` what was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "queue").touch()
    scripts = {
        "squeue": f"cat {folder}/queue",
        "scancel": f'echo "scancel $@" >> {folder}/said',
        "sbatch": f'env > {folder}/environment; echo "sbatch $@" >> {folder}/said; echo 8',
    }
    for name, line in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{line}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def chain_in(folder: Path, *jobs: ChainJob) -> RunFolder:
    """Return a run folder with the record of a chain."""
    run = RunFolder(folder / "small")
    update_chain(run, lambda _: Chain(jobs=jobs))
    return run


def test_a_successor_that_is_submitted_late_has_the_credentials_too(commands, tmp_path, monkeypatch):
    """A driver at work has taken them out of its environment, so that no worker inherits them."""
    monkeypatch.setattr(credentials, "_taken", {})
    monkeypatch.setenv("CHAIN_URI", "mongodb://me:secret@db/x")
    run = chain_in(tmp_path, ChainJob(id="7", submitted="today"))
    credentials.take_from_environment("env:CHAIN_URI")
    assert "CHAIN_URI" not in os.environ
    assert submit_job(run, after="7") == "8"
    assert "CHAIN_URI=mongodb://me:secret@db/x" in (commands / "environment").read_text().splitlines()
    assert "secret" not in (commands / "said").read_text()


def test_a_successor_that_slurm_did_not_take_is_submitted_again(commands, tmp_path, monkeypatch):
    monkeypatch.setattr(driver_job, "SUBMIT_AGAIN_S", 0.05)
    run = chain_in(tmp_path, ChainJob(id="7", submitted="today"))
    taken = (commands / "sbatch").read_text()
    counted = f"echo x >> {commands}/tries; [ $(wc -l < {commands}/tries) -lt 3 ] && exit 1\n"
    (commands / "sbatch").write_text(taken.replace("env >", counted + "env >"))
    driver_job._keep_submitting(run, "7", threading.Event())
    assert [job.id for job in chain_of(run).jobs] == ["7", "8"]
    assert (commands / "tries").read_text() == "x\n" * 3
    assert "--dependency=afterany:7" in (commands / "said").read_text()


AWAY = {"kind": "mongodb", "uri": "mongodb://127.0.0.1:1", "database": "small"}
"""A server that does not run."""


@pytest.fixture
def notice() -> Iterator[None]:
    """Block SIGUSR1, as the batch job does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    yield
    signal.sigtimedwait({signal.SIGUSR1}, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})


def waiting_chain(folder: Path, *jobs: ChainJob, **store: object) -> RunFolder:
    """Return a campaign whose server is away, and whose newest job begins just now."""
    run = chain_in(folder, *jobs, ChainJob(id="7", submitted="today"), ChainJob(id="8", submitted="today"))
    run.write_config(load_config(small_campaign(folder, store={**AWAY, **store})))
    return run


def test_stop_ends_the_chain_also_while_the_server_is_away(commands, tmp_path):
    """Otherwise the successor would begin, and forget the request."""
    run = waiting_chain(tmp_path)
    (commands / "queue").write_text(
        "7|RUNNING|2026-11-22T00:00:00|2026-11-22T04:00:00|None|campaign-small\n"
        "8|PENDING|N/A|N/A|Dependency|campaign-small\n"
    )
    told = request_stop(run.path, now=True)
    assert "cannot be known" in told
    assert "its batch job 8 is cancelled" in told
    assert chain_of(run).ended == "stopped by `campaign stop`"
    assert (commands / "said").read_text() == "scancel 8\n"
    assert run.stop_request() == "now"


@pytest.mark.usefixtures("notice")
@pytest.mark.slow
def test_a_driver_in_a_batch_job_waits_for_its_server(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(driver_job, "FIRST_LOOK_S", 0.1)
    binary = mongo_server.find_mongod()
    if binary is None:
        pytest.skip("no mongod")
    (tmp_path / "db").mkdir()
    port = mongo_server.free_port()
    run = waiting_chain(tmp_path, uri=f"mongodb://127.0.0.1:{port}")
    servers: list[mongo_server.MongoServer] = []
    later = threading.Timer(7.0, lambda: servers.append(mongo_server.start(binary, tmp_path / "db", port)))
    later.start()
    try:
        assert driver_job._wait_for_store(run, "7") is None
        assert servers
    finally:
        later.join()
        mongo_server.kill(servers[0])
    assert "waiting for at most 12 h: no answer from the MongoDB server" in capsys.readouterr().out


@pytest.mark.usefixtures("notice")
def test_a_driver_that_waits_for_its_server_hears_of_its_walltime_and_of_a_stop(tmp_path):
    run = waiting_chain(tmp_path)
    signal.raise_signal(signal.SIGUSR1)  # waits, as it is blocked
    assert driver_job._wait_for_store(run, "7") == ("away", None, 0)
    update_chain(run, lambda old: old.model_copy(update={"ended": "stopped"}))
    assert driver_job._wait_for_store(run, "7") == ("over", "stopped", 0)


@pytest.mark.usefixtures("notice")
def test_drivers_that_waited_in_vain_for_long_enough_end_the_chain(tmp_path):
    before = [
        ChainJob(id="5", submitted="", began="2026-01-01T00:00:00+00:00", end="away", tasks=0),
        ChainJob(id="6", submitted="", began="2026-01-01T06:00:00+00:00", end="away", tasks=0),
    ]
    run = waiting_chain(tmp_path, *before)
    assert drivers_in_vain(chain_of(run), "7") == 0, "they were not the fault"
    assert chain_of(run).waited_since("7") == before[0].began
    end, why, _ = driver_job._wait_for_store(run, "7")
    assert (end, why) == ("over", "the MongoDB server has not answered for 12 h")
    assert driver_job._wait_for_store(waiting_chain(tmp_path, outage_hours=0), "7") is None


def test_the_record_is_json_that_people_can_read(tmp_path):
    run = RunFolder(tmp_path)
    run.chain_file.parent.mkdir()
    run.chain_file.write_text(Chain(jobs=(ChainJob(id="12", submitted="today"),)).model_dump_json())
    assert json.loads(run.chain_file.read_text())["jobs"][0]["id"] == "12"
    run.chain_file.write_text("torn")
    assert read_chain(run) is None


@pytest.mark.slow
def test_a_driver_in_a_batch_job_labels_in_jobs_of_their_own_and_ends_them(cluster, tmp_path):
    site = {
        "start_timeout_s": 120,  # many clusters and tests may share the cores
        "address": "loopback",
        "pools": {"dft": {"provider": "slurm", "workers": 2, "walltime": "10 min"}},
        "driver": {"walltime": "30 min"},
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
    ran = campaign("launch", small_campaign(tmp_path, site="site.yaml", stop={"rounds": 1}), "--detach")
    assert ran.code == 0, ran.err
    run = RunFolder(tmp_path / "small")
    cluster.wait_for(lambda: chain_of(run).ended is not None and not cluster.live_jobs(), 300)
    assert chain_of(run).ended == "campaign finished", run.driver_log.read_text()
    chain = {job.id for job in chain_of(run).jobs}
    blocks = [job for job in cluster.jobs() if job.id not in chain and "-dft-" in job.name]
    assert blocks
    assert len(labels_of(run)) == 3
