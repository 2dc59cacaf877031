from __future__ import annotations

import dataclasses
import gzip
import json
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.cif import CifWriter
from strategies import structures

from campaign.errors import ReferenceDataError
from campaign.references.catalogue import FILE_NAME, load_prepared, prepare_reference, read_reference
from campaign.references.fingerprint import bucket
from campaign.references.readers import entries_of_documents

CALCIUM = Structure(Lattice.cubic(4.4), ["Ca"] * 2, [[0, 0, 0], [0.5, 0.5, 0.5]])
SILICIDE = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(6.35), ["Si", "Mg"], [[0, 0, 0], [0.25, 0.25, 0.25]]
)


def write_json(path, content):
    text = json.dumps(content).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


# --- sources --------------------------------------------------------------------------------------------


def test_builtin_quickstart_serves_its_chemistry():
    reference = read_reference(["builtin:quickstart"], base_dir=None)
    home = reference.within(["Ca", "Mg", "Si"])
    assert 300 <= len(reference) <= 450
    assert not reference.set_aside
    assert {"Ca", "Mg", "Si", "Mg2Si", "CaSi", "Ca2Si", "CaSi2", "CaMg2"} <= {entry.formula for entry in home}
    assert {"CaSi", "Mg2Si"} <= {entry.formula for entry in home if entry.e_above_hull == 0.0}
    assert all(len(entry.structure) <= 8 for entry in home)
    assert "CHGNet" in reference.sources[0].note


def test_parquet_of_twenty_thousand_crystals_is_read_in_a_moment_and_lazily(data_dir):
    begin = time.perf_counter()
    reference = read_reference(["mp_train.parquet"], base_dir=data_dir)
    assert time.perf_counter() - begin < 10  # about 0.6 s; 5 s more with all Structures built
    assert len(reference) == 19279
    assert not any("structure" in vars(entry) for entry in reference)
    row = pq.read_table(data_dir / "mp_train.parquet").slice(17, 1).to_pylist()[0]
    entry = reference.entries[17]
    assert entry.entry_id == row["material_id"]
    assert entry.formation_energy_per_atom == row["formation_energy_per_atom"]
    structure = entry.structure
    assert structure is entry.structure
    assert structure.composition.reduced_formula == row["formula"]
    np.testing.assert_allclose(structure.lattice.matrix.ravel(), row["lattice"], rtol=1e-6)
    np.testing.assert_allclose(structure.frac_coords.ravel(), row["frac_coords"], atol=1e-6)


def test_parquet_of_energies_only(data_dir):
    reference = read_reference(["hull_reference.parquet"], base_dir=data_dir)
    assert len(reference.hull_entries) == len(reference) == 34338
    assert not reference.structures
    assert all(entry.elements <= {"Ca", "O"} for entry in reference.within(["Ca", "O"]))


def test_hull_sources_replace_the_crystals_energies(tmp_path):
    write_json(tmp_path / "a.json", [{"structure": CALCIUM.as_dict(), "formation_energy_per_atom": 0.3}])
    write_json(tmp_path / "b.json", [{"formula": "Ca", "formation_energy_per_atom": 0.0}])
    reference = read_reference(["a.json"], base_dir=tmp_path, hull_sources=["b.json"])
    assert [entry.formation_energy_per_atom for entry in reference] == [0.3, 0.0]
    assert [entry.formation_energy_per_atom for entry in reference.hull_entries] == [0.0]
    loaded = load_prepared(prepare_reference(reference, tmp_path / "run"))
    assert [entry.formation_energy_per_atom for entry in loaded.hull_entries] == [0.0]


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_json_of_pymatgen_structures_and_of_arrays(tmp_path, name):
    arrays = {
        "material_id": "x-1",
        "lattice": CALCIUM.lattice.matrix.tolist(),
        "atomic_numbers": [20, 20],
        "frac_coords": CALCIUM.frac_coords.tolist(),
    }
    whole = {
        "entry_id": "x-2",
        "structure": SILICIDE.as_dict(),
        "formation_energy_per_atom": -0.2,
        "energy_above_hull": 0,
    }
    write_json(tmp_path / name, [arrays, whole])
    first, second = read_reference([name], base_dir=tmp_path)
    assert (first.entry_id, first.formula, first.formation_energy_per_atom) == ("x-1", "Ca", None)
    assert (second.entry_id, second.formula, second.e_above_hull) == ("x-2", "Mg2Si", 0.0)
    assert first.structure == CALCIUM
    assert second.structure.matches(SILICIDE)


