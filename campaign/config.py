"""campaign.yaml as frozen, unit-named models: the one place that says what a user may write.

Light on purpose: neither torch nor pymatgen is imported here, so that `campaign validate` starts at once.
The options of a component (a generator, a screen, an engine) are checked by the component's own `Config`;
see `campaign.validate`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator

from campaign.acquisition.config import AcquisitionConfig
from campaign.chemistry import ChemistryConfig, parse_formula
from campaign.config_block import Block
from campaign.errors import ConfigError
from campaign.labels_config import LabelsConfig
from campaign.storage.credentials import shown
from campaign.store import StoreConfig
from campaign.surrogate_config import LearnSurrogateConfig
from campaign.yaml_file import read_yaml_file

RESUMABLE = frozenset(
    {"site", "stop", "store", "learn.trust_alarmed"}
    | {f"labels.{name}" for name in ("max_attempts", "on_failure", "job_hours", "job_memory_gb")}
    | {f"labels.{name}" for name in ("max_job_hours", "max_job_memory_gb")}
)
"""Dotted keys that may be edited on resume: they change neither what a label means nor, but for `learn.trust_alarmed`
which is meant to, which candidate is chosen."""


class ReferenceConfig(Block):
    """Known crystals: prototypes for generators, training data for models, and the hull."""

    crystals: tuple[str, ...] = Field(
        ("builtin:quickstart",),
        description="Sources of crystals: 'builtin:quickstart', a Parquet or JSON(.gz) file, a folder of CIFs, or "
        "'materials-project'. Relative paths are taken from the folder of campaign.yaml.",
    )
    hull: tuple[str, ...] | None = Field(
        None, description="Sources of formation energies for the hull; the crystals themselves when left out."
    )
    energy_scale: Literal["own", "materials_project"] = Field(
        "own",
        description="materials_project says that the hull's files hold formation energies with the corrections of "
        "the Materials Project; labels.hull: materials_project needs that, and the source materials-project has it.",
    )
    exclude: tuple[str, ...] = Field(
        (),
        description="Formulas left out of what models and generators learn from, prototypes and the novelty screen, "
        "all polymorphs of each: to see whether they are found again. The hull keeps them.",
    )

    @field_validator("exclude")
    @classmethod
    def _formulas(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for formula in value:
            parse_formula(formula)
        return value


class ComponentConfig(Block):
    """A component by its registered name or by an import path 'package.module:Name', with its own options."""

    kind: str = Field(min_length=1, description="Registered name, or 'package.module:Class'.")
    options: dict[str, Any] = Field(default_factory=dict, description="The component's own options.")


class ModelConfig(ComponentConfig):
    """A component that learns."""

    checkpoint: Path | None = Field(
        None,
        description="Folder of a checkpoint that is the first version, as training or a campaign has left it "
        "(`models/` of a run folder); fitted on the reference when left out.",
    )


class GeneratorConfig(ModelConfig):
    """A source of candidate crystals."""

    share: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Share of the samples of a round, relative to the other generators' shares."
    )


class HeadConfig(ModelConfig):
    """A property head: predicts a property's mean and standard deviation from a crystal."""

    kind: str = "cgcnn"


class LearnConfig(Block):
    """Models that judge candidates, and when a newer one may replace an older one."""

    heads: tuple[HeadConfig, ...] = Field(
        (HeadConfig(options={"properties": ["formation_energy_per_atom"]}),),
        description="Property heads. The first one that predicts formation_energy_per_atom steers the acquisition.",
    )
    discriminators: tuple[HeadConfig, ...] = Field((HeadConfig(),), description="Stability discriminators.")
    generators: bool = Field(True, description="Fine-tune the generators on the labels as well.")
    retrain: bool = Field(
        True, description="Learn from labels at all: false keeps every model as it was fitted at the start."
    )
    surrogate: LearnSurrogateConfig = Field(
        LearnSurrogateConfig(), description="Fine-tuning of the surrogate on the frames of the labels."
    )
    stable_ev_per_atom: float = Field(
        0.05,
        description="Crystals at most this far above the hull are the discriminator's stable class [eV/atom].",
    )
    holdout_fraction: Annotated[float, Field(gt=0, lt=0.9)] = Field(
        0.15, description="Share of formulas that is never trained on and judges every version."
    )
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] | None = Field(
        None,
        description="Seed of that split; the campaign's own when left out. A model that begins with a `checkpoint` "
        "should have the split that the checkpoint was trained with.",
    )
    gate_tolerance: Annotated[float, Field(ge=0)] = Field(
        0.02,
        description="A new version may be worse than the old one by this part of its held-out error, beyond noise.",
    )
    trust_alarmed: bool = Field(
        False,
        description="Learn from labels that raised an alarm, too; may be edited on resume, once they were looked at.",
    )
    max_reference: Annotated[int, Field(ge=0)] = Field(
        5000, description="Most reference crystals used for training, drawn with the campaign's seed."
    )


