"""Labels by CP2K."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from crystals import silicon
from pymatgen.core import Lattice, Structure

from flows.causes import CodeCrashedError, OutputParseError
from flows.engines.cp2k import Cp2kConfig, Cp2kEngine
from flows.engines.cp2k_calculator import crash_told, empty_bands, entropic_energy_ev, half_mesh, shell_line
from flows.engines.cp2k_data import Kind, kinds_in
from flows.errors import EngineOptionsError, LabelInputError
from flows.run import build_label, run_job_once, settings_of
from flows.testing import check_engine, label

HERE = Cp2kEngine().check()
needs_cp2k = pytest.mark.skipif(not HERE.ok, reason=f"{HERE.what}; {HERE.cure}")

COARSE: dict[str, Any] = {
    "preset": "fast", "basis": "SZV-MOLOPT-SR-GTH", "cutoff_ry": 150.0, "rel_cutoff_ry": 40.0,
    "kpts_per_inverse_ang": 1.0,
}  # fmt: skip

BASES = """# Basis
Si DZVP-MOLOPT-SR-GTH DZVP-MOLOPT-SR-GTH-q4
  1
Ga  DZVP-MOLOPT-SR-GTH-q3
  1
Ga  DZVP-MOLOPT-SR-GTH DZVP-MOLOPT-SR-GTH-q13
  1
