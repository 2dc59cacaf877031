"""The block `labels` of campaign.yaml; light, because every command reads it."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from campaign.config_block import Block
from campaign.failures import POLICIES, Policy
from flows.cures import Cure
from flows.schemas import FailureCause

SUMMARIES = frozenset({"phonon", "elastic", "equation_of_state", "electronic"})
"""Fields of a label that only some flows fill."""

JUDGED = frozenset({"formation_energy_per_atom", "e_above_hull", "stable"})
"""Fields that the driver adds to a label."""


def label_fields() -> frozenset[str]:
    """Return the fields of a candidate's first label that a condition may ask for."""
    from flows.schemas import LabelDoc

    return frozenset(LabelDoc.model_fields) - SUMMARIES | JUDGED


class FollowUpConfig(Block):
    """A further label of a labelled candidate, on its relaxed structure."""

    when: str = Field(
        "",
        description="Condition on fields of the candidate's labels, for example 'e_above_hull < 0.05' or "
        "'phonon.dynamically_stable'; always when left out. A field that is not known yet holds it back.",
    )
    flow: str | None = Field(None, description="Label flow; the name of the entry when left out.")
    flow_options: dict[str, Any] = Field(default_factory=dict, description="Options of the flow.")
    engine: str | None = Field(None, description="Engine; that of the labels when left out.")
    engine_options: dict[str, Any] | None = Field(
        None, description="Options of the engine; those of the labels when both are left out."
    )

    @field_validator("when")
    @classmethod
    def _can_be_read(cls, value: str) -> str:
        from flows.conditions import parse_condition
        from flows.errors import ConditionError

        if value:
            try:
                parse_condition(value)
            except ConditionError as error:
                raise ValueError(error.one_line()) from error
        return value


class RungConfig(FollowUpConfig):
    """A rung of the ladder: what is computed next of a candidate that is worth it."""

    name: str = Field(min_length=1, description="Its name, for conditions of higher rungs and for queries.")
    judge: bool = Field(
        False,
        description="Work out e_above_hull at these settings: the candidate's verdict from then on. Elements (and hull "
        "phases, as labels.hull says) are computed with them as soon as the first candidate climbs here.",
    )
    worth: Annotated[float, Field(gt=0)] = Field(
        1.0, description="What its outcome is worth for a stable crystal; finding a stable one is worth 1."
    )
    core_hours: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Core-hours expected of a cell of 8 atoms before any has ended; the engine's own estimate of a "
        "relaxation when left out.",
    )
    error_ev_per_atom: Annotated[float, Field(gt=0)] = Field(
        0.03,
        description="How far its e_above_hull is expected from that of the rung below, before pairs of both are known "
        "[eV/atom].",
    )


class FailureConfig(Block):
    """What is done about one cause of failure."""

    tries: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="The failure of this number is the last one; as the table says when left out."
    )
    cures: tuple[Cure, ...] | None = Field(
        None,
        description="What the tries after the first, second, ... failure do otherwise, each keeping those before it: "
        + ", ".join(Cure)
        + "; as the table says when left out.",
    )


