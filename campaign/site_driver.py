"""Keys of a site's `driver` block: the batch job in which `campaign launch --detach` lets the driver run."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from campaign.site_pools import Positive, Walltime, Word

NOTICE_S = 120.0
"""How long before its walltime ends a driver is told, in general [s]."""


class DriverConfig(BaseModel):
    """What the driver's batch job asks for; it submits its own successor until the campaign has ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: Literal["slurm"] = Field(default="slurm", description="The batch system.")
    partition: Word | None = Field(default=None, description="Partition.")
    account: Word | None = Field(default=None, description="Account that is charged.")
    qos: Word | None = Field(default=None, description="Quality of service.")
    walltime: Walltime = Field(
        default=86400.0, description="How long one job lives: 24:00:00, 90 min or 2 d."
    )
    cores: Positive = Field(
        default=1, description="CPU cores; with pools of provider local, what these share."
    )
    memory_gb: Positive | None = Field(default=None, description="Memory [GB].")
    scheduler_options: tuple[str, ...] = Field(
        default=(), description="Further lines for the scheduler, such as --gres=gpu:1."
    )
    worker_init: tuple[str, ...] = Field(
        default=(),
        description="Shell lines before the driver starts ('module load ...'); one that fails ends it.",
    )

    @property
    def notice_s(self) -> float:
        """Seconds before the walltime ends at which the driver is told to stop."""
        return min(NOTICE_S, self.walltime / 4)
