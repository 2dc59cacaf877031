"""One reader per kind of reference source. All give `ReferenceEntry` rows and a list of what was set aside.

Layouts:

* **Parquet**: `formula`, `formation_energy_per_atom` [eV/atom], `e_above_hull` [eV/atom], and for crystals
  `lattice` (9 numbers, rows a, b, c [Å]), `atomic_numbers` (n), `frac_coords` (3n). A table without the last
  three holds energies only. Any other column is ignored.
* **JSON, JSON.gz**: a list of objects, or an object with that list under `entries`. An object holds a
  crystal, either a pymatgen `structure` or the Parquet columns by name, and the energies by the same names;
  or it is a pymatgen `ComputedStructureEntry` with total energies, which are then taken relative to the
  elements of the same file. Nothing in the file is executed: of pymatgen's JSON only lattice and sites are
  read.
* **CIF folder**: every `*.cif` below it; `energies.csv` or `energies.json` beside them may give
  `formation_energy_per_atom` and `e_above_hull` for the file named in its first column (`file` or `id`).
  Without energies the crystals serve as prototypes only.
* **Materials Project**: through `mp-api` (`pip install 'crystal-campaign[mp]'`), with an API key in
  MP_API_KEY.
"""

from __future__ import annotations

import csv
import importlib.resources
import itertools
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from campaign.errors import ReferenceDataError
from campaign.references.entries import RawCrystal
from campaign.references.parse import (
    FORMATION_KEYS,
    HULL_KEYS,
    ID_KEYS,
    Reading,
    add_checked,
    brief,
    entries_of_table,
    first,
    open_parquet,
    read_json_bytes,
)

BUILTIN = {"quickstart": "quickstart_reference.json.gz"}
"""Reference sets that are part of the package: name after `builtin:` and file in `campaign/data`."""

KINDS = "builtin:quickstart, materials-project, *.parquet, *.json, *.json.gz, *.cif, a folder of CIFs"

_CHEMSYS = re.compile(r"[A-Z][a-z]?(-[A-Z][a-z]?)*")


def read_source(source: str, *, base_dir: Path, elements: Sequence[str] = ()) -> Reading:
    """Read one source, whatever its kind.

    Raises:
        ReferenceDataError: No such file, an unknown kind, or a file that cannot be read at all.
    """
    kind, _, rest = source.partition(":")
    if kind == "builtin":
        if rest not in BUILTIN:
            raise ReferenceDataError("no such built-in reference", value=source, allowed=sorted(BUILTIN))
        path = importlib.resources.files("campaign") / "data" / BUILTIN[rest]
        return read_json_bytes(path.read_bytes(), source)
    if kind == "materials-project":
        return read_materials_project(source, rest.split("-") if rest else list(elements))
    path = Path(source).expanduser()
    path = path if path.is_absolute() else base_dir / path
    if not path.exists():
        raise ReferenceDataError(
            "a reference source does not exist",
            value=str(path),
            allowed=KINDS,
            cure="correct the path; relative paths start from the folder of campaign.yaml",
        )
    name = path.name.lower()
    if path.is_dir():
        return read_cif_folder(path, source)
    if name.endswith((".json", ".json.gz")):
        return _guarded(lambda: read_json_bytes(path.read_bytes(), source), source)
    if name.endswith(".parquet"):
        entries, bad = entries_of_table(open_parquet(path), source)
        return Reading(entries, bad)
    if name.endswith(".cif"):
        return _read_cifs([path], path.parent, source, {})
    raise ReferenceDataError("a reference source of an unknown kind", value=source, allowed=KINDS)


def _guarded(read: Callable[[], Reading], source: str) -> Reading:
    try:
        return read()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ReferenceDataError(f"a reference file cannot be read ({error})", value=source) from error


def read_cif_folder(folder: Path, source: str) -> Reading:
    """Read every `*.cif` below a folder, in the order of their names.

    Raises:
        ReferenceDataError: There is no CIF, or the table of energies cannot be read.
    """
    paths = sorted(folder.rglob("*.cif"))
    if not paths:
        raise ReferenceDataError(
            "a folder without *.cif files", value=str(folder), cure="name another folder"
        )
    return _read_cifs(paths, folder, source, _read_energies(folder))


