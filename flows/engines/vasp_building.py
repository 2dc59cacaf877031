"""From options to a jobflow Maker of VASP jobs."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from atomate2.vasp.jobs.base import BaseVaspMaker
from jobflow import Maker
from monty.json import MontyDecoder

from flows.engines.vasp_job import VaspJobMaker
from flows.errors import EngineOptionsError


def vasp_maker(
    path: str,
    options: Mapping[str, Any],
    *,
    tags: Mapping[str, Any],
    potcar_functional: str | None,
    asked: Sequence[str],
    running: Mapping[str, Any],
) -> Maker:
    """Return a Maker whose VASP jobs run as `flows.engines.vasp_job` says.

    Args:
        path: «module:Class» of the Maker.
        options: Its keyword arguments; a dictionary with @module and @class stands for an object.
        tags: INCAR tags over its own.
        potcar_functional: POTCAR library over its own.
        asked: What the user wants changed in it.
        running: Fields of `VaspJobMaker`.

    Raises:
        EngineOptionsError: It does not import, does not take the options, or holds no VASP job to change.
    """
    maker = maker_at(path, options)
    inner = vasp_makers(maker)
    if not inner:
        if asked:
            raise EngineOptionsError(
                f"{path} holds no VASP maker of atomate2 whose inputs could be changed",
                value=", ".join(asked),
                cure="say them in the Maker's own options",
            )
        return maker
    ready: Maker = _replaced(maker, dict(tags), potcar_functional, dict(running))
    return ready


def maker_at(path: str, options: Mapping[str, Any]) -> Maker:
    """Build a Maker by its import path.

    Raises:
        EngineOptionsError: There is none, or it does not take the options.
    """
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # a user's module may fail in any way while it is imported
        raise EngineOptionsError(
            f"the Maker does not import ({error})", value=path, cure="correct the path «module:Class»"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Maker)):
        raise EngineOptionsError("this is no jobflow Maker", value=path, cure="name a subclass of Maker")
    try:
        return found(**MontyDecoder().process_decoded(dict(options)))
    except Exception as error:  # TypeErrors, and what a Maker or its input set raises when it is built
        raise EngineOptionsError(
            f"{path} does not take these options ({error})", value=dict(options), cure="correct its options"
        ) from error


def vasp_makers(maker: Any) -> list[BaseVaspMaker]:
    """Return the makers of VASP jobs within a Maker, itself included."""
    if isinstance(maker, BaseVaspMaker):
        return [maker]
    if not isinstance(maker, Maker):
        return []
    fields = [getattr(maker, one.name) for one in dataclasses.fields(maker)]
    return [found for field in fields for found in vasp_makers(field)]


def _replaced(maker: Any, tags: dict[str, Any], functional: str | None, running: dict[str, Any]) -> Any:
    if isinstance(maker, BaseVaspMaker):
        return VaspJobMaker(name=maker.name, maker=_with_inputs(maker, tags, functional), **running)
    if not isinstance(maker, Maker):
        return maker
    names = [one.name for one in dataclasses.fields(maker) if one.init]
    parts = {name: _replaced(getattr(maker, name), tags, functional, running) for name in names}
    return dataclasses.replace(maker, **parts)


def _with_inputs(maker: BaseVaspMaker, tags: dict[str, Any], functional: str | None) -> BaseVaspMaker:
    """Return the Maker with INCAR tags over those of its input set, and POTCARs from another library."""
    generator = maker.input_set_generator
    changes: dict[str, Any] = {"user_incar_settings": {**generator.user_incar_settings, **tags}}
    if functional is not None:
        changes["user_potcar_functional"] = functional
    return dataclasses.replace(maker, input_set_generator=dataclasses.replace(generator, **changes))
