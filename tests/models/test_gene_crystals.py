"""Crystals from genes: the right group, atoms apart, sensible cells, the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import spglib
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from strategies import genes

from models.building import MOST_SPREADS, BuildSettings
from models.distances import covalent_radii
from models.errors import GeneError, OptionsError
from models.gene_crystals import build_arrays, build_crystals
from models.genes import WyckoffGene, canonical, gene_of
from models.lattices import LatticeModel
from models.symmetry import LETTERS, tables

DEFAULT = LatticeModel.default()
UNIFORM = BuildSettings(known_parameters=0.0)
PEROVSKITE = WyckoffGene(62, (("Ca", "c"), ("Ti", "b"), ("O", "c"), ("O", "d")))
ROCK_SALT = WyckoffGene(225, (("Na", "a"), ("Cl", "b")))


def genes_of_all_groups(n_each: int, seed: int) -> list[WyckoffGene]:
    """Feasible genes, every group alike; some have more symmetry than their group whatever is drawn."""
    random = np.random.default_rng(seed)
    known, found = tables(), []
    for group in np.repeat(np.arange(1, 231), n_each).tolist():
        n = int(known.n_letters[group])
        orbits: set[tuple[str, str]] = set()
        for element in random.choice(["Li", "Ti", "O", "S"], 3, replace=False).tolist():
            letter = LETTERS[random.integers(max(n - 4, 0), n)]  # the less special letters
            fixed = known.dof[group, LETTERS.index(letter)] == 0
            if not (fixed and letter in {taken for _, taken in orbits}):
                orbits.add((element, letter))
        gene = WyckoffGene(group, tuple(orbits))
        if gene.atoms_per_primitive_cell <= 40:
            found.append(gene)
    return found


def group_of(structure: Structure) -> int:
    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    return int(spglib.get_symmetry_dataset(cell, symprec=0.01).number)


def worst_ratio(structure: Structure) -> float:
    """Smallest distance over the sum of radii, by pymatgen's neighbour finder."""
    radii = covalent_radii().numpy()[list(structure.atomic_numbers)]
    centre, other, _, distance = structure.get_neighbor_list(2.0 * radii.max())
    return float((distance / (radii[centre] + radii[other])).min(initial=np.inf))


def test_every_crystal_has_exactly_the_group_and_the_gene_it_was_built_from() -> None:
    wanted = genes_of_all_groups(1, seed=1)
    built = build_crystals(wanted, [1] * len(wanted), DEFAULT, UNIFORM, seed=0)
    crystals = [(gene, made[0]) for gene, made in zip(wanted, built, strict=True) if made]
    assert len({tables().crystal_system[gene.spacegroup] for gene, _ in crystals}) == 7
    assert len(crystals) > 120
    assert [
        (gene.text(), group_of(made)) for gene, made in crystals if group_of(made) != gene.spacegroup
    ] == []
    assert all(len(made) == gene.atoms_per_primitive_cell for gene, made in crystals)
    assert all(made.composition.reduced_formula == gene.reduced_formula for gene, made in crystals)
    assert min(worst_ratio(made) for _, made in crystals) >= UNIFORM.min_distance_factor - 1e-9


def test_a_thousand_crystals_have_exactly_their_groups() -> None:
    wanted = genes_of_all_groups(6, seed=2)
    built = build_crystals(wanted, [1] * len(wanted), DEFAULT, UNIFORM, seed=0)
    crystals = [(gene, made[0]) for gene, made in zip(wanted, built, strict=True) if made]
    assert len(crystals) > 700
    assert [
        (gene.text(), group_of(made)) for gene, made in crystals if group_of(made) != gene.spacegroup
    ] == []
    assert min(worst_ratio(made) for _, made in crystals) >= UNIFORM.min_distance_factor - 1e-9


def test_the_search_for_operations_refuses_no_more_than_spglib_would() -> None:
    """Where every trial is refused, unverified crystals have another group."""
    wanted = genes_of_all_groups(3, seed=3)
    built = build_crystals(wanted, [1] * len(wanted), DEFAULT, UNIFORM, seed=0)
    refused = [gene for gene, made in zip(wanted, built, strict=True) if not made]
    free = build_crystals(
        refused, [1] * len(refused), DEFAULT, UNIFORM.model_copy(update={"verify": "off"}), seed=0
    )
    groups = [(gene, group_of(made[0])) for gene, made in zip(refused, free, strict=True) if made]
    assert len(groups) > 50
    assert [gene.text() for gene, group in groups if group == gene.spacegroup] == []


