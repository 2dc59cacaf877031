"""Parquet tables and JSON documents of reference phases -> `ReferenceEntry` rows, each one checked.

The layouts are described in `campaign.references.readers`.
"""

from __future__ import annotations

import functools
import gzip
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from campaign.chemistry import CHEMICAL_SYMBOLS
from campaign.errors import ReferenceDataError
from campaign.references.entries import RawCrystal, ReferenceEntry

if TYPE_CHECKING:
    import pyarrow as pa

ID_KEYS = ("material_id", "entry_id", "id", "file")
FORMATION_KEYS = ("formation_energy_per_atom",)
PREPARED = "prepared"
"""The source of a file from `campaign.references.catalogue.prepare_reference`, which names its sources row by row."""

MOST_EV = 1000.0
"""No formation energy is larger [eV/atom]: such a number is of another unit or an accident."""

_PLAIN_FORMULA = re.compile(rf"(?:(?:{'|'.join(CHEMICAL_SYMBOLS)})(?:[1-9]\d{{0,3}})?)+")

HULL_KEYS = ("e_above_hull", "energy_above_hull")


@dataclass
class Reading:
    """What a reader got."""

    entries: list[ReferenceEntry] = field(default_factory=list)
    set_aside: list[tuple[str, str]] = field(default_factory=list)
    note: str = ""


def open_parquet(path: Path) -> pa.Table:
    """Read a Parquet file's known columns.

    Raises:
        ReferenceDataError: The file is no Parquet file, or lacks the columns needed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    structure_columns = ("lattice", "atomic_numbers", "frac_coords")
    wanted = (*ID_KEYS, "formula", *FORMATION_KEYS, *HULL_KEYS, "source", "on_hull_scale", *structure_columns)
    try:
        names = pq.read_schema(path).names
        table = pq.read_table(path, columns=[name for name in wanted if name in names])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # names of columns may be no text
        raise ReferenceDataError(f"a Parquet file cannot be read ({error})", value=str(path)) from error
    has_energy = any(name in names for name in FORMATION_KEYS)
    if not (all(name in names for name in structure_columns) or ("formula" in names and has_energy)):
        raise ReferenceDataError(
            "a Parquet file lacks columns",
            value=names,
            allowed=f"{', '.join(structure_columns)} for crystals; formula, {FORMATION_KEYS[0]} for energies",
            cure="rename or add the columns",
        )
    return table


def entries_of_table(table: pa.Table, source: str) -> tuple[list[ReferenceEntry], list[tuple[str, str]]]:
    """Turn a table from `open_parquet` into entries.

    Returns:
        The entries, and (where, why) of the rows set aside.
    """
    n_rows = table.num_rows
    ids = _column(table, ID_KEYS, n_rows)
    formulas = _column(table, ("formula",), n_rows)
    formation = _column(table, FORMATION_KEYS, n_rows)
    hull = _column(table, HULL_KEYS, n_rows)
    prepared = source == PREPARED
    origins = _column(table, ("source",), n_rows) if prepared else [source] * n_rows
    competes = _column(table, ("on_hull_scale",), n_rows) if prepared else [True] * n_rows
    lattices = _ragged(table, "lattice", float)
    numbers = _ragged(table, "atomic_numbers", int)
    coords = _ragged(table, "frac_coords", float)
    entries: list[ReferenceEntry] = []
    bad: list[tuple[str, str]] = []
    for row in range(n_rows):
        raw = _raw_of_row(lattices[row], numbers[row], coords[row])
        add_checked(
            entries,
            bad,
            where=f"{source} row {row}",
            entry_id=ids[row] or f"{Path(source).stem}:{row}",
            formula=formulas[row],
            formation=formation[row],
            hull=hull[row],
            source=origins[row] or source,
            raw=raw,
            on_hull_scale=competes[row] is not False,
        )
    return entries, bad


def _raw_of_row(
    lattice: np.ndarray | None, numbers: np.ndarray | None, coords: np.ndarray | None
) -> RawCrystal | None:
    """Shape one row's flat arrays; those of a wrong length stay flat, and `RawCrystal.problem` names them."""
    if lattice is None or numbers is None or coords is None:
        return None
    return RawCrystal(
        lattice.reshape(3, 3) if lattice.size == 9 else lattice,
        numbers,
        coords.reshape(-1, 3) if coords.size % 3 == 0 else coords,
    )


