"""How a surrogate learns from frames: options only, so that reading them imports no network."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TuningConfig(BaseModel):
    """How CHGNet learns from frames."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learns: Literal["all", "last_layers", "readout"] = Field(
        "all", description="Weights that may change: all, those of the last interaction, or of the readout."
    )
    epochs: int = Field(10, ge=1, description="Passes over frames and replayed crystals, at most.")
    patience: int = Field(5, ge=1, description="Passes without a lower validation loss before the end.")
    batch_size: int = Field(4, ge=1, description="Crystals per optimiser step.")
    learning_rate: float = Field(3e-4, gt=0, lt=0.1, description="Peak of the one-cycle schedule.")
    energy_weight: float = Field(10.0, ge=0, description="Of an error of 1 eV/atom in the loss.")
    force_weight: float = Field(1.0, ge=0, description="Of an error of 1 eV/Å.")
    stress_weight: float = Field(0.1, ge=0, description="Of an error of 1 GPa.")
    max_replay: int = Field(100, ge=0, description="Reference crystals shown again, against forgetting.")
    valid_fraction: float = Field(
        0.2, ge=0, lt=0.9, description="Share of formulas that are not learned and end the training."
    )
