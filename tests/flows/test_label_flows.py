"""Labels from end to end with quick calculators: numbers, repeatability, failures, bad input."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from crystals import copper, silicon
from flow_jobs import ticks
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from flows.errors import EngineOptionsError, FlowsError, LabelInputError, UnknownFlowError
from flows.job_limits import Limits
from flows.run import build_label, run_job_once, settings_hash, settings_of
from flows.schemas import LabelDoc
from flows.testing import label

EMT_OPTIONS = {"calculator": "emt"}


def first_failure(structure: Structure, options: dict[str, Any], folder: Path, flow: str = "static") -> Any:
    built = build_label(structure.as_dict(), flow, "mlip", options, {})
    result = run_job_once(built["jobs"][0]["job"], [], str(folder / "job"))
    assert not result["ok"]
    return result["failure"]


def test_a_static_label_is_the_calculators_own_answer(tmp_path: Path) -> None:
    start = copper(3.7)
    found = label(start, "static", "mlip", EMT_OPTIONS, tmp_path)
    atoms = bulk("Cu", "fcc", 3.7)
    atoms.calc = EMT()
    assert found.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    stress = atoms.get_stress(voigt=False) / 0.006241509  # 1 GPa = 0.006241509 eV/Å³
    assert np.allclose(found.stress_gpa, stress, atol=1e-3)
    assert found.max_force == pytest.approx(0.0, abs=1e-9)
    assert found.volume == pytest.approx(3.7**3 / 4)
    assert found.n_ionic_steps == 0
    assert np.allclose(
        Structure.from_dict(found.structure).lattice.matrix, start.lattice.matrix, rtol=0, atol=1e-12
    )
    assert (found.spacegroup_before, found.spacegroup_after) == (225, 225)
    assert found.engine_version.startswith("ase 3")


def test_a_relaxed_label_has_the_equilibrium_cell(tmp_path: Path) -> None:
    options = {**EMT_OPTIONS, "fmax_ev_per_ang": 1e-4}
    found = label(copper(3.7), "relax_static", "mlip", options, tmp_path)
    edges = np.linspace(3.5, 3.7, 201)
    energies = []
    for edge in edges:
        atoms = bulk("Cu", "fcc", edge)
        atoms.calc = EMT()
        energies.append(atoms.get_potential_energy())
    assert (4 * found.volume) ** (1 / 3) == pytest.approx(edges[np.argmin(energies)], abs=2e-3)
    assert found.energy == pytest.approx(min(energies), abs=1e-4)
    assert found.converged
    assert np.abs(found.stress_gpa).max() < 0.05
    assert [step.name for step in found.steps] == ["relax", "static"]
    assert found.n_ionic_steps == found.steps[0].n_ionic_steps > 0
    assert found.wall_seconds == pytest.approx(sum(step.wall_seconds for step in found.steps))
    assert found.core_hours >= found.wall_seconds / 3600


def test_relaxations_follow_one_another(tmp_path: Path) -> None:
    options = {**EMT_OPTIONS, "fmax_ev_per_ang": 1e-2}
    found = label(copper(3.8), "relax_static", "mlip", options, tmp_path, relaxations=3)
    assert [step.name for step in found.steps] == ["relax", "relax", "relax", "static"]
    # Each begins where the one before it ended: nothing is left to do.
    assert found.steps[0].n_ionic_steps > 1
    assert all(step.n_ionic_steps <= 1 for step in found.steps[1:])
    energies = [step.energy_per_atom for step in found.steps]
    assert energies == pytest.approx([energies[0]] * 4, abs=1e-6)


def test_symmetry_is_kept_when_asked_and_may_break_otherwise(tmp_path: Path) -> None:
    # body-centred tetragonal copper on its way from bcc to fcc: only the free one may find the cubic cell
    start = Structure(Lattice.tetragonal(2.7, 3.3), ["Cu", "Cu"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    kept = label(start, "relax", "mlip", EMT_OPTIONS, tmp_path, fix_symmetry=True)
    assert kept.spacegroup_before == 139
    fixed_cell = label(start, "relax", "mlip", EMT_OPTIONS, tmp_path, relax_cell=False)
    assert fixed_cell.volume == pytest.approx(start.volume)
    assert kept.energy < fixed_cell.energy - 1e-3


def test_atoms_of_a_low_symmetry_cell_relax(tmp_path: Path) -> None:
    start = copper(3.65)
    start.make_supercell([2, 2, 2])
    start.translate_sites([0], [0.02, 0.01, 0.03], frac_coords=True)
    begin = label(start, "static", "mlip", EMT_OPTIONS, tmp_path)
    found = label(start, "relax_static", "mlip", EMT_OPTIONS, tmp_path, symprec_ang=1e-4)
    assert begin.max_force is not None
    assert found.max_force is not None
    assert found.max_force < 0.05 < begin.max_force
    assert found.energy < begin.energy - 0.05


def test_the_same_label_is_the_same_jobs_and_numbers(tmp_path: Path) -> None:
    args = (copper().as_dict(), "relax_static", "mlip", EMT_OPTIONS, {})
    first, second = build_label(*args), build_label(*args)
    assert first == second
    assert json.loads(json.dumps(first)) == first
    assert first["output_uuid"] == first["jobs"][-1]["uuid"]
    other = build_label(copper(3.71).as_dict(), *args[1:])
    assert not {one["uuid"] for one in first["jobs"]} & {one["uuid"] for one in other["jobs"]}
    once = label(copper(), "relax_static", "mlip", EMT_OPTIONS, tmp_path / "a")
    again = label(copper(), "relax_static", "mlip", EMT_OPTIONS, tmp_path / "b")
    assert once.energy == again.energy
    assert once.structure == again.structure


def test_settings_hold_what_a_label_means_and_nothing_else() -> None:
    base = settings_of("relax_static", "mlip", {}, {})
    assert base == settings_of("relax_static", "mlip", {"max_steps": 7}, {"fix_symmetry": True})
    different = [
        settings_of("relax", "mlip", {}, {}),
        settings_of("relax_static", "mlip", {"calculator": "emt"}, {}),
        settings_of("relax_static", "mlip", {"fmax_ev_per_ang": 0.01}, {}),
        settings_of("relax_static", "mlip", {}, {"fix_symmetry": False}),
        settings_of("relax_static", "gpaw", {}, {}),
        settings_of("relax_static", "gpaw", {"preset": "fast"}, {}),
        settings_of("relax_static", "gpaw", {"preset": "fast", "ecut_ev": 350}, {}),
    ]
    hashes = [settings_hash(one) for one in [base, *different]]
    assert len(set(hashes)) == len(hashes)
    assert settings_hash(dict(reversed(base.items()))) == hashes[0]
    spelt_out = settings_of("relax_static", "gpaw", {"preset": "precise", "ecut_ev": 500.0}, {})
    preset = settings_of("relax_static", "gpaw", {"preset": "precise"}, {})
    assert spelt_out["engine_settings"] == {**preset["engine_settings"], "ecut_ev": 500.0}


@pytest.mark.parametrize(
    ("structure", "options", "cause"),
    [
        (Structure(Lattice.cubic(4), ["Cu", "Cu"], [[0, 0, 0], [0.02, 0, 0]]), EMT_OPTIONS, "bad_geometry"),
        (Structure(Lattice.cubic(0.4), ["Cu"], [[0, 0, 0]]), EMT_OPTIONS, "bad_geometry"),
        (Structure(Lattice.cubic(30), ["Cu"], [[0, 0, 0]]), EMT_OPTIONS, "bad_geometry"),
        (
            Structure(Lattice.from_parameters(9, 9, 9, 90, 90, 0.05), ["Cu"], [[0, 0, 0]]),
            EMT_OPTIONS,
            "bad_geometry",
        ),
        (copper(), {"calculator": "flow_jobs:OutOfMemory"}, "out_of_memory"),
        (copper(), {"calculator": "nowhere:Calculator"}, "unknown"),
        (silicon(), EMT_OPTIONS, "unknown"),  # EMT has no silicon and says so in its own words
    ],
)
def test_failures_are_typed(
    structure: Structure, options: dict[str, Any], cause: str, tmp_path: Path
) -> None:
    failure = first_failure(structure, options, tmp_path)
    assert failure["cause"] == cause
    assert "\n" not in failure["message"]


def test_an_energy_that_is_no_number_is_no_label(tmp_path: Path) -> None:
    built = build_label(copper().as_dict(), "static", "mlip", {"calculator": "flow_jobs:NotANumber"}, {})
    first = run_job_once(built["jobs"][0]["job"], [], str(tmp_path / "a"))
    second = run_job_once(built["jobs"][1]["job"], first["docs"], str(tmp_path / "b"))
    assert second["failure"]["cause"] == "parse_error"


def test_a_relaxation_out_of_steps_goes_on_from_its_last_geometry(tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = {
        "calculator": "flow_jobs:CountedLennardJones",
        "calculator_options": {"log": str(log)},
        "fmax_ev_per_ang": 1e-3,
    }
    start = copper(4.2)
    whole = label(start, "relax", "mlip", options, tmp_path / "whole")
    cost = ticks(log)
    built = build_label(start.as_dict(), "relax", "mlip", {**options, "max_steps": 4}, {})
    causes = []
    for _ in range(20):
        result = run_job_once(built["jobs"][0]["job"], [], str(tmp_path / "parts"))
        if result["ok"]:
            break
        causes.append(result["failure"]["cause"])
    assert result["ok"]
    assert causes
    assert set(causes) == {"ionic_not_converged"}
    assert ticks(log) - cost < 4 * cost + 20
    upstream = [*result["docs"], *result["data"]]  # its trajectory is large data
    label_job = run_job_once(built["jobs"][1]["job"], upstream, str(tmp_path / "label"))
    assert label_job["docs"][0]["output"]["energy"] == pytest.approx(whole.energy, abs=1e-4)


def test_labels_in_threads_do_not_disturb_one_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "working_directory").mkdir()
    monkeypatch.chdir(tmp_path / "working_directory")
    crystals = [copper(3.5 + 0.05 * i) for i in range(6)]
    alone = [label(one, "relax_static", "mlip", EMT_OPTIONS, tmp_path / "alone") for one in crystals]
    with ThreadPoolExecutor(4) as pool:
        together = list(
            pool.map(lambda one: label(one, "relax_static", "mlip", EMT_OPTIONS, tmp_path / "t"), crystals)
        )
    assert [one.energy for one in alone] == [one.energy for one in together]
    assert list(Path.cwd().iterdir()) == []
    print("still heard")  # noqa: T201
    assert capsys.readouterr().out.endswith("still heard\n")


def test_chgnet_labels(tmp_path: Path) -> None:
    found = label(silicon(), "relax_static", "mlip", {"calculator": "chgnet"}, tmp_path)
    assert found.energy_per_atom == pytest.approx(-5.3, abs=0.2)
    assert found.engine_version.startswith("chgnet 0.")
    assert found.spacegroup_after == 227
    assert found.fidelity == "mlip"


def test_documents_refuse_what_they_do_not_know(tmp_path: Path) -> None:
    found = label(copper(), "static", "mlip", EMT_OPTIONS, tmp_path).model_dump(mode="json")
    assert LabelDoc(**found).model_dump(mode="json") == found
    with pytest.raises(ValueError, match="enrgy"):
        LabelDoc(**found, enrgy=1.0)


def disordered() -> dict[str, Any]:
    made: dict[str, Any] = Structure(Lattice.cubic(3), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]]).as_dict()
    return made


@pytest.mark.parametrize(
    ("args", "error", "words"),
    [
        (({}, "static", "mlip", {}, {}), LabelInputError, "cannot be read"),
        ((disordered(), "static", "mlip", {}, {}), LabelInputError, "ordered"),
        (
            (copper().as_dict(), "statik", "mlip", {}, {}),
            UnknownFlowError,
            "allowed: elastic, electronic, eos, phonon, relax, relax_static, static",
        ),
        ((copper().as_dict(), "static", "vaps", {}, {}), UnknownFlowError, "allowed: .*gpaw, mlip"),
        ((copper().as_dict(), "static", "no.such:Engine", {}, {}), UnknownFlowError, "does not import"),
        (
            (copper().as_dict(), "static", "json:JSONDecoder", {}, {}),
            UnknownFlowError,
            "no class with a Config",
        ),
        ((copper().as_dict(), "static", "mlip", {"max_stps": 3}, {}), EngineOptionsError, "max_stps"),
        (
            (copper().as_dict(), "static", "mlip", {"max_steps": 1}, {}),
            EngineOptionsError,
            "max_steps.*got 1",
        ),
        (
            (copper().as_dict(), "static", "mlip", {}, {"fix_symmetry": True}),
            EngineOptionsError,
            "fix_symmetry",
        ),
        (
            (copper().as_dict(), "relax", "gpaw", {"preset": "quick"}, {}),
            EngineOptionsError,
            "preset.*'quick'",
        ),
    ],
)
def test_bad_input_is_one_clear_line(args: tuple[Any, ...], error: type[FlowsError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        build_label(*args)
    assert "\n" not in caught.value.one_line()


def test_structures_of_ase_keep_their_atoms(tmp_path: Path) -> None:
    atoms = bulk("Cu", "fcc", 3.6, cubic=True)
    structure = AseAtomsAdaptor.get_structure(atoms)
    found = Structure.from_dict(label(structure, "static", "mlip", EMT_OPTIONS, tmp_path).structure)
    assert len(found) == 4
    assert found.site_properties == {}


@pytest.mark.slow
def test_a_relaxation_whose_time_is_over_goes_on_from_its_last_geometry(tmp_path: Path) -> None:
    options = {"calculator": "troubled:Slow", "fmax_ev_per_ang": 0.01}
    crystal = Structure(Lattice.cubic(3.6), ["Ca", "Si"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    job = build_label(crystal.as_dict(), "relax", "mlip", options, {})["jobs"][0]["job"]
    folder = tmp_path / "a"
    cut = run_job_once(job, [], str(folder), limits=Limits(seconds=2.5))
    assert cut["failure"]["cause"] == "walltime"
    reached = Structure.from_dict(json.loads((folder / "last_geometry.json").read_text()))
    assert abs(reached.volume - crystal.volume) > 1e-3
    done = run_job_once(job, [], str(folder))
    assert done["ok"], done.get("failure")
    steps = [
        line.split() for line in (folder / "relax.log").read_text().splitlines() if line.startswith("BFGS:")
    ]
    first, second = (float(one[3]) for one in steps if one[1] == "0")
    assert second < first - 1e-3, "the second try begins lower than the first one began"
