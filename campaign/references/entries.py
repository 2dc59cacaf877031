"""Reference crystals: what is already known about a chemistry.

They serve three purposes: prototypes for generators, training data for models, and phases that candidates
compete with (see `campaign.references.hull`). `read_reference` reads any of the supported sources once, at launch;
`prepare_reference` writes what it read into the run folder as one Parquet file with a checksum; workers call
`load_prepared`, which reads that file once per process. Crystals are kept as plain arrays and become pymatgen
Structures only when somebody asks for one, so that 20,000 of them are read in a second.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from campaign.errors import ReferenceDataError, StoreFullError

if TYPE_CHECKING:
    import pyarrow as pa
    from pymatgen.core import Structure

FILE_NAME = "reference.parquet"
"""Name of the prepared file inside a run folder."""

FORMAT = 1
"""Version of the prepared file's layout; a file of another version is prepared again."""

_SYMBOL = re.compile(r"[A-Z][a-z]?")


@dataclass(frozen=True, eq=False)
class RawCrystal:
    """An ordered crystal as plain arrays."""

    lattice: np.ndarray
    """(3, 3), rows a, b, c [Å]."""
    numbers: np.ndarray
    """(n_atoms,), atomic numbers."""
    frac_coords: np.ndarray
    """(n_atoms, 3), fractional coordinates."""

    def problem(self) -> str:
        """Say why this is no crystal, or return an empty string."""
        if self.numbers.size == 0:
            return "no atoms"
        if self.lattice.shape != (3, 3) or self.frac_coords.shape != (self.numbers.size, 3):
            return f"shapes do not fit: lattice {self.lattice.shape}, coordinates {self.frac_coords.shape}"
        if not (np.isfinite(self.lattice).all() and np.isfinite(self.frac_coords).all()):
            return "a lattice vector or a coordinate is not finite"
        if abs(np.linalg.det(self.lattice)) < 1e-3 * self.numbers.size:
            return "the cell has no volume"
        if self.numbers.min() < 1 or self.numbers.max() > 118:
            return "an atomic number outside 1 to 118"
        return ""

    @property
    def formula(self) -> str:
        """Reduced formula as pymatgen writes it."""
        from pymatgen.core import Composition, Element

        counts = Counter(int(z) for z in self.numbers)
        return str(Composition({Element.from_Z(z): n for z, n in counts.items()}).reduced_formula)

    def build(self) -> Structure:
        """Return the pymatgen Structure."""
        from pymatgen.core import Element, Lattice, Structure

        species = [Element.from_Z(int(z)) for z in self.numbers]
        return Structure(Lattice(self.lattice), species, self.frac_coords)


@dataclass(frozen=True, eq=False)
class ReferenceEntry:
    """One known phase: a crystal, an energy, or both."""

    entry_id: str
    """Id in its source; not necessarily unique across sources."""
    formula: str
    """Reduced formula."""
    formation_energy_per_atom: float | None
    """Relative to the elements, on the source's own scale [eV/atom]; None where it is not known."""
    e_above_hull: float | None = None
    """As the source says [eV/atom]; None where it is not known."""
    source: str = ""
    """The source it was read from, as written in campaign.yaml."""
    raw: RawCrystal | None = None
    """The crystal; None for an entry that is an energy only."""
    on_hull_scale: bool = True
    """Whether its formation energy may compete in the hull; false where the hull has sources of its own."""

    @cached_property
    def structure(self) -> Structure | None:
        """The crystal as a pymatgen Structure, built when first asked for; None for an energy only."""
        return None if self.raw is None else self.raw.build()

    @cached_property
    def elements(self) -> frozenset[str]:
        """Symbols of its elements."""
        return frozenset(_SYMBOL.findall(self.formula))


