"""What campaign.yaml says about the chemistry; light, because every command reads it: no pymatgen."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from campaign.config_block import Block

_SYMBOLS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As "
    "Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd "
    "Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu"
)

CHEMICAL_SYMBOLS = tuple(_SYMBOLS.split())
"""Elements that a campaign may name, hydrogen to plutonium."""

_TOKEN = re.compile(r"(?P<symbol>[A-Z][a-z]?)(?P<count>\d*)|(?P<open>\()|(?P<close>\))(?P<times>\d*)")


class ChemistryConfig(Block):
    """What the campaign may propose."""

    elements: tuple[str, ...] = Field(
        (),
        description="Chemical symbols, for example [Ca, Mg, Si]; required, unless a formula names them.",
    )
    n_elements: tuple[int, int] = Field(
        (2, 3),
        description="Fewest and most different elements in one crystal; a single number means both. "
        "With a formula: as many as it has.",
    )
    max_atoms: Annotated[int, Field(ge=1, le=200)] = Field(
        12, description="Most atoms in the primitive cell."
    )
    formula: str | None = Field(
        None, description="Formula that every crystal must have, for example CaTiO3: structure prediction."
    )
    spacegroups: tuple[Annotated[int, Field(ge=1, le=230)], ...] = Field(
        (),
        description="International numbers of the space groups that a crystal may have, at 0.1 Å, when it is "
        "sampled; any when left out.",
    )

    @model_validator(mode="before")
    @classmethod
    def _as_the_formula_says(cls, value: Any) -> Any:
        """Fill in what follows from the formula where it is left out."""
        if isinstance(value, dict) and isinstance(value.get("formula"), str):
            symbols = list(parse_formula(value["formula"]))
            return {"elements": symbols, "n_elements": len(symbols), **value}
        return value

    @field_validator("n_elements", mode="before")
    @classmethod
    def _one_number_means_both(cls, value: object) -> object:
        return (value, value) if isinstance(value, int) else value

    @field_validator("elements")
    @classmethod
    def _known_and_distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for symbol in value:
            check_symbol(symbol)
        if len(set(value)) != len(value):
            raise ValueError("an element is named twice")
        return value

    @model_validator(mode="after")
    def _counts_fit(self) -> ChemistryConfig:
        low, high = self.n_elements
        if not self.elements:
            raise ValueError("elements is missing: name them, or a formula")
        if self.formula is not None:
            self._formula_fits(self.formula)
        if not 1 <= low <= high <= len(self.elements):
            raise ValueError(
                f"n_elements {list(self.n_elements)} must be ordered and lie between 1 and the "
                f"{len(self.elements)} elements named"
            )
        if len(set(self.spacegroups)) != len(self.spacegroups):
            raise ValueError("a space group is named twice")
        return self

    def _formula_fits(self, formula: str) -> None:
        amounts = parse_formula(formula)
        if set(amounts) != set(self.elements) or not self.n_elements[0] <= len(amounts) <= self.n_elements[1]:
            raise ValueError(
                f"elements and n_elements say something else than the formula {formula}: leave them out"
            )
        atoms = sum(amounts.values())
        if atoms > self.max_atoms:
            raise ValueError(f"one formula unit of {formula} has {atoms} atoms: raise max_atoms")

    def conditions(self) -> dict[str, Any]:
        """Return what `models.data.Conditions` reads."""
        return self.model_dump(mode="json")


def parse_formula(formula: str) -> dict[str, int]:
    """Return symbol -> atoms in the reduced formula unit, in the order written: «Ca2Ti2O6» is Ca 1, Ti 1, O 3.

    Raises:
        ValueError: It is no formula, or an element in it does not exist.
    """
    stack: list[Counter[str]] = [Counter()]
    place = 0
    while place < len(formula):
        token = _TOKEN.match(formula, place)
        if token is None or (token["close"] and len(stack) == 1):
            break
        place = token.end()
        if token["open"]:
            stack.append(Counter())
        elif token["close"]:
            for symbol, count in stack.pop().items():
                stack[-1][symbol] += count * int(token["times"] or 1)
        else:
            check_symbol(token["symbol"])
            stack[-1][token["symbol"]] += int(token["count"] or 1)
    amounts = dict(stack[0])
    if place < len(formula) or len(stack) > 1 or not amounts or min(amounts.values()) < 1:
        raise ValueError(f"{formula!r} is no chemical formula such as CaTiO3 or Ca3(PO4)2")
    divisor = math.gcd(*amounts.values())
    return {symbol: count // divisor for symbol, count in amounts.items()}


def check_symbol(symbol: str) -> None:
    """Refuse what is no element.

    Raises:
        ValueError: With the nearest symbol that is one.
    """
    if symbol not in CHEMICAL_SYMBOLS:
        close = difflib.get_close_matches(symbol.capitalize(), CHEMICAL_SYMBOLS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{symbol!r} is not a chemical element{hint} (allowed: H to Pu)")
