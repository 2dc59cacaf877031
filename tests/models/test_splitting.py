from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_crystals import binary, toy_crystals

from models.data import LabelledStructure
from models.errors import OptionsError
from models.splitting import folds_by_composition, split_by_composition


def formulas(items: list[LabelledStructure]) -> set[str]:
    return {item.structure.composition.reduced_formula for item in items}


CRYSTALS = toy_crystals(120)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 120), fraction=st.floats(0.01, 0.9), seed=st.integers(0, 2**40))
def test_no_formula_is_on_both_sides_and_nothing_is_lost(n: int, fraction: float, seed: int) -> None:
    items = CRYSTALS[:n]
    train, held_out = split_by_composition(items, fraction, seed)
    assert not formulas(train) & formulas(held_out)
    assert sorted(map(id, [*train, *held_out])) == sorted(map(id, items))
    if len(formulas(items)) > 1:
        assert train
        assert held_out


def test_the_share_is_about_right() -> None:
    train, held_out = split_by_composition(CRYSTALS, 0.25, 1)
    assert 0.1 < len(held_out) / (len(train) + len(held_out)) < 0.4


def test_a_formula_keeps_its_side_when_crystals_arrive() -> None:
    held_before = formulas(split_by_composition(CRYSTALS[:60], 0.2, 7)[1])
    held_after = formulas(split_by_composition(CRYSTALS, 0.2, 7)[1])
    assert held_before
    assert held_before == held_after & formulas(CRYSTALS[:60])


def test_seeds_hold_out_other_formulas() -> None:
    assert formulas(split_by_composition(CRYSTALS, 0.2, 1)[1]) != formulas(
        split_by_composition(CRYSTALS, 0.2, 2)[1]
    )


def test_one_formula_is_not_split() -> None:
    polymorphs = [LabelledStructure(binary("Ca", "O", name)) for name in ("rocksalt", "cscl")]
    assert split_by_composition(polymorphs, 0.5, 0) == (polymorphs, [])
    assert split_by_composition(CRYSTALS, 0.0, 0) == (CRYSTALS, [])


def test_an_impossible_share_is_refused() -> None:
    with pytest.raises(OptionsError, match="impossible"):
        split_by_composition(CRYSTALS, 1.0, 0)


@settings(max_examples=40, deadline=None)
@given(fraction=st.floats(0.0, 0.9), n_folds=st.integers(1, 9), seed=st.integers(0, 2**40))
def test_a_formula_is_in_one_fold_at_most(fraction: float, n_folds: int, seed: int) -> None:
    folds = folds_by_composition(CRYSTALS, fraction, n_folds, seed)
    of_formula: dict[str, set[int]] = {}
    for item, fold in zip(CRYSTALS, folds.tolist(), strict=True):
        of_formula.setdefault(item.structure.composition.reduced_formula, set()).add(fold)
    assert all(len(found) == 1 for found in of_formula.values())
    assert set(folds.tolist()) <= set(range(-1, n_folds))


def test_folds_have_about_their_share() -> None:
    folds = folds_by_composition(CRYSTALS, 0.15, 4, seed=1)
    sizes = [int((folds == fold).sum()) / len(CRYSTALS) for fold in range(4)]
    assert all(0.02 < size < 0.35 for size in sizes)
    assert 0.35 < sum(sizes) < 0.85
    assert set(folds_by_composition(CRYSTALS, 0.9, 2, seed=1).tolist()) == {0, 1}
    assert set(folds_by_composition(CRYSTALS, 0.0, 2, seed=1).tolist()) == {-1}
