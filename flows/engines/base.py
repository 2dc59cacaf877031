"""What every engine does; light, so that settings are read without importing any calculator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from flows.schemas import Fidelity


class EngineConfig(BaseModel):
    """Base of an engine's options: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class EngineCheck:
    """Whether an engine works on this machine."""

    ok: bool
    what: str
    """What was found."""
    cure: str = ""


class Engine(Protocol):
    """A code with its settings.

    `settings()` is what decides the meaning of a label: two engines with equal settings and version give the same
    energy for the same structure, whatever cores or commands they use.
    """

    Config: ClassVar[type[BaseModel]]
    fidelity: Fidelity

    def __init__(self, config: Any) -> None: ...

    def settings(self) -> dict[str, Any]:
        """Return what decides an energy: cut-offs, densities, functional."""
        ...

    def version(self) -> str:
        """Return name and version of the code."""
        ...

    def relax_maker(self, *, fix_symmetry: bool, relax_cell: bool) -> Any:
        """Return a jobflow Maker that relaxes a structure."""
        ...

    def static_maker(self) -> Any:
        """Return a jobflow Maker that computes one structure."""
        ...

    def check(self) -> EngineCheck:
        """Say whether the engine works here."""
        ...

    def expected_core_seconds(self, n_atoms: int, elements: Sequence[str]) -> float:
        """Return a rough cost of a relaxation with its static [core-seconds]."""
        ...
