"""What the pool on FireWorks asks of a LaunchPad: find, add, look, and change a state. It decides nothing.

Documents are read as plain data and never turned back into FireWorks' objects: those import whatever module a
document names, and nothing that a worker writes may run code in the driver. For the same reason, and because a run
that ends at that very moment must not be overwritten, states are changed by conditional updates of the three
documents that hold them.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from campaign.errors import SiteError
from campaign.parallel.fireworks_config import LaunchPadConfig

ABOUT = "campaign_job"
"""Key of a Firework's spec, and of its workflow's metadata, under which it says what it is for."""
TAKEN_BACK = "taken_back"
"""Key beside it that `campaign stop` sets on what it defuses, to tell it from what a person defused."""
_ANSWER_MS = 10_000


@dataclass(frozen=True)
class Sight:
    """One Firework as its documents say."""

    fw_id: int
    state: str
    launched: bool = False
    """A worker, or a batch job, has it or had it."""
    reported: str = ""
    """When its worker last reported, by the worker's clock, ISO 8601."""
    host: str | None = None
    started: str | None = None
    stored: Mapping[str, Any] = field(default_factory=dict)
    """What its last run left on the LaunchPad."""
    taken_back: bool = False


class Board:
    """One LaunchPad, connected.

    Args:
        config: Where it is.

    Raises:
        SiteError: fireworks is not installed or runs on a stand-in for MongoDB, the server does not answer or does
            not let us in, or the LaunchPad was never set up.
    """

    def __init__(self, config: LaunchPadConfig) -> None:
        self.where = config.where()
        self._launchpad = _launchpad(config)
        try:
            if self._launchpad.fw_id_assigner.find_one() is None:
                raise SiteError(
                    "the LaunchPad was never set up", value=self.where,
                    cure="once: lpad -l my_launchpad.yaml reset",
                )  # fmt: skip
        except Exception as error:
            self.close()
            if isinstance(error, SiteError):
                raise
            raise SiteError(
                "the LaunchPad does not answer", value=f"{self.where}: {_first_words(error)}",
                cure="start its MongoDB, or correct pools.dft.launchpad of the site",
            ) from error  # fmt: skip

    def prepare(self) -> None:
        """Have the server itself see to it that a try of a job has one Firework, and find it quickly.

        Raises:
            SiteError: The LaunchPad's user may not write.
        """
        from pymongo.errors import PyMongoError

        name = f"spec.{ABOUT}.key"
        only = {name: {"$exists": True}}
        try:
            self._launchpad.fireworks.create_index(name, unique=True, partialFilterExpression=only)
        except PyMongoError as error:
            raise SiteError(
                "the LaunchPad does not let the driver write", value=f"{self.where}: {_first_words(error)}",
                cure="give the user of its my_launchpad.yaml the role readWrite",
            ) from error  # fmt: skip

    def find(self, key: str) -> Sight | None:
        """Return the Firework of this key, if there is one.

        A workflow without its Firework is what a driver left that was killed between the two writes of `add`: it is
        removed.
        """
        found = self._launchpad.fireworks.find_one({f"spec.{ABOUT}.key": key}, {"fw_id": 1})
        fw_id: int | None = found["fw_id"] if found else None
        self._launchpad.workflows.delete_many({f"metadata.{ABOUT}.key": key, "nodes": {"$ne": fw_id}})
        return None if fw_id is None else self.look([fw_id]).get(fw_id)

    def add(
        self, key: str, spec: Mapping[str, Any], about: Mapping[str, Any], task: Mapping[str, Any]
    ) -> int:
        """Add a workflow of one Firework, ready to run, and return its id.

        Args:
            key: What it is found again by; no other Firework has it.
            spec: FireWorks' own keys of the spec.
            about: What the job is for; put into the spec and the workflow's metadata.
            task: Parameters of `flows.firetasks.RunLabelJob`.
        """
        from fireworks import Firework, Workflow

        from flows.firetasks import RunLabelJob

        described = {ABOUT: {**about, "key": key}}
        firework = Firework(
            RunLabelJob(task),
            spec={**spec, **described},
            name=f"{about['formula']} {about['name']}",
            state="READY",
            fw_id=self._launchpad.get_new_fw_id(),
        )
        workflow = Workflow([firework], name=f"{about['campaign']} {about['formula']}", metadata=described)
        # LaunchPad.add_wf writes the Firework first; a worker that takes it before its workflow is there breaks.
        self._launchpad.workflows.insert_one(workflow.to_db_dict())
        self._launchpad.fireworks.insert_one(firework.to_db_dict())
        return int(firework.fw_id)

    def look(self, fw_ids: Iterable[int]) -> dict[int, Sight]:
        """Return what the LaunchPad says of these Fireworks; those that are gone are left out."""
        wanted = {"fw_id": {"$in": list(fw_ids)}}
        fields = ["fw_id", "state", "launches", f"spec.{ABOUT}.{TAKEN_BACK}", "spec._exception_details"]
        fireworks = list(self._launchpad.fireworks.find(wanted, fields))
        newest = [one["launches"][-1] for one in fireworks if one["launches"]]
        launches = self._launchpad.launches.find({"launch_id": {"$in": newest}}) if newest else ()
        by_id = {one["launch_id"]: one for one in launches}
        return {one["fw_id"]: self._sight(one, by_id) for one in fireworks}

    def set_state(self, fw_id: int, allowed: Iterable[str], state: str, *, taken_back: bool = False) -> bool:
        """Give a Firework another state if it is in one of the allowed ones; return whether it was."""
        mark = {f"spec.{ABOUT}.{TAKEN_BACK}": True}
        change: dict[str, Any] = {"$set": {"state": state, **(mark if taken_back else {})}}
        if not taken_back:
            change["$unset"] = mark
        changed = self._launchpad.fireworks.find_one_and_update(
            {"fw_id": fw_id, "state": {"$in": list(allowed)}}, change, projection={"launches": 1}
        )
        if changed is None:
            return False
        if state == "FIZZLED":
            running = {"launch_id": {"$in": changed["launches"]}, "state": "RUNNING"}
            self._launchpad.launches.update_many(running, {"$set": {"state": state}})
        self._launchpad.workflows.update_one(
            {"nodes": fw_id},
            {"$set": {"state": state, f"fw_states.{fw_id}": state}, "$unset": {"locked": ""}},
        )
        return True

    def close(self) -> None:
        """End the connection."""
        self._launchpad.connection.close()

    def _sight(self, firework: Mapping[str, Any], launches: Mapping[int, Mapping[str, Any]]) -> Sight:
        from fireworks.core.launchpad import get_action_from_gridfs

        launch = launches.get(firework["launches"][-1], {}) if firework["launches"] else {}
        history = launch.get("state_history") or [{}]
        action = launch.get("action")
        if action and "gridfs_id" in action:
            action = get_action_from_gridfs(action, self._launchpad.gridfs_fallback)
        stored = dict((action or {}).get("stored_data") or {})
        unread = firework.get("spec", {}).get("_exception_details")
        if unread and not stored:  # a worker that could not even read the Firework
            stored = {"_exception": unread}
        return Sight(
            fw_id=firework["fw_id"],
            state=firework["state"],
            launched=bool(launch),
            reported=str(history[-1].get("updated_on") or history[-1].get("created_on") or ""),
            host=launch.get("host"),
            started=launch.get("time_start"),
            stored=stored,
            taken_back=bool(firework.get("spec", {}).get(ABOUT, {}).get(TAKEN_BACK)),
        )


