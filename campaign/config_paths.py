"""Makes every path of a configuration absolute: nothing relative is ever stored."""

from __future__ import annotations

from pathlib import Path

from campaign.config import CampaignConfig


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
    store, site = config.store, config.site
    if store.path is not None:
        store = store.model_copy(update={"path": (base / store.path.expanduser()).resolve()})
    if site != "local":
        site = absolute(site)
    return config.model_copy(update={"reference": reference, "store": store, "site": site})
