"""The screens that ask the surrogate, with the real CHGNet and the real quickstart reference."""

from __future__ import annotations

import dataclasses
import math

import pytest
from pymatgen.core import Lattice, Structure
from strategies import shaken
from test_screens import caesium_chloride, mg2si

from campaign.errors import ReferenceDataError
from campaign.references.catalogue import read_reference
from campaign.references.entries import ReferenceSet
from campaign.references.hull import hull_of
from campaign.screens.contract import ScreenContext, ScreenItem
from campaign.screens.funnel import run_segment
from campaign.screens.registry import DEFAULT_SCREEN

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def context() -> ScreenContext:
    from models.surrogates.chgnet import CHGNetSurrogate

    torch.set_num_threads(1)
    reference = read_reference(["builtin:quickstart"], base_dir=None)
    return ScreenContext(reference=reference, surrogate=CHGNetSurrogate(), elements=("Ca", "Mg", "Si"))


def run(context: ScreenContext, structures: list[Structure], *screens: tuple[str, dict]):
    items = [ScreenItem(f"c{number}", structure) for number, structure in enumerate(structures)]
    return run_segment(items, screens, context)


def test_relax_replaces_the_structure_and_records_what_happened(context):
    strained, relaxed_b2 = run(context, [mg2si(6.0), caesium_chloride(3.3, "Ca", "Si")], ("relax", {}))
    assert strained.passed and relaxed_b2.passed
    assert strained.structure.volume == pytest.approx(mg2si(6.37).volume, rel=0.03)
    values = strained.values
    assert values["relax_converged"] is True
    assert values["max_force_ev_per_ang"] <= 0.05
    assert 0 < values["relax_steps"] <= 200
    assert (values["spacegroup_before"], values["spacegroup_after"]) == (225, 225)
    assert values["volume_ratio"] == pytest.approx(strained.structure.volume / mg2si(6.0).volume)
    assert values["surrogate"].startswith("chgnet")


def test_unconverged_is_rejected_or_kept(context):
    distorted = mg2si(6.0)
    distorted = shaken(distorted, 0.2)
    (outcome,) = run(context, [distorted], ("relax", {"max_steps": 2, "max_volume_change": 5}))
    assert outcome.rejected_by == "relax"
    assert "not converged after 2 steps" in outcome.reason
    options = {"max_steps": 2, "max_volume_change": 5, "unconverged": "keep"}
    (outcome,) = run(context, [distorted], ("relax", options))
    assert outcome.passed
    assert outcome.values["relax_converged"] is False


def test_volume_that_changes_too_much_is_rejected(context):
    (outcome,) = run(context, [mg2si(5.6)], ("relax", {"max_volume_change": 0.1}))
    assert "volume changed to" in outcome.reason


def test_fixed_symmetry_and_kept_space_group(context):
    given = caesium_chloride(3.4, "Ca", "Si")
    (outcome,) = run(context, [given], ("relax", {"fix_symmetry": True}), ("space_group", {"mode": "kept"}))
    assert outcome.passed
    assert outcome.values["spacegroup"] == 221


def test_a_second_relaxation_still_tells_the_sampled_space_group(context):
    low = mg2si()
    low = shaken(low, 0.25)
    (outcome,) = run(context, [low], ("relax", {"unconverged": "keep"}), ("relax", {"symprec_ang": 0.2}))
    assert outcome.values["spacegroup_before"] == 1
    assert outcome.values["spacegroup_after"] == 225


def test_e_above_hull_of_a_known_phase_is_zero_and_the_window_holds(context):
    entry = next(e for e in context.reference if e.formula == "CaSi" and e.e_above_hull == 0.0)
    known, high = run(context, [entry.structure, caesium_chloride(3.4, "Ca", "Si")], ("e_above_hull", {}))
    assert known.passed
    assert known.values["e_above_hull"] == pytest.approx(0.0, abs=1e-3)
    assert known.values["formation_energy_per_atom"] == pytest.approx(
        entry.formation_energy_per_atom, abs=1e-3
    )
    assert high.rejected_by == "e_above_hull"
    assert high.values["e_above_hull"] > 0.1
    options = {"max_ev_per_atom": 1.0, "min_ev_per_atom": 0.05}
    known, high = run(
        context, [entry.structure, caesium_chloride(3.4, "Ca", "Si")], ("e_above_hull", options)
    )
    assert not known.passed and high.passed


