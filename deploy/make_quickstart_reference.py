"""Make `campaign/data/quickstart_reference.json.gz`: reference crystals for Ca-Mg-Si, computed with CHGNet.

    python deploy/make_quickstart_reference.py --output campaign/data/quickstart_reference.json.gz

Nothing is downloaded. Prototypes are the AFLOW prototypes that pymatgen ships, small ones only; where a species
of a prototype sits on several orbits, these may take different elements. Each is decorated with the elements of
a system, scaled to the volume of its atoms, ranked by its energy as it is, and the best are relaxed with fixed
symmetry. Of Ca-Mg-Si itself the set holds the phases that nature shows in small cells, and some that are far
above the hull; the low-lying ones that are left out are for the campaign to find. Of the systems around it the
set holds what CHGNet finds lowest, as prototypes, and some high ones for training.

Formation energies are the surrogate's own, [eV/atom] relative to its elements, so that a campaign with this
surrogate measures candidates and reference alike; CHGNet's scale is that of the Materials Project with its
corrections. Deterministic; about 6 minutes on one core.
"""

from __future__ import annotations

import argparse
import gzip
import io
import itertools
import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import spglib
from pymatgen.core import Element, Lattice, Structure

from campaign.references.entries import ReferenceEntry
from campaign.references.fingerprint import bucket, candidate_id, reduced, same_reduced, space_group
from campaign.references.hull import ReferenceHull
from campaign.screens.contract import SurrogateLike
from campaign.screens.geometry import closest_pair

HOME = ("Ca", "Mg", "Si")
"""The chemistry of the quickstart."""

NEIGHBOURS = (
    *("Ca-Ge", "Ca-Sn", "Sr-Si", "Sr-Ge", "Ba-Si", "Ba-Ge", "Mg-Ge", "Mg-Sn", "Li-Si", "Na-Si"),
    *("Sr-Mg", "Ca-Zn", "Ca-Al"),
    *("Sr-Mg-Si", "Ca-Mg-Ge", "Ca-Mg-Sn", "Sr-Mg-Ge", "Ba-Mg-Si"),
    *("Ca-Zn-Si", "Ca-Zn-Ge", "Sr-Zn-Si", "Ca-Al-Si", "Ca-Li-Si"),
)
"""Systems that give prototypes: the columns of the periodic table that Ca, Mg and Si stand in, and a few more."""

GROUND_STATES = {
    "Al": "A1", "Ba": "A2", "Ca": "A1", "Ge": "A4", "Li": "A2", "Mg": "A3", "Na": "A2", "Si": "A4", "Sn": "A5",
    "Sr": "A1", "Zn": "A3",
}  # fmt: skip
"""Structure type of each element in nature (Strukturbericht). CHGNet tells close-packed stackings apart by less
than its error; a crystal that it puts below this one by a millielectronvolt or so is left out."""

KNOWN = (("Mg2Si", 225, 3), ("Ca2Si", 225, 3), ("CaSi", 63, 4), ("CaSi2", 166, 3), ("CaMg2", 227, 6))
"""(formula, space group, atoms) of the compounds of Ca-Mg-Si that belong into the set. Ca2Si and CaMg2 stand in
their cubic forms for the slightly lower ones with 12 atoms."""

RELAXED_PER_SYSTEM = 110
LOW_PER_SYSTEM = 12
HIGH_PER_SYSTEM = 4
HIGH_OF_HOME = 8
PER_ELEMENT = 3
MAX_E_ABOVE_HULL = 0.6
"""Figures of the selection: crystals, and the greatest energy above the hull that is worth keeping [eV/atom]."""

ELEMENT_VOLUME_ANG3 = 25.0
"""Volume per atom from which elements are relaxed [Å^3]."""

FMAX_EV_PER_ANG = 0.02
MAX_STEPS = 200


@dataclass
class Prototype:
    """A structure type: a cell whose sites are grouped into slots, each to be filled by one element."""

    name: str
    structure: Structure
    slots: tuple[int, ...]

    @property
    def n_slots(self) -> int:
        """How many elements it can take at most."""
        return max(self.slots) + 1


@dataclass
class Crystal:
    """A decorated prototype, before or after relaxation."""

    prototype: str
    structure: Structure
    energy: float = np.nan
    """CHGNet energy [eV/atom]."""
    formation: float = np.nan
    """Formation energy [eV/atom]."""
    above: float = np.nan
    """Energy above the hull of everything relaxed [eV/atom]."""

    @property
    def entry(self) -> ReferenceEntry:
        """The crystal as an entry for a hull."""
        formula = str(self.structure.composition.reduced_formula)
        return ReferenceEntry(f"{formula}:{self.prototype}", formula, self.formation)


