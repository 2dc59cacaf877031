"""`campaign benchmark`: prepare once, run every variant with every seed, report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.benchmarking.config import BenchmarkConfig, load_benchmark
from campaign.benchmarking.parallel import mapped, say
from campaign.benchmarking.pool_data import load_pool, prepare_pool
from campaign.benchmarking.pretraining import pretrain, with_checkpoints
from campaign.benchmarking.running import Job, finished, run_campaign
from campaign.benchmarking.screened import screen_pool, screens_with_surrogate
from campaign.benchmarking.variants import checked, merged, nested, variant_documents
from campaign.config import CampaignConfig
from campaign.errors import ConfigError


@dataclass(frozen=True)
class Prepared:
    """What all campaigns share."""

    reference: Path
    pool: Path | None
    predictions: Path | None
    documents: dict[int, dict[str, dict[str, Any]]]
    """Seed -> variant -> campaign.yaml, checkpoints put in."""


def run_benchmark(
    file: Path, *, output: Path | None = None, workers: int = 1, only_prepare: bool = False
) -> Iterator[str]:
    """Run a benchmark, or go on with it; yields what to print.

    Args:
        file: The benchmark file.
        output: Its folder; None: beside the file, called after the benchmark.
        workers: Campaigns at a time, each in a process of its own; 1: in this one.
        only_prepare: Read, describe, screen and train what campaigns share, and end.

    Raises:
        CampaignError: Something the user has to cure.
    """
    from campaign.benchmarking.report import Findings, write_report

    config = load_benchmark(file)
    folder = (output or file.resolve().parent / config.name).resolve()
    prepared = prepare(config, folder, workers)
    yield f"prepared: {folder / 'prepared'}"
    if only_prepare:
        return
    jobs = jobs_of(config, prepared, folder)
    missing = [job for job in jobs if finished(job) is None]
    if len(missing) < len(jobs):
        yield f"{len(jobs) - len(missing)} of {len(jobs)} campaigns have ended before"
    begin = time.monotonic()
    for job, outcome in zip(missing, mapped(run_campaign, missing, workers), strict=True):
        labels, seconds = outcome["labels"], outcome["seconds"]["total"]
        stable = sum(one["stable"] for one in labels)
        say(f"{job.variant}, seed {job.seed}: {stable} stable of {len(labels)} labels in {seconds:.0f} s")
    if missing:
        yield f"{len(missing)} campaigns in {time.monotonic() - begin:.0f} s"
    outcomes = [ended for job in jobs if (ended := finished(job)) is not None]
    pool = load_pool(prepared.pool) if prepared.pool is not None else None
    documents = prepared.documents[config.seeds[0]]
    threshold = checked(documents[config.baseline], config.baseline).labels.stable_ev_per_atom
    yield from write_report(Findings(config, outcomes, pool, threshold), folder)


def prepare(config: BenchmarkConfig, folder: Path, workers: int) -> Prepared:
    """Work out once what all campaigns share; what is there already is kept.

    Raises:
        CampaignError: Something the user has to cure.
    """
    _check_first(config)
    place = folder / "prepared"
    reference = _reference(config, place)
    pool: Path | None = None
    known: dict[str, Any] | None = None
    if config.pool is not None:
        pool = prepare_pool(config.pool, reference, place, seed=config.training_seed, workers=workers)
        known = load_pool(pool).document() | {"file": pool / "pool.parquet"}
    documents = variant_documents(config, known)
    configs = {name: checked(document, name) for name, document in documents.items()}
    predictions = config.predictions if isinstance(config.predictions, Path) else None
    if pool is not None:
        screen_pool(pool, reference, configs.values(), workers, predictions)
    training = {seed: seed if config.train_each else config.training_seed for seed in config.seeds}
    trained = pretrain(
        configs, reference, place / "models", seeds=sorted(set(training.values())), workers=workers
    )
    prepared = {
        seed: {
            name: with_checkpoints(document, configs[name], trained[of][name])
            for name, document in documents.items()
        }
        for seed, of in training.items()
    }
    return Prepared(reference, pool, predictions, prepared)


def jobs_of(config: BenchmarkConfig, prepared: Prepared, folder: Path) -> list[Job]:
    """Return every campaign, seed by seed, so that an early end leaves variants that can be compared."""
    return [
        Job(
            variant=name,
            seed=seed,
            document=merged(document, {"seed": seed}),
            folder=folder / "campaigns" / name / f"seed-{seed}",
            reference=prepared.reference,
            pool=prepared.pool,
            draw=config.pool.draw if config.pool is not None else None,
            predictions=prepared.predictions,
            answers=folder / "prepared" / "relaxed",
            keep=config.keep_runs,
        )
        for seed in config.seeds
        for name, document in prepared.documents[seed].items()
    ]


def _reference(config: BenchmarkConfig, place: Path) -> Path:
    """Read and prepare the reference that all variants share."""
    from pydantic import ValidationError

    from campaign.config import ReferenceConfig, reword
    from campaign.references.catalogue import prepare_reference, read_reference

    variants = [nested(changes) for changes in config.policies.values()]
    if any("reference" in changes for changes in variants):
        raise ConfigError(
            "a variant changes the reference", value="policies", cure="write a benchmark for each reference"
        )
    campaign = config.campaign if isinstance(config.campaign, dict) else {}
    try:
        named = ReferenceConfig.model_validate(campaign.get("reference") or {})
    except ValidationError as error:
        raise reword(error, ReferenceConfig, "campaign.reference") from None
    elements = tuple((campaign.get("chemistry") or {}).get("elements") or ())
    found = read_reference(named.crystals, base_dir=place, elements=elements, hull_sources=named.hull)
    return prepare_reference(found, place / "reference")


def _check_first(config: BenchmarkConfig) -> None:
    """Refuse what is wrong in the file before minutes are spent on pool and models."""
    from campaign.components import check_components

    known: dict[str, Any] | None = None
    if config.pool is not None:  # not prepared yet: any chemistry will do to look at the rest
        chemistry = {"elements": ["Ca", "Mg", "Si"], "n_elements": [1, 3], "max_atoms": 8}
        known = {"size": 1, "file": config.pool.file, "chemistry": chemistry}
    configs = {name: checked(one, name) for name, one in variant_documents(config, known).items()}
    for one in configs.values():
        check_components(one)
    if config.pool is None:
        _refuse_leaks(configs)


def _refuse_leaks(configs: dict[str, CampaignConfig]) -> None:
    """Refuse screens that would tell candidates the truth before they have a label."""
    from campaign.components import screens_of

    for name, config in configs.items():
        asked = screens_with_surrogate([(one.kind, one.options) for one in screens_of(config)])
        if asked:
            raise ConfigError(
                f"policies.{name}: with truth: surrogate no screen may ask the surrogate",
                value=asked,
                cure="name the campaign's screens without it, for example composition, min_distance, duplicates",
            )
