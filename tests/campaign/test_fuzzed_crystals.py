"""Reference files that are damaged: `campaign validate` sets items aside or refuses in one line, and in time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mistakes import small_files
from pymatgen.core import Structure
from strategies import HOSTILE, damaged, hostile_values, mutated
from test_fuzzed_input import decent, fuzzed


def entries() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(small_files()[1])
    return found


def columns() -> dict[str, list[Any]]:
    """Return the small reference as the columns of a table."""
    crystals = [Structure.from_dict(one["structure"]) for one in entries()]
    return {
        "material_id": [one["material_id"] for one in entries()],
        "formula": [one.composition.reduced_formula for one in crystals],
        "formation_energy_per_atom": [one["formation_energy_per_atom"] for one in entries()],
        "e_above_hull": [0.0] * len(crystals),
        "lattice": [one.lattice.matrix.ravel().tolist() for one in crystals],
        "atomic_numbers": [list(one.atomic_numbers) for one in crystals],
        "frac_coords": [one.frac_coords.ravel().tolist() for one in crystals],
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small reference as Parquet, and as CIFs with their energies."""
    folder = tmp_path_factory.mktemp("crystals")
    pq.write_table(pa.table(columns()), folder / "whole.parquet")
    (folder / "cifs").mkdir()
    rows = ["file,formation_energy_per_atom"]
    for one in entries():
        Structure.from_dict(one["structure"]).to(filename=str(folder / "cifs" / f"{one['material_id']}.cif"))
        rows.append(f"{one['material_id']}.cif,{one['formation_energy_per_atom']}")
    (folder / "cifs" / "energies.csv").write_text("\n".join(rows))
    return folder


def validated(place: Path, source: str) -> int:
    file = place / "campaign.yaml"
    file.write_text(yaml.safe_dump({**small_files()[0], "reference": {"crystals": [source]}}))
    return decent("validate", file).code


def test_whole_files_are_fine(place: Path) -> None:
    assert validated(place, "whole.parquet") == 0
    assert validated(place, "cifs") == 0


@fuzzed
@given(data=st.data())
def test_damaged_cifs(place: Path, data: st.DataObject) -> None:
    """One of the files is damaged: the others still serve, or an element is missing."""
    name = data.draw(st.sampled_from(["Mg2Si.cif", "CaSi.cif", "Ca.cif", "energies.csv"]))
    file = place / "cifs" / name
    whole = file.read_bytes()
    try:
        file.write_bytes(data.draw(damaged(whole)))
        validated(place, "cifs")
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize(
    "text",
    [
        "data_\n" + "loop_\n" * 20_000,
        "data_x\n_cell_length_a " + "9" * 5000,
        "data_x\n;" + "x" * 1_000_000,
        'data_x\n_symmetry_equiv_pos_as_xyz \'__import__("os").system("touch pwned")\'\n',
        "data_x\nloop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n" + "'x+1/0,y,z'\n" * 100,
        "_cell_length_a nan\n" * 3,
        "",
    ],
)
def test_cifs_that_are_attacks_or_accidents(text: str, place: Path) -> None:
    file = place / "cifs" / "Mg2Si.cif"
    whole = file.read_text()
    try:
        file.write_text(text)
        assert validated(place, "cifs") == 0
    finally:
        file.write_text(whole)
    assert not (place / "pwned").exists()


@fuzzed
@given(data=st.data())
def test_damaged_parquet(place: Path, data: st.DataObject) -> None:
    (place / "broken.parquet").write_bytes(data.draw(damaged((place / "whole.parquet").read_bytes())))
    validated(place, "broken.parquet")


@pytest.mark.parametrize("column", columns())
def test_parquet_with_a_column_missing_or_of_another_type(column: str, place: Path) -> None:
    """Without crystals a table has energies only, and the elements' crystals are missing: told in one line."""
    whole = columns()
    for values in (
        None, [None] * 5, ["x"] * 5, [b"\0"] * 5, [10**18] * 5, [-1] * 5, [float("nan")] * 5, [True] * 5, [[]] * 5,
        [["a"]] * 5, [[float("inf")] * 9] * 5, [[0.0] * 9] * 5, [[1e300] * 9] * 5, [[10**9]] * 5, [{"a": 1}] * 5,
        ["a" * 100_000] * 5, [[[1.0]]] * 5,
    ):  # fmt: skip
        changed = {name: cells for name, cells in whole.items() if name != column}
        if values is not None:
            changed[column] = values
        pq.write_table(pa.table(changed), place / "odd.parquet")
        validated(place, "odd.parquet")


@fuzzed
@given(data=st.data())
def test_mutated_json(place: Path, data: st.DataObject) -> None:
    document = data.draw(mutated(entries()))
    (place / "odd.json").write_text(json.dumps(document, default=repr, skipkeys=True), errors="surrogatepass")
    validated(place, "odd.json")


@fuzzed
@given(data=st.data())
def test_damaged_json(place: Path, data: st.DataObject) -> None:
    (place / "odd.json").write_bytes(data.draw(damaged(small_files()[1].encode())))
    validated(place, "odd.json")


@fuzzed
@given(
    value=hostile_values() | st.sampled_from(HOSTILE),
    key=st.sampled_from(["structure", "formula", "@module", "energy"]),
)
def test_json_with_a_hostile_entry(place: Path, value: object, key: str) -> None:
    document = [*entries(), {"material_id": "odd", "formation_energy_per_atom": 0.1, key: value}]
    (place / "odd.json").write_text(json.dumps(document, default=repr, skipkeys=True), errors="surrogatepass")
    validated(place, "odd.json")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "[" + "9" * 5000 + "]",
        '[{"structure": {"@module": "os", "@class": "system", "@version": "1"}}]',
        '{"entries": {"a": 1}}',
        "[1, 2]",
        "[[]]",
        "null",
        '"x"',
        "[{}]",
        '[{"material_id": {"a": 1}, "formula": ["Ca"], "formation_energy_per_atom": {"$numberLong": 1}}]',
        '[{"composition": {"Xx": 1}, "energy": 1}]',
        '[{"composition": {"Ca": 1e400}, "energy": 1}]',
    ],
)
def test_json_that_is_an_attack_or_an_accident(text: str, place: Path) -> None:
    (place / "odd.json").write_text(text)
    assert validated(place, "odd.json") == 2
    (place / "odd.json.gz").write_bytes(text.encode())
    assert validated(place, "odd.json.gz") == 2
