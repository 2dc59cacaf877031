"""Runs the command line as users do: in this process where that suffices, or as a process of its own."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

TESTS = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that a mistake is told in; fails if there is more, or another exit code."""
        assert self.code == 2, (self.code, self.out[-2000:], self.err[-2000:])
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err[-3000:]
        assert lines[0].startswith("error: ")
        assert "Traceback" not in self.err + self.out
        return lines[0]


def campaign(*argv: object) -> Ran:
    """Call `campaign ARGV` in this process."""
    from campaign import cli

    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["campaign", *map(str, argv)]),
    ):
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return Ran(code, out.getvalue(), err.getvalue())


def environment(**extra: str) -> dict[str, str]:
    """Return the variables of a process that finds the checkout and the tests' components."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **extra}


def start(*argv: object, folder: Path | None = None, **extra: str) -> subprocess.Popen[str]:
    """Start `campaign ARGV` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "campaign.cli", *map(str, argv)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**extra), cwd=folder,
        start_new_session=True,
    )  # fmt: skip


def process(*argv: object, folder: Path | None = None, timeout_s: float = 300, **extra: str) -> Ran:
    """Run `campaign ARGV` as a process of its own."""
    running = start(*argv, folder=folder, **extra)
    try:
        out, err = running.communicate(timeout=timeout_s)
    except BaseException:
        running.kill()
        raise
    return Ran(running.returncode, out, err)


def children_seconds() -> float:
    """Return what ended processes of this one have computed [s]: others may be busy on the machine meanwhile."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