class StopConfig(Block):
    """Budgets. The campaign ends at the first one that is used up; labels that were begun are finished, unless hard."""

    rounds: Annotated[int, Field(ge=1)] = Field(3, description="Rounds.")
    labels: Annotated[int, Field(ge=1)] | None = Field(None, description="Labels of candidates.")
    core_hours: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Core-hours of all tasks, failed and lost tries included."
    )
    node_hours: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Node-hours of all blocks while they ran, and of the driver's node while it has local pools.",
    )
    wall_time_hours: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Hours that a driver ran."
    )
    stable_found: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Stable candidates found by DFT."
    )
    hard: bool = Field(
        False,
        description="What happens when core_hours, node_hours or wall_time_hours is used up. false: no label begins "
        "any more, begun ones go on to their end; true: no job begins either, only jobs that run come to their end.",
    )


class BatchingConfig(Block):
    """Size of tasks: larger ones cost less overhead, smaller ones fill workers better."""

    sample: Annotated[int, Field(ge=1, le=100_000)] = Field(64, description="Crystals per sampling task.")
    screen: Annotated[int, Field(ge=1, le=100_000)] = Field(32, description="Crystals per screening task.")
    score: Annotated[int, Field(ge=1, le=100_000)] = Field(256, description="Crystals per scoring task.")


class CampaignConfig(Block):
    """The whole of campaign.yaml."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$", description="Name of the campaign.")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="Seed of every random choice.")
    chemistry: ChemistryConfig
    reference: ReferenceConfig = ReferenceConfig()
    generators: tuple[GeneratorConfig, ...] = Field(
        (GeneratorConfig(kind="substitution"),), min_length=1, description="Sources of candidates."
    )
    surrogate: ComponentConfig = Field(
        ComponentConfig(kind="chgnet"), description="Universal potential that relaxes candidates."
    )
    screen: tuple[ComponentConfig, ...] | None = Field(
        None, description="Screens in order; a sensible list when left out (see `campaign init`)."
    )
    acquisition: AcquisitionConfig = AcquisitionConfig()
    labels: LabelsConfig = LabelsConfig()
    learn: LearnConfig = LearnConfig()
    stop: StopConfig = StopConfig()
    batching: BatchingConfig = BatchingConfig()
    store: StoreConfig = Field(StoreConfig(), description="Where documents live.")
    site: str = Field("local", description="'local', or the path of a site file.")

    @field_validator("acquisition")
    @classmethod
    def _floors_fit(cls, value: AcquisitionConfig, info: ValidationInfo) -> AcquisitionConfig:
        generators = info.data.get("generators", ())
        if value.shares == "adaptive" and value.share_floor * len(generators) > 1:
            raise ValueError(
                f"share_floor {value.share_floor:g} for each of {len(generators)} generators is more than there is: "
                f"at most {1 / len(generators):g}"
            )
        return value


def load_config(path: Path) -> CampaignConfig:
    """Read and check campaign.yaml.

    Args:
        path: The YAML file.

    Returns:
        The frozen configuration.

    Raises:
        ConfigError: The file is missing, is no YAML, or a key or value is wrong.
    """
    return parse_config(read_yaml(path), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds, safely loaded.

    Raises:
        ConfigError: The file is missing, is no YAML, or holds no mapping.
    """
    try:
        loaded = read_yaml_file(path)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}",
            value=error.strerror,
            cure="give the path of a campaign.yaml, or write one with `campaign init`",
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{path} is not valid YAML", value=_yaml_problem(error), cure="mend that line"
        ) from None
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"{path} holds no mapping of keys", value=type(loaded).__name__, cure="see `campaign init`"
        )
    return loaded


