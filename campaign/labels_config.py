"""The block `labels` of campaign.yaml; light, because every command reads it."""

from __future__ import annotations

import difflib
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

    @field_validator("then")
    @classmethod
    def _conditions_ask_for_what_there_is(cls, value: dict[str, FollowUpConfig]) -> dict[str, FollowUpConfig]:
        from flows.conditions import parse_condition

        for name, entry in value.items():
            if not name.isidentifier() or name in label_fields():
                raise ValueError(f"{name!r} cannot name a further label: take a plain word such as phonon")
            known = label_fields() | (value.keys() - {name})
            asked = parse_condition(entry.when).fields if entry.when else ()
            for field in asked:
                if field.partition(".")[0] not in known:
                    close = difflib.get_close_matches(field, sorted(known), n=1)
                    hint = f"; did you mean {close[0]!r}?" if close else ""
                    raise ValueError(f"{name}: no label has a field {field!r}{hint}")
        return value

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

    def follow_up(self, name: str) -> FollowUpConfig:
        """Return an entry of `then` with everything that was left out filled in."""
        entry = self.then[name]
        own_engine = entry.engine is not None or entry.engine_options is not None
        return entry.model_copy(
            update={
                "flow": entry.flow or name,
                "engine": entry.engine or self.engine,
                "engine_options": (entry.engine_options or {}) if own_engine else self.engine_options,
            }
        )
