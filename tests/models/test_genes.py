"""Wyckoff genes: text, arrays, feasibility, one canonical gene for all descriptions of one crystal."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import DummySpecies, Lattice, Structure
from wyckoff_crystals import crystal, random_crystal, with_general_positions

from models.equivalents import equivalent_structures
from models.errors import GeneError
from models.genes import (
    RefinedCrystal,
    WyckoffGene,
    arrays_from_genes,
    canonical,
    feasible,
    gene_of,
    genes_from_arrays,
    orbits_of,
    problems,
    require_feasible,
    slot_order,
)
from models.symmetry import LETTERS, N_GROUPS, letter_permutations, normaliser_maps, tables

PEROVSKITE = WyckoffGene(221, (("Ti", "a"), ("Ba", "b"), ("O", "d")))


def _perovskite() -> Structure:
    points = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Structure(Lattice.cubic(4.0), ["Ba", "Ti", "O", "O", "O"], points)


def test_a_gene_counts_atoms_and_freedom() -> None:
    gene = WyckoffGene.from_text("225|Na:a|Cl:b|O:e")
    assert gene.elements == ("O", "Na", "Cl")
    assert gene.composition == {"O": 24, "Na": 4, "Cl": 4}
    assert (gene.n_orbits, gene.dof) == (3, 1)
    assert (gene.atoms_per_conventional_cell, gene.atoms_per_primitive_cell) == (32, 8)
    assert gene.reduced_formula == "NaClO6"


def test_the_order_of_orbits_makes_no_other_gene() -> None:
    one, other = (WyckoffGene(62, pairs) for pairs in ((("O", "d"), ("Ca", "c")), (("Ca", "c"), ("O", "d"))))
    assert one == other
    assert hash(one) == hash(other)
    assert one.text() == "62|Ca:c|O:d"


@given(strategies.genes())
def test_text_reads_back(gene: WyckoffGene) -> None:
    assert WyckoffGene.from_text(gene.text()) == gene
    assert problems(gene) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not the text"),
        ("Pm-3m|Ba:a", "not the text"),
        ("221|Ba", "not the text"),
        ("221|Ba:a:b", "not the text"),
        ("0|Ba:a", "no space group 0"),
        ("231|Ba:a", "no space group 231"),
        ("221", "no orbit"),
        ("221|Xx:a", "no element Xx"),
        ("221|Ba:o", "no letter o"),
        ("221|Ba:ab", "no letter ab"),
        ("221|Ba:", "no letter"),
        ("221|Ba:A", "no letter A"),
        ("221|Ba:a|O:a", "letter a of space group 221 has no freedom and is taken 2 times"),
    ],
)
def test_text_that_spells_no_gene_is_refused(text: str, told: str) -> None:
    with pytest.raises(GeneError, match=told):
        WyckoffGene.from_text(text)


def test_an_infeasible_gene_has_no_canonical_one() -> None:
    with pytest.raises(GeneError, match="no letter z"):
        canonical(WyckoffGene(1, (("O", "z"),)))
    require_feasible(PEROVSKITE)


def _random_arrays(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Genes of which some are feasible: distinct elements, full slots, letters at random."""
    rng = np.random.default_rng(seed)
    spacegroup = rng.integers(1, N_GROUPS + 1, n)
    elements = np.argsort(rng.random((n, 60)), axis=1)[:, :3] + 1
    elements[np.arange(3) >= rng.integers(1, 4, (n, 1))] = 0
    counts = np.zeros((n, 3, 27), dtype=np.int64)
    letter = (
        (rng.random((n, 3)) * tables().n_letters.numpy()[spacegroup][:, None] * 1.1).astype(int).clip(0, 26)
    )
    np.put_along_axis(counts, letter[:, :, None], rng.integers(1, 3, (n, 3, 1)), axis=2)
    counts[elements == 0] = 0
    return spacegroup, elements, counts


def test_feasible_agrees_with_problems() -> None:
    arrays = _random_arrays(3000, seed=0)
    got = feasible(*arrays)
    assert got.tolist() == [problems(gene) == [] for gene in genes_from_arrays(*arrays)]
    assert 300 < got.sum() < 2700


def test_feasible_refuses_what_no_gene_can_say() -> None:
    spacegroup, elements, counts = arrays_from_genes([PEROVSKITE] * 9, n_slots=4)
    assert feasible(spacegroup, elements, counts).all()
    spacegroup[0], spacegroup[1] = 0, 231
    elements[2, 1] = elements[2, 0]  # twice
    elements[3, 0] = 0  # orbits without an element
    counts[4, 0] = 0  # an element without orbits
    elements[5, 0], elements[6, 0] = -1, 119
    counts[7, 0, 5] = -1
    elements[8], counts[8] = 0, 0
    assert not feasible(spacegroup, elements, counts).any()


