"""Engine `vasp`: VASP through atomate2's makers, with custodian.

VASP is licensed software: neither it nor its POTCARs are part of this. Jobs write into the working directory, so they
need a worker process of their own, as every pool but threads gives them.

Symmetry: VASP symmetrises (ISYM) by the operations it finds within SYMPREC, 1e-5 Å. With `fix_symmetry` a relaxation
therefore begins with the structure brought onto its space group within the flow's `symprec_ang`, and an ISYM of 0 is
refused; without it only the symmetry stays that the structure has exactly, and `incar: {ISYM: 0}` lets go of that too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib import metadata
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from flows.engines.base import EngineCheck, EngineConfig
from flows.engines.vasp_presets import NO_ENERGY, PRESETS, SAID_ELSEWHERE, Preset
from flows.errors import EngineOptionsError
from flows.schemas import Calculation, Fidelity


class VaspConfig(EngineConfig):
    """Options of the engine `vasp`; what is left out comes from the preset."""

    preset: Literal["fast", "normal", "precise", "mp", "wycryst_normal", "wycryst_precise"] = Field(
        "normal",
        description="fast, normal, precise: PBE; mp: the Materials Project's GGA(+U); "
        "wycryst_normal, wycryst_precise: the two settings of Zhu et al. (2024).",
    )
    incar: dict[str, Any] = Field(
        default={}, description="INCAR tags over those of the preset; null leaves a tag to VASP's default."
    )
    kspacing: float | None = Field(
        None, gt=0, description="Spacing of Γ-centred k-points, with its factor 2π [Å⁻¹]."
    )
    potcar_functional: str | None = Field(
        None, description="POTCAR library as pymatgen names it, for example PBE_54 or PBE_64."
    )
    relax_maker: str = Field(
        "", description="Path «module:Class» of a Maker of relaxations, in place of the preset's."
    )
    relax_maker_options: dict[str, Any] = Field(default={}, description="Its keyword arguments.")
    static_maker: str = Field(
        "", description="Path «module:Class» of a Maker of statics, in place of the preset's."
    )
    static_maker_options: dict[str, Any] = Field(default={}, description="Its keyword arguments.")
    max_steps: int = Field(99, ge=2, description="Most ionic steps of one run of a relaxation (NSW).")
    max_scf: int = Field(200, ge=10, description="Most electronic iterations at one geometry (NELM).")
    command: str = Field(
        "",
        description="Launch line, for example 'srun -n 16 vasp_std'; atomate2's VASP_CMD when left out.",
    )
    gamma_command: str = Field(
        "", description="Launch line for Γ alone; `command`, or atomate2's VASP_GAMMA_CMD, when left out."
    )
    threads_per_rank: int = Field(1, ge=1, description="OpenMP threads of each of VASP's processes.")
    handlers: bool = Field(
        True, description="Whether custodian corrects VASP's errors; what it changed is kept on the label."
    )

    @field_validator("incar")
    @classmethod
    def _tags(cls, value: dict[str, Any]) -> dict[str, Any]:
        tags = {str(name).upper(): as_number(one) for name, one in value.items()}
        for name in sorted(tags.keys() & SAID_ELSEWHERE.keys()):
            raise ValueError(f"{name} is said by {SAID_ELSEWHERE[name]}")
        return tags


def as_number(value: Any) -> Any:
    """Return a tag's value with numbers written one way: YAML reads 1e-6 as a text, and 520.0 is 520."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    return int(value) if isinstance(value, float) and value.is_integer() else value


