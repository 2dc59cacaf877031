"""Further labels of candidates: conditions, the decision, and a whole campaign that makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_driver import executions, quiet, small_campaign

from campaign.actions import FollowUp, Judge
from campaign.config import parse_config
from campaign.documents import LabelStatus
from campaign.errors import ConfigError
from campaign.follow_ups import called_for, known_fields
from campaign.labels_config import FollowUpConfig, LabelsConfig
from campaign.launch import launch, resume
from campaign.plan import plan
from campaign.retrying import retry_failed
from campaign.run_folder import RunFolder
from campaign.state import CampaignState, LabelState
from campaign.store import CampaignStore, StoreConfig
from campaign.sweeping import sweep

ROOT = {"_id": "root", "state": "done", "result": {"e_above_hull": 0.03, "stable": False, "formula": "CaO"}}


def chain(**entries: str) -> dict[str, FollowUpConfig]:
    return {name: FollowUpConfig(when=when) for name, when in entries.items()}


def phonon(state: str = "done", **found: Any) -> dict[str, Any]:
    return {
        "step": "phonon",
        "state": state,
        "result": {"energy_per_atom": -1.0, "phonon": found, "elastic": None},
    }


def test_what_the_first_label_calls_for_is_made_first() -> None:
    then = chain(phonon="e_above_hull < 0.05", eos="e_above_hull < 0.01", elastic="phonon.dynamically_stable")
    assert called_for(then, ROOT, []) == (["phonon"], {})
    assert called_for(then, ROOT, [phonon("running")]) == ([], {})
    assert called_for(then, ROOT, [phonon(dynamically_stable=False)]) == ([], {})
    assert called_for(then, ROOT, [phonon(dynamically_stable=True)]) == (["elastic"], {})
    assert called_for(chain(eos=""), ROOT, []) == (["eos"], {})


def test_a_failed_label_calls_for_nothing_of_its_own() -> None:
    failed = {"step": "phonon", "state": "failed", "result": None}
    assert called_for(chain(phonon="", elastic="phonon.dynamically_stable"), ROOT, [failed]) == ([], {})


def test_values_that_do_not_fit_a_condition_are_told() -> None:
    names, odd = called_for(chain(eos="formula < 3", phonon="stable == false"), ROOT, [])
    assert names == ["phonon"]
    assert "compare" in odd["eos"]


def test_summaries_lie_under_the_name_of_their_label() -> None:
    found = known_fields(ROOT, [phonon(min_frequency_thz=0.1)])
    assert found["phonon"]["min_frequency_thz"] == 0.1
    assert found["phonon"]["energy_per_atom"] == -1.0
    assert found["e_above_hull"] == 0.03


def test_gaps_and_moments_can_be_asked_for() -> None:
    wanted = "electronic.band_gap_ev > 0.5 and electronic.total_moment_ub < 0.1"
    then = LabelsConfig(then=chain(electronic="", phonon=wanted)).then
    electronic = {
        "step": "electronic",
        "state": "done",
        "result": {"electronic": {"band_gap_ev": 0.6, "total_moment_ub": 0.0}},
    }
    assert called_for(then, ROOT, [electronic]) == (["phonon"], {})
    electronic["result"]["electronic"]["band_gap_ev"] = 0.0  # type: ignore[index]
    assert called_for(then, ROOT, [electronic]) == ([], {})


def test_an_entry_takes_over_what_it_leaves_out() -> None:
    labels = LabelsConfig(engine="mlip", engine_options={"calculator": "emt"}, then=chain(phonon=""))
    entry = labels.follow_up("phonon")
    assert (entry.flow, entry.engine, entry.engine_options) == ("phonon", "mlip", {"calculator": "emt"})
    other = LabelsConfig(
        engine_options={"preset": "fast"}, then={"quick": FollowUpConfig(flow="phonon", engine="mlip")}
    ).follow_up("quick")
    assert (other.flow, other.engine, other.engine_options) == ("phonon", "mlip", {})


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ({"phonon": {"when": "e_above_hull <"}}, "cannot be read"),
        ({"phonon": {"when": "e_above_hul < 0.05"}}, "did you mean 'e_above_hull'"),
        ({"phonon": {"when": "phonon.dynamically_stable"}}, "no label has a field"),
        ({"phonon": {"when": "elastic.born_stable"}}, "no label has a field"),
        ({"energy": {}}, "cannot name a further label"),
        ({"two words": {}}, "cannot name a further label"),
        ({"phonon": {"wen": ""}}, "wen"),
    ],
)
def test_mistakes_are_told_before_anything_runs(then: dict[str, Any], words: str) -> None:
    document = {
        "name": "small",
        "chemistry": {"elements": ["Ca", "Si"], "n_elements": 2},
        "labels": {"then": then},
    }
    with pytest.raises(ConfigError, match=words):
        parse_config(document, "campaign.yaml")


def label(name: str, state: LabelStatus, **fields: Any) -> LabelState:
    return LabelState(name, f"of-{name}", fields.pop("purpose", "candidate"), 0, 0, state, **fields)


def test_a_judged_label_is_asked_once_and_references_never() -> None:
    from test_plan import FREE, spec_with

    spec = spec_with(labels={"then": {"phonon": {}}})
    labels = [
        label("done", LabelStatus.DONE, judged=True),
        label("asked", LabelStatus.DONE, judged=True, followed=True),
        label("failed", LabelStatus.FAILED, judged=True),
        label("element", LabelStatus.DONE, judged=True, purpose="reference"),
        label("further", LabelStatus.DONE, judged=True, purpose="follow_up"),
        label("open", LabelStatus.QUEUED),
    ]
    state = CampaignState(references_known=True).with_labels(labels)
    (asked,) = [one for one in plan(state, spec, FREE, set()) if isinstance(one, FollowUp)]
    assert asked.labels == ("done", "failed", "further")
    assert not any(isinstance(one, FollowUp) for one in plan(state, spec_with(), FREE, set()))
    unjudged = CampaignState(references_known=True).with_labels([label("new", LabelStatus.DONE)])
    assert isinstance(plan(unjudged, spec, FREE, set())[0], Judge)


def test_a_candidate_is_known_by_its_first_label() -> None:
    first = LabelState("first", "one", "candidate", 0, 0, LabelStatus.DONE, judged=True)
    further = LabelState("further", "one", "follow_up", 0, 0, LabelStatus.QUEUED)
    state = CampaignState().with_labels([first, further])
    assert state.by_candidate == {"one": "first"}


def chained(folder: Path) -> Path:
    """Write a campaign whose candidates get up to two further labels."""

    def lennard_jones(sigma: float) -> dict[str, Any]:
        options = {"log": str(folder / "executions.jsonl"), "sigma": sigma}
        return {"calculator": "components:CountingLennardJones", "calculator_options": options}

    then = {
        "wide": {"flow": "static", "engine_options": lennard_jones(2.4), "when": "n_atoms > 0"},
        "wider": {"flow": "static", "engine_options": lennard_jones(2.6), "when": "wide.converged"},
        "never": {"flow": "static", "engine_options": lennard_jones(2.7), "when": "e_above_hull < -1e9"},
        "odd": {"flow": "static", "engine_options": lennard_jones(2.8), "when": "formula < 3"},
    }
    return small_campaign(folder, labels={"then": then})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Path]:
    folder = tmp_path_factory.mktemp("chain")
    outcome = launch(chained(folder), run_dir=None, pools="threads", progress=quiet())
    assert outcome.reason == "every round is complete"
    return outcome.folder, folder


def test_a_campaign_makes_the_further_labels_that_are_called_for(finished: tuple[RunFolder, Path]) -> None:
    run, _ = finished
    with run.store() as store:
        first = {one["_id"]: one for one in store.query("labels", {"purpose": "candidate"})}
        further = list(store.query("labels", {"purpose": "follow_up"}))
        candidates = list(
            store.query("candidates", {"label_id": {"$ne": None}}, fields=["_id", "state", "label_id"])
        )
        events = list(store.query("events", {"kind": "condition_failed"}))
    assert len(first) == 6
    assert sorted(one["step"] for one in further) == ["wide"] * 6 + ["wider"] * 6
    for one in further:
        root = first[one["parent"]]
        assert one["state"] == "done"
        assert one["candidate_id"] == root["candidate_id"]
        assert one["structure"] == root["result"]["structure"]
        assert one["settings_hash"] != root["settings_hash"]
        assert one["result"]["energy_per_atom"] != pytest.approx(root["result"]["energy_per_atom"])
        assert "e_above_hull" not in one["result"]
    assert {one["label_id"] for one in candidates} == set(first)
    assert {one["state"] for one in candidates} == {"labelled"}
    assert events


def test_models_learn_from_first_labels_only(finished: tuple[RunFolder, Path]) -> None:
    run, _ = finished
    with run.store() as store:
        first = {one["_id"] for one in store.query("labels", {"purpose": "candidate"})}
        learned = {name for one in store.query("models", {"term": 1}) for name in one["labels"]}
    assert learned
    assert learned <= first


def test_a_resume_finds_nothing_left_to_do(finished: tuple[RunFolder, Path]) -> None:
    run, folder = finished
    before = len(executions(folder))
    assert (
        resume(run.path, config_file=None, pools="threads", progress=quiet()).reason
        == "every round is complete"
    )
    assert len(executions(folder)) == before


def test_a_resume_keeps_candidates_to_their_first_labels(
    finished: tuple[RunFolder, Path], tmp_path: Path
) -> None:
    import shutil

    run, _ = finished
    copy = RunFolder(Path(shutil.copytree(run.path, tmp_path / "copy")))
    with CampaignStore.open(StoreConfig(), copy.path) as store:
        (one, *_) = store.query("labels", {"purpose": "candidate"})
        # As where a crash falls between the write of a label and that of its candidate.
        store.set_fields("candidates", one["candidate_id"], {"state": "labelling"})
        sweep(store, copy.work, cores=1, remains={})
        candidate = store.get("candidates", one["candidate_id"])
        assert candidate is not None
        assert (candidate["state"], candidate["label_id"]) == ("labelled", one["_id"])
        store.set_fields("labels", one["_id"], {"state": "failed", "followed": True})
        assert retry_failed(store) == [one["_id"]]
        again = store.get("labels", one["_id"])
        assert again is not None
        assert not again["followed"]
