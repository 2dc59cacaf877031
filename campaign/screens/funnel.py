"""The screening funnel: what a screen is, and how a list of screens is applied to a chunk of candidates.

A screen looks at candidates one by one (scope `candidate`) or compares them with one another (scope
`campaign`). Consecutive screens of the first kind form a segment that runs in parallel over chunks; one of
the second kind stands alone and sees everything at once. Within a segment the funnel is sequential: only what
a screen lets through reaches the next, so that cheap screens belong before dear ones.

The screens themselves are in `campaign.screens_*`; `SCREENS` names them. A user's own screen is a `Screen`
object named by its import path, `package.module:NAME`.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from campaign.errors import CampaignError, ComponentError, ReferenceDataError

if TYPE_CHECKING:
    import numpy as np
    from pymatgen.core import Structure

    from campaign.references.entries import ReferenceSet
    from campaign.references.hull import ReferenceHull


class ScreenOptions(BaseModel):
    """Base of every screen's options: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SurrogateLike(Protocol):
    """What screens ask of a universal potential; see `models.surrogates.base`."""

    @property
    def version(self) -> str:
        """Name and version of the potential."""
        ...

    def energies(self, structures: Sequence[Structure]) -> np.ndarray:
        """Return energies (n_crystals,) [eV/atom]."""
        ...

    def relax(
        self,
        structures: Sequence[Structure],
        *,
        fix_symmetry: bool,
        max_steps: int,
        fmax_ev_per_ang: float,
        relax_cell: bool = True,
        symprec: float = 0.1,
    ) -> Sequence[Any]:
        """Relax crystals together."""
        ...

    def formation_energies(
        self, structures: Sequence[Structure], energies: Sequence[float] | np.ndarray | None = None
    ) -> np.ndarray:
        """Return formation energies (n_crystals,) [eV/atom]."""
        ...


@dataclass(eq=False)
class ScreenItem:
    """A candidate as a screen sees it."""

    candidate_id: str
    structure: Structure
    """As sampled, or as the screens before have left it."""
    values: dict[str, Any] = field(default_factory=dict)
    """What earlier screens have found out; the screen reads and does not write it."""


@dataclass(eq=False)
class Verdict:
    """What a screen says about one candidate."""

    passed: bool
    reason: str = ""
    """Why not, in one line with the figure and the limit."""
    values: dict[str, Any] = field(default_factory=dict)
    """Flat figures to keep with the candidate; names without dots."""
    structure: Structure | None = None
    """Replaces the candidate's structure from here on."""


@dataclass(eq=False)
class ScreenContext:
    """What screens may ask for besides the candidates."""

    reference: ReferenceSet | None = None
    """Known phases."""
    surrogate: SurrogateLike | None = None
    """The campaign's universal potential."""
    earlier: Mapping[str, Sequence[tuple[str, Structure]]] = field(default_factory=dict)
    """(id, structure) of accepted candidates of earlier rounds, by `campaign.references.fingerprint.bucket`."""
    seed: int = 0
    """For screens that draw."""
    elements: tuple[str, ...] = ()
    """The campaign's elements; empty for no limit."""

    def need_reference(self) -> ReferenceSet:
        """Return the reference.

        Raises:
            ComponentError: There is none.
        """
        if self.reference is None:
            raise ComponentError("a screen needs reference data", cure="fill in the reference block")
        return self.reference

    def need_surrogate(self) -> SurrogateLike:
        """Return the surrogate.

        Raises:
            ComponentError: There is none.
        """
        if self.surrogate is None:
            raise ComponentError("a screen needs a surrogate", cure="fill in the surrogate block")
        return self.surrogate

    @cached_property
    def hull(self) -> ReferenceHull:
        """The hull of the reference, built when first asked for.

        Raises:
            ComponentError: There is no reference.
            ReferenceDataError: It holds no energies.
        """
        from campaign.references.hull import hull_of

        return hull_of(self.need_reference())


ScreenFunction = Callable[[Sequence[ScreenItem], Any, ScreenContext], list[Verdict]]


@dataclass(frozen=True)
class Screen:
    """One kind of screen."""

    kind: str
    """Its name in campaign.yaml."""
    scope: Literal["candidate", "campaign"]
    """Whether candidates are judged one by one or against one another."""
    options: type[ScreenOptions]
    """Model of its options."""
    function: ScreenFunction
    """(items, options, context) -> one verdict per item, in order."""
    summary: str
    """One line for users."""
    needs_surrogate: bool = False
    needs_reference: bool = False
    pool: Literal["cpu", "gpu"] = "cpu"
    """Pool that its work fits best."""


SETUP_ERRORS = (ComponentError, ReferenceDataError)
"""Raised by a screen when the campaign is set up wrongly: no candidate is to blame, so none is rejected."""

Named = tuple[str, Mapping[str, Any]]
"""A screen as campaign.yaml names it: (kind, options)."""


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
        raise ComponentError(f"screen {kind!r} is no campaign.screens.funnel.Screen", value=found)
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


def one_by_one(judge: Callable[[ScreenItem, Any, ScreenContext], Verdict]) -> ScreenFunction:
    """Make a screen function from one that judges a single candidate; an error rejects that one only."""

    def function(items: Sequence[ScreenItem], options: Any, context: ScreenContext) -> list[Verdict]:
        verdicts = []
        for item in items:
            try:
                verdicts.append(judge(item, options, context))
            except SETUP_ERRORS:
                raise
            except Exception as error:  # whatever a strange crystal provokes must not harm its neighbours
                verdicts.append(_error(error))
        return verdicts

    return function


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
            return [_error(error) for _ in items]
        return [verdict for item in items for verdict in _judge(screen, [item], options, context)]
    return verdicts


def _error(error: Exception) -> Verdict:
    text = error.one_line() if isinstance(error, CampaignError) else " ".join(str(error).split())
    return Verdict(passed=False, reason=f"error: {type(error).__name__}: {text}"[:500])


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
