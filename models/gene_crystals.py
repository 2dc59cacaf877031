"""From Wyckoff genes to crystals: many trials of many genes at once.

A trial draws a lattice of the gene's crystal system and the free parameters of its orbits; where atoms come too
close, or the crystal has more symmetry than its gene says, it is drawn again in a slightly larger cell. Numbers
belong to (seed, gene, trial, attempt), so a trial is the same in every batch.

Distances follow PyXtal's rule: atoms i, j at least f (r_i + r_j) apart with covalent radii r, images of the same
atom included. PyXtal's `Tol_matrix(prototype="atomic", factor=F)` has f = F / 2; WyCryst (Zhu et al. 2024) took F
from 1.2 to 1.5. PyXtal does not look at an atom's distance from its own images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from models.building import BuildSettings, Draws, Trials, draw, prepare_draws
from models.distances import ReducedCells, covalent_radii
from models.errors import OptionsError
from models.exact_symmetry import exactly
from models.genes import WyckoffGene, require_feasible
from models.lattices import LatticeModel
from models.placing import PackedGenes, pack, place, points_of
from models.symmetry import tables

if TYPE_CHECKING:
    from pymatgen.core import Structure

__all__ = ["BuildSettings", "BuiltCrystals", "build_arrays", "build_crystals"]

CHUNK = 1024
"""Attempts worked on at once: more need memory, fewer waste time between steps."""
CHUNK_POINTS = 24_000
"""Largest number of atoms, padding included, in one chunk."""


@dataclass(frozen=True)
class BuiltCrystals:
    """Crystals as arrays, by gene and then by trial; atoms of one crystal lie together."""

    gene: npt.NDArray[np.int64]
    """(n,) index of the gene."""
    trial: npt.NDArray[np.int64]
    """(n,) number of the trial, from 0."""
    attempt: npt.NDArray[np.int64]
    """(n,) how often the trial had been drawn in vain."""
    lattice: npt.NDArray[np.float64]
    """(n, 3, 3) of the primitive cells [Å], rows."""
    n_atoms: npt.NDArray[np.int64]
    """(n,)."""
    numbers: npt.NDArray[np.int64]
    """(n_atoms.sum(),) atomic numbers, in the order of the gene's orbits."""
    frac_coords: npt.NDArray[np.float64]
    """(n_atoms.sum(), 3) in the primitive cell, from 0 to 1."""


@dataclass(frozen=True)
class _Found:
    """Attempts that gave a crystal."""

    trial: npt.NDArray[np.int64]
    attempt: npt.NDArray[np.int64]
    lattice: npt.NDArray[np.float64]
    parameters: npt.NDArray[np.float64]
    """(n, S, 3)."""


def build_arrays(
    genes: Sequence[WyckoffGene],
    n_trials: Sequence[int],
    model: LatticeModel,
    settings: BuildSettings,
    seed: int,
) -> BuiltCrystals:
    """Build at most `n_trials[i]` crystals of each gene.

    A gene without any freedom, of its orbits or of its lattice's shape, has one trial. A trial for which no
    attempt succeeds gives nothing.

    Args:
        genes: Feasible genes.
        n_trials: As many numbers as genes.
        model: Volumes, shapes and known parameters.
        settings: Options.
        seed: Of all random numbers.

    Raises:
        GeneError: If no crystal can have one of the genes.
        OptionsError: If there are not as many numbers of trials as genes.
    """
    if len(genes) != len(n_trials):
        raise OptionsError(
            "build: one number of trials for each gene", value=len(n_trials), allowed=len(genes)
        )
    for gene in genes:
        require_feasible(gene)
    packed = pack(genes)
    draws = prepare_draws(genes, model, settings)
    trials = Trials.of(genes, n_trials, draws, seed)
    order = np.lexsort((packed.n_atoms[trials.gene], packed.n_orbits[trials.gene]))
    active = np.arange(len(trials.gene))[order]
    symmetric = np.zeros(len(active), dtype=np.int64)
    found: list[_Found] = []
    done, width = 0, 1
    while len(active) and done < settings.attempts:
        width = min(width, settings.attempts - done)
        rows = np.repeat(active, width)
        attempts = np.tile(np.arange(done, done + width), len(active))
        succeeded = np.zeros(len(symmetric), dtype=bool)
        for part in _chunks(packed.n_atoms[trials.gene[rows]]):
            got, more = _attempt(packed, draws, trials, rows[part], attempts[part])
            found.append(got)
            succeeded[got.trial] = True
            np.add.at(symmetric, more, 1)
        # Some genes always have more symmetry than their group: three such draws are enough to tell.
        active = active[~succeeded[active] & (symmetric[active] < settings.symmetric_attempts)]
        done, width = done + width, width * 2
    return _assemble(packed, trials, _first_of_each(found, packed))


