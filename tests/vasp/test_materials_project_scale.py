"""Labels on the Materials Project's scale: its corrections, its hull, and no mixing with anything else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from command_line import campaign
from crystals_vasp import ordered_cuau, rutile
from emmet.core.tasks import TaskDoc
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.entries.computed_entries import ComputedEntry
from vasp_machine import command

from campaign.components import check_components
from campaign.config import parse_config
from campaign.errors import ComponentError
from campaign.reference_phases import reference_phases
from campaign.references.catalogue import read_reference
from campaign.references.hull_of_labels import EngineHull
from flows.engines.mp_correction import mp_correction
from flows.engines.vasp import VaspConfig, VaspEngine
from flows.testing import label

OXIDE, OF_IRON, OF_MANGANESE = -0.687, -2.256, -1.668
"""Corrections of Wang et al. (2021) [eV per atom of O, Fe and Mn]."""

ELEMENTS_EV = {"Ca": -2.00, "Ti": -7.89, "O": -4.95}
"""PBE energies near the Materials Project's [eV/atom]; the hull does not depend on them."""


def task(
    structure: Structure, run_type: str, potcars: list[str], hubbards: dict[str, float] | None = None
) -> TaskDoc:
    """Return what of a VASP calculation decides its corrections."""
    parameters = {
        "run_type": run_type,
        "hubbards": hubbards or {},
        "is_hubbard": bool(hubbards),
        "potcar_spec": [{"titel": f"PAW_PBE {one} 01Jan2000"} for one in potcars],
    }
    entry = ComputedEntry(structure.composition, -50.0, parameters=parameters)
    return TaskDoc.model_construct(entry=entry, structure=structure)


def haematite() -> Structure:
    sites = [[0, 0, 0.355], [0.306, 0, 0.25]]
    return Structure.from_spacegroup(
        "R-3c", Lattice.hexagonal(5.04, 13.75), ["Fe", "O"], sites
    ).get_primitive_structure()


def perovskite() -> Structure:
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    return Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.9), ["Ca", "Ti", "O"], sites)


def test_an_oxide_with_u_is_corrected_for_oxygen_and_metal() -> None:
    """4 Fe, 6 O."""
    found = mp_correction(task(haematite(), "GGA+U", ["Fe_pv", "O"], {"Fe": 5.3, "O": 0.0}))
    assert found == pytest.approx(6 * OXIDE + 4 * OF_IRON)
    found = mp_correction(task(rutile("Mn"), "GGA+U", ["Mn_pv", "O"], {"Mn": 3.9, "O": 0.0}))
    assert found == pytest.approx(4 * OXIDE + 2 * OF_MANGANESE)


def test_an_alloy_and_an_element_are_taken_as_they_are() -> None:
    assert mp_correction(task(ordered_cuau(), "GGA", ["Cu_pv", "Au"])) == 0.0
    assert mp_correction(task(Structure(Lattice.cubic(3), ["Cu"], [[0, 0, 0]]), "GGA", ["Cu_pv"])) == 0.0


@pytest.mark.parametrize(
    "odd",
    [
        task(haematite(), "GGA", ["Fe_pv", "O"]),
        task(haematite(), "GGA+U", ["Fe", "O"], {"Fe": 5.3, "O": 0.0}),
        task(haematite(), "r2SCAN", ["Fe_pv", "O"]),
        TaskDoc.model_construct(entry=None, structure=None),
    ],
    ids=["without U", "another POTCAR", "another functional", "no entry"],
)
def test_what_the_materials_project_would_not_take_has_no_correction(odd: TaskDoc) -> None:
    assert mp_correction(odd) is None


def test_only_its_own_settings_are_on_its_scale() -> None:
    def on_scale(**options: Any) -> bool:
        return VaspEngine(VaspConfig(**options)).on_materials_project_scale

    assert on_scale(preset="mp")
    assert on_scale(preset="mp", incar={"NCORE": 4, "ALGO": "Normal"}, command="srun vasp_std", max_steps=50)
    assert not on_scale()
    assert not on_scale(preset="mp", incar={"ENCUT": 600})
    assert not on_scale(preset="mp", kspacing=0.2)
    assert not on_scale(preset="mp", potcar_functional="PBE_54")
    assert not on_scale(preset="mp", static_maker="atomate2.vasp.jobs.core:StaticMaker")


def test_a_label_carries_the_correction_of_its_settings(tmp_path: Path) -> None:
    by_mp = label(ordered_cuau(), "static", "vasp", {"preset": "mp", "command": command()}, tmp_path)
    by_fast = label(ordered_cuau(), "static", "vasp", {"preset": "fast", "command": command()}, tmp_path)
    assert by_mp.mp_correction_per_atom == 0.0
    assert by_fast.mp_correction_per_atom is None