def fireworks_version() -> str:
    """Return the version of the installed fireworks.

    Raises:
        SiteError: There is none.
    """
    from importlib import metadata

    try:
        return metadata.version("fireworks")
    except metadata.PackageNotFoundError as error:
        raise SiteError(
            "fireworks is not installed", cure="pip install -c constraints.txt fireworks"
        ) from error


def _launchpad(config: LaunchPadConfig) -> Any:
    """Return FireWorks' LaunchPad; nothing has been asked of its server yet."""
    fireworks_version()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints which configuration files it has found
            from fireworks import LaunchPad, fw_config
    except Exception as error:
        raise SiteError(
            "fireworks cannot be imported", value=_first_words(error), cure="correct its FW_config.yaml"
        ) from error
    if fw_config.MONGOMOCK_SERVERSTORE_FILE:
        raise SiteError(
            "FireWorks is set up with a stand-in for MongoDB, which loses Fireworks and runs them twice",
            value=fw_config.MONGOMOCK_SERVERSTORE_FILE,
            cure="take MONGOMOCK_SERVERSTORE_FILE out of FW_config.yaml and the environment",
        )
    given = config.model_dump(exclude={"password", "logdir", "strm_lvl", "user_indices", "wf_user_indices"})
    options = {"serverSelectionTimeoutMS": _ANSWER_MS, **(given.pop("mongoclient_kwargs") or {})}
    password = config.password.get_secret_value() if config.password else None
    try:
        return LaunchPad(**given, password=password, mongoclient_kwargs=options, strm_lvl="CRITICAL")
    except Exception as error:  # pymongo's own about URIs and options
        raise SiteError(
            "the LaunchPad's settings are refused",
            value=_first_words(error),
            cure="correct pools.dft.launchpad",
        ) from error


def _first_words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
