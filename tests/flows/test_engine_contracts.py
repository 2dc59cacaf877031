"""Every engine passes the contract that outsiders are offered, and the contract can fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from ase.calculators.lj import LennardJones
from pydantic import ConfigDict

from flows.engines.base import AseConfig, AseEngine, EngineCheck
from flows.engines.gpaw import GpawEngine
from flows.errors import ContractError
from flows.registry import ENGINES, LABEL_FLOWS, resolve
from flows.testing import check_engine


@pytest.mark.parametrize("name", [*ENGINES])
def test_registered_engines_resolve_and_check_themselves(name: str) -> None:
    engine = resolve(name, ENGINES, "engine")
    answer = engine(engine.Config()).check()
    assert answer.ok or answer.cure
    assert engine(engine.Config()).expected_core_seconds(8, ["Si"]) > 0


@pytest.mark.parametrize("name", [*LABEL_FLOWS])
def test_registered_flows_resolve(name: str) -> None:
    assert resolve(name, LABEL_FLOWS, "label flow").Config()


@pytest.mark.parametrize("options", [{"calculator": "emt"}, {"calculator": "chgnet"}])
def test_the_mlip_engine_passes(options: dict[str, Any]) -> None:
    assert check_engine("mlip", options).converged


class Springs(AseEngine):
    """An outsider's engine in a dozen lines."""

    def settings(self) -> dict[str, Any]:
        return {"sigma": 2.3, "fmax_ev_per_ang": self.fmax_ev_per_ang}

    def version(self) -> str:
        return "springs 1"

    def check(self) -> EngineCheck:
        return EngineCheck(True, self.version())

    def calculator(self) -> Any:
        return LennardJones(sigma=2.3, epsilon=0.3, rc=6.0, smooth=True)

    def expected_core_seconds(self, n_atoms: int, elements: Sequence[str]) -> float:
        return 0.01 * n_atoms


def test_an_outsiders_engine_passes_by_its_import_path() -> None:
    found = check_engine("test_engine_contracts:Springs")
    assert found.engine == "test_engine_contracts:Springs"
    assert found.engine_version == "springs 1"


class CountsSteps(Springs):
    """Takes the number of steps for a setting."""

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "max_steps": self.config.max_steps}


class NotPlain(Springs):
    """Settings that no JSON holds."""

    def settings(self) -> dict[str, Any]:
        return {"elements": {1, 2}}


class LooseConfig(AseConfig):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Loose(Springs):
    """Swallows misspelt options."""

    Config = LooseConfig


class Absent(Springs):
    """Does not work here."""

    def check(self) -> EngineCheck:
        return EngineCheck(False, "no springs", "buy some")


class Tilted(Springs):
    """Its energy depends on where the origin is."""

    def calculator(self) -> Any:
        return Slanted(sigma=2.3, epsilon=0.3, rc=6.0, smooth=True)


class Slanted(LennardJones):
    def calculate(self, *args: Any, **kwargs: Any) -> None:
        super().calculate(*args, **kwargs)
        self.results["energy"] += float(self.atoms.positions[0].sum())


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("CountsSteps", "number of steps"),
        ("NotPlain", "plain JSON"),
        ("Loose", "forbid"),
        ("Absent", "does not work here: no springs; cure: buy some"),
        ("Tilted", "choice of cell and origin"),
    ],
)
def test_a_breach_is_told(engine: str, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        check_engine(f"test_engine_contracts:{engine}")


def test_gpaw_knows_its_elements() -> None:
    pytest.importorskip("gpaw")
    engine = GpawEngine()
    assert engine.unsupported(["Si", "Ca", "O", "Fe"]) == ()
    assert engine.unsupported(["Si", "Pu", "At"]) == ("Pu", "At")
