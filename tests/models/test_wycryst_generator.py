from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from wycryst_models import (
    COMMON,
    QUICK_PAPER,
    crystals_of,
    global_states,
    make_generator,
    ternaries,
    with_options,
)

from models.data import E_ABOVE_HULL, FORMATION_ENERGY, Conditions, LabelledStructure
from models.errors import CheckpointError, NotFittedError, OptionsError, TrainingDataError
from models.generators.wycryst.generator import WyCrystGenerator
from models.genes import WyckoffGene, gene_of
from models.registry import GENERATORS, build
from models.testing import reference_crystals


@pytest.fixture(scope="module")
def quick() -> WyCrystGenerator:
    generator = make_generator()
    generator.fit(reference_crystals(), 0)
    return generator


@pytest.fixture(scope="module")
def printed() -> WyCrystGenerator:
    """The network as printed, fitted on twenty ternaries."""
    generator = make_generator(**QUICK_PAPER)
    generator.fit(ternaries(), 0)
    return generator


@pytest.fixture
def copied(quick: WyCrystGenerator, tmp_path: Path) -> WyCrystGenerator:
    """A copy to change."""
    quick.save(tmp_path / "copied")
    return WyCrystGenerator.load(tmp_path / "copied")


def genes_of(crystals: Sequence[Any]) -> list[WyckoffGene]:
    return [WyckoffGene.from_text(crystal.properties["gene"]) for crystal in crystals]


# crystals


def test_crystals_have_their_genes_and_predictions(quick: WyCrystGenerator) -> None:
    crystals = quick.sample(20, COMMON, 1)
    assert crystals
    for crystal, gene in zip(crystals, genes_of(crystals), strict=True):
        assert gene_of(crystal, 0.01) == gene
        assert crystal.properties["spacegroup"] == gene.spacegroup
        assert set(crystal.properties["predicted"]) == {FORMATION_ENERGY, E_ABOVE_HULL}
        assert np.isfinite(list(crystal.properties["predicted"].values())).all()
        assert len(crystal) == gene.atoms_per_primitive_cell


@pytest.mark.parametrize(
    "conditions",
    [
        COMMON,
        replace(COMMON, max_atoms=5),
        replace(COMMON, spacegroups=(221, 225)),
        Conditions(("Sr", "O"), (1, 2), 20, formula="SrO"),
    ],
)
def test_crystals_keep_to_the_conditions(quick: WyCrystGenerator, conditions: Conditions) -> None:
    crystals = quick.sample(6, conditions, 3)
    assert 0 < len(crystals) <= 6
    assert all(conditions.allows(crystal) for crystal in crystals)


def test_each_gene_gets_a_crystal_more_than_it_has_freedom(quick: WyCrystGenerator, tmp_path: Path) -> None:
    free = with_options(quick, tmp_path / "a", max_trials=3, temperature=1.5)
    harvest = free.genes(40, COMMON, 1)
    assert len({free.n_trials(one) for one in harvest.genes}) > 1
    assert all(free.n_trials(one) == min(one.gene.dof + 1, 3) for one in harvest.genes)
    fixed = with_options(quick, tmp_path / "b", trials=2, temperature=1.5, rank_scale=1000.0)
    crystals = fixed.sample(40, COMMON, 1)
    texts = [crystal.properties["gene"] for crystal in crystals]
    assert max(texts.count(text) for text in texts) == 2
    for text in set(texts):
        trials = [crystal.properties["trial"] for crystal in crystals if crystal.properties["gene"] == text]
        assert len(set(trials)) == len(trials)
    assert all(
        with_options(quick, tmp_path / "c", trials=9, max_trials=4).n_trials(one) == 4
        for one in harvest.genes
    )


def test_low_predictions_are_built_first(quick: WyCrystGenerator, tmp_path: Path) -> None:
    def mean_prediction(**sampling: Any) -> float:
        model = with_options(quick, tmp_path / "ranked", trials=1, genes_per_crystal=16, **sampling)
        return float(
            np.mean(
                [
                    crystal.properties["predicted"][E_ABOVE_HULL]
                    for seed in range(4)
                    for crystal in model.sample(8, COMMON, seed)
                ]
            )
        )

    strict, chance = mean_prediction(rank_scale=0.0), mean_prediction(rank_scale=100.0)
    every = quick.genes(200, COMMON, 0).genes
    spread = np.std([one.predicted[E_ABOVE_HULL] for one in every])
    assert strict < chance - 0.5 * spread


