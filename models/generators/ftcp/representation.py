"""Crystals as FTCP arrays and back: Ren et al., Matter 5, 314 (2022), vectorised over a batch.

Rows of the array of one crystal, for at most S sites (counts in brackets):

    one-hot elements, H to Lr [103] | lengths a, b, c | angles | fractional coordinates [S] |
    which element sits on a site [S] | |g| of a k-point | element features [92] | zeros [2 or more]

Columns: one per element (at least three), which hold the real space, then 59 k-points, which hold |g| and

    F_hkl = Σ_j Z_j cos 2π(h x_j + k y_j + l z_j)        Z_j: the 92 features of atom j's element

and are zero above. With its default of 3 elements and 20 sites the array is (240, 62).

**The transform.** The paper writes a discrete Fourier transform Σ_j Z_j exp(2πi h·x_j); the network is real,
so one real number per k-point goes in. This is its real part, the cosine. The public code has neither cosine
nor exponential in that place: it sums Z_j (π h·x_j), which changes when an atom moves to the next cell. Since
h and -h are both among the k-points, the cosine columns come in equal pairs; that redundancy is the paper's.

**Fewer elements** than columns: the columns that are over stay zero in all rows, so a binary crystal has an
empty third element, and no site sits on it.

Differences from the paper: elements stand in the order of electronegativity and sites in the order of their
elements, where the paper takes the order of the CIF; coordinates just below one count as zero.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from models.crystal import MIN_VOLUME_PER_ATOM_ANG3
from models.networks.element_categories import N_CATEGORIES, element_categories

if TYPE_CHECKING:
    from pymatgen.core import Structure

N_ELEMENTS = 103
"""Rows of the one-hot block: hydrogen to lawrencium."""

N_KPOINTS = 59
RADII_PER_ANG = (1.297, 1.4)
"""K-points lie within the first radius [1/Å, without 2π], or the second if there are fewer than 59 in it."""

MAX_ORDER = 6
"""K-points with |h| + |k| + |l| up to this are looked at."""

EMPTY_BELOW = 0.05
"""A site none of whose occupation rows reaches this is empty."""

SMALL_BELOW = 0.1
"""When reconstructions are judged, smaller entries count as zero."""

NEXT_CELL = 1e-4
"""Fractional coordinates that miss one by less than this are zero."""


@dataclass(frozen=True)
class Layout:
    """Where things are in the array of one crystal."""

    max_elements: int
    """Element columns in use."""
    max_sites: int
    """Sites at most."""

    @property
    def lengths(self) -> int:
        """Row of a, b, c; the angles follow."""
        return N_ELEMENTS

    @property
    def coords(self) -> slice:
        """Rows of the fractional coordinates."""
        return slice(N_ELEMENTS + 2, N_ELEMENTS + 2 + self.max_sites)

    @property
    def occupation(self) -> slice:
        """Rows that say which element sits on each site."""
        return slice(self.coords.stop, self.coords.stop + self.max_sites)

    @property
    def features(self) -> slice:
        """Rows of the element features; the row before holds |g|."""
        return slice(self.occupation.stop + 1, self.occupation.stop + 1 + N_CATEGORIES)

    @property
    def n_rows(self) -> int:
        """Rows with at least two of zeros at the end, a multiple of four for the two strides of two."""
        return self.features.stop + 2 + -(self.features.stop + 2) % 4

    @property
    def n_real(self) -> int:
        """Columns of the real space; lengths, angles and coordinates need three."""
        return max(self.max_elements, 3)

    @property
    def n_columns(self) -> int:
        """All columns."""
        return self.n_real + N_KPOINTS


@dataclass(frozen=True)
class Cells:
    """Crystals as tensors of one size, with room for `max_elements` elements and `max_sites` sites."""

    elements: torch.Tensor
    """(n_crystals, max_elements) int64 atomic numbers, 0 for an empty column."""
    columns: torch.Tensor
    """(n_crystals, max_sites) int64, which of `elements` sits on a site; -1 for an empty site."""
    frac_coords: torch.Tensor
    """(n_crystals, max_sites, 3) float32."""
    lengths: torch.Tensor
    """(n_crystals, 3) float32 a, b, c [Å]."""
    angles: torch.Tensor
    """(n_crystals, 3) float32 alpha, beta, gamma [degrees]."""

    def __len__(self) -> int:
        return len(self.elements)

    @property
    def n_sites(self) -> torch.Tensor:
        """(n_crystals,) occupied sites."""
        return (self.columns >= 0).sum(dim=1)

    @property
    def counts(self) -> torch.Tensor:
        """(n_crystals, max_elements) sites of each element."""
        places = torch.arange(self.elements.shape[1], device=self.columns.device)
        return (self.columns[:, :, None] == places).sum(dim=1)

    def part(self, chosen: torch.Tensor) -> Cells:
        """Return the crystals at the places `chosen`, or where it is true."""
        return Cells(**{name: tensor[chosen] for name, tensor in self.tensors().items()})

    def to(self, device: torch.device) -> Cells:
        """Return the crystals on another device."""
        return Cells(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def joined(parts: Sequence[Cells]) -> Cells:
        """Return all crystals of `parts`, at least one, in order."""
        names = parts[0].tensors()
        return Cells(**{name: torch.cat([part.tensors()[name] for part in parts]) for name in names})


def read_cells(structures: Sequence[Structure], layout: Layout) -> tuple[Cells, npt.NDArray[np.int64]]:
    """Read the crystals that fit: ordered, finite, not collapsed, with few enough elements and sites.

    Returns:
        The crystals, in their cells as given, and their places in `structures` (n_crystals,).
    """
    rank = electronegativity_rank()
    rows = []
    for place, structure in enumerate(structures):
        if not _fits(structure, layout):
            continue
        numbers = np.array(structure.atomic_numbers)
        order = np.argsort(rank[numbers], kind="stable")
        elements = sorted(set(numbers.tolist()), key=lambda z: int(rank[z]))
        columns = [elements.index(z) for z in numbers[order].tolist()]
        frac = np.asarray(structure.frac_coords)[order]
        rows.append((place, elements, columns, frac, structure.lattice.abc, structure.lattice.angles))
    n = len(rows)
    elements_all = np.zeros((n, layout.max_elements), dtype=np.int64)
    columns_all = np.full((n, layout.max_sites), -1, dtype=np.int64)
    frac_all = np.zeros((n, layout.max_sites, 3))
    for i, (_, elements, columns, frac, _, _) in enumerate(rows):
        elements_all[i, : len(elements)] = elements
        columns_all[i, : len(columns)] = columns
        frac_all[i, : len(columns)] = np.maximum(frac - np.floor(frac + NEXT_CELL), 0.0)
    cells = Cells(
        elements=torch.from_numpy(elements_all),
        columns=torch.from_numpy(columns_all),
        frac_coords=torch.from_numpy(frac_all).float(),
        lengths=torch.tensor([row[4] for row in rows], dtype=torch.float32).reshape(n, 3),
        angles=torch.tensor([row[5] for row in rows], dtype=torch.float32).reshape(n, 3),
    )
    return cells, np.array([row[0] for row in rows], dtype=np.int64)


def represent(cells: Cells, layout: Layout, table: torch.Tensor) -> torch.Tensor:
    """Return the arrays (n_crystals, n_rows, n_columns) float32 of crystals, not yet scaled.

    Args:
        cells: The crystals.
        layout: Where things go.
        table: (104, 92) features of the elements, see `element_features`; row 0 is not used.
    """
    device = cells.elements.device
    n, n_elements = cells.elements.shape
    array = torch.zeros((n, layout.n_rows, layout.n_columns), device=device)
    present = cells.elements > 0  # (n, max_elements)
    one_hot = torch.nn.functional.one_hot(cells.elements, N_ELEMENTS + 1)[..., 1:]  # (n, max_elements, 103)
    features = table[cells.elements] * present[..., None]  # (n, max_elements, 92)
    sits = torch.nn.functional.one_hot(cells.columns + 1, n_elements + 1)[
        ..., 1:
    ].float()  # (n, S, max_elements)
    array[:, :N_ELEMENTS, :n_elements] = one_hot.transpose(1, 2).float()
    array[:, layout.lengths, :3] = cells.lengths
    array[:, layout.lengths + 1, :3] = cells.angles
    array[:, layout.coords, :3] = cells.frac_coords * (cells.columns >= 0)[..., None]
    array[:, layout.occupation, :n_elements] = sits
    array[:, layout.features, :n_elements] = features.transpose(1, 2)
    hkl, norms = k_points(cells.lengths, cells.angles)  # (n, 59, 3), (n, 59)
    phases = torch.cos(2.0 * torch.pi * cells.frac_coords @ hkl.transpose(1, 2))  # (n, S, 59)
    per_element = sits.transpose(1, 2) @ phases  # (n, max_elements, 59)
    array[:, layout.features.start - 1, layout.n_real :] = norms
    array[:, layout.features, layout.n_real :] = features.transpose(1, 2) @ per_element
    return array


def k_points(lengths: torch.Tensor, angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the 59 k-points of each cell: hkl (n, 59, 3) and |g| (n, 59) [1/Å, without 2π].

    Points within a radius without the origin, ordered by |h| + |k| + |l| and then by falling h, k, l: what the
    public code of Ren et al. takes. Cells too small to have 59 get the next ones in that order.
    """
    hkl = _candidate_points().to(lengths.device)  # (n_candidates, 3) float64
    reciprocal = torch.linalg.inv(metric(lengths.double(), angles.double()))  # (n, 3, 3)
    norms = torch.einsum("ki,nij,kj->nk", hkl, reciprocal, hkl).clamp(min=0.0).sqrt()  # (n, n_candidates)
    inside = norms < RADII_PER_ANG[0]
    few = inside.sum(dim=1, keepdim=True) < N_KPOINTS
    inside = torch.where(few, norms < RADII_PER_ANG[1], inside)
    chosen = torch.argsort((~inside).to(torch.int8), dim=1, stable=True)[:, :N_KPOINTS]
    return hkl[chosen].float(), norms.gather(1, chosen).float()


