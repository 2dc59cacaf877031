from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from toy_crystals import binary, toy_crystals

from models.equivalents import equivalent_structures
from models.errors import ModelsError
from models.graph import GraphSet, build_graph, edge_weights
from models.networks.cgcnn import CGCNN, CGCNNConfig, sum_segments


def rocksalt() -> Structure:
    positions = [[0, 0, 0], [0.5, 0.5, 0.5]]
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], positions)


def test_rocksalt_has_six_and_twelve_neighbours() -> None:
    graph = build_graph(rocksalt(), 6.0, 6)
    assert len(graph.atomic_numbers) == 8
    assert np.bincount(graph.centre).tolist() == [6] * 8
    assert graph.distance == pytest.approx(np.full(48, 2.82))
    assert graph.weight == pytest.approx(np.ones(48))
    unlike = graph.atomic_numbers[graph.centre] != graph.atomic_numbers[graph.neighbour]
    assert unlike.all()


def test_a_shell_that_holds_the_last_place_stays_whole() -> None:
    # Of rocksalt's second shell of 12, a limit of 8 would otherwise have to choose 2.
    graph = build_graph(rocksalt(), 6.0, 8)
    assert np.bincount(graph.centre).tolist() == [18] * 8


def test_the_graph_changes_continuously_when_a_bond_passes_the_last_place() -> None:
    def weights(length: float) -> np.ndarray:
        return edge_weights(np.array([0, 0, 0]), np.array([2.0, 2.1, length]), 1, 6.0, 2)

    assert weights(2.1) == pytest.approx([1, 1, 1])
    assert weights(2.2) == pytest.approx([1, 1, 0.5])
    assert weights(2.3) == pytest.approx([1, 1, 0])
    steps = [weights(length)[2] for length in np.linspace(2.1, 2.35, 251)]
    assert np.abs(np.diff(steps)).max() < 0.02


def test_neighbours_fade_out_at_the_cutoff() -> None:
    found = edge_weights(np.array([0, 0, 0, 0]), np.array([5.0, 5.5, 5.75, 6.0]), 1, 6.0, 12)
    assert found == pytest.approx([1, 1, 0.5, 0])
    lonely = build_graph(Structure(Lattice.cubic(20.0), ["Ar"], [[0, 0, 0]]), 6.0, 12)
    assert len(lonely.centre) == 0


def test_batches_join_graphs_without_mixing_them() -> None:
    structures = [item.structure for item in toy_crystals(7)]
    graphs = GraphSet.from_structures(structures, 6.0, 12)
    batch = graphs.batch([4, 1, 4])
    single = [build_graph(structures[i], 6.0, 12) for i in (4, 1, 4)]
    sizes = [len(g.atomic_numbers) for g in single]
    assert batch.atoms_per_crystal.tolist() == sizes
    assert batch.atomic_numbers.tolist() == [int(z) for g in single for z in g.atomic_numbers]
    offsets = np.cumsum([0, *sizes[:-1]])
    expected = np.concatenate([g.neighbour + o for g, o in zip(single, offsets, strict=True)])
    assert batch.neighbour.tolist() == expected.tolist()
    centres = torch.arange(sum(sizes)).repeat_interleave(batch.edges_per_atom)
    assert (
        centres.tolist()
        == np.concatenate([g.centre + o for g, o in zip(single, offsets, strict=True)]).tolist()
    )
    assert batch.distance.numpy() == pytest.approx(np.concatenate([g.distance for g in single]))


def test_a_collapsed_crystal_is_refused_before_neighbours_are_counted() -> None:
    tiny = Structure(Lattice.cubic(0.01), ["Ca"], [[0, 0, 0]])
    with pytest.raises(ModelsError, match="structure 0 of 1"):
        GraphSet.from_structures([tiny], 6.0, 12)


def test_sums_over_segments_allow_empty_ones() -> None:
    values = torch.arange(6.0).reshape(3, 2)
    assert sum_segments(values, torch.tensor([0, 2, 0, 1])).tolist() == [[0, 0], [2, 4], [0, 0], [4, 5]]


@pytest.mark.parametrize("prototype", ["rocksalt", "cscl", "layered"])
def test_an_untrained_network_cannot_tell_descriptions_of_one_crystal_apart(prototype: str) -> None:
    config = CGCNNConfig(hidden=16)
    network = CGCNN(config, 3, seed=5)
    structure = binary("Ti", "O", prototype)
    others = equivalent_structures(structure, seed=1)
    graphs = GraphSet.from_structures([structure, *others.values()], 6.0, 12)
    with torch.no_grad():
        found = network(graphs.batch(np.arange(len(graphs))))
    spread = (found - found[0]).abs().max()
    assert spread < 1e-5, dict(zip(others, (found[1:] - found[0]).abs().amax(1).tolist(), strict=True))
    stretched = structure.copy()
    stretched.scale_lattice(structure.volume * 1.1)
    with torch.no_grad():
        other = network(GraphSet.from_structures([stretched], 6.0, 12).batch([0]))
    assert (other - found[0]).abs().max() > 1e-3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_atoms=st.integers(1, 6))
def test_nor_can_it_with_any_random_crystal(seed: int, n_atoms: int) -> None:
    rng = np.random.default_rng(seed)
    lattice = Lattice.from_parameters(*rng.uniform(3.0, 6.0, 3), *rng.uniform(65.0, 115.0, 3))
    structure = Structure(lattice, rng.integers(1, 95, n_atoms).tolist(), rng.random((n_atoms, 3)))
    others = equivalent_structures(structure, seed)
    graphs = GraphSet.from_structures([structure, *others.values()], 6.0, 12)
    with torch.no_grad():
        found = CGCNN(CGCNNConfig(hidden=8), 2, seed=5)(graphs.batch(np.arange(len(graphs))))
    assert torch.allclose(found, found[:1].expand_as(found), atol=1e-4)


def test_networks_are_made_by_their_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = CGCNN(CGCNNConfig(hidden=8), 1, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, third = CGCNN(CGCNNConfig(hidden=8), 1, seed=3), CGCNN(CGCNNConfig(hidden=8), 1, seed=4)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(first.output.weight, third.output.weight)


def test_every_element_has_finite_properties() -> None:
    from models.networks.elements import N_ELEMENT_FEATURES, element_table

    table = element_table()
    assert table.shape == (119, N_ELEMENT_FEATURES)
    assert np.isfinite(table).all()
    assert len(np.unique(table[1:104], axis=0)) == 103
