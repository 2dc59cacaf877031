"""How likely one element stands in for another: data-mined ionic substitution.

pymatgen ships the weights lambda of Hautier's model, fitted on pairs of isostructural ionic compounds in the
ICSD: `p(a, b) ~ exp(lambda(a, b))` for two ions a, b found on the same sites. Wanted here is
`p(source ion | wanted ion)`: given the elements that a campaign may use, which known crystal is a likely
analogue. Where oxidation states can be guessed for the source crystal, its ions are compared with the ions of
the same charge of the wanted element, so a substitution keeps the charge balance.

The table knows 90 elements, but few anions (no silicides, phosphides, tellurides) and no metals. Where a
crystal has no charge-neutral assignment of the table's ions, elements are compared instead: the table summed
over the charges of both.

Source: G. Hautier et al., Inorganic Chemistry 50, 656 (2011).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

N_ELEMENTS = 104
"""Rows and columns by atomic number; 0 is not used."""

UNSEEN_LOG = float(np.log(1e-7))
"""Log probability of a substitution about which the table says nothing: below any that it holds."""

SIMILARITY_LENGTH = 8.0
"""Along Pettifor's order of elements, this many places make an unseen substitution e times less likely."""


@dataclass(frozen=True)
class IonicTable:
    """The substitution table, unrolled into arrays.

    A row is what is replaced: ions come first (`ions`), then elements by atomic number. A column is the
    element that replaces, by atomic number.
    """

    ions: tuple[tuple[int, int], ...]
    """(atomic number, charge) of the first rows."""
    log_p: np.ndarray
    """(n_ions + 104, 104): log p(replaced | replacing)."""
    frequency: np.ndarray
    """(n_ions,): how often each ion takes part in substitutions at all."""

    def rows(self, numbers: Sequence[int], amounts: Sequence[int]) -> list[int]:
        """Return a row of `log_p` per element of a formula.

        Args:
            numbers: Atomic numbers of the formula's elements.
            amounts: How many of each, whole numbers.
        """
        ions = self.guess_ions(tuple(numbers), tuple(amounts))
        if ions is None:
            return [len(self.ions) + number for number in numbers]
        return list(ions)

    def guess_ions(self, numbers: tuple[int, ...], amounts: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the most frequent charge-neutral set of ions, one per element, or None.

        Crystals of one element, of mixed valence and metallic ones have none.
        """
        choices = [self._ions_of(number) for number in numbers]
        if len(numbers) < 2 or not all(choices) or np.prod([len(c) for c in choices]) > 1_000_000:
            return None
        charges, scores = np.zeros(()), np.zeros(())  # one axis per element, one entry per combination
        for rows, amount in zip(choices, amounts, strict=True):
            charges = np.add.outer(charges, np.array([self.ions[row][1] * amount for row in rows]))
            scores = np.add.outer(scores, np.log(self.frequency[rows]))
        if not (charges == 0).any():
            return None
        best = np.unravel_index(np.where(charges == 0, scores, -np.inf).argmax(), charges.shape)
        return tuple(rows[place] for rows, place in zip(choices, best, strict=True))

    def _ions_of(self, number: int) -> list[int]:
        return [row for row, (element, _) in enumerate(self.ions) if element == number]


@functools.cache
def ionic_table() -> IonicTable:
    """Read pymatgen's table once per process (0.1 s)."""
    from pymatgen.analysis.structure_prediction.substitution_probability import SubstitutionProbability

    model = SubstitutionProbability()
    species = sorted(model.species, key=lambda ion: (ion.Z, ion.oxi_state))
    ions = tuple((ion.Z, int(ion.oxi_state)) for ion in species)
    upper = np.zeros((len(ions), len(ions)))
    for row, first in enumerate(species):
        upper[row, row:] = [model.get_lambda(first, second) for second in species[row:]]
    weights = np.exp(upper + np.triu(upper, 1).T)  # (n_ions, n_ions), symmetric
    seen = weights > 1.001 * np.exp(model.alpha)
    frequency = weights.sum(axis=1)
    log_p = np.full((len(ions) + N_ELEMENTS, N_ELEMENTS), UNSEEN_LOG)
    for row, (_, charge) in enumerate(ions):
        for column, (number, other_charge) in enumerate(ions):
            if charge == other_charge:
                log_p[row, number] = np.log(weights[row, column] / frequency[column])
    log_p[len(ions) :] = _element_level(ions, np.where(seen, weights, 0.0))
    return IonicTable(ions, np.maximum(log_p, UNSEEN_LOG), frequency)


def _element_level(ions: tuple[tuple[int, int], ...], weights: np.ndarray) -> np.ndarray:
    """Sum the table over charges: (104, 104) log p(replaced element | replacing element)."""
    from pymatgen.core import Element

    numbers = np.array([number for number, _ in ions])
    member = np.zeros((len(ions), N_ELEMENTS))
    member[np.arange(len(ions)), numbers] = 1.0
    pairs = member.T @ weights @ member  # (104, 104)
    # Nothing is more like an element than itself.
    np.fill_diagonal(pairs, np.maximum(pairs.diagonal(), pairs.max(axis=0)))
    p = pairs / np.maximum(pairs.sum(axis=0), 1e-12)  # columns sum to 1, or to 0 where the table is silent
    places = np.array([0.0] + [float(Element.from_Z(z).mendeleev_no) for z in range(1, N_ELEMENTS)])
    likeness = np.exp(-np.abs(places[:, None] - places[None, :]) / SIMILARITY_LENGTH)
    likeness[0, :] = likeness[:, 0] = 0.0
    # Where the table is silent, neighbours in Pettifor's order are still likelier than strangers.
    p = p + 1e-3 * likeness
    return np.log(np.maximum(p / np.maximum(p.sum(axis=0), 1e-12), 1e-12))
