"""Whole campaigns with a ladder of three rungs: who climbs, when, at what cost, and what the verdicts are made of."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from invariants import violations
from pymatgen.core import Composition
from test_driver import executions, quiet, small_campaign

from campaign.acquisition.verdicts import climbed_results
from campaign.components import spec_of
from campaign.errors import ConfigError
from campaign.launch import launch, resume
from campaign.retrying import retry_failed
from campaign.run_folder import RunFolder
from campaign.store import CampaignStore, StoreConfig
from campaign.views.export import export
from campaign.views.status import result_rows, summary

CORE_HOURS = {"precise": 0.0007, "finest": 0.0007, "sound": 0.005}
"""What labels of eight atoms are expected to take on each rung; a first label takes the engine's 0.001."""


def engine(folder: Path, sigma: float, calculator: str = "CountingLennardJones") -> dict[str, Any]:
    options = {"log": str(folder / "executions.jsonl"), "sigma": sigma, "epsilon": 0.03}
    return {"calculator": f"components:{calculator}", "calculator_options": options}


def with_ladder(folder: Path, first: str = "n_atoms > 0", **labels: Any) -> Path:
    """Write a campaign whose candidates may climb three rungs, the first two of them judged."""
    rungs = [
        {"name": "precise", "judge": True, "engine_options": engine(folder, 2.45), "when": first},
        {"name": "finest", "judge": True, "engine_options": engine(folder, 2.42), "when": "precise.stable"},
        {"name": "sound", "engine_options": engine(folder, 2.4), "when": "finest.e_above_hull < -0.1"},
    ]
    ladder = [{**rung, "flow": "static", "core_hours": CORE_HOURS[str(rung["name"])]} for rung in rungs]
    then = {"after": {"flow": "static", "engine_options": engine(folder, 2.3), "when": "sound.converged"}}
    said = {
        "then": then,
        "ladder": ladder,
        "ladder_costs": "estimated",
        "ladder_lag_rounds": 0,
        "stable_ev_per_atom": 0.01,
    }
    return small_campaign(
        folder,
        labels={**said, "engine_options": engine(folder, 2.5), **labels},
        acquisition={"lookahead_rounds": 0},
        stop={"rounds": 4},
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Path]:
    folder = tmp_path_factory.mktemp("ladder")
    outcome = launch(with_ladder(folder), run_dir=None, pools="threads", progress=quiet())
    assert outcome.reason == "every round is complete"
    return outcome.folder, folder


def documents(run: RunFolder, collection: str, **wanted: Any) -> list[dict[str, Any]]:
    with run.store() as store:
        return list(store.query(collection, wanted))


def steps_of(run: RunFolder) -> list[dict[str, Any]]:
    return sorted(documents(run, "ladder"), key=lambda one: one["index"])


def test_nothing_is_wrong_with_its_documents(finished: tuple[RunFolder, Path]) -> None:
    run, _ = finished
    with run.store() as store:
        assert violations(store, run) == []


def test_everybody_whose_condition_holds_has_climbed_in_the_end(finished: tuple[RunFolder, Path]) -> None:
    run, _ = finished
    firsts = {one["_id"] for one in documents(run, "labels", purpose="candidate")}
    on = {
        rung: {
            one["parent"]: one["result"] for one in documents(run, "labels", step=rung, purpose="follow_up")
        }
        for rung in CORE_HOURS
    }
    assert on["precise"].keys() == firsts
    assert on["finest"].keys() == {name for name, result in on["precise"].items() if result["stable"]}
    low = {name for name, result in on["finest"].items() if result["e_above_hull"] < -0.1}
    assert 0 < len(on["sound"]) < len(on["finest"])
    assert on["sound"].keys() == low
    assert not any("e_above_hull" in result for result in on["sound"].values())


def test_further_labels_may_follow_a_rung(finished: tuple[RunFolder, Path]) -> None:
    run, _ = finished
    after = documents(run, "labels", step="after")
    assert {one["parent"] for one in after} == {
        one["parent"] for one in documents(run, "labels", step="sound")
    }
    assert {one["rung"] for one in after} == {0}


def test_while_there_are_rounds_the_ladder_keeps_to_its_share(finished: tuple[RunFolder, Path]) -> None:
    run, _ = finished
    fresh = climbed = 0.0
    for step in steps_of(run):
        fresh += step["fresh_core_hours"]
        costs = [one["core_hours"] for one in step["climbs"]]
        if not step["last"] and costs:
            assert climbed + sum(costs[:-1]) < fresh  # half of all, but for the last one
        climbed += sum(costs)
    assert any(step["climbs"] for step in steps_of(run) if not step["last"])


