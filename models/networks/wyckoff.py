"""A network that reads Wyckoff genes: elements on Wyckoff letters, no coordinates and no lattice.

After Wren (Goodall, Parackal, Faber, Armiento and Lee, Sci. Adv. 8, eabn4117 (2022)): every occupied position is
a token, all tokens of a gene send messages to each other, and the share of the atoms of a token is its weight, so
that the result does not depend on the cell. Changed against Wren: messages are those of `models.networks.cgcnn`
instead of a soft attention over pairs (cheaper, as accurate here); a letter is told by an embedding of its own,
which starts at 0, on top of what letters of all groups share (site symmetry, freedom, order of the site group),
so that a letter that was never seen still means something; equivalent genes are one (`models.gene_batch`)
instead of being averaged over; the spread over tokens is pooled beside the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from models.ensemble import Ensemble, EnsembleConfig
from models.gene_batch import N_NUMBERS, GeneBatch, GeneSet, letter_table
from models.networks.cgcnn import initialise, linear, sum_segments
from models.networks.elements import element_table
from models.symmetry import N_GROUPS, tables

if TYPE_CHECKING:
    from pymatgen.core import Structure

# fmt: off
LAST_OF_POINT_GROUP = (
    1, 2, 5, 9, 15, 24, 46, 74, 80, 82, 88, 98, 110, 122, 142, 146, 148, 155, 161, 167, 173, 174, 176, 182, 186,
    190, 194, 199, 206, 214, 220, 230,
)
# fmt: on
"""The last space group of each of the 32 crystal classes, in the order of the International Tables."""

MAX_DOF = 3
SPREAD_FLOOR = 1e-6
"""Added to variances, whose square root has no slope at 0."""


class WyckoffNetworkConfig(BaseModel):
    """Shape of the network, and how it reads crystals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    symprec: float = Field(
        default=0.1, gt=0.0, le=1.0, description="Tolerance when the gene of a crystal is looked for [Å]."
    )
    hidden: int = Field(default=64, ge=4, le=512, description="Length of a token's feature vector.")
    convolutions: int = Field(default=2, ge=1, le=8, description="Rounds of messages between tokens.")


class WyckoffEnsembleConfig(WyckoffNetworkConfig, EnsembleConfig):
    """Shape, training and place of an ensemble of these networks."""

    batch_size: int = Field(default=64, ge=1, description="Crystals per optimiser step.")


