from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from strategies import descriptions, shaken, structures

from campaign.references.catalogue import read_reference
from campaign.screens.contract import ScreenContext, ScreenItem
from campaign.screens.funnel import Outcome, run_segment
from campaign.screens.geometry import closest_pair


def crystal(group: str, a: float, species: list[str], sites: list[list[float]]) -> Structure:
    return Structure.from_spacegroup(group, Lattice.cubic(a), species, sites).get_primitive_structure()


def mg2si(a: float = 6.35) -> Structure:
    return crystal("Fm-3m", a, ["Si", "Mg"], [[0, 0, 0], [0.25, 0.25, 0.25]])


def caesium_chloride(a: float, one: str, other: str) -> Structure:
    return Structure(Lattice.cubic(a), [one, other], [[0, 0, 0], [0.5, 0.5, 0.5]])


def screen(
    kind: str, structure: Structure, context: ScreenContext | None = None, values=None, **options
) -> Outcome:
    item = ScreenItem("c", structure, values or {})
    (outcome,) = run_segment([item], [(kind, options)], context or ScreenContext())
    return outcome


@pytest.fixture(scope="module")
def quickstart() -> ScreenContext:
    return ScreenContext(reference=read_reference(["builtin:quickstart"], base_dir=None))


# --- geometry -------------------------------------------------------------------------------------------


def test_min_distance_sees_periodic_images():
    assert screen("min_distance", mg2si()).passed
    thin = Structure(Lattice.tetragonal(1.2, 6.0), ["Ca"], [[0, 0, 0]])  # close to nothing but its own images
    outcome = screen("min_distance", thin)
    assert outcome.rejected_by == "min_distance"
    assert outcome.values["min_distance_ang"] == pytest.approx(1.2)
    assert screen("min_distance", thin, fraction_of_radii=0.3).passed


def test_min_distance_floor_holds_whatever_the_radii():
    hydrogen = Structure(Lattice.cubic(4), ["H", "H"], [[0, 0, 0], [0.16, 0, 0]])
    assert "0.64 Å" in screen("min_distance", hydrogen).reason
    assert screen("min_distance", hydrogen, floor_ang=0.5).passed


def test_coinciding_atoms_are_rejected():
    twice = Structure(Lattice.cubic(5), ["Ca", "Si"], [[0.3, 0.3, 0.3], [0.3, 0.3, 0.3]])
    assert not screen("min_distance", twice).passed


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_closest_pair_does_not_depend_on_the_description(data):
    structure = data.draw(structures())
    np.testing.assert_allclose(
        closest_pair(data.draw(descriptions(structure))), closest_pair(structure), rtol=1e-6
    )


@settings(max_examples=30, deadline=None)
@given(structure=structures(max_atoms=3), factor=st.floats(1.0, 1.3))
def test_the_closest_pair_scales_with_the_cell(structure, factor):
    larger = structure.copy().scale_lattice(structure.volume * factor**3)
    distance, ratio = closest_pair(structure)
    if distance * factor < 3.0:
        assert closest_pair(larger)[0] == pytest.approx(distance * factor)
    if ratio * factor < 1.0:
        assert closest_pair(larger)[1] == pytest.approx(ratio * factor)


@pytest.mark.parametrize(("a", "passed"), [(2.0, False), (6.35, True), (60.0, False)])
@pytest.mark.parametrize("kind", ["density", "volume"])
def test_density_and_volume_refuse_what_no_solid_shows(kind, a, passed):
    outcome = screen(kind, mg2si(a))
    assert outcome.passed is passed
    assert "wanted" in (outcome.reason or "wanted")


def test_density_is_in_grams_per_cubic_centimetre():
    copper = crystal("Fm-3m", 3.615, ["Cu"], [[0, 0, 0]])
    assert screen("density", copper).values["density_g_per_cm3"] == pytest.approx(8.93, abs=0.02)
    assert not screen("density", copper, max_g_per_cm3=8.0).passed


