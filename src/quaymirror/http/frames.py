"""The messages between this process and its helper: tuples of plain values, each with its length before it."""

from __future__ import annotations

import marshal
import struct
from collections.abc import Iterator
from typing import Any

Message = tuple[Any, ...]
"""The kind of a message, the number of its exchange, and what else belongs to it."""

_LENGTH = struct.Struct("!I")


def encode(message: Message) -> bytes:
    """Return `message` as bytes."""
    content = marshal.dumps(message)
    return _LENGTH.pack(len(content)) + content


class Decoder:
    """The messages in a stream of bytes."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Iterate over the messages that `chunk` completes."""
        self._data += chunk
        while len(self._data) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._data)[0]
            if len(self._data) < end:
                return

            message = marshal.loads(self._data[_LENGTH.size : end])  # noqa: S302 - between a process and its child
            del self._data[:end]
            yield message
