"""What the two autoencoders of Wyckoff genes have in common: what goes in, what comes out, what they offer.

`paper` is the network as printed (Zhu et al., Matter 7, 3469 (2024)); `default` is ours. Fitting, sampling and
evaluation know only this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

N_ELEMENTS = 104
"""Classes of a slot: 0 is an empty slot, 1 to 103 are atomic numbers (hydrogen to lawrencium)."""


@dataclass(frozen=True)
class GeneBatch:
    """Wyckoff genes as whole numbers; slots are the elements of one gene, ordered by electronegativity."""

    spacegroup: torch.Tensor
    """(n_genes,) int64, 1 to 230."""
    elements: torch.Tensor
    """(n_genes, n_slots) int64 atomic numbers, 0 for an empty slot; empty slots come last."""
    counts: torch.Tensor
    """(n_genes, n_slots, 27) int64, how many orbits of the slot's element sit on each letter."""
    targets: torch.Tensor
    """(n_genes, n_properties) float32, standardised; NaN where not known. May have no column."""
    weights: torch.Tensor
    """(n_genes,) float32 of each gene in the reconstruction."""

    def __len__(self) -> int:
        return len(self.spacegroup)

    def part(self, chosen: torch.Tensor) -> GeneBatch:
        """Return the genes at the places `chosen` (n_chosen,)."""
        return GeneBatch(
            self.spacegroup[chosen],
            self.elements[chosen],
            self.counts[chosen],
            self.targets[chosen],
            self.weights[chosen],
        )


@dataclass(frozen=True)
class DecodedGenes:
    """What a decoder says, before anybody has checked it."""

    spacegroup: torch.Tensor
    """(n_genes,) int64."""
    elements: torch.Tensor
    """(n_genes, n_slots) int64, 0 for an empty slot."""
    counts: torch.Tensor
    """(n_genes, n_slots, 27) int64."""


@dataclass(frozen=True)
class Allowed:
    """What a decoder may say: everything else gets no probability."""

    elements: torch.Tensor
    """(104,) bool by atomic number."""
    spacegroups: torch.Tensor
    """(231,) bool by number."""
    n_elements: tuple[int, int]
    """Fewest and most different elements."""

    @classmethod
    def everything(cls, n_slots: int) -> Allowed:
        """Return no limit but the number of slots."""
        return cls(torch.ones(N_ELEMENTS, dtype=torch.bool), torch.ones(231, dtype=torch.bool), (1, n_slots))


@dataclass(frozen=True)
class Losses:
    """The loss of one batch and what it is made of."""

    total: torch.Tensor
    """Scalar, to be minimised."""
    parts: dict[str, float]
    """By name, as they enter `total`."""


class GeneAutoencoder(Protocol):
    """A variational autoencoder of Wyckoff genes with a property branch; a `torch.nn.Module` besides."""

    n_slots: int
    latent_size: int

    def encode(self, batch: GeneBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log-variance (n_genes, latent_size) of the latent vectors."""
        ...

    def losses(self, batch: GeneBatch, generator: torch.Generator, progress: float) -> Losses:
        """Return the loss of a batch.

        Args:
            batch: The genes.
            generator: Source of the latent noise.
            progress: How far the training is, 0 to 1, for schedules such as the warm-up of the KL term.
        """
        ...

    def decode(
        self, latent: torch.Tensor, allowed: Allowed, generator: torch.Generator | None, temperature: float
    ) -> DecodedGenes:
        """Return genes for latent vectors (n_genes, latent_size).

        Args:
            latent: The vectors.
            allowed: Limits, as far as the network can keep to them; the caller checks again.
            generator: Source of draws; None takes the most likely gene.
            temperature: Of the draws; a decoder that only regresses ignores it.
        """
        ...

    def properties(self, latent: torch.Tensor) -> torch.Tensor:
        """Return predicted, standardised properties (n_genes, n_properties) of latent means."""
        ...