def test_oxidation_states_and_labels_of_sites_do_not_matter(tmp_path):
    decorated = SILICIDE.copy()
    decorated.add_oxidation_state_by_element({"Mg": 2, "Si": -4})
    write_json(tmp_path / "a.json", [{"structure": decorated.as_dict()}])
    (entry,) = read_reference(["a.json"], base_dir=tmp_path)
    assert entry.structure == SILICIDE


def test_computed_entries_give_formation_energies_relative_to_their_elements(tmp_path):
    magnesium = Structure(Lattice.cubic(3.5), ["Mg"], [[0, 0, 0]])
    silicon = Structure(Lattice.cubic(2.6), ["Si"], [[0, 0, 0]])
    entries = [
        ComputedStructureEntry(magnesium, -1.5, entry_id="m"),
        ComputedStructureEntry(magnesium, -1.2, entry_id="m-high"),
        ComputedStructureEntry(silicon, -5.0, correction=-0.3, entry_id="s"),
        ComputedStructureEntry(SILICIDE, 4 * (-2 * 1.5 - 5.3 - 0.6), entry_id="ms"),
    ]
    write_json(tmp_path / "a.json", [entry.as_dict() for entry in entries])
    found = {
        entry.entry_id: entry.formation_energy_per_atom
        for entry in read_reference(["a.json"], base_dir=tmp_path)
    }
    assert found == pytest.approx({"m": 0.0, "m-high": 0.3, "s": 0.0, "ms": -0.2})


def test_computed_entries_without_an_element_are_refused_by_name(tmp_path):
    write_json(tmp_path / "a.json", [ComputedStructureEntry(SILICIDE, -30.0).as_dict()])
    with pytest.raises(ReferenceDataError, match="Mg, Si"):
        read_reference(["a.json"], base_dir=tmp_path)


def test_nothing_in_a_json_file_is_executed(tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    evil = {"@module": "evil_module", "@class": "Evil"}
    document = CALCIUM.as_dict()
    document["properties"] = evil
    document["sites"][0]["properties"] = {"magmom": evil}
    write_json(tmp_path / "a.json", [{"structure": document, "data": evil, **evil}])
    (entry,) = read_reference(["a.json"], base_dir=tmp_path)
    assert entry.structure == CALCIUM


def test_materials_project_documents_plain_or_with_objects():
    energies = {"formation_energy_per_atom": -0.17, "energy_above_hull": 0.0}
    document = {"material_id": "mp-1367", "formula_pretty": "Mg2Si", **energies}
    plain = {**document, "structure": SILICIDE.as_dict()}
    reading = entries_of_documents([plain, {**document, "structure": SILICIDE}], "materials-project:Mg-Si")
    assert [(e.entry_id, e.formula, e.formation_energy_per_atom) for e in reading.entries] == [
        ("mp-1367", "Mg2Si", -0.17)
    ] * 2
    assert all(entry.structure == SILICIDE for entry in reading.entries)


def test_materials_project_without_package_or_key_says_how_to_get_it(monkeypatch):
    monkeypatch.delenv("MP_API_KEY", raising=False)
    with pytest.raises(ReferenceDataError, match=r"\[mp\]|MP_API_KEY"):
        read_reference(["materials-project:Ca-Mg"], base_dir=None)
    with pytest.raises(ReferenceDataError, match="chemical system"):
        read_reference(["materials-project"], base_dir=None)


# --- CIF ------------------------------------------------------------------------------------------------


@pytest.fixture
def cif_folder(tmp_path):
    folder = tmp_path / "cifs"
    (folder / "more").mkdir(parents=True)
    CifWriter(SILICIDE, symprec=0.01).write_file(folder / "mg2si.cif")
    CifWriter(CALCIUM).write_file(folder / "more" / "ca.cif")
    (folder / "broken.cif").write_text("data_broken\n_cell_length_a 4.0\nloop_\n")
    (folder / "binary.cif").write_bytes(bytes(range(256)))
    CifWriter(Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])).write_file(
        folder / "disordered.cif"
    )
    return folder


