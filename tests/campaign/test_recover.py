"""`campaign recover`: what a dead driver left is told without a change, and set right as resume would do it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from command_line import campaign, start
from mistakes import slow, wait_until
from test_driver import Died, executions, labels_of, quiet, small_campaign

from campaign.actions import RunJob
from campaign.documents import LabelStatus
from campaign.failures import causes_of
from campaign.launch import launch
from campaign.lease import acquire
from campaign.recording import Recorder
from campaign.recover import recover
from campaign.retrying import retry_failed
from campaign.run_folder import RunFolder
from campaign.state import CampaignState
from campaign.storage.config import StoreConfig
from campaign.storage.schema import COLLECTIONS
from campaign.store import CampaignStore
from campaign.sweeping import Left, Trace, decide, sweep

HOUR = 3600.0


def everything(run: RunFolder) -> dict[str, Any]:
    with run.store() as store:
        return {name: sorted(store.query(name), key=lambda one: str(one["_id"])) for name in COLLECTIONS}


@pytest.fixture
def dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A campaign whose driver died when the second candidate's label was to be written down as done."""
    original, seen = CampaignStore.set_fields, []

    def write(
        store: CampaignStore, collection: str, name: str, fields: Mapping[str, Any], **options: Any
    ) -> bool:
        if collection == "labels" and fields.get("state") == LabelStatus.DONE:
            seen.append(name)
        if len(seen) >= 5 and collection != "meta":
            raise Died
        return original(store, collection, name, fields, **options)

    put = CampaignStore.put

    def put_unless_dead(store: CampaignStore, collection: str, document: Mapping[str, Any]) -> None:
        if len(seen) >= 5:
            raise Died
        put(store, collection, document)

    monkeypatch.setattr(CampaignStore, "set_fields", write)
    monkeypatch.setattr(CampaignStore, "put", put_unless_dead)
    with pytest.raises(Died):
        launch(small_campaign(tmp_path), run_dir=None, pools="threads", progress=quiet())
    monkeypatch.undo()
    return RunFolder(tmp_path / "small")


def test_a_dry_run_says_what_is_there_and_changes_nothing(dead: RunFolder):
    before = everything(dead)
    found = recover(dead.path, dry_run=True)
    assert everything(dead) == before
    assert found.state == "running"
    assert not found.live
    [claim] = found.claims
    [label] = [one for one in before["labels"] if one["state"] == "running"]
    assert label["_id"] in claim
    assert label["candidate_id"] in claim
    assert f"{label['formula']} " in claim
    assert len(found.results) == 1, "its last job's result lies in its folder"
    assert Path(found.results[0].partition(": ")[2], "result.json").is_file()
    assert len(found.blocks) == 1
    assert found.labels
    ran = campaign("recover", dead.path, "--dry-run")
    assert ran.code == 0, ran.err
    assert "labels set back: 1" in ran.out
    assert "nothing was changed" in ran.out
    assert everything(dead) == before
    assert json.loads(campaign("recover", dead.path, "--dry-run", "--json").out)["claims"] == found.claims


def test_recover_sets_right_what_it_told_and_resume_goes_on(dead: RunFolder, run: RunFolder, tmp_path: Path):
    told = recover(dead.path, dry_run=True)
    ran = campaign("recover", dead.path)
    assert ran.code == 0, ran.err
    assert told.claims[0] in ran.out
    with dead.store() as store:
        assert store.count("labels", {"state": "running"}) == 0
        assert store.count("blocks", {"state": {"$ne": "ended"}}) == 0
        stored = store.get("campaigns", "small")
        assert (stored["state"], stored["reason"]) == ("stopped", "its driver ended; recovered")
    again = recover(dead.path, dry_run=True)
    assert (again.claims, again.blocks, again.candidates) == ([], [], [])
    assert again.labels == told.labels
    assert campaign("resume", dead.path, "--pools", "threads").code == 0
    assert labels_of(dead) == labels_of(run)
    jobs = [one["folder"] for one in executions(tmp_path)]
    assert len(jobs) == len(set(jobs)) == 9, "the result that lay there was taken over"


