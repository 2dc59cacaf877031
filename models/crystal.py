"""Crystals as tensors: `CrystalBatch` and its way from and to pymatgen.

The convention of this project lives here and nowhere else: **lattice vectors are rows**, so that

    cartesian (n_atoms, 3) = frac_coords (n_atoms, 3) @ lattice (3, 3)          rows a, b, c in Å

Papers that write lattice vectors as columns are served by `CrystalBatch.lattice_columns`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.errors import ModelsError

if TYPE_CHECKING:
    from pymatgen.core import Structure

MAX_ATOMIC_NUMBER = 118
"""Largest atomic number that is an element."""

MIN_VOLUME_PER_ATOM_ANG3 = 1.0
"""Below this a cell is collapsed: the densest solids known keep above 2 Å³ per atom."""


@dataclass(frozen=True)
class CrystalBatch:
    """Several crystals in one set of tensors; atoms of one crystal lie together, crystals in order."""

    frac_coords: torch.Tensor
    """(n_atoms, 3) fractional coordinates, wrapped to [0, 1)."""
    lattice: torch.Tensor
    """(n_crystals, 3, 3) lattice vectors a, b, c as rows [Å]."""
    atomic_numbers: torch.Tensor
    """(n_atoms,) int64, 1 (H) to 118."""
    crystal_idx: torch.Tensor
    """(n_atoms,) int64, the crystal that each atom belongs to, never decreasing."""

    @classmethod
    def from_structures(
        cls,
        structures: Sequence[Structure],
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
    ) -> CrystalBatch:
        """Read ordered pymatgen structures.

        Args:
            structures: Crystals without partial occupation.
            dtype: Type of the coordinates and lattices. Default: double, as pymatgen's own.
            device: Where the tensors are put.

        Raises:
            ModelsError: A structure is disordered, empty, collapsed or not finite; it is named by its place.
        """
        check_structures(structures)
        lattice = np.array([s.lattice.matrix for s in structures], dtype=float).reshape(-1, 3, 3)
        coords = [np.asarray(s.frac_coords, dtype=float).reshape(-1, 3) for s in structures]
        frac = np.concatenate(coords) if coords else np.zeros((0, 3))
        sizes = [len(s) for s in structures]
        frac_coords = torch.tensor(frac, dtype=dtype)
        return cls(
            frac_coords=wrap(frac_coords).to(device),  # (n_atoms, 3)
            lattice=torch.tensor(lattice, dtype=dtype, device=device),  # (n_crystals, 3, 3)
            atomic_numbers=torch.tensor(
                [z for s in structures for z in s.atomic_numbers], dtype=torch.int64, device=device
            ),
            crystal_idx=torch.tensor(
                np.repeat(np.arange(len(sizes)), sizes), dtype=torch.int64, device=device
            ),
        )

    def to_structures(self) -> list[Structure]:
        """Return one pymatgen `Structure` per crystal, sites in the order of the atoms."""
        from pymatgen.core import Element, Lattice, Structure

        frac = self.frac_coords.detach().cpu().double().numpy()
        lattices = self.lattice.detach().cpu().double().numpy()
        numbers = self.atomic_numbers.cpu().numpy()
        bounds = np.concatenate([[0], np.cumsum(self.atoms_per_crystal.cpu().numpy())])
        return [
            Structure(
                Lattice(lattices[i]),
                [Element.from_Z(int(z)) for z in numbers[bounds[i] : bounds[i + 1]]],
                frac[bounds[i] : bounds[i + 1]],
            )
            for i in range(self.n_crystals)
        ]

    @property
    def n_crystals(self) -> int:
        """Number of crystals."""
        return int(self.lattice.shape[0])

    @property
    def n_atoms(self) -> int:
        """Number of atoms of all crystals together."""
        return int(self.atomic_numbers.shape[0])

    @property
    def atoms_per_crystal(self) -> torch.Tensor:
        """(n_crystals,) int64 number of atoms of each crystal."""
        return torch.bincount(self.crystal_idx, minlength=self.n_crystals)

    @property
    def lattice_columns(self) -> torch.Tensor:
        """(n_crystals, 3, 3) the lattices with a, b, c as columns [Å], as many papers write them."""
        return self.lattice.transpose(-1, -2)

    @property
    def volume(self) -> torch.Tensor:
        """(n_crystals,) volume of each cell [Å³], positive also for left-handed cells."""
        return torch.linalg.det(self.lattice).abs()

    def cartesian(self) -> torch.Tensor:
        """Return (n_atoms, 3) positions in the frame of the lattices [Å]."""
        per_atom = self.lattice[self.crystal_idx]  # (n_atoms, 3, 3)
        return torch.einsum("ni,nij->nj", self.frac_coords, per_atom)

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> CrystalBatch:
        """Return the batch on another device and, where `dtype` is given, in another precision."""
        return CrystalBatch(
            self.frac_coords.to(device=device, dtype=dtype or self.frac_coords.dtype),
            self.lattice.to(device=device, dtype=dtype or self.lattice.dtype),
            self.atomic_numbers.to(device),
            self.crystal_idx.to(device),
        )


def wrap(frac_coords: torch.Tensor) -> torch.Tensor:
    """Wrap fractional coordinates (..., 3) into [0, 1)."""
    wrapped = frac_coords - torch.floor(frac_coords)
    # -1e-17 - floor(-1e-17) rounds to exactly 1.0, which is the origin of the next cell.
    return torch.where(wrapped >= 1.0, torch.zeros_like(wrapped), wrapped)


def check_structures(structures: Sequence[Structure]) -> None:
    """Check that every structure can become tensors.

    Raises:
        ModelsError: The first structure that cannot, with its place in the sequence and the reason.
    """
    for place, structure in enumerate(structures):
        problem = _problem(structure)
        if problem:
            raise ModelsError(
                f"structure {place} of {len(structures)} {problem}",
                cure="leave it out, or screen crystals for sane distances and volumes first",
            )


def _problem(structure: Structure) -> str:
    """Return why a structure cannot become tensors, or an empty text."""
    if len(structure) == 0:
        return "has no atoms"
    if not structure.is_ordered:
        return f"({structure.composition.reduced_formula}) has partially occupied sites"
    problem = _numerical_problem(structure)
    # The formula is worked out for those that have a problem alone: it costs more than all the checks.
    return f"({structure.composition.reduced_formula}) {problem}" if problem else ""


def _numerical_problem(structure: Structure) -> str:
    """Return what is wrong with the numbers of an ordered structure that has atoms, or an empty text."""
    lattice = np.asarray(structure.lattice.matrix, dtype=float)
    if not (np.isfinite(lattice).all() and np.isfinite(structure.frac_coords).all()):
        return "has coordinates or lattice vectors that are not finite"
    numbers = [getattr(site.specie, "Z", 0) for site in structure]
    if min(numbers) < 1 or max(numbers) > MAX_ATOMIC_NUMBER:
        return "has sites that are no elements"
    per_atom = abs(float(np.linalg.det(lattice))) / len(structure)
    if per_atom < MIN_VOLUME_PER_ATOM_ANG3:
        return f"is collapsed to {per_atom:.3g} Å³ per atom, below {MIN_VOLUME_PER_ATOM_ANG3}"
    return ""
