"""`campaign doctor --site`: a worker of every pool describes itself, also behind the queue of a real Slurm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import command_line
import pytest
import yaml
from command_line import campaign
from slurm_cluster import SlurmCluster

from campaign.doctor import Check
from campaign.doctor_site import check_site, pool_rows
from campaign.parallel.preflight import probe
from campaign.parallel.survey import Survey, describe_worker


@pytest.fixture
def cluster(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    monkeypatch.setenv("PYTHONPATH", command_line.environment()["PYTHONPATH"])
    yield slurm
    slurm.cancel_all()


def slurm_site(folder: Path) -> Path:
    file = folder / "cluster.yaml"
    document = {
        "provider": "slurm",
        "address": "loopback",
        "batch": {"walltime": "10 min"},
        "pools": {
            "gpu": {"partition": "gpu", "gpus_per_node": 1, "accelerators": "auto"},
            "cpu": {"partition": "cpu", "workers": 1},
            "dft": {"partition": "cpu", "workers": 2},
        },
    }
    file.write_text(yaml.safe_dump(document))
    return file


def by_name(rows: list[Check]) -> dict[str, Check]:
    return {row.name: row for row in rows}


def answer(folder: Path, **changes: Any) -> dict[str, Any]:
    order = {"token_file": str(folder / "token"), "token": "x", "engines": False}
    (folder / "token").write_text("x")
    return {**describe_worker(order), **changes}


def test_an_unknown_site_is_a_row_not_an_error(tmp_path):
    (row,) = check_site("nowhere.yaml", tmp_path, 10, print)
    assert not row.ok
    assert "there is no such site" in row.found


@pytest.mark.slow
def test_the_local_site_answers(tmp_path):
    rows = by_name(check_site("local", tmp_path, 120, print))
    for pool in ("gpu", "cpu", "dft"):
        assert "worker" in rows[f"pool {pool}"].found
        assert rows[f"pool {pool}: run folders"].found == f"{tmp_path} is the same there"
    assert [row for row in rows.values() if not row.ok and not row.optional] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_workers_on_slurm_say_where_they_are_and_which_engines_they_have(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = by_name(check_site(slurm_site(tmp_path).name, tmp_path, 120, print))
    assert [row for row in rows.values() if not row.ok and not row.optional] == []
    assert "(node n1)" in rows["pool gpu"].found
    assert "(node n2)" in rows["pool dft"].found
    assert "2 workers" in rows["pool dft"].found
    assert rows["pool dft: engine mlip"].ok
    assert "pool cpu: engine mlip" not in rows
    assert rows["database on nodes"].found.startswith("not needed")
    cluster.wait_for(lambda: not cluster.live_jobs())


@pytest.mark.slow
def test_what_waits_in_the_queue_is_told_with_its_job_and_reason(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cluster.drain("n2")
    slurm_site(tmp_path)
    ran = campaign("doctor", "--site", "cluster.yaml", "--wait", "0.2")
    cluster.undrain("n2")
    assert ran.code == 1
    assert "pool dft: queued: job " in ran.err
    assert "waits (reason " in ran.err
    assert "no answer after" in " ".join(ran.out.split())
    cluster.wait_for(lambda: not cluster.live_jobs())


def test_a_folder_that_the_node_does_not_see_is_told(tmp_path):
    survey = Survey("dft", 3.0, answer(tmp_path, shared=False, node="n7"))
    rows = by_name(pool_rows(survey, probe(), 4, "as the site says", tmp_path))
    assert "4 workers (as the site says) on" in rows["pool dft"].found
    assert "(node n7)" in rows["pool dft"].found
    assert not rows["pool dft: run folders"].ok
    assert "share" in rows["pool dft: run folders"].cure


def test_a_token_of_another_disk_is_not_taken_for_ours(tmp_path):
    (tmp_path / "token").write_text("other")
    order = {"token_file": str(tmp_path / "token"), "token": "ours", "engines": False}
    assert not describe_worker(order)["shared"]
    assert not describe_worker({**order, "token_file": str(tmp_path / "nothing")})["shared"]


def test_other_versions_other_clocks_and_other_engines_are_told(tmp_path):
    there = answer(
        tmp_path, versions={**probe()["versions"], "numpy": "0.1"}, engines=[["engine gpaw", False, "no"]]
    )
    rows = by_name(pool_rows(Survey("dft", 3.0, there, clock_ahead_s=90.0), probe(), 1, "", tmp_path))
    assert not rows["pool dft: packages"].ok
    assert "'numpy': '0.1'" in rows["pool dft: packages"].found
    assert rows["pool dft: clock"].found == "+90 s"
    assert not rows["pool dft: clock"].ok
    assert not rows["pool dft: engine gpaw"].ok
    assert rows["pool dft: engine gpaw"].optional
