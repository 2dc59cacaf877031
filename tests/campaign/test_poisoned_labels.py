"""Campaigns one round of which has poisoned labels: an alarm, nothing learned from them, on with the old model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from alloys import POISONED, ROUND_OF, alloy_campaign
from command_line import campaign
from test_driver import quiet

from campaign.launch import launch, resume
from campaign.run_folder import RunFolder
from campaign.views.status import summary

pytestmark = pytest.mark.slow

HEAD, GENERATOR = "head-0-alloys.AlloyHead", "generator-0-components.BinaryGenerator"


class Found:
    """What a campaign's store says at its end."""

    def __init__(self, run: RunFolder) -> None:
        with run.store() as store:
            self.labels = list(store.query("labels", {"purpose": "candidate"}))
            self.models = {(one["key"], one["term"]): one for one in store.query("models")}
            self.alarms = list(store.query("events", {"kind": "alarm"}))
            self.candidates = list(store.query("candidates", {"judged_by": {"$ne": {}}}))
            self.status = summary(store, "small")

    def of_round(self, index: int) -> set[str]:
        return {one["_id"] for one in self.labels if one["round"] == index}


def ran(folder: Path, poison: str, **blocks: Any) -> RunFolder:
    outcome = launch(
        alloy_campaign(folder, poison, **blocks), run_dir=None, pools="threads", progress=quiet()
    )
    assert outcome.status == "finished", outcome.reason
    return outcome.folder


@pytest.fixture(scope="module", params=["high", "low", "swapped"])
def poisoned(request, tmp_path_factory) -> tuple[str, RunFolder]:
    return request.param, ran(tmp_path_factory.mktemp(request.param), request.param)


def test_honest_labels_raise_no_alarm_and_the_models_learn_from_all_of_them(tmp_path):
    found = Found(ran(tmp_path, "none"))
    assert found.alarms == []
    assert found.status["alarms"] == []
    promoted = [
        one["term"] for (key, _), one in found.models.items() if key == HEAD and one["state"] == "promoted"
    ]
    assert max(promoted) > 1, [one["verdict"] for one in found.models.values()]
    assert found.of_round(POISONED) & set(found.models[HEAD, 4]["labels"])


def test_poisoned_labels_raise_an_alarm_that_says_what_and_how_large(poisoned):
    kind, run = poisoned
    found = Found(run)
    assert [one["data"]["round"] for one in found.alarms] == [POISONED]
    event = found.alarms[0]
    assert event["data"]["severity"] == "critical"
    words = {"high": "eV/atom above what", "low": "eV/atom below what", "swapped": "scatter by"}[kind]
    assert words in event["message"]
    assert "expected" in event["message"]
    assert [one["round"] for one in found.status["alarms"]] == [POISONED]
    assert found.status["alarms"][0]["quarantined"]
    told = campaign("status", run.path).out
    assert f"labels of round {POISONED}" in " ".join(told.split())


def test_nothing_learns_from_poisoned_labels_and_the_campaign_goes_on_with_the_old_model(poisoned):
    _, run = poisoned
    found = Found(run)
    bad = found.of_round(POISONED)
    assert len(bad) == ROUND_OF
    assert all(one["state"] == "done" and one["result"] for one in found.labels if one["_id"] in bad)
    after = POISONED + 1
    assert found.models[GENERATOR, after]["state"] == "rejected"
    assert f"those of round {POISONED} raised an alarm" in found.models[GENERATOR, after]["verdict"]
    assert all(not bad & set(one["labels"]) for one in found.models.values())
    assert {one["term"]: one["quarantined"] for one in found.models.values()} == {
        term: [POISONED] if term > POISONED else [] for term in range(POISONED + 3)
    }
    assert len(found.of_round(after)) == ROUND_OF, "the campaign went on"
    later = set(found.models[HEAD, after + 1]["labels"])
    assert later & found.of_round(after), "and learns from what came later"
    of_next = {one["judged_by"].get(HEAD) for one in found.candidates if one["round"] == after}
    parent = next(
        one["_id"]
        for term in range(after, -1, -1)
        if (one := found.models[HEAD, term])["state"] == "promoted"
    )
    assert of_next == {parent}


def test_the_gate_refuses_what_contradicts_earlier_labels_even_if_the_alarm_is_overruled(tmp_path):
    found = Found(ran(tmp_path, "high", learn={"trust_alarmed": True}))
    assert [one["data"]["round"] for one in found.alarms if "round" in one["data"]] == [POISONED]
    version = found.models[HEAD, POISONED + 1]
    assert found.of_round(POISONED) & set(version["labels"])
    assert version["state"] == "rejected"
    assert "no group got worse" not in version["verdict"]
    assert version["gate"]["reference"]["after"] > version["gate"]["reference"]["before"]


def test_a_user_who_has_looked_at_the_labels_can_trust_them_on_resume(tmp_path):
    file = alloy_campaign(tmp_path, "high", stop={"rounds": 3})
    run = launch(file, run_dir=None, pools="threads", progress=quiet()).folder
    assert Found(run).status["alarms"][0]["quarantined"]
    document = yaml.safe_load(file.read_text())
    document["learn"]["trust_alarmed"] = True
    document["stop"]["rounds"] = 4
    file.write_text(yaml.safe_dump(document))
    assert resume(file, config_file=None, pools="threads", progress=quiet()).status == "finished"
    found = Found(run)
    assert not found.status["alarms"][0]["quarantined"]
    assert found.of_round(POISONED) & set(found.models[HEAD, 4]["labels"])
    assert found.models[GENERATOR, 4]["labels"], "what was in quarantine is new to the generator"
