"""`campaign init`: commented configurations to start from, shipped as data."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from campaign.errors import ConfigError
from campaign.run_folder import write_atomic

TEMPLATES = {
    "quickstart": "Ca-Mg-Si silicides with GPAW, minutes on two cores",
    "laptop": "the same chemistry with every block written out, a larger hunt for a workstation",
    "parquet": "your own reference crystals from Parquet files, hull included",
    "benchmark": "retrospective campaigns on crystals whose truth is known, for `campaign benchmark`",
    "csp": "crystal-structure prediction: one formula, its ground state or polymorphs",
}
"""Template name -> what it is."""


def template_text(name: str) -> str:
    """Return the text of a template.

    Raises:
        ConfigError: There is no such template.
    """
    if name not in TEMPLATES:
        allowed = [f"{key} ({words})" for key, words in TEMPLATES.items()]
        raise ConfigError("unknown template", value=name, allowed=allowed, cure="choose one with --template")
    return resources.files("campaign").joinpath("data", f"template_{name}.yaml").read_text(encoding="utf-8")


def write_template(file: Path, name: str, *, force: bool) -> str:
    """Write a template to a file, and return what to do next.

    Raises:
        ConfigError: Unknown template, or the file exists.
    """
    write_config(file, template_text(name), force=force)
    then = "run it with `campaign benchmark" if name == "benchmark" else "check it with `campaign validate"
    return f"wrote {file}; {then} {file}`"


def write_config(file: Path, text: str, *, force: bool) -> None:
    """Write a campaign.yaml.

    Raises:
        ConfigError: The file exists, or its folder does not.
    """
    if file.exists() and not force:
        raise ConfigError("the file exists", value=str(file), cure="name another, or add --force")
    if not file.parent.is_dir():
        raise ConfigError(
            "the folder does not exist", value=str(file.parent), cure="make it, or name another"
        )
    write_atomic(file, text)