U  DZVP-MOLOPT-SR-GTH-q14
"""
POTENTIALS = "Si GTH-PBE-q4 GTH-PBE\n    2    2\nGa GTH-PBE-q13 GTH-PBE\nGa GTH-PBE-q3\n"


def failure(structure: Structure, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    built = build_label(structure.as_dict(), "static", "cp2k", {**COARSE, **options}, {})
    found: dict[str, Any] = run_job_once(built["jobs"][0]["job"], [], str(folder / "job"))["failure"]
    return found


def test_basis_sets_go_with_pseudopotentials_of_as_many_electrons(tmp_path: Path) -> None:
    (tmp_path / "BASIS").write_text(BASES)
    (tmp_path / "POTENTIAL").write_text(POTENTIALS)
    found = kinds_in(tmp_path, ["BASIS", "NONE"], "POTENTIAL", "DZVP-MOLOPT-SR-GTH", "GTH-PBE")
    assert found == {
        "Si": Kind("DZVP-MOLOPT-SR-GTH-q4", "GTH-PBE-q4", 4),
        "Ga": Kind("DZVP-MOLOPT-SR-GTH-q13", "GTH-PBE-q13", 13),
    }
    assert kinds_in(tmp_path, ["NONE"], "NONE", "DZVP-MOLOPT-SR-GTH", "GTH-PBE") == {}


def test_settings_are_what_decides_an_energy() -> None:
    plain = settings_of("relax_static", "cp2k", {}, {})
    moved = {"command": "mpirun -n 4 cp2k.psmp", "pseudo_dir": "/somewhere", "max_steps": 7, "max_scf": 9}
    assert settings_of("relax_static", "cp2k", moved, {}) == plain
    assert plain["engine_settings"]["pseudopotentials"] == "GTH-PBE of GTH_POTENTIALS"
    precise = settings_of("static", "cp2k", {"preset": "precise"}, {})["engine_settings"]
    assert (precise["basis"], precise["pseudopotentials"]) == (
        "TZV2P-MOLOPT-PBE-GTH",
        "GTH-PBE of POTENTIAL_UZH",
    )


@pytest.mark.parametrize("options", [{"xc": "SCAN"}, {"basis": "6-31G"}])
def test_what_it_has_no_tables_for_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(EngineOptionsError, match=r"(xc|basis): "):
        settings_of("static", "cp2k", options, {})


def test_a_code_that_is_not_here_is_told_with_its_cure() -> None:
    engine = Cp2kEngine(Cp2kConfig(command="no-such-cp2k"))
    assert engine.version() == "cp2k not installed"
    assert "apt-get install cp2k" in engine.check().cure


@pytest.mark.parametrize(("kpts", "n"), [((1, 1, 1), 1), ((2, 2, 2), 8), ((3, 3, 3), 14), ((4, 2, 1), 6)])
def test_one_of_k_and_minus_k_is_kept(kpts: tuple[int, int, int], n: int) -> None:
    mesh = half_mesh(kpts)
    assert len(mesh) == n
    assert sum(weight for _, weight in mesh) == np.prod(kpts)
    assert mesh[0] == ((0.0, 0.0, 0.0), 1)


def test_a_few_empty_bands_for_small_cells() -> None:
    assert empty_bands(3, 1) == 3
    assert empty_bands(80, 20) == 20


def test_output_without_entropy_is_torn() -> None:
    with pytest.raises(OutputParseError, match="no electronic entropy"):
        entropic_energy_ev("Total energy: -3")
    said = "  Electronic entropic energy:    -0.1\n  Electronic entropic energy:    -0.5\n"
    assert entropic_energy_ev(said) == pytest.approx(-0.5 * 27.211386, abs=1e-4)


def test_how_cp2k_stopped_is_told() -> None:
    out = (
        " *  ___        *\n * [ABORT]    *\n"
        " *   \\___/     The specified basis set is not there.   *\n *    |   *\n"
    )
    found = crash_told(out, "")
    assert isinstance(found, CodeCrashedError)
    assert "basis set is not there" in str(found)
    assert isinstance(crash_told("", "terminate called after throwing std::bad_alloc"), MemoryError)


def test_cp2k_is_started_so_that_it_ends_with_its_worker() -> None:
    line = shell_line(("mpirun", "-n", "4", "cp2k.psmp"), Path("/a folder"))
    assert line.startswith("cd '/a folder' && exec setsid env OMP_NUM_THREADS=")
    assert line.endswith("mpirun -n 4 cp2k.psmp -s 2>cp2k.err")


@needs_cp2k
def test_elements_without_a_basis_set_are_refused_before_anything_runs() -> None:
    plutonium = Structure(Lattice.cubic(4), ["Pu"], [[0, 0, 0]])
    with pytest.raises(LabelInputError, match="no data for some elements; got 'Pu'"):
        build_label(plutonium.as_dict(), "static", "cp2k", {"preset": "precise"}, {})
    assert Cp2kEngine().unsupported(["Si", "Ca", "Mg", "O", "Fe"]) == ()
    assert Cp2kEngine(Cp2kConfig(preset="precise")).unsupported(["Si", "Ca", "Mg", "O", "Fe"]) == ()


@needs_cp2k
def test_an_scf_that_does_not_settle_is_typed(tmp_path: Path) -> None:
    found = failure(silicon(), {"max_scf": 2}, tmp_path)
    assert found["cause"] == "scf_not_converged"
    assert "2 electronic iterations" in found["message"]


@needs_cp2k
def test_a_cp2k_that_dies_is_typed(tmp_path: Path) -> None:
    command = tmp_path / "cp2k-that-dies"
    command.write_text("#!/bin/sh\necho '* READY'\nread order\nexit 3\n")
    command.chmod(0o755)
    found = failure(silicon(), {"command": str(command)}, tmp_path)
    assert found["cause"] == "code_crashed"
    assert failure(silicon(), {"command": "no-such-cp2k"}, tmp_path / "b")["cause"] == "missing_setup"


@needs_cp2k
def test_cp2k_ends_when_its_job_is_interrupted(tmp_path: Path) -> None:
    class OverError(RuntimeError):
        pass

    def over(*_: object) -> None:
        raise OverError("time is over")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, 4.0)
    try:
        found = failure(silicon(), {"kpts_per_inverse_ang": 3.0, "converge_density": 1e-9}, tmp_path)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert found["message"] == "OverError: time is over"
    assert not [one for one in psutil.Process().children(recursive=True) if "cp2k" in one.name()]


@needs_cp2k
@pytest.mark.slow
def test_silicon_is_relaxed_and_labelled(tmp_path: Path) -> None:
    options = {"preset": "fast", "kpts_per_inverse_ang": 1.8, "cutoff_ry": 200.0}
    deep = tmp_path / ("a folder whose name is long " * 3)
    deep.mkdir()
    found = label(silicon(5.5), "relax", "cp2k", options, deep)
    assert found.converged
    # PBE's lattice parameter of silicon is 5.47 Å; the basis and few k-points are good for 0.02 Å
    assert (4 * found.volume) ** (1 / 3) == pytest.approx(5.47, abs=0.03)
    assert (found.spacegroup_before, found.spacegroup_after) == (227, 227)
    assert found.fidelity == "dft"
    assert found.engine_version.startswith("cp2k ")
    assert np.abs(found.stress_gpa).max() < 1.0
    kept = {path.name for path in deep.glob("*/cp2k*")}
    assert kept == {"cp2k.inp", "cp2k.out", "cp2k.err"}


@needs_cp2k
@pytest.mark.slow
def test_the_cp2k_engine_passes_the_contract() -> None:
    options = {**COARSE, "smearing_ev": 0.5, "kpts_per_inverse_ang": 1.5, "fmax_ev_per_ang": 0.1}
    assert check_engine("cp2k", options, element="Al", lattice_ang=4.2).formula == "Al"


@needs_cp2k
def test_cures_bring_a_cycle_to_its_end_that_did_not_settle(tmp_path: Path) -> None:
    options = {**COARSE, "max_scf": 6}
    job = build_label(silicon().as_dict(), "static", "cp2k", options, {})["jobs"][0]["job"]
    plain = run_job_once(job, [], str(tmp_path / "a"))
    cured = run_job_once(job, [], str(tmp_path / "a"), cures=["slow_mixing", "other_algorithm"])
    assert plain["failure"]["cause"] == "scf_not_converged"
    assert cured["ok"], cured.get("failure")
    written = (tmp_path / "a" / "cp2k.inp").read_text()
    assert "ALPHA 0.1" in written
    assert "PULAY_MIXING" in written
