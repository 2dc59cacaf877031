"""Objects that are too large for a document lie in files `<sha256>.json` of the run's folder `large/`.

    {"_id": ..., "blob_uuid": ..., "data": {"@file": {"sha256": "<sha256>", "bytes": 20700000}}}

Force constants of a supercell of 320 atoms are 21 MB, and no document of MongoDB holds more than 16 MiB. A file is
whole on disk before its document is written, is named after its content, and is never changed; so repeating a write
changes nothing, and a reader sees the old document with the old file or the new one with the new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.errors import StoreError
from campaign.storage.plain import decode, encode
from campaign.storage.whole_files import told, write_whole

BULK: Mapping[str, str] = {"flows": "jobs", "jobs": "output", "data": "data"}
"""Collection -> the field that may be put into a file."""

MARK = "@file"
"""The one key of what stands in the document instead."""

MOST_BYTES = 2_500_000
"""Documents that are longer as JSON have their bulk in a file. A list of small numbers takes up to six and a half times
as much in MongoDB's own form as in JSON, and that must not pass 16 MiB."""


@dataclass(frozen=True)
class LargeFiles:
    """The files of one campaign."""

    folder: Path

    def put_aside(self, collection: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the document as it is stored: with its bulk written to a file, if it is too large.

        Raises:
            StoreError: It holds what has no plain form, or the file cannot be written.
        """
        field = BULK.get(collection)
        if field is None or field not in document or len(encode(document)) <= MOST_BYTES:
            return document
        content = encode({field: document[field]}).encode()
        checksum = hashlib.sha256(content).hexdigest()
        self._make_folder()
        write_whole(self._path(checksum), content)
        return {**document, field: {MARK: {"sha256": checksum, "bytes": len(content)}}}

    def bring_back(self, collection: str, document: dict[str, Any]) -> dict[str, Any]:
        """Return a document as it was before `put_aside`.

        Raises:
            StoreError: Its file is missing or damaged.
        """
        field = BULK.get(collection, "")
        bulk = document.get(field)
        marked = bulk[MARK] if isinstance(bulk, dict) and set(bulk) == {MARK} else None
        if not isinstance(marked, dict) or set(marked) != {"sha256", "bytes"}:
            return document
        return {**document, field: decode(self._read(marked["sha256"]))[field]}

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise told(error, self.folder) from None

    def _path(self, checksum: str) -> Path:
        return self.folder / f"{checksum}.json"

    def _read(self, checksum: str) -> bytes:
        path, why = self._path(checksum), "is damaged"
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == checksum:
                return content
        except OSError as error:
            why = f"cannot be read ({error.strerror})"
        raise StoreError(
            f"the file of a large object {why}", value=str(path), allowed=f"sha256 {checksum}",
            cure="put it back from a copy of the run's folder",
        )  # fmt: skip
