"""Labels by Quantum ESPRESSO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crystals import silicon
from espresso_pseudos import needs_espresso, with_silicon
from pymatgen.core import Structure

from flows.causes import OutputParseError
from flows.engines.espresso import SEARCHED, EspressoConfig, EspressoEngine
from flows.engines.espresso_calculator import complaint_in, namelist, pseudos_in, results_of
from flows.errors import LabelInputError
from flows.run import build_label, run_job_once, settings_of
from flows.testing import check_engine, fcc, label


def failure(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    built = build_label(silicon().as_dict(), "static", "espresso", options, {})
    found: dict[str, Any] = run_job_once(built["jobs"][0]["job"], [], str(folder / "job"))["failure"]
    return found


def test_settings_are_what_decides_an_energy() -> None:
    plain = settings_of("relax_static", "espresso", {}, {})
    moved = {"command": "mpirun -n 4 pw.x", "pseudo_dir": "/somewhere", "max_steps": 7, "max_scf": 9}
    assert settings_of("relax_static", "espresso", moved, {}) == plain
    other = settings_of("relax_static", "espresso", {"pseudopotentials": "my own"}, {})
    assert other["engine_settings"]["pseudopotentials"] == "my own"


def test_waves_end_where_the_step_has_made_them_costly() -> None:
    found = namelist(EspressoEngine(EspressoConfig(ecut_ev=400.0)).settings())
    assert found["ecfixed"] == pytest.approx(29.4, abs=0.01)
    assert found["ecutwfc"] > found["ecfixed"] + 2 * found["q2sigma"]
    assert found["ecutrho"] == pytest.approx(8 * found["ecutwfc"])


def test_pseudopotentials_are_found_by_element(tmp_path: Path) -> None:
    for name in ("Si.pbe-n-rrkjus_psl.1.0.0.UPF", "Si.pbe.UPF", "ca_pbe_v1.uspp.F.UPF", "O.upf", "notes.txt"):
        (tmp_path / name).write_text("")
    assert pseudos_in(tmp_path) == {"Si": "Si.pbe.UPF", "Ca": "ca_pbe_v1.uspp.F.UPF", "O": "O.upf"}
    assert pseudos_in(tmp_path / "elsewhere") == {}
    with pytest.raises(LabelInputError, match="no data for some elements; got 'Mg'"):
        build_label(fcc("Mg", 4.5).as_dict(), "static", "espresso", {"pseudo_dir": str(tmp_path)}, {})


def test_what_is_missing_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(SEARCHED, raising=False)
    absent = EspressoEngine(EspressoConfig(command="no-such-pw"))
    assert absent.version() == "espresso not installed"
    assert "apt-get install quantum-espresso" in absent.check().cure
    assert not EspressoEngine().check().ok
    assert EspressoEngine().unsupported(["Mg"]) == ()
    monkeypatch.setenv(SEARCHED, str(tmp_path))
    assert EspressoEngine().pseudo_dir == tmp_path


def test_what_pw_calls_an_error_is_what_is_told() -> None:
    line = " " + "%" * 78 + "\n"
    log = f"chat\n{line}     Error in routine readpp (1):\n     file not found\n{line}\n     stopping ...\n"
    assert complaint_in(log) == "Error in routine readpp (1): file not found"
    assert complaint_in("all is well") == ""


def test_torn_results_are_told(tmp_path: Path) -> None:
    path = tmp_path / "espresso.pwo"
    path.write_text("Program PWSCF v.6.7\n")
    with pytest.raises(OutputParseError, match="torn"):
        results_of(path)
    path.write_text("Program PWSCF v.6.7\nJOB DONE.\n")
    with pytest.raises(OutputParseError, match="cannot be read"):
        results_of(path)


@needs_espresso
def test_silicon_is_relaxed_and_labelled(tmp_path: Path) -> None:
    options = {**with_silicon(tmp_path), "kpts_per_inverse_ang": 2.0}
    found = label(silicon(5.5), "relax_static", "espresso", options, tmp_path)
    assert found.converged
    assert (4 * found.volume) ** (1 / 3) == pytest.approx(5.47, abs=0.03)
    assert (found.spacegroup_before, found.spacegroup_after) == (227, 227)
    assert found.fidelity == "dft"
    assert found.engine_version.startswith("espresso ")
    assert np.abs(found.stress_gpa).max() < 1.0
    assert {path.name for path in tmp_path.glob("*/espresso*")} == {"espresso.pwi", "espresso.pwo"}


@needs_espresso
def test_failures_are_typed(tmp_path: Path) -> None:
    options = {**with_silicon(tmp_path), "kpts_per_inverse_ang": 1.0}
    assert failure({**options, "max_scf": 2}, tmp_path / "a")["cause"] == "scf_not_converged"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert failure({**options, "pseudo_dir": str(empty)}, tmp_path / "b")["cause"] == "missing_setup"
    (empty / "Si.UPF").write_text("no pseudopotential\n")
    torn = failure({**options, "pseudo_dir": str(empty)}, tmp_path / "c")
    assert torn["cause"] in ("code_crashed", "parse_error")
    assert failure({**options, "command": "no-such-pw"}, tmp_path / "d")["cause"] == "missing_setup"


@needs_espresso
def test_cures_bring_a_cycle_to_its_end_that_did_not_settle(tmp_path: Path) -> None:
    options = {**with_silicon(tmp_path), "kpts_per_inverse_ang": 1.0, "max_scf": 3}
    job = build_label(silicon().as_dict(), "static", "espresso", options, {})["jobs"][0]["job"]
    plain = run_job_once(job, [], str(tmp_path / "a"))
    cured = run_job_once(job, [], str(tmp_path / "a"), cures=["slow_mixing", "other_algorithm"])
    assert plain["failure"]["cause"] == "scf_not_converged"
    assert cured["ok"], cured.get("failure")
    written = (tmp_path / "a" / "espresso.pwi").read_text()
    assert "'cg'" in written
    assert "0.2" in written


@needs_espresso
@pytest.mark.slow
def test_a_metal_relaxes_to_its_energy_minimum_at_a_low_cutoff(tmp_path: Path) -> None:
    """The stress vanishes where the recorded energy is lowest: no Pulay stress is left."""
    options = {**with_silicon(tmp_path), "ecut_ev": 130.0, "smearing_ev": 0.4, "fmax_ev_per_ang": 0.01}
    found = label(fcc("Si", 3.9), "relax_static", "espresso", options, tmp_path)
    scales = np.array([0.94, 0.97, 1.0, 1.03, 1.06])
    energies = []
    for scale in scales:
        other = Structure.from_dict(found.structure)
        other.scale_lattice(found.volume * scale)
        energies.append(label(other, "static", "espresso", options, tmp_path).energy)
    roots = np.roots(np.polyder(np.polyfit(scales, energies, 3)))
    best = float(min((root.real for root in roots if abs(root.imag) < 1e-9), key=lambda root: abs(root - 1)))
    assert best == pytest.approx(1.0, abs=0.015)


@needs_espresso
@pytest.mark.slow
def test_the_espresso_engine_passes_the_contract(tmp_path: Path) -> None:
    options = {**with_silicon(tmp_path), "smearing_ev": 0.4, "kpts_per_inverse_ang": 2.0}
    assert check_engine("espresso", options, element="Si", lattice_ang=4.0).formula == "Si"
