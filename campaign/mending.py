"""Files of the run folder that a start reads: what is torn is found, and mended from what is whole.

The store says what each file must hold: the configuration itself, the checksum of the reference, the checksums of
model versions. A torn result of a job is no result (`flows.job_files`), a torn request is none
(`campaign.retrying`); neither is looked at here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from campaign.components import reference_of
from campaign.config import CampaignConfig
from campaign.documents import ModelStatus
from campaign.errors import ReferenceDataError
from campaign.plan import Spec
from campaign.references.catalogue import FILE_NAME, file_sha256, prepare_reference
from campaign.run_folder import RunFolder, remove, write_atomic
from campaign.state import CampaignState, ModelState
from campaign.store import CampaignStore


def reference_damage(campaign: Mapping[str, Any]) -> str:
    """Return what is wrong with the prepared reference, or with the checksum beside it; '' if nothing is."""
    path, wanted = Path(campaign["reference"]["path"]), campaign["reference"]["sha256"]
    if not path.is_file():
        return f"{path} is missing"
    if file_sha256(path) != wanted:
        return f"{path} is torn or was changed"
    return "" if _checksum(path) == wanted else f"{path}.sha256 is torn or was changed"


def mend_reference(config: CampaignConfig, folder: RunFolder, campaign: Mapping[str, Any]) -> str:
    """Prepare a damaged reference again; return what was mended, '' if nothing was.

    Raises:
        ReferenceDataError: Its sources do not give what they gave at the launch: labels would mean something else.
    """
    damage = reference_damage(campaign)
    if not damage:
        return ""
    path, wanted = Path(campaign["reference"]["path"]), campaign["reference"]["sha256"]
    checksum = path.with_name(f"{path.name}.sha256")
    if path.is_file() and file_sha256(path) == wanted:
        _clear(checksum)
        write_atomic(checksum, f"{wanted}  {path.name}\n")
        return damage
    trial = path.parent / "again"
    try:
        found = prepare_reference(reference_of(config, folder.path), trial, FILE_NAME)
        if file_sha256(found) != wanted:
            raise ReferenceDataError(
                f"{damage}, and its sources do not give again what they gave at the launch",
                value=list(config.reference.crystals),
                cure="put the file back from a backup, or the sources as they were",
            )
        for place in (path, checksum):
            _clear(place)
        found.replace(path)
        found.with_name(f"{found.name}.sha256").replace(checksum)
    finally:
        remove(trial)
    return damage


def damaged_versions(state: CampaignState, spec: Spec, sha256: Mapping[str, str | None]) -> list[ModelState]:
    """Return the model versions whose checkpoint is needed from now on and is not what was written.

    Args:
        state: The campaign.
        spec: Its configuration.
        sha256: `_id` of a version -> checksum of its folder, as it was written.
    """
    from models.checkpoint import folder_sha256

    damaged = []
    for version in versions_in_use(state, spec):
        looked: ModelState | None = version
        # A version that is lost is trained again from its parent, so that one is needed too.
        while looked is not None and looked not in damaged and looked.checkpoint is not None:
            if folder_sha256(Path(looked.checkpoint)) == sha256.get(looked.id):
                break
            damaged.append(looked)
            looked = spec.parent(state, looked.key, looked.term)
    return damaged


def versions_in_use(state: CampaignState, spec: Spec) -> list[ModelState]:
    """Return the promoted versions that open and coming rounds are made and judged by, or that are trained on. Pure."""
    coming = len(state.rounds)
    rounds = [index for index, one in state.rounds.items() if one.selected is None] + [coming]
    found: dict[str, ModelState] = {}
    for key in (*spec.generators, *spec.judges, *spec.surrogates):
        newest = max((term for name, term in state.models if name == key), default=0)
        of_round = spec.generator_term if key in spec.generators else spec.term
        for term in {newest, *(min(of_round(index), newest) for index in rounds)}:
            version = state.version(key, term)
            if version is not None:
                found[version.id] = version
        sampling = [spec.sampler(state, key, index) for index in rounds] if key in spec.generators else []
        found |= {version.id: version for version in sampling if version is not None}
    return list(found.values())


def forget_versions(store: CampaignStore, state: CampaignState, lost: list[ModelState]) -> CampaignState:
    """Write down that versions are lost, so that they are trained again from the same labels and seed."""
    for version in lost:
        store.set_fields("models", version.id, {"state": ModelStatus.LOST.value})
        words = f"{version.id}: its checkpoint is damaged; it is trained again"
        store.log_event("model_lost", words, model=version.id, checkpoint=version.checkpoint)
    return state.without_models(lost)


def _checksum(path: Path) -> str:
    try:
        words = path.with_name(f"{path.name}.sha256").read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return ""
    return words[0] if words else ""


def _clear(path: Path) -> None:
    """Make room for a file where a folder lies."""
    if path.is_dir():
        remove(path)
