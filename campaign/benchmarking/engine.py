"""Stands in the place of a label engine in the configuration of a retrospective campaign.

It computes nothing and knows nothing: labels are answered by `campaign.benchmarking.pools`, so that the truth is in
no document that a model, a head or a screen could see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

from pydantic import BaseModel, ConfigDict, Field

from campaign.errors import ComponentError


class OracleConfig(BaseModel):
    """Options of the oracle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    truth: str = Field(
        "", description="What its answers are: a hash, so that labels tell where they come from."
    )


class OracleEngine:
    """Knows what a label would find."""

    Config: ClassVar[type[OracleConfig]] = OracleConfig
    gives_formation_energies = True

    def __init__(self, config: OracleConfig | None = None) -> None:
        self.config = config or OracleConfig()

    def settings(self) -> dict[str, Any]:
        """Return what decides an energy."""
        return {"truth": self.config.truth}

    def version(self) -> str:
        """Return the name."""
        return "oracle"

    def check(self) -> Any:
        """Say that it works."""
        from flows.engines.base import EngineCheck

        return EngineCheck(True, "the oracle of a retrospective campaign")

    def unsupported(self, elements: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG002
        """Return nothing."""
        return ()

    def expected_core_seconds(self, n_atoms: int, elements: Sequence[str]) -> float:  # noqa: ARG002
        """Return what an answer costs, which is nothing; not 0, as costs are divided by."""
        return 1.0

    def static_maker(self, *, stress: bool) -> NoReturn:  # noqa: ARG002
        """Refuse: only the pools of a benchmark have the oracle's answers.

        Raises:
            ComponentError: Always.
        """
        raise ComponentError(
            "the oracle answers in benchmarks alone",
            value="labels.engine",
            cure="run `campaign benchmark FILE`, or choose a real engine",
        )

    def relax_maker(self, **_: Any) -> NoReturn:
        """Refuse, as `static_maker`."""
        self.static_maker(stress=False)