@dataclass(frozen=True)
class SourceInfo:
    """What one source gave."""

    source: str
    """As written in campaign.yaml."""
    n_entries: int
    """Entries read."""
    n_set_aside: int
    """Items that could not be used; see `ReferenceSet.set_aside`."""
    note: str = ""
    """What the source says about itself."""


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """Known phases, with an account of what could not be read."""

    entries: tuple[ReferenceEntry, ...]
    """In the order of the sources, and of the items within each."""
    set_aside: tuple[tuple[str, str], ...] = ()
    """(where, why) of every item that could not be used."""
    sources: tuple[SourceInfo, ...] = ()
    """What each source gave."""

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[ReferenceEntry]:
        return iter(self.entries)

    def within(self, elements: Iterable[str]) -> ReferenceSet:
        """Return the entries that hold no element but the given ones."""
        allowed = frozenset(elements)
        kept = tuple(entry for entry in self.entries if entry.elements <= allowed)
        return ReferenceSet(kept, self.set_aside, self.sources)

    @cached_property
    def elements(self) -> frozenset[str]:
        """Every element that occurs."""
        return frozenset().union(*(entry.elements for entry in self.entries))

    @property
    def with_structure(self) -> list[ReferenceEntry]:
        """The entries that hold a crystal."""
        return [entry for entry in self.entries if entry.raw is not None]

    @property
    def structures(self) -> list[Structure]:
        """The crystals, built now; use `with_structure` to see how many there are without building them."""
        return [entry.raw.build() for entry in self.entries if entry.raw is not None]

    @property
    def hull_entries(self) -> list[ReferenceEntry]:
        """The entries whose formation energy makes the hull."""
        return [
            entry
            for entry in self.entries
            if entry.on_hull_scale and entry.formation_energy_per_atom is not None
        ]

    def in_bucket(self, bucket: str) -> list[ReferenceEntry]:
        """Return the entries that hold a crystal in a bucket of `campaign.references.fingerprint`."""
        return self._by_bucket.get(bucket, [])

    @cached_property
    def _by_bucket(self) -> dict[str, list[ReferenceEntry]]:
        from pymatgen.core import Element

        from campaign.references.fingerprint import formula_of_counts

        index: dict[str, list[ReferenceEntry]] = {}
        for entry in self.entries:
            if entry.raw is not None:
                counts = Counter(entry.raw.numbers.tolist())
                key = formula_of_counts({Element.from_Z(z).symbol: n for z, n in counts.items()})
                index.setdefault(key, []).append(entry)
        return index

    def summary(self) -> str:
        """Return one line for the log: what was read and what was set aside, with the commonest reason."""
        n_crystals = sum(entry.raw is not None for entry in self.entries)
        n_energies = sum(entry.formation_energy_per_atom is not None for entry in self.entries)
        line = f"{len(self.entries)} reference entries ({n_crystals} crystals, {n_energies} energies)"
        if self.set_aside:
            reason, count = Counter(why for _, why in self.set_aside).most_common(1)[0]
            line += f"; {len(self.set_aside)} set aside ({count} because: {reason})"
        return line


def read_reference(
    sources: Sequence[str],
    *,
    base_dir: Path,
    elements: Sequence[str] = (),
    hull_sources: Sequence[str] | None = None,
) -> ReferenceSet:
    """Read reference phases from every named source.

    Args:
        sources: Each one is `builtin:quickstart`, `materials-project` (for the given elements) or
            `materials-project:Ca-Mg-Si`, a `.parquet`, `.json` or `.json.gz` file, a `.cif` file or a folder
            of CIFs (see `campaign.references.readers` for their layouts).
        base_dir: Folder that relative paths start from.
        elements: The campaign's elements; only `materials-project` asks for them, files are read whole.
        hull_sources: Sources of formation energies for the hull. Then theirs alone make the hull, and only
            `sources` give crystals; None lets `sources` do both.

    Returns:
        The entries in order. Items that cannot be used are set aside and counted, never fatal.

    Raises:
        ReferenceDataError: A source is missing, of an unknown kind, or gives nothing usable at all.
    """
    from campaign.references import readers as reference_readers

    entries: list[ReferenceEntry] = []
    set_aside: list[tuple[str, str]] = []
    infos: list[SourceInfo] = []
    for source, for_hull in [(one, False) for one in sources] + [(one, True) for one in hull_sources or ()]:
        got = reference_readers.read_source(source, base_dir=base_dir, elements=elements)
        if not got.entries:
            why = f" ({len(got.set_aside)} set aside, first: {got.set_aside[0][1]})" if got.set_aside else ""
            raise ReferenceDataError(
                f"a reference source holds no usable entry{why}",
                value=source,
                cure="check the file's layout against the README's section on reference data",
            )
        if for_hull:
            known = [entry for entry in got.entries if entry.formation_energy_per_atom is not None]
            entries += [dataclasses.replace(entry, raw=None) for entry in known]
        elif hull_sources is not None:
            entries += [dataclasses.replace(entry, on_hull_scale=False) for entry in got.entries]
        else:
            entries += got.entries
        set_aside += got.set_aside
        infos.append(SourceInfo(source, len(got.entries), len(got.set_aside), got.note))
    return ReferenceSet(tuple(entries), tuple(set_aside), tuple(infos))


