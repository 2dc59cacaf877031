"""What potentials that are evaluated on many crystals at once have in common: energies, relaxations, references."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from models.errors import ModelsError
from models.relaxation import Evaluation, Geometry, Outcome, RelaxationSettings, relax
from models.surrogates.base import Relaxed
from models.symmetrise import spacegroup_number, symmetrised

if TYPE_CHECKING:
    import torch
    from pymatgen.core import Structure


class BatchedSurrogate(ABC):
    """A potential that says energy, forces and stress of many geometries together."""

    name: str
    """Of the potential, for errors."""
    config: Any

    @functools.cached_property
    def device(self) -> torch.device:
        """Where the potential is evaluated; raises DeviceError where there is no such device."""
        import torch

        from models.ensemble import find_device

        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        return find_device(automatic if self.config.device == "auto" else self.config.device)

    @property
    @abstractmethod
    def version(self) -> str:
        """Name and version of the potential."""

    @abstractmethod
    def evaluate(self, geometries: Sequence[Geometry], *, derivatives: bool = True) -> list[Evaluation | str]:
        """Return energy, forces and stress of each crystal on the surrogate's scale, or why there are none.

        Args:
            geometries: The crystals.
            derivatives: Whether forces and stress are wanted; without them they are zero.
        """

    @abstractmethod
    def refusal(self, geometry: Geometry) -> str | None:
        """Say why the potential cannot treat a geometry; None where it can."""

    @abstractmethod
    def element_energies(self) -> Mapping[str, float]:
        """Return the energy [eV/atom] of every element's ground state on the surrogate's own scale."""

    def geometry_of(self, structure: Structure) -> Geometry | str:
        """Read a structure, or say why the potential cannot treat it."""
        geometry = as_geometry(structure)
        return geometry if isinstance(geometry, str) else self.refusal(geometry) or geometry

    def energies(self, structures: Sequence[Structure]) -> np.ndarray:
        """Return energies (n_crystals,) [eV/atom] of crystals as they are; nan where the potential fails."""
        found = np.full(len(structures), np.nan)
        geometries: list[Geometry] = []
        places: list[int] = []
        for place, structure in enumerate(structures):
            geometry = self.geometry_of(structure)
            if isinstance(geometry, Geometry):
                geometries.append(geometry)
                places.append(place)
        answers = self.evaluate(geometries, derivatives=False)
        for place, geometry, answer in zip(places, geometries, answers, strict=True):
            if isinstance(answer, Evaluation):
                found[place] = answer.energy / len(geometry.numbers)
        return found

    def relax(
        self,
        structures: Sequence[Structure],
        *,
        fix_symmetry: bool,
        max_steps: int,
        fmax_ev_per_ang: float,
        relax_cell: bool = True,
        symprec: float = 0.1,
    ) -> list[Relaxed]:
        """Relax crystals together.

        Args:
            structures: Ordered crystals.
            fix_symmetry: Keep each crystal's own space group; it is first made exact, within `symprec`.
            max_steps: Most steps per crystal.
            fmax_ev_per_ang: Threshold for forces, see `RelaxationSettings.fmax`.
            relax_cell: Whether cells move too.
            symprec: Tolerance of all space groups here [Å].

        Returns:
            One outcome per crystal, in order; a crystal that fails has its `error` set.
        """
        settings = RelaxationSettings(
            max_steps, fmax_ev_per_ang, relax_cell, max_volume_change=self.config.max_volume_change
        )
        results: list[Relaxed | None] = []
        starts, projectors, before, places = [], [], [], []
        for place, structure in enumerate(structures):
            results.append(None)
            geometry = self.geometry_of(structure)
            if isinstance(geometry, str):
                results[place] = failed(structure, 0, 0, geometry)
                continue
            cell = (geometry.lattice, geometry.frac_coords, geometry.numbers)
            before.append(spacegroup_number(*cell, symprec))
            projector = None
            if fix_symmetry:
                lattice, frac_coords, projector = symmetrised(*cell, symprec)
                geometry = Geometry(geometry.numbers, frac_coords, lattice)
            starts.append(geometry)
            projectors.append(projector)
            places.append(place)
        outcomes = relax(starts, self.evaluate, settings, projectors) if starts else []
        for place, number, outcome in zip(places, before, outcomes, strict=True):
            results[place] = _relaxed(structures[place], number, outcome, symprec)
        return [result for result in results if result is not None]

    def element_energy(self, symbol: str) -> float:
        """Return the potential's energy [eV/atom] of the element's ground state.

        Raises:
            ModelsError: There is no reference for this element.
        """
        energies = self.element_energies()
        if symbol not in energies:
            raise ModelsError(
                f"{self.name} has no elemental reference", value=symbol, allowed=sorted(energies)
            )
        return energies[symbol]

    def formation_energies(
        self, structures: Sequence[Structure], energies: Sequence[float] | np.ndarray | None = None
    ) -> np.ndarray:
        """Return formation energies (n_crystals,) [eV/atom]; nan where energy or a reference is missing.

        Args:
            structures: The crystals.
            energies: Their energies [eV/atom] on the surrogate's scale; computed where not given.
        """
        known = self.energies(structures) if energies is None else np.asarray(energies, dtype=float)
        return np.asarray(known - self.of_elements(structures))

    def of_elements(self, structures: Sequence[Structure]) -> np.ndarray:
        """Return energies (n_crystals,) [eV/atom] of the elements that crystals are made of; nan where unknown."""
        references = self.element_energies()
        base = [
            sum(
                references.get(symbol, float("nan")) * share
                for symbol, share in structure.composition.fractional_composition.get_el_amt_dict().items()
            )
            for structure in structures
        ]
        return np.asarray(base, dtype=float)


def as_geometry(structure: Structure) -> Geometry | str:
    """Read a structure as arrays, or say why it has none that a potential could treat."""
    try:
        numbers = np.asarray([site.specie.Z for site in structure], dtype=np.int64)
        geometry = Geometry(
            numbers, np.array(structure.frac_coords, dtype=float), np.array(structure.lattice.matrix)
        )
    except (AttributeError, TypeError, ValueError):
        return "a site is partly or not occupied by an element"
    if not len(geometry.numbers):
        return "no atoms"
    if not (np.isfinite(geometry.lattice).all() and np.isfinite(geometry.frac_coords).all()):
        return "coordinates or lattice are not finite"
    return "the lattice is flat" if geometry.volume < 1e-6 else geometry


def failed(structure: Structure, spacegroup: int, n_steps: int, error: str) -> Relaxed:
    """Return the outcome of a crystal that could not be relaxed."""
    nan = float("nan")
    return Relaxed(structure, nan, nan, False, n_steps, spacegroup, spacegroup, error)


def _relaxed(structure: Structure, spacegroup_before: int, outcome: Outcome, symprec: float) -> Relaxed:
    if outcome.error is not None:
        return failed(structure, spacegroup_before, outcome.n_steps, outcome.error)
    from pymatgen.core import Lattice
    from pymatgen.core import Structure as Crystal

    geometry = outcome.geometry
    final = Crystal(
        Lattice(geometry.lattice),
        structure.species,
        geometry.frac_coords,
        to_unit_cell=True,
        properties=dict(structure.properties),
    )
    after = spacegroup_number(geometry.lattice, geometry.frac_coords, geometry.numbers, symprec)
    return Relaxed(
        structure=final,
        energy_per_atom=outcome.energy / len(geometry.numbers),
        max_force=outcome.max_force,
        converged=outcome.converged,
        n_steps=outcome.n_steps,
        spacegroup_before=spacegroup_before,
        spacegroup_after=after,
    )