def test_known_crystals_pass_the_geometry_screens(data_dir):
    entries = list(read_reference(["mp_val.parquet"], base_dir=data_dir))[::10]
    items = [ScreenItem(entry.entry_id, entry.structure) for entry in entries]
    outcomes = run_segment(items, [("min_distance", {}), ("density", {}), ("volume", {})], ScreenContext())
    assert sum(outcome.passed for outcome in outcomes) >= 0.99 * len(items)


def test_space_group_is_recorded_and_compared():
    assert screen("space_group", mg2si()).values == {"spacegroup": 225}
    assert screen("space_group", mg2si(), mode="kept").passed  # nothing has changed it yet
    assert screen("space_group", mg2si(), mode="kept", values={"spacegroup_before": 225}).passed
    outcome = screen("space_group", mg2si(), mode="kept", values={"spacegroup_before": 12})
    assert outcome.reason == "space group 12 became 225"
    assert screen("space_group", mg2si(), values={"spacegroup_before": 12}).passed
    low = mg2si()
    low = shaken(low, 0.3)
    assert not screen("space_group", low, min_number=2).passed


# --- composition ----------------------------------------------------------------------------------------


def test_composition_keeps_to_the_chemistry():
    context = ScreenContext(elements=("Ca", "Mg", "Si"))
    assert screen("composition", mg2si(), context).passed
    assert "O" in screen("composition", caesium_chloride(4, "Ca", "O"), context).reason
    assert screen("composition", caesium_chloride(4, "Ca", "O"), context, elements=["Ca", "O"]).passed
    assert "lacks Ca" in screen("composition", mg2si(), context, required=["Ca", "Si"]).reason
    assert "2 elements" in screen("composition", mg2si(), context, n_elements=[3, 3]).reason


def test_composition_counts_atoms_of_the_primitive_cell():
    cell = mg2si()
    cell.make_supercell(2)
    assert len(cell) == 24
    assert screen("composition", cell, max_atoms=3).passed
    assert "3 atoms" in screen("composition", cell, max_atoms=2).reason


@pytest.mark.parametrize(
    ("species", "passed"),
    [(("Na", "Cl"), True), (("Na", "K"), True), (("Cl", "Na", "Na"), False), (("Ca", "Ca"), True)],
)
def test_charge_neutrality(species, passed):
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]][: len(species)]
    outcome = screen("charge_neutrality", Structure(Lattice.cubic(5), list(species), sites))
    assert outcome.passed is passed
    assert outcome.values == {"oxidation_states": "icsd24", "smact_version": version("smact")}


def test_charge_neutrality_of_alloys_is_an_option():
    sodium_potassium = caesium_chloride(4.5, "Na", "K")
    ca5si3 = Structure(Lattice.cubic(9), ["Ca"] * 5 + ["Si"] * 3, np.random.default_rng(0).random((8, 3)))
    assert not screen("charge_neutrality", sodium_potassium, alloys="refused").passed
    assert not screen("charge_neutrality", ca5si3).passed
    assert screen("charge_neutrality", ca5si3, alloys="metals_and_metalloids").passed


def test_charge_neutrality_records_the_list_it_used():
    outcome = screen("charge_neutrality", caesium_chloride(4, "Na", "Cl"), oxidation_states="smact14")
    assert outcome.values["oxidation_states"] == "smact14"


def test_mixed_valence_is_an_option():
    magnetite = Structure(Lattice.cubic(9), ["Fe"] * 3 + ["O"] * 4, np.random.default_rng(0).random((7, 3)))
    assert not screen("charge_neutrality", magnetite).passed
    assert screen("charge_neutrality", magnetite, mixed_valence=True).passed


# --- identity -------------------------------------------------------------------------------------------


