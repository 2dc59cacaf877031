"""`campaign retry`: failed labels wait again, by cause, candidate or label, with and without a live driver."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
from command_line import campaign
from rich.console import Console
from test_driver import labels_of, quiet, small_campaign

from campaign.documents import LabelStatus
from campaign.errors import QueryError
from campaign.launch import launch
from campaign.lease import acquire
from campaign.retrying import Which, request_retry
from campaign.run_folder import RunFolder
from campaign.views.progress import Progress


def fragile(folder: Path) -> Path:
    """Write a campaign whose compounds of magnesium fail while FRAGILE is 1."""
    options = {
        "calculator": "components:Fragile",
        "calculator_options": {"log": str(folder / "executions.jsonl")},
    }
    return small_campaign(folder, labels={"engine_options": options})


@pytest.fixture
def failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A finished campaign with failed labels; the cause is mended."""
    monkeypatch.setenv("FRAGILE", "1")
    run = launch(fragile(tmp_path), run_dir=None, pools="threads", progress=quiet()).folder
    monkeypatch.setenv("FRAGILE", "0")
    return run


def failures(run: RunFolder) -> list[dict]:
    with run.store() as store:
        return list(store.query("labels", {"state": "failed"}))


def test_failed_labels_wait_again_and_resume_runs_them(failed: RunFolder):
    before = failures(failed)
    ran = campaign("retry", failed.path, "--failed")
    assert ran.code == 0, ran.err
    assert f"{len(before)} failed labels wait again" in ran.out
    assert "campaign resume" in ran.out
    assert failures(failed) == []
    with failed.store() as store:
        label = store.get("labels", before[0]["_id"])
        candidate = store.get("candidates", before[0]["candidate_id"])
    assert label["state"] == "queued"
    assert [one["cause"] for one in label["attempts"]] == ["unknown", "unknown"], "their history is kept"
    assert all(one["forgiven"] for one in label["attempts"])
    assert candidate["state"] == "selected"
    assert campaign("resume", failed.path, "--pools", "threads").code == 0
    assert len(labels_of(failed)) == 6
    for options in (["--failed"], ["--cause", "walltime"]):
        assert "nothing to try again" in campaign("retry", failed.path, *options).out
    assert "no label has failed" in campaign("retry", failed.path, "--cause", "bad luck").error


def test_labels_are_chosen_by_candidate_label_and_cause(failed: RunFolder):
    before = failures(failed)
    assert len(before) >= 2
    one, other = before[0], before[1]
    line = campaign("retry", failed.path, "--candidate", one["candidate_id"]).out
    assert line.startswith("1 failed label waits again")
    assert {label["_id"] for label in failures(failed)} == {label["_id"] for label in before} - {one["_id"]}
    campaign("retry", failed.path, "--label", other["_id"], "--cause", "unknown")
    assert other["_id"] not in {label["_id"] for label in failures(failed)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--cause", "out_of_memory"], ["of this cause", "out_of_memory", "unknown ("]),
        (["--candidate", "no-such"], ["of this candidate", "no-such", "allowed:"]),
        (["--label", "no-such"], ["with this id", "no-such", "allowed:"]),
        ([], ["--failed"]),
    ],
)
def test_what_there_is_not_is_told_in_one_line(failed: RunFolder, options: list[str], words: list[str]):
    before = failures(failed)
    line = campaign("retry", failed.path, *options).error
    for word in words:
        assert word in line
    assert failures(failed) == before


def test_a_live_driver_is_asked_and_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The request is made while the campaign runs; the command itself writes no document."""
    monkeypatch.setenv("FRAGILE", "1")
    file = fragile(tmp_path)
    said: list[str] = []

    class Asking(Progress):
        def on_change(self, state, busy):
            failed = [one for one in state.labels.values() if one.state == LabelStatus.FAILED]
            if failed and not said:
                monkeypatch.setenv("FRAGILE", "0")
                asking = threading.Thread(
                    target=lambda: said.append(request_retry(file, Which(labels=(failed[0].id,))))
                )
                asking.start()
                asking.join()

    outcome = launch(file, run_dir=None, pools="threads", progress=Asking(Console(), quiet=True))
    assert outcome.status == "finished"
    assert "asked the driver" in said[0]
    with outcome.folder.store() as store:
        events = [one["data"]["labels"] for one in store.query("events", {"kind": "retried"})]
        [name] = events[0]
        assert store.get("labels", name)["state"] == "done"
    assert list(outcome.folder.control.iterdir()) == []


def test_a_request_that_a_dead_driver_left_is_acted_on_by_the_next(failed: RunFolder):
    (failed.control / "retry-1-1.json").write_text(json.dumps(asdict(Which())))
    assert campaign("resume", failed.path, "--pools", "threads").code == 0
    assert len(labels_of(failed)) == 6


def test_a_torn_request_is_told_and_harms_nothing(failed: RunFolder):
    before = failures(failed)
    text = json.dumps(asdict(Which()))
    for number, torn in enumerate(
        ("", text[:9], text[:-1], "[]", '{"causes": 1, "candidates": [], "labels": []}')
    ):
        (failed.control / f"retry-{number}-1.json").write_text(torn)
    (failed.control / "retry-9-1.json").mkdir()
    assert campaign("resume", failed.path, "--pools", "threads").code == 0
    assert failures(failed) == before
    with failed.store() as store:
        assert store.count("events", {"kind": "request_ignored"}) == 6
    assert list(failed.control.iterdir()) == []


def test_who_holds_the_lease_is_not_disturbed(failed: RunFolder):
    with failed.store(read_only=False) as store:
        lease = acquire(store, "small")
        before = failures(failed)
        assert "asked the driver" in request_retry(failed.path, Which())
        assert failures(failed) == before, "only the driver writes"
        lease.release()


def test_a_request_names_lists_of_texts():
    for wrong in (None, [], {"causes": []}, {"causes": "x", "candidates": [], "labels": []}):
        with pytest.raises(ValueError, match="no "):
            Which.of(wrong)
    which = Which(("walltime",), ("a",), ("b",))
    assert Which.of(json.loads(json.dumps(asdict(which)))) == which
    with pytest.raises(QueryError, match="--failed"):
        from campaign.retrying import which_of

        which_of(False, (), (), ())
