"""WyCryst's property-directed variational autoencoder as printed (Zhu et al., Matter 7, 3469 (2024)).

Layers and weights of the loss are those of the public code, told in words and numbers here: convolutions over the
224 rows of `paper_representation`, the space group by layers of its own, 256 latent variables, a property branch on
the latent mean, a decoder that regresses all 224 rows, the one-hot ones too. With the default sizes it has 10,025,386
trainable weights, the published number. Three things differ:

- the formula term can be made to work (`formula_loss`, see `paper_loss`);
- decoded letters that a space group does not have are kept, not dropped without a word: the caller rejects the gene;
- strided convolutions are padded symmetrically, where TensorFlow puts the odd row behind.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from models.errors import NotFittedError, OptionsError, TrainingDataError
from models.generators.wycryst import paper_loss, paper_representation
from models.generators.wycryst.contract import Allowed, DecodedGenes, GeneBatch, Losses
from models.generators.wycryst.paper_representation import N_COLUMNS, N_GROUPS, N_ROWS
from models.symmetry import MAX_LETTERS

_KERNELS, _STRIDES = (5, 3, 3), (2, 2, 1)
_ROWS_LEFT = N_ROWS // 4
_NORM_MOMENTUM, _NORM_EPSILON = 0.1, 1e-3
"""Of batch normalisation. Keras averages its statistics over 100 steps (0.01); ten are enough for steady statistics of
256 genes, and do not leave a training of few steps with those of its start."""


class PaperOptions(BaseModel):
    """Size, loss and training of the network as printed; the defaults are the published values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    filters: tuple[int, int, int] = Field(default=(32, 64, 128), description="Channels of the convolutions.")
    dense: int = Field(default=1024, ge=8, le=8192, description="Width of the layer behind the convolutions.")
    latent_size: int = Field(default=256, ge=2, le=1024, description="Length of a latent vector.")
    array_weight: float = Field(
        default=1 / 64, ge=0.0, description="Weight of the squared errors of the 224 x 3 array, a sum."
    )
    group_weight: float = Field(
        default=1 / 6, ge=0.0, description="Weight of the space group's cross-entropy, a sum over genes."
    )
    kl_weight: float = Field(
        default=4.0,
        ge=0.0,
        description="Weight of the KL divergence per latent dimension, a mean over genes.",
    )
    property_weight: float = Field(
        default=32.0, ge=0.0, description="Weight of the squared errors of properties scaled to 0...1, a sum."
    )
    formula_loss: Literal["soft", "paper"] = Field(
        default="soft",
        description="soft: relative error of the formula, with gradients; paper: as published, without any.",
    )
    soft_formula_weight: float = Field(
        default=1 / 64,
        ge=0.0,
        description="Weight of the soft formula term, a sum over genes; our choice: larger ones spoil the letters.",
    )
    paper_formula_weight: float = Field(
        default=1 / 256, ge=0.0, description="Weight of the published formula term, a sum over genes."
    )
    property_l2: float = Field(
        default=0.01,
        ge=0.0,
        description="Weight of the squared kernels of the property branch's two hidden layers (Keras' l2 default).",
    )
    learning_rate: float = Field(default=2e-4, gt=0.0, lt=1.0, description="Of RMSprop, at the start.")
    batch_size: int = Field(default=256, ge=2, description="Genes per optimiser step.")
    epochs: int = Field(default=48, ge=1, description="Passes over the training set.")
    plateau_factor: float = Field(
        default=0.3, gt=0.0, lt=1.0, description="The learning rate is multiplied by this on a plateau."
    )
    plateau_patience: int = Field(
        default=6, ge=1, description="Epochs without a better loss that make a plateau."
    )
    min_learning_rate: float = Field(default=2e-5, ge=0.0, description="The learning rate falls no lower.")


