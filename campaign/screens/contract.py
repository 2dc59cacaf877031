"""What a screen is: the items it sees, the verdicts it gives, and what it may ask for.

A screen looks at candidates one by one (scope `candidate`) or compares them with one another (scope
`campaign`). A user's own screen is a `Screen` object named by its import path, `package.module:NAME`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict

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


class JudgesLike(Protocol):
    """What screens ask of the campaign's property heads and discriminators; see `campaign.judging`."""

    def predictions(self, structures: Sequence[Structure]) -> list[dict[str, Any]]:
        """Return {head_NAME: {mean, std}} of each crystal, with `head_e_above_hull` [eV/atom]."""
        ...

    def stable_probability(self, structures: Sequence[Structure]) -> np.ndarray | None:
        """Return mean probabilities (n_crystals,), None while there is no discriminator fit for use."""
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
    open_surrogate: Callable[[str, Mapping[str, Any]], SurrogateLike] | None = None
    """Gives another potential by its kind and options."""
    judges: JudgesLike | None = None
    """The campaign's heads and discriminators, of the round's term."""
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

    def another_surrogate(self, kind: str, options: Mapping[str, Any]) -> SurrogateLike:
        """Return a universal potential beside the campaign's own.

        Raises:
            ComponentError: There is no way to one here.
            ModelsError: It is unknown, mis-optioned, or its package is not installed.
        """
        if self.open_surrogate is None:
            raise ComponentError("a screen needs another surrogate", value=kind, cure="run it in a campaign")
        return self.open_surrogate(kind, options)

    def need_judges(self) -> JudgesLike:
        """Return the heads and discriminators.

        Raises:
            ComponentError: There are none.
        """
        if self.judges is None:
            raise ComponentError("a screen needs heads or discriminators", cure="fill in the learn block")
        return self.judges

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
    needs_judge: Literal["head", "discriminator"] | None = None
    """Sort of model of the campaign that it asks: screening waits until the round's versions are decided."""
    pool: Literal["cpu", "gpu"] = "cpu"
    """Pool that its work fits best."""


SETUP_ERRORS = (ComponentError, ReferenceDataError)
"""Raised by a screen when the campaign is set up wrongly: no candidate is to blame, so none is rejected."""

Named = tuple[str, Mapping[str, Any]]
"""A screen as campaign.yaml names it: (kind, options)."""


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
                verdicts.append(error_verdict(error))
        return verdicts

    return function


def error_verdict(error: Exception) -> Verdict:
    """Return the rejection of a candidate on which a screen failed."""
    text = error.one_line() if isinstance(error, CampaignError) else " ".join(str(error).split())
    return Verdict(passed=False, reason=f"error: {type(error).__name__}: {text}"[:500])