def read_prototypes(max_atoms: int) -> list[Prototype]:
    """Return pymatgen's AFLOW prototypes with small primitive cells, in the order of the file."""
    from monty.serialization import loadfn
    from pymatgen.analysis import prototypes
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    found = []
    for item in loadfn(Path(prototypes.__file__).parent / "aflow_prototypes.json.gz"):
        structure = item["snl"].structure
        if not structure.is_ordered or len(structure.composition) > 3:
            continue
        structure = SpacegroupAnalyzer(structure, symprec=0.01).get_primitive_standard_structure()
        if len(structure) > max_atoms:
            continue
        tags = item["tags"]
        name = " ".join(str(tags[key]) for key in ("mineral", "strukturbericht", "aflow") if tags.get(key))
        species = [site.specie.symbol for site in structure]
        orbits = SpacegroupAnalyzer(structure, symprec=0.01).get_symmetry_dataset().equivalent_atoms
        by_orbit = _numbered(list(zip(species, orbits.tolist(), strict=True)))
        slots = by_orbit if max(by_orbit) < 3 else _numbered(species)
        found.append(Prototype(name, structure, slots))
    return found


def _numbered(keys: Sequence[object]) -> tuple[int, ...]:
    order = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return tuple(order[key] for key in keys)


def decorations(
    prototypes: Sequence[Prototype], elements: Sequence[str], volumes: dict[str, float]
) -> Iterator[Crystal]:
    """Yield every prototype with every assignment that uses all the elements, scaled to its atoms' volume."""
    for prototype in prototypes:
        for chosen in itertools.product(elements, repeat=prototype.n_slots):
            if set(chosen) != set(elements):
                continue
            species = [chosen[slot] for slot in prototype.slots]
            volume = sum(volumes[symbol] for symbol in species)
            structure = Structure(prototype.structure.lattice, species, prototype.structure.frac_coords)
            structure.scale_lattice(volume)
            # Open types need a larger cell: no two atoms nearer than covalent radii allow.
            squeeze = closest_pair(structure)[1]
            if squeeze < 0.8:
                structure.scale_lattice(volume * (0.8 / squeeze) ** 3)
            yield Crystal(prototype.name, structure)


def relax(crystals: Sequence[Crystal], surrogate: SurrogateLike) -> list[Crystal]:
    """Relax crystals together with fixed symmetry; those that fail are left out."""
    relaxed = surrogate.relax(
        [one.structure for one in crystals],
        fix_symmetry=True,
        max_steps=MAX_STEPS,
        fmax_ev_per_ang=FMAX_EV_PER_ANG,
        symprec=0.01,
    )
    return [
        Crystal(one.prototype, rounded(result.structure), result.energy_per_atom)
        for one, result in zip(crystals, relaxed, strict=True)
        if result.error is None and result.converged and closest_pair(result.structure)[1] > 0.6
    ]


def rounded(structure: Structure) -> Structure:
    """Return the crystal as it will be stored: primitive standard cell, five digits, coordinates in [0, 1)."""
    cell = (structure.lattice.matrix, structure.frac_coords, [site.specie.Z for site in structure])
    found = spglib.standardize_cell(cell, to_primitive=True, no_idealize=False, symprec=0.01)
    lattice, coords, numbers = cell if found is None else found
    species = [Element.from_Z(int(z)) for z in numbers]
    return Structure(Lattice(np.round(lattice, 5)), species, np.round(coords, 5) % 1.0)


def distinct(crystals: Sequence[Crystal]) -> list[Crystal]:
    """Return crystals in the order of energy, each only once."""
    kept: list[tuple[str, str, Structure, Crystal]] = []
    for one in sorted(crystals, key=lambda one: (round(one.energy, 4), one.prototype)):
        key, group, small = candidate_id(one.structure), bucket(one.structure), reduced(one.structure)
        if not any(key == k or (group == g and same_reduced(small, s)) for k, g, s, _ in kept):
            kept.append((key, group, small, one))
    return [one for *_, one in kept]


def explore(
    system: str, prototypes: Sequence[Prototype], volumes: dict[str, float], surrogate: SurrogateLike
) -> list[Crystal]:
    """Return the distinct relaxed crystals of a system, all of its elements present.

    At home everything is relaxed; elsewhere only what is lowest before relaxation.
    """
    elements = system.split("-")
    fitting = [one for one in prototypes if one.n_slots >= len(elements)]
    crystals = list(decorations(fitting, elements, volumes))
    if not set(elements) <= set(HOME):
        structures = [one.structure for one in crystals]
        formation = surrogate.formation_energies(structures)
        order = np.argsort(np.where(np.isfinite(formation), formation, np.inf), kind="stable")
        crystals = [crystals[index] for index in order[:RELAXED_PER_SYSTEM]]
    return distinct(relax(crystals, surrogate))


def explore_element(symbol: str, prototypes: Sequence[Prototype], surrogate: SurrogateLike) -> list[Crystal]:
    """Return an element's crystals, nature's ground state first and none that CHGNet puts below it."""
    simple = [one for one in prototypes if one.n_slots == 1 and len(one.structure) <= 4]
    crystals = relax(list(decorations(simple, [symbol], {symbol: ELEMENT_VOLUME_ANG3})), surrogate)
    ground = next(one for one in crystals if GROUND_STATES[symbol] in one.prototype.split())
    return [ground, *distinct([one for one in crystals if one.energy > ground.energy + 1e-3])]