def test_novelty_knows_a_reference_crystal_in_any_description(quickstart):
    cell = mg2si(6.45)  # not quite the lattice parameter of the reference
    cell.make_supercell([[1, 1, 0], [0, 1, 0], [0, 0, 2]])
    cell.translate_sites(range(len(cell)), [0.1, 0.2, 0.3])
    cell = shaken(cell, 0.02)
    outcome = screen("novelty", cell, quickstart)
    known = {entry.entry_id: entry for entry in quickstart.reference}[outcome.values["matches_reference"]]
    assert known.formula == "Mg2Si"
    assert outcome.reason == f"same as reference {known.entry_id}"
    assert screen("novelty", cell, quickstart, keep_known=True).values["novel"] is False


def test_novelty_lets_another_structure_of_a_known_formula_pass(quickstart):
    rutile = Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(5.0, 3.2), ["Si", "Mg"], [[0, 0, 0], [0.3, 0.3, 0]]
    )
    outcome = screen("novelty", rutile, quickstart)
    assert outcome.passed
    assert outcome.values == {"novel": True}
    assert screen("novelty", caesium_chloride(4, "K", "Cl"), quickstart).passed


def test_every_reference_crystal_is_known_to_its_own_reference(quickstart):
    entries = quickstart.reference.with_structure[::8]
    items = [ScreenItem(entry.entry_id, entry.structure) for entry in entries]
    outcomes = run_segment(items, [("novelty", {})], quickstart)
    assert [outcome.values.get("matches_reference") for outcome in outcomes] == [
        entry.entry_id for entry in entries
    ]


def duplicates(structures: list[Structure], earlier=None, **options) -> list[Outcome]:
    items = [ScreenItem(f"c{number}", structure) for number, structure in enumerate(structures)]
    return run_segment(items, [("duplicates", options)], ScreenContext(earlier=earlier or {}))


def test_duplicates_keep_the_first_of_each():
    other = caesium_chloride(3.5, "Mg", "Si")
    doubled = mg2si()
    doubled.make_supercell([2, 1, 1])
    outcomes = duplicates([mg2si(), other, mg2si(6.6), doubled, other])
    assert [outcome.values.get("duplicate_of") for outcome in outcomes] == [None, None, "c0", "c0", "c1"]
    assert [outcome.passed for outcome in outcomes] == [True, True, False, False, False]
    assert outcomes[2].reason == "same as c0"


def test_duplicates_of_earlier_rounds_are_found_under_any_key():
    outcomes = duplicates([mg2si(), caesium_chloride(3.5, "Mg", "Si")], {"whatever": [("old", mg2si(6.5))]})
    assert [outcome.values.get("duplicate_of") for outcome in outcomes] == ["old", None]
    outcomes = duplicates([mg2si()], {"whatever": [("old", mg2si(6.5))]}, against_earlier=False)
    assert outcomes[0].passed


def test_a_candidate_is_no_duplicate_of_itself():
    outcomes = duplicates([mg2si()], {"": [("c0", mg2si())]})
    assert outcomes[0].passed


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_duplicates_depend_on_order_and_on_nothing_else(data):
    distinct = data.draw(st.lists(structures(max_atoms=3, min_distance_ang=1.5), min_size=1, max_size=3))
    again = [data.draw(descriptions(one, max_atoms=12)) for one in distinct]
    outcomes = duplicates([*distinct, *again])
    assert all(not outcome.passed for outcome in outcomes[len(distinct) :])
    assert [o.passed for o in outcomes] == [o.passed for o in duplicates([*distinct, *again])]
    assert outcomes[0].passed


def test_one_odd_crystal_does_not_end_the_comparison():
    flat = Structure(Lattice([[4, 0, 0], [0, 4, 0], [4, 4, 0]]), ["Na"], [[0, 0, 0]])
    outcomes = duplicates([mg2si(), flat, mg2si()])
    assert outcomes[0].passed
    assert outcomes[1].reason.startswith("error: ")
    assert outcomes[2].values == {"duplicate_of": "c0"}
