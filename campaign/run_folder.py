"""A campaign's folder: its configuration, store file, checkpoints, logs and the work of its tasks.

<run folder>/
  campaign.yaml      the configuration as launched, every default filled in
  store.sqlite       the embedded store, if no MongoDB is used
  reference/         prepared reference data
  models/            checkpoints, one folder per version
  work/              one folder per label and job
  large/             objects of the store that are too large for a document (`campaign.storage.large_files`)
  logs/              driver, pools, workers
  control/           requests to the driver (`campaign stop`, `campaign retry`), its batch jobs
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from campaign.config import CampaignConfig, config_document, load_config, parse_config
from campaign.errors import ConfigError, RunNotFoundError
from campaign.storage.credentials import database_in
from campaign.storage.whole_files import told, write_whole
from campaign.store import CampaignStore, StoreConfig

FIRST_LINE = "# As launched, with every default. Edit your own file instead."
LAST_LINE = "# The end of campaign.yaml: without this line the file was cut off."
"""Between them lies the configuration: YAML that was cut off may still be valid YAML, of another campaign."""

PRIVATE = 0o077
"""Permissions that no file of a campaign has: those of the group and of others."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one campaign; every path is absolute."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The configuration as launched."""
        return self.path / "campaign.yaml"

    @property
    def store_file(self) -> Path:
        """The embedded store, unless `store.path` names another place."""
        return self.path / "store.sqlite"

    @property
    def models(self) -> Path:
        """Checkpoints."""
        return self.path / "models"

    @property
    def work(self) -> Path:
        """Working folders of label jobs."""
        return self.path / "work"

    @property
    def logs(self) -> Path:
        """Logs of the driver and the pools."""
        return self.path / "logs"

    @property
    def control(self) -> Path:
        """Requests to the driver."""
        return self.path / "control"

    @property
    def stop_file(self) -> Path:
        """Request of `campaign stop`."""
        return self.control / "stop.json"

    @property
    def driver_log(self) -> Path:
        """What a driver in the background or in batch jobs prints."""
        return self.logs / "driver.log"

    @property
    def chain_file(self) -> Path:
        """Record of the driver's batch jobs (`campaign.driver_chain`)."""
        return self.path / "control" / "driver.json"

    @property
    def chain_script(self) -> Path:
        """Script of the driver's batch jobs."""
        return self.path / "control" / "driver.sbatch"

    def create(self) -> None:
        """Make the folders, and close those to other users that are there: readers have the store's server."""
        for folder in (self.models, self.work, self.logs, self.stop_file.parent, self.path / "reference"):
            folder.mkdir(parents=True, exist_ok=True)
        for place in (self.path, *self.path.glob("*"), *self.logs.glob("*")):
            with contextlib.suppress(OSError):  # another user's: not ours to close
                if not place.is_symlink():
                    place.chmod(place.stat().st_mode & 0o700)

    def config(self) -> CampaignConfig:
        """Return the configuration as launched; where its file is torn, what an embedded store says of it.

        Raises:
            ConfigError: The file is damaged or was edited wrongly.
        """
        if self.is_config_torn():
            return self._stored_config()
        try:
            return load_config(self.config_file)
        except ConfigError as error:
            cure = "undo what was edited in it, or put your own file in its place, its paths absolute"
            raise ConfigError(error.what, value=error.value, allowed=error.allowed, cure=cure) from None

    def write_config(self, config: CampaignConfig) -> None:
        """Write the configuration, with every default, for resume and for people."""
        text = yaml.safe_dump(config_document(config), sort_keys=False, allow_unicode=True)
        write_atomic(self.config_file, f"{FIRST_LINE}\n{text}{LAST_LINE}\n")

    def is_config_torn(self) -> bool:
        """Tell whether the configuration is missing, cut off, or no text; one that a user wrote is never torn."""
        try:
            text = self.config_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return True
        whole = text.rstrip().endswith(LAST_LINE) or not text.startswith(FIRST_LINE)
        return not whole or FIRST_LINE.startswith(text.rstrip("\n"))

    def _stored_config(self) -> CampaignConfig:
        """Return the configuration that the embedded store in this folder holds.

        Raises:
            ConfigError: There is none.
        """
        if self.store_file.is_file():
            with CampaignStore.open(StoreConfig(), self.path, read_only=True) as store:
                for campaign in store.query("campaigns", fields=["config"], limit=1):
                    return parse_config(campaign["config"], str(self.store_file))
        raise ConfigError(
            "the configuration in the run folder is torn",
            value=str(self.config_file),
            cure="put your own campaign.yaml in its place, its paths absolute",
        )

    def store(self, *, read_only: bool = True) -> CampaignStore:
        """Open the campaign's store."""
        return CampaignStore.open(located_store(self.config()), self.path, read_only=read_only)

    def stop_request(self) -> str | None:
        """Return `drain` or `now` if a stop was asked for; a torn file counts as `drain`."""
        try:
            mode = json.loads(self.stop_file.read_text())["mode"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return "drain"
        return "now" if mode == "now" else "drain"


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Let whatever is made in a `with` block, by this process or by those it starts, be its user's alone."""
    old = os.umask(PRIVATE)
    try:
        yield
    finally:
        os.umask(old)


def located_store(config: CampaignConfig) -> Any:
    """Return the store's configuration; a database that neither it nor the URI names is called as the campaign."""
    store = config.store
    if store.kind == "mongodb" and store.database is None and not database_in(store.resolved_uri()):
        return config.store.model_copy(update={"database": config.name})
    return config.store


def default_run_folder(config_file: Path, config: CampaignConfig) -> RunFolder:
    """Return the folder of a campaign that was given none: named after it, beside its YAML."""
    return RunFolder((config_file.resolve().parent / config.name).absolute())


def find_run(path: Path) -> RunFolder:
    """Return the campaign that RUN names: its folder, or the campaign.yaml that was launched.

    Raises:
        RunNotFoundError: There is no campaign there.
    """
    resolved = path.expanduser().resolve()
    if resolved.is_file():
        try:
            folder = default_run_folder(resolved, load_config(resolved))
        except ConfigError as error:
            raise RunNotFoundError("RUN is no campaign", value=str(path), cure=error.one_line()) from None
    else:
        folder = RunFolder(resolved)
    if not folder.config_file.is_file() and not folder.store_file.is_file():
        raise RunNotFoundError(
            "there is no campaign",
            value=str(path),
            allowed="the run folder of a launched campaign, or its campaign.yaml",
            cure="start one with `campaign launch campaign.yaml`, or name the folder given to --run-dir",
        )
    return folder


def remove(path: Path) -> None:
    """Remove a file, or whatever lies in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, sees the old or the new content and nothing between.

    What is there and is no file, such as /dev/stdout, is written to and not replaced.

    Raises:
        StoreFullError: No space is left on the device.
        StoreUnreachableError: There is no such folder, or no permission.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise told(error, path) from None
        return
    write_whole(path.resolve(), text.encode())  # a link is followed, not replaced
