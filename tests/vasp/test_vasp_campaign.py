"""A whole campaign whose labels are VASP's: real Parsl pools, real atomate2 and custodian, a stand-in executable."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from command_line import Ran, process, start
from pymatgen.core import Composition, Lattice, Structure
from vasp_machine import command, write_potcars

from campaign.errors import CampaignError
from campaign.run_folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def write_reference(folder: Path) -> Path:
    """Write both elements and a compound between them."""
    rows = [
        ("Cu", "Fm-3m", 3.6, ["Cu"], [[0, 0, 0]], 0.0),
        ("Au", "Fm-3m", 4.1, ["Au"], [[0, 0, 0]], 0.0),
        ("Cu3Au", "Pm-3m", 3.8, ["Au", "Cu"], [[0, 0, 0], [0, 0.5, 0.5]], -0.04),
    ]
    entries = [
        {
            "material_id": name,
            "structure": Structure.from_spacegroup(group, Lattice.cubic(edge), species, sites)
            .get_primitive_structure()
            .as_dict(),
            "formation_energy_per_atom": energy,
        }
        for name, group, edge, species, sites, energy in rows
    ]
    file = folder / "reference.json"
    file.write_text(json.dumps(entries))
    return file


def write_campaign(folder: Path, hull: str, preset: str, launch_line: str = "") -> Path:
    document = {
        "name": "vasp",
        "seed": 5,
        "chemistry": {"elements": ["Cu", "Au"], "n_elements": 2, "max_atoms": 4},
        "reference": {"crystals": [write_reference(folder).name], "energy_scale": "materials_project"},
        "generators": [{"kind": "components:BinaryGenerator"}],
        "screen": [{"kind": "composition"}, {"kind": "min_distance"}, {"kind": "duplicates"}],
        "acquisition": {"candidates_per_round": 8, "labels_per_round": 2, "lookahead_rounds": 1},
        "labels": {
            "flow": "relax_static",
            "engine": "vasp",
            "engine_options": {"preset": preset, "command": launch_line or command()},
            "hull": hull,
        },
        "learn": {"heads": [{"kind": "components:ElementHead"}], "discriminators": []},
        "stop": {"rounds": 1},
    }
    file = folder / "campaign.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def launched(folder: Path, hull: str, preset: str) -> tuple[RunFolder, Ran]:
    library = write_potcars(folder / "potcars")
    file = write_campaign(folder, hull, preset)
    ran = process("launch", file, timeout_s=800, PMG_VASP_PSP_DIR=str(library))
    assert ran.code == 0, ran.out[-3000:] + ran.err[-3000:]
    return RunFolder(folder / "vasp"), ran


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Ran]:
    return launched(tmp_path_factory.mktemp("campaign"), "engine", "fast")


def test_two_candidates_and_their_references_are_labelled(finished: tuple[RunFolder, Ran]) -> None:
    run, ran = finished
    assert "campaign finished" in ran.out
    with run.store() as store:
        labels = list(store.query("labels"))
    assert {one["state"] for one in labels} == {"done"}
    by_purpose = {
        purpose: [one for one in labels if one["purpose"] == purpose]
        for purpose in ("candidate", "reference")
    }
    assert {one["formula"] for one in by_purpose["reference"]} == {"Cu", "Au", "Cu3Au"}
    assert len(by_purpose["candidate"]) == 2
    assert len({one["result"]["settings_hash"] for one in labels}) == 1
    for one in by_purpose["candidate"]:
        result = one["result"]
        assert result["engine_version"].startswith("vasp 6.4.2, atomate2")
        assert result["converged"]
        assert -0.2 < result["formation_energy_per_atom"] < 1.0
        assert result["e_above_hull"] is not None
        assert one["judged_on"] == {"hull": "engine", "settings_hash": one["settings_hash"]}


def test_elements_are_those_of_the_engine(finished: tuple[RunFolder, Ran]) -> None:
    """Effective-medium theory gives fcc elements next to no energy beside what the stand-in adds."""
    run, _ = finished
    with run.store() as store:
        elements = {
            one["formula"]: one["result"]["energy_per_atom"]
            for one in store.query("labels", {"purpose": "reference"})
            if one["formula"] in ("Cu", "Au")
        }
    assert elements == pytest.approx({"Cu": -3.5, "Au": -3.5}, abs=0.02)


def test_vasps_own_files_are_kept(finished: tuple[RunFolder, Ran]) -> None:
    run, _ = finished
    assert len(list(Path(run.work).rglob("OUTCAR.gz"))) == 2 * 5


@pytest.mark.long
def test_labels_on_the_hull_of_the_materials_project(tmp_path: Path) -> None:
    """Alloys are not corrected, so that every figure follows from three energies and the reference's one."""
    run, _ = launched(tmp_path, "materials_project", "mp")
    with run.store() as store:
        labels = list(store.query("labels", {"state": "done"}))
    elements = {one["formula"]: one["result"] for one in labels if one["purpose"] == "reference"}
    assert set(elements) == {"Cu", "Au"}
    assert {one["mp_correction_per_atom"] for one in elements.values()} == {0.0}
    candidates = [one for one in labels if one["purpose"] == "candidate"]
    assert len(candidates) == 2
    for one in candidates:
        result, gold = one["result"], Composition(one["formula"]).get_atomic_fraction("Au")
        line = (1 - gold) * elements["Cu"]["energy_per_atom"] + gold * elements["Au"]["energy_per_atom"]
        formation = result["energy_per_atom"] - line
        hull = -0.04 * (gold / 0.25 if gold <= 0.25 else (1 - gold) / 0.75)
        assert result["formation_energy_per_atom"] == pytest.approx(formation, abs=1e-6)
        assert result["e_above_hull"] == pytest.approx(formation - hull, abs=1e-6)
        assert one["judged_on"] == {"hull": "materials_project", "settings_hash": one["settings_hash"]}


def done_labels(run: RunFolder) -> int:
    try:
        with run.store() as store:
            return len(list(store.query("labels", {"state": "done"})))
    except CampaignError:  # not there yet
        return 0


@pytest.mark.long
def test_a_killed_campaign_goes_on_with_its_labels(tmp_path: Path) -> None:
    """VASP's processes end with their workers, and their half-written folders are tried again."""
    library = str(write_potcars(tmp_path / "potcars"))
    file = write_campaign(tmp_path, "engine", "fast", command("wait@2"))
    run = RunFolder(tmp_path / "vasp")
    driver = start("launch", file, PMG_VASP_PSP_DIR=library)
    end = time.monotonic() + 300
    try:
        while done_labels(run) == 0:
            assert driver.poll() is None
            assert time.monotonic() < end
            time.sleep(0.2)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    ran = process("resume", run.path, timeout_s=600, PMG_VASP_PSP_DIR=library)
    assert ran.code == 0, ran.err[-3000:]
    with run.store() as store:
        labels = list(store.query("labels"))
    assert [one["state"] for one in labels] == ["done"] * 5
    causes = {try_["cause"] for one in labels for try_ in one["attempts"]}
    assert causes <= {None, "node_lost"}
    computed = [
        path.parent for path in Path(run.work).rglob("OUTCAR.gz") if not path.parent.name.startswith("try-")
    ]
    assert len(computed) == 2 * 5
