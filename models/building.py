"""What one attempt at a crystal draws: its cell, and parameters of its orbits to try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from models.genes import WyckoffGene
from models.lattice_shapes import FREE, constrain, lattice_of, system_of
from models.lattices import LatticeModel
from models.placing import PackedGenes
from models.random_streams import Keys, child_keys, keys_of, normals, uniforms

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

N_LATTICE_NUMBERS = 8
"""Random numbers of one attempt that do not belong to an orbit: volume, which shape, five for its jitter, which
known crystal."""
MOST_SPREADS = 2.0
"""Volumes are drawn within this many standard deviations."""


class BuildSettings(BaseModel):
    """Options of building crystals from Wyckoff genes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_distance_factor: float = Field(
        default=0.7,
        ge=0.0,
        le=1.0,
        description="Two atoms are at least this times the sum of their covalent radii apart; half of PyXtal's factor.",
    )
    volume_factor: float = Field(
        default=1.0, gt=0.0, description="Volumes are the sum of atomic volumes times this."
    )
    volume_spread: float | None = Field(
        default=None,
        ge=0.0,
        description="Standard deviation of ln(volume); none takes that of the training crystals.",
    )
    volume_growth: float = Field(
        default=0.02,
        ge=0.0,
        le=1.0,
        description="Each attempt's cell is larger by this share than the one before.",
    )
    attempts: int = Field(default=63, ge=1, description="So often a trial is drawn before it is given up.")
    symmetric_attempts: int = Field(
        default=3,
        ge=1,
        description="A trial is given up after so many draws with more symmetry than its gene says.",
    )
    tries_per_orbit: int = Field(
        default=8, ge=1, description="Parameters tried for one orbit before the attempt fails."
    )
    shape_jitter: float = Field(
        default=0.05,
        ge=0.0,
        description="Standard deviation added to ln of axial ratios, and in radians to angles.",
    )
    known_parameters: float = Field(
        default=0.5,
        ge=0.0,
        le=1.0,
        description="Share of trials that start from a training crystal with the same occupied letters, if any.",
    )
    known_jitter: float = Field(
        default=0.01,
        ge=0.0,
        description="Standard deviation added to parameters of training crystals [fraction].",
    )
    verify: Literal["operations", "spglib", "off"] = Field(
        default="operations",
        description="How a crystal with more symmetry than its gene is found: by searching for operations outside "
        "the group (fast), by that and spglib, or not at all.",
    )
    symprec: float = Field(
        default=0.01, gt=0.0, description="Tolerance of spglib [Å] at which the space group is exact."
    )


@dataclass(frozen=True)
class Draws:
    """What is known of each gene before anything is drawn; S is the largest number of orbits."""

    settings: BuildSettings
    volume: Array
    """(n_genes,) of the conventional cell [Å³]."""
    spread: float
    single: npt.NDArray[np.bool_]
    """(n_genes,) whether there is no freedom but the volume."""
    shapes: Array
    """(n_shapes, 5), pools one after the other."""
    pool: Indices
    """(n_genes, 2) first shape of the gene's pool, and how many."""
    known: Indices
    """(n_genes, 2) first known crystal of the gene, and how many."""
    known_shapes: Array
    """(n_known, 5)."""
    known_packing: Array
    """(n_known,)."""
    known_parameters: Array
    """(n_known, S, 3), orbits in the gene's order."""


def prepare_draws(genes: Sequence[WyckoffGene], model: LatticeModel, settings: BuildSettings) -> Draws:
    """Look up everything that `draw` needs."""
    widest = max((gene.n_orbits for gene in genes), default=1)
    pools: dict[int, tuple[int, int]] = {}
    shapes: list[Array] = [np.zeros((0, 5))]
    for group in dict.fromkeys(gene.spacegroup for gene in genes):
        pool = model.shapes_for(group)
        pools[group] = (sum(map(len, shapes)), len(pool))
        shapes.append(pool)
    single = np.array(
        [not FREE[system_of(np.array(g.spacegroup))].any() and g.dof == 0 for g in genes], dtype=bool
    )
    known = np.zeros((len(genes), 2), dtype=np.int64)
    known_shapes: list[Array] = []
    known_packing: list[float] = []
    known_parameters: list[Array] = []
    for row, gene in enumerate(genes):
        alike = model.alike(gene) if settings.known_parameters > 0.0 and not single[row] else []
        known[row] = len(known_shapes), len(alike)
        for crystal, parameters in alike:
            known_shapes.append(crystal.shape)
            known_packing.append(crystal.log_packing)
            known_parameters.append(np.pad(parameters, ((0, widest - len(parameters)), (0, 0))))
    return Draws(
        settings=settings,
        volume=settings.volume_factor * np.array([model.volume(gene) for gene in genes]),
        spread=model.spread if settings.volume_spread is None else settings.volume_spread,
        single=single,
        shapes=np.concatenate(shapes),
        pool=np.array([pools[gene.spacegroup] for gene in genes], dtype=np.int64).reshape(-1, 2),
        known=known,
        known_shapes=np.array(known_shapes).reshape(-1, 5),
        known_packing=np.array(known_packing),
        known_parameters=np.array(known_parameters).reshape(-1, widest, 3),
    )


