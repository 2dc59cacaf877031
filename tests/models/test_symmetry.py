"""The tables of space groups against PyXtal and spglib; projections onto orbits; what joins letters."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import spglib
import torch
from wyckoff_crystals import crystal, random_crystal, with_general_positions

from models.genes import canonical, gene_of
from models.symmetry import (
    LETTERS,
    N_GROUPS,
    free_parameters,
    letter_permutations,
    normaliser_maps,
    operations,
    orbit_maps,
    project,
    tables,
)
from models.wyckoff_table import raw_groups

GROUPS = range(1, N_GROUPS + 1)
LETTERS_OF_ALL_GROUPS = [
    (group, letter) for group in GROUPS for letter in range(int(tables().n_letters[group]))
]


def _apart(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Largest difference of coordinates, lattice translations apart."""
    return torch.remainder(one - other + 0.5, 1.0).sub(0.5).abs().amax(dim=-1)


def test_there_are_1731_letters() -> None:
    assert int(tables().n_letters.sum()) == 1731  # International Tables, volume A
    assert tables().n_letters.argmax() == 47
    assert tables().n_letters[47] == len(LETTERS)


def test_positions_agree_with_pyxtal() -> None:
    symmetry = pytest.importorskip("pyxtal.symmetry")
    known = tables()
    parameters = torch.tensor([0.137, 0.082, 0.295], dtype=torch.float64)
    for group in GROUPS:
        theirs = list(reversed(symmetry.Group(group).Wyckoff_positions))
        assert [position.letter for position in theirs] == list(LETTERS[: len(theirs)])
        assert known.multiplicity[group, : len(theirs)].tolist() == [p.multiplicity for p in theirs]
        assert known.dof[group, : len(theirs)].tolist() == [p.get_dof() for p in theirs]
        assert not known.multiplicity[group, len(theirs) :].any()
        for letter, position in enumerate(theirs):
            maps = orbit_maps(group, letter)
            ours = maps[:, :, :3] @ parameters + maps[:, :, 3]
            expected = torch.tensor(np.array([op.operate(parameters.numpy()) for op in position.ops]))
            distance = _apart(ours[:, None], expected[None])
            assert distance.amin(dim=0).max() < 1e-6
            assert distance.amin(dim=1).max() < 1e-6