class PaperAutoencoder(nn.Module):
    """See the module docstring; `models.generators.wycryst.contract.GeneAutoencoder` says what it offers.

    Genes that `paper_representation.representable` refuses are to be left out beforehand, and `prepare` is to be
    called once with the training genes.

    Args:
        options: Size and loss.
        n_slots: Most different elements of a gene; 3, since the network reads ternaries.
        n_properties: Columns of the targets.
        seed: Of the initial weights; no global random state is read or changed.

    Raises:
        OptionsError: Another number of slots.
    """

    features: torch.Tensor
    multiplicity: torch.Tensor
    lowest_target: torch.Tensor
    target_range: torch.Tensor

    def __init__(self, options: PaperOptions, n_slots: int, n_properties: int, seed: int = 0) -> None:
        super().__init__()
        if n_slots != N_COLUMNS:
            raise OptionsError(
                "the network as printed writes ternaries only",
                value=f"{n_slots} elements",
                allowed=f"{N_COLUMNS} elements",
                cure="ask for 3 elements, or take the default network",
            )
        self.options, self.n_slots, self.latent_size = options, n_slots, options.latent_size
        first, second, last = options.filters
        self.encoder = nn.Sequential(
            *_convolution(N_COLUMNS, first, 0),
            *_convolution(first, second, 1),
            *_convolution(second, last, 2),
            nn.Flatten(),
            _linear(_ROWS_LEFT * last, options.dense),
            nn.ReLU(),
        )
        self.group_encoder = nn.Sequential(_linear(N_GROUPS, 256), nn.ReLU(), _linear(256, 128), nn.ReLU())
        self.mean = _linear(options.dense + 128, self.latent_size)
        self.log_variance = _linear(options.dense + 128, self.latent_size)
        self.property_branch = nn.Sequential(
            nn.ReLU(),
            _linear(self.latent_size, 128),
            nn.ReLU(),
            _linear(128, 32),
            nn.ReLU(),
            _linear(32, n_properties),
            nn.Sigmoid(),
        )
        self.decoder = nn.Sequential(
            _linear(self.latent_size, _ROWS_LEFT * last),
            nn.ReLU(),
            nn.Unflatten(1, (last, _ROWS_LEFT)),
            _norm(last),
            _transposed(last, second, 2),
            _norm(second),
            nn.ReLU(),
            _transposed(second, first, 1),
            _norm(first),
            nn.ReLU(),
            _transposed(first, N_COLUMNS, 0),
        )
        # ReLU before a softmax, as printed: no logit is ever negative.
        self.group_decoder = nn.Sequential(_linear(self.latent_size, N_GROUPS), nn.ReLU())
        # Buffers, so that a checkpoint does not change its meaning with the tables of a library.
        self.register_buffer("features", paper_representation.feature_table())  # (104, 92)
        self.register_buffer("multiplicity", paper_representation.multiplicity_table())  # (231, 26)
        self.register_buffer("lowest_target", torch.full((n_properties,), torch.nan))
        self.register_buffer("target_range", torch.full((n_properties,), torch.nan))
        self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        """Set kernels as Keras does (Glorot and Bengio, AISTATS 2010, eq. 16) and biases to 0."""
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.ConvTranspose1d) and module.weight.numel():
                nn.init.xavier_uniform_(module.weight, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def prepare(self, batch: GeneBatch) -> None:
        """Take the range of the known targets, which the property branch maps to 0...1.

        Raises:
            TrainingDataError: A property is known for no gene.
        """
        known = torch.isfinite(batch.targets)
        if not bool(known.any(dim=0).all()):
            raise TrainingDataError(
                "a property is not known for any gene",
                value=f"column {int((~known.any(dim=0)).nonzero()[0])}",
                cure="leave the property out",
            )
        lowest = torch.where(known, batch.targets, torch.inf).amin(dim=0)
        width = torch.where(known, batch.targets, -torch.inf).amax(dim=0) - lowest
        self.lowest_target.copy_(lowest)
        self.target_range.copy_(torch.where(width > 0.0, width, 1.0))

    def encode(self, batch: GeneBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log-variance (n_genes, latent_size).

        Raises:
            TrainingDataError: A gene does not fit into the array.
        """
        return self._encode(self._array(batch), batch.spacegroup)

    def losses(self, batch: GeneBatch, generator: torch.Generator, progress: float) -> Losses:
        """Return the loss of a batch; see `GeneAutoencoder.losses`. There is no schedule: `progress` is ignored.

        Raises:
            NotFittedError: `prepare` was not called.
            TrainingDataError: A gene does not fit into the array.
        """
        del progress
        truth, options = self._array(batch), self.options
        mean, log_variance = self._encode(truth, batch.spacegroup)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        latent = mean + noise * torch.exp(0.5 * log_variance)
        written, logits = self.decoder(latent), self.group_decoder(latent)
        written = written.transpose(1, 2)  # (n, 224, 3)
        weights = batch.weights
        array = (truth - written).square().sum(dim=(1, 2))  # (n,)
        group = nn.functional.cross_entropy(logits, batch.spacegroup - 1, reduction="none")
        predicted = self.property_branch(mean)
        parts = {
            "array": options.array_weight * (weights * array).sum(),
            "group": options.group_weight * (weights * group).sum(),
            "formula": (weights * self._formula_error(logits, written, truth)).sum(),
            "kl": options.kl_weight * paper_loss.kl_divergence(mean, log_variance),
            "property": options.property_weight
            * paper_loss.known_square_error(predicted, self._scaled(batch.targets)),
            "l2": self._kernel_penalty(),
        }
        total = torch.stack(list(parts.values())).sum()
        return Losses(total, {name: float(value.detach()) for name, value in parts.items()})

    @torch.no_grad()
    def decode(
        self, latent: torch.Tensor, allowed: Allowed, generator: torch.Generator | None, temperature: float
    ) -> DecodedGenes:
        """Return genes for latent vectors; see `GeneAutoencoder.decode`.

        The network regresses: `generator` and `temperature` are ignored. Of `allowed`, elements and space groups
        are kept to. An element may come twice, a slot may be empty (0) anywhere and keep orbits, letters may be
        illegal: the caller rejects such genes.
        """
        del generator, temperature
        array = self.decoder(latent).transpose(1, 2)  # (n, 224, 3)
        logits = self.group_decoder(latent)  # (n, 230)
        closed = ~allowed.spacegroups.to(latent.device)[1:]
        return DecodedGenes(
            spacegroup=logits.masked_fill(closed, -torch.inf).argmax(dim=1) + 1,
            elements=paper_representation.read_elements(array, allowed.elements.to(latent.device)),
            counts=paper_representation.read_counts(array, MAX_LETTERS),
        )

    def properties(self, latent: torch.Tensor) -> torch.Tensor:
        """Return predicted, standardised properties (n_genes, n_properties) of latent means.

        Raises:
            NotFittedError: `prepare` was not called.
        """
        self._require_prepared()
        predicted: torch.Tensor = self.property_branch(latent) * self.target_range + self.lowest_target
        return predicted

    def _array(self, batch: GeneBatch) -> torch.Tensor:
        """Return the array (n, 224, 3) of genes that fit into it."""
        paper_representation.require_representable(batch)
        return paper_representation.represent(batch, self.features, self.multiplicity)

    def _encode(self, array: torch.Tensor, spacegroup: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        one_hot = nn.functional.one_hot(spacegroup - 1, N_GROUPS).to(array)  # (n, 230)
        hidden = torch.cat([self.encoder(array.transpose(1, 2)), self.group_encoder(one_hot)], dim=1)
        return self.mean(hidden), self.log_variance(hidden)

    def _formula_error(
        self, logits: torch.Tensor, written: torch.Tensor, truth: torch.Tensor
    ) -> torch.Tensor:
        """Return the weighted formula term of each gene (n,)."""
        probabilities, options = logits.softmax(dim=1), self.options
        if options.formula_loss == "soft":
            error = paper_loss.soft_formula_error(probabilities, written, truth, self.multiplicity)
            return options.soft_formula_weight * error
        error = paper_loss.inert_formula_error(probabilities, written, truth, self.multiplicity)
        return options.paper_formula_weight * error

    def _scaled(self, targets: torch.Tensor) -> torch.Tensor:
        self._require_prepared()
        return (targets - self.lowest_target) / self.target_range

    def _kernel_penalty(self) -> torch.Tensor:
        """Return the L2 term of the property branch's hidden layers; biases and the last layer have none."""
        kernels = [layer.weight for layer in self.property_branch if isinstance(layer, nn.Linear)]
        return self.options.property_l2 * torch.stack([k.square().sum() for k in kernels[:-1]]).sum()

    def _require_prepared(self) -> None:
        if bool(torch.isnan(self.target_range).any()):
            raise NotFittedError(
                "the range of the targets is not known", cure="call prepare() or load() first"
            )


def _convolution(n_in: int, n_out: int, layer: int) -> list[nn.Module]:
    kernel, stride = _KERNELS[layer], _STRIDES[layer]
    convolution: nn.Conv1d = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Conv1d, n_in, n_out, kernel, stride=stride, padding=kernel // 2
    )
    return [convolution, _norm(n_out), nn.LeakyReLU(0.2)]


def _transposed(n_in: int, n_out: int, layer: int) -> nn.ConvTranspose1d:
    """Return the mirror image of convolution `layer`."""
    kernel, stride = _KERNELS[layer], _STRIDES[layer]
    convolution: nn.ConvTranspose1d = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.ConvTranspose1d,
        n_in,
        n_out,
        kernel,
        stride=stride,
        padding=kernel // 2,
        output_padding=stride - 1,
    )
    return convolution


def _norm(channels: int) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(channels, eps=_NORM_EPSILON, momentum=_NORM_MOMENTUM)


def _linear(n_in: int, n_out: int) -> nn.Linear:
    """Return a linear layer whose weights are not yet set, without drawing from the global random state."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, n_in, n_out)  # type: ignore[no-untyped-call]
    return layer