def spread(crystals: Sequence[Crystal], count: int) -> list[Crystal]:
    """Return some crystals, evenly spread over a list that is in the order of energy."""
    if len(crystals) <= count:
        return list(crystals)
    return [crystals[index] for index in np.linspace(0, len(crystals) - 1, count).round().astype(int)]


def select(pool: dict[str, list[Crystal]], surrogate: SurrogateLike) -> list[Crystal]:
    """Choose what the set holds, see the module's text; sets every crystal's `formation` and `above`."""
    everything = [one for crystals in pool.values() for one in crystals]
    formation = surrogate.formation_energies(
        [one.structure for one in everything], [one.energy for one in everything]
    )
    for one, energy in zip(everything, formation, strict=True):
        one.formation = float(energy)
    hull = ReferenceHull(one.entry for one in everything)
    for one in everything:
        one.above = hull.e_above_hull(one.structure.composition, one.formation)
    chosen: list[Crystal] = []
    for system, crystals in pool.items():
        worth = sorted((one for one in crystals if one.above <= MAX_E_ABOVE_HULL), key=lambda one: one.above)
        if "-" not in system:
            chosen += crystals[:PER_ELEMENT]
        elif set(system.split("-")) <= set(HOME):
            chosen += [one for one in crystals if is_known(one)]
            chosen += spread([one for one in worth if one.above > 0.15 and not is_known(one)], HIGH_OF_HOME)
        else:
            chosen += worth[:LOW_PER_SYSTEM] + spread(worth[LOW_PER_SYSTEM:], HIGH_PER_SYSTEM)
    return chosen


def is_known(one: Crystal) -> bool:
    """Say whether this is one of the `KNOWN` phases."""
    structure = one.structure
    return (structure.composition.reduced_formula, space_group(structure), len(structure)) in KNOWN


def document(chosen: Sequence[Crystal], max_atoms: int) -> dict[str, object]:
    """Return the file's content."""
    hull = ReferenceHull(one.entry for one in chosen)
    entries = []
    for number, one in enumerate(chosen):
        structure = one.structure
        entries.append(
            {
                "material_id": f"qs-{number:03d}",
                "formula": structure.composition.reduced_formula,
                "made_from": one.prototype,
                "spacegroup": space_group(structure),
                "lattice": structure.lattice.matrix.round(5).ravel().tolist(),
                "atomic_numbers": [site.specie.Z for site in structure],
                "frac_coords": structure.frac_coords.round(5).ravel().tolist(),
                "formation_energy_per_atom": round(one.formation, 5),
                "e_above_hull": round(hull.e_above_hull(structure.composition, one.formation), 5),
            }
        )
    return {
        "note": f"Ca-Mg-Si and systems around it: AFLOW prototypes (pymatgen) of up to {max_atoms} atoms, decorated "
        "and relaxed with CHGNet; energies [eV/atom] are CHGNet's. Phases with larger cells are not in it: Pnma Ca2Si "
        "and CaMgSi, C14 CaMg2, Ca5Si3. "
        "Computed, not measured; made by deploy/make_quickstart_reference.py.",
        "versions": {name: version(name) for name in ("chgnet", "pymatgen", "spglib")},
        "entries": entries,
    }


def write(content: dict[str, object], path: Path) -> None:
    """Write the file; equal content gives equal bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as stream:
        stream.write(json.dumps(content, separators=(",", ":")).encode())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


def main() -> None:
    """Compute the set and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="file to write, *.json.gz")
    parser.add_argument("--max-atoms", type=int, default=8, help="atoms in the primitive cell")
    options = parser.parse_args()
    import torch

    from models.surrogates.chgnet import CHGNetSurrogate

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    begin = time.perf_counter()
    surrogate = CHGNetSurrogate()
    prototypes = read_prototypes(options.max_atoms)
    home = ["-".join(part) for size in (2, 3) for part in itertools.combinations(HOME, size)]
    elements = sorted({symbol for system in [*home, *NEIGHBOURS] for symbol in system.split("-")})
    pool = {symbol: explore_element(symbol, prototypes, surrogate) for symbol in elements}
    volumes = {
        symbol: pool[symbol][0].structure.volume / len(pool[symbol][0].structure) for symbol in elements
    }
    for system in [*home, *NEIGHBOURS]:
        pool[system] = explore(system, prototypes, volumes, surrogate)
        sys.stderr.write(f"{system}: {len(pool[system])} crystals, {time.perf_counter() - begin:.0f} s\n")
    chosen = select(pool, surrogate)
    write(document(chosen, options.max_atoms), options.output)
    size = options.output.stat().st_size / 1024
    seconds = time.perf_counter() - begin
    sys.stdout.write(f"{len(chosen)} crystals, {size:.0f} kB, {seconds:.0f} s: {options.output}\n")


if __name__ == "__main__":
    main()
