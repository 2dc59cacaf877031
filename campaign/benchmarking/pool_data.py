"""The crystals of a pool with their truth: read, described and put on the hull once for all campaigns.

A folder holds what was found: `pool.parquet`, crystals alone, which the generator reads; `candidates.json`, as a
sampling task would describe them; `truth.json`, which only the oracle reads; `hull.json`, energies of the hull.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from campaign.benchmarking.config import PoolFile
from campaign.benchmarking.parallel import mapped
from campaign.errors import ReferenceDataError
from campaign.run_folder import write_atomic

if TYPE_CHECKING:
    from pymatgen.core import Structure

ROWS = 100
"""Crystals of one task."""

LAST = "truth.json"
"""Written last: a folder that has it is whole."""


@dataclass(frozen=True, eq=False)
class KnownPool:
    """Candidates of a pool, and what nobody but the oracle may know of them."""

    candidates: list[dict[str, Any]]
    """As `campaign.tasks.sample` gives them, in the order of the file."""
    structures: dict[str, Structure]
    """Candidate id -> crystal; each is built once, so that what models work out for it can be kept with it."""
    source_ids: dict[str, str]
    """Candidate id -> id in the file."""
    truth: dict[str, float]
    """Candidate id -> formation energy [eV/atom] on the scale of the reference."""
    hull: dict[str, float]
    """Reduced formula -> energy of the reference's hull [eV/atom]."""
    left_out: dict[str, int]
    """Why rows of the file are no candidates -> how many."""

    @functools.cached_property
    def e_above_hull(self) -> dict[str, float]:
        """Candidate id -> true energy above the hull [eV/atom]."""
        return {
            one["id"]: self.truth[one["id"]] - self.hull[one["formula"]]
            for one in self.candidates
            if one["formula"] in self.hull
        }

    def document(self) -> dict[str, Any]:
        """Return what a campaign's configuration needs of it."""
        symbols = {symbol for one in self.candidates for symbol in one["chemsys"].split("-")}
        numbers = [one["chemsys"].count("-") + 1 for one in self.candidates]
        return {
            "size": len(self.candidates),
            "chemistry": {
                "elements": sorted(symbols),
                "n_elements": [min(numbers), max(numbers)],
                "max_atoms": max(one["n_atoms"] for one in self.candidates),
            },
        }


def prepare_pool(pool: PoolFile, reference: Path, folder: Path, *, seed: int, workers: int) -> Path:
    """Describe a pool in a folder of its own below `folder`, unless it lies there already.

    Args:
        pool: The file and its column.
        reference: The prepared reference, for the hull.
        folder: Where prepared pools lie.
        seed: Of the draw of rows.
        workers: Processes.

    Returns:
        The pool's folder.

    Raises:
        ReferenceDataError: The file cannot be read, lacks the column, or holds no usable crystal.
    """
    from campaign.references.catalogue import file_sha256

    wanted = pool.model_dump(mode="json", exclude={"draw"}) | {"file": file_sha256(pool.file), "seed": seed}
    key = hashlib.sha256(
        orjson.dumps([wanted, file_sha256(reference)], option=orjson.OPT_SORT_KEYS)
    ).hexdigest()
    place = folder / f"pool-{key[:12]}"
    if (place / LAST).is_file():
        return place
    place.mkdir(parents=True, exist_ok=True)
    rows, left_out = _rows(pool, seed)
    chunks = [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]
    tasks = [
        {
            "crystals": [
                [one[0].lattice.tolist(), one[0].numbers.tolist(), one[0].frac_coords.tolist()]
                for one in chunk
            ],
            "reference": str(reference),
        }
        for chunk in chunks
    ]
    described = [one for found in mapped(describe_crystals, tasks, workers, "pool") for one in found]
    kept, hull = _kept(pool, rows, described, left_out)
    if not kept:
        raise ReferenceDataError("the pool holds no usable crystal", value=left_out, cure="look at its file")
    _write(place, kept, hull, left_out)
    return place


@functools.lru_cache(maxsize=2)
def load_pool(place: Path) -> KnownPool:
    """Read a prepared pool; one per folder and process."""
    from pymatgen.core import Structure

    def read(name: str) -> Any:
        return orjson.loads((place / name).read_bytes())

    candidates, truth = read("candidates.json"), read(LAST)
    structures = {one["id"]: Structure.from_dict(one["structure"]) for one in candidates}
    return KnownPool(
        candidates, structures, truth["source_ids"], truth["formation_energy_per_atom"], read("hull.json"),
        truth["left_out"],
    )  # fmt: skip