def test_ten_thousand_genes_are_checked_in_fifty_milliseconds() -> None:
    arrays = _random_arrays(10_000, seed=1)

    def once() -> float:
        started = time.perf_counter()
        feasible(*arrays)
        return time.perf_counter() - started

    assert min(once() for _ in range(5)) < 0.05


@given(st.lists(strategies.genes(), min_size=1, max_size=5))
def test_arrays_read_back(genes: list[WyckoffGene]) -> None:
    arrays = arrays_from_genes(genes, n_slots=4)
    assert genes_from_arrays(*arrays) == genes
    assert feasible(*arrays).all()


def test_slots_are_ordered_by_electronegativity() -> None:
    _, elements, counts = arrays_from_genes([PEROVSKITE], n_slots=4)
    assert elements.tolist() == [[56, 22, 8, 0]]  # Ba .89, Ti 1.54, O 3.44
    assert counts.nonzero()[1:][0].tolist() == [0, 1, 2]
    order = slot_order()
    assert sorted(order.tolist()) == list(range(119))
    assert order[9] < order[2] < order[10] < order[0]  # F, then He and Ne without a value, then nothing
    with pytest.raises(GeneError, match="more elements than there are slots"):
        arrays_from_genes([PEROVSKITE], n_slots=2)


@given(strategies.genes(), st.integers(0, 2**32 - 1))
def test_all_rows_of_the_normaliser_lead_to_one_canonical_gene(gene: WyckoffGene, choice: int) -> None:
    rows = letter_permutations(gene.spacegroup)
    row = rows[choice % len(rows)].tolist()
    other = WyckoffGene(
        gene.spacegroup,
        tuple((symbol, LETTERS[row[LETTERS.index(letter)]]) for symbol, letter in gene.orbits),
    )
    smallest = canonical(gene)
    assert canonical(other) == smallest
    assert canonical(smallest) == smallest
    assert smallest <= other
    assert (smallest.dof, smallest.composition) == (gene.dof, gene.composition)


def test_a_canonical_gene_takes_a_third_of_a_millisecond() -> None:
    _, elements, counts = arrays_from_genes([WyckoffGene.from_text("14|Ca:a|Ti:b|O:e|O:e|O:e")], n_slots=3)
    groups = np.arange(10, 231)
    genes = [
        gene
        for gene in genes_from_arrays(groups, np.tile(elements, (221, 1)), np.tile(counts, (221, 1, 1)))
        if not problems(gene)
    ]
    assert len(genes) > 50

    def once() -> float:
        canonical.cache_clear()
        started = time.perf_counter()
        for gene in genes:
            canonical(gene)
        return (time.perf_counter() - started) / len(genes)

    assert min(once() for _ in range(3)) < 3e-4


def test_the_gene_of_perovskite() -> None:
    found = gene_of(_perovskite())
    assert found == canonical(PEROVSKITE)
    assert found is not None
    assert found.text() == "221|Ba:a|O:c|Ti:b"
    described = orbits_of(_perovskite())
    assert described is not None
    assert described.gene == found
    assert described.lattice == pytest.approx(4.0 * np.eye(3), abs=1e-6)


def test_charges_do_not_change_the_gene() -> None:
    charged = _perovskite()
    charged.add_oxidation_state_by_element({"Ba": 2, "Ti": 4, "O": -2})
    assert gene_of(charged) == canonical(PEROVSKITE)


def _broken() -> dict[str, Structure]:
    cube = Lattice.cubic(4.0)
    return {
        "no atoms": Structure(cube, [], []),
        "two atoms in one place": Structure(cube, ["Na", "Na"], [[0, 0, 0], [0, 0, 0]]),
        "not a number": Structure(cube, ["Na"], [[0, 0, float("nan")]]),
        "infinite": Structure(cube, ["Na"], [[0, 0, float("inf")]]),
        "flat cell": Structure(Lattice([[4, 0, 0], [0, 4, 0], [0, 4, 0]]), ["Na"], [[0, 0, 0]]),
        "cell not a number": Structure(Lattice(np.full((3, 3), np.nan)), ["Na"], [[0, 0, 0]]),
        "partial occupation": Structure(cube, [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]]),
        "dummy": Structure(cube, [DummySpecies("X")], [[0, 0, 0]]),
    }


@pytest.mark.parametrize("name", sorted(_broken()))
def test_a_broken_crystal_has_no_gene(name: str) -> None:
    assert gene_of(_broken()[name]) is None
    assert orbits_of(_broken()[name]) is None


