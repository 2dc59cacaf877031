"""From a fitted autoencoder to new genes: where to look, what to throw away, what to take first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.data import Conditions
from models.errors import OptionsError
from models.generators.wycryst.conditional_prior import presence
from models.generators.wycryst.config import SamplingOptions
from models.generators.wycryst.contract import N_ELEMENTS, Allowed, DecodedGenes
from models.generators.wycryst.gene_set import GeneSet
from models.genes import (
    WyckoffGene,
    arrays_from_genes,
    atomic_number,
    canonical,
    feasible,
    genes_from_arrays,
)
from models.symmetry import tables

DRAWS_AT_ONCE = 1000
"""Latent vectors that are decoded together."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FittedGenes:
    """All that sampling needs of a fitted model."""

    network: Any
    """A `GeneAutoencoder`, in evaluation mode."""
    known: GeneSet
    """What it has learnt from."""
    properties: tuple[str, ...]
    centre: Array
    """(n_properties,) of the values."""
    spread: Array
    """(n_properties,) of the values."""
    device: torch.device
    fewest_elements: int = 1
    """Fewest elements of a gene that the network can write."""

    @torch.no_grad()
    def predict(self, genes: GeneSet) -> Array:
        """Return the property branch's values (n, n_properties), in their own units."""
        mean, _ = self.network.encode(genes.batch(self.centre, self.spread, self.device))
        predicted: Array = self.network.properties(mean).double().cpu().numpy() * self.spread + self.centre
        return predicted


@dataclass(frozen=True)
class ScoredGene:
    """A gene that was drawn, with what the property branch says of it."""

    gene: WyckoffGene
    predicted: dict[str, float]


@dataclass(frozen=True)
class Harvest:
    """What came of the draws; rates are over all of them."""

    genes: list[ScoredGene]
    """Distinct, feasible, within the conditions; in the order in which they came."""
    drawn: int
    rejected: dict[str, int]
    """Reason -> draws that were lost to it."""


def sample_genes(
    fitted: FittedGenes, n: int, conditions: Conditions, options: SamplingOptions, seed: int
) -> Harvest:
    """Draw distinct genes until there are `n` or `options.max_draws` are used up.

    Args:
        fitted: The model.
        n: Distinct genes wanted.
        conditions: What every gene must keep to.
        options: Where to look.
        seed: Source of all draws.

    Raises:
        OptionsError: The network cannot write as many or as few elements as the conditions ask for, or not those.
    """
    allowed = allowed_by(conditions, fitted.network.n_slots, fitted.fewest_elements)
    rng = np.random.default_rng([seed, 1])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    search = _Search(
        fitted,
        conditions,
        options,
        allowed,
        *seed_pools(fitted.known, conditions),
        rng=rng,
        generator=generator,
    )
    found: dict[str, WyckoffGene] = {}
    rejected: dict[str, int] = {}
    drawn = 0
    taken = fitted.known.texts if options.exclude_known else frozenset()
    while len(found) < n and drawn < options.max_draws:
        size = min(DRAWS_AT_ONCE, options.max_draws - drawn)
        sharp = None if options.temperature == 0.0 else generator
        decoded = fitted.network.decode(search.latents(size), allowed, sharp, options.temperature)
        drawn += size
        for gene in _kept(decoded, conditions, allowed, options, rejected):
            text = gene.text()
            if text not in taken and text not in found and len(found) < n:
                found[text] = gene
                continue
            reason = "known or drawn before" if text in taken or text in found else "more than asked for"
            rejected[reason] = rejected.get(reason, 0) + 1
    genes = list(found.values())
    return Harvest(_scored(fitted, genes), drawn, rejected)


def in_order(
    genes: list[ScoredGene], options: SamplingOptions, seed: int, *, spread_over_groups: bool = False
) -> list[ScoredGene]:
    """Return genes in the order in which to build them: likely best first, with chance for the others.

    Gumbel noise on the scores makes this a draw without replacement with weights exp(-prediction / scale).

    Args:
        genes: What was drawn.
        options: By which property, and how sharply.
        seed: Source of the chance.
        spread_over_groups: Whether to take the first gene of every space group before the second of any. For
            polymorphs of one formula the branch's errors are larger than their differences in energy.
    """
    ranked = genes
    if options.rank_by is not None:
        noise = np.random.default_rng([seed, 2]).gumbel(size=len(genes))
        predicted = np.array([one.predicted[options.rank_by] for one in genes])
        score = noise * options.rank_scale - predicted
        ranked = [genes[place] for place in np.argsort(-score, kind="stable")]
    if not spread_over_groups:
        return ranked
    before: dict[int, int] = {}
    turns = []
    for one in ranked:
        turns.append(before.get(one.gene.spacegroup, 0))
        before[one.gene.spacegroup] = turns[-1] + 1
    return [ranked[place] for place in np.argsort(turns, kind="stable")]


