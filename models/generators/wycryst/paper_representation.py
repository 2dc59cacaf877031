"""The 224 x 3 array that WyCryst writes a ternary crystal in (Zhu et al., Matter 7, 3469 (2024), p. 3; public code).

One column for each element, in our order of slots; rows:

    0-102    one-hot atomic number, hydrogen to lawrencium
    103      atoms of the element in the conventional cell
    104      its share of the atoms
    105      0, not used
    106-197  CGCNN's features of the element
    198-223  orbits of the element on the letters a to z

The space group is a one-hot vector of 230 beside it. The 27th letter, A, which only Pmmm (47) has, has no row.
"""

from __future__ import annotations

import torch

from models.errors import TrainingDataError
from models.generators.wycryst.contract import GeneBatch
from models.networks.element_categories import N_CATEGORIES, element_categories
from models.symmetry import tables

N_COLUMNS = 3
"""Elements of a ternary."""
N_ONE_HOT = 103
ATOMS_ROW = 103
SHARE_ROW = 104
FEATURES = slice(106, 106 + N_CATEGORIES)
N_LETTERS = 26
LETTERS = slice(FEATURES.stop, FEATURES.stop + N_LETTERS)
N_ROWS = LETTERS.stop
"""224."""
N_GROUPS = 230
SMALLEST = 0.1
"""What a decoder writes below this counts as 0."""


def feature_table() -> torch.Tensor:
    """Return CGCNN's features (104, 92) float32 by atomic number."""
    return torch.from_numpy(element_categories()[: N_ONE_HOT + 1])


def multiplicity_table() -> torch.Tensor:
    """Return the multiplicities (231, 26) float32 in the conventional cell by number of the space group.

    Row 0 and letters that a group does not have are 0.
    """
    return tables().multiplicity[:, :N_LETTERS].to(torch.float32)


def representable(batch: GeneBatch) -> torch.Tensor:
    """Return (n_genes,) bool: three elements of up to 103, no orbit on the 27th letter.

    Genes that are not are to be left out of training, and counted.
    """
    elements = batch.elements
    ternary = (elements > 0).sum(dim=1) == N_COLUMNS
    listed = (elements <= N_ONE_HOT).all(dim=1)
    return ternary & listed & (batch.counts[:, :, N_LETTERS:] == 0).flatten(1).all(dim=1)


def require_representable(batch: GeneBatch) -> None:
    """Refuse genes that the array cannot hold.

    Raises:
        TrainingDataError: A gene has not three elements, an element beyond lawrencium or the letter A.
    """
    if batch.elements.shape[1] != N_COLUMNS:
        raise TrainingDataError(
            "the network as printed reads ternaries only",
            value=f"{batch.elements.shape[1]} slots",
            allowed=f"{N_COLUMNS} slots",
            cure="ask for 3 slots, or take the default network",
        )
    refused = ~representable(batch)
    if bool(refused.any()):
        first = int(torch.nonzero(refused)[0])
        raise TrainingDataError(
            f"{int(refused.sum())} of {len(batch)} genes do not fit into WyCryst's array",
            value=f"space group {int(batch.spacegroup[first])} with elements {batch.elements[first].tolist()}",
            allowed="three elements up to lawrencium, no orbit on the 27th letter (A, only in space group 47)",
            cure="leave them out with representable()",
        )


def represent(batch: GeneBatch, features: torch.Tensor, multiplicity: torch.Tensor) -> torch.Tensor:
    """Return the array (n_genes, 224, 3) float32.

    Args:
        batch: Genes that `representable` accepts.
        features: `feature_table()`, on the device of the batch.
        multiplicity: `multiplicity_table()`, on the device of the batch.
    """
    counts = batch.counts[:, :, :N_LETTERS].to(torch.float32)  # (n, 3, 26)
    atoms = torch.einsum("nkl,nl->nk", counts, multiplicity[batch.spacegroup])  # (n, 3)
    array = counts.new_zeros(len(batch), N_COLUMNS, N_ROWS)
    array.scatter_(2, batch.elements[:, :, None] - 1, 1.0)
    array[:, :, ATOMS_ROW] = atoms
    array[:, :, SHARE_ROW] = atoms / atoms.sum(dim=1, keepdim=True).clamp_min(1.0)
    array[:, :, FEATURES] = features[batch.elements]
    array[:, :, LETTERS] = counts
    return array.transpose(1, 2)


def read_elements(array: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """Return the atomic numbers (n_genes, 3) that a decoded array (n_genes, 224, 3) says.

    Args:
        array: What a decoder wrote.
        allowed: (104,) bool by atomic number; other elements are not looked at.

    Returns:
        The largest entry of each column, 0 where none reaches 0.1.
    """
    rows = array[:, :N_ONE_HOT, :].masked_fill(~allowed[1 : N_ONE_HOT + 1, None], 0.0)  # (n, 103, 3)
    largest, place = rows.max(dim=1)
    return torch.where(largest < SMALLEST, 0, place + 1)


def read_counts(array: torch.Tensor, n_letters: int) -> torch.Tensor:
    """Return the orbits (n_genes, 3, n_letters) int64 that a decoded array (n_genes, 224, 3) says.

    Entries below 0.1 are 0, the others are rounded (halves to even); letters without a row are 0. A letter that
    the space group does not have stays: what to do with such a gene is for the caller to say.
    """
    rows = array[:, LETTERS, :].transpose(1, 2)  # (n, 3, 26)
    rows = torch.round(torch.where(rows < SMALLEST, 0.0, rows)).to(torch.int64)
    return torch.nn.functional.pad(rows, (0, n_letters - N_LETTERS))
