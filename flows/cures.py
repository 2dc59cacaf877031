"""Cures: what the next try of a failed job does otherwise. None of them changes what a label means.

Who plans chooses them by the cause of the failure and gives them to `flows.job_run.run_job_once`; whoever computes
asks `flows.job_context.cures()` for those that concern it. What an engine has no cure for it tries as before.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from enum import StrEnum


class Cure(StrEnum):
    """A change of how a job is computed."""

    SLOW_MIXING = "slow_mixing"
    """Mix less of the new density, and allow twice the electronic iterations."""
    OTHER_ALGORITHM = "other_algorithm"
    """Take another eigensolver, and allow four times the electronic iterations."""
    MORE_STEPS = "more_steps"
    """Allow a relaxation twice the steps."""
    OTHER_OPTIMIZER = "other_optimizer"
    """Relax with an optimiser that needs no good second derivatives."""
    MORE_MEMORY = "more_memory"
    """Allow half as much memory again as the try before; where all jobs share one machine, run alone on it."""
    MORE_TIME = "more_time"
    """Allow half as much time again as the try before."""


ALGORITHM_ITERATIONS = 4
"""Factor of `OTHER_ALGORITHM` on the electronic iterations."""
MIXING_ITERATIONS = 2
"""Factor of `SLOW_MIXING` on the electronic iterations."""
STEPS = 2
"""Factor of `MORE_STEPS` on the steps of a relaxation."""


def iterations(most: int, cured: AbstractSet[Cure]) -> int:
    """Return how many electronic iterations a try may take.

    Args:
        most: What the first try may take.
        cured: The cures of this try.
    """
    if Cure.OTHER_ALGORITHM in cured:
        return ALGORITHM_ITERATIONS * most
    return MIXING_ITERATIONS * most if Cure.SLOW_MIXING in cured else most