def allowed_by(conditions: Conditions, n_slots: int, fewest: int = 1) -> Allowed:
    """Return what a decoder of genes of `fewest` to `n_slots` elements may write under `conditions`.

    Raises:
        OptionsError: The network cannot write as many or as few elements as are asked for, or an element does not
            exist, or too few of the elements are among those that the network knows.
    """
    amounts = conditions.amounts()
    low, high = (len(amounts), len(amounts)) if amounts else conditions.n_elements
    if low > n_slots:
        raise OptionsError(
            "genes of this model have fewer elements than are asked for",
            value=low,
            allowed=f"up to {n_slots}",
            cure="raise the generator's max_elements, or lower n_elements",
        )
    if high < fewest:
        raise OptionsError(
            "genes of this model have more elements than are asked for",
            value=high,
            allowed=f"{fewest} or more",
            cure='raise n_elements, or take the variant "default"',
        )
    elements = torch.zeros(N_ELEMENTS, dtype=torch.bool)
    for symbol in amounts or conditions.elements:
        number = atomic_number(symbol)
        if number == 0:
            raise OptionsError("there is no such element", value=symbol)
        if number < N_ELEMENTS:
            elements[number] = True
    low, high = max(low, fewest), min(high, n_slots)
    if int(elements.sum()) < low:
        raise OptionsError(
            "too few of these elements can be written by this model",
            value=list(amounts or conditions.elements),
            allowed=f"{low} or more of hydrogen to lawrencium",
        )
    groups = torch.zeros(231, dtype=torch.bool)
    groups[list(conditions.spacegroups) or slice(1, None)] = True
    return Allowed(elements, groups, (low, high))


