"""Screens that look at a crystal's composition."""

from __future__ import annotations

import functools
from typing import Literal

from pydantic import Field, model_validator

from campaign.screens.contract import Screen, ScreenContext, ScreenItem, ScreenOptions, Verdict, one_by_one

METALLOIDS = frozenset({"B", "Si", "Ge", "As", "Sb", "Te"})
"""Elements that form intermetallic phases though they are no metals."""

OxidationStates = Literal["icsd24", "icsd16", "smact14", "pymatgen_sp"]


class CompositionOptions(ScreenOptions):
    """Elements and sizes that the campaign asks for. Limits that are left out are not applied."""

    elements: tuple[str, ...] | None = Field(
        None, description="Elements that may occur; those of the chemistry block when left out."
    )
    n_elements: tuple[int, int] | None = Field(None, description="Fewest and most different elements.")
    max_atoms: int | None = Field(None, ge=1, description="Most atoms in the primitive cell.")
    required: tuple[str, ...] = Field((), description="Elements that must occur.")

    @model_validator(mode="after")
    def _ordered(self) -> CompositionOptions:
        if self.n_elements is not None and not 1 <= self.n_elements[0] <= self.n_elements[1]:
            raise ValueError(f"n_elements {list(self.n_elements)} is no range")
        return self


class ChargeNeutralityOptions(ScreenOptions):
    """SMACT's test: some choice of known oxidation states makes the formula neutral."""

    oxidation_states: OxidationStates = Field(
        "icsd24",
        description="List of oxidation states, by its name in smact; it is recorded. icsd24: seen in the ICSD, with "
        "unusual ones such as Bi(II), In(II), Ag(III); icsd16, smact14: earlier lists; pymatgen_sp: usual ones only.",
    )
    pauling_test: bool = Field(
        True, description="Cations must be less electronegative than anions for the choice to count."
    )
    mixed_valence: bool = Field(
        False, description="Atoms of one transition metal may have different states, as in Fe3O4; slower."
    )
    alloys: Literal["refused", "metals", "metals_and_metalloids"] = Field(
        "metals", description="Compositions of only these elements pass, since they need not be ionic."
    )


def _composition(item: ScreenItem, options: CompositionOptions, context: ScreenContext) -> Verdict:
    present = {site.specie.symbol for site in item.structure}
    allowed = set(options.elements if options.elements is not None else context.elements)
    reason = ""
    if allowed and not present <= allowed:
        reason = f"holds {', '.join(sorted(present - allowed))}, which the chemistry does not name"
    elif not set(options.required) <= present:
        reason = f"lacks {', '.join(sorted(set(options.required) - present))}"
    elif options.n_elements and not options.n_elements[0] <= len(present) <= options.n_elements[1]:
        low, high = options.n_elements
        reason = f"{len(present)} elements, {low} to {high} wanted"
    elif options.max_atoms is not None:
        # The given cell may be a multiple of the primitive one; the search is only needed then.
        size = len(item.structure)
        size = size if size <= options.max_atoms else len(item.structure.get_primitive_structure())
        if size > options.max_atoms:
            reason = f"{size} atoms, at most {options.max_atoms} wanted"
    return Verdict(not reason, reason)


def _charge_neutrality(
    item: ScreenItem, options: ChargeNeutralityOptions, _context: ScreenContext
) -> Verdict:
    counts = {symbol: int(n) for symbol, n in item.structure.composition.get_el_amt_dict().items()}
    values = {"oxidation_states": options.oxidation_states, "smact_version": _smact_version()}
    if len(counts) == 1:
        return Verdict(True, values=values)
    if options.alloys != "refused" and set(counts) <= _alloy_elements(options.alloys):
        return Verdict(True, values=values)
    common = item.structure.composition.reduced_formula
    if _neutral(common, options.oxidation_states, options.pauling_test, options.mixed_valence):
        return Verdict(True, values=values)
    return Verdict(False, f"{common}: no neutral choice of {options.oxidation_states} states", values)


@functools.lru_cache(maxsize=4096)
def _neutral(formula: str, states: str, pauling: bool, mixed_valence: bool) -> bool:
    """Ask SMACT about one formula; candidates of a round share most of theirs."""
    from smact.screening import smact_validity

    return bool(
        smact_validity(
            formula,
            use_pauling_test=pauling,
            include_alloys=False,
            oxidation_states_set=states,
            mixed_valence=mixed_valence,
        )
    )


@functools.lru_cache(maxsize=1)
def _smact_version() -> str:
    from importlib.metadata import version

    return version("smact")


@functools.lru_cache(maxsize=2)
def _alloy_elements(kind: str) -> frozenset[str]:
    import smact

    metals = frozenset(smact.metals)
    return metals | METALLOIDS if kind == "metals_and_metalloids" else metals


COMPOSITION = Screen(
    "composition",
    "candidate",
    CompositionOptions,
    one_by_one(_composition),
    "Elements, their number and the number of atoms as asked for.",
)
CHARGE_NEUTRALITY = Screen(
    "charge_neutrality",
    "candidate",
    ChargeNeutralityOptions,
    one_by_one(_charge_neutrality),
    "Neutral for some known oxidation states (SMACT); pure elements and, by option, alloys pass.",
)
