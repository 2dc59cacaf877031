"""Options of the generator `ftcp`; defaults are those of Ren et al., Matter 5, 314 (2022)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.data import FORMATION_ENERGY


class FTCPConfig(BaseModel):
    """Options of the generator `ftcp`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_elements: int = Field(
        default=3,
        ge=3,
        le=4,
        description="Most elements of one crystal; crystals of fewer leave columns empty.",
    )
    max_sites: int = Field(default=20, ge=2, le=64, description="Most atoms of one cell.")
    max_e_above_hull: float | None = Field(
        default=None,
        description="Train only on crystals at most this far above the hull [eV/atom], as far as that is known; "
        "the paper: 0.08.",
    )
    filters: int = Field(
        default=128,
        ge=8,
        le=512,
        multiple_of=4,
        description="Filters of the third convolution; the first has a quarter, the second half.",
    )
    dense: int = Field(
        default=1024, ge=4, le=4096, description="Units between convolutions and latent space."
    )
    latent: int = Field(default=256, ge=2, le=1024, description="Length of a latent vector.")
    properties: tuple[str, ...] = Field(
        default=(FORMATION_ENERGY,),
        min_length=1,
        description="Labels that the property branch learns; `stable` is learnt as 0 or 1.",
    )
    kl_weight: float = Field(
        default=2.0, ge=0.0, description="Of the KL term, which is a mean over crystals and latent numbers."
    )
    property_weight: float = Field(
        default=10.0, ge=0.0, description="Of the squared errors of the property branch, summed over a batch."
    )
    epochs: int = Field(
        default=200, ge=1, description="Passes; the rate drops after a quarter and after half of them."
    )
    batch_size: int = Field(default=256, ge=1, description="Crystals per optimiser step.")
    learning_rate: float = Field(default=5e-4, gt=0.0, lt=1.0, description="Of RMSprop, at the start.")
    fine_tune_epochs: int = Field(default=20, ge=1, description="Passes over labels and replayed crystals.")
    fine_tune_learning_rate: float = Field(
        default=5e-5, gt=0.0, lt=1.0, description="Of RMSprop, when fine-tuning."
    )
    labelled_weight: float = Field(
        default=4.0,
        gt=0.0,
        description="Weight of a new label in the property error, and of a new crystal on the hull in the "
        "reconstruction and among the seeds; a crystal known before has 1.",
    )
    hull_scale_ev_per_atom: float = Field(
        default=0.1,
        gt=0.0,
        description="A labelled crystal this far above the hull [eV/atom] weighs e times less than one on it.",
    )
    max_replay: int = Field(
        default=512, ge=0, description="Known crystals shown again when fine-tuning, against forgetting."
    )
    noise: float = Field(
        default=0.6, gt=0.0, description="Standard deviation of what is added to a seed's latent vector."
    )
    prior_fraction: float = Field(
        default=0.0, ge=0.0, le=1.0, description="Share of the latent vectors drawn from the prior N(0, 1)."
    )
    draws_per_crystal: int = Field(
        default=50, ge=1, description="Latent vectors decoded at most per crystal asked for."
    )
    device: str = Field(default="cpu", description='Where it is trained and used: "cpu", "cuda", "cuda:1"...')

    @field_validator("properties")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value) or not all(value):
            raise ValueError("name each property once")
        return value
