from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from gene_batches import array_of, known_batch
from pymatgen.core import Element

from models.generators.wycryst import paper_representation as representation
from models.generators.wycryst.accuracy import Reconstruction, compare
from models.generators.wycryst.contract import DecodedGenes, GeneBatch
from models.networks.element_categories import element_categories


@pytest.fixture
def known() -> GeneBatch:
    return known_batch()


# the array


def test_the_array_of_the_cubic_perovskite_row_by_row(known: GeneBatch) -> None:
    array = array_of(known)[0]
    assert array.shape == (224, 3)
    # columns by electronegativity: Ba, Ti, O
    assert array[:103].argmax(dim=0).tolist() == [55, 21, 7]
    assert array[:103].sum().item() == 3.0
    assert array[103].tolist() == [1.0, 1.0, 3.0]
    assert torch.allclose(array[104], torch.tensor([0.2, 0.2, 0.6]))
    assert not array[105].any()
    table = element_categories()
    assert np.array_equal(array[106:198].T.numpy(), table[[56, 22, 8]])
    letters = array[198:]
    assert letters.sum(dim=0).tolist() == [1.0, 1.0, 1.0]
    assert letters.argmax(dim=0).tolist() == [0, 1, 2]  # a, b, c


def test_the_array_counts_the_atoms_of_the_conventional_cell(known: GeneBatch) -> None:
    assert array_of(known)[:, 103].tolist() == [[1, 1, 3], [4, 4, 12], [8, 16, 32], [4, 4, 8], [1, 1, 3]]


def test_an_array_reads_back_to_the_genes_it_was_written_from(known: GeneBatch) -> None:
    array = array_of(known)
    assert torch.equal(representation.read_elements(array, torch.ones(104, dtype=torch.bool)), known.elements)
    assert torch.equal(representation.read_counts(array, 27), known.counts)


def test_what_is_written_below_a_tenth_is_nothing() -> None:
    array = torch.zeros(1, 224, 3)
    array[0, 7] = torch.tensor([0.09, 0.11, 0.4])  # oxygen
    array[0, 8, 2] = 0.5  # fluorine is larger
    array[0, 198, :] = torch.tensor([0.6, 1.4, 2.5])
    array[0, 199, :] = -3.0
    assert representation.read_elements(array, torch.ones(104, dtype=torch.bool)).tolist() == [[0, 8, 9]]
    counts = representation.read_counts(array, 27)
    assert counts[0, :, 0].tolist() == [1, 1, 2]  # halves go to the even number
    assert not counts[0, :, 1:].any()


def test_elements_that_are_not_allowed_are_not_read() -> None:
    array = torch.zeros(1, 224, 3)
    array[0, 7, :] = 0.9
    array[0, 15, :2] = 0.3  # sulphur
    allowed = torch.ones(104, dtype=torch.bool)
    allowed[8] = False
    assert representation.read_elements(array, allowed).tolist() == [[16, 16, 0]]


# element features


def test_every_feature_of_an_element_is_one_of_its_categories() -> None:
    table = element_categories()
    assert table.shape == (119, 92)
    starts = [1, 19, 26, 36, 46, 58, 68, 78, 82, 92]
    for start, stop in itertools.pairwise(starts):
        assert table[:, start:stop].sum(axis=1).max() == 1.0
    assert table[1:84, 1:26].sum() == 2 * 83  # group and period are known of all


@pytest.mark.parametrize(
    ("symbol", "group", "period", "valence", "block"),
    [("Na", 1, 3, 1, 0), ("O", 16, 2, 6, 1), ("Fe", 8, 4, 8, 2), ("Ga", 13, 4, 3, 1), ("Ce", 3, 6, 4, 3)],
)
def test_group_period_valence_and_block_of_elements(
    symbol: str, group: int, period: int, valence: int, block: int
) -> None:
    row = element_categories()[Element(symbol).Z]
    places = [int(row[a:b].argmax()) for a, b in ((1, 19), (19, 26), (46, 58), (78, 82))]
    assert places == [group - 1, period - 1, valence - 1, block]
    assert bool(row[0]) == (symbol == "Ce")


def test_bins_of_measured_properties() -> None:
    table = element_categories()
    assert table[9, 26:36].argmax() == 9  # fluorine 3.98, of 0.5 to 4.0
    assert table[55, 26:36].argmax() == 0  # caesium 0.79
    assert table[2, 26:36].sum() == 0  # helium: not known
    assert table[55, 36:46].argmax() == 9  # caesium 244 pm, of 25 to 250
    assert table[2, 58:68].argmax() == 9  # helium 24.6 eV: ln 3.2, of 1.3 to 3.3


# accuracy


def test_shares_of_what_was_decoded_right(known: GeneBatch) -> None:
    exact = DecodedGenes(known.spacegroup.clone(), known.elements.clone(), known.counts.clone())
    assert compare(exact, known) == Reconstruction(5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    exact.elements[0, 1] = 40  # one slot of gene 0
    exact.spacegroup[1] = 61  # Pbca has a and c with 4 and 8 atoms: another formula
    exact.counts[2, 0, 0] += 1  # spinel: one more letter
    found = compare(exact, known)
    assert found.slot_elements == pytest.approx(14 / 15)
    assert found.elements == pytest.approx(4 / 5)
    assert found.wyckoff == pytest.approx(4 / 5)
    assert found.spacegroup == pytest.approx(4 / 5)
    assert found.formula == pytest.approx(3 / 5)
    assert found.gene == pytest.approx(2 / 5)
