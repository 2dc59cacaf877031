"""What runs in a batch job of the driver: `python -m campaign.driver_job RUN POOLS`.

It submits its successor, carries the campaign on, and cancels the successor when the campaign has ended. The successor
waits for this job to be over however it ends, so a lost node or a kill does not break the chain. Shortly before the
walltime ends Slurm sends SIGUSR1: the driver lets short tasks end and stops. Its pools end with it, blocks on the
batch system too, as nobody could take the results of the tasks that run there; the successor repeats these tasks.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from campaign.documents import CampaignStatus, now
from campaign.driver_chain import (
    STEADY_S,
    VAIN_DRIVERS,
    Chain,
    End,
    drivers_in_vain,
    end_chain,
    read_chain,
    submit_job,
    update_chain,
    was_cancelled,
)
from campaign.errors import CampaignError, SiteError, StoreAwayError, StoreUnreachableError
from campaign.launch import Outcome, resume
from campaign.lease import holder
from campaign.parallel.pools import PoolKind
from campaign.preparing import LEASE_TTL_S
from campaign.run_folder import RunFolder
from campaign.site import load_site, pool_of, pools_with_workers

_WAIT_S = 3 * LEASE_TTL_S
"""How long the lease of the driver before may take to expire [s]."""

FIRST_LOOK_S, LONGEST_LOOK_S = 1.0, 30.0
"""Pauses between two looks whether the store's server is back [s]; each is twice the one before."""

SUBMIT_AGAIN_S = 300.0
"""After so long a driver tries again to submit its successor, if Slurm did not take it [s]."""


def main() -> None:
    """Drive the campaign that the arguments name, as one job of its chain."""
    folder, kind = RunFolder(Path(sys.argv[1])), sys.argv[2]
    # Until the driver's loop handles it, the notice waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    job_id = os.environ["SLURM_JOB_ID"]
    try:
        _leave_job(folder)
        code = _drive(folder, job_id, kind)  # type: ignore[arg-type]
    except CampaignError as error:
        code = _end(folder, f"the driver failed: {error.one_line()}", event=False)
    sys.exit(code)


def _leave_job(folder: RunFolder) -> None:
    """Forget the shape of this job: it is none of the blocks' that the driver submits."""
    site = load_site(folder.config().site, folder.path)
    if any(pool_of(site, name).provider == "allocation" for name in pools_with_workers(site)):
        return  # these workers run in this very job
    for name in [one for one in os.environ if one.startswith(("SLURM_", "SBATCH_")) and one != "SLURM_CONF"]:
        del os.environ[name]


def _drive(folder: RunFolder, job_id: str, kind: PoolKind) -> int:
    _say(f"driver of {folder.config().name} in batch job {job_id}")
    chain = update_chain(folder, lambda old: old.with_job(job_id, began=now()))
    ended = chain.ended or _why_not_begin(chain, job_id)
    if ended:
        return _end(folder, ended, event=chain.ended is None)
    over = threading.Event()
    if _submit_successor(folder, job_id) is None:
        threading.Thread(target=_keep_submitting, args=(folder, job_id, over), daemon=True).start()
    steady = threading.Timer(STEADY_S, update_chain, (folder, lambda old: old.with_job(job_id, steady=True)))
    steady.daemon = True
    steady.start()
    end, ended, done = _wait_for_store(folder, job_id) or _counted(
        folder, kind, retry=chain.retry and len(chain.jobs) == 1
    )
    steady.cancel()
    over.set()
    update_chain(folder, lambda old: old.with_job(job_id, end=end, tasks=done))
    if ended:
        return _end(folder, ended, event=end == "crashed")
    successor = _submit_successor(folder, job_id)  # the one that waits, if there is one
    _say(f"batch job {job_id} ends ({end}); job {successor or 'none'} carries on")
    return 0


def _why_not_begin(chain: Chain, job_id: str) -> str | None:
    """Return why the chain has to end before this job drives."""
    before = chain.before(job_id)
    if before and was_cancelled(chain, before[-1].id):
        return f"job {before[-1].id} was cancelled; `campaign resume --detach` begins again"
    if drivers_in_vain(chain, job_id) >= VAIN_DRIVERS:
        return (
            f"{VAIN_DRIVERS} drivers in a row died within {STEADY_S:.0f} s or ended before any task did: "
            "see logs/driver.log, cure it, then `campaign resume --detach`"
        )
    return None


def _submit_successor(folder: RunFolder, job_id: str) -> str | None:
    """Submit the next job unless the chain has been ended meanwhile; return its id."""

    def submitted(old: Chain) -> Chain:
        return old if old.ended or old.after(job_id) else old.with_job(submit_job(folder, after=job_id))

    try:
        after = update_chain(folder, submitted).after(job_id)
    except SiteError as error:  # a limit on queued jobs, or a controller that restarts: at the end again
        _say(f"no successor yet: {error.one_line()}")
        return None
    return after[-1].id if after else None


