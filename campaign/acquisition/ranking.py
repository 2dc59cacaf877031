"""From candidates' documents to a ranking: belief, conditions, policy, cost and objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from campaign.acquisition.beliefs import Array, Candidates, SurrogateErrors, belief_of, mean_and_std, numbers
from campaign.acquisition.config import GAINS, AcquisitionConfig
from campaign.acquisition.features import features
from campaign.acquisition.objectives import log_windows, pareto, product
from campaign.acquisition.policies import POLICIES, ChoiceContext

CoreSeconds = Callable[[int, Sequence[str]], float]
"""Expected core-seconds of a label from the number of atoms and the elements."""

WORST = -1e300
"""Score of what cannot be wanted at all: a document holds no infinity."""


@dataclass(frozen=True)
class Ranking:
    """Candidates that may have a label, best first; equal scores in the order of their ids."""

    candidates: Candidates
    scores: Array
    """(n,) higher is better."""
    log_gain: Array
    """(n,) the score as the logarithm of something positive, for what multiplies scores (see `_log_gain`)."""
    stable_ev_per_atom: float
    """A label counts as stable when its e_above_hull is at most this [eV/atom]."""

    def updates(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what to write to each candidate's document: its score, and what was believed of it [eV/atom]."""
        rows = zip(
            self.candidates.ids,
            self.scores.tolist(),
            self.candidates.mean.tolist(),
            self.candidates.std.tolist(),
            strict=True,
        )
        return [
            (name, {"score": score, "predictions.belief_e_above_hull": {"mean": mean, "std": std}})
            for name, score, mean, std in rows
        ]


def read(
    documents: Sequence[Mapping[str, Any]],
    config: AcquisitionConfig,
    *,
    elements: Sequence[str],
    surrogate_std: float | SurrogateErrors,
    core_seconds: CoreSeconds | None = None,
) -> Candidates:
    """Return candidates as arrays, in the order of their ids, those about which nothing is believed left out.

    Args:
        documents: With `_id`, `formula`, `chemsys`, `n_atoms`, `spacegroup` and `predictions`.
        config: Says which properties count.
        elements: Elements of the campaign.
        surrogate_std: The surrogate's error [eV/atom], or those of its versions.
        core_seconds: Expected cost of a label; None: every label costs the same.
    """
    ordered = sorted(documents, key=lambda one: one["_id"])
    predictions = [one.get("predictions") or {} for one in ordered]
    mean, std = belief_of(predictions, surrogate_std)
    columns = {one.property: mean_and_std(predictions, f"head_{one.property}") for one in config.objectives}
    known = np.isfinite(mean)
    for values, spread in columns.values():
        known &= np.isfinite(values) & (spread > 0)
    return Candidates(
        ids=tuple(one["_id"] for one in ordered),
        formulas=tuple(one["formula"] for one in ordered),
        mean=mean,
        std=std,
        stable_probability=numbers(one.get("stable_probability") for one in predictions),
        oracle=numbers(one.get("oracle") for one in predictions),
        features=features(ordered, elements),
        core_seconds=_costs(ordered, core_seconds),
        properties=columns,
    ).take(known)


def rank(candidates: Candidates, config: AcquisitionConfig, context: ChoiceContext) -> Ranking:
    """Score candidates that meet the conditions, and sort them.

    Raises:
        ComponentError: The policy needs what is not known.
    """
    able = candidates.take(_meeting(candidates, config))
    scores = POLICIES[config.policy](able, config, context)
    if config.cost_exponent:
        scores = scores - config.cost_exponent * np.log(able.core_seconds)
    windows = log_windows(able, config.objectives)
    if config.objectives and config.combine == "pareto":
        scores = pareto(scores, windows)
    else:
        scores = product(scores, windows, config.objectives)
    scores = np.maximum(scores, WORST)
    order = np.argsort(-scores, kind="stable")  # candidates lie in the order of their ids
    ranked = able.take(order)
    gain = _log_gain(scores[order], ranked, config)
    return Ranking(ranked, scores[order], gain, context.stable_ev_per_atom)


def _log_gain(scores: Array, candidates: Candidates, config: AcquisitionConfig) -> Array:
    """Return scores as logarithms of something positive and rising.

    Those of gains are logarithms already. Others may have any sign: ln(1 + exp(score / unit)) stands for them, as
    González et al. do (see `batches`), in units of the candidates' median standard deviation, or of one front.
    """
    fronts = bool(config.objectives) and config.combine == "pareto"
    if config.policy in GAINS and not fronts:
        return scores
    unit = 1.0 if fronts or not len(scores) else float(np.median(candidates.std))
    scaled = np.maximum(scores / unit, WORST)
    # Far below zero, ln(ln(1 + exp(x))) is x.
    return np.where(scaled < -30, scaled, np.log(np.logaddexp(0.0, np.maximum(scaled, -30))))


def _meeting(candidates: Candidates, config: AcquisitionConfig) -> npt.NDArray[np.bool_]:
    """Return which candidates meet the conditions for a label; without a discriminator its probability is 0."""
    meets = np.ones(len(candidates.ids), dtype=np.bool_)
    if config.max_e_above_hull_ev_per_atom is not None:
        meets &= candidates.mean <= config.max_e_above_hull_ev_per_atom
    if config.min_stable_probability is not None:
        meets &= np.nan_to_num(candidates.stable_probability, nan=0.0) >= config.min_stable_probability
    return meets


def _costs(documents: Sequence[Mapping[str, Any]], core_seconds: CoreSeconds | None) -> Array:
    """Return the expected core-seconds (n,); from the structure alone, so that a choice repeats."""
    if core_seconds is None:
        return np.ones(len(documents))
    sizes = [(int(one["n_atoms"]), str(one["chemsys"])) for one in documents]
    known = {size: core_seconds(size[0], size[1].split("-")) for size in set(sizes)}
    return np.array([known[size] for size in sizes], dtype=np.float64)
