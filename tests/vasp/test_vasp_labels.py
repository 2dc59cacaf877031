"""Labels by atomate2, custodian and emmet as they are; only the executable is stood in for."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from crystals_vasp import ordered_cu3au, ordered_cuau
from pymatgen.core import Structure
from vasp_machine import command, write_potcars

from flows.building import build_label
from flows.job_limits import BLOCK_ENDS, BLOCK_GRACE, Limits
from flows.job_run import run_job_once
from flows.schemas import LabelDoc
from flows.testing import check_engine, fcc, label

REPOSITORY = Path(__file__).resolve().parents[2]
FAST = {"preset": "fast", "command": command()}


def first_job(
    folder: Path, flow: str = "static", crystal: Structure | None = None, **options: Any
) -> dict[str, Any]:
    """Run the first job of a label in `folder`."""
    built = build_label((crystal or ordered_cuau()).as_dict(), flow, "vasp", {**FAST, **options}, {})
    return run_job_once(built["jobs"][0]["job"], [], str(folder))


def test_a_label_is_what_the_executable_computes(tmp_path: Path) -> None:
    found: LabelDoc = label(fcc("Cu", 3.7), "relax_static", "vasp", FAST, tmp_path)
    same = label(fcc("Cu", 3.7), "relax_static", "mlip", {"calculator": "emt"}, tmp_path)
    assert found.volume == pytest.approx(same.volume, abs=1e-3)
    assert found.energy == pytest.approx(same.energy - 3.5, abs=1e-6)
    assert (found.spacegroup_before, found.spacegroup_after) == (225, 225)
    assert found.engine_version.startswith("vasp 6.4.2, atomate2 0.")
    assert found.converged
    assert [(one.name, one.corrections) for one in found.steps] == [("relax", []), ("static", [])]
    assert json.loads(json.dumps(found.model_dump(mode="json"))) == found.model_dump(mode="json")


def test_stress_is_negative_when_compressed(tmp_path: Path) -> None:
    found = label(ordered_cuau(2.6, 3.4), "static", "vasp", FAST, tmp_path)
    same = label(ordered_cuau(2.6, 3.4), "static", "mlip", {"calculator": "emt"}, tmp_path)
    assert np.array(found.stress_gpa) == pytest.approx(np.array(same.stress_gpa), abs=1e-4)
    assert found.stress_gpa is not None
    assert found.stress_gpa[0][0] < -5


def test_outputs_stay_in_the_jobs_folder_compressed(tmp_path: Path) -> None:
    assert first_job(tmp_path / "a")["ok"]
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"INCAR.gz", "OUTCAR.gz", "vasprun.xml.gz", "custodian.json.gz", "result.json"} <= names
    assert "KSPACING = 0.5" in gzip.decompress((tmp_path / "a" / "INCAR.gz").read_bytes()).decode()


def test_a_structure_near_its_space_group_is_relaxed_on_it(tmp_path: Path) -> None:
    """VASP itself finds symmetry only within 1e-5 Å."""
    near = ordered_cu3au()
    near.perturb(0.002)
    found = label(near, "relax", "vasp", FAST, tmp_path)
    assert found.spacegroup_after == 221
    assert Structure.from_dict(found.structure).get_space_group_info(1e-5)[1] == 221


def test_two_relaxations_of_a_users_maker_are_one_label(tmp_path: Path) -> None:
    options = {
        **FAST,
        "relax_maker": "atomate2.vasp.flows.core:DoubleRelaxMaker",
        "incar": {"GGA": "PE", "EDIFFG": -0.02},
    }
    found = label(ordered_cuau(), "relax", "vasp", options, tmp_path)
    assert found.converged
    assert found.max_force is not None
    assert found.max_force < 0.02
    assert len(list(tmp_path.glob("*/vasprun.xml.gz"))) == 2


def test_a_thread_is_refused(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        failure = pool.submit(first_job, tmp_path / "a").result()["failure"]
    assert "a thread cannot have for itself" in failure["message"]
    assert "any pool but threads" in failure["message"]


def test_elements_without_potcar_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the library is whole, on the worker it is not."""
    from pymatgen.core import SETTINGS

    built = build_label(ordered_cuau().as_dict(), "static", "vasp", FAST, {})
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(write_potcars(tmp_path / "p", elements=["Cu"])))
    failure = run_job_once(built["jobs"][0]["job"], [], str(tmp_path / "a"))["failure"]
    assert failure["cause"] == "missing_setup"
    assert "symbol='Au'" in failure["message"]
    assert "cure: set PMG_VASP_PSP_DIR" in failure["message"]


