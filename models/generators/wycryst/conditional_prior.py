"""Where in the latent space genes of given elements and properties lie: a mixture density network.

Bishop, Neural Computing Research Group report NCRG/94/004 (1994): a network gives weights, means and variances
of a mixture of Gaussians as functions of the conditions. It is fitted to finished latent vectors, so it changes
nothing in the autoencoder.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from models.generators.wycryst.contract import N_ELEMENTS

N_COMPONENTS = 8
"""Gaussians of the mixture."""


def presence(elements: torch.Tensor) -> torch.Tensor:
    """Return which elements genes have, (n, 104) float32, from their slots (n, n_slots).

    Column 0 says that a slot is empty; fitting and sampling must agree on it.
    """
    present = torch.zeros(len(elements), N_ELEMENTS, device=elements.device)
    return present.scatter_(1, elements, 1.0)


class ConditionalPrior(nn.Module):
    """Density of latent vectors for given elements and standardised properties; either may be unknown.

    Args:
        latent_size: Length of a latent vector.
        n_properties: Number of properties.
    """

    def __init__(self, latent_size: int, n_properties: int) -> None:
        super().__init__()
        self.latent_size = latent_size
        hidden = 256
        self.body = nn.Sequential(
            nn.Linear(N_ELEMENTS + 2 * n_properties, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()
        )
        self.weight = nn.Linear(hidden, N_COMPONENTS)
        self.mean = nn.Linear(hidden, N_COMPONENTS * latent_size)
        self.log_std = nn.Linear(hidden, N_COMPONENTS * latent_size)

    def log_probability(
        self, latent: torch.Tensor, present: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Return log p(latent | conditions) (n,).

        Args:
            latent: (n, latent_size).
            present: (n, 104) as `presence` gives it; all zeros where nothing is asked.
            targets: (n, n_properties) standardised, NaN where nothing is asked.
        """
        log_weight, mean, log_std = self._mixture(present, targets)
        scaled = (latent[:, None] - mean) * torch.exp(-log_std)  # (n, n_components, latent_size)
        log_gauss = -0.5 * scaled.square() - log_std - 0.5 * math.log(2.0 * math.pi)
        return torch.logsumexp(log_weight + log_gauss.sum(dim=2), dim=1)

    @torch.no_grad()
    def sample(
        self, present: torch.Tensor, targets: torch.Tensor, generator: torch.Generator, spread: float
    ) -> torch.Tensor:
        """Return latent vectors (n, latent_size), the Gaussians' widths times `spread`."""
        log_weight, mean, log_std = self._mixture(present, targets)
        component = torch.multinomial(log_weight.exp().cpu(), 1, generator=generator)[:, 0].to(mean.device)
        rows = torch.arange(len(mean), device=mean.device)
        noise = torch.randn(len(mean), self.latent_size, generator=generator).to(mean)
        return mean[rows, component] + spread * noise * torch.exp(log_std[rows, component])

    def _mixture(
        self, present: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return log-weights (n, n_components), means and log standard deviations (n, n_components, size)."""
        known = torch.isfinite(targets)
        asked = torch.cat([present, torch.nan_to_num(targets), known.to(present)], dim=1)
        body = self.body(asked)
        shape = (len(present), N_COMPONENTS, self.latent_size)
        mean, log_std = self.mean(body).view(shape), self.log_std(body).view(shape).clamp(-5.0, 2.0)
        return torch.log_softmax(self.weight(body), dim=1), mean, log_std
