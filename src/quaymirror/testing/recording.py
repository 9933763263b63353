"""The requests to the server: one record each, in order of arrival."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Listener = Literal["quay", "cdn"]


@dataclass(slots=True)
class RequestRecord:
    """A request and its answer. ``status`` is None until an answer begins.

    ``path`` is decoded, ``query`` is as sent, header names are lower-case (repeated ones joined by a comma). ``peer``
    is the client's ``address:port``, the same for all requests of a connection. ``at`` is in monotonic seconds.
    """

    listener: Listener
    method: str
    path: str
    query: str
    headers: dict[str, str] = field(repr=False)
    order: int
    peer: str = ""
    at: float = field(default_factory=time.monotonic, repr=False)
    status: int | None = None
    body_bytes_sent: int = 0
    is_finished: bool = False

    @property
    def is_blob_content(self) -> bool:
        """Return whether the body is (part of) a blob rather than a redirect or an error."""
        if self.status not in (200, 206):
            return False
        return self.listener == "cdn" or "/blobs/" in self.path


class Recorder:
    """The records of one server."""

    def __init__(self) -> None:
        self.requests: list[RequestRecord] = []
        self.in_flight: int = 0
        self.peak_in_flight: int = 0
        self._orders = 0

    def begin(
        self, listener: Listener, method: str, path: str, query: str, headers: dict[str, str], peer: str
    ) -> RequestRecord:
        """Record a request that has just arrived."""
        record = RequestRecord(listener, method, path, query, headers, self._orders, peer)
        self._orders += 1
        self.requests.append(record)
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        return record

    def end(self, record: RequestRecord) -> None:
        """Note that nothing more will be sent for *record*."""
        record.is_finished = True
        self.in_flight -= 1

    def reset(self) -> None:
        """Forget all records; requests under way go on filling in theirs."""
        self.requests.clear()
        self.peak_in_flight = self.in_flight

    def matching(
        self, path: str, *, method: str | None = None, listener: Listener | None = None
    ) -> list[RequestRecord]:
        """Return the records whose path contains a match of the regular expression *path*."""
        wanted = re.compile(path)
        return [
            record
            for record in self.requests
            if wanted.search(record.path) and method in (None, record.method) and listener in (None, record.listener)
        ]

    def blob_bytes(self) -> int:
        """Return how many bytes of blobs were handed to the network, by either listener."""
        return sum(record.body_bytes_sent for record in self.requests if record.is_blob_content)


RequestHook = Callable[[RequestRecord], None]
