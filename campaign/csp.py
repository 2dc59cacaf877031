"""`campaign csp`: crystal-structure prediction as a campaign.

Without a space group the ground state of a formula is looked for, with some its polymorphs in these groups: the two
tasks of WyCryst (Zhu et al., Matter 7, 3469 (2024)). What is written is an ordinary campaign.yaml, made from the
template `csp`.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from campaign.chemistry import parse_formula
from campaign.config import parse_config
from campaign.errors import ConfigError
from campaign.templates import template_text

LEAST_MAX_ATOMS = 20
"""Room in the primitive cell for any formula: four units of a perovskite."""

UNITS = 2
"""Formula units that larger formulas get room for."""


@dataclass(frozen=True)
class CspTask:
    """What is to be predicted."""

    formula: str
    spacegroups: tuple[int, ...] = ()
    """Space groups of the polymorphs; empty for the ground state."""
    reference: tuple[str, ...] = ()
    """Sources of known crystals; the template's when none is named."""
    engine: str | None = None
    """Engine of the labels; the template's, and its flow, when left out."""
    rounds: int = 1
    leave_out: bool = False
    """Learn nothing from known crystals of the formula."""


def csp_text(task: CspTask) -> str:
    """Return the campaign.yaml of a structure prediction; files in it are named by their absolute paths.

    Raises:
        ConfigError: The formula or a space group does not exist, or does not fit into a campaign.
    """
    try:
        amounts = parse_formula(task.formula)
    except ValueError as error:
        raise ConfigError(str(error), cure="write it as CaTiO3 or Ca3(PO4)2") from None
    plain = "".join(f"{symbol}{count if count > 1 else ''}" for symbol, count in amounts.items())
    groups = sorted(set(task.spacegroups))
    sources = [str(Path(one).resolve()) if Path(one).exists() else one for one in task.reference]
    values: dict[str, object] = {
        "name": "-".join(["csp", plain, *map(str, groups)])[:63],
        "formula": plain,
        "spacegroups": groups,
        "max_atoms": max(LEAST_MAX_ATOMS, UNITS * sum(amounts.values())),
        "exclude": [plain] if task.leave_out else [],
        "rounds": task.rounds,
    }
    if sources:
        values["crystals"] = sources
    if task.engine is not None:
        values |= {"engine": task.engine, "flow": "static" if task.engine == "mlip" else "relax_static"}
    if task.rounds > 1:
        values["generators"] = True
    text = template_text("csp")
    for key, value in values.items():
        text = _with_value(text, key, value)
    parse_config(yaml.safe_load(text), f"csp {task.formula}")
    return text


@contextmanager
def configuration(text: str, run_dir: Path | None) -> Iterator[tuple[Path, Path]]:
    """Lay a campaign.yaml out for a launch; yields it and the run folder, which keeps a copy of its own.

    Args:
        text: What `csp_text` returned.
        run_dir: The run folder; none takes one here, named after the campaign.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "campaign.yaml"
        file.write_text(text, encoding="utf-8")
        yield file, run_dir or Path(yaml.safe_load(text)["name"])


def _with_value(text: str, key: str, value: object) -> str:
    """Return the template with the value of a key that occurs once as a line's own; comments stay."""
    pattern = re.compile(rf"^( *{key}: )(\[[^\]]*\]|[^\s#]+)( *#.*)?$", re.MULTILINE)
    bare = isinstance(value, str) and yaml.safe_load(value) == value  # NO would be read as false
    shown = value if bare else json.dumps(value)
    filled, count = pattern.subn(lambda found: f"{found[1]}{shown}{found[3] or ''}", text)
    if count != 1:
        raise ConfigError(f"the template csp has {count} lines of the key {key}", allowed=1)
    return filled
