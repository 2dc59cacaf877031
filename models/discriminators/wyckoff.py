"""Discriminator `wyckoff`: the networks of the head of the same name, trained to tell stable crystals.

What counts as stable is the label's matter (`properties["stable"]`): on the hull, or synthesised, for example.
Five members as in WyCryst's ensemble for synthesisability (Zhu et al., Matter 7, 3469 (2024)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from models.discriminators.calibration import probability_from
from models.discriminators.ensemble import EnsembleDiscriminator, EnsembleDiscriminatorConfig
from models.gene_batch import GeneSet
from models.networks.wyckoff import WyckoffEnsemble, WyckoffEnsembleConfig

if TYPE_CHECKING:
    from models.genes import WyckoffGene


class WyckoffDiscriminatorConfig(WyckoffEnsembleConfig, EnsembleDiscriminatorConfig):
    """Options of the discriminator `wyckoff`."""

    hidden: int = Field(default=128, ge=4, le=512, description="Length of a token's feature vector.")
    max_steps: int = Field(
        default=2500, ge=1, description="Optimiser steps per member, whatever max_epochs allows."
    )
    learning_rate: float = Field(default=2e-3, gt=0.0, lt=1.0, description="Peak of the one-cycle schedule.")
    members: int = Field(default=5, ge=2, le=64, description="Networks whose scores are averaged.")


class WyckoffDiscriminator(EnsembleDiscriminator):
    """Ensemble of networks on genes; see `models.discriminators.base.Discriminator` for the contract."""

    Config: ClassVar[type[EnsembleDiscriminatorConfig]] = WyckoffDiscriminatorConfig
    kind = "discriminator/wyckoff"
    ensemble_type = WyckoffEnsemble

    def logit_genes(self, genes: Sequence[WyckoffGene]) -> npt.NDArray[np.float64]:
        """Return (n_genes,) calibrated log-odds of being stable, of genes that need not be canonical.

        Raises:
            NotFittedError: Before `fit` or `load`.
            GeneError: No crystal can have one of the genes.
        """
        return self._log_odds(GeneSet(genes))

    def probability_genes(self, genes: Sequence[WyckoffGene]) -> npt.NDArray[np.float64]:
        """Return (n_genes,) chances of being stable; raises as `logit_genes`."""
        return probability_from(self.logit_genes(genes))