def result(formula: str, formation: float, structure: Structure, potcars: list[str]) -> dict[str, Any]:
    """Return a label whose corrected energy gives a formation energy [eV/atom]."""
    fractions = Composition(formula).fractional_composition
    correction = (mp_correction(task(structure, "GGA", potcars)) or 0.0) / len(structure)
    energy = (
        formation + sum(fractions[one] * ELEMENTS_EV[one.symbol] for one in fractions.elements) - correction
    )
    return {"energy_per_atom": energy, "mp_correction_per_atom": correction}


def test_corrected_labels_lie_on_the_hull_of_corrected_energies(data_dir: Path) -> None:
    """The reference's own CaTiO3, told as a label, is on its hull; uncorrected it would seem 0.4 eV above."""
    reference = read_reference(["hull_reference.parquet"], base_dir=data_dir).within(list(ELEMENTS_EV))
    known = min(
        entry.formation_energy_per_atom for entry in reference.hull_entries if entry.formula == "CaTiO3"
    )
    elements = [
        {"formula": one, "result": {"energy_per_atom": energy, "mp_correction_per_atom": 0.0}}
        for one, energy in ELEMENTS_EV.items()
    ]
    hull = EngineHull(elements, reference.hull_entries, corrected=True)
    found = result("CaTiO3", known, perovskite(), ["Ca_sv", "Ti_pv", "O"])
    assert found["mp_correction_per_atom"] == pytest.approx(3 / 5 * OXIDE)
    judged = hull.judge(Composition("CaTiO3"), found)
    assert judged.formation_energy_per_atom == pytest.approx(known)
    assert judged.e_above_hull == pytest.approx(0.0, abs=0.01)
    uncorrected = EngineHull(elements, reference.hull_entries).judge(Composition("CaTiO3"), found)
    assert uncorrected.e_above_hull == pytest.approx(judged.e_above_hull - 3 / 5 * OXIDE)


def test_a_label_without_correction_is_not_put_on_that_hull() -> None:
    elements = [
        {"formula": one, "result": {"energy_per_atom": -3.0, "mp_correction_per_atom": 0.0}}
        for one in ("Cu", "Au")
    ]
    hull = EngineHull(elements, [], corrected=True)
    without = hull.judge(Composition("CuAu"), {"energy_per_atom": -3.1, "mp_correction_per_atom": None})
    assert (without.formation_energy_per_atom, without.e_above_hull) == (None, None)
    unknown = [{"formula": "Cu", "result": {"energy_per_atom": -3.0}}, *elements[1:]]
    assert EngineHull(unknown, [], corrected=True).judge(
        Composition("CuAu"), {"energy_per_atom": -3.1, "mp_correction_per_atom": 0.0}
    ).formation_energy_per_atom is None  # fmt: skip


def document(labels: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "mp",
        "chemistry": {"elements": ["Cu", "Au"], "n_elements": 2},
        "labels": {"hull": "materials_project", **labels},
        "reference": reference,
    }


BY_MP = {"engine": "vasp", "engine_options": {"preset": "mp"}}
CORRECTED = {"hull": ["hull.parquet"], "energy_scale": "materials_project"}


@pytest.mark.parametrize(
    ("labels", "reference", "words"),
    [
        ({"engine": "gpaw"}, CORRECTED, "needs labels with its own settings"),
        ({"engine": "vasp"}, CORRECTED, "hull: engine, which computes the competing phases"),
        ({"engine": "mlip"}, CORRECTED, "engine vasp with preset mp"),
        ({**BY_MP, "engine_options": {"preset": "mp", "incar": {"ENCUT": 600}}}, CORRECTED, "ENCUT"),
        (BY_MP, {"hull": ["hull.parquet"]}, "say its energy_scale"),
        (
            BY_MP,
            {"crystals": ["builtin:quickstart"], "energy_scale": "materials_project"},
            "builtin:quickstart",
        ),
    ],
)
def test_mixing_is_refused_with_the_reason(
    labels: dict[str, Any], reference: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ComponentError, match=words):
        check_components(parse_config(document(labels, reference), "test"))
    (tmp_path / "campaign.yaml").write_text(json.dumps(document(labels, reference)))
    assert "labels.hull: materials_project" in campaign("validate", tmp_path / "campaign.yaml").error


@pytest.mark.parametrize("reference", [CORRECTED, {"crystals": ["materials-project:Cu-Au"]}])
def test_its_own_settings_with_its_own_energies_are_accepted(reference: dict[str, Any]) -> None:
    check_components(parse_config(document(BY_MP, reference), "test"))


def test_only_elements_are_computed_for_it(data_dir: Path) -> None:
    config = parse_config(document(BY_MP, CORRECTED), "test")
    known = read_reference(["mp_train.parquet"], base_dir=data_dir, hull_sources=["hull_reference.parquet"])
    within = dataclasses.replace(known.within(["Cu", "Au"]))
    assert {entry.formula for entry in reference_phases(config, within)} == {"Cu", "Au"}