@pytest.mark.parametrize(
    ("changed", "cause", "words"),
    [
        ({"command": command("scf"), "handlers": False}, "scf_not_converged", "200 electronic iterations"),
        ({"command": command("truncate")}, "parse_error", "not whole"),
        ({"command": command("exit")}, "code_crashed", "exit code 2: internal error in a subroutine"),
        ({"command": command("kill")}, "out_of_memory", "killed (signal 9)"),
        ({"command": command("memory")}, "out_of_memory", "oom-kill event"),
        ({"command": "no_vasp_here"}, "missing_setup", "no_vasp_here"),
        ({"incar": {"NO_SUCH_TAG": 1}}, "code_crashed", "stand-in refuses: unknown tags"),
    ],
)
def test_a_failure_has_its_cause_and_vasps_own_words(
    changed: dict[str, Any], cause: str, words: str, tmp_path: Path
) -> None:
    failure = first_job(tmp_path / "a", **changed)["failure"]
    assert failure["cause"] == cause, failure
    assert words in failure["message"]


@pytest.mark.slow
def test_an_scf_that_custodian_cannot_mend_is_typed(tmp_path: Path) -> None:
    failure = first_job(tmp_path / "a", command=command("scf"))["failure"]
    assert failure["cause"] == "scf_not_converged", failure
    assert json.loads((tmp_path / "a" / "custodian.json").read_text())[0]["corrections"]


def test_a_relaxation_out_of_steps_goes_on_from_its_last_geometry(tmp_path: Path) -> None:
    few = {"max_steps": 3, "handlers": False}
    first = first_job(tmp_path / "a", "relax", **few)
    assert first["failure"]["cause"] == "ionic_not_converged", first
    left = Structure.from_file(tmp_path / "a" / "CONTCAR")
    second = first_job(tmp_path / "a", "relax", max_steps=60)
    assert second["ok"]
    assert second["docs"][0]["output"]["custodian"][0]["corrections"] == [], (
        "nothing of the first try is read again"
    )
    began = Structure.from_file(tmp_path / "a" / "POSCAR.orig.gz")
    assert began.lattice.matrix == pytest.approx(left.lattice.matrix, abs=1e-6)
    assert not np.allclose(left.lattice.matrix, ordered_cuau().lattice.matrix, atol=1e-3)
    assert (tmp_path / "a" / "try-1" / "OUTCAR").is_file()
    alone = first_job(tmp_path / "b", "relax", max_steps=60)
    energies = [one["docs"][0]["output"]["output"]["energy"] for one in (second, alone)]
    assert energies[0] == pytest.approx(energies[1], abs=1e-3)