def seed_pools(known: GeneSet, conditions: Conditions) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return places of seeds among the known genes: of the wanted chemistry, and of others.

    Zhu et al. (2024) start from the wanted stoichiometry (ground states), the wanted space group (polymorphs), or
    the user's elements. Where nothing fits, all known genes serve.
    """
    n_elements = (known.elements > 0).sum(axis=1)
    if conditions.formula is not None:
        right = _stoichiometries(known) == _stoichiometry(conditions.amounts().values())
    else:
        right = (n_elements >= conditions.n_elements[0]) & (n_elements <= conditions.n_elements[1])
    if conditions.spacegroups:
        of_group = np.isin(known.spacegroup, conditions.spacegroups)
        right = right & of_group if (right & of_group).any() else (right | of_group)
    numbers = [atomic_number(symbol) for symbol in conditions.elements]
    own = right & (np.isin(known.elements, numbers) | (known.elements == 0)).all(axis=1)
    others = np.flatnonzero(right & ~own)
    everything = np.arange(len(known))
    pools = np.flatnonzero(own), others
    return (
        pools[0] if len(pools[0]) else (others if len(others) else everything),
        others if len(others) else (pools[0] if len(pools[0]) else everything),
    )


def _stoichiometry(amounts: Any) -> str:
    values = sorted(int(amount) for amount in amounts if amount > 0)
    divisor = int(np.gcd.reduce(values))
    return ":".join(str(value // divisor) for value in values)


def _stoichiometries(known: GeneSet) -> npt.NDArray[np.str_]:
    """Return the anonymous formula (n,) of each gene."""
    multiplicity = tables().multiplicity.numpy()[known.spacegroup]  # (n, 27)
    atoms = (known.counts * multiplicity[:, None]).sum(axis=2)  # (n, n_slots)
    return np.array([_stoichiometry(row) for row in atoms])


@dataclass(frozen=True)
class _Search:
    """Where one call looks for genes."""

    fitted: FittedGenes
    conditions: Conditions
    options: SamplingOptions
    allowed: Allowed
    own: npt.NDArray[np.int64]
    """(n_own,) seeds of the wanted chemistry."""
    foreign: npt.NDArray[np.int64]
    """(n_foreign,) seeds of other chemistries."""
    rng: np.random.Generator
    generator: torch.Generator

    @torch.no_grad()
    def latents(self, n: int) -> torch.Tensor:
        """Return vectors (n, latent_size): around seeds, and from the prior."""
        known, options = self.fitted.known, self.options
        n_prior = int(self.rng.binomial(n, options.prior_share))
        if n_prior == n:
            return self._from_prior(n)
        n_foreign = int(self.rng.binomial(n - n_prior, options.foreign_seeds))
        chosen = np.concatenate(
            [self._seeds(self.own, n - n_prior - n_foreign), self._seeds(self.foreign, n_foreign)]
        )
        seeds = known.part(chosen).batch(self.fitted.centre, self.fitted.spread, self.fitted.device)
        mean, log_variance = self.fitted.network.encode(seeds)
        noise = torch.randn(2, *mean.shape, generator=self.generator).to(mean)
        around = mean + noise[0] * torch.exp(0.5 * log_variance) + options.perturbation * noise[1]
        return torch.cat([around, self._from_prior(n_prior)])

    def _seeds(self, pool: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
        weights = self.fitted.known.weights[pool]
        return np.asarray(self.rng.choice(pool, size=n, p=weights / weights.sum()))

    def _from_prior(self, n: int) -> torch.Tensor:
        """Return vectors (n, latent_size): of the learned prior where the network has one, else of N(0, 1)."""
        fitted, network = self.fitted, self.fitted.network
        prior = getattr(network, "prior", None)
        if prior is None:
            return torch.randn(n, network.latent_size, generator=self.generator).to(fitted.device)
        numbers = np.flatnonzero(self.allowed.elements.numpy())
        low, high = self.allowed.n_elements
        elements = torch.zeros(n, network.n_slots, dtype=torch.long)
        for row in range(n):
            size = int(self.rng.integers(low, min(high, len(numbers)) + 1))
            elements[row, :size] = torch.from_numpy(self.rng.choice(numbers, size=size, replace=False))
        wanted = np.full(len(fitted.properties), np.nan)
        if self.options.rank_by is not None:
            column = fitted.properties.index(self.options.rank_by)
            values = fitted.known.values[:, column]
            if np.isfinite(values).any():  # as good as the best tenth of what is known
                wanted[column] = np.nanquantile(values, 0.1)
        standard = torch.from_numpy((wanted - fitted.centre) / fitted.spread).float().expand(n, -1)
        vectors: torch.Tensor = prior.sample(
            presence(elements).to(fitted.device), standard.to(fitted.device), self.generator, 1.0
        )
        return vectors


def _kept(
    decoded: DecodedGenes,
    conditions: Conditions,
    allowed: Allowed,
    options: SamplingOptions,
    rejected: dict[str, int],
) -> list[WyckoffGene]:
    """Return the canonical genes that pass the filters, adding to `rejected` what does not."""
    group = decoded.spacegroup.cpu().numpy()
    elements, counts = decoded.elements.cpu().numpy(), decoded.counts.cpu().numpy()
    known = tables()
    atoms = (counts * known.multiplicity.numpy()[group][:, None]).sum(axis=2)  # (n, n_slots)
    cell = atoms.sum(axis=1) // known.centrings.numpy().clip(1)[group]
    dof = (counts * known.dof.numpy().clip(0)[group][:, None]).sum(axis=(1, 2))
    n_elements = (elements > 0).sum(axis=1)
    low, high = allowed.n_elements
    alive = np.ones(len(group), dtype=bool)
    may = allowed.elements.numpy().copy()
    may[0] = True
    for reason, good in (
        ("not feasible", feasible(group, elements, counts)),
        ("elements", may[elements].all(axis=1) & (n_elements >= low) & (n_elements <= high)),
        ("space group", allowed.spacegroups.numpy()[group]),
        ("atoms", cell <= conditions.max_atoms),
        ("degrees of freedom", dof <= options.max_dof),
        ("formula", _right_formula(elements, atoms, conditions)),
    ):
        rejected[reason] = rejected.get(reason, 0) + int((alive & ~good).sum())
        alive &= good
    return [canonical(gene) for gene in genes_from_arrays(group[alive], elements[alive], counts[alive])]


def _right_formula(
    elements: npt.NDArray[np.int64], atoms: npt.NDArray[np.int64], conditions: Conditions
) -> npt.NDArray[np.bool_]:
    """Say which genes (n,) have the wanted formula, from slots (n, n_slots) and their atoms."""
    amounts = conditions.amounts()
    if not amounts:
        return np.ones(len(elements), dtype=bool)
    units = atoms.sum(axis=1) / sum(amounts.values())
    right = units >= 1.0
    for symbol, amount in amounts.items():
        of_element = (atoms * (elements == atomic_number(symbol))).sum(axis=1)
        right &= of_element == amount * units
    return right


def _scored(fitted: FittedGenes, genes: list[WyckoffGene]) -> list[ScoredGene]:
    if not genes:
        return []
    spacegroup, elements, counts = arrays_from_genes(genes, fitted.network.n_slots)
    shape = (len(genes), len(fitted.properties))
    values = fitted.predict(
        GeneSet(spacegroup, elements, counts, np.full(shape, np.nan), np.ones(len(genes)))
    )
    return [
        ScoredGene(gene, {name: float(value) for name, value in zip(fitted.properties, row, strict=True)})
        for gene, row in zip(genes, values, strict=True)
    ]
