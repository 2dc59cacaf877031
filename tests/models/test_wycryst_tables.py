"""The command behind docs/results/wycryst_tables: aggregation, page, and a small run of everything."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from benchmarks import wycryst_data, wycryst_report, wycryst_tables, wycryst_training
from benchmarks.wycryst_training import Plan, Result
from toy_crystals import binary, read_crystals

from models.data import FORMATION_ENERGY, STABLE, LabelledStructure
from models.generators.wycryst import gene_set


def _results() -> list[Result]:
    return [
        Result("paper", seed, 100.0 + seed, 50.0, 80, 20, {"wyckoff": value, "recall": 0.5})
        for seed, value in enumerate((0.2, 0.3, 0.7))
    ] + [
        Result(model, seed, 10.0, 10.0, 80, 20, values)
        for seed in (0, 1)
        for model, values in (
            ("cgcnn head", {"mae:band_gap": 0.4}),
            ("cgcnn discriminator", {"auc": 0.75}),
        )
    ]


def test_a_column_joins_its_trainings_and_gives_mean_and_sample_deviation_over_seeds():
    table = wycryst_report.aggregate(_results())
    paper, graph = table["WyCryst `paper`"], table["graph network `cgcnn`"]
    assert paper["wyckoff"]["mean"] == pytest.approx(0.4)
    assert paper["wyckoff"]["std"] == pytest.approx(math.sqrt(0.07))  # squares .04, .01, .09 over n - 1
    assert paper["cpu_seconds"]["mean"] == pytest.approx(101.0)
    assert graph["mae:band_gap"]["mean"] == 0.4
    assert graph["auc"]["n"] == 2
    assert graph["cpu_seconds"]["mean"] == 20.0  # both trainings of one seed


def test_a_single_seed_has_no_deviation():
    assert wycryst_report.summarise([0.25]) == {"mean": 0.25, "std": None, "n": 1}
    assert wycryst_report.shown({"mean": 0.25, "std": None, "n": 1}, 3) == "0.250"


def test_a_table_leaves_out_columns_without_figures_and_dashes_what_is_missing():
    table = wycryst_report.aggregate(_results())
    lines = wycryst_report.table_of("Forward", wycryst_report.FORWARD, table).splitlines()
    assert lines[0] == "## Forward"
    assert lines[2] == "| | WyCryst `paper` | graph network `cgcnn` |"
    assert "| MAE band gap [eV] | – | 0.400 ± 0.000 |" in lines
    assert "| stability recall | 0.500 ± 0.000 | – |" in lines
    reconstruction = wycryst_report.table_of("Reconstruction", wycryst_report.RECONSTRUCTION, table)
    assert "| Wyckoff sites right (all letters of all slots) | 0.400 ± 0.265 |" in reconstruction


def test_every_training_stands_in_a_column_of_the_tables():
    named = {model for models in wycryst_report.COLUMNS.values() for model in models}
    assert named == set(wycryst_training.MODELS)


def test_forward_models_speak_for_ours_and_the_property_branch_stands_beside():
    values = {"ours": {"wyckoff": 0.8, "auc": 0.6}, "wyckoff discriminator": {"auc": 0.7}}
    results = [Result(model, 0, 10.0, 5.0, 80, 20, found) for model, found in values.items()]
    table = wycryst_report.aggregate(results)
    branch = table["ours, property branch alone"]
    assert (table["ours"]["auc"]["mean"], branch["auc"]["mean"]) == (0.7, 0.6)
    assert table["ours"]["wyckoff"]["mean"] == 0.8
    assert not {"wyckoff", "cpu_seconds"} & branch.keys()


def test_a_crystal_that_is_not_read_is_left_out_of_errors_and_missed_in_recall():
    labels = [(-1.0, 1.0), (-2.0, 1.0), (-3.0, 0.0), (None, 0.0)]
    items = [
        LabelledStructure(binary("Li", "O", "rocksalt"), {FORMATION_ENERGY: energy, STABLE: stable})
        for energy, stable in labels
    ]
    energies = np.array([-1.5, np.nan, -3.0, 5.0])
    scores = np.array([0.9, np.nan, 0.6, 0.1])
    found = wycryst_training.judged(items, {FORMATION_ENERGY: energies, STABLE: scores})
    assert found[f"mae:{FORMATION_ENERGY}"] == pytest.approx(0.25)
    assert found[f"not_read:{FORMATION_ENERGY}"] == 1.0
    assert found[f"not_read:{STABLE}"] == 1.0
    assert (found["recall"], found["precision"]) == (0.5, 0.5)
    assert found["auc"] == 0.5  # of four pairs, the positive that was read wins two


def test_what_was_read_of_crystals_is_kept_and_recalled(tmp_path: Path, data_dir: Path):
    items = read_crystals(data_dir, "mp_train.parquet", 6)
    refined = [gene_set.orbits_of(item.structure, 0.1) for item in items]
    refined[2] = None  # as where no symmetry is found
    wycryst_data.write_refined(tmp_path / "refined.npz", refined)
    back = wycryst_data.read_refined(tmp_path / "refined.npz")
    read = gene_set.orbits_of
    assert back[2] is None
    for old, new in zip(refined, back, strict=True):
        if old is not None and new is not None:
            assert new.gene == old.gene
            np.testing.assert_array_equal(new.lattice, old.lattice)
            np.testing.assert_array_equal(new.parameters, old.parameters)
    with wycryst_data.genes_recalled(items, back):
        assert gene_set.orbits_of(items[0].structure, 0.1) is back[0]
        assert gene_set.orbits_of(items[2].structure, 0.1) is None
        assert gene_set.orbits_of(binary("Li", "O", "rocksalt"), 0.1) is not None
    assert gene_set.orbits_of is read


def test_a_share_of_the_epochs_is_a_share_of_everything_that_makes_a_training_long(tmp_path: Path):
    from models.generators.ftcp.config import FTCPConfig
    from models.generators.wycryst.fitting import GeneTraining

    plan = Plan(tmp_path, tmp_path, share=0.05)
    cut = plan.shorter(GeneTraining(epochs=100, max_steps=4000, min_steps=600))
    assert (cut.epochs, cut.max_steps, cut.min_steps) == (5, 200, 30)
    assert plan.shorter(FTCPConfig(epochs=3)).epochs == 1


def test_options_of_the_tiers():
    full, quick = wycryst_tables.options_of([]), wycryst_tables.options_of(["--quick"])
    gpu = wycryst_tables.options_of(["--tier", "gpu", "--seeds", "2"])
    assert (full.seeds, full.workers, full.output.name) == (3, 2, "wycryst_tables")
    assert (quick.seeds, quick.output) == (1, None)
    assert (gpu.seeds, gpu.workers, gpu.output.name) == (2, 1, "wycryst_tables_gpu")
    with pytest.raises(SystemExit):
        wycryst_tables.options_of(["--seeds", "0"])


def test_without_data_it_says_where_they_should_be(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("CAMPAIGN_TEST_DATA", str(tmp_path))
    assert wycryst_tables.main(["--quick"]) == 2
    assert "mp_train.parquet" in capsys.readouterr().err


def test_the_gpu_tier_without_a_gpu_says_so(data_dir: Path, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert wycryst_tables.main(["--tier", "gpu", "--limit", "40"]) == 2
    assert "not on this machine" in capsys.readouterr().err


@pytest.mark.slow
def test_every_model_goes_through_on_a_few_dozen_crystals(tmp_path: Path, data_dir: Path):
    output = tmp_path / "results" / "tables"
    arguments = ["--quick", "--limit", "60", "--workers", "1", "--output", str(output)]
    assert wycryst_tables.main(arguments) == 0
    document = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    assert [training["model"] for training in document["trainings"]] == list(wycryst_training.MODELS)
    for column in ("WyCryst `paper`", "ours", "FTCP"):
        for row in wycryst_report.RECONSTRUCTION.keys() - {"not_written"}:
            assert 0.0 <= document["table"][column][row]["mean"] <= 1.0
    for column in wycryst_report.COLUMNS:
        assert document["table"][column][f"mae:{FORMATION_ENERGY}"]["mean"] > 0.0
        assert 0.0 <= document["table"][column]["recall"]["mean"] <= 1.0
    page = output.with_suffix(".md").read_text(encoding="utf-8")
    assert "| stability recall |" in page
    assert "--limit 60" in page
