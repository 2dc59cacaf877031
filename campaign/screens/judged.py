"""Screens that ask the campaign's own property heads and discriminators, before any relaxation.

The versions that judge are those of the round's term, so that what passes does not depend on timing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, model_validator

from campaign.errors import ComponentError
from campaign.screens.contract import Screen, ScreenContext, ScreenItem, ScreenOptions, Verdict


class PredictedEnergyOptions(ScreenOptions):
    """Energies that the property heads foretell for the crystal as it is."""

    max_formation_energy_ev_per_atom: float | None = Field(
        None, description="Greatest predicted formation energy [eV/atom]."
    )
    max_e_above_hull_ev_per_atom: float | None = Field(
        None, description="Greatest predicted energy above the reference hull [eV/atom]."
    )
    n_std: float = Field(
        1.0,
        ge=0,
        description="So many standard deviations are taken off the mean before it is compared: the doubt's benefit.",
    )

    @model_validator(mode="after")
    def _some_limit(self) -> PredictedEnergyOptions:
        if self.max_formation_energy_ev_per_atom is None and self.max_e_above_hull_ev_per_atom is None:
            raise ValueError("name max_formation_energy_ev_per_atom or max_e_above_hull_ev_per_atom")
        return self


class SynthesizabilityOptions(ScreenOptions):
    """Probability that the crystal is stable, the mean over all discriminators and their members."""

    min_probability: float = Field(0.5, ge=0, le=1, description="Least mean probability.")


def _predicted_energy(
    items: Sequence[ScreenItem], options: PredictedEnergyOptions, context: ScreenContext
) -> list[Verdict]:
    predictions = context.need_judges().predictions([item.structure for item in items])
    return [_energy_verdict(one, options) for one in predictions]


def _energy_verdict(predictions: dict[str, Any], options: PredictedEnergyOptions) -> Verdict:
    if not predictions:  # no version was ever good enough to be used: nobody knows better
        return Verdict(True)
    if "head_formation_energy_per_atom" not in predictions:
        raise ComponentError(
            "the screen predicted_energy has no property head that predicts formation_energy_per_atom",
            cure="add one to learn.heads",
        )
    values: dict[str, Any] = {}
    reason = ""
    for name, words, most in (
        ("formation_energy_per_atom", "formation energy", options.max_formation_energy_ev_per_atom),
        ("e_above_hull", "energy above the hull", options.max_e_above_hull_ev_per_atom),
    ):
        found = predictions[f"head_{name}"]
        values[f"unrelaxed_{name}"] = float(found["mean"])
        values[f"unrelaxed_{name}_std"] = float(found["std"])
        bound = found["mean"] - options.n_std * found["std"]
        if most is not None and not bound <= most and not reason:
            reason = (
                f"predicted {words} {found['mean']:.3f} ± {found['std']:.3f} eV/atom, "
                f"{bound:.3f} less {options.n_std:g} deviations, at most {most:g} wanted"
            )
    return Verdict(not reason, reason, values)


def _synthesizability(
    items: Sequence[ScreenItem], options: SynthesizabilityOptions, context: ScreenContext
) -> list[Verdict]:
    found = context.need_judges().stable_probability([item.structure for item in items])
    if found is None:  # no version was ever good enough to be used: nobody knows better
        return [Verdict(True) for _ in items]
    verdicts = []
    for probability in found:
        passed = bool(probability >= options.min_probability)
        reason = (
            "" if passed else f"probability {probability:.2f}, at least {options.min_probability:g} wanted"
        )
        verdicts.append(Verdict(passed, reason, {"unrelaxed_stable_probability": float(probability)}))
    return verdicts


PREDICTED_ENERGY = Screen(
    "predicted_energy",
    "candidate",
    PredictedEnergyOptions,
    _predicted_energy,
    "Predicted by the campaign's property heads, before relaxation, to lie low; passes while none was fit for use.",
    needs_reference=True,
    needs_judge="head",
    pool="gpu",
)
SYNTHESIZABILITY = Screen(
    "synthesizability",
    "candidate",
    SynthesizabilityOptions,
    _synthesizability,
    "Probable enough by the campaign's discriminators, before relaxation; passes while none was fit for use.",
    needs_judge="discriminator",
    pool="gpu",
)
