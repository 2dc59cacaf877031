"""Options of the generator `wycryst`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models.building import BuildSettings
from models.data import E_ABOVE_HULL, FORMATION_ENERGY
from models.generators.wycryst.fitting import GeneTraining
from models.generators.wycryst.network import NetworkOptions
from models.generators.wycryst.paper import PaperOptions

PAPER_SLOTS = 3
"""The network as printed writes ternaries."""


class SamplingOptions(BaseModel):
    """Which genes are drawn, which are kept, and how many crystals are built of each."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    perturbation: float = Field(
        default=0.6,
        ge=0.0,
        description="Standard deviation of what is added to a seed's latent vector; the paper: 1.4 for its network.",
    )
    prior_share: float = Field(
        default=0.3,
        ge=0.0,
        le=1.0,
        description="Share of draws from the prior, learned for elements and properties, instead of around seeds.",
    )
    foreign_seeds: float = Field(
        default=0.5,
        ge=0.0,
        le=1.0,
        description="Share of seeds of other chemistries, whose elements are replaced by the wanted ones.",
    )
    temperature: float = Field(
        default=0.5,
        ge=0.0,
        le=100.0,
        description="Of the decoder's draws; 0 takes the likeliest gene of each vector.",
    )
    genes_per_crystal: int = Field(
        default=8,
        ge=1,
        description="Distinct new genes to choose from for every two crystals asked for.",
    )
    max_draws: int = Field(
        default=20000, ge=1, description="Latent vectors decoded at most in one call, if genes are rare."
    )
    rank_by: str | None = Field(
        default=E_ABOVE_HULL,
        description="Property whose prediction ranks the genes, lowest first; none keeps them as they come.",
    )
    rank_scale: float = Field(
        default=0.05,
        ge=0.0,
        description="A gene predicted worse by this much [unit of rank_by] is e times less likely to be taken.",
    )
    max_dof: int = Field(
        default=9, ge=0, description="Most free coordinates of a gene; the paper: below 10, and 5 before DFT."
    )
    exclude_known: bool = Field(
        default=True, description="Whether to leave out genes of the training crystals and of labels."
    )
    trials: int | None = Field(
        default=None,
        ge=1,
        description="Crystals built of each gene; none builds one more than its degrees of freedom.",
    )
    max_trials: int = Field(default=6, ge=1, description="Most crystals built of one gene.")


class WyCrystConfig(BaseModel):
    """Options of the generator `wycryst`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    variant: Literal["default", "paper"] = Field(
        default="default", description="Our network, or the one printed by Zhu et al. (2024)."
    )
    max_elements: int = Field(
        default=4, ge=1, le=8, description="Most elements of a gene; `paper` is ternary whatever this says."
    )
    properties: tuple[str, ...] = Field(
        default=(FORMATION_ENERGY, E_ABOVE_HULL),
        min_length=1,
        description="Labels that the property branch learns, where they are known.",
    )
    network: NetworkOptions = Field(default=NetworkOptions(), description="Our network.")
    training: GeneTraining = Field(default=GeneTraining(), description="Of our network.")
    paper: PaperOptions = Field(
        default=PaperOptions(), description="The network as printed, and its training."
    )
    sampling: SamplingOptions = Field(default=SamplingOptions(), description="Genes drawn, kept and built.")
    build: BuildSettings = Field(default=BuildSettings(), description="From genes to crystals.")
    symprec: float = Field(default=0.1, gt=0.0, description="Tolerance of training crystals' genes [Å].")
    fine_tune_steps: int = Field(default=150, ge=1, description="Optimiser steps of a fine-tuning.")
    fine_tune_learning_rate: float = Field(default=3e-4, gt=0.0, lt=1.0, description="Its peak.")
    labelled_weight: float = Field(
        default=4.0, gt=0.0, description="Weight of a label on the hull; a training crystal has 1."
    )
    hull_scale_ev_per_atom: float = Field(
        default=0.1,
        gt=0.0,
        description="A label this far above the hull [eV/atom] weighs e times less in the reconstruction.",
    )
    device: str = Field(default="cpu", description='Where it is trained and used: "cpu", "cuda", "cuda:1"...')

    @property
    def n_slots(self) -> int:
        """Most elements of a gene."""
        return PAPER_SLOTS if self.variant == "paper" else self.max_elements

    @property
    def fewest_elements(self) -> int:
        """Fewest elements of a gene."""
        return PAPER_SLOTS if self.variant == "paper" else 1

    @field_validator("properties")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value) or not all(value):
            raise ValueError("name each property once")
        return value

    @model_validator(mode="after")
    def _ranked_by_what_is_learnt(self) -> WyCrystConfig:
        if self.sampling.rank_by is not None and self.sampling.rank_by not in self.properties:
            raise ValueError(
                f"sampling.rank_by {self.sampling.rank_by!r} must be one of properties {list(self.properties)}"
            )
        return self