class VaspEngine:
    """VASP by atomate2."""

    Config: ClassVar[type[EngineConfig]] = VaspConfig
    fidelity = Fidelity.DFT

    def __init__(self, config: Any = None) -> None:
        self.config: VaspConfig = VaspConfig() if config is None else config

    @property
    def preset(self) -> Preset:
        """What the preset means."""
        return PRESETS[self.config.preset]

    @cached_property
    def own_tags(self) -> dict[str, Any]:
        """The user's INCAR tags with the k-points that were asked for."""
        spacing = {} if self.config.kspacing is None else {"KSPACING": self.config.kspacing}
        return {**self.config.incar, **spacing}

    def tags(self, own_maker: bool) -> dict[str, Any]:
        """Return INCAR tags over a Maker's own: the preset's, unless the Maker is the user's, then the user's."""
        if own_maker:
            return self.own_tags
        spacing = {} if self.preset.kspacing is None else {"KSPACING": self.preset.kspacing}
        return {**self.preset.incar, **spacing, **self.own_tags}

    def settings(self) -> dict[str, Any]:
        """Return what decides an energy, the preset resolved.

        The versions of VASP and of atomate2, whose input sets fill in the other tags, are recorded on each label.
        """
        return {
            "relax": self._maker_settings("relax"),
            "static": self._maker_settings("static"),
            "potcar_functional": self.config.potcar_functional or self.preset.potcar_functional,
        }

    def _maker_settings(self, kind: Literal["relax", "static"]) -> dict[str, Any]:
        own = getattr(self.config, f"{kind}_maker")
        dumped = self.config.model_dump(mode="json")
        tags = self.tags(bool(own)).items()
        return {
            "maker": own or getattr(self.preset, f"{kind}_maker"),
            "maker_options": dumped[f"{kind}_maker_options"],
            "incar": {name: as_number(value) for name, value in sorted(tags) if name not in NO_ENERGY},
        }

    def version(self) -> str:
        """Return the versions of what writes VASP's inputs and reads its outputs; VASP's own stands in these."""
        return ", ".join(f"{name} {metadata.version(name)}" for name in ("atomate2", "pymatgen", "custodian"))

    def relax_maker(self, *, fix_symmetry: bool, relax_cell: bool, symprec_ang: float) -> Any:
        """Return a Maker that relaxes.

        Raises:
            EngineOptionsError: The symmetry is to be kept, and ISYM forbids it; or the user's Maker cannot be built.
        """
        isym = self.tags(bool(self.config.relax_maker)).get("ISYM")
        if fix_symmetry and isym is not None and isym < 1:
            raise EngineOptionsError(
                "ISYM switches off the symmetry that the flow keeps",
                value=isym,
                cure="leave ISYM out, or set fix_symmetry: false in flow_options",
            )
        tags = {"NSW": self.config.max_steps, "NELM": self.config.max_scf}
        if not (relax_cell and self.config.relax_maker):
            tags["ISIF"] = 3 if relax_cell else 2
        return self._maker("relax", tags, symprec_ang if fix_symmetry else None)

    def static_maker(self, *, stress: bool) -> Any:  # noqa: ARG002 - VASP computes it all the same
        """Return a Maker that computes one structure."""
        return self._maker("static", {"NELM": self.config.max_scf}, None)

    def _maker(
        self, kind: Literal["relax", "static"], tags: dict[str, Any], symprec_ang: float | None
    ) -> Any:
        from flows.engines.vasp_building import vasp_maker

        own = getattr(self.config, f"{kind}_maker")
        functional = self.config.potcar_functional or (None if own else self.preset.potcar_functional)
        return vasp_maker(
            own or getattr(self.preset, f"{kind}_maker"),
            getattr(self.config, f"{kind}_maker_options"),
            tags={**tags, **self.tags(bool(own))},
            potcar_functional=functional,
            asked=sorted([*self.own_tags, *(["POTCARs"] if self.config.potcar_functional else [])]),
            running={
                "relaxes": kind == "relax",
                "symprec_ang": symprec_ang,
                "command": self.config.command,
                "gamma_command": self.config.gamma_command or self.config.command,
                "threads_per_rank": self.config.threads_per_rank,
                "handlers": self.config.handlers,
            },
        )

    def read(self, output: Any) -> Calculation:
        """Read the output of one of the makers' jobs."""
        from flows.engines.vasp_outputs import read_task

        return read_task(output, materials_project=self.on_materials_project_scale)

    @property
    def on_materials_project_scale(self) -> bool:
        """Whether energies are comparable with the Materials Project's once they are corrected as its own are."""
        return self.settings() == VaspEngine(VaspConfig(preset="mp")).settings()

    def unsupported(self, elements: Sequence[str]) -> tuple[str, ...]:
        """Return the elements whose POTCAR is missing; none if no POTCAR library is set up here."""
        from flows.engines.vasp_setup import missing_potcars

        return missing_potcars(self.static_maker(stress=True), elements)

    def check(self) -> EngineCheck:
        """Find the command and the POTCAR library; VASP is not run."""
        from flows.engines.vasp_setup import check_setup

        return check_setup(
            self.config.command, self.config.potcar_functional or self.preset.potcar_functional
        )

    def expected_core_seconds(self, n_atoms: int, elements: Sequence[str]) -> float:  # noqa: ARG002
        """Return a rough cost: growing as n^1.5, a guess that no measurement here stands behind."""
        return self.preset.core_seconds * n_atoms**1.5
