"""The pool `dft` on FireWorks, as a site file says it: which LaunchPad, and how its Fireworks are marked.

    pools:
      dft:
        kind: fireworks
        launchpad: my_launchpad.yaml      # or {host: ..., port: ..., name: ...}
        category: dft
        slots: 32

Light: nothing of fireworks is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, PrivateAttr, SecretStr, Tag, ValidationError

from campaign.errors import SiteError
from campaign.storage.credentials import HIDDEN, holds_secret, redact, shown
from campaign.yaml_file import read_yaml_file

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class LaunchPadConfig(BaseModel):
    """Where a LaunchPad is: the keys of FireWorks' own my_launchpad.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    host: str = Field(default="localhost", description="Host, or a mongodb:// URI with uri_mode.")
    port: int | None = Field(default=None, description="Port; 27017 when left out.")
    name: str = Field(default="fireworks", min_length=1, description="Name of the database.")
    username: str | None = Field(default=None, description="User of the database.")
    password: SecretStr | None = Field(default=None, description="The user's password.")
    authsource: str | None = Field(default=None, description="Database that knows the user.")
    uri_mode: bool = Field(default=False, description="`host` is a whole URI.")
    mongoclient_kwargs: dict[str, Any] | None = Field(
        default=None, description="Further options of the connection, such as tls."
    )
    # What `lpad init` also writes, and a driver has no use for.
    logdir: str | None = Field(default=None, description="Not used here.")
    strm_lvl: str | None = Field(default=None, description="Not used here.")
    user_indices: list[Any] | None = Field(default=None, description="Not used here.")
    wf_user_indices: list[Any] | None = Field(default=None, description="Not used here.")

    _note: str = PrivateAttr(default="")

    @property
    def note(self) -> str:
        """What the user should know about where the password lies; '' if all is well."""
        return self._note

    def holds_password(self) -> bool:
        """Tell whether a password, or the like, is written in these keys."""
        options = self.mongoclient_kwargs or {}
        uri = self.uri_mode and holds_secret(self.host)
        return bool(self.password or uri or HIDDEN in shown(options).values())

    def where(self) -> str:
        """Return the LaunchPad's place without its password."""
        if self.uri_mode:
            return f"{redact(self.host)} ({self.name})"
        return f"{self.host}:{self.port or 27017} ({self.name})"


def _sort_of(launchpad: object) -> str:
    return "keys" if isinstance(launchpad, Mapping | LaunchPadConfig) else "file"


class FireworksPoolConfig(BaseModel):
    """A pool whose tasks are Fireworks on a LaunchPad; `rlaunch` or `qlaunch` on the cluster runs them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["fireworks"] = "fireworks"
    launchpad: Annotated[
        Annotated[Path, Tag("file")] | Annotated[LaunchPadConfig, Tag("keys")], Discriminator(_sort_of)
    ] = Field(description="A my_launchpad.yaml (relative paths: beside the site file), or its keys.")
    slots: Positive = Field(
        default=16,
        description="Fireworks that wait or run at a time; more than there are workers fills queues.",
    )
    category: str | None = Field(default=None, description="Workers of this category run them (`_category`).")
    fworker: str | None = Field(
        default=None, description="Only the worker of this name runs them (`_fworker`)."
    )
    priority_base: int = Field(
        default=0, description="Added to every `_priority`, to rank beside other work."
    )
    queueadapter: dict[str, Any] = Field(
        default={}, description="Overrides of my_qadapter.yaml in reservation mode (`_queueadapter`)."
    )
    poll_seconds: Seconds = Field(default=5.0, description="How often the LaunchPad is asked [s].")
    lost_after_seconds: Seconds = Field(
        default=180.0, description="Silence after which a run counts as lost, and is tried again [s]."
    )
    reserved_after_seconds: Seconds = Field(
        default=14 * 86400.0,
        description="Time in a batch queue after which a reservation is given back [s]; FireWorks' own default.",
    )

    @property
    def heartbeat_seconds(self) -> float:
        """How often a worker reports [s]: several reports may go astray before a run counts as lost."""
        return self.lost_after_seconds / 6


def located_launchpad(config: FireworksPoolConfig, folder: Path) -> FireworksPoolConfig:
    """Return the configuration with its LaunchPad's file read.

    Args:
        config: As the site file says it.
        folder: Folder of the site file.

    Raises:
        SiteError: There is no such file, or it is no my_launchpad.yaml; or a password is written in the site file.
    """
    if isinstance(config.launchpad, LaunchPadConfig):
        if config.launchpad.holds_password():
            raise SiteError(
                "pools.dft.launchpad: a site file is no place for a password, others read it",
                cure="put these keys into a my_launchpad.yaml with `chmod 600`, and name it: launchpad: PATH",
            )
        return config
    path = folder / config.launchpad.expanduser()
    try:
        document = read_yaml_file(path)
    except (OSError, yaml.YAMLError) as error:
        raise SiteError(
            "pools.dft.launchpad: the file cannot be read", value=str(path),
            cure="name a my_launchpad.yaml (`lpad init` writes one), or give host, port and name",
        ) from error  # fmt: skip
    try:
        found = LaunchPadConfig.model_validate(document)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "the file"
        raise SiteError(
            f"{path.name}: {place}: {fault['msg']}",  # not its value, which may be a password
            allowed=sorted(LaunchPadConfig.model_fields), cure=f"correct {path}",
        ) from None  # fmt: skip
    if found.holds_password() and path.stat().st_mode & 0o077:
        found._note = f"{path} holds a password and others can read it: chmod 600 {path}"
    return config.model_copy(update={"launchpad": found})
