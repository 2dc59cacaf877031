"""Checkpoints: weights, configuration and a format version; never a pickled class.

A checkpoint is a folder with two files:

    checkpoint.json          kind, format, config, state (small JSON values), name and sha256 of the weights
    weights-<sha256>.pt      a flat dict of tensors, read with `weights_only=True`

The weights carry their hash in their name and `checkpoint.json` is replaced last, by one rename. So whatever
moment a machine dies at, the folder holds the old checkpoint or the new one, whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.errors import CheckpointError

FORMAT = 1
"""Grows when older software could no longer read what is written."""

MANIFEST = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds."""

    kind: str
    """Which model wrote it, for example "head/cgcnn"."""
    config: dict[str, Any]
    """The model's options, as JSON values."""
    state: dict[str, Any]
    """Small things learnt beside the weights (scales, names), as JSON values."""
    weights: dict[str, torch.Tensor]
    """Tensors by name."""


def save_checkpoint(
    folder: Path,
    kind: str,
    config: Mapping[str, Any],
    state: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor],
) -> str:
    """Write a checkpoint, replacing the one that `folder` may hold in a single step.

    Returns:
        The folder's `checkpoint_sha256`.

    Raises:
        CheckpointError: The folder cannot be written (full disk, permissions).
    """
    # Seen again as plain tensors on the CPU, so that no class and no device gets into the file.
    plain = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    name = f"weights-{digest[:16]}.pt"
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "config": dict(config),
        "state": dict(state),
        "weights": name,
        "weights_sha256": digest,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, data)
        write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1, allow_nan=False).encode())
        for old in [*folder.glob("weights-*.pt"), *folder.glob(".*.tmp")]:  # replaced, or left by a crash
            if old.name != name:
                old.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot write a checkpoint: {error.strerror or error}",
            value=str(folder),
            cure="free some space or choose a folder that may be written; the last whole checkpoint is kept",
        ) from error
    return checkpoint_sha256(folder)


def load_checkpoint(folder: Path, kind: str, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint of one kind.

    Raises:
        CheckpointError: No checkpoint there, of another kind, of a newer format, or a torn or altered file,
            which is named.
    """
    manifest = read_manifest(folder)
    if manifest["kind"] != kind:
        raise CheckpointError(
            f"{folder} holds a checkpoint of another kind of model",
            value=manifest["kind"],
            allowed=kind,
            cure="give the folder that this model was saved in",
        )
    path = folder / manifest["weights"]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror or error})") from error
    if hashlib.sha256(data).hexdigest() != manifest["weights_sha256"]:
        raise _damaged(path, "is torn or altered: its sha256 is not the one that was written")
    try:
        weights = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except Exception as error:  # whatever torch makes of a foreign file
        raise _damaged(path, f"holds no plain tensors ({type(error).__name__})") from error
    return Checkpoint(kind=kind, config=manifest["config"], state=manifest["state"], weights=weights)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check `checkpoint.json` of a checkpoint folder, of whatever kind.

    Raises:
        CheckpointError: Missing, unreadable, torn, incomplete, or of a newer format.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(
            "there is no checkpoint", value=str(folder), allowed=f"a folder with {MANIFEST}"
        ) from error
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # torn JSON or torn UTF-8
        raise _damaged(path, f"is torn or altered ({error})") from error
    written = manifest.get("format") if isinstance(manifest, dict) else None
    if isinstance(written, int) and written > FORMAT:
        raise CheckpointError(
            f"{folder} was written by a newer version of this software",
            value=f"format {written}",
            allowed=f"format {FORMAT} or older",
            cure="update crystal-campaign",
        )
    if not isinstance(manifest, dict) or not _whole(manifest):
        raise _damaged(path, "is not a checkpoint's description")
    return manifest


def checkpoint_sha256(folder: Path) -> str:
    """Return the sha256 of a checkpoint: of its manifest, which holds the hash of the weights.

    Raises:
        CheckpointError: There is no whole manifest.
    """
    read_manifest(folder)
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def folder_sha256(folder: Path) -> str:
    """Return one sha256 over the names and contents of all files of a folder, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a crash of the machine.

    Raises:
        OSError: As the system says; nothing is left behind then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # makes the rename itself durable
    finally:
        os.close(directory)


def _whole(manifest: Mapping[str, Any]) -> bool:
    texts = all(isinstance(manifest.get(key), str) for key in ("kind", "weights", "weights_sha256"))
    dicts = all(isinstance(manifest.get(key), dict) for key in ("config", "state"))
    # The name must stay inside the folder, whoever wrote the file.
    return texts and dicts and re.fullmatch(r"weights-[0-9a-f]+\.pt", manifest["weights"]) is not None


def _damaged(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path} {problem}", cure="use another model version, or train this one again")
