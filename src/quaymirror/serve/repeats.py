"""Answers that are sent again, as they are, to requests of the same bytes within a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from .access_log import Record

# The largest request and answer that are kept, and the most of all: clients of one night ask for a few thousand.
_MAX_REQUEST_BYTES = 4 * 1024
_MAX_ANSWER_BYTES = 64 * 1024
_MAX_BYTES = 16 * 1024 * 1024
_METHODS = (b"GET ", b"HEAD ")


@dataclass(frozen=True, slots=True)
class Repeat:
    """An answer: the bytes with its head, the kind of its request, and the record of it."""

    content: bytes
    kind: str
    record: Record


class Repeats:
    """The answers of the last moment, by the bytes of their requests, credentials included.

    `clear` begins a moment: it is called whenever something that answers depend on may have changed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answers: dict[bytes, Repeat] = {}
        self._bytes = 0
        self._cleared = clock()

    def find(self, request: bytes) -> Repeat | None:
        """Return the answer to exactly this request, None if there is none."""
        return self._answers.get(request)

    def keep(self, request: bytes, repeat: Repeat, began: float) -> None:
        """Keep an answer that was begun at `began`, unless it is too large or what it depends on has changed since."""
        size = len(request) + len(repeat.content)
        if began <= self._cleared or len(repeat.content) > _MAX_ANSWER_BYTES or self._bytes + size > _MAX_BYTES:
            return

        if request not in self._answers:
            self._bytes += size
            self._answers[request] = repeat

    def clear(self) -> None:
        """Forget all answers, and those that are being made."""
        self._answers.clear()
        self._bytes = 0
        self._cleared = self._clock()


def is_one_request(data: bytes) -> bool:
    """Return True if `data` is the head of one request with GET or HEAD, from its first byte to its last."""
    return (
        len(data) <= _MAX_REQUEST_BYTES
        and data.startswith(_METHODS)
        and data.find(b"\r\n\r\n") == len(data) - 4
        and data.count(b"\n") == data.count(b"\r\n")
    )
