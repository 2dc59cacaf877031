"""`campaign launch --detach` and `campaign resume --detach`: the driver in the background, or in batch jobs.

Without a block `driver` in the site file the driver becomes a process of its own session on this machine: it reads
nothing, writes to `logs/driver.log` and outlives the terminal. With the block it is a batch job that submits its own
successor (`campaign.driver_job`).
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

from campaign.driver_chain import Chain, batch_script, live_jobs, submit_job, update_chain
from campaign.errors import CampaignError, LeaseError, SiteError
from campaign.lease import holder
from campaign.parallel.pools import PoolKind
from campaign.preparing import held_store, prepare_launch, prepare_resume
from campaign.run_folder import RunFolder, write_atomic
from campaign.site import load_site
from campaign.site_driver import DriverConfig
from campaign.validation import check_store

_START_TIMEOUT_S = 600.0
"""How long a driver may take until it has the lease and its pools [s]: reading a large reference takes minutes."""


def launch_detached(config_file: Path, *, run_dir: Path | None, pools: PoolKind) -> list[str]:
    """Start a campaign whose driver outlives this process; return what to tell the user.

    Raises:
        CampaignError: The campaign cannot be launched, or its driver failed at once.
    """
    config, folder, _ = prepare_launch(config_file, run_dir)
    driver = load_site(config.site, folder.path).driver
    if driver is None:
        options = ["--run-dir", str(folder.path), "--pools", pools]
        return _start_process(folder, config.name, ["launch", str(config_file.resolve()), *options])
    _refuse_live_chain(folder, config.name)
    with held_store(config, folder, new=True):
        folder.write_config(config)  # with it alone, the batch job can do the rest
    return _submit(folder, config.name, driver, pools, retry=False)


def resume_detached(run: Path, *, config_file: Path | None, pools: PoolKind, retry: bool) -> list[str]:
    """Carry a campaign on with a driver that outlives this process; return what to tell the user.

    Raises:
        CampaignError: The campaign cannot be carried on, or its driver failed at once.
    """
    config, folder, _ = prepare_resume(run, config_file)
    _refuse_live_chain(folder, config.name)
    _refuse_live_driver(folder, config.name)
    driver = load_site(config.site, folder.path).driver
    if driver is None:
        given = ["--config", str(config_file.resolve())] if config_file else []
        options = [*given, *(["--retry-failed"] if retry else []), "--pools", pools]
        return _start_process(folder, config.name, ["resume", str(run.resolve()), *options])
    folder.write_config(config)
    return _submit(folder, config.name, driver, pools, retry=retry)


def _start_process(folder: RunFolder, name: str, command: Sequence[str]) -> list[str]:
    made = [one for one in (folder.logs, folder.path) if not one.exists()]
    folder.logs.mkdir(parents=True, exist_ok=True)
    before = folder.driver_log.stat().st_size if folder.driver_log.exists() else 0
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what is ignored here, the child ignores
    try:
        with folder.driver_log.open("ab") as log:
            driver = subprocess.Popen(
                [sys.executable, "-P", "-m", "campaign.cli", *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
    finally:
        signal.signal(signal.SIGHUP, hangup)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while driver.poll() is None and not _drives(folder, name, driver.pid):
        if time.monotonic() > deadline:
            driver.terminate()
            raise SiteError(
                "the driver did not start", value=f"{_START_TIMEOUT_S:g} s", cure=f"see {folder.driver_log}"
            )
        time.sleep(0.2)
    if driver.returncode:
        error = _error_in(folder, before)
        for one in made:  # nothing was launched: nothing is left
            if not folder.config_file.exists():
                shutil.rmtree(one, ignore_errors=True)
        raise error
    return [
        f"process {driver.pid} drives campaign {name}; it goes on when you log out",
        *_further(folder),
    ]


def _drives(folder: RunFolder, name: str, pid: int) -> bool:
    """Return whether a process of this machine holds the lease and has begun."""
    if not folder.config_file.exists():
        return False
    try:
        with folder.store() as store:
            present, campaign = holder(store, name), store.get("campaigns", name) or {}
    except CampaignError:  # the store is just being made
        return False
    return present is not None and present.owner.pid == pid and campaign.get("epoch") == present.epoch


def _error_in(folder: RunFolder, start: int) -> CampaignError:
    """Return the error that a driver ended its log with."""
    text = folder.driver_log.read_bytes()[start:].decode("utf-8", "replace")
    told = [line.removeprefix("error: ") for line in text.splitlines() if line.startswith("error: ")]
    if told:
        return CampaignError(told[-1])
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")
    return CampaignError("the driver ended at once", value=last, cure="launch without --detach to see why")


def _submit(folder: RunFolder, name: str, driver: DriverConfig, pools: PoolKind, *, retry: bool) -> list[str]:
    if shutil.which("sbatch") is None:
        raise SiteError(
            "the site's driver is a batch job, but there is no sbatch here",
            cure="launch where Slurm's commands are",
        )
    command = [sys.executable, "-P", "-m", "campaign.driver_job", str(folder.path), pools]
    folder.create()
    write_atomic(folder.chain_script, batch_script(folder, name, driver, command, _packages()))
    chain = update_chain(folder, lambda _: Chain(retry=retry).with_job(submit_job(folder)))
    return [
        f"batch job {chain.jobs[-1].id} will drive campaign {name}; it submits its successor until the campaign ends",
        *_further(folder),
    ]


def _packages() -> str:
    """Return the folder of a checkout, '' if the packages are installed."""
    parent = Path(__file__).resolve().parents[1]
    return "" if parent == Path(sysconfig.get_path("purelib")).resolve() else str(parent)


def _refuse_live_chain(folder: RunFolder, name: str) -> None:
    for job_id, found in live_jobs(folder).items():
        raise LeaseError(
            f"campaign {name!r} has a driver: batch job {job_id} ({found.state})",
            value=str(folder.path), cure=f"look with `campaign status {folder.path}`, end it with `campaign stop`",
        )  # fmt: skip


def _refuse_live_driver(folder: RunFolder, name: str) -> None:
    with folder.store() as store:
        present = holder(store, name)
    if present is not None and present.is_live:
        raise LeaseError(
            f"campaign {name!r} is running: process {present.owner.pid} on {present.owner.host} drives it",
            value=str(folder.path), cure=f"look with `campaign status {folder.path}`, end it with `campaign stop`",
        )  # fmt: skip


def _further(folder: RunFolder) -> list[str]:
    config = folder.config()
    risk = check_store(config, load_site(config.site, folder.path), folder.path)
    return [
        *([f"warning: {risk}"] if risk else []),
        f"log:   {folder.driver_log}",
        f"watch: campaign status {folder.path}",
        f"stop:  campaign stop {folder.path}",
    ]
