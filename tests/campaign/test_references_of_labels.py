"""Which phases are computed so that e_above_hull is on the engine's scale."""

from __future__ import annotations

import json

import pytest
from pymatgen.core import Composition
from test_driver import small_reference

from campaign.config import parse_config
from campaign.errors import ReferenceDataError
from campaign.reference_phases import reference_phases
from campaign.references.catalogue import read_reference
from campaign.references.entries import ReferenceEntry
from campaign.references.hull_of_labels import EngineHull


def config(hull: str, elements: list[str]):
    chemistry = {"elements": elements, "n_elements": 2}
    return parse_config({"name": "x", "chemistry": chemistry, "labels": {"hull": hull}}, "test")


def test_engine_hull_needs_elements_and_vertices(tmp_path):
    reference = read_reference([str(small_reference(tmp_path))], base_dir=tmp_path)
    phases = reference_phases(config("engine", ["Ca", "Mg", "Si"]), reference)
    assert [entry.formula for entry in phases] == ["Ca", "Mg", "Si", "CaSi", "Mg2Si"]
    only = reference_phases(config("reference", ["Ca", "Mg", "Si"]), reference)
    assert [entry.formula for entry in only] == ["Ca", "Mg", "Si"]


def test_energies_from_another_file_take_their_crystals_from_the_crystals(tmp_path):
    crystals = small_reference(tmp_path)
    energies = tmp_path / "hull.json"
    rows = [("Ca", 0.0), ("Mg", 0.0), ("Si", 0.0), ("CaSi", -0.3), ("CaMg2", -0.4)]
    energies.write_text(
        json.dumps(
            [{"material_id": name, "formula": name, "formation_energy_per_atom": e} for name, e in rows]
        )
    )
    reference = read_reference([str(crystals)], base_dir=tmp_path, hull_sources=[str(energies)])
    phases = reference_phases(config("engine", ["Ca", "Si"]), reference)
    assert [entry.formula for entry in phases] == ["Ca", "Si", "CaSi"]
    assert all(entry.structure is not None for entry in phases)
    with pytest.raises(ReferenceDataError, match="CaMg2"):
        reference_phases(config("engine", ["Ca", "Mg"]), reference)
    assert len(reference_phases(config("reference", ["Ca", "Mg"]), reference)) == 2


def test_missing_terminal_elements_are_named(tmp_path):
    reference = read_reference([str(small_reference(tmp_path))], base_dir=tmp_path)
    with pytest.raises(ReferenceDataError, match=r"\(Sr\)"):
        reference_phases(config("engine", ["Ca", "Sr"]), reference)


def energy(ev_per_atom: float, **more: float | None) -> dict:
    return {"energy_per_atom": ev_per_atom, **more}


def done(formula: str, ev_per_atom: float, **more: float | None) -> dict:
    return {"formula": formula, "result": energy(ev_per_atom, **more)}


def test_energies_are_relative_to_the_engine_s_own_elements_and_phases():
    references = [done("Ca", -1.0), done("Si", -5.0), done("CaSi", -3.5)]
    hull = EngineHull(references, [])
    # CaSi: formation -3.5 - (-1 - 5) / 2 = -0.5 eV/atom; Ca2Si lies on the line to Ca at 2/3 of that depth.
    assert hull.judge(Composition("CaSi"), energy(-3.5)).formation_energy_per_atom == pytest.approx(-0.5)
    found = hull.judge(Composition("Ca2Si"), energy(-2.5))
    assert found.formation_energy_per_atom == pytest.approx(-2.5 + 7 / 3)
    assert found.e_above_hull == pytest.approx(-2.5 + 7 / 3 + 0.5 * 2 / 3)
    assert hull.judge(Composition("MgSi"), energy(-3.0)).e_above_hull is None
    deeper = EngineHull(references, [ReferenceEntry("x", "Ca2Si", -0.9)])
    assert deeper.judge(Composition("Ca2Si"), energy(-2.5)).e_above_hull == pytest.approx(-2.5 + 7 / 3 + 0.9)
