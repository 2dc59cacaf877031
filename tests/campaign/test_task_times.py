"""What the driver expects of its tasks: by their kind and size, from labels' attempts and its own measurements."""

from __future__ import annotations

import pytest
from test_driver import quiet, small_campaign

from campaign.actions import BuildLabel, RunJob, Sample, Score, Screen, Train
from campaign.launch import launch, resume
from campaign.task_times import (
    TaskTimes,
    job_kind,
    kind_and_size,
    observation_of,
    observations,
    used_in_vain_s,
)

LABEL = {"step": None}


def attempt(seconds, cause=None, **more):
    one = {"job": "a", "index": 1, "name": "relax 1/2", "n_atoms": 4, "cause": cause, "wall_seconds": seconds}
    return {**one, "geometries": 0, "reused": False, "block_ended": False, **more}


def test_jobs_of_one_kind_are_found_without_their_numbers():
    assert job_kind(LABEL, "relax 3/12") == "job/first/relax"
    assert job_kind({"step": "eos"}, "volume 0.94") == "job/eos/volume"
    assert job_kind(LABEL, "3/12") == "job/first/3/12"


def test_a_relaxation_that_went_on_took_the_time_of_all_its_tries():
    tries = [
        attempt(100.0, "walltime", geometries=5),
        attempt(70.0, "node_lost", geometries=1),
        attempt(30.0),
    ]
    found = observation_of(LABEL, tries)
    assert (found.seconds, found.whole, found.size) == (130.0, True, 4)


def test_a_cut_try_says_that_it_takes_longer():
    found = observation_of(LABEL, [attempt(100.0, "walltime")])
    assert (found.seconds, found.whole) == (100.0, False)


@pytest.mark.parametrize(
    "last",
    [attempt(5.0, "unknown"), attempt(5.0, "node_lost"), attempt(5.0, reused=True), attempt(0.0, "walltime"),
     {"job": "a", "index": 1, "cause": None, "wall_seconds": 9.0}],
)  # fmt: skip
def test_what_says_nothing_teaches_nothing(last):
    assert observation_of(LABEL, [last]) is None


def test_each_attempt_of_a_label_is_told_once():
    attempts = [
        attempt(100.0, "walltime", geometries=2),
        attempt(30.0),
        {**attempt(9.0), "job": "b", "name": "static"},
    ]
    found = observations({**LABEL, "attempts": attempts})
    assert [(one.kind, one.seconds, one.whole) for one in found] == [
        ("job/first/relax", 100.0, False), ("job/first/relax", 130.0, True), ("job/first/static", 9.0, True),
    ]  # fmt: skip


def test_only_blocks_in_which_nothing_was_reached_were_in_vain():
    tries = [
        attempt(900.0, "walltime", block_ended=True, geometries=3),
        attempt(50.0, "walltime", block_ended=True),
    ]
    assert used_in_vain_s(tries) == 50.0
    assert used_in_vain_s([]) == 0.0


def test_every_task_has_a_kind():
    for action in (Sample("a"), Screen("b"), Score("c"), Train("d"), BuildLabel("e")):
        assert kind_and_size(action)[0]


@pytest.mark.slow
def test_a_campaign_learns_its_times_and_knows_them_when_it_is_resumed(tmp_path):
    file = small_campaign(tmp_path, stop={"rounds": 1})
    outcome = launch(file, run_dir=None, pools="threads", progress=quiet())
    config = outcome.folder.config()
    with outcome.folder.store() as store:
        campaign = store.get("campaigns", config.name)
        [label, *_] = store.query("labels", {"purpose": "candidate"})
        fresh, learned = TaskTimes.of(store, config, {}), TaskTimes.of(store, config, campaign)
        job = label["jobs"][0]
        action = RunJob("x", label=label["_id"], job=job["uuid"], index=job["index"])
        told = fresh.expected_s(action)
    assert {kind.partition("/")[0] for kind in campaign["durations"]} == {
        "sample",
        "screen",
        "score",
        "train",
        "build",
    }
    screens = Screen("y", segment=0, ids=("a", "b"))
    assert learned.expected_s(screens) < fresh.expected_s(screens) / 5, "measured in milliseconds"
    assert 0 < told < 10, "labels tell their own times, whatever the campaign's document says"
    small_campaign(tmp_path, stop={"rounds": 2})
    outcome = resume(file, config_file=None, pools="threads", progress=quiet())
    with outcome.folder.store() as store:
        later = store.get("campaigns", config.name)["durations"]
    counts = [document["screen/0"]["sums"][0] for document in (campaign["durations"], later)]
    assert counts[1] > counts[0] > 0