def test_damage_is_told_before_it_is_mended(dead: RunFolder):
    text = dead.config_file.read_text()
    dead.config_file.write_text(text[:50])
    dead.stop_file.write_text("{")
    (dead.control / "retry-1-1.json").write_text("{")
    (dead.path / "reference" / "reference.parquet").write_bytes(b"")
    (dead.work / "foreign").mkdir()
    weights = sorted(dead.models.rglob("weights.json"))[-1]
    weights.write_text("{")
    [result] = recover(dead.path, dry_run=True).results
    words = " ".join(recover(dead.path, dry_run=True).files)
    for path in (dead.config_file, dead.stop_file, dead.control, dead.path / "reference", weights.parent):
        assert str(path) in words, path
    assert str(dead.work / "foreign") in words
    assert "result.json" not in words
    torn = Path(result.partition(": ")[2], "result.json")
    torn.write_text("{")
    assert str(torn) in " ".join(recover(dead.path, dry_run=True).files)


def test_a_live_driver_is_told_and_never_disturbed(dead: RunFolder):
    with dead.store(read_only=False) as store:
        lease = acquire(store, "small")
        before = everything(dead)
        found = recover(dead.path, dry_run=True)
        assert found.live
        assert f"process {os.getpid()}" in found.lease
        assert "drives it" in found.lease
        assert (found.claims, found.blocks) == ([], [])
        assert f"process {os.getpid()}" in campaign("recover", dead.path).error
        assert everything(dead) == before
        lease.release()


@pytest.mark.slow
def test_a_killed_driver_is_recovered_by_hand(tmp_path: Path, run: RunFolder):
    file = small_campaign(tmp_path, labels=slow(tmp_path))
    ours = RunFolder(tmp_path / "small")
    running = start("launch", file, "--pools", "processes")
    try:
        wait_until(lambda: len(executions(tmp_path)) >= 4, running)
    finally:
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    found = recover(file, dry_run=True)
    assert f"process {running.pid}" in found.lease
    assert "is dead" in found.lease
    assert found.claims
    assert len(found.blocks) == 1
    assert campaign("recover", file).code == 0
    again = recover(file, dry_run=True)
    assert (again.claims, again.blocks) == ([], [])
    assert again.lease == "nobody drives it"
    assert campaign("resume", file, "--pools", "threads").code == 0
    assert labels_of(ours) == labels_of(run)


def label(**fields: Any) -> dict[str, Any]:
    jobs = [{"uuid": name, "index": 1, "name": "relax", "parents": [], "state": state} for name, state in
            (("u", "running"), ("v", "done"))]  # fmt: skip
    document = {"_id": "a", "state": "running", "jobs": jobs, "attempts": [], "core_hours": 1.0,
                "structure": {"sites": [{}, {}]}}  # fmt: skip
    return {**document, **fields}


def driver(hours: float) -> dict[str, Any]:
    """A driver that was last seen after so many hours of 1970."""
    seen = f"1970-01-01T{int(hours):02d}:00:00+00:00"
    return {"_id": "d", "pool": "driver", "epoch": 1, "state": "running", "started": "1970-01-01T00:00:00+00:00",
            "seen": seen, "ended": None, "nodes": 1, "message": ""}  # fmt: skip


def swept(trace: Trace, cores: int | None = 4, **fields: Any) -> dict[str, Any]:
    left = Left(labels=[label(**fields)], traces={("a", "u", 1): trace}, blocks=[driver(5)])
    [(name, found)] = decide(left, cores=cores, current=9 * HOUR).labels
    assert name == "a"
    assert found["state"] == "queued"
    assert [job["state"] for job in found["jobs"]] == ["queued", "done"]
    return found


def test_a_try_that_its_driver_took_along_is_paid_for_and_forgiven():
    found = swept(Trace("f", begun=3 * HOUR))
    [attempt] = found["attempts"]
    assert attempt["core_hours"] == pytest.approx(2.0 * 4), "from its begin until its driver was last seen"
    assert found["core_hours"] == pytest.approx(9.0)
    assert (attempt["cause"], attempt["forgiven"]) == ("node_lost", "driver")
    assert (attempt["folder"], attempt["name"], attempt["n_atoms"]) == ("f", "relax", 2)
    assert causes_of(found["attempts"], "u", 1) == []


