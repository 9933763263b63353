"""Requests and answers without a server: values that handlers take and return."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .content import ContentReader, OpenBlob


@dataclass(frozen=True, slots=True)
class Request:
    """A request: its path is decoded; header names are in any case, as in the mapping of the server."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def header(self, name: str) -> str:
        """Return a header, empty if there is none."""
        return self.headers.get(name, "")


@dataclass(frozen=True, slots=True)
class BlobPart:
    """Bytes `start` to `start + count` of an open blob, which the server closes."""

    blob: OpenBlob
    content: ContentReader
    start: int
    count: int


@dataclass(slots=True)
class Answer:
    """An answer. `length` is that of the body if it is not sent, as for HEAD; `events` is a stream without end."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | BlobPart = b""
    length: int | None = None
    events: AsyncIterator[bytes] | None = None
    kind: str = "other"
    note: str = ""


def json_answer(value: Any, *, content_type: str = "application/json", **headers: str) -> Answer:
    """Return a JSON document; its type has no parameters, since clients compare it."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Answer(200, {"Content-Type": content_type, **headers}, body)


def error_answer(status: int, code: str, message: str, *, note: str = "", **headers: str) -> Answer:
    """Return an error as the distribution-spec wants it ("Error Codes"); `note` is logged in its place."""
    body = json.dumps({"errors": [{"code": code, "message": message, "detail": None}]}).encode()
    return Answer(status, {"Content-Type": "application/json", **headers}, body, note=note or message)
