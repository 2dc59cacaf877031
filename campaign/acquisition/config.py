"""The block `acquisition` of campaign.yaml; light, because every command reads it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from campaign.config_block import Block

GAINS = frozenset({"expected_improvement", "probability_of_stability"})
"""Policies whose score is a positive gain, so that it may be multiplied by a probability or divided by a cost."""


class ObjectiveConfig(Block):
    """A property that should lie in a window, beside stability."""

    property: str = Field(min_length=1, description="A property that a head of `learn.heads` predicts.")
    window: tuple[float | None, float | None] = Field(
        description="Lowest and highest value wanted, in the property's unit; null leaves a side open."
    )
    weight: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Exponent of the probability of lying in the window, in the product."
    )

    @field_validator("window")
    @classmethod
    def _is_a_window(cls, value: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
        low, high = value
        if (low is None and high is None) or (low is not None and high is not None and low >= high):
            raise ValueError("name a lower and a higher end, or one end and null")
        return value


class AcquisitionConfig(Block):
    """How candidates become labels."""

    policy: Literal[
        "greedy",
        "ucb",
        "expected_improvement",
        "probability_of_stability",
        "thompson",
        "random",
        "oracle",
    ] = Field(
        "probability_of_stability",
        description="greedy: lowest mean; ucb: mean minus kappa standard deviations; expected_improvement: energy "
        "expected below labels.stable_ev_per_atom; probability_of_stability: chance to lie there, pooled with the "
        "discriminator's; thompson: a random draw from the belief; random: the control; oracle: by the truth in "
        "predictions.oracle, for benchmarks alone.",
    )
    kappa: Annotated[float, Field(ge=0)] = Field(1.0, description="Weight of the standard deviation in ucb.")
    candidates_per_round: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        200, description="Crystals sampled in a round."
    )
    sampled_rounds: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Rounds that sample; later ones choose from the backlog alone. None: every round."
    )
    labels_per_round: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        8, description="Candidates sent to DFT in a round."
    )
    lookahead_rounds: Annotated[int, Field(ge=0, le=8)] = Field(
        1,
        description="Rounds that may be sampled, screened and queued ahead of the labels that are still running. "
        "0 waits for each round's labels; 1 keeps the label slots filled. Choices depend on this number and the "
        "seed, never on timing.",
    )
    explore_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        description="Part of a round's labels that is drawn at random from the candidates that may have one, whatever "
        "the policy thinks of them.",
    )
    max_per_formula: Annotated[int, Field(ge=1)] = Field(
        2, description="Most candidates of one reduced formula in one round's selection."
    )
    backlog: Annotated[int, Field(ge=0)] = Field(
        10_000,
        description="Most screened candidates of earlier rounds that compete in a round, scored again where a newer "
        "model was promoted. Beyond it four fifths are the best so far, and one fifth is drawn from the others.",
    )
    max_e_above_hull_ev_per_atom: float | None = Field(
        None, description="Condition for a label: highest predicted e_above_hull [eV/atom]."
    )
    min_stable_probability: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Condition for a label: lowest probability given by the discriminator."
    )
    diversity: Literal["none", "local_penalisation", "determinantal"] = Field(
        "local_penalisation",
        description="How a choice keeps away from what it resembles: the labels that are pending (chosen in rounds "
        "whose outcome the choice may not know) and those of its own round. local_penalisation: González et al. 2016; "
        "determinantal: greedy determinantal point process, Chen et al. 2018; none: by score alone.",
    )
    diversity_strength: Annotated[float, Field(ge=0)] = Field(
        1.0, description="Exponent of the penalty, or weight of the determinant; 0 is none."
    )
    objectives: tuple[ObjectiveConfig, ...] = Field(
        (), description="Properties that should lie in windows, each {property, window: [low, high], weight}."
    )
    combine: Literal["product", "pareto"] = Field(
        "product",
        validate_default=True,  # it depends on the policy
        description="product: the score times the probability of each window, for a policy that is a gain "
        "(expected_improvement, probability_of_stability); pareto: fronts of candidates that no other beats in "
        "everything, spread out within a front; any policy.",
    )
    cost_exponent: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="The score is divided by the label's expected core-hours to this power; 0: cost does not matter. "
        "For expected_improvement and probability_of_stability.",
    )
    shares: Literal["fixed", "adaptive"] = Field(
        "fixed",
        description="fixed: generators sample by their `share`; adaptive: by the chance that each has the highest "
        "yield, from (nearly) stable labels per crystal asked of rounds whose labels are known.",
    )
    share_floor: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Least part of a round's samples that adaptive shares leave to each generator."
    )

    @field_validator("objectives")
    @classmethod
    def _each_once(cls, value: tuple[ObjectiveConfig, ...]) -> tuple[ObjectiveConfig, ...]:
        names = [one.property for one in value]
        if len(set(names)) < len(names):
            raise ValueError("a property is named twice")
        return value

    @field_validator("combine")
    @classmethod
    def _products_are_of_gains(cls, value: str, info: ValidationInfo) -> str:
        policy = info.data.get("policy")
        if value == "product" and info.data.get("objectives") and policy not in {None, *GAINS}:
            raise ValueError(
                f"the score of policy {policy} is no gain that a probability can multiply: choose pareto, or "
                f"one of the policies {', '.join(sorted(GAINS))}"
            )
        return value

    @field_validator("cost_exponent")
    @classmethod
    def _costs_divide_gains(cls, value: float, info: ValidationInfo) -> float:
        policy = info.data.get("policy")
        if value > 0 and policy not in {None, *GAINS}:
            raise ValueError(
                f"the score of policy {policy} is no gain that a cost can divide: leave it 0, or choose one of "
                f"the policies {', '.join(sorted(GAINS))}"
            )
        return value
