"""Shortest distances under periodicity, against a search over many images and against pymatgen."""

from __future__ import annotations

import numpy as np
import torch
from pymatgen.core import Lattice

from models.distances import ReducedCells, covalent_radii, reduce_lattices, shortest_squared


def _odd_cells(n: int) -> torch.Tensor:
    """Cells of any shape, needles and plates among them."""
    random = np.random.default_rng(0)
    return torch.from_numpy(random.normal(size=(n, 3, 3)) * random.uniform(0.3, 10.0, (n, 3, 1)))


def test_a_reduced_cell_spans_the_same_lattice_with_vectors_as_short_as_pymatgens_niggli_cell() -> None:
    cells = _odd_cells(300)
    reduced = reduce_lattices(cells)
    steps = reduced @ torch.linalg.inv(cells)
    assert torch.allclose(steps, steps.round(), atol=1e-6)
    assert torch.allclose(torch.linalg.det(steps).abs(), torch.ones(300, dtype=torch.float64))
    for before, after in zip(cells[:100].numpy(), reduced[:100].numpy(), strict=True):
        niggli = np.sort(Lattice(before).get_niggli_reduced_lattice(tol=1e-8).abc)
        assert np.allclose(np.linalg.norm(after, axis=1), niggli, rtol=1e-6)


def test_the_shortest_image_is_the_shortest_of_a_thousand() -> None:
    cells = ReducedCells.of(_odd_cells(500), torch.eye(3, dtype=torch.float64).expand(500, 3, 3))
    shifts = torch.from_numpy(np.random.default_rng(1).uniform(-3.0, 3.0, (500, 6, 3)))
    found = shortest_squared(shifts, cells.metric)
    images = torch.cartesian_prod(*[torch.arange(-4, 5)] * 3).double()
    every = (shifts - shifts.round())[:, :, None] + images
    expected = (every @ cells.lattice[:, None]).square().sum(-1).amin(-1)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_conventional_fractions_go_into_the_reduced_primitive_cell() -> None:
    conventional = torch.diag(torch.tensor([4.0, 5.0, 9.0], dtype=torch.float64))[None]
    body_centred = torch.tensor([[[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]]]).double()
    cells = ReducedCells.of(conventional, body_centred)
    points = torch.tensor([[[0.5, 0.5, 0.5], [0.25, 0.0, 0.0]]]).double()
    found = shortest_squared(points @ cells.from_conventional, cells.metric)
    assert torch.allclose(found, torch.tensor([[0.0, 1.0]], dtype=torch.float64), atol=1e-12)


def test_every_element_has_a_radius() -> None:
    radii = covalent_radii()
    assert radii.shape == (119,)
    assert radii[0] == 0.0
    assert radii[1:].min() == radii[1:].clamp(min=0.25).min()
    assert [round(float(radii[z]), 2) for z in (1, 6, 8, 56)] == [0.31, 0.76, 0.66, 2.15]
