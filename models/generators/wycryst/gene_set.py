"""The genes that an autoencoder has learnt from: as arrays, with their properties and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from models.data import LabelledStructure
from models.generators.wycryst.contract import N_ELEMENTS, GeneBatch
from models.genes import (
    RefinedCrystal,
    WyckoffGene,
    arrays_from_genes,
    atomic_number,
    genes_from_arrays,
    orbits_of,
)


@dataclass(frozen=True)
class GeneSet:
    """Genes of known crystals; several crystals may share one gene."""

    spacegroup: npt.NDArray[np.int64]
    """(n,)"""
    elements: npt.NDArray[np.int64]
    """(n, n_slots)"""
    counts: npt.NDArray[np.int64]
    """(n, n_slots, 27)"""
    values: npt.NDArray[np.float64]
    """(n, n_properties) in their own units, NaN where not known."""
    weights: npt.NDArray[np.float64]
    """(n,) in the reconstruction, and as seeds."""

    def __len__(self) -> int:
        return len(self.spacegroup)

    @cached_property
    def genes(self) -> list[WyckoffGene]:
        """The genes themselves, canonical as they were given."""
        return genes_from_arrays(self.spacegroup, self.elements, self.counts)

    @cached_property
    def texts(self) -> frozenset[str]:
        """The genes' texts."""
        return frozenset(gene.text() for gene in self.genes)

    def batch(
        self, centre: npt.NDArray[np.float64], spread: npt.NDArray[np.float64], device: torch.device
    ) -> GeneBatch:
        """Return the genes for a network, properties standardised by `centre` and `spread` (n_properties,)."""
        return GeneBatch(
            torch.from_numpy(self.spacegroup).to(device),
            torch.from_numpy(self.elements).to(device),
            torch.from_numpy(self.counts).to(device),
            torch.from_numpy((self.values - centre) / spread).float().to(device),
            torch.from_numpy(self.weights).float().to(device),
        )

    def joined(self, other: GeneSet) -> GeneSet:
        """Return both sets, this one's genes first."""
        return GeneSet(
            np.concatenate([self.spacegroup, other.spacegroup]),
            np.concatenate([self.elements, other.elements]),
            np.concatenate([self.counts, other.counts]),
            np.concatenate([self.values, other.values]),
            np.concatenate([self.weights, other.weights]),
        )

    def part(self, chosen: npt.NDArray[np.int64]) -> GeneSet:
        """Return the genes at some places."""
        return GeneSet(
            self.spacegroup[chosen],
            self.elements[chosen],
            self.counts[chosen],
            self.values[chosen],
            self.weights[chosen],
        )

    def weighted(self, weights: npt.NDArray[np.float64]) -> GeneSet:
        """Return the same genes with other weights (n,)."""
        return replace(self, weights=weights)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return it for a checkpoint, counts as bytes."""
        return {
            "spacegroup": torch.from_numpy(self.spacegroup),
            "elements": torch.from_numpy(self.elements),
            "counts": torch.from_numpy(self.counts).to(torch.uint8),
            "values": torch.from_numpy(self.values),
            "weights": torch.from_numpy(self.weights),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> GeneSet:
        """Read what `tensors` gave."""
        arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        counts = arrays.pop("counts").astype(np.int64)
        return cls(counts=counts, **arrays)


@dataclass(frozen=True)
class Reading:
    """What became of crystals that were to be learnt."""

    genes: GeneSet
    crystals: list[RefinedCrystal]
    """The crystals of `genes`, in their order."""
    rows: list[int]
    """Place of each among the crystals given."""
    left_out: dict[str, int]
    """Why the others were left out, and how many."""


def read_genes(
    labelled: Sequence[LabelledStructure],
    properties: Sequence[str],
    *,
    n_slots: int,
    max_count: int,
    symprec: float,
    exactly: bool = False,
) -> Reading:
    """Return the canonical genes of crystals.

    Args:
        labelled: The crystals.
        properties: Names of the values to keep.
        n_slots: Most elements.
        max_count: Most orbits of one element on one letter.
        symprec: Tolerance of space groups [Å].
        exactly: Whether every gene must have exactly `n_slots` elements.
    """
    left_out: dict[str, int] = {}
    crystals: list[RefinedCrystal] = []
    rows: list[int] = []
    for row, item in enumerate(labelled):
        n_elements = len(item.structure.composition.elements)
        crystal = orbits_of(item.structure, symprec) if n_elements <= n_slots else None
        reason = _unfit(crystal, n_elements, n_slots, max_count, exactly)
        if crystal is None or reason is not None:
            left_out[reason or "no symmetry found"] = left_out.get(reason or "no symmetry found", 0) + 1
            continue
        crystals.append(crystal)
        rows.append(row)
    spacegroup, elements, counts = arrays_from_genes([crystal.gene for crystal in crystals], n_slots)
    values = [[_number(labelled[row].known(name)) for name in properties] for row in rows]
    genes = GeneSet(
        spacegroup,
        elements,
        counts,
        np.array(values, dtype=np.float64).reshape(len(rows), len(properties)),
        np.ones(len(rows)),
    )
    return Reading(genes, crystals, rows, left_out)


def _unfit(
    crystal: RefinedCrystal | None, n_elements: int, n_slots: int, max_count: int, exactly: bool
) -> str | None:
    if n_elements > n_slots or (exactly and n_elements < n_slots):
        return "another number of elements"
    if crystal is None:
        return "no symmetry found"
    if any(atomic_number(symbol) >= N_ELEMENTS for symbol in crystal.gene.elements):
        return "element too heavy"
    orbits = list(crystal.gene.orbits)
    if max(orbits.count(orbit) for orbit in set(orbits)) > max_count:
        return "too many orbits on one letter"
    return None


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
