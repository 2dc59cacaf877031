from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from wycryst_models import COMMON, global_states, make_generator

from models.data import Conditions
from models.errors import OptionsError
from models.generators.wycryst.conditional_prior import ConditionalPrior
from models.generators.wycryst.config import SamplingOptions
from models.generators.wycryst.gene_set import GeneSet
from models.generators.wycryst.sampling import (
    FittedGenes,
    Harvest,
    ScoredGene,
    allowed_by,
    in_order,
    sample_genes,
    seed_pools,
)
from models.genes import WyckoffGene, arrays_from_genes, canonical, problems
from models.testing import reference_crystals


@pytest.fixture(scope="module")
def fitted() -> FittedGenes:
    generator = make_generator()
    generator.fit(reference_crystals(), 0)
    return generator.fitted


def draw(
    fitted: FittedGenes, conditions: Conditions = COMMON, n: int = 60, seed: int = 1, **options: Any
) -> Harvest:
    return sample_genes(fitted, n, conditions, SamplingOptions(**{"max_draws": 4000, **options}), seed)


def texts(harvest: Harvest) -> list[str]:
    return [one.gene.text() for one in harvest.genes]


def gene_set(genes: list[str], n_slots: int = 4) -> GeneSet:
    arrays = arrays_from_genes([WyckoffGene.from_text(text) for text in genes], n_slots)
    return GeneSet(*arrays, np.full((len(genes), 2), np.nan), np.ones(len(genes)))


# what comes


CONDITIONS = {
    "common": COMMON,
    "binaries": replace(COMMON, n_elements=(2, 2)),
    "four elements": replace(COMMON, n_elements=(4, 4), max_atoms=30),
    "small cells": replace(COMMON, max_atoms=2),
    "an element alone": Conditions(("Ca",), (1, 1), 4),
    "formula": Conditions(("Ca", "Ti", "O"), (1, 3), 20, formula="CaTiO3"),
    "space groups": replace(COMMON, spacegroups=(62, 221)),
    "formula and space group": Conditions(("Sr", "O"), (1, 2), 20, formula="SrO", spacegroups=(221,)),
    "more than the model has slots for": replace(COMMON, n_elements=(1, 7)),
}


@pytest.mark.parametrize("which", CONDITIONS)
@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
def test_genes_keep_to_the_conditions(fitted: FittedGenes, which: str, temperature: float) -> None:
    conditions = CONDITIONS[which]
    options = {"exclude_known": False, "temperature": temperature, "max_dof": 6}
    harvest = draw(fitted, conditions, n=25, **options)
    assert harvest.genes or temperature == 0.0
    assert len(set(texts(harvest))) == len(harvest.genes) <= 25
    for one in harvest.genes:
        gene = one.gene
        assert problems(gene) == []
        assert gene == canonical(gene)
        assert set(gene.elements) <= set(conditions.elements)
        assert conditions.n_elements[0] <= len(gene.elements) <= min(conditions.n_elements[1], 4)
        assert gene.atoms_per_primitive_cell <= conditions.max_atoms
        assert gene.dof <= 6
        assert conditions.formula in (None, gene.reduced_formula)
        assert not conditions.spacegroups or gene.spacegroup in conditions.spacegroups


def test_the_conditions_reject_something_and_the_limit_of_freedom_too(fitted: FittedGenes) -> None:
    loose = draw(fitted, replace(COMMON, max_atoms=200), temperature=2.0, max_dof=60)
    assert max(one.gene.dof for one in loose.genes) > 9
    assert max(one.gene.atoms_per_primitive_cell for one in loose.genes) > 12
    strict = draw(fitted, temperature=2.0, max_dof=0)
    assert strict.rejected["atoms"] > 0
    assert strict.rejected["degrees of freedom"] > 0
    assert strict.genes
    assert all(one.gene.dof == 0 for one in strict.genes)


