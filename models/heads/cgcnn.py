"""Property head `cgcnn`: a small ensemble of crystal graph networks."""

from __future__ import annotations

from typing import ClassVar

from models.heads.ensemble import EnsembleHead, EnsembleHeadConfig
from models.networks.cgcnn import CGCNNEnsemble, CGCNNEnsembleConfig


class CGCNNHeadConfig(CGCNNEnsembleConfig, EnsembleHeadConfig):
    """Options of the property head `cgcnn`."""


class CGCNNHead(EnsembleHead):
    """Ensemble of crystal graph networks; see `models.heads.base.PropertyHead` for the methods' contract."""

    Config: ClassVar[type[EnsembleHeadConfig]] = CGCNNHeadConfig
    kind = "head/cgcnn"
    ensemble_type = CGCNNEnsemble
