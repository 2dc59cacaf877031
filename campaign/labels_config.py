"""The block `labels` of campaign.yaml; light, because every command reads it."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from campaign.config_block import Block

SUMMARIES = frozenset({"phonon", "elastic", "equation_of_state"})
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


class LabelsConfig(Block):
    """What is computed for a selected candidate, and with which engine."""

    flow: str = Field("relax_static", description="Label flow by its name, or an import path.")
    engine: str = Field("gpaw", description="DFT engine by its name, or an import path.")
    engine_options: dict[str, Any] = Field(default_factory=dict, description="Options of the engine.")
    flow_options: dict[str, Any] = Field(default_factory=dict, description="Options of the flow.")
    hull: Literal["engine", "reference"] = Field(
        "engine",
        description="engine: elements and hull phases of the chemistry are computed once with the same settings, "
        "so that e_above_hull is consistent; reference: only the elements, and the hull of the reference data.",
    )
    max_attempts: Annotated[int, Field(ge=1, le=20)] = Field(
        2, description="Tries of a job before its label fails. Lost nodes and walltimes do not count."
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
