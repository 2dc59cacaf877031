"""What the tests of bad input share: configurations with a mistake, commands that read, slow labels."""

from __future__ import annotations

import functools
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from command_line import campaign
from test_driver import small_campaign

from campaign.run_folder import RunFolder

READERS = (
    ["status"],
    ["resume", "--pools", "threads"],
    ["stop"],
    ["query", "labels"],
    ["export", "--format", "csv"],
)
"""Commands that open a campaign, with what they need besides RUN."""


@functools.cache
def small_files() -> tuple[dict, str]:
    """Return the small campaign's configuration and the text of its reference."""
    with tempfile.TemporaryDirectory() as name:
        file = small_campaign(Path(name))
        return yaml.safe_load(file.read_text()), (Path(name) / "reference.json").read_text()


def written(folder: Path, **keys: object) -> Path:
    """Write the small campaign with some top-level keys in place of its own."""
    document, reference = small_files()
    (folder / "reference.json").write_text(reference)
    file = folder / "campaign.yaml"
    file.write_text(yaml.safe_dump({**document, **keys}))
    return file


def refused_by_all(run: RunFolder, *words: str) -> None:
    for name, *rest in READERS:
        line = campaign(name, run.path, *rest).error
        for word in words:
            assert word in line, (name, line)


def slow(folder: Path) -> dict:
    log = str(folder / "executions.jsonl")
    options = {
        "calculator": "components:CountingLennardJones",
        "calculator_options": {"log": log, "sleep_s": 0.4},
    }
    return {"engine_options": options}


def wait_until(condition: Callable[[], object], running: subprocess.Popen[str]) -> None:
    for _ in range(4500):
        if condition():
            return
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    raise AssertionError("it did not come to that within 90 s")