def test_sampling_before_learning_is_refused() -> None:
    for call in (
        lambda g: g.sample(1, COMMON, 0),
        lambda g: g.sample(0, COMMON, 0),
        lambda g: g.genes(1, COMMON, 0),
    ):
        with pytest.raises(NotFittedError, match="fit or load"):
            call(make_generator())
    with pytest.raises(NotFittedError):
        make_generator().fine_tune(reference_crystals(), [], 0)


# fitting


def test_fits_repeat_by_their_seed_and_leave_the_global_generators_alone() -> None:
    short = {"training": {"min_steps": 3, "epochs": 3}}
    before = global_states()
    found = []
    for seed in (1, 1, 2):
        generator = make_generator(**short)
        generator.fit(reference_crystals(), seed)
        found.append(generator.fitted.network.state_dict())
    assert global_states() == before
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not torch.equal(found[0]["mean.weight"], found[2]["mean.weight"])


QUINARY = "1|Ca:a|F:a|Mg:a|O:a|Sr:a"


def test_crystals_that_cannot_be_written_are_counted() -> None:
    generator = make_generator(
        training={"min_steps": 2, "epochs": 2}, network={**{"hidden": 16}, "max_count": 2}
    )
    odd = crystals_of([QUINARY, QUINARY, "1|O:a|O:a|O:a|Ti:a"])
    disordered = reference_crystals()[0].structure.copy()
    disordered.replace_species({"Na": {"Na": 0.5, "K": 0.5}})
    heavy = reference_crystals()[0].structure.copy()
    heavy.replace_species({"Na": "Rf"})
    train = [*odd, *reference_crystals(), LabelledStructure(disordered, {}), LabelledStructure(heavy, {})]
    generator.fit(train, 0)
    assert generator.left_out == {
        "another number of elements": 2,
        "too many orbits on one letter": 1,
        "no symmetry found": 1,
        "element too heavy": 1,
    }
    assert len(generator.fitted.known) == 30


def test_quinaries_alone_are_refused_with_their_number() -> None:
    with pytest.raises(TrainingDataError, match=r"0 of 12 .*another number of elements.* 12") as caught:
        make_generator().fit(crystals_of([QUINARY] * 12), 0)
    assert "\n" not in str(caught.value)
    assert "max_elements" in str(caught.value)


def test_a_failed_fit_leaves_the_model_as_it_was(copied: WyCrystGenerator) -> None:
    before, lattices = copied.fitted, copied.lattices
    with pytest.raises(TrainingDataError):
        copied.fit(reference_crystals()[:5], 0)
    assert copied.fitted is before
    assert copied.lattices is lattices
    assert copied.left_out == {}


def test_properties_that_are_not_known_are_no_obstacle(tmp_path: Path) -> None:
    """Half of one property, nothing of the other."""
    train = [
        replace(item, properties={FORMATION_ENERGY: 2.0 + 0.1 * number if number % 2 else None})
        for number, item in enumerate(reference_crystals())
    ]
    generator = make_generator(training={"min_steps": 40, "epochs": 40})
    generator.fit(train, 0)
    assert all(torch.isfinite(weight).all() for weight in generator.fitted.network.parameters())
    assert generator.fitted.centre == pytest.approx([2.0 + 0.1 * 15, 0.0])
    crystals = generator.sample(4, COMMON, 0)
    assert crystals
    assert all(np.isfinite(list(crystal.properties["predicted"].values())).all() for crystal in crystals)


LABELLED = ["221|Mg:a|Sr:b", "225|Ba:a|O:b", "216|Mg:a|Se:c", "225|Ca:a|Cl:c", "221|Ba:a|O:c|Ti:b"]


def labels(above: float | None, energy: float = 1.0) -> list[LabelledStructure]:
    return [
        replace(item, properties={E_ABOVE_HULL: above, FORMATION_ENERGY: energy})
        for item in crystals_of(LABELLED)
    ]


# checkpoints


def test_a_loaded_model_is_the_saved_one(copied: WyCrystGenerator, tmp_path: Path) -> None:
    copied.fine_tune(labels(0.1), [], 0)
    copied.left_out = {"element too heavy": 3}
    copied.save(tmp_path / "model")
    loaded = WyCrystGenerator.load(tmp_path / "model")
    assert loaded.config == copied.config
    assert loaded.left_out == copied.left_out
    assert loaded.genes(20, COMMON, 1) == copied.genes(20, COMMON, 1)
    documents = [[json.dumps(c.as_dict()) for c in model.sample(6, COMMON, 2)] for model in (loaded, copied)]
    assert documents[0] == documents[1]
    for model in (loaded, copied):
        model.fine_tune(labels(0.3), [], 5)
    assert loaded.genes(20, COMMON, 1) == copied.genes(20, COMMON, 1)


