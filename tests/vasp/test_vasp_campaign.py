"""A whole campaign whose labels are VASP's: real Parsl pools, real atomate2 and custodian, a stand-in executable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from command_line import Ran, process
from pymatgen.core import Lattice, Structure
from vasp_machine import command, write_potcars

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


def write_campaign(folder: Path) -> Path:
    document = {
        "name": "vasp",
        "seed": 5,
        "chemistry": {"elements": ["Cu", "Au"], "n_elements": 2, "max_atoms": 4},
        "reference": {"crystals": [write_reference(folder).name]},
        "generators": [{"kind": "components:BinaryGenerator"}],
        "screen": [{"kind": "composition"}, {"kind": "min_distance"}, {"kind": "duplicates"}],
        "acquisition": {"candidates_per_round": 8, "labels_per_round": 2, "lookahead_rounds": 1},
        "labels": {
            "flow": "relax_static",
            "engine": "vasp",
            "engine_options": {"preset": "fast", "command": command()},
            "hull": "engine",
        },
        "learn": {"heads": [{"kind": "components:ElementHead"}], "discriminators": []},
        "stop": {"rounds": 1},
    }
    file = folder / "campaign.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Ran]:
    folder = tmp_path_factory.mktemp("campaign")
    library = write_potcars(folder / "potcars")
    ran = process("launch", write_campaign(folder), timeout_s=800, PMG_VASP_PSP_DIR=str(library))
    assert ran.code == 0, ran.out[-3000:] + ran.err[-3000:]
    return RunFolder(folder / "vasp"), ran


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
