"""`campaign doctor`: what is installed and works, found by trying it, and the cure for what does not.

Each question is a function that returns rows and never raises: a broken installation is the answer, not an error.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.errors import CampaignError, StoreError
from campaign.parallel.preflight import PACKAGES, probe
from campaign.site import cores_available, gpus_visible

MODULES = {
    "torch": "torch", "numpy": "numpy", "pymatgen": "pymatgen.core", "jobflow": "jobflow",
    "atomate2": "atomate2", "maggma": "maggma", "parsl": "parsl", "ase": "ase", "spglib": "spglib",
    "smact": "smact", "pyarrow": "pyarrow",
}  # fmt: skip
"""Distribution -> module that must import."""
NEEDED_FREE_GB = 2.0
"""A small campaign's records and calculation folders [GB]."""


@dataclass(frozen=True)
class Check:
    """One row of the answer."""

    name: str
    ok: bool
    found: str
    cure: str = ""
    optional: bool = False
    """A campaign can do without; it does not make the command fail."""


def examine(
    site: str | None = None,
    uri: str | None = None,
    folder: Path | None = None,
    *,
    limit_s: float = 600.0,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Check]:
    """Ask everything.

    Args:
        site: Also start the pools of this site (`local`, or a site file), and have a worker of each describe itself.
        uri: Also try this MongoDB server.
        folder: Folder whose disk is looked at, and against which a site file is read; default: the current one.
        limit_s: How long the workers may take to answer, the wait in a queue included [s].
        tell: Called with a line about what is waited for.
    """
    folder = folder or Path.cwd()
    rows = [*check_python(), *check_packages(), *check_location(), *check_weights(), *check_engines()]
    rows += [*check_embedded_store(), *check_disk(folder), *check_runs(folder), *check_machine()]
    if uri:
        rows += check_mongodb(uri)
    if site:
        from campaign.doctor_site import check_site

        rows += check_site(site, folder, limit_s, tell)
    return rows


def check_python() -> list[Check]:
    """Return whether this Python is new enough."""
    return [
        Check("python", sys.version_info >= (3, 11), platform.python_version(), "use Python 3.11 or newer")
    ]


def check_packages() -> list[Check]:
    """Import what a campaign needs, one by one."""
    return [_import(distribution, module) for distribution, module in MODULES.items()]


def _import(distribution: str, module: str) -> Check:
    cure = f"pip install -c constraints.txt {distribution}"
    try:
        importlib.import_module(module)
        return Check(distribution, True, importlib.metadata.version(distribution))
    except importlib.metadata.PackageNotFoundError:
        return Check(distribution, True, "found, version unknown")
    except Exception as error:  # whatever a broken library raises is the finding
        return Check(distribution, False, _one_line(error), cure)


def check_location() -> list[Check]:
    """Return whether the three packages come from one folder, as their common names make advisable."""
    parents = probe()["parents"]
    one = len(set(parents.values())) == 1 and all(parents.values())
    found = (
        next(iter(parents.values())) if one else ", ".join(f"{k}: {v or 'none'}" for k, v in parents.items())
    )
    cure = f"remove other packages called {', '.join(PACKAGES)} from PYTHONPATH and from this environment"
    return [Check("packages together", one, found, cure)]


def check_weights() -> list[Check]:
    """Return whether the surrogate's weights are there: they come inside the package, nothing is fetched."""
    cure = "pip install --force-reinstall --no-deps chgnet"
    spec = importlib.util.find_spec("chgnet")
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        return [Check("chgnet weights", False, "chgnet is not installed", "pip install chgnet")]
    weights = [path for path in Path(places[0]).glob("pretrained/*/*") if path.stat().st_size > 1_000_000]
    found = ", ".join(sorted({path.parent.name for path in weights})) or "none in the package"
    return [Check("chgnet weights", bool(weights), found, cure)]


