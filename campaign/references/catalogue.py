"""The reference of a campaign: read from its sources once, prepared as one file, loaded by workers.

`read_reference` reads any of the supported sources at launch; `prepare_reference` writes what it read into the run
folder as one Parquet file with a checksum; workers call `load_prepared`, which reads that file once per process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from campaign.errors import ReferenceDataError, StoreFullError
from campaign.references.entries import ReferenceEntry, ReferenceSet, SourceInfo

if TYPE_CHECKING:
    import pyarrow as pa

FILE_NAME = "reference.parquet"
"""Name of the prepared file inside a run folder."""

FORMAT = 1
"""Version of the prepared file's layout; a file of another version is prepared again."""


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


def load_prepared(path: str | Path, exclude: Sequence[str] = ()) -> ReferenceSet:
    """Read what `prepare_reference` wrote; the result is kept for the life of the process.

    Args:
        path: The prepared file.
        exclude: Formulas whose crystals are left out, see `ReferenceSet.without_crystals_of`.

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
    return _load_without(_content(path, stat.st_mtime_ns, stat.st_size), tuple(exclude))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclasses.dataclass(frozen=True)
class _Content:
    """What a prepared file holds; files of equal bytes are one to the caches below."""

    sha256: str
    path: Path = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=4)
def _load_without(content: _Content, exclude: tuple[str, ...]) -> ReferenceSet:
    return _load(content).without_crystals_of(exclude)


@functools.lru_cache(maxsize=64)
def _content(path: Path, mtime_ns: int, size: int) -> _Content:  # noqa: ARG001 - parts of the cache's key
    content = _Content(file_sha256(path), path)
    checksum = path.with_name(f"{path.name}.sha256")
    if checksum.is_file() and checksum.read_bytes().split()[:1] != [content.sha256.encode()]:
        raise ReferenceDataError(
            "the prepared reference does not match its checksum",
            value=str(path),
            cure=f"delete it together with {checksum.name}; the next launch or resume prepares it again",
        )
    return content


@functools.lru_cache(maxsize=4)
def _load(content: _Content) -> ReferenceSet:
    from campaign.references import parse as reference_parse

    table = reference_parse.open_parquet(content.path)
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
