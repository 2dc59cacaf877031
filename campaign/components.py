"""Looks up what campaign.yaml names: options of components, screening segments, label settings, load per round.

Imports `models` and `flows` inside functions: together with `campaign.tasks` and `campaign.training_task` this is
the door to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from campaign.config import CampaignConfig, ComponentConfig
from campaign.errors import ComponentError
from campaign.orders import ModelRole, model_roles
from campaign.plan import Segment, Spec
from campaign.state import RoundState

if TYPE_CHECKING:
    from campaign.references.entries import ReferenceSet


def spec_of(config: CampaignConfig) -> Spec:
    """Return the configuration as `plan` needs it.

    Raises:
        ComponentError: An unknown screen.
    """
    from campaign.screens.funnel import is_campaign_scope, needs_judges, needs_surrogate, pool_of, segments

    roles = model_roles(config)
    return Spec(
        config=config,
        segments=tuple(
            Segment(
                tuple((kind, dict(options)) for kind, options in run),
                is_campaign_scope(run),
                pool_of(run),
                needs_judges(run),
                needs_surrogate(run),
            )
            for run in segments([(screen.kind, screen.options) for screen in screens_of(config)])
        ),
        generators=tuple(key for key, role in roles.items() if role.role == "generator"),
        judges=tuple(key for key, role in roles.items() if role.role in ("head", "discriminator")),
        surrogates=tuple(key for key, role in roles.items() if role.role == "surrogate"),
    )


def screens_of(config: CampaignConfig) -> tuple[ComponentConfig, ...]:
    """Return the screens in order; the default list where campaign.yaml names none."""
    if config.screen is not None:
        return config.screen
    from campaign.screens.registry import DEFAULT_SCREEN

    return tuple(ComponentConfig(kind=kind, options=dict(options)) for kind, options in DEFAULT_SCREEN)


def check_components(config: CampaignConfig) -> None:
    """Check every component's name and options, importing each class but loading no weights.

    Raises:
        ComponentError: A screen is unknown, mis-optioned, or asks for a model that the campaign has not.
        ModelsError: A generator, head, discriminator or surrogate is.
        FlowsError: The label flow or the engine is.
    """
    from campaign.screens.funnel import read_options as read_screen_options
    from campaign.screens.funnel import resolve_screen
    from models.registry import DISCRIMINATORS, GENERATORS, HEADS, SURROGATES, read_options, resolve

    roles = {role.role for role in model_roles(config).values()}
    for screen in screens_of(config):
        found = resolve_screen(screen.kind)
        read_screen_options(found, screen.options)
        if screen.kind == "second_opinion":
            check_second_opinion(screen.options)
        if found.needs_judge is not None and found.needs_judge not in roles:
            raise ComponentError(
                f"the screen {screen.kind} needs a {found.needs_judge}, and the campaign has none",
                cure=f"add one to learn.{found.needs_judge}s",
            )
    registries: dict[str, Mapping[str, str]] = {
        "generator": GENERATORS,
        "head": HEADS,
        "discriminator": DISCRIMINATORS,
        "surrogate": SURROGATES,
    }
    for role in model_roles(config).values():
        cls = resolve(role.kind, registries[role.role], role.role)
        read_options(cls, role.kind, role.role, role.options)
        check_checkpoint(role, cls)
    check_objectives(config)
    surrogate = config.surrogate
    cls = resolve(surrogate.kind, SURROGATES, "surrogate")
    read_options(cls, surrogate.kind, "surrogate", surrogate.options)
    if hasattr(cls, "check"):
        cls.check()
    if config.learn.surrogate.enabled and not hasattr(cls, "fine_tune"):
        raise ComponentError(
            "the surrogate cannot learn: its class has no fine_tune",
            value=surrogate.kind,
            cure="choose another surrogate, or leave learn.surrogate out",
        )
    label_settings(config)
    follow_up_settings(config)
    check_ladder(config)
    check_hull(config)


def check_checkpoint(role: ModelRole, cls: type[Any]) -> None:
    """Check that the checkpoint that a model begins with can be read, and was made with the options that are named.

    Raises:
        ComponentError: It cannot, or was not.
    """
    from models.errors import ModelsError

    if role.checkpoint is None:
        return
    where = f"the checkpoint of the {role.role} {role.kind}"
    try:
        model = cls.load(role.checkpoint)
    except (ModelsError, OSError, ValueError, KeyError, TypeError) as error:
        why = error.one_line() if isinstance(error, ModelsError) else f"{type(error).__name__}: {error}"
        raise ComponentError(
            f"{where} cannot be read ({why})",
            value=str(role.checkpoint),
            cure="name the folder of a checkpoint of this kind, such as one in `models/` of a run folder",
        ) from error
    wanted, had = cls.Config(**role.options), getattr(model, "config", None)
    for name in role.options:
        if (
            name != "device"
            and had is not None
            and not _alike(getattr(had, name, None), getattr(wanted, name))
        ):
            raise ComponentError(
                f"{where} was made with another {name}",
                value=getattr(wanted, name),
                allowed=getattr(had, name, None),
                cure="leave this option out, or name another checkpoint",
            )


def _alike(one: object, other: object) -> bool:
    """Return whether two values of an option are equal; of files, whether folder and name are: a run may be moved."""
    if isinstance(one, Path) and isinstance(other, Path):
        return one.parts[-2:] == other.parts[-2:]
    return one == other


def check_second_opinion(options: Mapping[str, Any]) -> None:
    """Check the other potential of a screen `second_opinion`, and that its package is installed here.

    Raises:
        ModelsError: It is unknown or mis-optioned, or its package is missing.
    """
    from campaign.screens.second_opinion import SecondOpinionOptions
    from models.registry import SURROGATES, read_options, resolve

    wanted = SecondOpinionOptions(**options)
    cls = resolve(wanted.surrogate, SURROGATES, "surrogate")
    read_options(cls, wanted.surrogate, "surrogate", wanted.options)
    if hasattr(cls, "check"):
        cls.check()


def check_objectives(config: CampaignConfig) -> None:
    """Check that some head predicts each property that the acquisition aims at.

    Raises:
        ComponentError: None does.
    """
    from models.registry import HEADS, read_options, resolve

    known: set[str] = set()
    for head in config.learn.heads:
        cls = resolve(head.kind, HEADS, "head")
        options = read_options(cls, head.kind, "head", head.options)
        named = getattr(options, "properties", ()) or getattr(
            cls, "properties", ()
        )  # not every head has a choice
        known |= set(named)
    for objective in config.acquisition.objectives:
        if objective.property not in known:
            raise ComponentError(
                "no head predicts the property of an objective of the acquisition",
                value=objective.property,
                allowed=sorted(known),
                cure="name it in the options of a head in learn.heads",
            )


def check_hull(config: CampaignConfig) -> None:
    """Check that labels and the phases that they are compared with have their energies on one scale.

    Raises:
        ComponentError: `labels.hull: given` with an engine of total energies; `labels.hull: materials_project` with
            other settings than the Materials Project's, or with reference data that are not said to hold its
            corrected energies.
    """
    from flows.registry import ENGINES, build

    labels, reference = config.labels, config.reference
    if labels.hull not in {"materials_project", "given"}:
        return
    why = "total energies of other settings differ by more than what separates stable from unstable"
    judged = [(labels.engine, labels.engine_options)]
    rungs = [labels.follow_up(rung.name) for rung in labels.ladder if rung.judge]
    judged += [(str(one.engine), dict(one.engine_options or {})) for one in rungs]
    for kind, options in judged:
        engine = build(kind, ENGINES, "engine", options)
        if labels.hull == "given" and not getattr(engine, "gives_formation_energies", False):
            raise ComponentError(
                "labels.hull: given needs an engine whose energies are formation energies",
                value=kind,
                cure="choose hull: engine, or hull: reference",
            )
        if labels.hull != "given" and not getattr(engine, "on_materials_project_scale", False):
            raise ComponentError(
                f"labels.hull: materials_project needs labels with its own settings, for {why}",
                value=f"engine {kind} with {options}",
                allowed="engine vasp with preset mp, and no other option that decides an energy",
                cure="choose these, or hull: engine, which computes the competing phases with the labels' own settings",
            )
    if labels.hull == "given":
        return
    sources = reference.crystals if reference.hull is None else reference.hull
    others = [one for one in sources if one.partition(":")[0] != "materials-project"]
    builtin = [one for one in others if one.startswith("builtin:")]
    if builtin or (others and reference.energy_scale != "materials_project"):
        raise ComponentError(
            "labels.hull: materials_project needs a hull of corrected Materials Project energies",
            value=", ".join(builtin or others),
            allowed="the source materials-project, or files under reference.energy_scale: materials_project",
            cure="name such a source in reference.hull, and say its energy_scale; or choose hull: engine",
        )


def label_settings(config: CampaignConfig) -> tuple[dict[str, Any], str]:
    """Return the settings of the campaign's labels and their hash.

    Raises:
        FlowsError: The label flow or the engine is unknown or mis-optioned.
    """
    from flows.run import settings_hash, settings_of

    labels = config.labels
    settings = settings_of(labels.flow, labels.engine, labels.engine_options, labels.flow_options)
    return settings, settings_hash(settings)


def label_cost(config: CampaignConfig) -> Callable[[int, Sequence[str]], float]:
    """Return the engine's own estimate of a label: number of atoms and elements -> core-seconds.

    Raises:
        FlowsError: The engine is unknown or mis-optioned.
    """
    from flows.registry import ENGINES, build

    engine = build(config.labels.engine, ENGINES, "engine", config.labels.engine_options)
    cost: Callable[[int, Sequence[str]], float] = engine.expected_core_seconds
    return cost


def rung_costs(config: CampaignConfig) -> dict[str, Callable[[int, Sequence[str]], float]]:
    """Return the estimate of the engine of each rung of the ladder, see `label_cost`.

    Raises:
        FlowsError: An engine is unknown or mis-optioned.
    """
    from flows.registry import ENGINES, build

    entries = {rung.name: config.labels.follow_up(rung.name) for rung in config.labels.ladder}
    return {
        name: build(str(one.engine), ENGINES, "engine", dict(one.engine_options or {})).expected_core_seconds
        for name, one in entries.items()
    }


def check_ladder(config: CampaignConfig) -> None:
    """Check that every rung has settings of its own: the same label is never computed twice.

    Raises:
        ComponentError: Two have the same.
        FlowsError: A flow or an engine is unknown or mis-optioned.
    """
    known = {label_settings(config)[1]: "the first labels"}
    for rung, mark in rung_hashes(config).items():
        if mark in known:
            raise ComponentError(
                f"a rung of the ladder has the flow and settings of {known[mark]}",
                value=rung,
                cure="give it an engine, engine_options, a flow or flow_options of its own",
            )
        known[mark] = f"the rung {rung}"


def follow_up_settings(config: CampaignConfig) -> dict[str, dict[str, Any]]:
    """Return the settings of each further label by its name.

    Raises:
        FlowsError: A flow or an engine is unknown or mis-optioned.
    """
    from flows.run import settings_of

    entries = {name: config.labels.follow_up(name) for name in config.labels.further}
    return {
        name: settings_of(str(one.flow), str(one.engine), dict(one.engine_options or {}), one.flow_options)
        for name, one in entries.items()
    }


def rung_hashes(config: CampaignConfig) -> dict[str, str]:
    """Return the hash of the settings of each rung of the ladder.

    Raises:
        FlowsError: A flow or an engine is unknown or mis-optioned.
    """
    from flows.run import settings_hash

    settings = follow_up_settings(config)
    return {rung.name: settings_hash(settings[rung.name]) for rung in config.labels.ladder}


def reference_of(config: CampaignConfig, base_dir: Path) -> ReferenceSet:
    """Read the reference that a configuration names; relative paths are taken from `base_dir`.

    Raises:
        ReferenceDataError: A source is missing or cannot serve.
    """
    from campaign.references.catalogue import read_reference

    return read_reference(
        config.reference.crystals,
        base_dir=base_dir,
        elements=config.chemistry.elements,
        hull_sources=config.reference.hull,
    )


@dataclass(frozen=True)
class RoundLoad:
    """What one round will ask of the site, roughly."""

    tasks: dict[str, int]
    """Task kind -> number, at most: screens only thin it out."""
    reference_labels: int
    """Labels of elements and hull phases, once per campaign."""
    label_core_hours: float
    """Core-hours of a round's labels, from the engine's own estimate for cells of the largest size."""
    reference_core_hours: float


def expected_load(config: CampaignConfig, spec: Spec, reference: ReferenceSet) -> RoundLoad:
    """Return the expected number of tasks and core-hours of a round.

    Raises:
        ReferenceDataError: The reference cannot serve this chemistry.
    """
    from campaign.reference_phases import reference_phases

    cost = label_cost(config)
    phases = reference_phases(config, reference)
    elements = config.chemistry.elements
    n_labels = config.acquisition.labels_per_round
    chunks = math.ceil(config.acquisition.candidates_per_round / config.batching.screen)
    one_label = cost(config.chemistry.max_atoms, elements)
    of_phases = sum(
        cost(len(phase.structure), sorted(phase.elements)) for phase in phases if phase.structure is not None
    )
    return RoundLoad(
        tasks={
            "sample": len(spec.batches(RoundState(0))),
            "screen": sum(1 if segment.campaign_scope else chunks for segment in spec.segments),
            "score": chunks if spec.judges else 0,
            "label": n_labels,
            "train": len(spec.judges)
            + len(spec.surrogates)
            + (len(spec.generators) if config.learn.generators else 0),
        },
        reference_labels=len(phases),
        label_core_hours=n_labels * one_label / 3600,
        reference_core_hours=of_phases / 3600,
    )