def _chunks(n_atoms: npt.NDArray[np.int64]) -> list[slice]:
    """Return slices of rows, sorted by size as they are, each small enough to work on at once."""
    parts, begin = [], 0
    while begin < len(n_atoms):
        end = min(begin + CHUNK, len(n_atoms))
        while end - begin > 1 and (end - begin) * int(n_atoms[begin:end].max()) > CHUNK_POINTS:
            end = begin + (end - begin + 1) // 2
        parts.append(slice(begin, end))
        begin = end
    return parts


def _attempt(
    packed: PackedGenes,
    draws: Draws,
    trials: Trials,
    rows: npt.NDArray[np.int64],
    attempts: npt.NDArray[np.int64],
) -> tuple[_Found, npt.NDArray[np.int64]]:
    """Return what these attempts (n,) of these trials (n,) give, and the trials that came out too symmetric."""
    settings = draws.settings
    gene = torch.from_numpy(trials.gene[rows])
    conventional, tries = draw(packed, draws, trials, rows, attempts)
    group = torch.from_numpy(packed.spacegroup)[gene]
    cells = ReducedCells.of(torch.from_numpy(conventional), tables().primitive[group])
    largest = covalent_radii()[packed.element[gene]].amax(dim=1)
    wide = cells.metric[:, 0, 0] >= (2.0 * settings.min_distance_factor * largest) ** 2
    kept = wide.nonzero()[:, 0]
    placed, parameters = place(
        packed, gene[kept], torch.from_numpy(tries[wide.numpy()]), cells[kept], settings.min_distance_factor
    )
    kept = kept[placed]
    more = np.zeros(0, dtype=np.int64)
    if settings.verify != "off" and len(kept):
        points, element = _atoms(packed, gene[kept], parameters)
        reduced = points @ cells.from_conventional[kept]
        good = exactly(group[kept], cells[kept], reduced, element, settings.symprec)
        if settings.verify == "spglib":
            good &= _spglib_agrees(group[kept], cells.lattice[kept], reduced, element, settings.symprec)
        more = rows[kept[~good].numpy()]
        kept, parameters = kept[good], parameters[good]
    at = kept.numpy()
    return _Found(rows[at], attempts[at], conventional[at], parameters.numpy()), more


