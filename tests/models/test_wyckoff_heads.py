"""Wyckoff genes as tensors, and the head and the discriminator that read them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure
from toy_crystals import binary, read_crystals, toy_crystals

from models.data import LabelledStructure
from models.discriminators.wyckoff import WyckoffDiscriminator, WyckoffDiscriminatorConfig
from models.errors import CheckpointError, GeneError, ModelsError, NotFittedError
from models.gene_batch import TWINS, GeneSet, canonical_of_either_hand, letter_table
from models.genes import WyckoffGene, gene_of
from models.heads.wyckoff import WyckoffHead, WyckoffHeadConfig
from models.networks.wyckoff import WyckoffNetwork, WyckoffNetworkConfig
from models.splitting import split_by_composition
from models.symmetry import LETTERS, letter_permutations, orbit_maps, tables

SMALL = {"hidden": 16, "members": 2, "max_epochs": 15, "fine_tune_epochs": 4}
PEROVSKITE = WyckoffGene.from_text("221|Ba:a|O:c|Ti:b")


@pytest.fixture(scope="module")
def fitted() -> tuple[WyckoffHead, list[LabelledStructure], list[LabelledStructure]]:
    train, held_out = split_by_composition(toy_crystals(150), 0.3, seed=2)
    head = WyckoffHead(WyckoffHeadConfig(**SMALL | {"max_epochs": 30}))
    head.fit(train, held_out, seed=1)
    return head, train, held_out


def random_crystal(spacegroup: int, letter: int, mirrored: bool) -> Structure:
    """Two elements on a letter and one on the general position of a chiral group, without other symmetry."""
    rng = np.random.default_rng(spacegroup)
    known = tables()
    general = int(known.n_letters[spacegroup]) - 1
    lattice = {
        "tetragonal": Lattice.tetragonal(9.0, 13.0),
        "trigonal": Lattice.hexagonal(9.0, 14.0),
        "hexagonal": Lattice.hexagonal(9.0, 14.0),
        "cubic": Lattice.cubic(11.0),
    }[known.crystal_system[spacegroup]]
    symbols, points = [], []
    for symbol, place in (("Na", letter), ("Cl", general), ("O", general)):
        maps = orbit_maps(spacegroup, place).numpy()  # (m, 3, 4)
        orbit = maps[:, :, :3] @ rng.uniform(0.05, 0.45, size=3) + maps[:, :, 3]
        symbols += [symbol] * len(orbit)
        points += list(-orbit if mirrored else orbit)
    return Structure(lattice, symbols, points)


def test_a_token_is_an_element_on_a_letter_with_its_share_of_the_atoms() -> None:
    spinel = WyckoffGene.from_text("227|Al:d|Mg:a|O:e")
    crowded = WyckoffGene(2, (("O", "i"), ("Si", "i"), ("O", "i"), ("Na", "a")))
    batch = GeneSet([spinel, crowded]).batch([1, 0])
    assert batch.spacegroup.tolist() == [2, 227]
    assert batch.tokens_per_gene.tolist() == [3, 3]
    assert sorted(zip(batch.atomic_numbers.tolist(), batch.fraction.tolist(), strict=True)) == [
        (8, pytest.approx(4 / 7)),
        (8, pytest.approx(4 / 7)),
        (11, pytest.approx(1 / 7)),
        (12, pytest.approx(1 / 7)),
        (13, pytest.approx(2 / 7)),
        (14, pytest.approx(2 / 7)),
    ]
    assert batch.pairs_per_token.tolist() == [3] * 6
    assert batch.neighbour.tolist() == [0, 1, 2] * 3 + [3, 4, 5] * 3
    oxygen = batch.atomic_numbers.tolist().index(8)
    assert batch.numbers[oxygen].tolist() == pytest.approx([4 / 7, np.log(2), 0.0])
    assert batch.dof[oxygen] == 3


def test_every_letter_has_a_row_and_the_site_group_times_the_multiplicity_is_the_group() -> None:
    table = letter_table()
    exists = table.multiplicity > 0
    assert sorted(table.row[exists].tolist()) == list(range(table.n_rows))
    assert set(table.site[exists].tolist()) == set(range(table.n_sites))
    order = np.exp(table.log_order) * table.multiplicity
    assert np.allclose(order[221][exists[221]], 48)
    assert np.allclose(order[225][exists[225]], 192)


@pytest.mark.parametrize("spacegroup", sorted({*TWINS, *TWINS.values()}))
def test_a_crystal_and_its_mirror_image_are_one_gene(spacegroup: int) -> None:
    for letter in range(int(tables().n_letters[spacegroup])):
        found = [gene_of(random_crystal(spacegroup, letter, mirrored), 0.01) for mirrored in (False, True)]
        assert found[0] is not None
        assert found[1] is not None
        assert found[0].spacegroup == spacegroup
        assert found[1].spacegroup != spacegroup
        assert canonical_of_either_hand(found[0]) == canonical_of_either_hand(found[1]), LETTERS[letter]


def test_equivalent_genes_and_the_crystal_itself_get_the_same_answer(
    fitted: tuple[WyckoffHead, list[LabelledStructure], list[LabelledStructure]],
) -> None:
    head, _, held_out = fitted
    structures = [item.structure for item in held_out]
    genes = [gene_of(structure) for structure in structures]
    by_structure, by_gene = head.predict(structures), head.predict_genes([g for g in genes if g is not None])
    assert np.array_equal(by_structure.mean, by_gene.mean)
    assert np.array_equal(by_structure.std, by_gene.std)
    others = [
        WyckoffGene(
            221, tuple((symbol, LETTERS[row[LETTERS.index(letter)]]) for symbol, letter in PEROVSKITE.orbits)
        )
        for row in letter_permutations(221).tolist()
    ]
    assert len(set(others)) > 1
    assert np.ptp(head.predict_genes(others).mean) == 0.0


def test_the_answer_does_not_depend_on_the_company(
    fitted: tuple[WyckoffHead, list[LabelledStructure], list[LabelledStructure]],
) -> None:
    head, _, held_out = fitted
    genes = [gene for item in held_out if (gene := gene_of(item.structure)) is not None]
    together = head.predict_genes(genes).mean[:, 0]
    alone = [float(head.predict_genes([gene]).mean[0, 0]) for gene in genes]
    assert np.allclose(together, alone, atol=1e-5)
    assert head.predict_genes([]).mean.shape == (0, 1)


def test_the_head_learns_the_law_behind_the_labels(
    fitted: tuple[WyckoffHead, list[LabelledStructure], list[LabelledStructure]],
) -> None:
    head, _, held_out = fitted
    found = head.evaluate(held_out)
    assert found["mae"] < 0.5 * found["mae_of_mean_predictor"]
    assert found["spearman"] > 0.8
    assert 0.5 < found["z_std"] < 1.5


def test_letters_that_were_never_seen_say_nothing_of_their_own(
    fitted: tuple[WyckoffHead, list[LabelledStructure], list[LabelledStructure]], tmp_path: Path
) -> None:
    head, train, held_out = fitted
    head.save(tmp_path)
    weights = torch.load(next(tmp_path.glob("weights-*.pt")), weights_only=True)["member0.embed_letter"]
    genes = [gene for item in [*train, *held_out] if (gene := gene_of(item.structure)) is not None]
    seen = set(GeneSet(genes).batch(range(len(genes))).letter.tolist())
    learnt = set(torch.nonzero(weights.abs().sum(dim=1)).flatten().tolist())
    assert learnt
    assert learnt <= seen


def test_the_seed_of_a_network_decides_its_weights() -> None:
    config = WyckoffNetworkConfig(hidden=8)
    batch = GeneSet([PEROVSKITE]).batch([0])
    one, same, other = (WyckoffNetwork(config, 1, seed)(batch).item() for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_crystals_without_a_gene_are_named(
    fitted: tuple[WyckoffHead, list[LabelledStructure], list[LabelledStructure]],
) -> None:
    touching = Structure(Lattice.cubic(5.0), ["Na", "Cl"], [[0, 0, 0], [0.001, 0, 0]])
    collapsed = binary("Na", "Cl", "cscl")
    collapsed.scale_lattice(0.1)
    for broken, told in ((touching, "no Wyckoff gene"), (collapsed, "collapsed")):
        with pytest.raises(ModelsError, match=f"structure 1 of 2.*{told}"):
            fitted[0].predict([binary("Na", "Cl", "cscl"), broken])


def test_genes_that_no_crystal_can_have_are_told(
    fitted: tuple[WyckoffHead, list[LabelledStructure], list[LabelledStructure]],
) -> None:
    with pytest.raises(GeneError, match="has no letter z"):
        fitted[0].predict_genes([PEROVSKITE, WyckoffGene(221, (("O", "z"),))])
    with pytest.raises(NotFittedError):
        WyckoffHead().predict_genes([PEROVSKITE])
    with pytest.raises(NotFittedError):
        WyckoffDiscriminator().logit_genes([PEROVSKITE])


def test_thousands_of_genes_are_judged_within_a_second(
    fitted: tuple[WyckoffHead, list[LabelledStructure], list[LabelledStructure]],
) -> None:
    ions = ("Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr", "Ba", "Al", "Ga", "In", "Y", "La")
    genes = [
        WyckoffGene(number, ((a, "a"), (b, "b"), (anion, "c")))
        for number in (75, 89, 123, 221)
        for a in ions
        for b in ions
        for anion in ("O", "S", "F", "N")
        if a != b
    ]
    fitted[0].predict_genes(genes[:10])
    started = time.process_time()
    assert np.isfinite(fitted[0].predict_genes(genes).mean).all()
    assert (time.process_time() - started) / len(genes) < 1e-3


def test_the_discriminator_learns_to_tell_classes_of_crystals_and_of_genes(tmp_path: Path) -> None:
    train, held_out = split_by_composition(toy_crystals(120), 0.3, seed=2)
    found = WyckoffDiscriminator(WyckoffDiscriminatorConfig(**SMALL | {"max_epochs": 40}))
    assert found.fit(train, held_out, seed=1)["auc"] > 0.85
    structures = [item.structure for item in held_out]
    genes = [gene for structure in structures if (gene := gene_of(structure)) is not None]
    assert np.array_equal(found.logit(structures), found.logit_genes(genes))
    assert np.array_equal(found.probability(structures), found.probability_genes(genes))
    found.save(tmp_path)
    assert np.array_equal(WyckoffDiscriminator.load(tmp_path).logit_genes(genes), found.logit_genes(genes))
    with pytest.raises(CheckpointError, match="another kind"):
        WyckoffHead.load(tmp_path)


@pytest.mark.slow
def test_formation_energies_of_real_crystals_are_learnt_without_coordinates(data_dir: Path) -> None:
    train, held_out = split_by_composition(read_crystals(data_dir, "mp_train.parquet", 3000, 20), 0.2, seed=0)
    head = WyckoffHead(WyckoffHeadConfig(members=2, max_epochs=15))
    head.fit(train, [], seed=0)
    found = head.evaluate(held_out)
    assert found["mae"] < 0.2
    assert found["spearman"] > 0.9
