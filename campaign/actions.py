"""What `plan` may ask for: tasks for the pools, and short decisions that the driver takes itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Action:
    """Something to do next; `pool` is None for what the driver does itself."""

    key: str
    pool: str | None = None


@dataclass(frozen=True)
class OpenRound(Action):
    """Write the document of a round."""

    round: int = 0


@dataclass(frozen=True)
class Sample(Action):
    """Sample one batch of a round."""

    round: int = 0
    batch: str = ""
    generator: int = 0
    n: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Screen(Action):
    """Apply one segment of screens to some candidates of a round."""

    round: int = 0
    segment: int = 0
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class FixScoring(Action):
    """Write down which candidates compete in a round's choice."""

    round: int = 0


@dataclass(frozen=True)
class Score(Action):
    """Let heads and discriminators judge some candidates."""

    round: int = 0
    chunk: int = 0
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Select(Action):
    """Choose the labels of a round."""

    round: int = 0
    n: int = 0


@dataclass(frozen=True)
class AddReferences(Action):
    """Write the labels of elements and hull phases."""


@dataclass(frozen=True)
class BuildLabel(Action):
    """Build and persist the flow of a label."""

    label: str = ""


@dataclass(frozen=True)
class RunJob(Action):
    """Run one job of a label's flow."""

    label: str = ""
    job: str = ""
    index: int = 1
    alone: bool = False
    """It needs the memory of the whole pool: nothing else may run there meanwhile."""


@dataclass(frozen=True)
class Judge(Action):
    """Give finished labels their formation energy and e_above_hull."""

    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspect(Action):
    """Hold the finished labels of a round against what was believed of them."""

    round: int = 0


@dataclass(frozen=True)
class FollowUp(Action):
    """Make the further labels that the outcomes of some labels call for."""

    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Climb(Action):
    """Choose what climbs the ladder."""

    index: int = 0
    """Number of the step."""
    round: int = 0
    last: bool = False
    """No round is left."""


@dataclass(frozen=True)
class Train(Action):
    """Fit or fine-tune a model on everything labelled before round `term`."""

    model: str = ""
    term: int = 0


@dataclass(frozen=True)
class Finish(Action):
    """Nothing is left to do."""

    reason: str = ""