def test_atoms_are_counted_in_the_primitive_cell(fitted: FittedGenes) -> None:
    small = draw(fitted, CONDITIONS["small cells"], exclude_known=False)
    assert {one.gene.atoms_per_primitive_cell for one in small.genes} == {2}
    assert max(one.gene.atoms_per_conventional_cell for one in small.genes) == 8


@pytest.mark.parametrize("n", [0, 1, 7, 400])
@pytest.mark.parametrize("which", ["common", "formula", "small cells"])
def test_every_draw_is_accounted_for(fitted: FittedGenes, which: str, n: int) -> None:
    harvest = draw(fitted, CONDITIONS[which], n=n, max_draws=2500, temperature=1.0)
    assert harvest.drawn == len(harvest.genes) + sum(harvest.rejected.values())
    assert harvest.drawn <= 2500
    assert len(harvest.genes) <= n
    assert all(count >= 0 for count in harvest.rejected.values())


def test_no_more_is_drawn_than_is_needed_or_allowed(fitted: FittedGenes) -> None:
    assert draw(fitted, n=3).drawn == 1000
    assert draw(fitted, n=100_000, max_draws=1700).drawn == 1700
    assert draw(fitted, n=5, max_draws=40).drawn == 40


def test_known_genes_come_only_when_asked_for(fitted: FittedGenes) -> None:
    conditions = Conditions(("Mg", "Ca", "Sr", "O", "S", "F", "Li", "K"), (2, 3), 12)
    options = {"perturbation": 0.0, "temperature": 0.2, "prior_share": 0.0, "foreign_seeds": 0.0}
    new = draw(fitted, conditions, exclude_known=True, **options)
    assert not set(texts(new)) & fitted.known.texts
    assert new.rejected["known or drawn before"] > 0
    assert set(texts(draw(fitted, conditions, exclude_known=False, **options))) & fitted.known.texts


def test_the_known_genes_are_those_of_the_crystals(fitted: FittedGenes) -> None:
    assert "225|Cl:a|Na:b" in fitted.known.texts
    assert "221|Ca:a|O:c|Ti:b" in fitted.known.texts
    assert len(fitted.known) == 30


def test_draws_repeat_by_their_seed(fitted: FittedGenes) -> None:
    before = global_states()
    one, same, other = (draw(fitted, seed=seed) for seed in (1, 1, 2))
    assert global_states() == before
    assert one == same
    assert texts(one) != texts(other)


@pytest.mark.parametrize(
    "options",
    [
        {"prior_share": 1.0},
        {"prior_share": 0.0, "foreign_seeds": 0.0},
        {"prior_share": 0.0, "foreign_seeds": 1.0},
        {"rank_by": None},
        {"rank_by": "formation_energy_per_atom"},
    ],
)
def test_every_source_of_latent_vectors_gives_genes(fitted: FittedGenes, options: dict[str, Any]) -> None:
    assert draw(fitted, n=5, temperature=1.0, **options).genes
    one_seed = replace(fitted, known=fitted.known.part(np.array([0])))
    assert draw(one_seed, n=5, temperature=1.0, **options).genes


def test_predictions_are_those_of_the_property_branch(fitted: FittedGenes) -> None:
    harvest = draw(fitted, n=10)
    again = fitted.predict(gene_set(texts(harvest)))
    for one, row in zip(harvest.genes, again, strict=True):
        assert one.predicted == pytest.approx(dict(zip(fitted.properties, row, strict=True)), abs=1e-5)


# the prior is asked as it was fitted


