"""Labels by ABINIT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crystals import silicon
from pymatgen.core import Lattice, Structure

from flows.causes import OutputParseError
from flows.engines.abinit import AbinitConfig, AbinitEngine
from flows.engines.abinit_calculator import complaint_in, n_bands, pseudos_in, results_of
from flows.errors import EngineOptionsError, LabelInputError
from flows.run import build_label, run_job_once, settings_of
from flows.testing import check_engine, fcc, label

HERE = AbinitEngine().check()
needs_abinit = pytest.mark.skipif(not HERE.ok, reason=f"{HERE.what}; {HERE.cure}")

COARSE: dict[str, Any] = {"preset": "fast", "ecut_ev": 300.0, "kpts_per_inverse_ang": 1.5}


def failure(structure: Structure, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    built = build_label(structure.as_dict(), "static", "abinit", {**COARSE, **options}, {})
    found: dict[str, Any] = run_job_once(built["jobs"][0]["job"], [], str(folder / "job"))["failure"]
    return found


def test_settings_are_what_decides_an_energy() -> None:
    plain = settings_of("relax_static", "abinit", {}, {})
    moved = {"command": "mpirun -n 4 abinit", "pseudo_dir": "/somewhere", "max_steps": 7, "max_scf": 9}
    assert settings_of("relax_static", "abinit", moved, {}) == plain
    assert plain["engine_settings"]["pseudopotentials"] == "Pseudodojo_nc_sr_04_pbe_standard_psp8"
    assert plain["engine_settings"]["ecut_ev"] == 1150.0
    assert settings_of("relax_static", "abinit", {"ecut_ev": 900.0}, {}) != plain


def test_a_functional_without_pseudopotentials_is_refused() -> None:
    with pytest.raises(EngineOptionsError, match="xc"):
        settings_of("static", "abinit", {"xc": "SCAN"}, {})


def test_variants_of_a_pseudopotential_stand_in_where_the_plain_one_lacks(tmp_path: Path) -> None:
    for name in ("Zn-sp", "Zn", "Se-d", "S", "Si"):
        (tmp_path / f"{name}.psp8").write_text("")
    assert {element: path.stem for element, path in pseudos_in(tmp_path).items()} == {
        "Zn": "Zn", "Se": "Se-d", "S": "S", "Si": "Si",
    }  # fmt: skip


def test_elements_without_a_pseudopotential_are_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "Si.psp8").write_text("")
    magnesium = Structure(Lattice.cubic(3.5), ["Mg"], [[0, 0, 0]])
    with pytest.raises(LabelInputError, match="no data for some elements; got 'Mg'"):
        build_label(magnesium.as_dict(), "static", "abinit", {"pseudo_dir": str(tmp_path)}, {})
    nothing_here = AbinitEngine(AbinitConfig(pseudo_dir=str(tmp_path / "elsewhere")))
    assert nothing_here.unsupported(["Mg"]) == ()  # the workers may have what this machine has not


def test_a_code_that_is_not_here_is_told_with_its_cure(tmp_path: Path) -> None:
    engine = AbinitEngine(AbinitConfig(command="no-such-abinit"))
    assert engine.version() == "abinit not installed"
    assert not engine.check().ok
    assert "apt-get install abinit" in engine.check().cure


def test_enough_bands_for_a_smeared_metal() -> None:
    aluminium = fcc("Al", 4.05).to_ase_atoms()
    assert n_bands(aluminium, {"Al": 3.0}) >= 4
    assert n_bands(silicon().to_ase_atoms(), {"Si": 4.0}) == 8


def test_what_abinit_calls_an_error_is_what_is_told() -> None:
    log = (
        "chat\n chkinp: ERROR -\n  ecut must be\n  positive.\n\nchat\n"
        "--- !ERROR\nsrc_line: 3\nmessage: |\n    No way.\n...\n"
    )
    assert complaint_in(log) == "ecut must be positive. / No way."
    assert complaint_in("all is well") == ""


def test_torn_results_are_told(tmp_path: Path) -> None:
    path = tmp_path / "abinit.abo"
    path.write_text(".Version 9.6.2 of ABINIT\n echo values of preprocessed input variables\n natom 2\n")
    with pytest.raises(OutputParseError, match=r"abinit\.abo cannot be read"):
        results_of(path)


@needs_abinit
def test_silicon_is_relaxed_and_labelled(tmp_path: Path) -> None:
    options = {**COARSE, "kpts_per_inverse_ang": 2.0}
    found = label(silicon(5.5), "relax_static", "abinit", options, tmp_path)
    assert found.converged
    # PBE's lattice parameter of silicon is 5.47 Å
    assert (4 * found.volume) ** (1 / 3) == pytest.approx(5.47, abs=0.02)
    assert (found.spacegroup_before, found.spacegroup_after) == (227, 227)
    assert found.fidelity == "dft"
    assert found.engine_version.startswith("abinit ")
    assert np.abs(found.stress_gpa).max() < 1.0
    kept = {path.name for path in tmp_path.glob("*/abinit*")}
    assert kept == {"abinit.in", "abinit.abo", "abinit.log"}


@needs_abinit
def test_an_scf_that_does_not_settle_is_typed(tmp_path: Path) -> None:
    found = failure(silicon(), {"max_scf": 3}, tmp_path)
    assert found["cause"] == "scf_not_converged"
    assert "3 electronic iterations" in found["message"]


@needs_abinit
def test_a_run_that_ends_early_is_torn(tmp_path: Path) -> None:
    command = tmp_path / "abinit-in-a-hurry"
    command.write_text('#!/bin/sh\nabinit "$@"\nhead -c 3000 abinit.abo > part && mv part abinit.abo\n')
    command.chmod(0o755)
    assert failure(silicon(), {"command": str(command)}, tmp_path)["cause"] == "parse_error"


@needs_abinit
def test_a_left_handed_cell_has_the_energy_of_a_right_handed_one(tmp_path: Path) -> None:
    crystal = silicon()
    order = [1, 0, 2]
    mirrored = Structure(
        Lattice(crystal.lattice.matrix[order]), crystal.species, crystal.frac_coords[:, order]
    )
    assert np.linalg.det(mirrored.lattice.matrix) * np.linalg.det(crystal.lattice.matrix) < 0
    one, other = (label(it, "static", "abinit", COARSE, tmp_path) for it in (crystal, mirrored))
    assert one.energy == pytest.approx(other.energy, abs=1e-4)


@needs_abinit
@pytest.mark.slow
def test_a_crystal_of_low_symmetry_relaxes(tmp_path: Path) -> None:
    strained = silicon()
    strained.apply_strain([0.01, 0.02, -0.01])
    strained.translate_sites([1], [0.01, 0.0, 0.02])
    options = {**COARSE, "ecut_ev": 200.0, "kpts_per_inverse_ang": 1.0, "fmax_ev_per_ang": 0.1}
    found = label(strained, "relax", "abinit", options, tmp_path)
    assert found.n_ionic_steps > 3
    assert found.spacegroup_after == 227


@needs_abinit
@pytest.mark.slow
def test_aluminium_relaxes_to_its_energy_minimum_at_a_low_cutoff(tmp_path: Path) -> None:
    """The stress vanishes where the recorded energy is lowest: no Pulay stress is left."""
    options = {
        **COARSE,
        "ecut_ev": 200.0,
        "kpts_per_inverse_ang": 2.0,
        "smearing_ev": 0.3,
        "fmax_ev_per_ang": 0.01,
    }
    found = label(fcc("Al", 4.0), "relax_static", "abinit", options, tmp_path)
    scales = np.array([0.94, 0.97, 1.0, 1.03, 1.06])
    energies = []
    for scale in scales:
        other = Structure.from_dict(found.structure)
        other.scale_lattice(found.volume * scale)
        energies.append(label(other, "static", "abinit", options, tmp_path).energy)
    roots = np.roots(np.polyder(np.polyfit(scales, energies, 3)))
    best = float(min((root.real for root in roots if abs(root.imag) < 1e-9), key=lambda root: abs(root - 1)))
    assert best == pytest.approx(1.0, abs=0.015)


@needs_abinit
@pytest.mark.slow
def test_spins_are_polarised_when_asked(tmp_path: Path) -> None:
    atom = Structure(Lattice.cubic(4.5), ["H"], [[0, 0, 0]])
    options = {**COARSE, "kpts_per_inverse_ang": 0.5}
    paired = label(atom, "static", "abinit", options, tmp_path)
    polarised = label(atom, "static", "abinit", {**options, "spinpol": True}, tmp_path)
    assert polarised.energy < paired.energy - 0.5
    assert polarised.settings_hash != paired.settings_hash


@needs_abinit
@pytest.mark.slow
def test_the_abinit_engine_passes_the_contract() -> None:
    options = {**COARSE, "ecut_ev": 350.0, "kpts_per_inverse_ang": 2.0, "smearing_ev": 0.3}
    assert check_engine("abinit", options, element="Al", lattice_ang=4.15).formula == "Al"


@needs_abinit
def test_cures_bring_a_cycle_to_its_end_that_did_not_settle(tmp_path: Path) -> None:
    options = {**COARSE, "max_scf": 5}
    job = build_label(silicon().as_dict(), "static", "abinit", options, {})["jobs"][0]["job"]
    plain = run_job_once(job, [], str(tmp_path / "a"))
    cured = run_job_once(job, [], str(tmp_path / "a"), cures=["slow_mixing", "other_algorithm"])
    assert plain["failure"]["cause"] == "scf_not_converged"
    assert cured["ok"], cured.get("failure")
    written = (tmp_path / "a" / "abinit.in").read_text()
    assert "diemix" in written
    assert "nline 8" in written