def test_a_step_begins_with_what_is_worth_most_per_core_hour(finished: tuple[RunFolder, Path]) -> None:
    run, _ = finished
    steps = [step for step in steps_of(run) if step["climbs"]]
    assert len(steps) >= 3
    for step in steps:
        values = [one["value"] for one in step["climbs"]]
        assert values == sorted(values, reverse=True)
        assert all(0 <= one["stable_probability"] <= 1 for one in step["climbs"])
    last = [step for step in steps if step["last"]]
    chances = {one["stable_probability"] > 0.5 for step in last for one in step["climbs"]}
    assert chances == {True, False}  # the hopeless come too, but come last


def test_a_step_knows_labels_of_the_rounds_before_its_own_alone(finished: tuple[RunFolder, Path]) -> None:
    run, _ = finished
    labels = {one["_id"]: one for one in documents(run, "labels")}
    for step in steps_of(run):
        for one in step["climbs"]:
            if not step["last"]:
                assert labels[one["root"]]["round"] < step["round"]
            label = labels[one["label"]]
            assert (label["round"], label["rank"], label["parent"]) == (
                step["round"],
                one["rank"],
                one["root"],
            )
            assert label["created"] > labels[one["root"]]["ended"]


def test_references_of_a_rung_are_made_when_somebody_first_climbs_there(
    finished: tuple[RunFolder, Path],
) -> None:
    run, _ = finished
    opened = {rung: step for step in steps_of(run) for rung in step["opened"]}
    assert list(opened) == ["precise", "finest"]
    for rung, step in opened.items():
        references = documents(run, "labels", purpose="reference", step=rung)
        assert sorted(one["formula"] for one in references) == ["Ca", "Mg", "Si"]
        assert all(one["state"] == "done" and one["created"] > step["created"] for one in references)
        first = next(one for one in step["climbs"] if one["rung"] == rung)
        assert first["core_hours"] > CORE_HOURS[rung]  # it pays for them
    assert documents(run, "labels", purpose="reference", step="sound") == []
    assert min(step["round"] for step in opened.values()) > 0


def test_energies_of_a_rung_are_compared_with_its_own_references_alone(
    finished: tuple[RunFolder, Path],
) -> None:
    run, _ = finished
    for rung in ("precise", "finest"):
        labels = documents(run, "labels", step=rung)
        elements = {
            one["formula"]: one["result"]["energy_per_atom"]
            for one in labels
            if one["purpose"] == "reference"
        }
        for one in (one for one in labels if one["purpose"] == "follow_up"):
            parts = Composition(one["formula"]).fractional_composition
            energy = one["result"]["energy_per_atom"] - sum(parts[name] * elements[name] for name in elements)
            assert one["result"]["formation_energy_per_atom"] == pytest.approx(energy)
            assert one["judged_on"] == {"hull": "reference", "settings_hash": one["settings_hash"]}


def test_the_verdict_is_that_of_the_highest_judged_rung(
    finished: tuple[RunFolder, Path], tmp_path: Path
) -> None:
    run, _ = finished
    with run.store() as store:
        rows, status = {row["label_id"]: row for row in result_rows(store)}, summary(store, "small")
        labels = {one["_id"]: one for one in store.query("labels")}
        exported = export(store, "csv", tmp_path / "all.csv")
    best = {name: labels[name] for name in rows}
    for label in sorted(labels.values(), key=lambda one: one["rung"]):
        if label["purpose"] == "follow_up" and label["result"].get("e_above_hull") is not None:
            best[label["parent"]] = label
    for name, row in rows.items():
        assert (
            row["e_above_hull"]
            == best[name]["result"]["e_above_hull"]
            == labels[name]["verdict"]["e_above_hull"]
        )
        assert (row["rung"], row["verdict_label_id"]) == (best[name]["step"], best[name]["_id"])
    stable = sum(one["result"]["stable"] for one in best.values())
    assert status["stable"] == stable
    assert stable != sum(one["result"]["stable"] for one in labels.values() if one["purpose"] == "candidate")
    heights = sorted(row["e_above_hull"] for row in rows.values())
    assert [row["e_above_hull"] for row in status["best"]] == heights[:5]
    assert status["ladder"]["precise"] == {"done": len(rows)}
    assert exported == len(rows)


def test_models_learn_from_the_rungs_that_their_term_may_know(finished: tuple[RunFolder, Path]) -> None:
    run, _ = finished
    labels = {one["_id"]: one for one in documents(run, "labels")}
    with run.store() as store:
        config = run.config()
        known = [climbed_results(store, spec_of(config), term, ["e_above_hull"]) for term in range(5)]
    early = [step for step in steps_of(run) if not step["last"] and step["climbs"]]
    assert known[early[0]["round"]] == {}
    for step in early:
        for one in step["climbs"]:
            if labels[one["label"]]["result"].get("e_above_hull") is not None:
                assert one["root"] in known[step["round"] + 1]


def test_errors_of_rungs_are_learned_from_pairs(finished: tuple[RunFolder, Path]) -> None:
    run, _ = finished
    first, *_, last = steps_of(run)
    assert first["errors"]["precise"]["pairs"] == 0
    labels = documents(run, "labels", step="precise", purpose="follow_up")
    assert last["errors"]["precise"]["pairs"] == len(labels)
    assert last["errors"]["precise"]["bias"] != 0