def _yaml_problem(error: Exception) -> str:
    """Return what the parser stumbled over, with the line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(error).split())
    return f"{problem} in line {mark.line + 1}, column {mark.column + 1}"


def parse_config(document: dict[str, Any], origin: str) -> CampaignConfig:
    """Check a mapping as campaign.yaml; `origin` names it in errors.

    Raises:
        ConfigError: A key or a value is wrong; the first problem is told, and how many more there are.
    """
    try:
        return CampaignConfig.model_validate(document)
    except ValidationError as error:
        raise reword(error, CampaignConfig, origin) from None


def reword(error: ValidationError, model: type[BaseModel], origin: str) -> ConfigError:
    """Turn pydantic's report into one line: what, the value got, the values allowed, the cure."""
    problems = error.errors(include_url=False)
    first = problems[0]
    got = shown(first["input"], str(first["loc"][-1]) if first["loc"] else "")
    where = ".".join(str(part) for part in first["loc"]) or "(top level)"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        allowed = _keys_at(model, first["loc"][:-1])
        close = difflib.get_close_matches(str(first["loc"][-1]), allowed, n=1)
        cure = f"did you mean {close[0]!r}?" if close else "remove it"
        return ConfigError(f"{origin}: unknown key {where}{more}", value=got, allowed=allowed, cure=cure)
    if first["type"] == "missing":
        return ConfigError(f"{origin}: {where} is missing{more}", cure=f"add {where}")
    message = first["msg"].removeprefix("Value error, ")
    message = _YAML_WORDS.get(first["type"], message)
    expected = (first.get("ctx") or {}).get("expected")
    return ConfigError(f"{origin}: {where}: {message}{more}", value=got, allowed=expected, cure="correct it")


_YAML_WORDS = {
    "tuple_type": "must be a list, such as [a, b]",
    "model_type": "must be a block of keys, such as {key: value}",
    "dict_type": "must be a block of keys, such as {key: value}",
}
"""What pydantic names by Python's types, in the words of YAML."""


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that the block at `location` allows, walking through tuples and optional blocks."""
    current: type[BaseModel] = model
    for part in location:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(str(part))
        found = _model_in(field.annotation) if field is not None else None
        if found is None:
            return []
        current = found
    return sorted(current.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_in(inner)
        if found is not None:
            return found
    return None


def config_document(config: CampaignConfig) -> dict[str, Any]:
    """Return the configuration as a plain document."""
    return config.model_dump(mode="json")


def stored_config(config: CampaignConfig) -> dict[str, Any]:
    """Return the configuration as a document of the store: without the password of the store's URI."""
    return {**config_document(config), "store": config.store.redacted()}


def config_hash(config: CampaignConfig) -> str:
    """Return a short hash of everything that decides which labels a campaign computes."""
    document = {
        key: value for key, value in _flatten(config_document(config)).items() if not _may_change(key)
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return dotted key -> (old, new) for every value that differs and may not change on resume."""
    before, after = _flatten(old), _flatten(new)
    keys = sorted(set(before) | set(after))
    return {
        key: (before.get(key), after.get(key))
        for key in keys
        if before.get(key) != after.get(key) and not _may_change(key)
    }


def _may_change(key: str) -> bool:
    return any(key == allowed or key.startswith(allowed + ".") for allowed in RESUMABLE)


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        result: dict[str, Any] = {}
        for key, inner in value.items():
            result.update(_flatten(inner, f"{prefix}.{key}" if prefix else str(key)))
        return result
    return {prefix: value}


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of campaign.yaml, for editors that complete and check it."""
    schema = CampaignConfig.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "campaign.yaml"
    return schema
