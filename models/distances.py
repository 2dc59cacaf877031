"""Shortest distances in periodic crystals, for thousands of cells at once.

Rows are lattice vectors: cart = frac @ lattice. In a Minkowski-reduced cell with the coordinates of a displacement
folded into [-1/2, 1/2], its shortest image has coefficients in {-1, 0, 1}; so 27 images are exact for any distance.
Images n and -n have the same length, and so 13 products tell them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from torch import Tensor

MAX_ROUNDS = 200
"""Rounds of the reduction; cells of real crystals need fewer than ten."""


@dataclass(frozen=True)
class ReducedCells:
    """Minkowski-reduced primitive cells, and how to get into their coordinates."""

    lattice: Tensor
    """(n, 3, 3) [Å]."""
    metric: Tensor
    """(n, 3, 3) [Å²]: length² = frac · metric · frac."""
    from_conventional: Tensor
    """(n, 3, 3): reduced fractions = conventional fractions @ this."""

    @classmethod
    def of(cls, conventional: Tensor, primitive: Tensor) -> Self:
        """Return the reduced cells.

        Args:
            conventional: (n, 3, 3) [Å].
            primitive: (n, 3, 3) primitive vectors in conventional units, see `models.symmetry`.
        """
        lattice = reduce_lattices(primitive @ conventional)
        return cls(lattice, lattice @ lattice.transpose(1, 2), conventional @ torch.linalg.inv(lattice))

    def __getitem__(self, rows: Tensor) -> Self:
        return type(self)(self.lattice[rows], self.metric[rows], self.from_conventional[rows])


@lru_cache(maxsize=1)
def covalent_radii() -> Tensor:
    """Return covalent radii (119,) float64 [Å] by atomic number: Cordero et al., Dalton Trans. 2008, 2832.

    2.0 Å for elements that the paper leaves out, as `ase.data` has them, and 0 in row 0.
    """
    from ase.data import covalent_radii as table

    radii = torch.zeros(119, dtype=torch.float64)
    radii[1:] = torch.from_numpy(np.asarray(table[1:119], dtype=np.float64).copy())
    missing = radii < 0.21  # ase writes 0.2 where nothing is known
    missing[0] = False
    radii[missing] = 2.0
    return radii


@lru_cache(maxsize=1)
def _half_images() -> Tensor:
    """One of each pair n, -n of the images around a cell, (3, 13) float64."""
    grid = torch.cartesian_prod(*[torch.arange(-1, 2)] * 3).to(torch.float64)
    return grid[14:].T.contiguous()


def reduce_lattices(lattice: Tensor) -> Tensor:
    """Return Minkowski-reduced cells of the same lattices, rows by rising length.

    Semaev's algorithm ("A 3-dimensional lattice reduction algorithm", 2001): reduce the two shorter vectors as
    Gauss does, then take from the third its nearest combination of them, until nothing gets shorter.

    Args:
        lattice: (n, 3, 3) [Å].

    Returns:
        (n, 3, 3) [Å].
    """
    found = lattice.clone()
    active = torch.arange(len(found))
    for _ in range(MAX_ROUNDS):
        if len(active) == 0:
            break
        cells = found[active]  # (m, 3, 3)
        before = cells.square().sum(-1).sum(-1)
        cells = _shorten_third(_shorten_second(_by_length(cells)))
        found[active] = _by_length(cells)
        active = active[cells.square().sum(-1).sum(-1) < before * (1.0 - 1e-10)]
    return found


def _by_length(cells: Tensor) -> Tensor:
    order = cells.square().sum(-1).argsort(dim=1, stable=True)
    return cells.gather(1, order[:, :, None].expand(-1, -1, 3))


def _shorten_second(cells: Tensor) -> Tensor:
    a, b = cells[:, 0], cells[:, 1]
    times = torch.round((a * b).sum(-1) / a.square().sum(-1))
    return torch.stack([a, b - times[:, None] * a, cells[:, 2]], dim=1)


def _shorten_third(cells: Tensor) -> Tensor:
    """Take from c the combination of a and b that is nearest to it: of nine around the projection, the best."""
    a, b, c = cells.unbind(1)
    aa, bb, ab = a.square().sum(-1), b.square().sum(-1), (a * b).sum(-1)
    ac, bc = (a * c).sum(-1), (b * c).sum(-1)
    det = aa * bb - ab * ab
    x = torch.round((bb * ac - ab * bc) / det)
    y = torch.round((aa * bc - ab * ac) / det)
    steps = torch.cartesian_prod(*[torch.arange(-1, 2)] * 2).to(cells)  # (9, 2)
    tries = c[:, None] - (x[:, None] + steps[:, 0])[..., None] * a[:, None]
    tries = tries - (y[:, None] + steps[:, 1])[..., None] * b[:, None]  # (m, 9, 3)
    best = tries.square().sum(-1).argmin(dim=1)
    return torch.stack([a, b, tries[torch.arange(len(tries)), best]], dim=1)


def dot(first: Tensor, second: Tensor) -> Tensor:
    """Return the products of vectors (..., 3), summed: several times faster than `.sum(-1)` over three numbers."""
    return (first * second) @ torch.ones(3, dtype=first.dtype)


def shortest_squared(displacement: Tensor, metric: Tensor) -> Tensor:
    """Return the squared length [Å²] of the shortest image of each displacement.

    Args:
        displacement: (n, p, 3), fractions of a Minkowski-reduced cell; any multiple of the lattice vectors may
            be in it.
        metric: (n, 3, 3) of the reduced cells.

    Returns:
        (n, p); 0 where the displacement is a lattice vector.
    """
    images = _half_images()
    folded = displacement - torch.round(displacement)
    raised = folded @ metric  # (n, p, 3)
    own = dot(folded, raised)
    lengths = torch.einsum("ki,nkl,li->ni", images, metric, images)  # (n, 13): |n|²
    # |d + n|² = |d|² + 2 n·G·d + |n|², and the better of n and -n has the product negative.
    gain = (raised @ (images * -2.0)).abs_().neg_().add_(lengths[:, None, :])  # (n, p, 13)
    return (own + gain.amin(-1).clamp_(max=0.0)).clamp_(min=0.0)
