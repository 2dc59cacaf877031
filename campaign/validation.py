"""`campaign validate`: everything that launch would refuse, and what a round will cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from campaign.components import check_components, expected_load, reference_of, rung_costs, spec_of
from campaign.config import CampaignConfig, load_config
from campaign.errors import ComponentError, StoreError
from campaign.label_costs import LabelCosts
from campaign.parallel.fireworks_config import FireworksPoolConfig, LaunchPadConfig
from campaign.parallel.pooling import site_sizes
from campaign.run_folder import default_run_folder, located_store
from campaign.site import Site, load_site
from campaign.storage.sqlite_file import network_risk
from campaign.store import CampaignStore, embedded_path

SHOWN_SET_ASIDE = 5
"""Items of the reference that could not be used and are named; all are counted."""


def check_engine(config: CampaignConfig, site: Site) -> str:
    """Try whether the label engine works here, and return what was found.

    Workers that the site prepares with lines or variables of its own, or that others start for a LaunchPad, may see
    another machine: there it only warns.

    Raises:
        ComponentError: It does not, so that every label would fail.
        FlowsError: The engine is unknown or mis-optioned.
    """
    from flows.registry import ENGINES, build

    labels = config.labels
    further = [labels.follow_up(name) for name in labels.further]
    wanted = [(labels.engine, labels.engine_options)]
    wanted += [(str(one.engine), dict(one.engine_options or {})) for one in further]
    prepared = bool(site.worker_init or site.environment or site.parsl_config)
    elsewhere = prepared or isinstance(site.pools.dft, FireworksPoolConfig)
    found = ""
    for engine, options in wanted:
        answer = build(engine, ENGINES, "engine", options).check()
        if not answer.ok and not elsewhere:
            raise ComponentError(f"the engine does not work: {answer.what}", value=engine, cure=answer.cure)
        what = str(answer.what)
        if not answer.ok:
            what = f"does not work here ({what}), perhaps on the site's workers"
        found = found or what
    return found


def check_store(config: CampaignConfig, site: Site, run_dir: Path) -> str | None:
    """Return what is risky about where the documents will lie, None where nothing is.

    Raises:
        StoreError: The embedded store would lie on a network file system, and drivers in batch jobs, each on a node of
            its own, would meet in it.
    """
    if config.store.kind != "embedded":
        return None
    path = embedded_path(config.store, run_dir)
    risk = network_risk(path)
    if risk and site.driver is not None:
        raise StoreError(
            "drivers in batch jobs run on many nodes, and the locks of an embedded store are not safe on a network "
            "file system", value=str(path),
            cure="use store.kind mongodb, or leave the block `driver` out of the site file",
        )  # fmt: skip
    return risk


def _ladder_costs(config: CampaignConfig) -> str:
    """Return what is expected of each rung for cells of the largest size, before any label has ended."""
    costs = LabelCosts.of(config, rung_costs(config), ())
    size = config.chemistry.max_atoms, "-".join(config.chemistry.elements)
    return ", ".join(f"{one.name} {costs.core_hours(one.name, *size):.2g}" for one in config.labels.ladder)


def validate(file: Path) -> Iterator[str]:
    """Yield one line per thing checked.

    Raises:
        CampaignError: The first thing that launch would refuse.
    """
    config = load_config(file)
    base = file.resolve().parent
    yield f"{file}: keys and values are fine"
    check_components(config)
    yield "generators, screens, surrogate, models, label flow and engine: known, options fine"
    site = load_site(config.site, base)
    yield f"engine {config.labels.engine}: {check_engine(config, site)}"
    reference = reference_of(config, base)
    yield f"reference: {reference.summary()}"
    for where, why in reference.set_aside[:SHOWN_SET_ASIDE]:
        yield f"  set aside: {where}: {why}"
    spec = spec_of(config)
    load = expected_load(config, spec, reference)
    slots = ", ".join(f"{name} {size.slots}" for name, size in site_sizes(site).items())
    dft = site.pools.dft
    if isinstance(dft, FireworksPoolConfig):
        slots += f", dft {dft.slots} on FireWorks"
    yield f"site {config.site}: slots {slots}"
    if isinstance(dft, FireworksPoolConfig) and isinstance(dft.launchpad, LaunchPadConfig):
        from campaign.parallel.launchpad import Board

        Board(dft.launchpad).close()
        note = f"; {dft.launchpad.note}" if dft.launchpad.note else ""
        yield f"LaunchPad: {dft.launchpad.where()} answers{note}"
    if config.store.kind == "mongodb":
        with CampaignStore.open(located_store(config), base, read_only=True):
            yield "store: the MongoDB server answers"
    else:
        run_dir = default_run_folder(file, config).path
        risk = check_store(config, site, run_dir)
        yield f"store: embedded, in {config.store.path or run_dir / 'store.sqlite'}"
        if risk:
            yield f"  warning: {risk}"
    tasks = ", ".join(f"{kind} {number}" for kind, number in load.tasks.items())
    if config.labels.ladder:
        yield f"ladder: a label takes about {_ladder_costs(config)} core-hours"
    yield f"a round: at most {tasks} tasks; labels about {load.label_core_hours:.2f} core-hours"
    yield (
        f"once: {load.reference_labels} reference labels, about {load.reference_core_hours:.2f} core-hours; "
        f"rounds: {config.stop.rounds}"
    )