@pytest.mark.parametrize(
    "trace",
    [
        Trace("f"),
        Trace("f", begun=3 * HOUR, result=True),
        Trace("f", begun=3 * HOUR, held=True),
    ],
)
def test_a_try_that_did_not_begin_or_gave_its_result_or_still_runs_is_not_counted_as_lost(trace: Trace):
    assert "attempts" not in swept(trace)


def test_a_try_that_is_an_attempt_already_is_not_counted_again():
    before = [{"job": "u", "index": 1, "ended": "1970-01-01T03:30:00+00:00"}]
    assert "attempts" not in swept(Trace("f", begun=3 * HOUR), attempts=before)
    assert len(swept(Trace("f", begun=4 * HOUR), attempts=before)["attempts"]) == 2


def test_jobs_that_outlive_their_driver_are_not_counted_as_lost():
    assert "attempts" not in swept(Trace("f", begun=3 * HOUR), cores=None)


def test_jobs_of_a_failed_label_do_not_run_for_ever(tmp_path: Path):
    """One job was given up while another ran; without this a live driver that is asked to retry waits for ever."""
    jobs = [{"uuid": name, "index": 1, "name": "static", "parents": [], "state": state} for name, state in
            (("u", "running"), ("v", "done"), ("w", "failed"), ("x", "queued"))]  # fmt: skip
    failed = label(state="failed", jobs=jobs, purpose="follow_up", formula="CaSi", candidate_id="c",
                   failure={"cause": "unknown"})  # fmt: skip
    (tmp_path / "work" / "a" / "x-1").mkdir(parents=True)
    with CampaignStore.open(StoreConfig(), tmp_path) as store:
        store.put("labels", failed)
        found = sweep(store, tmp_path / "work", cores=4, remains={})
        assert (len(found.labels), found.adopted) == (1, [])
        swept = store.get("labels", "a") or {}
        assert swept["state"] == "failed"
        assert [job["state"] for job in swept["jobs"]] == ["queued", "done", "failed", "queued"]
        assert sweep(store, tmp_path / "work", cores=4, remains={}).labels == []
        assert retry_failed(store) == ["a"]
        again = store.get("labels", "a") or {}
    assert [job["state"] for job in again["jobs"]] == ["queued", "done", "queued", "queued"]


def test_a_job_that_ends_after_its_label_has_failed_does_not_label_the_candidate(tmp_path: Path):
    jobs = [{"uuid": name, "index": 1, "name": "static", "parents": [], "state": state} for name, state in
            (("u", "running"), ("w", "failed"))]  # fmt: skip
    failed = label(
        state="failed", jobs=jobs, purpose="candidate", formula="CaSi", candidate_id="c", round=0, rank=0
    )
    with CampaignStore.open(StoreConfig(), tmp_path) as store:
        store.put("labels", failed)
        store.put("flows", {"_id": "a", "jobs": jobs, "output_uuid": "w"})
        store.put("candidates", {"_id": "c", "state": "failed"})
        recorder = Recorder(store, "small", spec=None)  # type: ignore[arg-type]  # not asked here
        recorder.job_done(RunJob("", None, "a", "u", 1), {"docs": []}, CampaignState())
        assert [job["state"] for job in (store.get("labels", "a") or {})["jobs"]] == ["done", "failed"]
        assert (store.get("candidates", "c") or {})["state"] == "failed"


def test_candidates_get_the_state_of_their_label():
    owned = [{"_id": f"l{state}", "candidate_id": f"c{state}", "state": state} for state in
             ("queued", "running", "done", "failed")]  # fmt: skip
    left = Left(unsettled={f"c{one['state']}": "labelling" for one in owned}, owned=owned)
    states = {name: fields["state"] for name, fields in decide(left, cores=1, current=0.0).candidates}
    assert states == {"cqueued": "selected", "crunning": "selected", "cdone": "labelled", "cfailed": "failed"}
