"""The last step before a block's manager, run on the node itself: what only the job knows is put into its words.

* **Devices.** The pool counts the GPUs of a job from 0; the job may have been given devices 2 and 3 of its node,
  as CUDA_VISIBLE_DEVICES tells. Parsl would overwrite that with 0 and 1, which are somebody else's.
* **Time.** The manager is told when to take no more tasks, from the job's real end.

Run as a file of its own (`python -P block_start.py -- command ...`), on purpose without importing anything of ours.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence

DEVICES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
ACCELERATORS = "--available-accelerators"
DRAIN = "--drain_period="


def adapted(words: Sequence[str], environment: Mapping[str, str], now: float) -> list[str]:
    """Return a manager's command with the job's own devices and time. Pure.

    Args:
        words: The command; the devices are its last words, after `--available-accelerators`.
        environment: That of the job.
        now: Seconds since 1970.

    Raises:
        ValueError: The pool asks for a device that the job was not given.
    """
    words = list(words)
    given = next((environment[name] for name in DEVICES if environment.get(name)), "")
    if given and ACCELERATORS in words:
        first = words.index(ACCELERATORS) + 1
        words[first:] = [mapped(group, given.split(",")) for group in words[first:]]
    ends = environment.get("CAMPAIGN_BLOCK_ENDS")
    if ends:
        left = float(ends) - float(environment.get("CAMPAIGN_BLOCK_GRACE") or 0) - now
        words = [f"{DRAIN}{max(1, int(left))}" if word.startswith(DRAIN) else word for word in words]
    return words


def mapped(group: str, given: Sequence[str]) -> str:
    """Return the device, or the devices with commas between, that a worker's entry stands for."""
    found = []
    for entry in group.split(","):
        if not entry.strip().isdigit():  # a name that holds everywhere, such as GPU-6f2a
            found.append(entry.strip())
        elif int(entry) < len(given):
            found.append(given[int(entry)].strip())
        else:
            raise ValueError(
                f"the pool counts on GPU {entry} of a job that was given {len(given)} ({','.join(given)}): "
                "ask for more with gpus_per_node or gres, or lower accelerators"
            )
    return ",".join(found)


def main() -> None:
    """Become the manager."""
    command = sys.argv[sys.argv.index("--") + 1 :]
    try:
        command = adapted(command, os.environ, time.time())
    except ValueError as error:
        sys.exit(str(error))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