class LabelsConfig(Block):
    """What is computed for a selected candidate, and with which engine."""

    flow: str = Field("relax_static", description="Label flow by its name, or an import path.")
    engine: str = Field(
        "gpaw", description="Engine: gpaw, abinit, cp2k, espresso, vasp, mlip, or an import path."
    )
    engine_options: dict[str, Any] = Field(default_factory=dict, description="Options of the engine.")
    flow_options: dict[str, Any] = Field(default_factory=dict, description="Options of the flow.")
    hull: Literal["engine", "reference", "materials_project", "given"] = Field(
        "engine",
        description="engine: elements and hull phases of the chemistry are computed once with the same settings, "
        "so that e_above_hull is consistent; reference: only the elements, and the hull of the reference data; "
        "materials_project: as reference, labels corrected as the Materials Project corrects its own (engine vasp "
        "with preset mp, and reference.energy_scale: materials_project); given: the engine's energies are formation "
        "energies on the scale of the reference data already (the engine of `campaign benchmark`).",
    )
    max_attempts: Annotated[int, Field(ge=1, le=20)] = Field(
        2, description="Tries of a job that fails for a cause without a number of its own (see `on_failure`)."
    )
    on_failure: dict[FailureCause, FailureConfig] = Field(
        default_factory=dict,
        description="What to do otherwise about causes of failure, for example scf_not_converged: {tries: 4}.",
    )
    job_hours: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Longest time of one job [h]; what it had relaxed by then is not lost. None: any."
    )
    max_job_hours: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="What the cure more_time raises `job_hours` to at most [h]; four times `job_hours` when left out.",
    )
    job_memory_gb: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Most memory of one job's process [GB]; None: any."
    )
    max_job_memory_gb: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="What the cure more_memory raises `job_memory_gb` to at most [GB]; four times `job_memory_gb` when "
        "left out.",
    )
    stable_ev_per_atom: float = Field(
        0.0, description="A label counts as stable when its e_above_hull is at most this [eV/atom]."
    )
    then: dict[str, FollowUpConfig] = Field(
        default_factory=dict,
        description="Further labels of candidates by name, each when its condition holds, for example "
        "phonon: {when: 'e_above_hull < 0.05'}.",
    )
    ladder: tuple[RungConfig, ...] = Field(
        (),
        description="Rungs that candidates climb from their first label on, one after the other, the most stable "
        "crystals expected per core-hour first.",
    )
    ladder_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5,
        description="Most that the ladder may take of the core-hours expected of all labels while there are rounds; "
        "the rest is for fresh candidates.",
    )
    ladder_floor: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1,
        description="What the ladder may take of them although a core-hour of fresh candidates promises more.",
    )
    ladder_lag_rounds: Annotated[int, Field(ge=0, le=100)] = Field(
        1,
        description="Outcomes of rungs are used, and waited for, so many rounds later than those of first labels.",
    )
    ladder_costs: Literal["measured", "estimated"] = Field(
        "measured",
        description="measured: core-hours are learned from labels that have ended, so that timing may change what "
        "climbs; estimated: by the engines' estimates and `core_hours` alone, so that a seed gives the same choices.",
    )

    @field_validator("then")
    @classmethod
    def _names_are_plain(cls, value: dict[str, FollowUpConfig]) -> dict[str, FollowUpConfig]:
        for name in value:
            _check_name(name)
        return value

    @field_validator("ladder")
    @classmethod
    def _rungs_ask_for_what_is_below(cls, value: tuple[RungConfig, ...]) -> tuple[RungConfig, ...]:
        known = label_fields()
        for rung in value:
            _check_name(rung.name)
            if rung.name in known:
                raise ValueError(f"two rungs are named {rung.name!r}")
            _check_condition(rung.name, rung.when, known)
            known |= {rung.name}
        return value

    @model_validator(mode="after")
    def _conditions_ask_for_what_there_is(self) -> Self:
        rungs = {rung.name for rung in self.ladder}
        for name, entry in self.then.items():
            if name in rungs:
                raise ValueError(f"{name!r} is a rung of the ladder already: give the label another name")
            _check_condition(name, entry.when, label_fields() | rungs | (self.then.keys() - {name}))
        if self.ladder and self.ladder_floor > self.ladder_share:
            raise ValueError(
                f"ladder_floor is {self.ladder_floor:g}, and ladder_share {self.ladder_share:g}: it may not be more"
            )
        return self

    @model_validator(mode="after")
    def _limits_grow(self) -> Self:
        for name in ("job_hours", "job_memory_gb"):
            limit, most = getattr(self, name), getattr(self, f"max_{name}")
            if most is not None and (limit is None or most < limit):
                raise ValueError(
                    f"max_{name} is {most:g}, but {name} is {'not set' if limit is None else format(limit, 'g')}: "
                    f"set {name}, and no more than max_{name}"
                )
        return self

    def policies(self) -> dict[str, Policy]:
        """Return what is done about each cause of failure."""
        return {
            cause: Policy(
                said.tries if said and said.tries is not None else known.tries,
                said.cures if said and said.cures is not None else known.cures,
            )
            for cause, known in POLICIES.items()
            for said in [self.on_failure.get(FailureCause(cause))]
        }

    @property
    def further(self) -> dict[str, FollowUpConfig]:
        """Everything that may follow a first label, by name: what lies in `then`, and the rungs of the ladder."""
        return {**self.then, **{rung.name: rung for rung in self.ladder}}

    def follow_up(self, name: str) -> FollowUpConfig:
        """Return an entry of `then` or a rung with everything that was left out filled in."""
        entry = self.further[name]
        own_engine = entry.engine is not None or entry.engine_options is not None
        return entry.model_copy(
            update={
                "flow": entry.flow or name,
                "engine": entry.engine or self.engine,
                "engine_options": (entry.engine_options or {}) if own_engine else self.engine_options,
            }
        )


def _check_name(name: str) -> None:
    if not name.isidentifier() or name in label_fields():
        raise ValueError(f"{name!r} cannot name a further label: take a plain word such as phonon")


def _check_condition(name: str, when: str, known: Collection[str]) -> None:
    """Refuse a condition that asks for what nobody will know."""
    from flows.conditions import parse_condition

    for field in parse_condition(when).fields if when else ():
        if field.partition(".")[0] not in known:
            close = difflib.get_close_matches(field, sorted(known), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{name}: no label has a field {field!r}{hint}")
