"""What a benchmark file says; light, because `campaign validate` and the command line read it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from campaign.config import read_yaml, reword
from campaign.config_block import Block
from campaign.errors import ConfigError


class PoolFile(Block):
    """Crystals whose truth is known."""

    file: Path = Field(
        description="Parquet file with crystals (columns as of reference data) and the column of their truth."
    )
    column: str = Field(
        "formation_energy_per_atom", description="Column that is hidden until it is labelled."
    )
    quantity: Literal["formation_energy_per_atom", "e_above_hull"] = Field(
        "formation_energy_per_atom",
        description="What the column holds [eV/atom], on the scale of the reference's hull.",
    )
    between: tuple[float, float] | None = Field(
        None,
        description="Rows whose true e_above_hull lies outside are left out as errors of the data [eV/atom].",
    )
    limit: Annotated[int, Field(ge=1)] | None = Field(
        None, description="So many rows, drawn with `training_seed`; all when left out."
    )
    draw: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Candidates of each campaign, drawn from the pool with its seed, so that intervals over seeds tell "
        "how much depends on which crystals there are; the whole pool when left out.",
    )


class BenchmarkConfig(Block):
    """The whole of a benchmark file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,30}$", description="Name of the benchmark.")
    campaign: dict[str, Any] | Path = Field(
        description="The campaign that all variants begin with: a block as in campaign.yaml, or the path of one."
    )
    truth: Literal["pool", "surrogate"] = Field(
        "pool",
        description="pool: candidates are the crystals of a file, whose energies are known; surrogate: generators "
        "propose, and the energy above the hull after a relaxation with the campaign's surrogate is the truth.",
    )
    pool: PoolFile | None = Field(None, description="The file, for truth: pool.")
    predictions: Literal["none", "surrogate"] | Path = Field(
        "none",
        description="Of truth: pool, whether candidates carry a surrogate's e_above_hull, as the screen e_above_hull "
        "writes it: that of the campaign's surrogate for the crystals as they are, or a Parquet file with the columns "
        "material_id and e_above_hull [eV/atom].",
    )
    labels: Annotated[int, Field(ge=1)] = Field(500, description="Labels of each campaign.")
    labels_per_round: Annotated[int, Field(ge=1)] = Field(50, description="Labels of each round.")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 1, 2, 3, 4),
        min_length=1,
        description="Seeds of the campaigns of each variant: a list, or how many.",
    )
    training_seed: Annotated[int, Field(ge=0)] = Field(
        0, description="Seed of the first versions of models, which all variants and seeds share."
    )
    train_each: bool = Field(
        False,
        description="Train the first versions for every seed anew, with that seed, so that intervals over seeds tell "
        "how much depends on the training too.",
    )
    policies: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,30}$")], dict[str, Any]] = (
        Field(
            min_length=1,
            description="Variants by name: what each changes in the campaign, as nested blocks or dotted keys such as "
            "acquisition.policy.",
        )
    )
    baseline: str = Field("random", description="The variant that others are held against.")
    keep_runs: bool = Field(False, description="Keep the run folders of campaigns that have ended.")

    @field_validator("seeds", mode="before")
    @classmethod
    def _a_number_counts(cls, value: object) -> object:
        return tuple(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if (self.pool is None) is (self.truth == "pool"):
            raise ValueError("truth: pool needs the block pool, and truth: surrogate has none")
        if self.truth == "surrogate" and self.predictions != "none":
            raise ValueError("predictions are for truth: pool; the surrogate's own would be the truth")
        if self.baseline not in self.policies:
            raise ValueError(f"baseline {self.baseline!r} is none of the policies {', '.join(self.policies)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is named twice")
        return self

    @property
    def rounds(self) -> int:
        """Rounds of each campaign."""
        return math.ceil(self.labels / self.labels_per_round)


def load_benchmark(file: Path) -> BenchmarkConfig:
    """Read and check a benchmark file; its paths become absolute, and the campaign is read where it is one.

    Raises:
        ConfigError: The file is missing, is no YAML, or a key or value is wrong.
    """
    try:
        config = BenchmarkConfig.model_validate(read_yaml(file))
    except ValidationError as error:
        raise reword(error, BenchmarkConfig, str(file)) from None
    base = file.resolve().parent

    def absolute(path: Path) -> Path:
        return (base / path.expanduser()).resolve()

    campaign, source = config.campaign, base
    if isinstance(campaign, Path):
        source = absolute(campaign).parent
        campaign = read_yaml(absolute(campaign))
    updates: dict[str, Any] = {"campaign": _with_absolute_sources(campaign, source)}
    if config.pool is not None:
        updates["pool"] = config.pool.model_copy(update={"file": absolute(config.pool.file)})
        if not absolute(config.pool.file).is_file():
            raise ConfigError("the file of the pool does not exist", value=str(absolute(config.pool.file)))
    if isinstance(config.predictions, Path):
        updates["predictions"] = absolute(config.predictions)
    return config.model_copy(update=updates)


def _with_absolute_sources(campaign: dict[str, Any], base: Path) -> dict[str, Any]:
    """Return the campaign with the paths of its reference absolute: its variants are launched from other folders."""
    reference = campaign.get("reference")
    if not isinstance(reference, dict):
        return campaign

    def absolute(source: object) -> object:
        named = isinstance(source, str) and source.partition(":")[0] not in {"builtin", "materials-project"}
        return str((base / Path(str(source)).expanduser()).resolve()) if named else source

    kept = {
        key: [absolute(one) for one in value]
        if key in {"crystals", "hull"} and isinstance(value, list)
        else value
        for key, value in reference.items()
    }
    return {**campaign, "reference": kept}
