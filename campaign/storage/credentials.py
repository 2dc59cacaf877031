"""Where a store's URI comes from, and what of it may be shown.

A URI that holds a password comes from an environment variable (`env:NAME`) or from a file that only its owner
may read (`file:/path`), never from campaign.yaml or a command line, which others can see. What is shown of a
URI, in messages, logs and documents, is made of the parts that are known to be harmless (scheme, user, hosts,
database); everything else is left out, so that a URI that somebody mistyped gives nothing away either.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_plus

from campaign.errors import StoreError

HIDDEN = "***"
"""Stands where something secret is left out."""
SCHEMES = ("mongodb", "mongodb+srv")

_VARIABLE = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)\Z")
_HOST = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?\Z")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]*\Z")
_SECRET_KEY = re.compile(
    r"pass(word|wd|phrase)|secret|token|authmechanismproperties|credential", re.IGNORECASE
)

_taken: dict[str, str] = {}
"""Environment variable -> value, of those that were taken out of the environment."""


def uri_of(source: str) -> str:
    """Return the URI that `store.uri` means.

    Args:
        source: A URI, env:NAME or file:/path.

    Raises:
        StoreError: The variable is not set; the file is not there, not the user's alone, or empty.
    """
    if source.startswith("file:"):
        return _from_file(Path(source.removeprefix("file:")).expanduser())
    if not source.startswith("env:"):
        return source
    name = source.removeprefix("env:")
    value = (os.environ.get(name) or _taken.get(name, "")).strip()
    if not value:
        raise StoreError(
            "store.uri names an environment variable that is not set", value=name, cure=f"export {name}=..."
        )
    return value


def _from_file(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as handle:
            about = os.fstat(handle.fileno())  # of what is read, and not of what lay there a moment ago
            if about.st_mode & 0o077 or about.st_uid not in {os.geteuid(), 0}:
                raise StoreError(
                    "the file that holds the store's URI belongs to, or can be read by, others",
                    value=f"{path} (mode {about.st_mode & 0o777:03o})",
                    cure=f"chmod 600 {path}; if others may have read it, change the password",
                )
            text = handle.read(65536).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise StoreError(
            f"the file that store.uri names cannot be read ({why})", value=str(path), cure="check its path"
        ) from None
    if not text or "\n" in text:
        raise StoreError(
            "the file that store.uri names must hold one line, the URI", value=str(path), cure="correct it"
        )
    return text


def check_source(source: str) -> None:
    """Refuse what `store.uri` may not say.

    Raises:
        ValueError: It is neither a MongoDB URI nor names one, or it holds a password; the message shows none.
    """
    if source.startswith("env:"):
        if not _VARIABLE.match(source):
            raise ValueError("env: is followed by the name of an environment variable, as in env:MONGODB_URI")
    elif source.startswith("file:"):
        path = source.removeprefix("file:")
        if not path.startswith(("/", "~")) or path.startswith("//"):
            raise ValueError("file: is followed by an absolute path, as in file:/home/me/mongodb-uri")
    elif not source.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
        raise ValueError("must begin with mongodb://, mongodb+srv://, env: or file:")
    elif holds_secret(source):
        raise ValueError(
            "a password has no place where others can read it: put the URI into an environment variable "
            "(uri: env:MONGODB_URI), or into a file with `chmod 600` (uri: file:/home/me/mongodb-uri)"
        )


def holds_secret(uri: str) -> bool:
    """Tell whether a URI holds a password, a token or the like."""
    return bool(secrets_of(uri))


def secrets_of(uri: str) -> frozenset[str]:
    """Return what must not be seen of a URI, each as it is written there and as it is meant."""
    rest = uri.partition("://")[2] or uri
    found = set()
    before, at, _ = rest.rpartition("@")
    if at:
        found.add(before.partition(":")[2])
    else:  # no place is named: what follows the first colon is a port, or a password whose host was forgotten
        port = rest.partition("/")[0].partition(":")[2]
        if port and not all(_HOST.match(host) for host in rest.partition("/")[0].split(",")):
            found.add(port)
    for option in re.split(r"[&;]", uri.partition("?")[2]):
        key, _, value = option.partition("=")
        if _SECRET_KEY.search(key):
            found.add(value)
    found.discard("")
    return frozenset(found | {unquote(one) for one in found} | {unquote_plus(one) for one in found})


def scrub(text: str, secrets: Iterable[str]) -> str:
    """Return a text with the secrets left out."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def redact(uri: str) -> str:
    """Return what may be shown of a URI: scheme, user, hosts and database where they are what they seem."""
    if _VARIABLE.match(uri) or uri.startswith("file:"):
        return uri
    scheme, mark, rest = uri.partition("://")
    before, at, place = rest.rpartition("@")
    hosts, _, tail = place.partition("/")
    hosts, database = hosts.partition("?")[0], tail.partition("?")[0]
    if scheme not in SCHEMES:
        return HIDDEN if at or holds_secret(uri) else uri
    if not mark or (at and "?" in before):
        return f"{scheme}://{HIDDEN}"
    user, colon, _ = before.partition(":")
    shown = f"{user if _PLAIN_NAME.match(user) else HIDDEN}{f':{HIDDEN}' if colon else ''}@" if at else ""
    if not all(_HOST.match(host) for host in hosts.split(",")):
        hosts = HIDDEN
    if not _PLAIN_NAME.match(database):
        database = HIDDEN
    return f"{scheme}://{shown}{hosts}{f'/{database}' if database else ''}"


def shown(value: Any, key: str = "") -> Any:
    """Return a value that a user wrote as a message may show it: no URI's secrets, nothing called a password."""
    if isinstance(value, Mapping):
        return {name: shown(one, str(name)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [shown(one, key) for one in value]
    if _SECRET_KEY.search(key) and value is not None:
        return HIDDEN
    if isinstance(value, str) and ("://" in value or (key == "uri" and "@" in value)):
        return redact(value)
    return value


def database_in(uri: str) -> str:
    """Return the database that a URI names, or ''."""
    return unquote(uri.partition("://")[2].rpartition("@")[2].partition("/")[2].partition("?")[0])


def secret_variables(source: str | None) -> frozenset[str]:
    """Return the environment variables that workers must not see, for a `store.uri`."""
    found = _VARIABLE.match(source or "")
    return frozenset({found[1]}) if found else frozenset()


def take_from_environment(source: str | None) -> None:
    """Take the variable of `env:NAME` out of this process's environment, and remember it for this process.

    What is started from then on does not inherit it: workers, batch jobs, the codes that they run. (The kernel
    goes on to show a process's first environment, to its own user alone.)
    """
    for name in secret_variables(source):
        if os.environ.get(name):
            _taken[name] = os.environ.pop(name)


def taken() -> dict[str, str]:
    """Return the variables that were taken out of the environment, for what needs them too: a driver's successor."""
    return dict(_taken)