def test_a_resume_finds_nothing_left_to_do(finished: tuple[RunFolder, Path]) -> None:
    run, folder = finished
    before, steps = len(executions(folder)), steps_of(run)
    outcome = resume(run.path, config_file=None, pools="threads", progress=quiet())
    assert outcome.reason == "every round is complete"
    assert len(executions(folder)) == before
    assert steps_of(run) == steps


def test_a_choice_that_was_written_without_its_labels_is_carried_out(
    finished: tuple[RunFolder, Path], tmp_path: Path
) -> None:
    run, _ = finished
    copy = RunFolder(Path(shutil.copytree(run.path, tmp_path / "copy")))
    step = next(one for one in steps_of(run) if one["opened"])
    gone = step["climbs"][0]["label"]
    (before,) = documents(copy, "labels", _id=gone)
    with CampaignStore.open(StoreConfig(), copy.path) as store:
        store.set_fields("ladder", step["_id"], {"made": False})
    with sqlite3.connect(copy.path / "store.sqlite") as file:  # as where a driver dies after the choice
        file.execute("DELETE FROM labels WHERE id = ?", (gone,))
    resume(copy.path, config_file=None, pools="threads", progress=quiet())
    (again,) = documents(copy, "labels", _id=gone)
    kept = ("round", "rank", "rung", "parent", "step", "state", "structure", "settings_hash")
    assert {key: again[key] for key in kept} == {key: before[key] for key in kept}
    assert next(one for one in steps_of(copy) if one["_id"] == step["_id"])["made"]


def test_rungs_with_other_settings_than_at_launch_are_refused(
    finished: tuple[RunFolder, Path], tmp_path: Path
) -> None:
    run, _ = finished
    copy = RunFolder(Path(shutil.copytree(run.path, tmp_path / "copy")))
    with CampaignStore.open(StoreConfig(), copy.path) as store:
        assert set((store.get("campaigns", "small") or {})["rung_hashes"]) == set(CORE_HOURS)
        store.set_fields("campaigns", "small", {"rung_hashes.precise": "of another version"})
    with pytest.raises(ConfigError, match="settings of the rung precise"):
        resume(copy.path, config_file=None, pools="threads", progress=quiet())


def test_an_element_that_fails_on_a_rung_stops_the_campaign_until_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = with_ladder(tmp_path)
    first, _, rest = file.read_text().partition("ladder:")
    rest = rest.replace("components:CountingLennardJones", "components:FragileElement")
    file.write_text(f"{first}ladder:{rest}")
    outcome = launch(file, run_dir=None, pools="threads", progress=quiet())
    assert outcome.status == "failed"
    assert "the element Mg could not be computed on the rung precise" in outcome.reason
    on = documents(outcome.folder, "labels", step="precise", purpose="follow_up")
    assert on
    assert not any(one["judged"] for one in on)
    monkeypatch.setenv("FRAGILE", "0")
    again = resume(outcome.folder.path, config_file=None, pools="threads", progress=quiet(), retry=True)
    assert again.status == "finished"
    for one in documents(outcome.folder, "labels", step="precise"):
        assert one["result"]["e_above_hull"] is not None


def test_nobody_pays_for_references_of_a_rung_that_nobody_climbs(tmp_path: Path) -> None:
    file = with_ladder(tmp_path, first="e_above_hull < -1e6", ladder_costs="measured")
    outcome = launch(file, run_dir=None, pools="threads", progress=quiet())
    assert outcome.reason == "every round is complete"
    assert {one["step"] for one in documents(outcome.folder, "labels")} == {None}
    assert [step["last"] for step in steps_of(outcome.folder)] == [False, False, False, False, True]


def test_who_fails_on_a_rung_climbs_on_when_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = with_ladder(tmp_path)
    text = file.read_text().replace("components:CountingLennardJones", "components:Fragile")
    first, _, rest = text.partition("ladder:")
    file.write_text(first.replace("components:Fragile", "components:CountingLennardJones") + "ladder:" + rest)
    run = launch(file, run_dir=None, pools="threads", progress=quiet()).folder
    failed = {one["parent"] for one in documents(run, "labels", state="failed")}
    assert failed
    assert failed.isdisjoint(one["parent"] for one in documents(run, "labels", step="finest"))
    monkeypatch.setenv("FRAGILE", "0")
    with run.store(read_only=False) as store:
        assert len(retry_failed(store)) == len(failed)
    resume(run.path, config_file=None, pools="threads", progress=quiet())
    assert documents(run, "labels", state="failed") == []
    on = {one["parent"] for one in documents(run, "labels", step="finest")}
    stable = {
        one["parent"]
        for one in documents(run, "labels", step="precise", purpose="follow_up", **{"result.stable": True})
    }
    assert failed & stable <= on
    assert failed & on
