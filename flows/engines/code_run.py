"""Codes that run as programs of their own: started so that they end with their worker, their ends typed.

A code is started in a session of its own, so that its whole group can be ended whatever happens to the job, and the
kernel is told (`setpriv --pdeathsig`, Linux) to end it when its worker dies without a chance to do so. The signal is
SIGTERM, on which codes die and `mpirun` first ends what it has started.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from flows.causes import CodeCrashedError, MissingSetupError
from flows.job_context import threads_per_rank

GRACE_S = 3.0
"""How long a code may take to end when it is asked to [s]."""
ANSWER_S = 60.0
"""How long a code may take to say its version [s]."""
LAST_LINES = 12
"""Lines of a code's log that an error shows."""
LAUNCHERS = (
    "srun",
    "mpirun",
    "mpiexec",
    "mpiexec.hydra",
    "orterun",
    "prun",
    "aprun",
    "jsrun",
    "ibrun",
    "flux",
)
"""Programs that start the ranks of another."""
MEMORY_WORDS = (
    "out of memory",
    "cannot allocate memory",
    "not enough memory",
    "insufficient memory",
    "bad_alloc",
)
"""How codes say that memory ran out, in lower case."""


def words_of(command: str) -> tuple[str, ...]:
    """Return a launch line as words: «mpirun -n 4 abinit» gives four."""
    return tuple(shlex.split(command))


def launched(words: Sequence[str]) -> list[str]:
    """Return a code's launch line with the words before it that start its ranks, where its pool has several.

    The pool's words are in CAMPAIGN_MPI_PREFIX (pool key `ranks_per_task`); a launch line that begins with a launcher
    of its own stays as it is.
    """
    prefix = words_of(os.environ.get("CAMPAIGN_MPI_PREFIX", ""))
    if not words or Path(words[0]).name in LAUNCHERS:
        return list(words)
    return [*prefix, *words]


def environment() -> dict[str, str]:
    """Return the environment of a code: this worker's, with as many OpenMP threads as a rank has cores."""
    # Without mpirun, Open MPI would start a daemon beside each code; other libraries take no notice of its word.
    alone = {"OMPI_MCA_ess_singleton_isolated": "1"}
    return {**alone, **os.environ, "OMP_NUM_THREADS": str(threads_per_rank())}


def bound_to_worker(words: Sequence[str]) -> list[str]:
    """Return a command whose program the kernel ends with the thread that started it."""
    setpriv = shutil.which("setpriv")
    return [*([setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []), *words]


def run_code(
    words: Sequence[str],
    folder: Path,
    log: str,
    *,
    read: str | None = None,
    complaint: Callable[[str], str] | None = None,
) -> None:
    """Run a code in a folder until it ends.

    Args:
        words: Launch line and arguments.
        folder: Where it runs.
        log: File in the folder for what it prints.
        read: File in the folder that is its standard input; nothing otherwise.
        complaint: Finds in the log what the code complains about; the last lines tell where it finds nothing.

    Raises:
        MissingSetupError: There is no such program.
        MemoryError: It was killed, as happens where memory runs out, or says that there was too little.
        CodeCrashedError: It ended with another error.
    """
    _known(words)
    command = launched(words)
    _known(command)
    with (
        (folder / log).open("wb") as printed,
        (folder / read).open("rb") if read else contextlib.nullcontext(subprocess.DEVNULL) as given,
    ):
        program = subprocess.Popen(
            bound_to_worker(command),
            cwd=folder,
            stdin=given,
            stdout=printed,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
        )
        try:
            status = program.wait()
        finally:
            end_group(program)
    if status != 0:
        text = text_of(folder / log)
        raise crash_of(words, status, (complaint(text) if complaint else "") or last_lines(text))


def end_group(program: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """End what is left of a program's process group; nothing if all of it has ended."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(program.pid, sign)
        except ProcessLookupError:
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(GRACE_S)
    program.wait()


def crash_of(words: Sequence[str], status: int, said: str) -> Exception:
    """Return the exception that tells how a code ended.

    Args:
        words: Launch line.
        status: As `subprocess` gives it: minus the number of a signal; launchers give 128 more than it.
        said: The end of its log.
    """
    name = Path(words[0]).name
    number = -status if status < 0 else status - 128
    if any(word in said.lower() for word in MEMORY_WORDS):
        return MemoryError(f"{name} ran out of memory: {said}")
    if number == signal.SIGKILL:
        return MemoryError(f"{name} was killed (signal 9), as happens where memory runs out")
    how = f"by signal {number}" if 0 < number < signal.NSIG else f"with status {status}"
    return CodeCrashedError(f"{name} ended {how}: {said}")


def text_of(path: Path) -> str:
    """Return what a code has written into a file, empty if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def last_lines(text: str) -> str:
    """Return the end of a log on one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" *-=!%")]
    return " / ".join(lines[-LAST_LINES:])


@lru_cache(maxsize=16)
def answer_of(words: tuple[str, ...]) -> str:
    """Return what a command prints on standard output, empty if it does not run here."""
    with tempfile.TemporaryDirectory(prefix="answer-") as name:
        try:
            done = subprocess.run(
                bound_to_worker(words),
                cwd=name,  # some codes leave files even then
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=ANSWER_S,
                check=False,
                env=environment(),
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
    return done.stdout.decode("utf-8", errors="replace")


def _known(words: Sequence[str]) -> None:
    if not words or shutil.which(words[0]) is None:
        raise MissingSetupError(
            f"there is no program {words[0] if words else ''!r} here; install it, or set the engine's `command`"
        )
