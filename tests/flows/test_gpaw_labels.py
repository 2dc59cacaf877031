"""Labels by real density-functional theory."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crystals import silicon
from pymatgen.core import Lattice, Structure

from flows.errors import LabelInputError
from flows.run import build_label, run_job_once
from flows.schemas import LabelDoc
from flows.testing import check_engine, label

pytest.importorskip("gpaw", reason="GPAW is not installed: CC=g++ pip install gpaw gpaw-data")

FAST = {"preset": "fast"}


def magnesium() -> Structure:
    return Structure.from_spacegroup("P6_3/mmc", Lattice.hexagonal(3.25, 5.3), ["Mg"], [[1 / 3, 2 / 3, 0.25]])


def test_silicon_is_relaxed_and_labelled_in_a_worker(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1) as pool:
        found = pool.submit(label, silicon(5.5), "relax_static", "gpaw", FAST, tmp_path).result()
    assert found.converged
    # PBE's lattice parameter of silicon is 5.47 Å
    assert (4 * found.volume) ** (1 / 3) == pytest.approx(5.47, abs=0.02)
    assert (found.spacegroup_before, found.spacegroup_after) == (227, 227)
    assert found.fidelity == "dft"
    assert found.engine_version.startswith("gpaw 2")
    assert found.max_force is not None
    assert found.max_force < 0.05
    assert np.abs(found.stress_gpa).max() < 1.0
    assert found.core_hours > 0
    assert all(list(tmp_path.glob(f"*/{name}")) for name in ("gpaw.txt", "relax.log"))
    assert json.loads(json.dumps(found.model_dump(mode="json"))) == found.model_dump(mode="json")


def test_an_scf_that_does_not_settle_is_typed(tmp_path: Path) -> None:
    options = {**FAST, "max_scf": 10, "converge_density": 1e-14, "kpts_per_inverse_ang": 1.0}
    built = build_label(silicon().as_dict(), "static", "gpaw", options, {})
    result = run_job_once(built["jobs"][0]["job"], [], str(tmp_path / "a"))
    assert result["failure"]["cause"] == "scf_not_converged"


def test_an_element_without_dataset_is_refused_before_anything_runs() -> None:
    plutonium = Structure(Lattice.cubic(4), ["Pu"], [[0, 0, 0]])
    with pytest.raises(LabelInputError, match="no data for some elements; got 'Pu'"):
        build_label(plutonium.as_dict(), "static", "gpaw", FAST, {})


def without_datasets(job: dict[str, Any], folder: str) -> dict[str, Any]:
    """Run a job where GPAW finds no PAW datasets; in a process of its own, which alone is changed."""
    import gpaw

    gpaw.setup_paths.clear()
    return run_job_once(job, [], folder)


def test_a_dataset_that_is_missing_where_the_job_runs_is_typed(tmp_path: Path) -> None:
    built = build_label(silicon().as_dict(), "static", "gpaw", FAST, {})
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        result = pool.submit(without_datasets, built["jobs"][0]["job"], str(tmp_path / "a")).result()
    assert result["failure"]["cause"] == "missing_setup"


def test_cures_change_how_the_cycle_runs_and_not_what_it_gives(tmp_path: Path) -> None:
    options = {**FAST, "kpts_per_inverse_ang": 2.0, "converge_density": 1e-6}
    built = build_label(silicon().as_dict(), "static", "gpaw", options, {})
    energies = []
    for cures in ([], ["slow_mixing"], ["slow_mixing", "other_algorithm"]):
        folder = tmp_path / "-".join(["try", *cures])
        result = run_job_once(built["jobs"][0]["job"], [], str(folder), cures=cures)
        assert result["ok"], result.get("failure")
        energies.append(result["docs"][0]["output"]["output"]["energy"])
        log = (folder / "gpaw.txt").read_text().lower()
        assert ("pulay-mixer" in log) == ("slow_mixing" in cures)
        assert ("davidson" in log) == ("other_algorithm" in cures)
    assert max(energies) - min(energies) < 1e-3


@pytest.mark.slow
def test_a_metal_with_screw_axes_relaxes_to_its_energy_minimum(tmp_path: Path) -> None:
    """The stress at fixed cut-off vanishes where the recorded energy is lowest, also at a low cut-off."""
    options = {**FAST, "kpts_per_inverse_ang": 2.0, "smearing_ev": 0.3}
    found = label(magnesium(), "relax_static", "gpaw", options, tmp_path)
    assert found.spacegroup_after == 194
    energies = []
    scales = np.array([0.94, 0.97, 1.0, 1.03, 1.06])
    for scale in scales:
        other = Structure.from_dict(found.structure)
        other.scale_lattice(found.volume * scale)
        energies.append(label(other, "static", "gpaw", options, tmp_path).energy)
    curve = np.polyfit(scales, energies, 3)
    roots = np.roots(np.polyder(curve))
    best = float(min((root.real for root in roots if abs(root.imag) < 1e-9), key=lambda root: abs(root - 1)))
    assert best == pytest.approx(1.0, abs=0.025)


@pytest.mark.slow
def test_formation_energy_of_mg2si_is_that_of_pbe(tmp_path: Path) -> None:
    """Element references are ordinary labels: the same settings give a formation energy."""
    fcc = Lattice.cubic(6.4)
    mg2si = Structure.from_spacegroup("Fm-3m", fcc, ["Si", "Mg"], [[0, 0, 0], [0.25, 0.25, 0.25]])
    labels = {
        name: label(one, "relax_static", "gpaw", FAST, tmp_path)
        for name, one in {
            "Mg": magnesium(), "Si": silicon(), "Mg2Si": mg2si.get_primitive_structure(),
        }.items()
    }  # fmt: skip
    energy = {name: one.energy_per_atom for name, one in labels.items()}
    formation = energy["Mg2Si"] - (2 * energy["Mg"] + energy["Si"]) / 3
    # Materials Project, PBE without correction: -0.16 eV/atom (mp-1367)
    assert formation == pytest.approx(-0.16, abs=0.04)
    assert len({one.settings_hash for one in labels.values()}) == 1


@pytest.mark.slow
def test_the_gpaw_engine_passes_the_contract() -> None:
    found: LabelDoc = check_engine(
        "gpaw", {**FAST, "kpts_per_inverse_ang": 1.5, "smearing_ev": 0.3}, element="Al", lattice_ang=4.15
    )
    assert found.formula == "Al"


@pytest.mark.slow
def test_spins_are_polarised_when_asked(tmp_path: Path) -> None:
    iron = Structure(Lattice.cubic(2.83).matrix @ (np.ones((3, 3)) - 2 * np.eye(3)) / 2, ["Fe"], [[0, 0, 0]])
    options: dict[str, Any] = {**FAST, "ecut_ev": 350.0, "kpts_per_inverse_ang": 1.5, "smearing_ev": 0.2}
    paired = label(iron, "static", "gpaw", options, tmp_path)
    polarised = label(iron, "static", "gpaw", {**options, "spinpol": True}, tmp_path)
    assert polarised.energy < paired.energy - 0.1
    assert polarised.settings_hash != paired.settings_hash
