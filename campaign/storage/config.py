"""What campaign.yaml says about the store; light, because every command reads it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from campaign.errors import StoreError

LOSING_KINDS = frozenset({"memory", "json", "jsonstore", "mongomock", "monty", "montydb", "memorystore"})
"""Stores that exist in maggma and lose documents when a process dies or a second one writes."""


class StoreConfig(BaseModel):
    """Where the campaign's documents live."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["embedded", "mongodb"] = Field(
        "embedded",
        description="embedded: one durable file on a local disk, no server. mongodb: a server, by its URI.",
    )
    path: Path | None = Field(
        None, description="File of the embedded store; default: store.sqlite in the run's folder."
    )
    uri: str | None = Field(
        None,
        description="mongodb://... of the server, or env:NAME to read it from an environment variable, "
        "which keeps a password out of this file.",
    )
    database: str | None = Field(
        None, description="Database on the server; default: the one the URI names, or the campaign's name."
    )
    collection_prefix: str = Field(
        "", pattern=r"^[A-Za-z0-9_.-]*$", description="Put before every collection's name on the server."
    )

    @field_validator("kind", mode="before")
    @classmethod
    def _refuse_losing_kinds(cls, kind: Any) -> Any:
        if isinstance(kind, str) and kind.lower() in LOSING_KINDS:
            raise ValueError(
                f"a campaign's documents would be lost in a {kind!r} store when a process dies; "
                "allowed: embedded, mongodb; cure: leave store.kind away for the embedded store"
            )
        return kind

    @model_validator(mode="after")
    def _check_fields_fit_kind(self) -> StoreConfig:
        if self.kind == "mongodb" and not self.uri:
            raise ValueError("store.kind mongodb needs store.uri, for example mongodb://localhost:27017")
        if self.kind == "embedded" and (self.uri or self.database or self.collection_prefix):
            raise ValueError("uri, database and collection_prefix belong to store.kind mongodb")
        if self.kind == "mongodb" and self.path is not None:
            raise ValueError("path belongs to store.kind embedded")
        return self

    def resolved_uri(self) -> str:
        """Return the URI, read from the environment where it says env:NAME.

        Raises:
            StoreError: The environment variable is not set.
        """
        uri = self.uri or ""
        if uri.startswith("env:"):
            name = uri.removeprefix("env:")
            if not os.environ.get(name):
                raise StoreError(
                    "store.uri names an environment variable that is not set",
                    value=name,
                    cure=f"export {name}=...",
                )
            return os.environ[name]
        return uri

    def redacted(self) -> dict[str, Any]:
        """Return the settings for documents and messages, without a password."""
        data = self.model_dump(mode="json")
        return data | {"uri": redact(self.uri) if self.uri else None}


def redact(uri: str) -> str:
    """Return a MongoDB URI without its password."""
    return re.sub(r"//([^:/@]*):[^@]*@", r"//\1:***@", uri)
