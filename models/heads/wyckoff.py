"""Property head `wyckoff`: a small ensemble of networks that read Wyckoff genes.

It needs no coordinates, so it judges a gene before any crystal is built from it, and a crystal by its gene:
crystals that differ in lattice or free coordinates only get the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from models.gene_batch import GeneSet
from models.heads.base import Prediction
from models.heads.ensemble import EnsembleHead, EnsembleHeadConfig
from models.networks.wyckoff import WyckoffEnsemble, WyckoffEnsembleConfig

if TYPE_CHECKING:
    from models.genes import WyckoffGene


class WyckoffHeadConfig(WyckoffEnsembleConfig, EnsembleHeadConfig):
    """Options of the property head `wyckoff`."""


class WyckoffHead(EnsembleHead):
    """Ensemble of networks on genes; see `models.heads.base.PropertyHead` for the methods' contract."""

    Config: ClassVar[type[EnsembleHeadConfig]] = WyckoffHeadConfig
    kind = "head/wyckoff"
    ensemble_type = WyckoffEnsemble

    def predict_genes(self, genes: Sequence[WyckoffGene]) -> Prediction:
        """Predict all properties of genes, which need not be canonical.

        Raises:
            NotFittedError: Before `fit` or `load`.
            GeneError: No crystal can have one of the genes.
        """
        return self._answer(GeneSet(genes))
