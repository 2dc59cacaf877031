"""What the command line says of an error: one line for what a user can cure, and nothing else is hidden."""

from __future__ import annotations

import errno

import typer


def is_interrupt(error: BaseException | None) -> bool:
    """Tell whether Ctrl-C is behind an error: a library that was just being imported turns it into one of its own."""
    for _ in range(8):
        if error is None or isinstance(error, KeyboardInterrupt | typer.Abort):
            break
        error = error.__cause__ or error.__context__
    return error is not None and isinstance(error, KeyboardInterrupt | typer.Abort)


def one_line(error: Exception) -> str | None:
    """Return what a user can cure as one line, None for anything that is a defect of this software."""
    from campaign.errors import CampaignError
    from flows.errors import FlowsError
    from models.errors import ModelsError

    if isinstance(error, CampaignError | FlowsError | ModelsError):
        return error.one_line()
    if isinstance(error, OSError):
        return _file_trouble(error)
    if hasattr(
        error, "format_message"
    ):  # the command line itself is wrong; typer's errors have no public base
        context = getattr(error, "ctx", None)
        command = getattr(context, "command_path", "campaign")
        what = " ".join(str(error.format_message()).split()).rstrip(".")
        return f"{what}; cure: see `{command} --help`"
    return None


def printable(line: str) -> str:
    """Return a line without what a terminal would obey, and without the middle of what nobody would read."""
    shown = "".join(one if one.isprintable() else repr(one)[1:-1] for one in line)
    most = 2000
    return shown if len(shown) <= most else f"{shown[: most - 500]} ... {shown[-490:]}"


def _file_trouble(error: OSError) -> str | None:
    """Return what an error of the file system means, None if no file is concerned."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        where = f"; got {error.filename!r}" if error.filename else ""
        return f"no space left on the device{where}; cure: free space, then `campaign resume`"
    if not error.filename:
        return None
    return f"{error.strerror}; got {str(error.filename)!r}; cure: check the path and its permissions"
