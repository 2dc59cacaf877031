"""Discriminator `descriptors`: the networks of the head of the same name, trained to tell stable crystals."""

from __future__ import annotations

from typing import ClassVar

from models.discriminators.ensemble import EnsembleDiscriminator, EnsembleDiscriminatorConfig
from models.networks.descriptors import DescriptorEnsemble, DescriptorEnsembleConfig


class DescriptorDiscriminatorConfig(DescriptorEnsembleConfig, EnsembleDiscriminatorConfig):
    """Options of the discriminator `descriptors`."""


class DescriptorDiscriminator(EnsembleDiscriminator):
    """Ensemble of networks on descriptors; see `models.discriminators.base.Discriminator` for the contract."""

    Config: ClassVar[type[EnsembleDiscriminatorConfig]] = DescriptorDiscriminatorConfig
    kind = "discriminator/descriptors"
    ensemble_type = DescriptorEnsemble
