"""One retrospective campaign: launched, or carried on, and read when it has ended."""

from __future__ import annotations

import hashlib
import io
import random
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import orjson
import yaml

from campaign.benchmarking.oracles import Oracle, SurrogateOracle, TableOracle
from campaign.benchmarking.outcomes import read_outcome, result_file
from campaign.benchmarking.pool_data import write_json
from campaign.benchmarking.pools import Known, OraclePools
from campaign.benchmarking.screened import surrogate_name
from campaign.benchmarking.variants import checked
from campaign.config import CampaignConfig
from campaign.errors import CampaignError
from campaign.run_folder import RunFolder, write_atomic
from campaign.site import Site

OF_THE_RUN = frozenset({"folder", "answers", "keep"})
"""What of a job changes nothing of its outcome."""


@dataclass(frozen=True)
class Job:
    """A campaign of one variant and one seed; plain, as it goes to another process."""

    variant: str
    seed: int
    document: dict[str, Any]
    """campaign.yaml."""
    folder: Path
    reference: Path
    """The prepared reference of the benchmark."""
    pool: Path | None
    """The prepared pool, for truth: pool."""
    draw: int | None
    """Candidates that are drawn from it with the seed; None: all."""
    predictions: Path | None
    answers: Path
    """Where the surrogate's answers are kept, for truth: surrogate."""
    keep: bool
    """Whether the run folder stays."""

    @property
    def digest(self) -> str:
        """What decides its outcome, hashed."""
        home = str(self.folder.parents[2])  # a benchmark may be moved
        parts = {
            key: str(value).replace(home, "") for key, value in asdict(self).items() if key not in OF_THE_RUN
        }
        return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def finished(job: Job) -> dict[str, Any] | None:
    """Return the outcome of a campaign that has ended; None if there is none, or one with other settings."""
    try:
        found: dict[str, Any] = orjson.loads(result_file(job.folder).read_bytes())
    except (OSError, ValueError):
        return None
    return found if found.get("digest") == job.digest else None


def run_campaign(job: Job) -> dict[str, Any]:
    """Run a campaign to its end and return its outcome; one that had begun is carried on.

    Raises:
        CampaignError: Something the user has to cure, or the campaign was interrupted.
    """
    found = finished(job)
    if found is not None:
        return found
    begin, marker = time.monotonic(), job.folder / "digest"
    run = RunFolder(job.folder / "run")
    if run.path.exists() and (not marker.is_file() or marker.read_text() != job.digest):
        shutil.rmtree(run.path)  # begun with other settings
    job.folder.mkdir(parents=True, exist_ok=True)
    write_atomic(marker, job.digest)
    _drive(job, run)
    outcome = _read(job, run)
    elapsed = {**outcome["seconds"], "total": round(time.monotonic() - begin, 2)}
    outcome |= {"variant": job.variant, "seed": job.seed, "digest": job.digest, "seconds": elapsed}
    write_json(result_file(job.folder), outcome)
    if not job.keep:
        shutil.rmtree(run.path, ignore_errors=True)
    return outcome


def _drive(job: Job, run: RunFolder) -> None:
    """Launch the campaign, or resume it, with the oracle's pools."""
    from rich.console import Console

    from campaign.documents import CampaignStatus
    from campaign.launch import launch, resume
    from campaign.views.progress import Progress

    config = checked(job.document, job.variant)
    progress = Progress(Console(file=io.StringIO()), quiet=True)
    pools = partial(_pools, job, config)
    _remember_hull(job)
    if run.config_file.exists():
        outcome = resume(run.path, config_file=None, pools=pools, progress=progress)
    else:
        file = job.folder / "campaign.yaml"
        write_atomic(file, yaml.safe_dump(job.document, sort_keys=False, allow_unicode=True))
        outcome = launch(file, run_dir=run.path, pools=pools, progress=progress)
    if outcome.status != CampaignStatus.FINISHED:
        raise CampaignError(
            f"the campaign {job.variant}, seed {job.seed}, has not ended ({outcome.reason})",
            cure="run the same benchmark again: it goes on where it stopped",
        )


def _pools(job: Job, config: CampaignConfig, site: Site) -> OraclePools:  # noqa: ARG001
    oracle = _oracle(job, config)
    at_once = config.acquisition.labels_per_round
    known = Known(job.pool, job.predictions) if job.pool is not None else None
    surrogate = surrogate_name(config, job.predictions) if job.predictions is not None else None
    if surrogate is None:
        surrogate = config.surrogate.model_dump(mode="json")
    tells = partial(_truth, job, oracle) if config.acquisition.policy == "oracle" else None
    drawn = drawn_candidates(Known(job.pool), job.draw, job.seed) if job.pool is not None else None
    return OraclePools(oracle, at_once, known=known, surrogate=surrogate, tells_truth=tells, candidates=drawn)


def drawn_candidates(known: Known, number: int | None, seed: int) -> frozenset[str] | None:
    """Return the ids of a campaign's own candidates, the same for all variants; None: it has the whole pool."""
    ids = sorted(known.pool.truth)
    if number is None or number >= len(ids):
        return None
    return frozenset(random.Random(seed).sample(ids, number))


def _oracle(job: Job, config: CampaignConfig) -> Oracle:
    if job.pool is not None:
        return TableOracle(Known(job.pool).pool)
    named = config.surrogate
    options = orjson.dumps(named.options, option=orjson.OPT_SORT_KEYS).decode()
    key = hashlib.sha256(f"{named.kind}{options}".encode()).hexdigest()[:12]
    return SurrogateOracle(_surrogate(named.kind, options), job.answers / key)


@lru_cache(maxsize=1)
def _surrogate(kind: str, options: str) -> Any:
    from models.registry import SURROGATES, build

    return build(kind, SURROGATES, "surrogate", orjson.loads(options))


def _truth(job: Job, oracle: Oracle, candidate: str, structure: Mapping[str, Any]) -> float:
    """Return the true energy above the hull [eV/atom] of a candidate; one whose label would fail lies highest."""
    from pymatgen.core import Structure

    from campaign.judging import reference_hull

    found = oracle.answer(candidate, structure)
    if isinstance(found, str):
        return 1e3
    if job.pool is not None:
        return Known(job.pool).pool.e_above_hull[candidate]
    composition = Structure.from_dict(found.structure).composition
    return reference_hull(str(job.reference)).e_above_hull(composition, found.formation_energy_per_atom)


def _remember_hull(job: Job) -> None:
    """Let this process know the hull's energies that were worked out when the pool was prepared."""
    from campaign.judging import reference_hull

    if job.pool is not None:
        reference_hull(str(job.reference)).remember(Known(job.pool).pool.hull)


def _read(job: Job, run: RunFolder) -> dict[str, Any]:
    from campaign.references.catalogue import load_prepared

    config = run.config()
    reference = load_prepared(job.reference, config.reference.exclude)
    with run.store() as store:
        return read_outcome(store, config.name, reference)
