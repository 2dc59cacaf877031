"""The screening funnel: how a list of screens is applied to a chunk of candidates.

Consecutive screens that look at candidates one by one form a segment that runs in parallel over chunks; one that
compares them with one another stands alone and sees everything at once. Within a segment the funnel is sequential:
only what a screen lets through reaches the next, so that cheap screens belong before dear ones.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from campaign.errors import ComponentError
from campaign.screens.contract import (
    SETUP_ERRORS,
    Named,
    Screen,
    ScreenContext,
    ScreenItem,
    ScreenOptions,
    Verdict,
    error_verdict,
)

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass(eq=False)
class Outcome:
    """What became of one candidate in a segment."""

    candidate_id: str
    passed: bool
    rejected_by: str | None = None
    """Kind of the screen that rejected it."""
    reason: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    """Figures found in this segment."""
    structure: Structure | None = None
    """The structure, where a screen of this segment replaced it."""
    seconds: dict[str, float] = field(default_factory=dict)
    """This candidate's share of the wall time of each screen [s]."""

    def document(self) -> dict[str, Any]:
        """Return it as a plain document."""
        return {
            "candidate_id": self.candidate_id,
            "passed": self.passed,
            "rejected_by": self.rejected_by,
            "reason": self.reason,
            "values": {name: _plain(value) for name, value in self.values.items()},
            "structure": None if self.structure is None else self.structure.as_dict(),
            "seconds": self.seconds,
        }


def resolve_screen(kind: str) -> Screen:
    """Find a screen by its name, or by the import path of the user's own `Screen` object.

    Raises:
        ComponentError: No such screen.
    """
    from campaign.screens.registry import SCREENS

    if kind in SCREENS:
        return SCREENS[kind]
    module_name, colon, name = kind.partition(":")
    if not (colon and module_name and name):
        raise ComponentError(
            "unknown screen",
            value=kind,
            allowed=sorted(SCREENS),
            cure="choose one of these, or name your own Screen object as package.module:NAME",
        )
    try:
        found = getattr(importlib.import_module(module_name), name, None)
    except Exception as error:  # a user's module may fail in any way while it is imported
        raise ComponentError(
            f"screen {kind!r} does not import ({type(error).__name__}: {error})", allowed=sorted(SCREENS)
        ) from error
    if not isinstance(found, Screen):
        raise ComponentError(f"screen {kind!r} is no campaign.screens.contract.Screen", value=found)
    return found


def read_options(screen: Screen, options: Mapping[str, Any]) -> ScreenOptions:
    """Check a screen's options.

    Raises:
        ComponentError: An option is misspelt, missing or out of range; all of them in one line.
    """
    try:
        return screen.options(**options)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc'])) or 'options'}: {item['msg']}"
            + ("" if item["type"] == "missing" else f" (got {item['input']!r})")
            for item in error.errors()
        ]
        raise ComponentError(
            f"wrong options for screen {screen.kind!r}: " + " | ".join(problems),
            allowed=sorted(screen.options.model_fields) or "no options",
            cure="correct the options of this screen",
        ) from error
    except TypeError as error:  # a key that is no string
        raise ComponentError(f"wrong options for screen {screen.kind!r}: {error}") from error


def segments(screens: Sequence[Named]) -> list[list[Named]]:
    """Cut a list of screens where candidates meet one another.

    Returns:
        Runs of consecutive candidate-scope screens; a campaign-scope one is a run of its own.

    Raises:
        ComponentError: An unknown screen.
    """
    runs: list[list[Named]] = []
    open_run = False
    for kind, options in screens:
        alone = resolve_screen(kind).scope == "campaign"
        if alone or not open_run:
            runs.append([])
        runs[-1].append((kind, options))
        open_run = not alone
    return runs


def is_campaign_scope(segment: Sequence[Named]) -> bool:
    """Say whether a segment from `segments` compares candidates with one another."""
    return any(resolve_screen(kind).scope == "campaign" for kind, _ in segment)