def _column(table: pa.Table, names: Sequence[str], n_rows: int) -> list[Any]:
    for name in names:
        if name in table.column_names:
            return table[name].to_pylist()
    return [None] * n_rows


def _ragged(table: pa.Table, name: str, kind: type) -> list[np.ndarray | None]:
    """Split a list column into one array per row; views of one buffer, so that long tables read fast."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if name not in table.column_names:
        return [None] * table.num_rows
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # an empty table
        return []
    if pa.types.is_null(column.type):
        return [None] * table.num_rows
    is_list = any(
        is_kind(column.type)
        for is_kind in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    )
    within = column.type.value_type if is_list else column.type
    numbers = pa.types.is_integer(within) or pa.types.is_floating(within)
    if not is_list or not (numbers or (pa.types.is_null(within) and len(column.flatten()) == 0)):
        raise ReferenceDataError(
            "a column of a Parquet file holds no lists of numbers",
            value=f"{name}: {column.type}",
            cure="mend it",
        )
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):  # what is no number of the kind is found, and set aside, row by row
        flat: np.ndarray = np.asarray(column.flatten().to_numpy(zero_copy_only=False), dtype=kind)
    ends = np.cumsum(lengths)
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    return [
        flat[end - length : end] if ok else None for end, length, ok in zip(ends, lengths, valid, strict=True)
    ]


def read_json_bytes(content: bytes, source: str) -> Reading:
    """Read entries from (gzipped) JSON text.

    Raises:
        ReferenceDataError: It is no JSON, or not a list of objects.
    """
    try:
        text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        document = json.loads(text)
    except (ValueError, OSError, EOFError, RecursionError) as error:
        raise ReferenceDataError(f"a reference file is no valid JSON ({error})", value=source) from error
    note = ""
    if isinstance(document, dict) and "entries" in document:
        note = str(document.get("note", ""))
        document = document["entries"]
    if not isinstance(document, list) or not all(isinstance(item, dict) for item in document):
        raise ReferenceDataError(
            "a JSON reference has another layout",
            value=source,
            allowed="a list of objects, or an object with such a list under 'entries'",
        )
    reading = Reading(note=note)
    totals = _formation_from_totals(document, source)
    for index, item in enumerate(document):
        where = f"{source} item {index}"
        try:
            raw = _raw_of_document(item)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
            reading.set_aside.append((where, f"unreadable structure: {brief(error)}"))
            continue
        data = _data(item)
        add_checked(
            reading.entries,
            reading.set_aside,
            where=where,
            entry_id=str(first(item, ID_KEYS) or first(data, ID_KEYS) or f"{Path(source).stem}:{index}"),
            formula=first(item, ("formula", "formula_pretty")),
            formation=first(item, FORMATION_KEYS, totals.get(index, first(data, FORMATION_KEYS))),
            hull=first(item, HULL_KEYS, first(data, HULL_KEYS)),
            source=source,
            raw=raw,
        )
    return reading


def _data(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the free `data` of a pymatgen entry, where it has some."""
    data = item.get("data")
    return data if isinstance(data, dict) else {}


def _raw_of_document(item: Mapping[str, Any]) -> RawCrystal | None:
    """Read the crystal of one JSON object; None where it holds none.

    Raises:
        ValueError, KeyError, TypeError: The crystal is malformed, or a site is partially occupied.
    """
    structure = item.get("structure")
    if structure is None:
        if "lattice" not in item:
            return None
        numbers = np.asarray(item["atomic_numbers"], dtype=int)
        lattice = np.asarray(item["lattice"], dtype=float).reshape(3, 3)
        return RawCrystal(lattice, numbers, np.asarray(item["frac_coords"], dtype=float).reshape(-1, 3))
    from pymatgen.core import Element

    matrix = np.asarray(structure["lattice"]["matrix"], dtype=float)
    numbers_list: list[int] = []
    for site in structure["sites"]:
        if len(site["species"]) != 1 or abs(float(site["species"][0]["occu"]) - 1.0) > 1e-6:
            raise ValueError("a site is partially occupied")
        numbers_list.append(Element(site["species"][0]["element"]).Z)
    coords = np.asarray([site["abc"] for site in structure["sites"]], dtype=float).reshape(-1, 3)
    return RawCrystal(matrix, np.asarray(numbers_list, dtype=int), coords)


