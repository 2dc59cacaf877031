"""Options of the surrogate's own learning: `learn.surrogate` in campaign.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from campaign.config_block import Block


class LearnSurrogateConfig(Block):
    """Fine-tuning of the surrogate on the labels' frames: geometries of relaxations with forces and stresses.

    It is off unless asked for: the screens of a round then wait for the version of its term, which takes minutes on a
    CPU, and only DFT labels have something to teach it.
    """

    enabled: bool = Field(False, description="Fine-tune the surrogate on the frames of the labels.")
    every: Annotated[int, Field(ge=1)] = Field(
        1, description="Terms between two versions: 2 lets it learn after every second round."
    )
    min_labels: Annotated[int, Field(ge=2)] = Field(
        4, description="Labels that a term must have brought since the version in use, or nothing is learned."
    )
    max_frames: Annotated[int, Field(ge=2)] = Field(
        200, description="Most frames of all labels together; the newest labels come first."
    )
    frames_per_label: Annotated[int, Field(ge=1)] = Field(
        8, description="Most frames of one label: the last, the first, and evenly spaced ones in between."
    )
    max_reference: Annotated[int, Field(ge=0)] = Field(
        200, description="Reference crystals shown again against forgetting, and as many that judge it."
    )
    gate_tolerance: Annotated[float, Field(ge=0)] = Field(
        0.05,
        description="A version is promoted if its errors of energy and force on labels of held-out formulas, and of "
        "energy on held-out reference crystals, are at most (1 + this) times those of the version in use.",
    )