def _atoms(
    packed: PackedGenes, gene: torch.Tensor, parameters: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return conventional fractions (n, m, 3) of all atoms of primitive cells, padded, and their numbers (n, m)."""
    points, elements = [], []
    for step in range(int(packed.n_orbits[gene.numpy()].max(initial=0))):
        orbit = packed.orbit[gene, step]
        some = points_of(packed, orbit, parameters[:, step : step + 1])[:, 0]  # (n, m, 3)
        there = torch.arange(some.shape[1]) < packed.counts[orbit][:, None]
        points.append(some)
        elements.append(torch.where(there, packed.element[gene, step][:, None], 0))
    return torch.cat(points, dim=1), torch.cat(elements, dim=1)


def _spglib_agrees(
    group: torch.Tensor, lattice: torch.Tensor, points: torch.Tensor, element: torch.Tensor, symprec: float
) -> torch.Tensor:
    """Return whether spglib finds the group (n,) too; it takes milliseconds for each crystal."""
    import spglib

    good = torch.zeros(len(group), dtype=torch.bool)
    for row, number in enumerate(group.tolist()):
        there = element[row] > 0
        cell = (lattice[row].numpy(), (points[row][there] % 1.0).numpy(), element[row][there].numpy())
        try:
            dataset = spglib.get_symmetry_dataset(cell, symprec=symprec)
        except Exception:  # spglib raises its own errors, or returns None, depending on its version
            dataset = None
        good[row] = dataset is not None and dataset.number == number
    return good


def _first_of_each(found: Sequence[_Found], packed: PackedGenes) -> _Found:
    """Return the first success of each trial, by trial."""
    widest = packed.orbit.shape[1]
    trial = np.concatenate([np.zeros(0, dtype=np.int64), *(part.trial for part in found)])
    attempt = np.concatenate([np.zeros(0, dtype=np.int64), *(part.attempt for part in found)])
    order = np.lexsort((attempt, trial))
    first = order[np.r_[True, np.diff(trial[order]) > 0]] if len(order) else order
    lattice = np.concatenate([np.zeros((0, 3, 3)), *(part.lattice for part in found)])
    parameters = np.concatenate([np.zeros((0, widest, 3)), *(part.parameters for part in found)])
    return _Found(trial[first], attempt[first], lattice[first], parameters[first])


def _assemble(packed: PackedGenes, trials: Trials, found: _Found) -> BuiltCrystals:
    """Return the crystals in primitive cells."""
    gene = trials.gene[found.trial]
    primitive = tables().primitive[torch.from_numpy(packed.spacegroup[gene])]
    inverse = torch.linalg.inv(primitive)
    coords, numbers = [np.zeros((0, 3))], [np.zeros(0, dtype=np.int64)]
    for part in _chunks(packed.n_atoms[gene]):
        points, element = _atoms(
            packed, torch.from_numpy(gene[part]), torch.from_numpy(found.parameters[part])
        )
        there = element > 0
        inside = (points @ inverse[part])[there].numpy() % 1.0
        coords.append(np.where(inside > 1.0 - 1e-12, 0.0, inside))
        numbers.append(element[there].numpy())
    return BuiltCrystals(
        gene=gene,
        trial=trials.trial[found.trial],
        attempt=found.attempt,
        lattice=(primitive @ torch.from_numpy(found.lattice)).numpy(),
        n_atoms=packed.n_atoms[gene],
        numbers=np.concatenate(numbers),
        frac_coords=np.concatenate(coords),
    )


def build_crystals(
    genes: Sequence[WyckoffGene],
    n_trials: Sequence[int],
    model: LatticeModel,
    settings: BuildSettings,
    seed: int,
) -> list[list[Structure]]:
    """Build at most `n_trials[i]` crystals of each gene, as `build_arrays` does.

    Returns:
        Primitive cells by gene; each has
        `properties = {"gene": text, "spacegroup": number, "dof": free coordinates, "trial": number}`.

    Raises:
        GeneError: If no crystal can have one of the genes.
        OptionsError: If there are not as many numbers of trials as genes.
    """
    from pymatgen.core import Element, Lattice, Structure

    built = build_arrays(genes, n_trials, model, settings, seed)
    element = {int(z): Element.from_Z(int(z)) for z in np.unique(built.numbers)}
    found: list[list[Structure]] = [[] for _ in genes]
    ends = np.cumsum(built.n_atoms)
    for gene, trial, end, n_atoms, lattice in zip(
        built.gene.tolist(),
        built.trial.tolist(),
        ends.tolist(),
        built.n_atoms.tolist(),
        built.lattice,
        strict=True,
    ):
        part = slice(end - n_atoms, end)
        species = [element[z] for z in built.numbers[part].tolist()]
        properties = {
            "gene": genes[gene].text(),
            "spacegroup": genes[gene].spacegroup,
            "dof": genes[gene].dof,
            "trial": trial,
        }
        found[gene].append(
            Structure(Lattice(lattice), species, built.frac_coords[part], properties=properties)
        )
    return found