def pool_of(segment: Sequence[Named]) -> str:
    """Return the pool a segment belongs to: `gpu` if any of its screens does."""
    return "gpu" if any(resolve_screen(kind).pool == "gpu" for kind, _ in segment) else "cpu"


def needs_judges(segment: Sequence[Named]) -> bool:
    """Say whether a screen of a segment asks the campaign's heads or discriminators."""
    return any(resolve_screen(kind).needs_judge is not None for kind, _ in segment)


def needs_surrogate(segment: Sequence[Named]) -> bool:
    """Say whether a screen of a segment asks the campaign's surrogate."""
    return any(resolve_screen(kind).needs_surrogate for kind, _ in segment)


def run_segment(
    items: Sequence[ScreenItem], screens: Sequence[Named], context: ScreenContext
) -> list[Outcome]:
    """Apply screens in order; what one rejects, the next does not see.

    A screen that raises on a chunk is applied again to each of its candidates alone, so that only the one at
    fault is rejected, with a reason that begins with «error:».

    Args:
        items: Candidates in the campaign's order.
        screens: (kind, options) in order.
        context: What the screens may ask for.

    Returns:
        One outcome per item, in order.

    Raises:
        ComponentError: An unknown screen, wrong options, or no surrogate or reference for a screen that needs
            one. Nothing about a candidate raises.
        ReferenceDataError: The reference holds no energies at all, where a screen needs its hull.
    """
    named = [(resolve_screen(kind), options) for kind, options in screens]
    checked = [(screen, read_options(screen, options)) for screen, options in named]
    outcomes = [Outcome(item.candidate_id, passed=True) for item in items]
    alive = [
        (ScreenItem(item.candidate_id, item.structure, dict(item.values)), outcome)
        for item, outcome in zip(items, outcomes, strict=True)
    ]
    for screen, options in checked:
        if not alive:
            break
        begin = time.perf_counter()
        verdicts = _judge(screen, [item for item, _ in alive], options, context)
        share = (time.perf_counter() - begin) / len(alive)
        for (item, outcome), verdict in zip(alive, verdicts, strict=True):
            _apply(verdict, screen.kind, share, item, outcome)
        alive = [pair for pair in alive if pair[1].passed]
    return outcomes


def _apply(verdict: Verdict, kind: str, seconds: float, item: ScreenItem, outcome: Outcome) -> None:
    """Carry a verdict over to the candidate and its outcome."""
    outcome.seconds[kind] = outcome.seconds.get(kind, 0.0) + seconds
    outcome.values |= verdict.values
    item.values |= verdict.values
    if verdict.structure is not None:
        outcome.structure = item.structure = verdict.structure
    if not verdict.passed:
        outcome.passed, outcome.rejected_by, outcome.reason = False, kind, verdict.reason


def _judge(
    screen: Screen, items: Sequence[ScreenItem], options: ScreenOptions, context: ScreenContext
) -> list[Verdict]:
    try:
        verdicts = screen.function(items, options, context)
        if len(verdicts) != len(items):
            raise ValueError(f"{len(verdicts)} verdicts for {len(items)} candidates")
    except SETUP_ERRORS:
        raise
    except Exception as error:  # a screen may be the user's own
        if len(items) == 1 or screen.scope == "campaign":
            return [error_verdict(error) for _ in items]
        return [verdict for item in items for verdict in _judge(screen, [item], options, context)]
    return verdicts


def _plain(value: Any) -> Any:
    """Turn numpy scalars into Python's."""
    return value.item() if hasattr(value, "item") else value


def documented(screens: Iterable[Screen]) -> list[dict[str, Any]]:
    """Return kind, scope, summary and option schema of screens, for help texts and the JSON schema."""
    return [
        {
            "kind": screen.kind,
            "scope": screen.scope,
            "summary": screen.summary,
            "options": screen.options.model_json_schema(),
        }
        for screen in screens
    ]