def prepare_reference(reference: ReferenceSet, folder: Path, name: str = FILE_NAME) -> Path:
    """Write a reference set as one normalised Parquet file, with its SHA-256 in a file beside it.

    Both files appear whole or not at all, the checksum last.

    Args:
        reference: What to write.
        folder: The run folder; it is made when it is missing.
        name: Name of the file in it.

    Returns:
        Absolute path of the file.

    Raises:
        StoreFullError: There is no space left; nothing is left behind.
        ReferenceDataError: The folder cannot be written to.
    """
    import pyarrow.parquet as pq

    folder = folder.resolve()
    path = folder / name
    part = folder / f".{name}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(_to_table(reference), part, compression="zstd")
        _replace(part, path)
        part.write_text(f"{file_sha256(path)}  {name}\n", encoding="utf-8")
        _replace(part, folder / f"{name}.sha256")
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        kind = StoreFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else ReferenceDataError
        raise kind(
            f"the prepared reference cannot be written ({error})",
            value=str(path),
            cure="free some space, or make the run folder writable",
        ) from error
    return path


def load_prepared(path: str | Path) -> ReferenceSet:
    """Read what `prepare_reference` wrote; the result is kept for the life of the process.

    Raises:
        ReferenceDataError: The file is missing, was changed since, or is of another layout version.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise ReferenceDataError(
            "the prepared reference is missing",
            value=str(path),
            cure="run the campaign from its run folder again",
        )
    stat = path.stat()
    return _load(path, stat.st_mtime_ns, stat.st_size)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.lru_cache(maxsize=4)
def _load(path: Path, mtime_ns: int, size: int) -> ReferenceSet:  # noqa: ARG001 - parts of the cache's key
    from campaign.references import parse as reference_parse

    checksum = path.with_name(f"{path.name}.sha256")
    if checksum.is_file() and checksum.read_text(encoding="utf-8").split()[0] != file_sha256(path):
        raise ReferenceDataError(
            "the prepared reference does not match its checksum",
            value=str(path),
            cure=f"delete it together with {checksum.name}; the next launch or resume prepares it again",
        )
    table = reference_parse.open_parquet(path)
    meta = json.loads((table.schema.metadata or {}).get(b"campaign_reference", b"{}"))
    if meta.get("format") != FORMAT:
        raise ReferenceDataError(
            "the prepared reference has another layout version",
            value=meta.get("format"),
            allowed=FORMAT,
            cure="delete it; the next launch or resume prepares it again",
        )
    entries, bad = reference_parse.entries_of_table(table, reference_parse.PREPARED)
    return ReferenceSet(
        tuple(entries),
        tuple((where, why) for where, why in [*meta["set_aside"], *bad]),
        tuple(SourceInfo(**info) for info in meta["sources"]),
    )


def _to_table(reference: ReferenceSet) -> pa.Table:
    import pyarrow as pa

    rows: dict[str, list[Any]] = {
        "material_id": [e.entry_id for e in reference],
        "formula": [e.formula for e in reference],
        "formation_energy_per_atom": [e.formation_energy_per_atom for e in reference],
        "e_above_hull": [e.e_above_hull for e in reference],
        "source": [e.source for e in reference],
        "on_hull_scale": [e.on_hull_scale for e in reference],
        "lattice": [None if e.raw is None else e.raw.lattice.ravel() for e in reference],
        "atomic_numbers": [None if e.raw is None else e.raw.numbers.astype(np.uint8) for e in reference],
        "frac_coords": [None if e.raw is None else e.raw.frac_coords.ravel() for e in reference],
    }
    schema = pa.schema(
        [
            ("material_id", pa.string()),
            ("formula", pa.string()),
            ("formation_energy_per_atom", pa.float64()),
            ("e_above_hull", pa.float64()),
            ("source", pa.string()),
            ("on_hull_scale", pa.bool_()),
            ("lattice", pa.list_(pa.float64())),
            ("atomic_numbers", pa.list_(pa.uint8())),
            ("frac_coords", pa.list_(pa.float64())),
        ]
    )
    meta = {
        "format": FORMAT,
        "set_aside": [list(item) for item in reference.set_aside],
        "sources": [vars(info) for info in reference.sources],
    }
    return pa.table(rows, schema=schema.with_metadata({"campaign_reference": json.dumps(meta)}))


def _replace(part: Path, path: Path) -> None:
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.replace(path)
