"""Files that a reader, or a crash, sees with the old or the new content and nothing between."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from campaign.errors import StoreFullError, StoreUnreachableError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there, both for good: after this a power cut changes nothing.

    Raises:
        StoreFullError: No space is left on the device.
        StoreUnreachableError: There is no such folder, or no permission.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
        _sync(path.parent)  # the rename itself
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise told(error, path) from None


def told(error: OSError, path: Path) -> StoreFullError | StoreUnreachableError:
    """Return what a user is told when a file cannot be written."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StoreFullError(
            "no space left on the device", value=str(path), cure="free space, then `campaign resume`"
        )
    return StoreUnreachableError(
        f"cannot write the file ({error.strerror})",
        value=str(path),
        cure="check its folder and the permissions",
    )


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