def _described_otherwise(described: RefinedCrystal, affine: np.ndarray) -> Structure:
    """The crystal in other axes and from another origin, x' = W x + w."""
    structure = crystal(described)
    matrix, shift = affine[:, :3], affine[:, 3]
    conventional = structure.cart_coords @ np.linalg.inv(described.lattice)
    points = conventional @ matrix.T + shift
    lattice = np.linalg.inv(matrix).T @ described.lattice
    primitive = structure.lattice.matrix
    return Structure(Lattice(primitive), structure.species, points @ lattice, coords_are_cartesian=True)


def test_a_normaliser_element_leaves_the_canonical_gene_in_every_group() -> None:
    rng = np.random.default_rng(5)
    known = tables()
    for group in range(1, N_GROUPS + 1):
        letters = rng.choice(int(known.n_letters[group]), 2)
        if len(set(letters)) == 1 and known.dof[group, letters[0]] == 0:
            letters = letters[:1]
        gene = with_general_positions(group, list(zip(("O", "Ti"), letters.tolist(), strict=False)))
        described = random_crystal(gene, rng)
        maps = normaliser_maps(group)
        affine = maps[int(rng.integers(len(maps)))].numpy()
        found = gene_of(_described_otherwise(described, affine), symprec=1e-3)
        assert found == canonical(gene), group


def test_orbits_of_describe_the_same_crystal_in_every_group() -> None:
    rng = np.random.default_rng(6)
    for group in range(1, N_GROUPS + 1):
        letter = int(rng.integers(int(tables().n_letters[group])))
        gene = with_general_positions(group, [("O", letter)])
        given_crystal = crystal(random_crystal(gene, rng))
        found = orbits_of(given_crystal, symprec=1e-3)
        assert found is not None
        assert found.gene == canonical(gene)
        again = crystal(found)
        assert again.volume == pytest.approx(given_crystal.volume, rel=1e-6)
        one, other = (np.sort(_distances(structure)) for structure in (given_crystal, again))
        n = min(len(one), len(other)) // 2  # those on the rim may be in or out
        assert one[:n] == pytest.approx(other[:n], abs=1e-5), group


def _distances(structure: Structure) -> np.ndarray:
    """Distances [Å] up to 5 Å from the atoms of Na, which is everywhere in general position."""
    centres = [site for site in structure if site.specie.symbol == "Na"]
    _, _, _, distance = structure.get_neighbor_list(5.0, sites=centres)
    return np.asarray(distance)


def _shared(data_dir: Path, n: int) -> list[dict[str, Any]]:
    pandas = pytest.importorskip("pandas")
    path = data_dir / "mp_train.parquet"
    if not path.is_file():
        pytest.skip("no mp_train.parquet in the reference data")
    rows: list[dict[str, Any]] = pandas.read_parquet(path).sample(n, random_state=1).to_dict("records")
    return rows


def _structure(row: dict[str, Any]) -> Structure:
    lattice = np.array(row["lattice"], dtype=float).reshape(3, 3)
    coords = np.array(list(row["frac_coords"]), dtype=float).reshape(-1, 3)
    return Structure(lattice, list(row["atomic_numbers"]), coords)


def test_genes_of_real_crystals_agree_with_the_letters_of_the_reference_data(data_dir: Path) -> None:
    for row in _shared(data_dir, 200):
        found = gene_of(_structure(row))
        assert found is not None
        assert found.spacegroup == row["spacegroup"]
        letters = json.loads(str(row["wyckoff"]))
        orbits = tuple((symbol, mark[-1]) for symbol, marks in letters.items() for mark in marks)
        assert found == canonical(WyckoffGene(found.spacegroup, orbits)), row["material_id"]


def test_a_real_crystal_described_otherwise_has_the_same_gene(data_dir: Path) -> None:
    for seed, row in enumerate(_shared(data_dir, 40)):
        structure = _structure(row)
        found = gene_of(structure)
        for how, other in equivalent_structures(structure, seed).items():
            again = gene_of(other)
            if how == "mirrored" and again is not None and again.spacegroup != row["spacegroup"]:
                continue  # the other of an enantiomorphic pair: another group, and so another gene
            assert again == found, (row["material_id"], how)


@settings(max_examples=20)
@given(strategies.structures(min_distance_ang=1.2), st.data())
def test_descriptions_of_a_crystal_without_symmetry_have_one_gene(
    structure: Structure, data: st.DataObject
) -> None:
    other = data.draw(strategies.descriptions(structure))
    assert gene_of(structure, symprec=1e-3) == gene_of(other, symprec=1e-3)
