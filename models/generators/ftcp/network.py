"""The variational autoencoder of FTCP arrays with its property branch: Ren et al., Matter 5, 314 (2022).

Encoder: convolutions over the rows (32 filters of width 5, stride 2; 64 of 3, stride 2; 128 of 3), each with batch
norm and leaky ReLU; 1024 sigmoid units; mean and log-variance of 256 latent numbers. Decoder: its mirror image, with
ReLU, and a sigmoid at the end, as all entries are scaled to 0...1. Property branch on the latent mean: ReLU, 128, 32,
a sigmoid. Loss of a batch of b crystals, with the weights of the public code:

    Σ_b Σ (X - X')² + 2 · mean over b and latent numbers of ½(μ² + σ² - 1 - ln σ²) + 10 · Σ_b Σ (y - y')²

The two errors are sums and the KL term is a mean, so that it weighs little beside them and the latent vectors of
crystals spread far beyond N(0, 1): good for designs near known crystals, poor for draws from the prior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from models.generators.ftcp.config import FTCPConfig
from models.generators.ftcp.representation import Layout, element_features

_NORM_EPSILON = 1e-3
"""Of the batch norms; Keras's default."""


@dataclass(frozen=True)
class Losses:
    """The loss of one batch and its parts, as they enter it."""

    total: torch.Tensor
    reconstruction: torch.Tensor
    divergence: torch.Tensor
    properties: torch.Tensor


class FTCPNetwork(nn.Module):
    """The autoencoder.

    Args:
        config: The shape and the weights of the loss.
        layout: Of the arrays.
        seed: Of the initial weights (Glorot's uniform draw, Keras's default); no global random state is touched.
    """

    features: torch.Tensor
    low: torch.Tensor
    spread: torch.Tensor

    def __init__(self, config: FTCPConfig, layout: Layout, seed: int) -> None:
        super().__init__()
        self.config = config
        self._shape = (config.filters, layout.n_rows // 4)
        first, second, third = config.filters // 4, config.filters // 2, config.filters
        flat = third * self._shape[1]
        # Buffers, so that a checkpoint does not change its meaning with tables or training crystals.
        self.register_buffer("features", element_features())  # (104, 92)
        self.register_buffer("low", torch.zeros(layout.n_rows, 1))
        self.register_buffer("spread", torch.ones(layout.n_rows, 1))
        self.encoder = nn.Sequential(
            _convolution(layout.n_columns, first, 5, stride=2),
            nn.BatchNorm1d(first, eps=_NORM_EPSILON),
            nn.LeakyReLU(0.2),
            _convolution(first, second, 3, stride=2),
            nn.BatchNorm1d(second, eps=_NORM_EPSILON),
            nn.LeakyReLU(0.2),
            _convolution(second, third, 3, stride=1),
            nn.BatchNorm1d(third, eps=_NORM_EPSILON),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            _linear(flat, config.dense),
            nn.Sigmoid(),
        )
        self.mean = _linear(config.dense, config.latent)
        self.log_variance = _linear(config.dense, config.latent)
        self.expand = nn.Sequential(_linear(config.latent, flat), nn.ReLU())
        self.decoder = nn.Sequential(
            nn.BatchNorm1d(third, eps=_NORM_EPSILON),
            _transposed(third, second, 3, stride=1),
            nn.BatchNorm1d(second, eps=_NORM_EPSILON),
            nn.ReLU(),
            _transposed(second, first, 3, stride=2),
            nn.BatchNorm1d(first, eps=_NORM_EPSILON),
            nn.ReLU(),
            _transposed(first, layout.n_columns, 5, stride=2),
            nn.Sigmoid(),
        )
        self.branch = nn.Sequential(
            nn.ReLU(),
            _linear(config.latent, 128),
            nn.ReLU(),
            _linear(128, 32),
            nn.ReLU(),
            _linear(32, len(config.properties)),
            nn.Sigmoid(),
        )
        self._initialise(seed)

    def scale(self, array: torch.Tensor) -> torch.Tensor:
        """Scale arrays (n, n_rows, n_columns) row by row to 0...1 of the training crystals."""
        return (array - self.low) / self.spread

    def unscale(self, array: torch.Tensor) -> torch.Tensor:
        """Undo `scale`."""
        return array * self.spread + self.low

    def encode(self, array: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log-variance (n, latent) for scaled arrays (n, n_rows, n_columns)."""
        hidden = self.encoder(array.transpose(1, 2))  # columns are the channels
        return self.mean(hidden), self.log_variance(hidden)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Return scaled arrays (n, n_rows, n_columns) for latent vectors (n, latent)."""
        hidden = self.expand(latent).reshape(-1, *self._shape)  # (n, filters, n_rows / 4)
        decoded: torch.Tensor = self.decoder(hidden)
        return decoded.transpose(1, 2)

    def predict(self, mean: torch.Tensor) -> torch.Tensor:
        """Return the properties (n, n_properties), scaled to 0...1, for latent means (n, latent)."""
        predicted: torch.Tensor = self.branch(mean)
        return predicted

    def losses(
        self, array: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, generator: torch.Generator
    ) -> Losses:
        """Return the loss of a batch.

        Args:
            array: (n, n_rows, n_columns) scaled.
            targets: (n, n_properties) scaled, NaN where not known.
            weights: (n, 2) of each crystal in the reconstruction and in the property error.
            generator: Of the latent noise, on the CPU.
        """
        mean, log_variance = self.encode(array)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        decoded = self.decode(mean + torch.exp(0.5 * log_variance) * noise)
        errors = (array - decoded).square().sum(dim=(1, 2))  # (n,)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
        known = torch.isfinite(targets)
        missed = torch.where(known, self.predict(mean) - torch.nan_to_num(targets), 0.0).square().sum(dim=1)
        reconstruction = (weights[:, 0] * errors).sum()
        divergence = self.config.kl_weight * divergence
        properties = self.config.property_weight * (weights[:, 1] * missed).sum()
        return Losses(reconstruction + divergence + properties, reconstruction, divergence, properties)

    def _initialise(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.ConvTranspose1d):
                receptive = math.prod(module.weight.shape[2:])
                bound = math.sqrt(6.0 / (receptive * (module.weight.shape[0] + module.weight.shape[1])))
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _linear(n_in: int, n_out: int) -> nn.Linear:
    """Return a layer whose weights are not yet set, without drawing from the global random state."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, n_in, n_out)  # type: ignore[no-untyped-call]
    return layer


def _convolution(n_in: int, n_out: int, width: int, stride: int) -> nn.Conv1d:
    """Return a convolution over rows that divides their number by the stride."""
    layer: nn.Conv1d = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Conv1d, n_in, n_out, width, stride=stride, padding=width // 2
    )
    return layer


def _transposed(n_in: int, n_out: int, width: int, stride: int) -> nn.ConvTranspose1d:
    """Return a transposed convolution that multiplies the number of rows by the stride."""
    layer: nn.ConvTranspose1d = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.ConvTranspose1d, n_in, n_out, width, stride=stride, padding=width // 2, output_padding=stride - 1
    )
    return layer
