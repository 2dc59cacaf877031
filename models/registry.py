"""Every model that can be named in a campaign: plain dicts of «name: module:Class».

A new model is one file and one line here. The contract test runs over these dicts. Nothing is imported
until a name is resolved.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from models.errors import OptionsError, UnknownComponentError

GENERATORS: dict[str, str] = {
    "wycryst": "models.generators.wycryst.generator:WyCrystGenerator",
    "ftcp": "models.generators.ftcp.generator:FTCPGenerator",
    "substitution": "models.generators.substitution:SubstitutionGenerator",
    "pool": "models.generators.pool:PoolGenerator",
}
"""Models that propose crystals."""

SURROGATES: dict[str, str] = {
    "chgnet": "models.surrogates.chgnet:CHGNetSurrogate",
    "sevennet": "models.surrogates.sevennet:SevenNetSurrogate",
}
"""Universal potentials that relax crystals and give their energy."""

HEADS: dict[str, str] = {
    "cgcnn": "models.heads.cgcnn:CGCNNHead",
    "wyckoff": "models.heads.wyckoff:WyckoffHead",
    "descriptors": "models.heads.descriptors:DescriptorHead",
}
"""Models that predict properties of a crystal, with an uncertainty."""

DISCRIMINATORS: dict[str, str] = {
    "cgcnn": "models.discriminators.cgcnn:CGCNNDiscriminator",
    "wyckoff": "models.discriminators.wyckoff:WyckoffDiscriminator",
    "descriptors": "models.discriminators.descriptors:DescriptorDiscriminator",
}
"""Models that tell stable from unstable crystals."""


def resolve(kind: str, registry: Mapping[str, str], what: str) -> type[Any]:
    """Find the class behind a registry name, or behind the user's own «package.module:Class».

    Args:
        kind: A key of `registry`, or the import path of a class.
        registry: One of the dicts of this module.
        what: What is being looked for, for the error: "generator", "surrogate", ...

    Returns:
        The class. It is imported, not built.

    Raises:
        UnknownComponentError: No such name, or the path does not import, or it names no component.
    """
    path = registry.get(kind, kind)
    module_name, colon, class_name = path.partition(":")
    if not (colon and module_name and class_name):
        raise UnknownComponentError(
            f"unknown {what}",
            value=kind,
            allowed=sorted(registry),
            cure="choose one of these, or name your own class as package.module:Class",
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may fail in any way while it is imported
        raise UnknownComponentError(
            f"{what} {kind!r} does not import ({type(error).__name__}: {error})",
            allowed=sorted(registry),
            cure="install what the class needs and check that its package is on the Python path",
        ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type) or not hasattr(found, "Config"):
        raise UnknownComponentError(
            f"{what} {kind!r} is not a component: it must be a class with a Config",
            value=found,
            allowed=sorted(registry),
        )
    return found


def build(kind: str, registry: Mapping[str, str], what: str, options: Mapping[str, Any]) -> Any:
    """Resolve `kind` and build it from its options.

    Args:
        kind: A key of `registry`, or the import path of a class.
        registry: One of the dicts of this module.
        what: What is being built, for errors: "generator", "surrogate", ...
        options: Fields of the component's `Config`.

    Returns:
        `cls(cls.Config(**options))`.

    Raises:
        UnknownComponentError: As `resolve`.
        OptionsError: An option is misspelt, missing or out of range.
    """
    cls = resolve(kind, registry, what)
    return cls(read_options(cls, kind, what, options))


def read_options(cls: type[Any], kind: str, what: str, options: Mapping[str, Any]) -> Any:
    """Check options against a component's `Config` without building the component.

    Raises:
        OptionsError: An option is misspelt, missing or out of range; all of them are named in one line.
    """
    from pydantic import ValidationError

    try:
        return cls.Config(**options)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            name = ".".join(str(part) for part in item["loc"]) or "options"
            got = "" if item["type"] == "missing" else f" (got {item['input']!r})"
            problems.append(f"{name}: {item['msg']}{got}")
        raise OptionsError(
            f"wrong options for {what} {kind!r}: " + " | ".join(problems),
            allowed=sorted(cls.Config.model_fields),
            cure="correct the options block of this component",
        ) from error
    except TypeError as error:  # a key that is no identifier, or not a string
        raise OptionsError(f"wrong options for {what} {kind!r}: {error}", value=dict(options)) from error