@dataclass(frozen=True)
class Trials:
    """One row for each trial of each gene."""

    gene: Indices
    """(n,)."""
    trial: Indices
    """(n,) from 0 for each gene."""
    key: Keys
    """(n,) of the random numbers."""
    known_rank: Indices
    """(n,) which known crystal the first attempt starts from, nearest chemistry first; -1 for none."""

    @classmethod
    def of(cls, genes: Sequence[WyckoffGene], n_trials: Sequence[int], draws: Draws, seed: int) -> Self:
        """Number the trials."""
        amount = np.maximum(np.asarray(n_trials, dtype=np.int64).reshape(-1), 0)
        amount = np.where(draws.single, np.minimum(amount, 1), amount)
        gene = np.repeat(np.arange(len(genes)), amount)
        trial = np.arange(len(gene)) - np.repeat(np.cumsum(amount) - amount, amount)
        share = draws.settings.known_parameters
        before, after = np.ceil(trial * share), np.ceil((trial + 1) * share)
        rank = np.where((after > before) & (draws.known[gene, 1] > 0), before, -1).astype(np.int64)
        keys = child_keys(keys_of([gene.text() for gene in genes], seed)[gene], trial)
        return cls(gene, trial, keys, rank)


def draw(
    packed: PackedGenes, draws: Draws, trials: Trials, rows: Indices, attempts: Indices
) -> tuple[Array, Array]:
    """Draw the cells of these attempts and parameters of their orbits to try.

    Args:
        packed: The genes.
        draws: What is known of them.
        trials: All trials.
        rows: (n,) which trials.
        attempts: (n,) number of the attempt, which makes the cell larger.

    Returns:
        Conventional lattices (n, 3, 3) [Å] and parameters (n, S, tries, 3) in the order of the gene's orbits.
    """
    settings, gene = draws.settings, trials.gene[rows]
    keys = child_keys(trials.key[rows], attempts)
    n_tries = settings.tries_per_orbit
    n_orbits = int(packed.n_orbits[gene].max(initial=1))
    random = uniforms(keys, N_LATTICE_NUMBERS + n_orbits * n_tries * 3)
    cell, orbits = random[:, :N_LATTICE_NUMBERS], random[:, N_LATTICE_NUMBERS:]
    orbits = orbits.reshape(len(rows), n_orbits, n_tries, 3)

    # Every third attempt of a trial that starts from known crystals does not, lest none of them will do; after the
    # first attempt any of the gene's may come.
    rank = trials.known_rank[rows]
    known = (rank >= 0) & (attempts % 3 != 2)
    first, amount = draws.known[gene].T
    amount = np.maximum(amount, 1)
    rank = np.where(attempts == 0, rank % amount, (cell[:, 7] * amount).astype(np.int64))
    source = (first + rank)[known]

    system = system_of(packed.spacegroup[gene])
    start, size = draws.pool[gene].T
    shape = draws.shapes[start + (cell[:, 1] * size).astype(np.int64)]
    shape[known] = draws.known_shapes[source]
    jitter = normals(cell[:, 2:7]) * settings.shape_jitter
    jitter[known] *= 0.3
    jitter[:, 2:] = np.degrees(jitter[:, 2:])
    shape = constrain(shape + jitter, system)

    limit = MOST_SPREADS * draws.spread
    log_volume = np.clip(normals(cell[:, 0]) * draws.spread, -limit, limit)
    log_volume[draws.single[gene]] = 0.0
    log_volume[known] = 0.3 * log_volume[known] + np.clip(draws.known_packing[source], -1.0, 1.0)
    volume = draws.volume[gene] * np.exp(log_volume) * (1.0 + settings.volume_growth) ** attempts

    if known.any():
        # Later tries of one orbit stray further.
        width = settings.known_jitter * (1.0 + 0.5 * np.arange(n_tries))[:, None]
        centre = draws.known_parameters[source][:, :n_orbits, None]
        orbits[known] = centre + width * normals(orbits[known])
    return lattice_of(shape, volume), orbits
