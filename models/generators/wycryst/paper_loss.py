"""The terms of WyCryst's loss (Zhu et al., Matter 7, 3469 (2024), eqs. 1 to 4; weights of the public code).

    L = 1/64 Σ (X - X')²  +  4 KL  +  32 Σ (y - y')²  +  1/6 Σ CE(S, S')  +  formula  +  L2

All but the KL term are sums over the batch and were balanced for batches of 256; the KL term is a mean over the batch.

The formula term is what the paper calls the Wyckoff loss: letters and space group that the decoder writes have to
give the atoms of the formula. As published it trains nothing: argmax and rounding have no gradient, and the table of
multiplicities, whose first row is a dummy, is read one row too early. `inert_formula_error` is that, to be watched;
`soft_formula_error` has gradients, the right row, and is relative to the number of atoms.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from models.generators.wycryst.paper_representation import ATOMS_ROW, LETTERS


def kl_divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Return the divergence from the standard normal distribution [nats per latent dimension], mean over genes."""
    each = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)  # (n, latent_size)
    return each.mean()


def soft_formula_error(
    probabilities: torch.Tensor, written: torch.Tensor, truth: torch.Tensor, multiplicity: torch.Tensor
) -> torch.Tensor:
    """Return Σ_k ((n'_k - n_k) / N)² for each gene, (n,): n' are the atoms that the decoder writes.

    Args:
        probabilities: (n, 230) of the space groups.
        written: (n, 224, 3), what the decoder wrote; its letters are cut at 0 and not rounded.
        truth: (n, 224, 3), what it should have written; n_k is its row of atoms, N their sum.
        multiplicity: (231, 26) by number of the space group.
    """
    expected = probabilities @ multiplicity[1:]  # (n, 26) atoms for an orbit on each letter
    letters = functional.relu(written[:, LETTERS, :])  # (n, 26, 3)
    found = torch.einsum("nl,nlk->nk", expected, letters)
    atoms = truth[:, ATOMS_ROW, :]  # (n, 3)
    relative = (found - atoms) / atoms.sum(dim=1, keepdim=True).clamp_min(1.0)
    return relative.square().sum(dim=1)


@torch.no_grad()
def inert_formula_error(
    probabilities: torch.Tensor, written: torch.Tensor, truth: torch.Tensor, multiplicity: torch.Tensor
) -> torch.Tensor:
    """Return Σ_k (n'_k - n_k)² for each gene, (n,), as the public code computes it: a number without gradient.

    The most likely space group counts from 0 and so takes the row of the group before it; group 1 takes a row of 0.
    Arguments as for `soft_formula_error`.
    """
    early = multiplicity[probabilities.argmax(dim=1)]  # (n, 26)
    letters = torch.round(written[:, LETTERS, :])  # (n, 26, 3)
    found = torch.einsum("nl,nlk->nk", early, letters)
    return (found - truth[:, ATOMS_ROW, :]).square().sum(dim=1)


def known_square_error(predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the sum of squared errors of (n, n_properties) over the targets that are not NaN."""
    known = torch.isfinite(targets)
    return torch.where(known, predicted - torch.nan_to_num(targets), 0.0).square().sum()
