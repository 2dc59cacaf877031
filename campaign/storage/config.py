"""What campaign.yaml says about the store; light, because every command reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from campaign.storage.credentials import check_source, redact, uri_of

LOSING_KINDS = frozenset({"memory", "json", "jsonstore", "mongomock", "monty", "montydb", "memorystore"})
"""Stores that exist in maggma and lose documents when a process dies or a second one writes."""


class StoreConfig(BaseModel):
    """Where the campaign's documents live."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kind: Literal["embedded", "mongodb"] = Field(
        "embedded",
        description="embedded: one durable file on a local disk, no server. mongodb: a server, by its URI.",
    )
    path: Path | None = Field(
        None, description="File of the embedded store; default: store.sqlite in the run's folder."
    )
    durable: bool = Field(
        True,
        description="Whether the embedded store waits for the disk at every write. false: the last writes may be lost "
        "when the machine itself goes down, though not when a process dies; for campaigns that cost nothing.",
    )
    indexed: bool = Field(
        True,
        description="Whether every field of candidates that people query has an index. false: only those that a driver "
        "asks for; writes of many candidates are then twice as fast, and queries of many slower. Embedded store alone.",
    )
    uri: str | None = Field(
        None,
        description="mongodb://... of the server. One with a password is never written here: env:NAME reads it "
        "from an environment variable, file:/path from a file that only you may read.",
    )
    database: str | None = Field(
        None, description="Database on the server; default: the one the URI names, or the campaign's name."
    )
    collection_prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_.-]*$",
        description="Put before every collection's name on the server; campaigns that share a database need "
        "one each.",
    )
    outage_hours: Annotated[float, Field(ge=0)] = Field(
        12.0,
        description="How long a driver waits for a MongoDB server that does not answer, before it ends [h]; "
        "0: not at all.",
    )

    @field_validator("uri")
    @classmethod
    def _refuse_passwords(cls, uri: str | None) -> str | None:
        if uri is not None:
            check_source(uri)
        return uri

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
        """Return the URI, read from where `uri` says.

        Raises:
            StoreError: The environment variable is not set, or the file cannot be used.
        """
        return uri_of(self.uri or "")

    def redacted(self) -> dict[str, Any]:
        """Return the settings for documents and messages, without a password."""
        data = self.model_dump(mode="json")
        return data | {"uri": redact(self.uri) if self.uri else None}
