"""Failures that really happen, in a whole campaign each: their causes, what is done about them, and how they end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_driver import quiet, small_campaign

from campaign.launch import launch

pytestmark = pytest.mark.slow

GPAW = {"preset": "fast", "kpts_per_inverse_ang": 1.0, "ecut_ev": 200.0}

CURED = [[], ["slow_mixing"], ["slow_mixing", "other_algorithm"]]


def campaign_of_one(
    folder: Path, generator: str = "components:BinaryGenerator", **labels: Any
) -> list[dict[str, Any]]:
    """Run a campaign of one candidate in pools of real processes; return its label, then those of the elements."""
    file = small_campaign(
        folder,
        chemistry={"elements": ["Ca", "Si"]},
        acquisition={"candidates_per_round": 4, "labels_per_round": 1, "lookahead_rounds": 0},
        generators=[{"kind": generator}],
        screen=[{"kind": "composition"}, {"kind": "duplicates"}],
        labels=labels,
        stop={"rounds": 1},
    )
    outcome = launch(file, run_dir=None, pools="processes", progress=quiet())
    assert outcome.status == "finished", outcome.reason
    with outcome.folder.store() as store:
        found = list(store.query("labels"))
    assert len(found) == 3
    return sorted(found, key=lambda label: label["purpose"])


def labelled(folder: Path, **labels: Any) -> dict[str, Any]:
    return campaign_of_one(folder, **labels)[0]


def troubled(name: str) -> dict[str, Any]:
    return {"engine": "mlip", "engine_options": {"calculator": f"troubled:{name}"}}


def causes(label: dict[str, Any]) -> list[str | None]:
    return [one["cause"] for one in label["attempts"]]


def cures(label: dict[str, Any]) -> list[list[str]]:
    return [one["cures"] for one in label["attempts"]]


def test_too_few_electronic_iterations_are_cured_by_mixing_less_and_iterating_more(tmp_path):
    pytest.importorskip("gpaw")
    options = {**GPAW, "converge_density": 1e-5, "max_scf": 12}
    labels = campaign_of_one(tmp_path, engine="gpaw", engine_options=options)
    assert {label["state"] for label in labels} == {"done"}
    stubborn = [label for label in labels if causes(label)[0]]
    assert stubborn, "twelve iterations are too few for one crystal at least"
    for label in stubborn:
        failed = [one for one in label["attempts"] if one["cause"]]
        assert {one["cause"] for one in failed} == {"scf_not_converged"}
        assert cures(label)[: len(failed) + 1] == CURED[: len(failed) + 1]


def test_a_relaxation_that_needs_more_steps_goes_on_from_where_it_was(tmp_path):
    options = {"calculator": "lj", "calculator_options": {"sigma": 2.5, "epsilon": 0.3, "rc": 6.0, "smooth": True},
               "max_steps": 4}  # fmt: skip
    label = labelled(tmp_path, flow="relax", engine="mlip", engine_options=options)
    assert label["state"] == "done"
    assert set(causes(label)[:-2]) == {"ionic_not_converged"}
    assert cures(label)[:2] == [[], ["more_steps"]]


def test_a_job_out_of_memory_gets_half_as_much_again_and_the_pool_for_itself(tmp_path):
    label = labelled(tmp_path, **troubled("Hungry"), job_memory_gb=1.3)
    assert label["state"] == "done"
    assert causes(label) == ["out_of_memory", None, None]
    assert cures(label)[1] == ["more_memory"]
    assert [job["alone"] for job in label["jobs"]] == [True, False]


def test_lost_workers_are_forgiven(tmp_path):
    label = labelled(tmp_path, **troubled("Deadly"), max_attempts=1)
    assert label["state"] == "done"
    assert causes(label) == ["node_lost"] * 3 + [None, None]
    assert all(Path(one["folder"]).is_dir() for one in label["attempts"])
    assert label["core_hours"] > 0


def test_a_killed_code_is_tried_again(tmp_path):
    label = labelled(tmp_path, **troubled("Crashing"))
    assert label["state"] == "done"
    assert causes(label) == ["code_crashed", None, None]


def test_torn_output_is_tried_again_and_then_given_up(tmp_path):
    label = labelled(tmp_path, **troubled("Torn"))
    assert (label["state"], label["failure"]["cause"]) == ("failed", "parse_error")
    assert causes(label) == ["parse_error"] * 2
    assert (Path(label["attempts"][0]["folder"]) / "failure-1.json").is_file(), "its words stay readable"


def test_a_relaxation_cut_by_its_time_goes_on_from_its_last_geometry(tmp_path):
    label = labelled(tmp_path, flow="relax", **troubled("Slower"), job_hours=20 / 3600)
    assert label["state"] == "done"
    assert causes(label)[0] == "walltime"
    assert causes(label)[-2:] == [None, None]
    assert cures(label)[1] == ["more_time"]
    folder = Path(label["attempts"][0]["folder"])
    assert (folder / "last_geometry.json").is_file()


def test_the_unforeseen_is_tried_as_often_as_the_configuration_says(tmp_path):
    label = labelled(tmp_path, **troubled("Unruly"), on_failure={"unknown": {"tries": 3}})
    assert (label["state"], label["failure"]["cause"]) == ("failed", "unknown")
    assert causes(label) == ["unknown"] * 3
    assert "the moon is full" in label["failure"]["message"]


def test_a_crystal_that_cannot_be_computed_is_not_tried_again(tmp_path):
    label = labelled(tmp_path, generator="troubled:Collapsing")
    assert (label["state"], label["failure"]["cause"]) == ("failed", "bad_geometry")
    assert causes(label) == ["bad_geometry"]


def test_a_missing_dataset_is_not_looked_for_again(tmp_path):
    pytest.importorskip("gpaw")
    label = labelled(tmp_path, **troubled("Unequipped"))
    assert (label["state"], label["failure"]["cause"]) == ("failed", "missing_setup")
    assert causes(label) == ["missing_setup"]