def test_a_torn_contcar_is_no_beginning(tmp_path: Path) -> None:
    died = first_job(tmp_path / "a", "relax", command=command("die@2"))
    assert died["failure"]["cause"] == "out_of_memory"
    whole = (tmp_path / "a" / "CONTCAR").read_text()
    (tmp_path / "a" / "CONTCAR").write_text(whole[: len(whole) // 2])
    assert first_job(tmp_path / "a", "relax")["ok"]
    began = Structure.from_file(tmp_path / "a" / "POSCAR.orig.gz")
    assert began.lattice.abc == pytest.approx(ordered_cuau().lattice.abc, abs=1e-6)


def test_what_custodian_changed_is_kept_on_the_label(tmp_path: Path) -> None:
    """Too few ionic steps are an error that custodian mends by going on."""
    found = label(ordered_cuau(), "relax", "vasp", {**FAST, "max_steps": 3}, tmp_path)
    assert found.converged
    assert found.steps[0].corrections
    assert found.steps[0].corrections[0].startswith("Unconverged: ")


def test_the_machines_own_tags_may_not_decide_energies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atomate2 import SETTINGS

    monkeypatch.setattr(SETTINGS, "VASP_INCAR_UPDATES", {"NCORE": 2})
    assert first_job(tmp_path / "a")["ok"]
    assert "NCORE = 2" in gzip.decompress((tmp_path / "a" / "INCAR.gz").read_bytes()).decode()
    monkeypatch.setattr(SETTINGS, "VASP_INCAR_UPDATES", {"NCORE": 2, "ENCUT": 300})
    failure = first_job(tmp_path / "b")["failure"]
    assert failure["cause"] == "missing_setup"
    assert "changes ENCUT" in failure["message"]


def running_in(folder: Path) -> list[psutil.Process]:
    """Return the processes whose working directory is a folder."""
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if one.cwd() == str(folder) and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
    return found


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of util-linux")
def test_vasp_ends_with_its_worker(tmp_path: Path) -> None:
    """custodian starts it in a session of its own, out of reach of what ends the worker's."""
    built = build_label(
        ordered_cuau().as_dict(), "static", "vasp", {**FAST, "command": command("wait@120")}, {}
    )
    (tmp_path / "job.json").write_text(json.dumps(built["jobs"][0]["job"]))
    places = [repr(str(tmp_path / name)) for name in ("job.json", "a")]
    run = (
        "import json, pathlib; from flows.job_run import run_job_once; "
        f"run_job_once(json.loads(pathlib.Path({places[0]}).read_text()), [], {places[1]})"
    )
    worker = subprocess.Popen([sys.executable, "-c", run], env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    try:
        wait_until(
            lambda: any(
                one.name().startswith("python") for one in running_in(tmp_path / "a") if one.pid != worker.pid
            )
        )
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        wait_until(lambda: not running_in(tmp_path / "a"))
    finally:
        worker.kill()
        for one in running_in(tmp_path / "a"):
            one.kill()


def test_vasp_ends_when_its_time_is_over(tmp_path: Path) -> None:
    built = build_label(
        ordered_cuau().as_dict(), "static", "vasp", {**FAST, "command": command("wait@120")}, {}
    )
    found = run_job_once(built["jobs"][0]["job"], [], str(tmp_path / "a"), limits=Limits(seconds=6.0))
    assert found["failure"]["cause"] == "walltime", found
    assert (tmp_path / "a" / "vasp.out").is_file(), "VASP was running"
    assert running_in(tmp_path / "a") == []


def wait_until(holds: Callable[[], bool], at_most_s: float = 60.0) -> None:
    end = time.monotonic() + at_most_s
    while not holds():
        assert time.monotonic() < end, "this takes too long"
        time.sleep(0.1)


@pytest.mark.slow
def test_the_vasp_engine_passes_the_contract() -> None:
    assert check_engine("vasp", FAST).engine == "vasp"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flow", "options", "field"),
    [
        ("phonon", {"min_supercell_ang": 5.0, "q_points_per_inverse_ang": 3.0}, "phonon"),
        ("elastic", {"strains": [-0.005, 0.005]}, "elastic"),
        ("eos", {"volume_factors": [0.94, 0.97, 1.0, 1.03, 1.06]}, "equation_of_state"),
    ],
)
def test_the_other_flows_say_what_the_plain_calculator_says(
    flow: str, options: dict[str, Any], field: str, tmp_path: Path
) -> None:
    """Gold stands first in the crystal and last in VASP's files: forces must find their atoms again."""
    tight = {**FAST, "incar": {"EDIFFG": -0.001}}
    by_vasp = getattr(label(ordered_cu3au(), flow, "vasp", tight, tmp_path, **options), field)
    plain = {"calculator": "emt", "fmax_ev_per_ang": 0.001}
    by_emt = getattr(label(ordered_cu3au(), flow, "mlip", plain, tmp_path, **options), field)
    compared = {
        "phonon": ("max_frequency_thz", "min_frequency_thz", "zero_point_energy_per_atom"),
        "elastic": ("bulk_modulus_gpa", "shear_modulus_gpa"),
        "equation_of_state": ("volume_per_atom", "bulk_modulus_gpa"),
    }[field]
    for name in compared:
        assert getattr(by_vasp, name) == pytest.approx(getattr(by_emt, name), rel=2e-3, abs=5e-3), name


@pytest.mark.slow
def test_a_relaxation_cut_by_the_end_of_its_block_goes_on_from_its_contcar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BLOCK_GRACE, "30")
    monkeypatch.setenv(BLOCK_ENDS, str(time.time() + 36))
    cut = first_job(tmp_path / "a", "relax", command=command("stall@3"))
    assert cut["failure"]["block_ended"], cut
    assert cut["geometries"] == 1, "it has moved"
    assert running_in(tmp_path / "a") == []
    monkeypatch.setenv(BLOCK_ENDS, str(time.time() + 36))
    left = Structure.from_file(tmp_path / "a" / "CONTCAR")
    still = first_job(tmp_path / "a", "relax", command=command("wait@60"))
    assert still["failure"]["block_ended"], still
    assert still["geometries"] == 0, "it has not"
    monkeypatch.delenv(BLOCK_ENDS)
    assert first_job(tmp_path / "a", "relax")["ok"]
    began = Structure.from_file(tmp_path / "a" / "POSCAR.orig.gz")
    assert began.lattice.matrix == pytest.approx(left.lattice.matrix, abs=1e-6)