class TokenConvolution(nn.Module):
    """Messages from all tokens of a gene to each of them, weighted by the senders' share of the atoms."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.from_centre = linear(hidden, 2 * hidden)
        self.from_neighbour = linear(hidden, 2 * hidden, bias=False)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, tokens: torch.Tensor, genes: GeneBatch) -> torch.Tensor:
        """Return new token features (n_tokens, hidden)."""
        # z is (n_pairs, 2 hidden), the gate's half first
        z = torch.repeat_interleave(self.from_centre(tokens), genes.pairs_per_token, dim=0)
        z = z + self.from_neighbour(tokens).index_select(0, genes.neighbour)
        gate, message = z.chunk(2, dim=-1)  # (n_pairs, hidden) each
        weight = genes.fraction.index_select(0, genes.neighbour)[:, None]
        message = torch.sigmoid(gate) * nn.functional.silu(message) * weight
        received = sum_segments(message, genes.pairs_per_token)  # (n_tokens, hidden)
        return nn.functional.silu(tokens + self.norm(received))


class WyckoffNetwork(nn.Module):
    """Wyckoff genes to numbers; pooling by shares of atoms makes the result intensive.

    Args:
        config: The shape.
        n_outputs: Numbers per gene.
        seed: Of the initial weights; no global random state is read or changed.
    """

    element_features: torch.Tensor
    crystal_class: torch.Tensor
    crystal_system: torch.Tensor

    def __init__(self, config: WyckoffNetworkConfig, n_outputs: int, seed: int) -> None:
        super().__init__()
        hidden, letters = config.hidden, letter_table()
        table = torch.from_numpy(element_table())  # (119, n_features)
        # Buffers, so that a checkpoint does not change its meaning with pymatgen's tables.
        self.register_buffer("element_features", table)
        system_names = tables().crystal_system  # (231,)
        systems = sorted(set(system_names))
        self.register_buffer("crystal_system", torch.tensor([systems.index(name) for name in system_names]))
        classes = np.searchsorted(np.array(LAST_OF_POINT_GROUP), np.arange(N_GROUPS + 1))
        self.register_buffer("crystal_class", torch.from_numpy(classes))
        self.embed_properties = linear(table.shape[1], hidden)
        self.embed_numbers = linear(N_NUMBERS, hidden)
        # All start at 0: what was never seen says nothing, rather than noise.
        self.embed_element = _zeros(table.shape[0], hidden)
        self.embed_letter = _zeros(letters.n_rows, hidden)
        self.embed_site = _zeros(letters.n_sites, hidden)
        self.embed_dof = _zeros(MAX_DOF + 1, hidden)
        self.embed_group = _zeros(N_GROUPS + 1, hidden)
        self.embed_class = _zeros(len(LAST_OF_POINT_GROUP), hidden)
        self.embed_system = _zeros(len(systems), hidden)
        self.layers = nn.ModuleList(TokenConvolution(hidden) for _ in range(config.convolutions))
        self.readout = linear(2 * hidden, hidden)
        self.deepen = linear(hidden, hidden)
        self.output = linear(hidden, n_outputs)
        initialise(self, seed)

    def forward(self, genes: GeneBatch) -> torch.Tensor:
        """Return (n_genes, n_outputs)."""
        tokens = self._embed(genes)  # (n_tokens, hidden)
        for layer in self.layers:
            tokens = layer(tokens, genes)
        weight = genes.fraction[:, None]
        mean = sum_segments(tokens * weight, genes.tokens_per_gene)  # (n_genes, hidden)
        away = tokens - torch.repeat_interleave(mean, genes.tokens_per_gene, dim=0)
        variance = sum_segments(away.square() * weight, genes.tokens_per_gene)
        pooled = torch.cat([mean, torch.sqrt(variance + SPREAD_FLOOR)], dim=1)  # (n_genes, 2 hidden)
        pooled = nn.functional.silu(self.readout(nn.functional.silu(pooled)))
        pooled = pooled + nn.functional.silu(self.deepen(pooled))
        outputs: torch.Tensor = self.output(pooled)
        return outputs

    def _embed(self, genes: GeneBatch) -> torch.Tensor:
        """Return what is known of each token before it hears of the others (n_tokens, hidden)."""
        group = (
            self.embed_group.index_select(0, genes.spacegroup)
            + self.embed_class.index_select(0, self.crystal_class[genes.spacegroup])
            + self.embed_system.index_select(0, self.crystal_system[genes.spacegroup])
        )  # (n_genes, hidden)
        tokens: torch.Tensor = (
            self.embed_properties(self.element_features[genes.atomic_numbers])
            + self.embed_numbers(genes.numbers)
            + self.embed_element.index_select(0, genes.atomic_numbers)
            + self.embed_letter.index_select(0, genes.letter)
            + self.embed_site.index_select(0, genes.site)
            + self.embed_dof.index_select(0, genes.dof)
            + torch.repeat_interleave(group, genes.tokens_per_gene, dim=0)
        )
        return tokens


class WyckoffEnsemble(Ensemble[WyckoffEnsembleConfig]):
    """Networks that read Wyckoff genes; those that are no crystal's yet are read by `GeneSet` itself."""

    predict_batch = 256

    def network(self, seed: int) -> WyckoffNetwork:
        """Return one untrained network."""
        return WyckoffNetwork(self.config, self.n_outputs, seed)

    def encode(self, structures: Sequence[Structure]) -> GeneSet:
        """Read the genes of crystals.

        Raises:
            ModelsError: A structure has no gene.
        """
        return GeneSet.from_structures(structures, self.config.symprec)


def _zeros(n_rows: int, hidden: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(n_rows, hidden))