def test_e_above_hull_takes_the_relaxed_energy(context):
    together = run(context, [mg2si(6.2)], ("relax", {}), ("e_above_hull", {}))[0]
    apart = run(context, [together.structure], ("e_above_hull", {}))[0]
    assert together.values["e_above_hull"] == pytest.approx(apart.values["e_above_hull"], abs=1e-4)


def test_an_element_without_a_reference_phase_is_no_silent_zero(context):
    (outcome,) = run(context, [caesium_chloride(4.0, "Ca", "O")], ("e_above_hull", {"max_ev_per_atom": 9}))
    assert not outcome.passed
    assert outcome.reason.startswith("error: ") and "O" in outcome.reason
    assert "e_above_hull" not in outcome.values
    with pytest.raises(ReferenceDataError, match="O"):
        context.hull.check(["Ca", "O"])


def test_a_hopeless_structure_spoils_no_batch(context):
    collapsed = Structure(Lattice.cubic(5), ["Ca", "Si"], [[0, 0, 0], [0.001, 0, 0]])
    heavy = caesium_chloride(4, "Cm", "Si")  # beyond the surrogate's elements
    outcomes = run(context, [mg2si(), collapsed, heavy, mg2si(6.2)], ("relax", {}), ("e_above_hull", {}))
    assert [outcome.passed for outcome in outcomes] == [True, False, False, True]
    assert all(outcome.reason for outcome in outcomes[1:3])
    assert all(
        math.isfinite(value) for o in outcomes for value in o.values.values() if isinstance(value, float)
    )


def test_a_reference_without_energies_is_a_mistake_of_the_campaign(context):
    bare = [dataclasses.replace(entry, formation_energy_per_atom=None) for entry in context.reference]
    without = ScreenContext(reference=ReferenceSet(tuple(bare)), surrogate=context.surrogate)
    with pytest.raises(ReferenceDataError, match="no formation energies"):
        run(without, [mg2si()], ("e_above_hull", {}))


def test_the_hull_is_built_once_per_reference(context):
    assert hull_of(context.reference) is context.hull
    assert hull_of(ReferenceSet(context.reference.entries)) is not context.hull


def test_default_screen_end_to_end(context):
    from campaign.screens.funnel import segments

    alive = [
        ScreenItem("known", mg2si(6.2)),
        ScreenItem("known again", mg2si(6.5)),
        ScreenItem("oxide", caesium_chloride(4, "Ca", "O")),
        ScreenItem("unstable", caesium_chloride(3.4, "Ca", "Si")),
        ScreenItem("new", context.reference.entries[0].structure),
    ]
    # The ground-state-like ternary that the reference leaves out: PbFCl type, from its strontium relative.
    relative = next(
        e
        for e in context.reference
        if e.formula == "SrMgSi" and len(e.structure) == 6 and e.e_above_hull < 0.01
    )
    alive[-1].structure = relative.structure.copy()
    alive[-1].structure.replace_species({"Sr": "Ca"})
    rejected = {}
    for segment in segments(DEFAULT_SCREEN):
        outcomes = {outcome.candidate_id: outcome for outcome in run_segment(alive, segment, context)}
        rejected |= {name: o.rejected_by for name, o in outcomes.items() if not o.passed}
        for item in alive:
            item.values |= outcomes[item.candidate_id].values
            item.structure = outcomes[item.candidate_id].structure or item.structure
        alive = [item for item in alive if outcomes[item.candidate_id].passed]
    assert rejected == {
        "oxide": "composition",
        "known again": "duplicates",
        "known": "novelty",
        "unstable": "e_above_hull",
    }
    assert alive[0].values["e_above_hull"] < 0.05
