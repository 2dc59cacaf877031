"""Versions of what decides a campaign's results."""

from __future__ import annotations

import platform
from importlib import metadata

PACKAGES = ("torch", "pymatgen", "atomate2", "jobflow", "maggma", "parsl", "chgnet", "ase", "smact", "spglib")


def package_versions() -> dict[str, str]:
    """Return the versions of what decides a campaign's results."""
    found = {"python": platform.python_version()}
    for name in ("crystal-campaign", *PACKAGES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