def _read_energies(folder: Path) -> dict[str, Mapping[str, Any]]:
    rows: Any
    table, document = folder / "energies.csv", folder / "energies.json"
    if table.is_file():
        try:
            with table.open(encoding="utf-8-sig", newline="") as stream:
                rows = list(csv.DictReader(stream))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ReferenceDataError(f"no table of energies ({error})", value=str(table)) from error
    elif document.is_file():
        try:
            rows = json.loads(document.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ReferenceDataError(f"no valid JSON ({error})", value=str(document)) from error
        if isinstance(rows, dict):
            rows = [{"id": name, **values} for name, values in rows.items()]
    else:
        return {}
    energies = {}
    for row in rows:
        name = first(row, ("file", *ID_KEYS))
        if name is None or not any(key in row for key in FORMATION_KEYS):
            raise ReferenceDataError(
                "a table of energies lacks columns",
                value=sorted(map(str, row)),
                allowed=f"file (or id), {FORMATION_KEYS[0]}, e_above_hull",
            )
        energies[str(name).removesuffix(".cif")] = row
    return energies


def _read_cifs(
    paths: Iterable[Path], folder: Path, source: str, energies: Mapping[str, Mapping[str, Any]]
) -> Reading:
    from pymatgen.io.cif import CifParser

    reading = Reading()
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                structure = CifParser(path).parse_structures(primitive=True, on_error="raise")[0]
            if not structure.is_ordered:
                raise ValueError("a site is partially occupied")
            numbers = np.asarray([site.specie.Z for site in structure], dtype=int)
            raw = RawCrystal(np.asarray(structure.lattice.matrix), numbers, structure.frac_coords)
        except (
            Exception
        ) as error:  # a CIF may be broken in any way; one among thousands must not stop a launch
            reading.set_aside.append((str(path), f"unreadable CIF: {brief(error)}"))
            continue
        row = energies.get(name) or energies.get(path.stem) or {}
        add_checked(
            reading.entries,
            reading.set_aside,
            where=str(path),
            entry_id=name,
            formula=None,
            formation=first(row, FORMATION_KEYS),
            hull=first(row, HULL_KEYS),
            source=source,
            raw=raw,
        )
    return reading


def read_materials_project(source: str, elements: Sequence[str]) -> Reading:
    """Download all crystals of a chemical system and its sub-systems.

    Raises:
        ReferenceDataError: `mp-api` or the key is missing, no elements are known, or the server refuses.
    """
    if not elements or not _CHEMSYS.fullmatch("-".join(elements)):
        raise ReferenceDataError(
            "the Materials Project needs a chemical system",
            value=source,
            allowed="materials-project:Ca-Mg-Si",
            cure="name the elements after the colon, or in the chemistry block",
        )
    try:
        from mp_api.client import MPRester
    except ImportError as error:
        raise ReferenceDataError(
            "reading from the Materials Project needs mp-api",
            value=source,
            cure="pip install 'crystal-campaign[mp]', or name a file instead",
        ) from error
    key = os.environ.get("MP_API_KEY", "")
    if not key:
        raise ReferenceDataError(
            "reading from the Materials Project needs an API key",
            value=source,
            cure="set MP_API_KEY to the key of your account at materialsproject.org/api",
        )
    systems = [
        "-".join(sorted(part))
        for size in range(1, len(elements) + 1)
        for part in itertools.combinations(elements, size)
    ]
    fields = ["material_id", "formula_pretty", "structure", "formation_energy_per_atom", "energy_above_hull"]
    try:
        with MPRester(key, use_document_model=False, mute_progress_bars=True) as rester:
            documents = rester.materials.summary.search(chemsys=systems, all_fields=False, fields=fields)
    except Exception as error:  # network, key and server problems have no common base class there
        raise ReferenceDataError(
            f"the Materials Project gave no answer ({brief(error)})",
            value=source,
            cure="check the key and the network, or name a file instead",
        ) from error
    return entries_of_documents(documents, source)


def entries_of_documents(documents: Iterable[Mapping[str, Any]], source: str) -> Reading:
    """Read the Materials Project's summary documents, whether plain or with pymatgen objects in them."""
    plain = [{name: _plain(value) for name, value in dict(document).items()} for document in documents]
    return read_json_bytes(json.dumps(plain, default=str).encode(), source)


def _plain(value: Any) -> Any:
    return value.as_dict() if hasattr(value, "as_dict") else value