def test_torn_and_foreign_checkpoints_are_told_from_whole_ones(
    quick: WyCrystGenerator, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    quick.save(folder)
    weights = next(folder.glob("*.pt"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="torn"):
        WyCrystGenerator.load(folder)
    weights.write_bytes(whole)
    manifest = folder / "checkpoint.json"
    text = manifest.read_text()
    for damage in (
        {"state": {}},
        {"state": {"centre": "x", "spread": [], "left_out": {}}},
        {"config": {**json.loads(text)["config"], "no_such_option": 1}},
        {"config": {**json.loads(text)["config"], "max_elements": 5}},
        {"kind": "generator/ftcp"},
    ):
        manifest.write_text(json.dumps({**json.loads(text), **damage}))
        with pytest.raises(CheckpointError) as caught:
            WyCrystGenerator.load(folder)
        assert "\n" not in str(caught.value)
    manifest.write_text(text)
    assert WyCrystGenerator.load(folder).genes(3, COMMON, 0) == quick.genes(3, COMMON, 0)


# the network as printed


def test_the_printed_network_writes_ternaries_only(printed: WyCrystGenerator) -> None:
    conditions = Conditions(("Ca", "Sr", "Ba", "K", "Ti", "Mg", "O", "F", "Ni", "Al", "Cu"), (1, 4), 12)
    harvest = printed.genes(30, conditions, 1)
    assert harvest.genes
    assert {len(one.gene.elements) for one in harvest.genes} == {3}
    assert harvest.rejected["not feasible"] > 0
    assert harvest.drawn == len(harvest.genes) + sum(harvest.rejected.values())
    assert all(conditions.allows(crystal) for crystal in printed.sample(5, conditions, 1))
    with pytest.raises(OptionsError, match="more elements than are asked for"):
        printed.sample(1, replace(conditions, n_elements=(1, 2)), 0)


def test_the_printed_network_survives_saving_and_fine_tuning(
    printed: WyCrystGenerator, tmp_path: Path
) -> None:
    conditions = Conditions(("Ca", "Sr", "Ti", "Mg", "O", "F", "Ni", "Cu", "Ba"), (3, 3), 12)
    printed.save(tmp_path)
    loaded = WyCrystGenerator.load(tmp_path)
    assert loaded.genes(10, conditions, 1) == printed.genes(10, conditions, 1)
    before = global_states()
    loaded.fine_tune([*labels(0.4), *crystals_of([QUINARY])], [], 0)
    assert global_states() == before
    assert len(loaded.fitted.known) == 21  # the perovskite, no binary
    assert loaded.genes(5, conditions, 1).genes


def test_the_printed_network_leaves_out_what_its_array_cannot_hold() -> None:
    paper = {**QUICK_PAPER, "paper": {**QUICK_PAPER["paper"], "epochs": 1}}
    generator = make_generator(**paper)
    generator.fit([*ternaries(), *reference_crystals(), *crystals_of(["47|Ba:A|O:a|Ti:b"])], 0)
    assert generator.left_out == {
        "another number of elements": 26,
        "letter that the array has no row for": 1,
    }
    assert len(generator.fitted.known) == 24


# options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "own"}, "variant"),
        ({"max_elements": 0}, "max_elements"),
        ({"properties": []}, "properties"),
        ({"properties": ["a", "a"]}, "name each property once"),
        ({"properties": ["formation_energy_per_atom"]}, "sampling.rank_by 'e_above_hull' must be one of"),
        ({"sampling": {"prior_share": 1.5}}, "sampling.prior_share"),
        ({"sampling": {"temperature": float("inf")}}, "sampling.temperature"),
        ({"sampling": {"perturbation": float("nan")}}, "sampling.perturbation"),
        ({"network": {"latent": 3}}, "network.latent"),
        ({"network": {"kl_warm_up": 0.0}}, "network.kl_warm_up"),
        ({"training": {"exchange": -0.1}}, "training.exchange"),
        ({"labelled_weight": float("inf")}, "labelled_weight"),
        ({"fine_tune_learning_rate": 1.0}, "fine_tune_learning_rate"),
    ],
)
def test_wrong_options_are_told_in_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionsError, match="wrong options for generator 'wycryst'") as caught:
        build("wycryst", GENERATORS, "generator", options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
