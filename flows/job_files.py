"""A job's folder: a lock, one whole result or none, and what failed. This is what makes «never twice» true.

Whoever runs a job holds the lock of its folder for as long; the operating system takes it back when the process
dies, however it dies. A result appears in one rename, so it is whole or absent, and whoever finds one does not run
the job again.

    lock              held by the process that runs the job; changed when one began
    result.json       the result, once there is one
    failure-<n>.json  the n-th failure, for people; never taken for a result
    order.json        the job itself, where whoever runs it gets no more than the folder's name

A relaxation also leaves its geometry there as it goes, for the next try: `last_geometry.json`, or VASP's CONTCAR.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.errors import JobFolderError

LOCK = "lock"
RESULT = "result.json"
ORDER = "order.json"
LAST_GEOMETRY = "last_geometry.json"
"""Where a relaxation with an ASE calculator leaves its geometry as it goes."""
GEOMETRIES = (LAST_GEOMETRY, "CONTCAR")
"""Where relaxations leave theirs."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; wait while another process or thread holds it.

    Raises:
        JobFolderError: The folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        set_aside_folder(folder / LOCK)
        handle = (folder / LOCK).open("a")
    except OSError as error:
        raise JobFolderError(
            f"a job's folder cannot be used ({error.strerror})",
            value=str(folder),
            cure="let the workers write there, and free space on its disk",
        ) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            with contextlib.suppress(OSError):  # a full disk; only bookkeeping is at stake
                os.utime(handle.fileno())
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)


def lock_state(folder: Path) -> tuple[float | None, bool]:
    """Return when a job's folder was last locked [s since 1970], None if never, and whether it is now."""
    try:
        with (folder / LOCK).open("r+") as handle:
            begun = os.fstat(handle.fileno()).st_mtime
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return begun, True
            fcntl.flock(handle, fcntl.LOCK_UN)
            return begun, False
    except OSError:
        return None, False


def set_aside_folder(path: Path) -> None:
    """Rename a folder that lies where a file belongs; nothing else ever put one there."""
    if path.is_dir() and not path.is_symlink():
        number = len(list(path.parent.glob(f"{path.name}.aside-*"))) + 1
        path.rename(path.with_name(f"{path.name}.aside-{number}"))


def read_result(folder: Path, uuid: str, index: int) -> dict[str, Any] | None:
    """Return the stored result of a job, None if there is none or it is torn.

    Raises:
        JobFolderError: The result is whole, but another job's.
    """
    try:
        found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not (isinstance(found, dict) and found.get("ok") is True and isinstance(found.get("docs"), list)):
        return None
    if not all(isinstance(document, dict) for document in found["docs"]):
        return None
    keys = [(document.get("uuid"), document.get("index")) for document in found["docs"]]
    if (uuid, index) not in keys:
        raise JobFolderError(
            "the folder holds another job's result",
            value=str(folder),
            cure="give each job a folder of its own",
        )
    return found


def left_geometry_since(folder: Path, moment: float) -> bool:
    """Return whether a relaxation has left a geometry in its folder after a moment [s since 1970]."""
    for name in GEOMETRIES:
        with contextlib.suppress(OSError):
            found = (folder / name).stat()
            if found.st_size and found.st_mtime > moment:
                return True
    return False


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Store a result durably before anybody is told of it."""
    write_json(folder / RESULT, result)


def write_failure(folder: Path, failure: dict[str, Any]) -> None:
    """Keep a failure for people."""
    words = [path.stem.partition("-")[2] for path in folder.glob("failure-[0-9]*.json")]
    numbers = [int(word) for word in words if word.isdecimal()]
    write_json(folder / f"failure-{max(numbers, default=0) + 1}.json", failure)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document so that it is there whole, or not at all, whatever happens meanwhile."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    set_aside_folder(path)
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            json.dump(document, handle)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)
