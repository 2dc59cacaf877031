"""Structures and figures of a campaign as files that other programs read."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from campaign.errors import ComponentError
from campaign.run_folder import write_atomic
from campaign.store import CampaignStore
from campaign.views.status import result_rows

FORMATS = ("cif", "extxyz", "json", "csv")


def export(store: CampaignStore, what: str, target: Path) -> int:
    """Write every labelled candidate of a campaign.

    Args:
        store: The campaign's store.
        what: `cif` (a folder of files), `extxyz`, `json` or `csv` (one file).
        target: The folder or file to write.

    Returns:
        How many candidates were written.

    Raises:
        ComponentError: An unknown format.
    """
    writers = {"cif": _cif, "extxyz": _extxyz, "json": _json, "csv": _csv}
    if what not in writers:
        raise ComponentError("unknown format", value=what, allowed=FORMATS, cure="choose one of these")
    return writers[what](store, target)


def _labelled(store: CampaignStore) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield (row, label document) of every labelled candidate: the label that its verdict comes from."""
    for row in result_rows(store):
        if row["state"] == "done":
            label = store.get("labels", row["verdict_label_id"])
            if label is not None:
                yield row, label


def _cif(store: CampaignStore, target: Path) -> int:
    from pymatgen.core import Structure
    from pymatgen.io.cif import CifWriter

    target.mkdir(parents=True, exist_ok=True)
    number = 0
    for row, label in _labelled(store):
        structure = Structure.from_dict(label["result"]["structure"])
        number += 1
        path = target / f"{number:04d}_{row['formula']}_{row['candidate_id'][:8]}.cif"
        write_atomic(path, str(CifWriter(structure, symprec=0.01)))
    return number


def _extxyz(store: CampaignStore, target: Path) -> int:
    from io import StringIO

    from ase.io import write
    from pymatgen.core import Structure
    from pymatgen.io.ase import AseAtomsAdaptor

    frames = []
    for row, label in _labelled(store):
        atoms = AseAtomsAdaptor.get_atoms(Structure.from_dict(label["result"]["structure"]), msonable=False)
        atoms.info = {key: value for key, value in row.items() if value is not None}
        frames.append(atoms)
    text = StringIO()
    if frames:
        write(text, frames, format="extxyz")
    write_atomic(target, text.getvalue())
    return len(frames)


def _json(store: CampaignStore, target: Path) -> int:
    rows = [{**row, "structure": label["result"]["structure"]} for row, label in _labelled(store)]
    write_atomic(target, json.dumps(rows, indent=1))
    return len(rows)


def _csv(store: CampaignStore, target: Path) -> int:
    from io import StringIO

    rows = [row for row, _ in _labelled(store)]
    text = StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["formula"])
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(target, text.getvalue())
    return len(rows)