@given(gene=genes(), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_built_keeps_group_distances_and_volume(gene: WyckoffGene, seed: int) -> None:
    if gene.atoms_per_primitive_cell > 60:
        return
    options = UNIFORM.model_copy(update={"attempts": 15})
    for made in build_crystals([gene], [2], DEFAULT, options, seed)[0]:
        assert group_of(made) == gene.spacegroup
        assert worst_ratio(made) >= options.min_distance_factor - 1e-9
        share = made.volume / (DEFAULT.volume(gene) / int(tables().centrings[gene.spacegroup]))
        wide = np.exp(MOST_SPREADS * DEFAULT.spread)
        assert 1.0 / wide <= share * (1.0 + 1e-9)
        assert share <= wide * (1.0 + options.volume_growth) ** options.attempts


def test_properties_tell_gene_group_freedom_and_trial() -> None:
    made = build_crystals([PEROVSKITE], [3], DEFAULT, UNIFORM, 0)[0]
    assert [crystal.properties for crystal in made] == [
        {"gene": PEROVSKITE.text(), "spacegroup": 62, "dof": PEROVSKITE.dof, "trial": trial}
        for trial in range(3)
    ]


def test_a_crystal_leads_back_to_its_gene() -> None:
    wanted = [PEROVSKITE, ROCK_SALT, *genes_of_all_groups(1, seed=4)[::3]]
    built = build_crystals(wanted, [1] * len(wanted), DEFAULT, UNIFORM, 0)
    back = [
        (canonical(gene), gene_of(made[0], symprec=0.01))
        for gene, made in zip(wanted, built, strict=True)
        if made
    ]
    assert len(back) > 30
    assert [(gene.text(), found) for gene, found in back if gene != found] == []


def test_a_trial_is_the_same_in_every_batch_and_another_with_another_seed() -> None:
    crowd = genes_of_all_groups(1, seed=5)[:100]
    alone = build_crystals([PEROVSKITE], [4], DEFAULT, UNIFORM, 7)[0]
    among = build_crystals([*crowd, PEROVSKITE], [2] * len(crowd) + [4], DEFAULT, UNIFORM, 7)[-1]
    other = build_crystals([PEROVSKITE], [4], DEFAULT, UNIFORM, 8)[0]
    assert len(alone) == len(among) == len(other) == 4
    for one, two, three in zip(alone, among, other, strict=True):
        assert np.allclose(one.lattice.matrix, two.lattice.matrix, atol=1e-9)
        assert np.allclose(one.frac_coords, two.frac_coords, atol=1e-9)
        assert not np.allclose(one.lattice.matrix, three.lattice.matrix, atol=1e-3)


def test_a_gene_without_any_freedom_gives_one_crystal() -> None:
    assert [len(made) for made in build_crystals([ROCK_SALT], [5], DEFAULT, UNIFORM, 0)] == [1]


def test_a_gene_whose_only_freedom_is_the_axial_ratio_gives_different_cells() -> None:
    nickel_arsenide = WyckoffGene(194, (("Ni", "a"), ("As", "c")))
    made = build_crystals([nickel_arsenide], [4], DEFAULT, UNIFORM, 0)[0]
    assert len({round(crystal.lattice.c / crystal.lattice.a, 3) for crystal in made}) == 4


def test_a_gene_that_always_has_more_symmetry_gives_nothing() -> None:
    simple_cubic = WyckoffGene(207, (("Po", "a"),))  # P432 with one atom is Pm-3m
    assert build_crystals([simple_cubic], [3], DEFAULT, UNIFORM, 0) == [[]]


def test_a_gene_that_cannot_be_packed_gives_fewer_crystals() -> None:
    tight = BuildSettings(known_parameters=0.0, min_distance_factor=1.0, attempts=3, volume_factor=0.3)
    assert build_crystals([PEROVSKITE, ROCK_SALT], [2, 1], DEFAULT, tight, 0)[0] == []


def test_an_infeasible_gene_is_refused() -> None:
    with pytest.raises(GeneError, match="no letter"):
        build_arrays([WyckoffGene(225, (("Na", "z"),))], [1], DEFAULT, UNIFORM, 0)
    with pytest.raises(GeneError, match="no freedom"):
        build_arrays([WyckoffGene(225, (("Na", "a"), ("Cl", "a")))], [1], DEFAULT, UNIFORM, 0)


def test_one_number_of_trials_belongs_to_each_gene() -> None:
    with pytest.raises(OptionsError, match="one number of trials"):
        build_arrays([ROCK_SALT], [1, 1], DEFAULT, UNIFORM, 0)


def test_nothing_asked_is_nothing_built() -> None:
    assert build_crystals([], [], DEFAULT, UNIFORM, 0) == []
    assert build_crystals([ROCK_SALT, PEROVSKITE], [0, 0], DEFAULT, UNIFORM, 0) == [[], []]
    assert len(build_arrays([ROCK_SALT], [0], DEFAULT, UNIFORM, 0).gene) == 0


def test_known_parameters_give_back_a_known_structure_type() -> None:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    def rutile(metal: str, a: float, c: float) -> Structure:
        return Structure.from_spacegroup(
            "P4_2/mnm", Lattice.tetragonal(a, c), [metal, "O"], [[0, 0, 0], [0.305, 0.305, 0]]
        )

    model = LatticeModel.fit([rutile("Ti", 4.59, 2.96), rutile("Sn", 4.74, 3.19)])
    wanted = rutile("Ge", 4.40, 2.87)
    gene = gene_of(wanted)
    assert gene is not None
    matcher = StructureMatcher()
    fits = [
        [matcher.fit(made, wanted) for made in build_crystals([gene], [8], model, options, 0)[0]]
        for options in (BuildSettings(known_parameters=1.0), BuildSettings(known_parameters=0.5), UNIFORM)
    ]
    assert sum(fits[0]) >= 7
    assert sum(fits[1]) >= 4
    assert sum(fits[2]) < sum(fits[0])