def describe_crystals(task: Mapping[str, Any]) -> list[dict[str, Any] | None]:
    """Describe crystals as a sampling task would, with the energy of the hull [eV/atom] beside each; on a worker.

    Args:
        task: `crystals` [[lattice, atomic numbers, fractional coordinates]], `reference` (path).
    """
    import numpy as np

    from campaign.judging import reference_hull
    from campaign.references.entries import RawCrystal
    from campaign.references.fingerprint import describe

    hull, found = reference_hull(task["reference"]), list[dict[str, Any] | None]()
    for lattice, numbers, coords in task["crystals"]:
        structure = RawCrystal(np.array(lattice), np.array(numbers), np.array(coords)).build()
        described = describe(structure)
        if described is None:
            found.append(None)
            continue
        try:
            energy: float | None = hull.hull_energy_per_atom(structure.composition)
        except ReferenceDataError:
            energy = None
        found.append({**described, "structure": compact(structure.as_dict()), "hull": energy})
    return found


def compact(structure: dict[str, Any]) -> dict[str, Any]:
    """Return a structure's document without what follows from the rest: it is written in every round."""
    sites = [{"species": site["species"], "abc": site["abc"]} for site in structure["sites"]]
    kept = {key: structure[key] for key in ("@module", "@class", "charge")}
    return {**kept, "lattice": {"matrix": structure["lattice"]["matrix"]}, "sites": sites}


def _rows(pool: PoolFile, seed: int) -> tuple[list[tuple[Any, str, float]], dict[str, int]]:
    """Return (crystal, id, truth) of each row that has a truth, and why others have none."""
    from pyarrow import parquet

    from campaign.references.parse import entries_of_table, open_parquet

    names = parquet.read_schema(pool.file).names
    if pool.column not in names:
        raise ReferenceDataError(
            "the pool has no such column", value=pool.column, allowed=names, cure="name it in pool.column"
        )
    table = open_parquet(pool.file)
    # The truth is joined by the row's number, which stands in the place of the id meanwhile.
    numbered = _with_numbers(table)
    ids = table["material_id"].to_pylist() if "material_id" in table.column_names else None
    truth = parquet.read_table(pool.file, columns=[pool.column])[pool.column].to_pylist()
    entries, bad = entries_of_table(numbered, str(pool.file))
    left_out = {"unusable": len(bad)} if bad else {}
    found = []
    for entry in entries:
        row = int(entry.entry_id)
        if entry.raw is None or truth[row] is None or truth[row] != truth[row]:
            left_out["without a truth"] = left_out.get("without a truth", 0) + 1
        else:
            found.append((entry.raw, str(ids[row]) if ids else str(row), float(truth[row])))
    if pool.limit is not None and pool.limit < len(found):
        drawn = sorted(random.Random(seed).sample(range(len(found)), pool.limit))
        left_out["not drawn"] = len(found) - len(drawn)
        found = [found[place] for place in drawn]
    return found, left_out


def _with_numbers(table: Any) -> Any:
    import pyarrow as pa

    kept = [name for name in table.column_names if name in {"lattice", "atomic_numbers", "frac_coords"}]
    numbers = pa.array([str(row) for row in range(table.num_rows)])
    return table.select(kept).append_column("material_id", numbers)


def _kept(
    pool: PoolFile,
    rows: Sequence[tuple[Any, str, float]],
    described: Sequence[dict[str, Any] | None],
    left_out: dict[str, int],
) -> tuple[list[tuple[Any, str, float, dict[str, Any]]], dict[str, float]]:
    """Return (crystal, id, formation energy, description) of the candidates, and the hull's energies by formula."""
    kept: dict[str, tuple[Any, str, float, dict[str, Any]]] = {}
    hull: dict[str, float] = {}

    def leave_out(why: str) -> None:
        left_out[why] = left_out.get(why, 0) + 1

    for (raw, name, truth), one in zip(rows, described, strict=True):
        energy = None if one is None else one.pop("hull")
        if one is None or energy is None:
            leave_out("no crystal" if one is None else "no hull")
            continue
        formation = truth if pool.quantity == "formation_energy_per_atom" else truth + energy
        above = formation - energy
        if pool.between is not None and not pool.between[0] <= above <= pool.between[1]:
            leave_out("outside of `between`")
        elif one["id"] in kept:
            leave_out("twice in the file")
        else:
            kept[one["id"]] = (raw, name, formation, one)
            hull[one["formula"]] = energy
    return list(kept.values()), hull


def _write(
    place: Path,
    kept: Sequence[tuple[Any, str, float, dict[str, Any]]],
    hull: Mapping[str, float],
    left_out: Mapping[str, int],
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "lattice": [one[0].lattice.ravel().tolist() for one in kept],
        "atomic_numbers": [one[0].numbers.tolist() for one in kept],
        "frac_coords": [one[0].frac_coords.ravel().tolist() for one in kept],
    }
    parquet.write_table(pa.table(columns), place / "pool.parquet", compression="zstd")
    write_json(place / "candidates.json", [one[3] for one in kept])
    write_json(place / "hull.json", hull)
    secret = {
        "formation_energy_per_atom": {one[3]["id"]: one[2] for one in kept},
        "source_ids": {one[3]["id"]: one[1] for one in kept},
        "left_out": left_out,
    }
    write_json(place / LAST, secret)


def write_json(path: Path, document: object) -> None:
    """Write a document, whole or not at all."""
    write_atomic(path, orjson.dumps(document).decode())
