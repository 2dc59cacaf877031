"""Discriminator `cgcnn`: the graph networks of the head of the same name, trained to tell stable crystals."""

from __future__ import annotations

from typing import ClassVar

from models.discriminators.ensemble import EnsembleDiscriminator, EnsembleDiscriminatorConfig
from models.networks.cgcnn import CGCNNEnsemble, CGCNNEnsembleConfig


class CGCNNDiscriminatorConfig(CGCNNEnsembleConfig, EnsembleDiscriminatorConfig):
    """Options of the discriminator `cgcnn`."""


class CGCNNDiscriminator(EnsembleDiscriminator):
    """Ensemble of crystal graph networks; see `models.discriminators.base.Discriminator` for the contract."""

    Config: ClassVar[type[EnsembleDiscriminatorConfig]] = CGCNNDiscriminatorConfig
    kind = "discriminator/cgcnn"
    ensemble_type = CGCNNEnsemble
