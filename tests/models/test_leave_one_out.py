"""Decisions of the benchmark `wycryst_leave_one_out`, and the crystals that it looks for."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from benchmarks.distinct_crystals import by_energy, distinct
from benchmarks.known_crystals import TARGETS, Target
from benchmarks.wycryst_leave_one_out import known_gene, main


def same_letter(one: str, other: str) -> bool:
    return one[0] == other[0]


def test_each_crystal_counts_once_and_stands_where_its_lowest_stands() -> None:
    crystals, energies = ["b1", "a1", "b2", "c1", "a2"], [-2.0, -3.0, -2.5, -1.0, -2.9]
    assert distinct(crystals, energies, same_letter).places == (1, 2, 3)


def test_the_rank_is_one_more_than_the_distinct_crystals_below() -> None:
    crystals, energies = ["a1", "a2", "a3", "b1", "c1"], [-5.0, -4.9, -4.8, -4.0, -3.0]
    found = distinct(crystals, energies, same_letter)
    place = found.found(crystals, energies, lambda crystal: crystal[0] == "c")
    assert place is not None
    assert (place.rank, place.place) == (3, 4)


def test_a_match_that_itself_repeats_another_crystal_does_not_count_as_that_one() -> None:
    # "a2" is the wanted one, and by the tolerances of the comparison also the same as "a1", which is not.
    crystals, energies = ["a1", "a2"], [-5.0, -4.9]
    found = distinct(crystals, energies, same_letter)
    place = found.found(crystals, energies, lambda crystal: crystal == "a2")
    assert place is not None
    assert place.rank == 2


def test_crystals_without_energy_are_neither_ranked_nor_found() -> None:
    crystals, energies = ["a1", "b1"], [math.nan, -1.0]
    assert by_energy(energies) == [1]
    found = distinct(crystals, energies, same_letter)
    assert found.places == (1,)
    assert found.found(crystals, energies, lambda crystal: crystal == "a1") is None


def test_no_more_crystals_are_compared_than_are_wanted() -> None:
    assert distinct(list("abcd"), [1.0, 2.0, 3.0, 4.0], same_letter, most=2).places == (0, 1)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_the_known_crystals_have_the_formula_and_space_group_that_they_are_named_after(
    target: Target,
) -> None:
    from pymatgen.core import Composition

    structure = target.structure()
    assert structure.composition.reduced_composition == Composition(target.formula)
    assert known_gene(target).spacegroup == target.spacegroup
    assert len(structure) == known_gene(target).atoms_per_primitive_cell
    assert structure.distance_matrix[structure.distance_matrix > 0].min() > 1.8


@pytest.mark.slow
@pytest.mark.long
def test_the_command_writes_a_page_and_its_figures(data_dir: Path, tmp_path: Path) -> None:
    short = ["--limit", "200", "--genes", "20", "--relaxed-genes", "3", "--max-steps", "3", "--workers", "1"]
    output = tmp_path / "page"
    assert main(["--targets", "SrTiO3-221", *short, "--output", str(output)]) == 0
    assert "| SrTiO3 |" in output.with_suffix(".md").read_text(encoding="utf-8")
    figures = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    assert figures["rows"][0]["target"] == "SrTiO3"
    assert list(figures["success"]) == ["SrTiO3-221"]
