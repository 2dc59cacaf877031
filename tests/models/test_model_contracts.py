"""Every registered generator and surrogate passes the contract, and the contract can fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Structure
from wycryst_models import QUICK, QUICK_PAPER, ternaries

from models.data import Conditions
from models.errors import ContractError
from models.generators.substitution import SubstitutionGenerator
from models.generators.wycryst.generator import WyCrystGenerator
from models.registry import GENERATORS, SURROGATES, resolve
from models.testing import check_config, check_generator, check_surrogate, reference_crystals

QUICK_OPTIONS: dict[str, dict[str, Any]] = {
    "ftcp": {
        "filters": 32,
        "dense": 64,
        "latent": 32,
        "epochs": 60,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "fine_tune_epochs": 3,
    },
    "wycryst": QUICK,
}
"""Options that make a generator's check quick, by registry name."""


@pytest.mark.parametrize("name", GENERATORS)
def test_registered_generator(name: str) -> None:
    check_generator(resolve(name, GENERATORS, "generator"), QUICK_OPTIONS.get(name))


@pytest.mark.parametrize("name", SURROGATES)
def test_registered_surrogate(name: str) -> None:
    if name == "sevennet":
        pytest.importorskip("sevenn", reason="the optional package sevenn is not installed")
    check_surrogate(resolve(name, SURROGATES, "surrogate"))


def test_the_printed_network_of_wycryst() -> None:
    """It writes ternaries only, which the textbook crystals hardly are."""
    elements = ("Ca", "Sr", "Ba", "K", "Ti", "Mg", "O", "F", "Ni", "Al", "Cu")
    check_generator(
        WyCrystGenerator, QUICK_PAPER, train=ternaries(), conditions=Conditions(elements, (2, 3), 12)
    )


def test_the_reference_of_the_contract_is_sound() -> None:
    crystals = reference_crystals()
    assert len(crystals) == 30
    assert all(item.structure.is_valid(tol=1.0) for item in crystals)


class Careless(SubstitutionGenerator):
    """Reads a global generator."""

    def sample(self, n: int, conditions: Conditions, seed: int) -> list[Structure]:
        return super().sample(n, conditions, int(np.random.randint(1000)))


class Deaf(SubstitutionGenerator):
    """Does not listen to the seed."""

    def sample(self, n: int, conditions: Conditions, seed: int) -> list[Structure]:
        return super().sample(n, conditions, 0)


class Lavish(SubstitutionGenerator):
    """Goes beyond the conditions."""

    def sample(self, n: int, conditions: Conditions, seed: int) -> list[Structure]:
        return super().sample(n, Conditions(conditions.elements, conditions.n_elements, 40), seed)


class Repeating(SubstitutionGenerator):
    """Says everything twice."""

    def sample(self, n: int, conditions: Conditions, seed: int) -> list[Structure]:
        found = super().sample((n + 1) // 2, conditions, seed)
        return (found + found)[:n]


class Forgetful(SubstitutionGenerator):
    """Loses what it learnt between save and load."""

    def save(self, folder: Path) -> None:
        kept, self._labels = self._labels, {}
        super().save(folder)
        self._labels = kept


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Careless, "global random"),
        (Deaf, "another seed gives the same"),
        (Lavish, "breaks the conditions"),
        (Repeating, "twice"),
        (Forgetful, "loaded model"),
    ],
)
def test_a_breach_is_found(kind: type, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        check_generator(kind, {"hull_scale_ev_per_atom": 0.01}, n=16)


def test_a_loose_config_is_found() -> None:
    class Loose:
        class Config(BaseModel):
            size: int = Field(default=1, description="Size.")

    class Mute:
        class Config(BaseModel):
            model_config = ConfigDict(frozen=True, extra="forbid")
            size: int = 1

    for kind, words in ((Loose, "frozen"), (Mute, "without a description"), (object, "no Config")):
        with pytest.raises(ContractError, match=words):
            check_config(kind)
