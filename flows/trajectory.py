"""What a calculation went through: geometries with energies, forces and stresses, one form for all engines.

A trajectory is a plain document. ASE's calculators leave theirs beside the job's output, in the additional store
`data`; VASP's ionic steps lie in its output. Stresses are here in GPa and negative when compressed (ASE's sign);
ASE task documents and VASP have kbar, positive when compressed, so they are divided by -10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

KBAR = -0.1
"""kbar, positive when compressed -> GPa, negative when compressed."""

MOST_STEPS = 100
"""Geometries of a trajectory that are kept."""

MOST_ROWS = 20_000
"""Atoms of all its geometries together that are kept: six numbers each, less than 2 MB as JSON."""

Document = dict[str, Any]


def spread_out(n: int, most: int) -> list[int]:
    """Return at most `most` of the places 0 ... n - 1: the first, the last, and evenly spaced ones in between."""
    if n <= most:
        return list(range(n))
    if most == 1:
        return [n - 1]
    return sorted({round(place) for place in np.linspace(0, n - 1, most).tolist()})


def trajectory_document(
    numbers: Sequence[int],
    lattices: Any,
    cart_coords: Any,
    energies: Any,
    *,
    forces: Any,
    stresses_kbar: Any,
) -> Document:
    """Return a trajectory as a document, thinned where it is large.

    Args:
        numbers: (n_atoms,) atomic numbers.
        lattices: (n_steps, 3, 3), rows a, b, c [Å].
        cart_coords: (n_steps, n_atoms, 3) [Å].
        energies: (n_steps,) of the cell [eV].
        forces: (n_steps, n_atoms, 3) [eV/Å], None where not known.
        stresses_kbar: (n_steps, 3, 3) [kbar], positive when compressed; None where not known.
    """
    most = max(2, min(MOST_STEPS, MOST_ROWS // max(1, len(numbers))))
    chosen = spread_out(len(energies), most)

    def kept(values: Any, factor: float = 1.0) -> Any:
        if values is None or len(values) != len(energies):
            return None
        return np.round(np.asarray([values[step] for step in chosen], dtype=float) * factor, 8).tolist()

    return {
        "steps": chosen,
        "numbers": [int(number) for number in numbers],
        "lattices_ang": kept(lattices),
        "cart_coords_ang": kept(cart_coords),
        "energies_ev": kept(energies),
        "forces_ev_per_ang": kept(forces),
        "stresses_gpa": kept(stresses_kbar, KBAR),
    }


def trajectory_of(output: Mapping[str, Any], blobs: Sequence[Mapping[str, Any]]) -> Document | None:
    """Return the trajectory of a job from its stored output and its large data; None if it kept none.

    Args:
        output: Field `output` of the job's document, plain.
        blobs: Documents of the job in additional stores.
    """
    for blob in blobs:
        data = blob.get("data")
        if isinstance(data, Mapping) and "energies_ev" in data:
            return dict(data)
    return _of_vasp(output) or _of_ase(output)


def _of_ase(output: Mapping[str, Any]) -> Document | None:
    """Return the only geometry of an atomate2 ASE document, as that of a static calculation."""
    from pymatgen.core import Structure

    final, structure = output.get("output"), output.get("structure")
    if not isinstance(final, Mapping) or structure is None or final.get("energy") is None:
        return None
    crystal = Structure.from_dict(structure)
    forces, stress = final.get("forces"), final.get("stress")
    return trajectory_document(
        crystal.atomic_numbers,
        [crystal.lattice.matrix],
        [crystal.cart_coords],
        [final["energy"]],
        forces=None if forces is None else [forces],
        stresses_kbar=None if stress is None else [stress],
    )


def _of_vasp(output: Mapping[str, Any]) -> Document | None:
    """Return the ionic steps of an emmet TaskDoc; of several runs, which custodian made, all in order."""
    from pymatgen.core import Structure

    steps = [
        step
        for run in reversed(output.get("calcs_reversed") or [])
        for step in (run.get("output") or {}).get("ionic_steps") or []
        if step.get("structure") is not None and step.get("e_0_energy") is not None
    ]
    if not steps:
        return None
    crystals = [Structure.from_dict(step["structure"]) for step in steps]

    def every(name: str) -> Any:
        found = [step.get(name) for step in steps]
        return None if any(one is None for one in found) else found

    return trajectory_document(
        crystals[0].atomic_numbers,
        [one.lattice.matrix for one in crystals],
        [one.cart_coords for one in crystals],
        [step["e_0_energy"] for step in steps],  # what labels have: extrapolated to zero smearing width
        forces=every("forces"),
        stresses_kbar=every("stress"),
    )