def metric(lengths: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Return the metric tensors (n, 3, 3) [Å²] of cells with lengths [Å] and angles [degrees], (n, 3) each."""
    cosines = torch.cos(torch.deg2rad(angles))
    one = torch.ones_like(cosines[:, 0])
    alpha, beta, gamma = cosines.unbind(dim=1)
    rows = [torch.stack(row, dim=1) for row in ((one, gamma, beta), (gamma, one, alpha), (beta, alpha, one))]
    return torch.stack(rows, dim=1) * lengths[:, :, None] * lengths[:, None, :]


def decode(array: torch.Tensor, layout: Layout, allowed: torch.Tensor | None = None) -> Cells:
    """Read crystals off arrays (n_crystals, n_rows, n_columns) that are no longer scaled.

    A site takes the column with the largest occupation and is empty where that is below `EMPTY_BELOW`; a
    column takes the largest of the `allowed` (104,) elements and none where no site sits on it.
    """
    occupation = array[:, layout.occupation, : layout.max_elements]  # (n, S, max_elements)
    highest, columns = occupation.max(dim=2)
    columns = torch.where(highest >= EMPTY_BELOW, columns, -1)
    cells = Cells(
        elements=decode_elements(array, layout, allowed),
        columns=columns,
        frac_coords=array[:, layout.coords, :3],
        lengths=array[:, layout.lengths, :3],
        angles=array[:, layout.lengths + 1, :3],
    )
    return replace(cells, elements=torch.where(cells.counts > 0, cells.elements, 0))


def decode_elements(array: torch.Tensor, layout: Layout, allowed: torch.Tensor | None = None) -> torch.Tensor:
    """Return the likeliest atomic number (n_crystals, max_elements) of each column, used or not."""
    scores = array[:, :N_ELEMENTS, : layout.max_elements]  # (n, 103, max_elements)
    if allowed is not None:
        scores = scores.masked_fill(~allowed[1 : N_ELEMENTS + 1, None].to(array.device), -torch.inf)
    return scores.argmax(dim=1) + 1


def possible(cells: Cells) -> torch.Tensor:
    """Say which cells (n_crystals,) are crystals: finite, with atoms, of more than 1 Å³ per atom."""
    volume = torch.linalg.det(metric(cells.lengths.double(), cells.angles.double())).clamp(min=0.0).sqrt()
    finite = torch.isfinite(cells.frac_coords).all(dim=2).all(dim=1) & torch.isfinite(volume)
    angles = ((cells.angles > 0.0) & (cells.angles < 180.0)).all(dim=1)
    sane = finite & angles & (cells.lengths > 0.0).all(dim=1) & (cells.n_sites > 0)
    # A little more than the limit, so that rounding on the way to a structure cannot cross it.
    return sane & (volume > 1.001 * MIN_VOLUME_PER_ATOM_ANG3 * cells.n_sites)


def to_structure(cells: Cells, place: int) -> Structure:
    """Return one crystal that is `possible`, in its own cell without symmetry."""
    from pymatgen.core import Element, Lattice, Structure

    occupied = cells.columns[place] >= 0
    numbers = cells.elements[place][cells.columns[place][occupied]]
    return Structure(
        Lattice.from_parameters(*cells.lengths[place].tolist(), *cells.angles[place].tolist()),
        [Element.from_Z(z) for z in numbers.tolist()],
        cells.frac_coords[place][occupied].double().numpy(),
        to_unit_cell=True,
    )


@functools.cache
def electronegativity_rank() -> npt.NDArray[np.int64]:
    """Return (119,) places of the elements by Pauling electronegativity; those without one come last."""
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns for each element without a value
        values = [float(Element.from_Z(z).X) for z in range(1, 119)]
    keys = [(value if np.isfinite(value) else np.inf, z) for z, value in enumerate(values, start=1)]
    rank = np.zeros(119, dtype=np.int64)
    for place, (_, z) in enumerate(sorted(keys)):
        rank[z] = place
    return rank


def element_features() -> torch.Tensor:
    """Return (104, 92) float32 features by atomic number; row 0 is unused."""
    return torch.from_numpy(element_categories()[: N_ELEMENTS + 1])


@functools.cache
def _candidate_points() -> torch.Tensor:
    """Return (n, 3) float64 hkl by |h| + |k| + |l|, then falling h, k and l; without the origin."""
    reach = range(-MAX_ORDER, MAX_ORDER + 1)
    found = [hkl for hkl in product(reach, repeat=3) if 0 < sum(map(abs, hkl)) <= MAX_ORDER]
    found.sort(key=lambda hkl: (sum(map(abs, hkl)), -hkl[0], -hkl[1], -hkl[2]))
    return torch.tensor(found, dtype=torch.float64)


def _fits(structure: Structure, layout: Layout) -> bool:
    if not (0 < len(structure) <= layout.max_sites and structure.is_ordered):
        return False
    numbers = [int(getattr(site.specie, "Z", 0)) for site in structure]
    matrix = np.asarray(structure.lattice.matrix)
    return (
        len(set(numbers)) <= layout.max_elements
        and all(1 <= z <= N_ELEMENTS for z in numbers)
        and bool(np.isfinite(matrix).all() and np.isfinite(structure.frac_coords).all())
        and abs(float(np.linalg.det(matrix))) > MIN_VOLUME_PER_ATOM_ANG3 * len(structure)
    )
