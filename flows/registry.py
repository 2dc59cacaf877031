"""Label flows and engines by name: plain dicts of import paths, so that naming one imports nothing."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from flows.errors import EngineOptionsError, UnknownFlowError

LABEL_FLOWS: dict[str, str] = {
    "static": "flows.relax:StaticLabelMaker",
    "relax": "flows.relax:RelaxLabelMaker",
    "relax_static": "flows.relax:RelaxStaticLabelMaker",
    "phonon": "flows.phonon:PhononLabelMaker",
    "elastic": "flows.elastic:ElasticLabelMaker",
    "eos": "flows.eos:EosLabelMaker",
    "electronic": "flows.electronic:ElectronicLabelMaker",
}
"""Makers of label flows; the last job of each gives a `flows.schemas.LabelDoc`."""

ENGINES: dict[str, str] = {
    "abinit": "flows.engines.abinit:AbinitEngine",
    "cp2k": "flows.engines.cp2k:Cp2kEngine",
    "espresso": "flows.engines.espresso:EspressoEngine",
    "gpaw": "flows.engines.gpaw:GpawEngine",
    "mlip": "flows.engines.mlip:MlipEngine",
    "vasp": "flows.engines.vasp:VaspEngine",
}
"""Codes that compute energies, forces and stresses."""


def resolve(kind: str, registry: Mapping[str, str], what: str) -> type[Any]:
    """Find the class behind a registered name, or behind the user's own «package.module:Class».

    Raises:
        UnknownFlowError: No such name, or the path does not import.
    """
    module_name, colon, class_name = registry.get(kind, kind).partition(":")
    cure = "choose one of these, or name your own class as package.module:Class"
    if not (colon and module_name and class_name):
        raise UnknownFlowError(f"unknown {what}", value=kind, allowed=sorted(registry), cure=cure)
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except Exception as error:  # a user's module may fail in any way while it is imported
        raise UnknownFlowError(
            f"{what} {kind!r} does not import ({type(error).__name__}: {error})",
            allowed=sorted(registry),
            cure=cure,
        ) from error
    if not isinstance(found, type) or not hasattr(found, "Config"):
        raise UnknownFlowError(
            f"{what} {kind!r} is no class with a Config", value=found, allowed=sorted(registry)
        )
    return found


def build(kind: str, registry: Mapping[str, str], what: str, options: Mapping[str, Any]) -> Any:
    """Resolve `kind` and build it from its options.

    Raises:
        UnknownFlowError: As `resolve`.
        EngineOptionsError: An option is misspelt, missing or out of range.
    """
    from pydantic import ValidationError

    cls = resolve(kind, registry, what)
    try:
        return cls(cls.Config(**options))
    except ValidationError as error:
        problems = []
        for item in error.errors():
            name = ".".join(str(part) for part in item["loc"]) or "options"
            got = "" if item["type"] == "missing" else f" (got {item['input']!r})"
            problems.append(f"{name}: {item['msg'].removeprefix('Value error, ')}{got}")
        raise EngineOptionsError(
            f"wrong options for {what} {kind!r}: " + " | ".join(problems),
            allowed=sorted(cls.Config.model_fields),
            cure="correct the options",
        ) from error
    except TypeError as error:  # a key that is no string
        raise EngineOptionsError(
            f"wrong options for {what} {kind!r}: {error}", value=dict(options)
        ) from error
