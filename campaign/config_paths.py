"""Makes every path of a configuration absolute: nothing relative is ever stored."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from campaign.config import CampaignConfig, ModelConfig

Model = TypeVar("Model", bound=ModelConfig)


def with_absolute_paths(config: CampaignConfig, base: Path) -> CampaignConfig:
    """Return the configuration with every path absolute; relative ones count from `base`."""

    def absolute(source: str) -> str:
        if source.startswith("builtin:") or source.split(":", maxsplit=1)[0] == "materials-project":
            return source
        return str((base / Path(source).expanduser()).resolve())

    reference = config.reference.model_copy(
        update={
            "crystals": tuple(map(absolute, config.reference.crystals)),
            "hull": None if config.reference.hull is None else tuple(map(absolute, config.reference.hull)),
        }
    )

    def located(models: tuple[Model, ...]) -> tuple[Model, ...]:
        return tuple(
            one.model_copy(update={"checkpoint": (base / one.checkpoint.expanduser()).resolve()})
            if one.checkpoint is not None
            else one
            for one in models
        )

    learn = config.learn.model_copy(
        update={"heads": located(config.learn.heads), "discriminators": located(config.learn.discriminators)}
    )
    store, site = config.store, config.site
    if store.path is not None:
        store = store.model_copy(update={"path": (base / store.path.expanduser()).resolve()})
    if site != "local":
        site = absolute(site)
    return config.model_copy(
        update={
            "reference": reference,
            "generators": located(config.generators),
            "learn": learn,
            "store": store,
            "site": site,
        }
    )
