"""Known crystals as starting points in the latent space."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.data import Conditions
from models.generators.ftcp.representation import Cells


@dataclass(frozen=True)
class Seeds:
    """Known crystals with their latent vectors."""

    cells: Cells
    """Of n_seeds crystals."""
    weights: torch.Tensor
    """(n_seeds,) float32: how often each is drawn, relative to others."""
    latent: torch.Tensor
    """(n_seeds, latent) float32 latent means."""

    def chances(self, conditions: Conditions, allowed: torch.Tensor) -> torch.Tensor:
        """Return (n_seeds,) weights of the crystals to start from; all zero where none will do.

        Their number of elements and atoms keeps to the conditions. Among them are preferred those of allowed
        elements, or where a formula is asked for, those of its stoichiometry and then of its elements.

        Args:
            conditions: What is asked for.
            allowed: (104,) true at the atomic numbers of allowed elements.
        """
        cells, amounts = self.cells, sorted(conditions.amounts().values())
        low, high = (len(amounts), len(amounts)) if amounts else conditions.n_elements
        n_columns = cells.elements.shape[1]
        present = cells.elements > 0
        n_elements = present.sum(dim=1)
        right = (low <= n_elements) & (n_elements <= high) & (cells.n_sites <= conditions.max_atoms)
        ours = right & (allowed[cells.elements] | ~present).all(dim=1)
        better = [ours]
        if amounts and len(amounts) <= n_columns:
            wanted = torch.tensor([0] * (n_columns - len(amounts)) + amounts)
            counts = cells.counts.sort(dim=1).values  # (n_seeds, n_columns)
            alike = right & (counts * wanted.sum() == wanted * cells.n_sites[:, None]).all(dim=1)
            better = [ours & alike, alike, ours]
        return self.weights * next((mask for mask in better if bool(mask.any())), right)

    def draw(
        self, n: int, chances: torch.Tensor, noise: float, prior_fraction: float, generator: torch.Generator
    ) -> tuple[torch.Tensor, list[int]]:
        """Draw latent vectors around seeds, and some from the prior N(0, 1); all of them where no seed will do.

        Args:
            n: How many.
            chances: (n_seeds,) weights of the seeds.
            noise: Standard deviation of what is added to a seed.
            prior_fraction: Share drawn from the prior.
            generator: Of all draws.

        Returns:
            Latent vectors (n, latent) and the places of the seeds that they come from, -1 for the prior.
        """
        normal = torch.randn((n, self.latent.shape[1]), generator=generator)
        free = torch.rand(n, generator=generator) < prior_fraction
        if not bool((chances > 0.0).any()):
            return normal, [-1] * n
        chosen = torch.multinomial(chances, n, replacement=True, generator=generator)
        around = self.latent[chosen] + noise * normal
        return torch.where(free[:, None], normal, around), torch.where(free, -1, chosen).tolist()

    def formula(self, place: int) -> str:
        """Return the reduced formula of one seed, or "prior" for -1."""
        from pymatgen.core import Composition, Element

        if place < 0:
            return "prior"
        pairs = zip(self.cells.elements[place].tolist(), self.cells.counts[place].tolist(), strict=True)
        return str(Composition({Element.from_Z(z).symbol: n for z, n in pairs if z}).reduced_formula)