def _formation_from_totals(items: Sequence[Mapping[str, Any]], source: str) -> dict[int, float]:
    """Formation energies [eV/atom] of pymatgen computed entries, relative to the elements among them.

    Returns:
        Energy by position, for the items that give a total energy and no formation energy.

    Raises:
        ReferenceDataError: An element has no entry of its own, so that no formation energy can be had.
    """
    from pymatgen.core import Composition

    fractions: dict[int, tuple[Composition, float]] = {}
    for index, item in enumerate(items):
        data = _data(item)
        known = first(item, FORMATION_KEYS, first(data, FORMATION_KEYS))
        if known is not None or "energy" not in item or "composition" not in item:
            continue
        try:
            composition = Composition(item["composition"])
            total = float(item["energy"]) + float(item.get("correction") or 0.0)
            fractions[index] = (composition, total / composition.num_atoms)
        except (ValueError, TypeError, KeyError, ArithmeticError):
            continue  # the item itself is judged, and set aside, by the caller
    lowest: dict[str, float] = {}
    for composition, energy in fractions.values():
        if len(composition) == 1:
            symbol = composition.elements[0].symbol
            lowest[symbol] = min(energy, lowest.get(symbol, math.inf))
    missing = sorted({e.symbol for c, _ in fractions.values() for e in c.elements} - set(lowest))
    if missing:
        raise ReferenceDataError(
            f"total energies without the elements themselves: {', '.join(missing)}",
            value=source,
            cure="add an entry for each of these elements, or give formation_energy_per_atom",
        )
    return {
        index: energy - sum(lowest[e.symbol] * composition.get_atomic_fraction(e) for e in composition)
        for index, (composition, energy) in fractions.items()
    }


def add_checked(
    entries: list[ReferenceEntry],
    bad: list[tuple[str, str]],
    *,
    where: str,
    entry_id: str,
    formula: object,
    formation: object,
    hull: object,
    source: str,
    raw: RawCrystal | None,
    on_hull_scale: bool = True,
) -> None:
    """Append one checked entry, or the reason why it is set aside."""
    problem = raw.problem() if raw is not None else ""
    energy, energy_problem = _number(formation)
    distance, _ = _number(hull)
    text = "" if formula is None else str(formula)
    if not problem and (raw is None or text):
        problem = _formula_problem(text)
    if not problem and raw is None and energy is None:
        problem = "neither a crystal nor an energy"
    problem = problem or energy_problem
    if problem:
        bad.append((where, problem))
        return
    if raw is not None and not text:
        text = raw.formula
    entries.append(ReferenceEntry(str(entry_id), text, energy, distance, source, raw, on_hull_scale))


@functools.lru_cache(maxsize=100_000)
def _formula_problem(formula: str) -> str:
    """Say why a text is no formula, or return an empty string; plain ones, nearly all, cost next to nothing."""
    if _PLAIN_FORMULA.fullmatch(formula):
        return ""
    from pymatgen.core import Composition

    try:
        return "" if Composition(formula).valid and formula else f"unknown formula {formula!r}"
    except (ValueError, ArithmeticError, RecursionError):
        return f"unknown formula {formula!r}"


def _number(value: object) -> tuple[float | None, str]:
    """Return a finite number, None for «not known», or a complaint."""
    if value is None or value == "":
        return None, ""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None, f"an energy is no number: {value!r}"
    if math.isnan(number):
        return None, ""
    if math.isinf(number):
        return number, "an infinite energy"
    return number, "" if abs(number) <= MOST_EV else f"an energy of {number:g} eV/atom"


def first(item: Mapping[str, Any], names: Sequence[str], default: Any = None) -> Any:
    """Return the value of the first of these keys that is there and not empty."""
    return next((item[name] for name in names if item.get(name) not in (None, "")), default)


def brief(error: BaseException) -> str:
    """Return an error's kind and text on one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
