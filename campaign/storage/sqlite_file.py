"""One SQLite file of the embedded store: opening, locking, transactions, and what its errors mean.

Durability: write-ahead log with synchronous=FULL, so every commit is on the disk when it returns, unless
`store.durable` is false. Readers in other processes never wait for the writer. The file must lie on a local disk:
the log uses shared memory.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from campaign.errors import StoreError, StoreFullError, StoreUnreachableError, StoreVersionError

APPLICATION_ID = 0x43525953  # "CRYS": tells our files from other SQLite databases
FORMAT_VERSION = 1
BUSY_SECONDS = 30.0

NETWORK_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.sshfs", "glusterfs", "gpfs"}
    | {"lustre", "ncpfs", "nfs", "nfs4", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "vboxsf", "wekafs"}
)
"""Types of file systems that several hosts may mount, where SQLite's locks and shared memory are not safe."""


class SqliteFile:
    """A connection that threads share and that child processes replace by their own.

    Args:
        path: The file, absolute.
        read_only: Never create, migrate or write.
        durable: Wait for the disk at every commit; else the last ones may be lost when the machine goes down.

    Raises:
        StoreUnreachableError: No such file (read-only), no folder, or no permission.
        StoreVersionError: Written by a newer version.
        StoreError: Not a store, or damaged.
    """

    def __init__(self, path: Path, *, read_only: bool = False, durable: bool = True) -> None:
        self.path = path
        self.read_only = read_only
        self.durable = durable
        self.lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._owner_pid = -1
        self._foreign: list[sqlite3.Connection] = []
        self._is_closed = False
        with self.lock:
            self._connect()

    def close(self) -> None:
        """Close the connection; closing twice is fine."""
        with self.lock:
            self._is_closed = True
            if self._connection is not None and self._owner_pid == os.getpid():
                self._connection.close()
            self._connection = None

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a SELECT."""
        with self.lock, self.translated():
            return self._live().execute(sql, parameters).fetchall()

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction of this process is open."""
        return self._connection is not None and self._connection.in_transaction

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the write lock; commit durably at the end, or leave everything as it was after an error."""
        if self.read_only:
            raise StoreError("the store is open for reading only", value=str(self.path))
        with self.lock, self.translated():
            connection = self._live()
            if connection.in_transaction:  # we hold the lock, so it is our own: the outer one commits
                yield connection
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")  # SQLite has rolled back by itself when the disk is full
                raise

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Turn SQLite's errors into the project's."""
        try:
            yield
        except sqlite3.Error as error:
            raise explain(error, self.path) from error

    def _live(self) -> sqlite3.Connection:
        if self._is_closed:
            raise StoreError("the store is closed", value=str(self.path))
        if self._connection is not None and self._owner_pid == os.getpid():
            return self._connection
        if self._connection is not None:
            # A connection must not cross a fork: closing it here would drop the parent's locks.
            self._foreign.append(self._connection)
        return self._connect()

    def _connect(self) -> sqlite3.Connection:
        if self.read_only and not self.path.exists():
            raise StoreUnreachableError(
                "there is no store at this path",
                value=str(self.path),
                cure="give the folder of a launched campaign",
            )
        with self.translated():
            if not self.read_only:
                _make_folder(self.path)
            connection = self._opened()
        if not self.read_only:
            _close_to_others(self.path)
        self._connection, self._owner_pid = connection, os.getpid()
        return connection

    def _opened(self) -> sqlite3.Connection:
        """Return a checked connection."""
        connection = self._open("rwc" if not self.read_only else "ro")
        try:
            self._check_and_prepare(connection)
        except sqlite3.OperationalError as error:
            connection.close()
            code = error.sqlite_errorcode & 0xFF
            log = self.path.with_name(self.path.name + "-wal")
            if not self.read_only or code != sqlite3.SQLITE_CANTOPEN or log.exists():
                raise
            # A folder where we may not write, and nobody is writing: no log is needed to read.
            connection = self._open("ro&immutable=1")
            self._check_and_prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _open(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=512,
        )

    def _check_and_prepare(self, connection: sqlite3.Connection) -> None:
        """Refuse foreign and newer files before anything is written; give a new file its marks."""
        application, version, tables = _marks(connection)
        if application == 0 and tables == 0:
            if self.read_only:
                raise StoreError(
                    "the store's file is empty", value=str(self.path), cure="launch the campaign again"
                )
            _retried(lambda: connection.execute("PRAGMA journal_mode = WAL"))
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
            connection.execute("COMMIT")
        elif application != APPLICATION_ID:
            raise StoreError(
                "this file is a database of another program", value=str(self.path), cure="give another path"
            )
        elif version > FORMAT_VERSION:
            raise StoreVersionError(
                f"the store {self.path} was written by a newer version of this software",
                value=version,
                allowed=f"format up to {FORMAT_VERSION}",
                cure="upgrade crystal-campaign",
            )
        connection.execute(f"PRAGMA synchronous = {'FULL' if self.durable else 'OFF'}")


def _marks(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Return application id, format version and number of tables of a file."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return application, version, tables


def _retried(action: Any) -> None:
    """Repeat what fails at once while another process is doing the same."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            action()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnreachableError(
            f"the store's folder cannot be made: {error.strerror}",
            value=str(path.parent),
            cure="check the path and its permissions",
        ) from None


def _close_to_others(path: Path) -> None:
    """Make the file, and the log and shared memory beside it, its owner's alone."""
    for file in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        with contextlib.suppress(OSError):  # not there, or another user's
            file.chmod(file.stat().st_mode & 0o700)


def explain(error: sqlite3.Error, path: Path) -> StoreError:
    """Return the project's error for one of SQLite's."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    where = str(path)
    if code == sqlite3.SQLITE_FULL:
        return StoreFullError(
            f"no space left for the store {where}; nothing stored was harmed", cure="free space, then resume"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreError(
            f"another process keeps the store locked for more than {BUSY_SECONDS:.0f} s",
            value=where,
            cure="end it, then resume",
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY):
        return StoreUnreachableError(
            "the store's file cannot be opened or written",
            value=where,
            cure="check that the folder exists and the permissions of file and folder",
        )
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return StoreError(
            f"the store's file is damaged or no store ({error})",
            value=where,
            cure="restore it from a copy, or give another path; the damaged file was left as it is",
        )
    return StoreError(f"the store failed: {error}", value=where)


def network_risk(path: Path) -> str | None:
    """Return in a sentence what is risky about a store's file there, None on a local disk."""
    kind = network_file_system(path)
    if kind is None:
        return None
    return (
        f"the embedded store {path} lies on a network file system ({kind}), where its locks are not safe: put it on a "
        "local disk (store.path), or use store.kind mongodb"
    )


def network_file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """Return the type of the network file system that holds a path, or None for a local disk."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:  # no Linux
        return None
    target = path.absolute()
    best, kind = -1, ""
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        # The kernel writes blanks in names as \040.
        point = Path(fields[1].encode().decode("unicode_escape"))
        if (target == point or point in target.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind if kind in NETWORK_FILE_SYSTEMS else None