def test_unreadable_cifs_are_set_aside_with_their_reasons(cif_folder):
    reference = read_reference(["cifs"], base_dir=cif_folder.parent)
    assert [entry.entry_id for entry in reference] == ["mg2si", "more/ca"]
    reasons = {where.rsplit("/", 1)[1]: why for where, why in reference.set_aside}
    assert set(reasons) == {"binary.cif", "broken.cif", "disordered.cif"}
    assert "partially occupied" in reasons["disordered.cif"]
    assert reference.entries[0].structure.matches(SILICIDE)
    assert not reference.hull_entries
    assert "3 set aside" in reference.summary()
    assert reference.sources[0].n_set_aside == 3


def test_one_broken_cif_among_many(tmp_path):
    for number in range(60):
        CifWriter(SILICIDE.copy().scale_lattice(200 + number)).write_file(tmp_path / f"{number:03d}.cif")
    (tmp_path / "030.cif").write_text("not a cif")
    reference = read_reference([str(tmp_path)], base_dir=tmp_path)
    assert (len(reference), len(reference.set_aside)) == (59, 1)


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_energies_beside_cifs(cif_folder, kind):
    if kind == "csv":
        rows = "file,formation_energy_per_atom,e_above_hull\nmg2si.cif,-0.2,0.0\nca,0.0,\n"
        (cif_folder / "energies.csv").write_text(rows)
    else:
        energies = {
            "mg2si": {"formation_energy_per_atom": -0.2},
            "more/ca": {"formation_energy_per_atom": 0.0},
        }
        (cif_folder / "energies.json").write_text(json.dumps(energies))
    reference = read_reference(["cifs"], base_dir=cif_folder.parent)
    assert [entry.formation_energy_per_atom for entry in reference] == [-0.2, 0.0]


def test_a_table_of_energies_with_other_columns_is_refused(cif_folder):
    (cif_folder / "energies.csv").write_text("name,energy\nmg2si,-0.2\n")
    with pytest.raises(ReferenceDataError, match="formation_energy_per_atom"):
        read_reference(["cifs"], base_dir=cif_folder.parent)


# --- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.parquet", None, "does not exist"),
        ("notes.txt", b"hello", "unknown kind"),
        ("a.json", b"{not json", "no valid JSON"),
        ("a.json.gz", b"\x1f\x8b cut off", "no valid JSON"),
        ("a.json", b'"text"', "another layout"),
        ("a.json", b"[1, 2]", "another layout"),
        ("a.json", b"[]", "no usable entry"),
        ("a.json", b'[{"formula": "Ca"}]', "neither a crystal nor an energy"),
        ("a.parquet", b"PAR1 cut off", "cannot be read"),
        ("builtin:no-such", None, "no such built-in"),
    ],
)
def test_sources_that_cannot_serve_give_one_clear_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ReferenceDataError, match=message) as caught:
        read_reference([name], base_dir=tmp_path)
    assert "\n" not in caught.value.one_line()


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ReferenceDataError, match=r"\*\.cif"):
        read_reference([str(tmp_path)], base_dir=tmp_path)


def test_parquet_with_other_columns_names_them(tmp_path):
    pq.write_table(pa.table({"smiles": ["C"]}), tmp_path / "a.parquet")
    with pytest.raises(ReferenceDataError, match="smiles"):
        read_reference(["a.parquet"], base_dir=tmp_path)


def test_bad_items_are_set_aside_and_the_others_kept(tmp_path):
    good = {"structure": CALCIUM.as_dict(), "formation_energy_per_atom": 0.0}
    flat = {"lattice": [4, 0, 0, 0, 4, 0, 4, 4, 0], "atomic_numbers": [20], "frac_coords": [0, 0, 0]}
    bad = [
        {"structure": {"lattice": 5}},
        {
            "structure": {
                **CALCIUM.as_dict(),
                "sites": [{"species": [{"element": "Xx", "occu": 1}], "abc": [0, 0, 0]}],
            }
        },
        {"structure": Structure(Lattice.cubic(4), [{"Na": 0.5}], [[0, 0, 0]]).as_dict()},
        flat,
        {**flat, "lattice": [4, 0, 0, 0, 4, 0, 0, 0, float("inf")]},
        {**flat, "lattice": np.eye(3).tolist(), "atomic_numbers": [200]},
        {**flat, "lattice": np.eye(3).tolist(), "frac_coords": [0, 0, 0, 0, 0, 0]},
        {"formula": "Quux", "formation_energy_per_atom": 0.0},
        {**good, "formation_energy_per_atom": "minus two"},
    ]
    write_json(tmp_path / "a.json", [*bad, good])
    reference = read_reference(["a.json"], base_dir=tmp_path)
    assert len(reference) == 1
    assert len(reference.set_aside) == len(bad)
    assert all(why for _, why in reference.set_aside)


