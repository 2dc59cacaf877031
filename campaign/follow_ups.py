"""Which further labels a candidate's labels call for: a pure decision on documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from campaign.labels_config import SUMMARIES, FollowUpConfig


def called_for(
    then: Mapping[str, FollowUpConfig], root: Mapping[str, Any], family: Sequence[Mapping[str, Any]]
) -> tuple[list[str], dict[str, str]]:
    """Return the names of the further labels to make now, in the order of the configuration.

    Args:
        then: What the configuration wants by name, and when.
        root: The candidate's first label, done and judged.
        family: Its further labels that exist already.

    Returns:
        Names; and of conditions that do not fit the values, why not.
    """
    from flows.conditions import parse_condition
    from flows.errors import ConditionError

    document = known_fields(root, family)
    made = {one["step"] for one in family}
    names, odd = [], {}
    for name, entry in then.items():
        if name in made:
            continue
        try:
            holds = not entry.when or parse_condition(entry.when).holds(document)
        except ConditionError as error:
            odd[name] = error.one_line()
            continue
        if holds:
            names.append(name)
    return names, odd


def known_fields(root: Mapping[str, Any], family: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a condition may ask for: the first label's fields, and those of further ones under their names.

    What a flow has found beside the energy lies directly under the label's name: `phonon.dynamically_stable`.
    """
    found: dict[str, Any] = dict(root.get("result") or {})
    for label in family:
        result = label.get("result")
        if label["state"] == "done" and result:
            summaries = [result[key] for key in sorted(SUMMARIES) if result.get(key)]
            found[label["step"]] = {**result, **(summaries[0] if summaries else {})}
    return found