def _keep_submitting(folder: RunFolder, job_id: str, over: threading.Event) -> None:
    """Try again until there is a successor: a driver that is killed meanwhile would have none."""
    while not over.wait(SUBMIT_AGAIN_S) and _submit_successor(folder, job_id) is None:
        pass


def _wait_for_store(folder: RunFolder, job_id: str) -> tuple[End, str | None, int] | None:
    """Wait until the store's server answers; None once it does, or where nothing is to be waited for.

    SIGUSR1 has to be blocked, as it is before a driver's loop begins.

    Returns:
        How this driver ends otherwise, why the chain ends with it, if it does, and that no task was done.
    """
    hours, chain = folder.config().store.outage_hours, read_chain(folder) or Chain()
    since = datetime.fromisoformat(chain.waited_since(job_id) or now())
    told, pause = False, FIRST_LOOK_S
    while hours > 0:
        try:
            with folder.store():
                return None
        except StoreAwayError as error:
            if not told:
                _say(f"waiting for at most {hours:g} h: {error.one_line()}")
        except CampaignError:  # no outage: what opens it next tells
            return None
        told = True
        ended = (read_chain(folder) or Chain()).ended
        if ended:
            return "over", ended, 0
        if (datetime.now(UTC) - since).total_seconds() > hours * 3600:
            return "over", f"the MongoDB server has not answered for {hours:g} h", 0
        if signal.sigtimedwait({signal.SIGUSR1}, pause) is not None:
            return "away", None, 0
        pause = min(2 * pause, LONGEST_LOOK_S)
    return None


def _counted(folder: RunFolder, kind: PoolKind, *, retry: bool) -> tuple[End, str | None, int | None]:
    """Drive; return how and why the driver ended as `_carry_on` does, and how many tasks ended meanwhile."""
    before = _tasks_done(folder)
    end, ended = _carry_on(folder, kind, retry=retry)
    after = _tasks_done(folder)
    return end, ended, None if before is None or after is None else after - before


def _carry_on(folder: RunFolder, kind: PoolKind, *, retry: bool) -> tuple[End, str | None]:
    """Drive; return how the driver ended, and why the chain ends with it, if it does."""
    from rich.console import Console

    from campaign.views.progress import Progress

    try:
        site = load_site(folder.config().site, folder.path)
        grace_s = site.driver.notice_s / 2 if site.driver else 0.0  # the other half is for ending the pools
        _wait_for_lease(folder)
        progress = Progress(Console())
        outcome = resume(
            folder.path, config_file=None, pools=kind, progress=progress, retry=retry, grace_s=grace_s
        )
    except (
        StoreUnreachableError,
        SiteError,
    ) as error:  # may heal by itself: a server or a node that was away
        _say(f"error: {error.one_line()}")
        return "crashed", None
    except CampaignError as error:
        _say(f"error: {error.one_line()}")
        return "over", f"the driver failed: {error.one_line()}"
    except Exception:
        traceback.print_exc()
        return "crashed", None
    _say(f"campaign {outcome.status.value}: {outcome.reason}")
    return _judged(outcome)


def _judged(outcome: Outcome) -> tuple[End, str | None]:
    if outcome.status is not CampaignStatus.STOPPED:
        return "over", f"campaign {outcome.status.value}"
    if outcome.interrupted_by == "SIGUSR1":
        return "walltime", None
    if not outcome.interrupted_by:
        return "over", "stopped by `campaign stop`"
    return (
        "interrupted",
        None,
    )  # preempted, or the node is shut down; if it was cancelled, the successor sees that


def _tasks_done(folder: RunFolder) -> int | None:
    """Return how many tasks of the campaign have ended so far; None where the store does not answer."""
    with suppress(CampaignError), folder.store() as store:
        campaign = store.get("campaigns", folder.config().name) or {}
        return int(sum(n for key, n in (campaign.get("usage") or {}).items() if key.endswith("_tasks")))
    return None


def _wait_for_lease(folder: RunFolder) -> None:
    """Wait until the lease of a driver that was killed on another machine has expired."""
    name = folder.config().name
    deadline = time.monotonic() + _WAIT_S
    with folder.store() as store:
        while (present := holder(store, name)) and present.is_live and time.monotonic() < deadline:
            time.sleep(2)


def _end(folder: RunFolder, why: str, *, event: bool) -> int:
    """End the chain, and say so in the log and, if nothing else tells of it, in the events."""
    cancelled = end_chain(folder, why)
    _say(f"no further batch job: {why}" + (f"; cancelled {', '.join(cancelled)}" if cancelled else ""))
    if event:
        with suppress(CampaignError), folder.store(read_only=False) as store:
            store.log_event("driver_chain_ended", why)
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{now()} {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
