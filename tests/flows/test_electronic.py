"""The label flow `electronic`: gaps by hand, starts, and real crystals with GPAW."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crystals import copper, silicon
from pymatgen.core import Lattice, Structure

from flows.conditions import parse_condition
from flows.electronic import starts
from flows.electronic_jobs import density_of_states, gap_of, lowest
from flows.errors import EngineOptionsError
from flows.job_files import read_result
from flows.run import build_label, settings_of
from flows.schemas import ElectronicSummary, LabelDoc, States
from flows.testing import label

FAST = {"preset": "fast"}


def bands(*spins: list[list[float]]) -> np.ndarray:
    return np.array(spins, dtype=float)


# Gaps by counting electrons


def test_an_indirect_gap() -> None:
    found = gap_of(bands([[-5.0, 0.0, 3.0], [-4.0, -1.0, 1.5]]), n_electrons=4, total_moment_ub=0.0)
    assert found == {
        "is_metal": False,
        "band_gap_ev": 1.5,
        "is_direct": False,
        "direct_gap_ev": 2.5,
        "vbm_ev": 0.0,
        "cbm_ev": 1.5,
    }


def test_a_direct_gap() -> None:
    found = gap_of(bands([[-5.0, 0.0, 1.0], [-4.0, -1.0, 1.5]]), n_electrons=4, total_moment_ub=0.0)
    assert (found["band_gap_ev"], found["is_direct"]) == (1.0, True)


@pytest.mark.parametrize(
    ("energies", "n_electrons"),
    [
        (bands([[-5.0, 0.0, 1.0], [-4.0, 1.5, 2.5]]), 4),  # bands overlap
        (bands([[-5.0, 0.0, 1.0], [-4.0, -1.0, 1.5]]), 3),  # a half-filled band
        (bands([[-5.0, 0.0, 0.0005], [-4.0, -1.0, 1.5]]), 4),  # they touch
    ],
)
def test_metals(energies: np.ndarray, n_electrons: float) -> None:
    found = gap_of(energies, n_electrons, 0.0)
    assert found["is_metal"]
    assert (found["band_gap_ev"], found["vbm_ev"], found["is_direct"]) == (0.0, None, None)


def test_each_spin_counts_its_own_electrons() -> None:
    up, down = [[-3.0, -1.0, 4.0]], [[-2.0, 1.0, 5.0]]
    insulator = gap_of(bands(up, down), n_electrons=3, total_moment_ub=1.0)
    assert (insulator["vbm_ev"], insulator["cbm_ev"]) == (-1.0, 1.0)
    assert gap_of(bands(up, down), n_electrons=3, total_moment_ub=0.4)["is_metal"]
    one_spin_empty = gap_of(bands(up, down), n_electrons=2, total_moment_ub=2.0)
    assert one_spin_empty["is_metal"]  # the empty spin's band lies lower
    hydrogen = gap_of(bands([[-3.0, 2.0]], [[1.0, 2.0]]), n_electrons=1, total_moment_ub=1.0)
    assert (hydrogen["vbm_ev"], hydrogen["cbm_ev"]) == (-3.0, 1.0)


def test_a_density_of_states_counts_the_electrons() -> None:
    states = States(
        mesh=[2, 1, 1],
        mesh_weights=[0.25, 0.75],
        mesh_energies_ev=[[[-2.0, 0.0, 5.0], [-1.5, 0.5, 6.0]]],
        path_energies_ev=[[[-2.0, 0.0, 5.0]]],
    )
    found = density_of_states(states, 0.1)
    energies, density = np.array(found["energies_ev"]), np.array(found["states_per_ev"][0])
    assert energies[-1] == pytest.approx(5.0, abs=0.1)  # where the highest band begins
    below = energies < 3.0
    assert np.trapezoid(density[below], energies[below]) == pytest.approx(4.0, rel=1e-3)  # two bands of two
    at_first = density[np.argmin(np.abs(energies + 2.0))]
    assert at_first == pytest.approx(2.0 * 0.25 / (0.1 * np.sqrt(2.0 * np.pi)), rel=1e-3)


# Which starts, and which wins


def test_a_magnetic_start_has_to_gain_something() -> None:
    assert lowest([-8.4, -8.9]) == 1
    assert lowest([-8.4, -8.4005]) == 0
    assert lowest([-8.4]) == 0


def test_spins_are_tried_where_they_may_matter() -> None:
    assert starts(["Al"], "auto", 3.0) == {"non-magnetic": {}}
    assert starts(["Fe", "O"], "auto", 3.0)["ferromagnetic"] == {"Fe": 3.0, "O": 0.5}
    assert starts(["Fe"], "off", 3.0) == {"non-magnetic": {}}
    assert starts(["O"], "on", 3.0)["ferromagnetic"] == {"O": 0.5}


def test_an_engine_without_states_is_refused_before_anything_runs() -> None:
    with pytest.raises(EngineOptionsError, match=r"got 'mlip'; allowed: .*gpaw"):
        settings_of("electronic", "mlip", {"calculator": "emt"}, {})
    with pytest.raises(EngineOptionsError, match="states of electrons"):
        build_label(copper().as_dict(), "electronic", "mlip", {"calculator": "emt"}, {})


# Real crystals. Cut-offs and k-points are coarse: fine enough for the numbers asked for.


def computed(crystal: Structure, folder: Path, options: dict[str, Any], **more: Any) -> LabelDoc:
    pytest.importorskip("gpaw", reason="GPAW is not installed: CC=g++ pip install gpaw gpaw-data")
    return label(crystal, "electronic", "gpaw", {**FAST, **options}, folder, **more)


def electrons_of(found: LabelDoc) -> ElectronicSummary:
    assert found.electronic is not None
    return found.electronic


@pytest.mark.slow
def test_silicon_has_the_indirect_gap_of_pbe(tmp_path: Path) -> None:
    crystal = silicon(5.47)
    crystal.make_supercell([2, 1, 1])  # its states are those of the primitive cell
    options = {"ecut_ev": 250.0, "kpts_per_inverse_ang": 3.0}
    found = computed(crystal, tmp_path, options, mesh_per_inverse_ang=4.0, path_points_per_inverse_ang=8.0)
    electrons = electrons_of(found)
    # PBE: 0.57 to 0.62 eV indirect, 2.56 eV at Γ (Hummer, Harl and Kresse, Phys. Rev. B 80, 115205 (2009))
    assert 0.5 < electrons.band_gap_ev < 0.7
    assert electrons.direct_gap_ev == pytest.approx(2.56, abs=0.15)
    assert not electrons.is_direct
    assert not electrons.is_metal
    assert electrons.cbm_ev - electrons.vbm_ev == pytest.approx(electrons.band_gap_ev)  # type: ignore[operator]
    assert electrons.vbm_ev < electrons.fermi_level_ev < electrons.cbm_ev  # type: ignore[operator]
    assert (electrons.magnetic_start, electrons.total_moment_ub, electrons.n_atoms) == (
        "non-magnetic",
        0.0,
        2,
    )
    assert found.energy_per_atom == electrons.start_energies_ev_per_atom["non-magnetic"]
    assert [step.name for step in found.steps] == ["relax", "non-magnetic", "states"]
    assert parse_condition("electronic.band_gap_ev > 0.5 and not electronic.is_metal").holds(
        found.model_dump(mode="json")
    )
    check_large(tmp_path, electrons)


def check_large(folder: Path, electrons: ElectronicSummary) -> None:
    """Bands and densities of states lie outside of the document, along a path with names."""
    result = read_result(folder / f"{electrons.data_uuid}-1", electrons.data_uuid, 1)
    assert result is not None
    assert len(json.dumps(result["docs"])) < 5000
    data = {frozenset(blob["data"]): blob["data"] for blob in result["data"] if blob["store"] == "data"}
    path = next(one for keys, one in data.items() if "k_points" in keys)
    dos = next(one for keys, one in data.items() if "states_per_ev" in keys)
    energies = np.array(path["energies_ev"])
    assert energies.shape == (1, electrons.n_path_points, electrons.n_bands)
    assert {"GAMMA", "X", "L"} <= set(path["labels"])
    at_gamma = energies[0, path["labels"].index("GAMMA")]
    assert at_gamma[3] == pytest.approx(electrons.vbm_ev)  # the maximum lies at Γ, threefold
    assert np.ptp(at_gamma[1:4]) < 1e-3
    below = np.array(dos["energies_ev"]) < (electrons.vbm_ev + electrons.cbm_ev) / 2  # type: ignore[operator]
    count = np.trapezoid(np.array(dos["states_per_ev"][0])[below], np.array(dos["energies_ev"])[below])
    assert count == pytest.approx(8.0, rel=0.02)  # valence electrons


@pytest.mark.slow
def test_aluminium_is_a_metal(tmp_path: Path) -> None:
    half = 2.02
    crystal = Structure(Lattice([[0, half, half], [half, 0, half], [half, half, 0]]), ["Al"], [[0, 0, 0]])
    options = {"ecut_ev": 250.0, "kpts_per_inverse_ang": 2.0, "smearing_ev": 0.2}
    electrons = electrons_of(
        computed(crystal, tmp_path, options, mesh_per_inverse_ang=3.0, path_points_per_inverse_ang=4.0)
    )
    assert electrons.is_metal
    assert (electrons.band_gap_ev, electrons.vbm_ev, electrons.is_direct) == (0.0, None, None)
    assert list(electrons.start_energies_ev_per_atom) == ["non-magnetic"]


@pytest.mark.slow
def test_iron_is_ferromagnetic(tmp_path: Path) -> None:
    half = 2.83 / 2  # PBE's lattice parameter
    crystal = Structure(
        Lattice([[-half, half, half], [half, -half, half], [half, half, -half]]), ["Fe"], [[0, 0, 0]]
    )
    options = {"ecut_ev": 400.0, "kpts_per_inverse_ang": 2.5}
    found = computed(
        crystal,
        tmp_path,
        options,
        relax_cell=False,
        mesh_per_inverse_ang=2.5,
        path_points_per_inverse_ang=2.0,
    )
    electrons = electrons_of(found)
    assert electrons.magnetic_start == "ferromagnetic"
    # 2.2 µB: C. Kittel, Introduction to Solid State Physics, 8th edition, table 12.2 (2.22 µB)
    assert electrons.moment_per_atom_ub == pytest.approx(2.2, rel=0.1)
    assert electrons.is_metal
    energies = electrons.start_energies_ev_per_atom
    # Without its moments, bcc iron lies about half an eV higher.
    assert 0.3 < energies["non-magnetic"] - energies["ferromagnetic"] < 0.7
    assert found.energy_per_atom == energies["ferromagnetic"]
    assert [step.name for step in found.steps] == ["relax", "non-magnetic", "ferromagnetic", "states"]


@pytest.mark.slow
def test_states_are_computed_where_the_density_is_gone(tmp_path: Path) -> None:
    """The folder of the job before may be another machine's."""
    pytest.importorskip("gpaw", reason="GPAW is not installed")
    from flows.engines.gpaw_electronic import DENSITY
    from flows.graph import runnable, with_new_jobs
    from flows.run import run_job_once

    options = {**FAST, "ecut_ev": 200.0, "kpts_per_inverse_ang": 1.0, "fmax_ev_per_ang": 1.0}
    more = {"mesh_per_inverse_ang": 1.0, "path_points_per_inverse_ang": 2.0, "relax_cell": False}
    built = build_label(silicon(5.47).as_dict(), "electronic", "gpaw", options, more)
    records, upstream, done = built["jobs"], [], set()
    while ready := runnable(records, done, set()):
        record = next(one for one in records if (one["uuid"], one["index"]) == ready[0])
        for density in tmp_path.glob(f"*/{DENSITY}"):
            density.unlink()
        result = run_job_once(record["job"], upstream, str(tmp_path / f"{ready[0][0]}-{ready[0][1]}"))
        assert result["ok"], result["failure"]
        upstream += result["docs"] + result["data"]
        done.add(ready[0])
        records = with_new_jobs(records, ready[0][0], result["new_jobs"])
    last = next(one for one in upstream if one.get("uuid") == built["output_uuid"])
    assert 0.2 < last["output"]["electronic"]["band_gap_ev"] < 1.5
