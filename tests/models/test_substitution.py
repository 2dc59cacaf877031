"""The substitution generator: what it proposes, how it learns, and the table it draws from."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.analysis.structure_prediction.substitution_probability import SubstitutionProbability
from pymatgen.core import Element, Lattice, Structure

from models.data import E_ABOVE_HULL, Conditions, LabelledStructure
from models.errors import CheckpointError, ModelsError, NotFittedError, TrainingDataError
from models.generators.ionic import ionic_table
from models.generators.prototypes import classify, fingerprint
from models.generators.substitution import SubstitutionGenerator
from models.testing import reference_crystals

ROCK_SALT, CAESIUM_CHLORIDE = "AB_225_4(m-3m)_4(m-3m)", "AB_221_1(m-3m)_1(m-3m)"
ZINC_BLENDE, FLUORITE = "AB_216_4(-43m)_4(-43m)", "AB2_225_4(m-3m)_8(-43m)"
CONDITIONS = Conditions(("Ca", "Mg", "Sr", "Ti", "O", "F", "Cl"), (2, 3), 12)


@pytest.fixture(scope="module")
def fitted() -> SubstitutionGenerator:
    model = SubstitutionGenerator()
    model.fit(reference_crystals(), 0)
    return model


def number(symbol: str) -> int:
    return int(Element(symbol).Z)


def parts(crystal: Structure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return crystal.lattice.matrix, crystal.frac_coords, np.array(crystal.atomic_numbers)


# --- the table ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [("Na+", "K+"), ("Mg2+", "Ca2+"), ("O2-", "S2-"), ("Cl-", "Br-")])
def test_ions_have_pymatgens_probability(old: str, new: str) -> None:
    table = ionic_table()
    row = table.ions.index((number(old.rstrip("+-123456")), _charge(old)))
    expected = SubstitutionProbability().cond_prob(old, new)
    assert np.exp(table.log_p[row, number(new.rstrip("+-123456"))]) == pytest.approx(expected, rel=1e-6)


def _charge(ion: str) -> int:
    digits = "".join(letter for letter in ion if letter.isdigit()) or "1"
    return int(digits) * (-1 if ion.endswith("-") else 1)


@pytest.mark.parametrize(
    ("formula", "charges"),
    [
        ({"Na": 1, "Cl": 1}, {"Na": 1, "Cl": -1}),
        ({"Ca": 1, "Ti": 1, "O": 3}, {"Ca": 2, "Ti": 4, "O": -2}),
        ({"Li": 1, "Fe": 1, "P": 1, "O": 4}, {"Li": 1, "Fe": 2, "P": 5, "O": -2}),
        ({"Cu": 1, "Zn": 1}, None),
        ({"Mg": 2, "Si": 1}, None),
        ({"Fe": 3, "O": 4}, None),
        ({"Al": 1}, None),
    ],
)
def test_oxidation_states(formula: dict[str, int], charges: dict[str, int] | None) -> None:
    table = ionic_table()
    found = table.guess_ions(tuple(number(s) for s in formula), tuple(formula.values()))
    if charges is None:
        assert found is None
    else:
        assert found is not None
        assert [table.ions[row] for row in found] == [(number(s), q) for s, q in charges.items()]


def test_unassignable_elements_still_know_their_likes() -> None:
    table = ionic_table()
    rows = table.log_p[len(table.ions) :]
    for element, like, unlike in (
        ("Si", "Ge", "Cl"),
        ("Ca", "Sr", "N"),
        ("Cu", "Ag", "O"),
        ("Ne", "Ar", "Fe"),
    ):
        row = rows[number(element)]
        assert row[number(element)] >= row[number(like)] > row[number(unlike)]
    assert np.isfinite(table.log_p).all()


# --- what it proposes ---------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    elements=st.lists(
        st.sampled_from(["Li", "Na", "Ca", "Ti", "Fe", "Cu", "Zn", "Al", "Si", "O", "S", "F", "Xe"]),
        min_size=1, max_size=6, unique=True,
    ),
    low=st.integers(1, 3), extra=st.integers(0, 2), max_atoms=st.integers(1, 20), seed=st.integers(0, 99),
)  # fmt: skip
def test_it_never_leaves_the_conditions(  # noqa: PLR0917
    fitted: SubstitutionGenerator, elements: list[str], low: int, extra: int, max_atoms: int, seed: int
) -> None:
    conditions = Conditions(tuple(elements), (min(low, len(elements)), low + extra), max_atoms)
    crystals = fitted.sample(12, conditions, seed)
    assert all(conditions.allows(crystal) for crystal in crystals)
    assert crystals == fitted.sample(12, conditions, seed)


def test_provenance_tells_what_was_exchanged(fitted: SubstitutionGenerator) -> None:
    for crystal in fitted.sample(20, CONDITIONS, 3):
        told = json.loads(json.dumps(crystal.properties))
        assert set(told) == {"prototype", "source", "substitution"}
        assert set(told["substitution"].values()) == {site.specie.symbol for site in crystal}
        kind = classify(*parts(crystal))
        assert kind is not None
        assert kind.label == told["prototype"]


def test_likely_substitutions_come_first(fitted: SubstitutionGenerator) -> None:
    cold = SubstitutionGenerator(SubstitutionGenerator.Config(temperature=0.05, hull_scale_ev_per_atom=10.0))
    cold.fit(reference_crystals(), 0)
    first = cold.sample(1, Conditions(("Sr", "O"), (2, 2), 2), 0)[0]
    # SrO is rock salt in nature; it is drawn before its caesium chloride and zinc blende forms.
    assert first.properties["prototype"] == ROCK_SALT


def test_known_crystals_are_left_out_unless_wanted() -> None:
    conditions = Conditions(("Ca", "O"), (2, 2), 2)
    for exclude in (True, False):
        model = SubstitutionGenerator(SubstitutionGenerator.Config(exclude_known=exclude))
        model.fit(reference_crystals(), 0)
        kinds = {crystal.properties["prototype"] for crystal in model.sample(100, conditions, 0)}
        assert (ROCK_SALT in kinds) is not exclude


def test_exhaustion_gives_fewer_and_each_once(fitted: SubstitutionGenerator) -> None:
    conditions = Conditions(("Sr", "O"), (2, 2), 3)
    crystals = fitted.sample(1000, conditions, 0)
    # rock salt and caesium chloride once each (their halves are equal), zinc blende once, fluorite both ways
    assert sorted(crystal.properties["prototype"] for crystal in crystals) == [
        FLUORITE, FLUORITE, ZINC_BLENDE, CAESIUM_CHLORIDE, ROCK_SALT,
    ]  # fmt: skip
    matcher = StructureMatcher(scale=True)
    for place, one in enumerate(crystals):
        assert not any(matcher.fit(one, other) for other in crystals[:place])
    assert len(fitted.sample(1000, conditions, 7)) == len(crystals)


def test_volumes_are_near_those_of_nature(fitted: SubstitutionGenerator) -> None:
    for elements, kind, edge in ((("Sr", "O"), ROCK_SALT, 5.16), (("Ni", "Ti"), CAESIUM_CHLORIDE, 3.01)):
        crystals = fitted.sample(100, Conditions(elements, (2, 2), 2), 0)
        found = next(crystal for crystal in crystals if crystal.properties["prototype"] == kind)
        volume = edge**3 / (4 if kind == ROCK_SALT else 1)
        assert found.volume == pytest.approx(volume, rel=0.25)


def test_elements_without_prototypes_give_nothing(fitted: SubstitutionGenerator) -> None:
    assert fitted.sample(5, Conditions(("Li", "Be", "B", "C", "N"), (5, 5), 20), 0) == []


def test_more_pairs_than_the_guard_allows_are_thinned_by_seed() -> None:
    model = SubstitutionGenerator(SubstitutionGenerator.Config(max_pairs=60))
    model.fit(reference_crystals(), 0)
    conditions = Conditions(("Li", "Na", "K", "Ca", "Sr", "Ti", "Zr", "O", "S", "F"), (2, 3), 5)
    first, second = (model.sample(10, conditions, seed) for seed in (0, 1))
    assert first
    assert first != second
    assert all(conditions.allows(crystal) for crystal in [*first, *second])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model: SubstitutionGenerator().sample(1, CONDITIONS, 0), "no prototypes"),
        (lambda model: model.sample(1, Conditions(("Xx",), (1, 1), 4), 0), "no such element"),
        (lambda model: model.fine_tune([], [], 0), "nothing to learn"),
        (lambda model: SubstitutionGenerator().fit([_disordered()], 0), "no ordered crystal"),
    ],
)
def test_mistakes_are_one_line(fitted: SubstitutionGenerator, call, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelsError, match=words) as caught:
        call(fitted)
    assert "\n" not in caught.value.one_line()


def _disordered() -> LabelledStructure:
    return LabelledStructure(Structure(Lattice.cubic(3), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]]))


def test_a_disordered_reference_crystal_is_set_aside() -> None:
    model = SubstitutionGenerator()
    model.fit([_disordered(), *reference_crystals()], 0)
    assert len(model.sample(5, CONDITIONS, 0)) == 5


# --- how it learns ------------------------------------------------------------------------------------------


def test_labels_move_the_odds_of_prototypes() -> None:
    conditions = Conditions(("Sr", "Mg", "Ti", "S", "Se", "Te", "F"), (2, 2), 2)
    model = SubstitutionGenerator()
    model.fit(reference_crystals(), 0)

    def share(kind: str) -> float:
        drawn = [c for seed in range(25) for c in model.sample(4, conditions, seed)]
        return sum(crystal.properties["prototype"] == kind for crystal in drawn) / len(drawn)

    before = share(CAESIUM_CHLORIDE)
    labelled = [
        LabelledStructure(crystal, {E_ABOVE_HULL: 0.0 if "221" in crystal.properties["prototype"] else 0.8})
        for seed in range(3)
        for crystal in model.sample(20, conditions, seed)
    ]
    model.fine_tune(labelled, [], 0)
    assert share(CAESIUM_CHLORIDE) > before + 0.15
    odds = model.learnt_log_odds()
    assert odds[CAESIUM_CHLORIDE] > 0 > odds[ROCK_SALT]


def test_learning_adds_up_and_survives_saving(tmp_path: Path) -> None:
    model = SubstitutionGenerator()
    model.fit(reference_crystals(), 0)
    crystals = model.sample(6, CONDITIONS, 0)
    labelled = [LabelledStructure(c, {E_ABOVE_HULL: 0.1 * i}) for i, c in enumerate(crystals)]
    for item in labelled:
        model.fine_tune([item], [], 0)
    at_once = SubstitutionGenerator()
    at_once.fit(reference_crystals(), 0)
    at_once.fine_tune([*labelled, LabelledStructure(crystals[0], {E_ABOVE_HULL: None})], [], 0)
    assert model.learnt_log_odds() == at_once.learnt_log_odds() != {}
    model.save(tmp_path / "model")
    loaded = SubstitutionGenerator.load(tmp_path / "model")
    assert loaded.learnt_log_odds() == model.learnt_log_odds()
    with pytest.raises(TrainingDataError):
        model.fine_tune([LabelledStructure(crystals[0], {E_ABOVE_HULL: None})], [], 0)


def test_a_crystal_that_lost_its_provenance_is_recognised() -> None:
    model = SubstitutionGenerator()
    model.fit(reference_crystals(), 0)
    crystal = model.sample(1, CONDITIONS, 0)[0]
    label = crystal.properties["prototype"]
    bare = Structure(crystal.lattice, crystal.species, crystal.frac_coords) * (2, 1, 1)
    model.fine_tune([LabelledStructure(bare, {E_ABOVE_HULL: 0.0})], [], 0)
    assert set(model.learnt_log_odds()) == {label}


def test_nothing_is_saved_before_fit_and_nothing_loaded_from_nowhere(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        SubstitutionGenerator().save(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with pytest.raises(CheckpointError):
        SubstitutionGenerator.load(tmp_path / "model")


# --- prototypes ---------------------------------------------------------------------------------------------


def test_a_class_does_not_depend_on_how_the_crystal_is_told() -> None:
    for item in reference_crystals()[::4]:
        crystal = item.structure
        kind = classify(*parts(crystal))
        assert kind is not None
        moved = Structure(crystal.lattice, crystal.species, crystal.frac_coords + np.array([0.2, 0.7, 0.1]))
        for told in (moved, crystal * (2, 1, 1), Structure.from_sites(list(crystal)[::-1])):
            again = classify(*parts(told))
            assert again is not None
            same = {element: element for element in kind.slots}
            assert again.arrangement(same) == kind.arrangement(same)
            assert len(again.numbers) == len(kind.numbers)
            assert fingerprint(*parts(told)) == fingerprint(*parts(crystal))


def test_fingerprints_tell_crystals_apart() -> None:
    keys = [fingerprint(*parts(item.structure)) for item in reference_crystals()]
    assert len(set(keys)) == len(keys)


def test_different_seeds_explore(fitted: SubstitutionGenerator) -> None:
    batches = [{str(c.as_dict()) for c in fitted.sample(10, CONDITIONS, seed)} for seed in range(4)]
    assert len(set.union(*batches)) > 15
    assert all(first != second for first, second in pairwise(batches))


@pytest.mark.slow
def test_twenty_thousand_references_start_in_seconds(data_dir: Path) -> None:
    import time

    import pandas as pd

    table = pd.read_parquet(
        data_dir / "mp_train.parquet", columns=["lattice", "atomic_numbers", "frac_coords", E_ABOVE_HULL]
    )
    train = [
        LabelledStructure(
            Structure(np.reshape(r.lattice, (3, 3)), r.atomic_numbers, np.reshape(r.frac_coords, (-1, 3))),
            {E_ABOVE_HULL: r.e_above_hull},
        )
        for r in table.itertuples()
    ]
    model = SubstitutionGenerator()
    begin = time.process_time()
    model.fit(train, 0)
    crystals = model.sample(100, Conditions(("Ca", "Mg", "Si"), (2, 3), 12), 0)
    spent = time.process_time() - begin
    assert len(crystals) == 100
    assert spent < 30, f"fit and 100 crystals took {spent:.0f} s"


# --- a formula and space groups -----------------------------------------------------------------------------


def test_a_formula_is_kept_and_every_fitting_prototype_is_used(fitted: SubstitutionGenerator) -> None:
    conditions = Conditions(("Sr", "Ti", "O"), (3, 3), 5, formula="TiSrO3")
    crystals = fitted.sample(20, conditions, 0)
    assert {crystal.composition.reduced_formula for crystal in crystals} == {"SrTiO3"}
    perovskites = {(crystal.properties["source"], *_on_the_cube(crystal)) for crystal in crystals}
    assert len(perovskites) == len(crystals) == 2  # one class; strontium or titanium in its middle
    assert conditions.formula == "SrTiO3"


def _on_the_cube(crystal: Structure) -> tuple[str, ...]:
    """Return the element with six neighbours."""
    return tuple(
        sorted({site.specie.symbol for site in crystal if len(crystal.get_neighbors(site, 2.1)) == 6})
    )


def test_space_groups_are_kept(fitted: SubstitutionGenerator) -> None:
    wide = fitted.sample(200, CONDITIONS, 0)
    for group in (216, 221, 225):
        narrow = Conditions(CONDITIONS.elements, (2, 3), 12, spacegroups=(group,))
        crystals = fitted.sample(40, narrow, 0)
        assert {crystal.get_space_group_info(0.1)[1] for crystal in crystals} == {group}
        possible = sum(crystal.get_space_group_info(0.1)[1] == group for crystal in wide)
        assert len(crystals) >= min(possible, 30)
    none = Conditions(("Sr", "Ti", "O"), (3, 3), 12, formula="SrTiO3", spacegroups=(62,))
    assert fitted.sample(10, none, 0) == []


def test_asking_for_all_space_groups_changes_no_draw(fitted: SubstitutionGenerator) -> None:
    same = Conditions(CONDITIONS.elements, CONDITIONS.n_elements, 12, spacegroups=tuple(range(1, 231)))
    first, other = fitted.sample(5, CONDITIONS, 3), fitted.sample(5, same, 3)
    assert [one.as_dict() for one in first] == [one.as_dict() for one in other]