class Recording(ConditionalPrior):
    """Remembers the conditions that it was fitted on and asked for."""

    seen: list[torch.Tensor]

    def log_probability(
        self, latent: torch.Tensor, present: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        self.seen.append(present)
        return super().log_probability(latent, present, targets)

    def sample(
        self, present: torch.Tensor, targets: torch.Tensor, generator: torch.Generator, spread: float
    ) -> torch.Tensor:
        self.seen.append(present)
        return super().sample(present, targets, generator, spread)


@pytest.mark.parametrize("n_elements", [(1, 1), (3, 3), (4, 4)])
def test_the_prior_is_asked_in_the_words_that_it_was_fitted_in(
    fitted: FittedGenes, n_elements: tuple[int, int]
) -> None:
    orbits = ["Ca:a", "Mg:a", "O:a", "F:a"][: n_elements[0]]
    symbols = tuple(orbit.split(":")[0] for orbit in orbits)
    batch = gene_set(["1|" + "|".join(sorted(orbits))]).batch(fitted.centre, fitted.spread, fitted.device)
    prior, kept = Recording(fitted.network.latent_size, 2), fitted.network.prior
    prior.seen = []
    fitted.network.prior = prior
    try:
        for seed in range(20):  # in some of them the elements are hidden
            fitted.network.losses(batch, torch.Generator().manual_seed(seed), 1.0)
        words = {tuple(row.tolist()) for present in prior.seen for row in present if row.any()}
        prior.seen.clear()
        draw(fitted, Conditions(symbols, n_elements, 10), n=3, prior_share=1.0, max_draws=5)
        assert {tuple(row.tolist()) for present in prior.seen for row in present} == words
        assert len(words) == 1
    finally:
        fitted.network.prior = kept


def test_elements_too_heavy_for_the_model_are_passed_over(fitted: FittedGenes) -> None:
    heavy = Conditions(("Rf", "Mg", "O", "Ca"), (2, 3), 12)
    harvest = draw(fitted, heavy, n=10, prior_share=1.0, temperature=1.0)
    assert harvest.genes
    assert all("Rf" not in one.gene.elements for one in harvest.genes)


# what is allowed


def test_conditions_become_limits_of_the_decoder() -> None:
    allowed = allowed_by(Conditions(("Ca", "O", "F"), (2, 9), 10, spacegroups=(14, 225)), 4)
    assert allowed.elements.nonzero()[:, 0].tolist() == [8, 9, 20]
    assert allowed.spacegroups.nonzero()[:, 0].tolist() == [14, 225]
    assert allowed.n_elements == (2, 4)
    formula = allowed_by(Conditions(("Ca", "O", "F"), (1, 3), 10, formula="CaF2"), 4)
    assert formula.elements.nonzero()[:, 0].tolist() == [9, 20]
    assert formula.n_elements == (2, 2)
    assert formula.spacegroups.nonzero()[:, 0].tolist() == list(range(1, 231))
    assert allowed_by(Conditions(("Ca", "O", "F"), (2, 3), 10), 3, 3).n_elements == (3, 3)


@pytest.mark.parametrize(
    ("elements", "n_elements", "words"),
    [
        ("Ca O F N H", (5, 5), "fewer elements than are asked for; got 5; allowed: up to 4"),
        ("Ca O F", (1, 2), "more elements than are asked for; got 2; allowed: 3 or more"),
        ("Ca O Xx", (1, 3), "no such element; got 'Xx'"),
        ("Ca O Rf", (3, 3), "too few of these elements"),
    ],
)
def test_what_the_network_cannot_write_is_told_in_one_line(
    elements: str, n_elements: tuple[int, int], words: str
) -> None:
    with pytest.raises(OptionsError, match=words) as caught:
        allowed_by(Conditions(tuple(elements.split()), n_elements, 10), 4, 3)
    assert "\n" not in str(caught.value)


# seeds


KNOWN = ["225|Ca:a|O:b", "225|Mg:a|O:b", "225|Cl:a|Na:b", "221|Ca:a|O:c|Ti:b", "225|Ca:a|F:c", "227|Si:a"]


@pytest.mark.parametrize(
    ("conditions", "own", "foreign"),
    [
        (Conditions(("Ca", "Mg", "O"), (2, 2), 9), [0, 1], [2, 4]),
        (Conditions(("Ca", "Mg", "O"), (1, 3), 9), [0, 1], [2, 3, 4, 5]),
        (Conditions(("Ca", "O"), (2, 2), 9, formula="CaO"), [0], [1, 2]),
        (Conditions(("Sr", "F"), (2, 2), 9, formula="SrF2"), [4], [4]),  # the stoichiometry, of any elements
        (Conditions(("Ca", "O"), (2, 2), 9, spacegroups=(225,)), [0], [1, 2, 4]),
        (Conditions(("Ca", "O", "F", "H"), (4, 4), 9), [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]),
    ],
)
def test_seeds_are_of_the_wanted_kind(conditions: Conditions, own: list[int], foreign: list[int]) -> None:
    found = seed_pools(gene_set(KNOWN), conditions)
    assert [pool.tolist() for pool in found] == [own, foreign]


def test_heavy_seeds_are_taken_more_often(fitted: FittedGenes) -> None:
    """Weights of known genes steer the search: all weight on one gene gives its space group."""
    options = {"prior_share": 0.0, "perturbation": 0.3, "foreign_seeds": 0.0, "exclude_known": False}
    wide = Conditions(tuple({e for g in fitted.known.genes for e in g.elements}), (1, 3), 20)
    shares = []
    for text in ("221|Ca:a|O:c|Ti:b", "216|S:a|Zn:c"):
        place = [gene.text() for gene in fitted.known.genes].index(text)
        weights = np.full(len(fitted.known), 1e-9)
        weights[place] = 1.0
        heavy = replace(fitted, known=fitted.known.weighted(weights))
        groups = [one.gene.spacegroup for one in draw(heavy, wide, **options).genes]
        shares.append(np.mean([group == 221 for group in groups]))
    assert shares[0] > 0.6
    assert shares[1] < 0.3


# ranking


def scored(predictions: list[float]) -> list[ScoredGene]:
    return [
        ScoredGene(WyckoffGene(225, ((symbol, "a"),)), {"e_above_hull": value, "other": -value})
        for symbol, value in zip(("Ca", "Mg", "Sr", "Ba", "Na"), predictions, strict=False)
    ]


def first_places(genes: list[ScoredGene], options: SamplingOptions, n: int = 3000) -> dict[str, float]:
    found = Counter(in_order(genes, options, seed)[0].gene.elements[0] for seed in range(n))
    return {symbol: count / n for symbol, count in found.items()}


def test_the_best_prediction_comes_first_without_chance() -> None:
    genes = scored([0.3, -0.1, 0.2, 0.0])
    options = SamplingOptions(rank_scale=0.0)
    assert [one.gene.elements[0] for one in in_order(genes, options, 5)] == ["Mg", "Ba", "Sr", "Ca"]
    by_other = SamplingOptions.model_construct(**{**options.model_dump(), "rank_by": "other"})
    assert [one.gene.elements[0] for one in in_order(genes, by_other, 5)] == ["Ca", "Sr", "Ba", "Mg"]
    unranked = SamplingOptions(rank_by=None)
    assert in_order(genes, unranked, 5) == genes


def test_ranking_draws_with_the_weights_that_it_promises() -> None:
    genes = scored([0.0, 0.05, 0.1])
    found = first_places(genes, SamplingOptions(rank_scale=0.05))
    expected = np.exp([0.0, -1.0, -2.0])
    expected /= expected.sum()
    for symbol, share in zip(("Ca", "Mg", "Sr"), expected, strict=True):
        assert found[symbol] == pytest.approx(share, abs=0.03)


def test_a_wide_ranking_scale_leaves_it_to_chance() -> None:
    genes = scored([0.0, 0.5, 1.0, 0.2])
    found = first_places(genes, SamplingOptions(rank_scale=1000.0))
    assert len(found) == 4
    assert all(share == pytest.approx(0.25, abs=0.04) for share in found.values())
    one, same, other = (in_order(genes, SamplingOptions(rank_scale=1000.0), seed) for seed in (1, 1, 3))
    assert one == same
    assert sorted(map(str, one)) == sorted(map(str, other))