def test_the_shipped_table_is_what_its_script_makes() -> None:
    pytest.importorskip("pyxtal")
    path = Path(__file__).parents[2] / "deploy" / "make_wyckoff_positions.py"
    spec = importlib.util.spec_from_file_location("make_wyckoff_positions", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for group in (14, 62, 166, 216):
        shipped = raw_groups()[group - 1]
        assert script.entry(group, shipped["hall"]) == shipped
        assert script.standard_halls()[group] == shipped["hall"]


def test_every_group_is_closed_and_has_its_centrings() -> None:
    known = tables()
    unity = torch.eye(3, dtype=torch.float64)
    for group in GROUPS:
        rotations, translations = operations(group)
        assert len(rotations) == known.multiplicity[group].max()
        centrings = translations[(rotations == unity).all(dim=-1).all(dim=-1)]
        assert len(centrings) == known.centrings[group]
        primitive = known.primitive[group]
        assert torch.linalg.det(primitive).item() == pytest.approx(1.0 / len(centrings))
        assert _apart(primitive[:, None], centrings[None]).amin(dim=1).max() < 1e-9


def test_the_first_maps_are_one_for_each_point_of_a_primitive_cell() -> None:
    known = tables()
    parameters = torch.tensor([0.137, 0.082, 0.295], dtype=torch.float64)
    for group, letter in LETTERS_OF_ALL_GROUPS:
        maps = orbit_maps(group, letter)
        lead = maps[: len(maps) // int(known.centrings[group])]
        points = (lead[:, :, :3] @ parameters + lead[:, :, 3]) @ torch.linalg.inv(known.primitive[group])
        distance = _apart(points[:, None], points[None]) + torch.eye(len(points))
        assert distance.min() > 1e-3, (group, letter)
        assert len(free_parameters(group, letter)) == known.dof[group, letter]


def test_a_projected_point_lies_on_its_orbit_and_none_of_the_orbit_is_nearer() -> None:
    random = torch.Generator().manual_seed(0)
    for group, letter in LETTERS_OF_ALL_GROUPS:
        given = torch.rand(3, 3, generator=random, dtype=torch.float64) * 3.0 - 1.0
        got = project(given, torch.full((3,), group), torch.full((3,), letter))
        maps = orbit_maps(group, letter)
        linear, constant = maps[:, :, :3], maps[:, :, 3]

        def orbit(parameters: torch.Tensor, linear=linear, constant=constant) -> torch.Tensor:
            return torch.einsum("mij,...j->...mi", linear, parameters) + constant

        assert _apart(orbit(got.parameters), got.points[:, None]).amin(dim=1).max() < 1e-9
        shortest = (got.points - given).norm(dim=1)
        tried = torch.rand(40, 1, 3, generator=random, dtype=torch.float64)
        near = got.parameters + 1e-3 * torch.randn(10, 3, 3, generator=random, dtype=torch.float64)
        for parameters in (tried.expand(40, 3, 3), near):
            offset = orbit(parameters) - given[:, None]
            offset -= torch.round(offset)
            assert offset.norm(dim=-1).amin(dim=(0, 2)).sub(shortest).min() > -1e-9, (group, letter)


def test_a_projected_point_is_fixed_by_as_many_operations_as_its_site_symmetry_has() -> None:
    known = tables()
    random = torch.Generator().manual_seed(1)
    spacegroup, letter = torch.tensor(LETTERS_OF_ALL_GROUPS).T
    points = torch.rand(len(letter), 3, generator=random, dtype=torch.float64)
    got = project(points, spacegroup, letter).points
    for (group, index), point in zip(LETTERS_OF_ALL_GROUPS, got, strict=True):
        rotations, translations = operations(group)
        fixed = int((_apart(rotations @ point + translations, point) < 1e-9).sum())
        assert fixed == len(rotations) // int(known.multiplicity[group, index])


def test_projecting_no_points_gives_no_points() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert project(torch.zeros(0, 3), nothing, nothing).points.shape == (0, 3)


@pytest.mark.parametrize(
    ("group", "classes"),
    [
        (1, "a"),
        (2, "abcdefgh i"),
        (62, "ab c d"),
        (122, "ab c d e"),
        (166, "ab c de fg h i"),
        (216, "abcd e fg h i"),
        (221, "ab cd ef g h ij kl m n"),
        (225, "ab c d e f g hi j k l"),
        (227, "ab cd e f g h i"),
    ],
)
def test_letters_that_the_normaliser_joins(group: int, classes: str) -> None:
    rows = letter_permutations(group)
    found = {
        "".join(LETTERS[letter] for letter in sorted(set(rows[:, start].tolist())))
        for start in range(rows.shape[1])
    }
    assert found == set(classes.split())


def test_permutations_of_letters_are_groups_with_the_identity_first() -> None:
    for group in GROUPS:
        rows = letter_permutations(group)
        assert rows[0].tolist() == list(range(rows.shape[1]))
        if group != 2:  # 1344 rows; all that permute 8 points of space over F2, |AGL(3, 2)|
            products = {tuple(row) for row in rows[:, rows].reshape(-1, rows.shape[1]).tolist()}
            assert products == {tuple(row) for row in rows.tolist()}
    assert len(letter_permutations(2)) == 1344


def test_normaliser_maps_send_each_letter_as_the_permutation_says() -> None:
    parameters = torch.tensor([0.137, 0.082, 0.295], dtype=torch.float64)
    for group in GROUPS:
        affine, rows = normaliser_maps(group)[:24], letter_permutations(group)[:24]
        for letter in range(rows.shape[1]):
            first = orbit_maps(group, letter)[0]
            point = first[:, :3] @ parameters + first[:, 3]
            images = affine[:, :, :3] @ point + affine[:, :, 3]
            landed = project(images, torch.full((len(images),), group), rows[:, letter])
            assert (landed.points - images).abs().max() < 1e-9, (group, letter)


def _check_with_spglib(group: int, letter: int) -> None:
    """A crystal with an atom on that letter has that group, and spglib names its site as we do."""
    rng = np.random.default_rng([group, letter])
    gene = with_general_positions(group, [("O", letter)])
    structure = crystal(random_crystal(gene, rng))
    cell = (structure.lattice.matrix, structure.frac_coords, [site.specie.Z for site in structure])
    hall = int(tables().hall_number[group])
    dataset = spglib.get_symmetry_dataset(cell, symprec=1e-3, hall_number=hall)
    assert spglib.get_symmetry_dataset(cell, symprec=1e-3).number == group
    for mark, symbol in zip(dataset.wyckoffs, dataset.site_symmetry_symbols, strict=True):
        assert tables().site_symmetry[group][LETTERS.index(mark)] == symbol
    found = gene_of(structure, symprec=1e-3)
    assert found is not None
    assert found == canonical(gene), (group, LETTERS[letter])
    letters_of_oxygen = {mark for mark, number in zip(dataset.wyckoffs, cell[2], strict=True) if number == 8}
    assert {LETTERS.index(mark) for mark in letters_of_oxygen} <= set(
        letter_permutations(group)[:, letter].tolist()
    )


def test_spglib_finds_the_group_and_letter_of_a_crystal_one_letter_of_each_group() -> None:
    for group in GROUPS:
        _check_with_spglib(group, group % int(tables().n_letters[group]))


@pytest.mark.slow
def test_spglib_finds_the_group_and_letter_of_a_crystal_all_letters() -> None:
    for group, letter in LETTERS_OF_ALL_GROUPS:
        _check_with_spglib(group, letter)