def check_engines() -> list[Check]:
    """Ask each label engine whether it can run here; one suffices."""
    try:
        from flows.registry import ENGINES, resolve
    except ImportError as error:
        return [Check("engines", False, _one_line(error), "install the distribution again")]
    rows = []
    for name in ENGINES:
        try:
            engine = resolve(name, ENGINES, "engine")
            answer = engine(engine.Config()).check()
            rows.append(Check(f"engine {name}", answer.ok, answer.what, answer.cure, optional=True))
        except Exception as error:  # an engine that cannot even be built is a finding
            cure = getattr(error, "cure", "") or f"see the options of engine {name}"
            rows.append(Check(f"engine {name}", False, _one_line(error), cure, optional=True))
    working = [row.name.removeprefix("engine ") for row in rows if row.ok]
    rows.append(
        Check("some engine", bool(working), ", ".join(working) or "none", "install one of the engines")
    )
    return rows


def check_embedded_store() -> list[Check]:
    """Write, reopen and read a document in the embedded store."""
    from campaign.store import CampaignStore, StoreConfig

    def round_trip() -> str:
        with tempfile.TemporaryDirectory() as name:
            config = StoreConfig.model_validate({"kind": "embedded"})
            for attempt in ("write", "read"):
                store = CampaignStore.open(config, Path(name))
                try:
                    if attempt == "write":
                        store.insert_new("events", [{"_id": "doctor", "what": "doctor"}])
                    elif store.get("events", "doctor") is None:
                        raise RuntimeError("what was written is not there")
                finally:
                    store.close()
        return "written and read again"

    return [_tried("embedded store", round_trip, "free space in the folder for temporary files (TMPDIR)")]


def check_mongodb(source: str) -> list[Check]:
    """Reach a MongoDB server, and see whether it takes a write.

    Args:
        source: As `store.uri` of a campaign.yaml: a URI without a password, env:NAME or file:/path.
    """
    from campaign.storage.credentials import check_source, database_in, redact, secrets_of, uri_of

    def ping() -> str:
        import pymongo

        from campaign.storage.mongo_documents import check_uri, client_options, explain

        check_source(source)  # a command line is seen by every user of the machine
        uri = uri_of(source)
        check_uri(uri)
        try:
            with pymongo.MongoClient[Any](uri, **client_options()) as client:
                version = client.server_info()["version"]
                database = client[database_in(uri) or "campaign_doctor"]
                document = database["doctor"].insert_one({"what": "doctor"})
                database["doctor"].delete_one({"_id": document.inserted_id})
                return f"version {version} at {redact(uri)}, writable"
        except pymongo.errors.PyMongoError as error:
            raise StoreError(explain(error, redact(uri), secrets_of(uri)).what) from None

    return [_tried("mongodb", ping, "start the server, or correct host, port, user and password in --uri")]


def check_disk(folder: Path) -> list[Check]:
    """Return the free space where runs are kept by default."""
    free_gb = shutil.disk_usage(folder).free / 1e9
    found = f"{free_gb:.1f} GB free in {folder}"
    return [Check("disk", free_gb >= NEEDED_FREE_GB, found, f"free at least {NEEDED_FREE_GB:g} GB")]


def check_runs(folder: Path) -> list[Check]:
    """Return whether an embedded store is safe where runs are kept by default."""
    from campaign.storage.sqlite_file import network_file_system

    kind = network_file_system(folder.resolve())
    where = "on a local disk" if kind is None else f"on a network file system ({kind})"
    cure = (
        "an embedded store is not safe there: put it on a local disk (store.path), or use store.kind mongodb"
    )
    return [Check("embedded store of runs", kind is None, f"{folder} is {where}", cure, optional=True)]


def check_machine() -> list[Check]:
    """Return what the local site's sizes are worked out from."""
    gpus = gpus_visible(os.environ)
    return [
        Check("cores", True, str(cores_available())),
        Check(
            "GPU", bool(gpus), ", ".join(gpus) or "none: models run on the CPU", "none needed", optional=True
        ),
    ]


def _tried(name: str, action: Callable[[], str], cure: str) -> Check:
    try:
        return Check(name, True, action())
    except CampaignError as error:
        return Check(name, False, error.what, error.cure or cure)
    except Exception as error:  # a driver's own exceptions: told, not raised
        return Check(name, False, _one_line(error), cure)


def _one_line(error: BaseException) -> str:
    one_line = getattr(error, "one_line", None)
    text = one_line() if callable(one_line) else f"{type(error).__name__}: {error}"
    return " ".join(str(text).split())[:300]
