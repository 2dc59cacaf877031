"""Structure prediction: the campaign that `campaign csp` writes, and the ranking it ends with."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
import yaml
from command_line import campaign
from rich.console import Console
from test_driver import quiet
from test_gene_campaign import oxides

from campaign.config import parse_config
from campaign.csp import CspTask, csp_text
from campaign.launch import launch
from campaign.run_folder import RunFolder
from campaign.templates import template_text
from campaign.views.ranking import ranking_rows, ranking_table


def written(task: CspTask):
    return parse_config(yaml.safe_load(csp_text(task)), "csp")


def test_the_ground_state_is_looked_for_in_any_space_group():
    config = written(CspTask("Ti2Ca2O6"))
    assert (config.name, config.chemistry.formula) == ("csp-TiCaO3", "TiCaO3")
    assert config.chemistry.spacegroups == ()
    assert config.chemistry.elements == ("Ti", "Ca", "O")
    assert (config.stop.rounds, config.learn.generators, config.labels.engine) == (1, False, "mlip")
    assert config.acquisition.max_per_formula == config.acquisition.labels_per_round
    kinds = [screen.kind for screen in config.screen]
    assert kinds.index("relax") < kinds.index("best_trial") < kinds.index("duplicates")
    novelty = next(screen for screen in config.screen if screen.kind == "novelty")
    assert novelty.options == {"keep_known": True}


def test_polymorphs_are_looked_for_in_the_space_groups_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text("[]")
    task = CspTask("CaTiO3", (221, 62, 62), ("mine.json", "builtin:quickstart"), "gpaw", 3, leave_out=True)
    config = written(task)
    assert config.name == "csp-CaTiO3-62-221"
    assert config.chemistry.spacegroups == (62, 221)
    assert config.reference.crystals == (str(tmp_path / "mine.json"), "builtin:quickstart")
    assert config.reference.exclude == ("CaTiO3",)
    assert (config.labels.engine, config.labels.flow) == ("gpaw", "relax_static")
    assert (config.stop.rounds, config.learn.generators) == (3, True)


def test_every_formula_finds_room_and_is_read_as_written():
    assert written(CspTask("Ca3(PO4)2")).chemistry.max_atoms == 26
    assert written(CspTask("NO")).chemistry.formula == "NO"  # which YAML would take for false
    assert template_text("csp").count("#") - csp_text(CspTask("CaTiO3", (62,))).count("#") == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["CaTjO3"], "'Tj' is not a chemical element"),
        (["CaTi(O3"], "no chemical formula"),
        ([""], "no chemical formula"),
        (["CaTiO0"], "no chemical formula"),
        (["Ca40Ti41O120"], "max_atoms"),
        (["CaTiO3", "--spacegroup", "231"], "got 231"),
        (["CaTiO3", "--engine", "gpau", "--reference", "nothing.json"], "gpau"),
        (["CaTiO3", "--reference", "nothing.json"], "nothing.json"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = campaign("csp", *words, "--pools", "threads")
    assert ran.code == 2
    assert told in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_write_only_writes_and_never_overwrites(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = campaign("csp", "CaTiO3", "--write", "mine.yaml")
    assert ran.code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
    assert Path("mine.yaml").read_text() == csp_text(CspTask("CaTiO3"))
    assert "exists" in campaign("csp", "CaTiO3", "--write", "mine.yaml").err


@pytest.fixture(scope="module")
def predicted(tmp_path_factory) -> RunFolder:
    """A finished prediction: small components stand in for generator, surrogate and engine."""
    folder = tmp_path_factory.mktemp("csp")
    document = yaml.safe_load(csp_text(CspTask("CaTiO3", (221,), (str(oxides(folder)),))))
    document["generators"] = [{"kind": "components:PerovskiteTrials"}]
    document["surrogate"] = {"kind": "components:StillSurrogate"}
    document["acquisition"]["candidates_per_round"] = 12
    document["acquisition"]["labels_per_round"] = 1
    document["screen"] = [one for one in document["screen"] if one["kind"] != "e_above_hull"] + [
        {"kind": "e_above_hull", "options": {"max_ev_per_atom": 100.0, "min_ev_per_atom": -100.0}}
    ]
    document["labels"]["engine_options"] = {
        "calculator": "components:CountingLennardJones",
        "calculator_options": {"log": str(folder / "executions.jsonl")},
    }
    file = folder / "campaign.yaml"
    file.write_text(yaml.safe_dump(document))
    outcome = launch(file, run_dir=None, pools="threads", progress=quiet())
    assert outcome.status == "finished", outcome.reason
    return outcome.folder


def test_the_ranking_names_energy_space_group_and_gene(predicted):
    with predicted.store() as store:
        rows = ranking_rows(store)
    assert len(rows) == 2
    computed, foretold = rows
    assert computed["energy_per_atom"] is not None
    assert foretold["energy_per_atom"] is None
    assert computed["surrogate_energy_per_atom"] < foretold["surrogate_energy_per_atom"]
    assert {row["spacegroup"] for row in rows} == {221}
    assert len({row["gene"] for row in rows}) == 2
    assert "CaTiO3" in {row["matches_reference"] for row in rows}


def test_the_ranking_fits_a_terminal(predicted):
    with predicted.store() as store:
        rows = ranking_rows(store)
    out = StringIO()
    Console(file=out, width=80).print(ranking_table(rows, "mlip"))
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("lowest 2 of 2 crystals [meV/atom above the lowest]")
    assert max(map(len, lines)) <= 80
    first = next(line for line in lines if "Pm-3m (221)" in line)
    assert first.split()[:3] == ["1", "0", "0"]
    assert "221|" in first


@pytest.mark.slow
def test_a_whole_prediction_by_the_command_line(tmp_path, monkeypatch):
    """With the generator, the surrogate and the energies that a user gets."""
    monkeypatch.chdir(tmp_path)
    ran = campaign("csp", "Mg2Si", "--spacegroup", "225", "--pools", "threads", "--quiet")
    assert ran.code == 0, ran.err
    assert "Fm-3m (225)" in ran.out
    assert "campaign finished" in ran.out
    with RunFolder(tmp_path / "csp-Mg2Si-225").store() as store:
        best = ranking_rows(store)[0]
    assert best["spacegroup"] == 225