def test_bad_rows_of_a_parquet_file_are_set_aside(tmp_path):
    table = pa.table(
        {
            "material_id": ["good", "short", "none", "nan energy"],
            "lattice": [[4.0, 0, 0, 0, 4, 0, 0, 0, 4], [4.0], None, [4.0, 0, 0, 0, 4, 0, 0, 0, 4]],
            "atomic_numbers": [[20], [20], [20], [20]],
            "frac_coords": [[0.0] * 3, [0.0] * 3, [0.0] * 3, [0.0] * 3],
            "formation_energy_per_atom": [0.1, 0.1, None, float("nan")],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    reference = read_reference(["a.parquet"], base_dir=tmp_path)
    assert [(e.entry_id, e.formation_energy_per_atom) for e in reference] == [
        ("good", 0.1),
        ("nan energy", None),
    ]
    assert [where for where, _ in reference.set_aside] == ["a.parquet row 1", "a.parquet row 2"]


# --- the prepared file ----------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(found=st.lists(structures(), min_size=1, max_size=4), energy=st.floats(-4, 1))
def test_prepared_reference_comes_back_as_it_was(tmp_path_factory, found, energy):
    folder = tmp_path_factory.mktemp("run")
    items = [{"structure": one.as_dict(), "formation_energy_per_atom": energy} for one in found]
    write_json(folder / "a.json", [*items, {"formula": "CaO", "formation_energy_per_atom": -3.0}, {}])
    before = read_reference(["a.json"], base_dir=folder)
    after = load_prepared(prepare_reference(before, folder))
    assert after.set_aside == before.set_aside
    assert after.sources == before.sources
    for one, other in zip(before, after, strict=True):
        same = [field.name for field in dataclasses.fields(one) if field.name != "raw"]
        assert [getattr(one, name) for name in same] == [getattr(other, name) for name in same]
        assert one.structure == other.structure


def test_preparing_is_repeatable_and_loading_is_cached(tmp_path):
    reference = read_reference(["builtin:quickstart"], base_dir=tmp_path)
    one = prepare_reference(reference, tmp_path / "one")
    other = prepare_reference(reference, tmp_path / "two")
    assert one.is_absolute() and one.name == FILE_NAME
    assert one.read_bytes() == other.read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [FILE_NAME, f"{FILE_NAME}.sha256"]
    assert load_prepared(one) is load_prepared(str(one))


def test_a_damaged_or_missing_prepared_file_is_refused(tmp_path):
    path = prepare_reference(read_reference(["builtin:quickstart"], base_dir=tmp_path), tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ReferenceDataError, match="checksum"):
        load_prepared(path)
    path.unlink()
    with pytest.raises(ReferenceDataError, match="missing"):
        load_prepared(path)


def test_a_run_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ReferenceDataError, match="cannot be written"):
        prepare_reference(
            read_reference(["builtin:quickstart"], base_dir=tmp_path), tmp_path / "file" / "run"
        )


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    # In a process of its own: the limit on file size stands in for the end of the disk, and cannot be lifted.
    code = (
        "import errno, resource, signal, sys; from pathlib import Path\n"
        "from campaign.references.catalogue import read_reference, prepare_reference\n"
        "reference = read_reference(['builtin:quickstart'], base_dir=Path('.'))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try: prepare_reference(reference, Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() in {"ReferenceDataError", "StoreFullError"}
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_not_prepared_here_is_refused(tmp_path):
    pq.write_table(pa.table({"formula": ["Ca"], "formation_energy_per_atom": [0.0]}), tmp_path / "a.parquet")
    with pytest.raises(ReferenceDataError, match="layout version"):
        load_prepared(tmp_path / "a.parquet")


def test_look_up_by_bucket(data_dir):
    reference = read_reference(["mp_val.parquet"], base_dir=data_dir)
    entry = reference.entries[5]
    found = reference.in_bucket(bucket(entry.structure))
    assert entry in found
    assert all(
        one.structure.composition.reduced_composition == entry.structure.composition.reduced_composition
        for one in found
    )
    assert reference.in_bucket("Og1") == []
