"""One answer of HTTP/1.1, read from a socket by a thread that blocks (RFC 9112): its head, then its body.

It refuses whatever parsers understand differently: bytes after the end that one of them sees would be taken for the
answer to the next request. The parser of the standard library reads fields as those of a mail, and fails at some of
them in ways of its own.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping

from ..values import pattern

# All lines of a head together, those before it and those after the body: a limit for memory, and for lines without end.
_LINES_BYTES = 64 * 1024
# The size of a chunk, with extensions, which are ignored.
_SIZE_BYTES = 1024
# Bytes of the body that are received with the head are copied: not many.
_AHEAD_BYTES = 16 * 1024
_BODILESS = (204, 304)

_STATUS = pattern(rb"HTTP/1\.([01]) ([1-9][0-9]{2})( .*)?")
_FIELD = pattern(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\0\r]*)")
_SIZE = pattern(rb"([0-9A-Fa-f]{1,15})[ \t]*(;.*)?")
_LENGTH = pattern(r"[0-9]{1,19}")


class Fields(Mapping[str, str]):
    """The header fields of an answer; names ignore case, and a repeated field has the value of the first one."""

    def __init__(self) -> None:
        self._values: dict[str, list[str]] = {}

    def add(self, name: str, value: str) -> None:
        """Append a field."""
        self._values.setdefault(name.lower(), []).append(value)

    def all(self, name: str) -> list[str]:
        """Return the values of every field called `name`."""
        return [*self._values.get(name.lower(), ())]

    def tokens(self, name: str) -> list[str]:
        """Return the words of a list that may take several fields, in lower case."""
        return [word.strip().lower() for word in ",".join(self.all(name)).split(",")]

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Answer:
    """The answer to a GET request. Interim answers (1xx) before it are skipped.

    The constructor and `read_into` block, and raise an OSError if the connection breaks, EOFError if it ends early, and
    ValueError for an answer that is not valid.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._ahead = b""
        self._at = 0
        self._allowance = _LINES_BYTES
        status, is_modern, fields = self._final_head()
        self.status: int = status
        self.fields: Fields = fields
        self._is_chunked = "Transfer-Encoding" in self.fields
        self._left = self._length()
        """The bytes that are left, of this chunk if the body is chunked; None if the body lasts until the end."""
        self._is_over = self._left == 0 and not self._is_chunked
        self._is_first = True
        connection = self.fields.tokens("Connection")
        self._persists = "close" not in connection if is_modern else "keep-alive" in connection
        # Another parser may have taken the length instead.
        self._persists &= self._left is not None and not (self._is_chunked and "Content-Length" in self.fields)

    @property
    def is_reusable(self) -> bool:
        """True if the answer was read to its end, and the server takes another request."""
        return self._is_over and self._persists and self._at == len(self._ahead)

    def read_into(self, view: memoryview) -> int:
        """Return how many bytes of the body were put into `view`, 0 at its end."""
        if self._is_chunked and not self._left and not self._is_over:
            self._begin_chunk()

        if self._is_over:
            return 0

        if self._left is not None:
            view = view[: self._left]

        if count := min(len(view), len(self._ahead) - self._at):
            view[:count] = self._ahead[self._at : self._at + count]
            self._at += count
        else:
            count = self._socket.recv_into(view)

        self._received(count)
        return count

    def _received(self, count: int) -> None:
        if self._left is None:
            self._is_over = not count
            return

        if not count:
            raise EOFError

        self._left -= count
        self._is_over = not self._left and not self._is_chunked

    def _begin_chunk(self) -> None:
        """Read the line before a chunk, and the end of the one before; the trailer fields after the last one."""
        if not self._is_first and self._line(0):
            raise ValueError("a chunk longer than its size")

        self._is_first = False
        match = _SIZE.fullmatch(self._line(_SIZE_BYTES))
        if match is None:
            raise ValueError("a chunk without size")

        self._left = int(match[1], 16)
        if not self._left:
            self._is_over = True
            while self._counted_line():
                pass

    def _length(self) -> int | None:
        """Return the length of the body; 0 for one in chunks, whose first one has not begun."""
        if self.status in _BODILESS:
            return 0

        if self._is_chunked:
            if self.fields.tokens("Transfer-Encoding") != ["chunked"]:
                raise ValueError("an unknown transfer encoding")

            return 0

        lengths = {*self.fields.all("Content-Length")}
        if not lengths:
            return None

        if len(lengths) > 1 or not _LENGTH.fullmatch(length := lengths.pop()):
            raise ValueError("not a length")

        return int(length)

    def _final_head(self) -> tuple[int, bool, Fields]:
        """Return the status, whether the version is 1.1, and the fields of the answer that is not an interim one."""
        while True:
            line = self._counted_line()
            match = _STATUS.fullmatch(line)
            if match is None:
                raise ValueError("not HTTP")

            status, fields = int(match[2]), self._fields()
            if status == 101:
                raise ValueError("another protocol, which was not requested")

            if status >= 200:
                return status, match[1] == b"1", fields

    def _fields(self) -> Fields:
        fields = Fields()
        while line := self._counted_line():
            match = _FIELD.fullmatch(line)
            if match is None:
                raise ValueError("not a header field")

            fields.add(match[1].decode("ascii"), match[2].decode("latin-1").strip(" \t"))

        return fields

    def _counted_line(self) -> bytes:
        line = self._line(self._allowance)
        self._allowance -= len(line) + 1
        return line

    def _line(self, limit: int) -> bytes:
        """Return the next line of at most `limit` bytes, without its end."""
        timeout = self._socket.gettimeout()
        until = None if timeout is None else time.monotonic() + timeout
        while (end := self._ahead.find(b"\n", self._at)) < 0 and len(self._ahead) - self._at <= limit + 1:
            received = self._socket.recv(_AHEAD_BYTES)
            if not received:
                # An idle connection that the server has closed gets no answer at all: the request is sent again.
                raise EOFError if self._ahead else ConnectionResetError

            # Bytes may come one by one, each in time.
            if until is not None and time.monotonic() > until:
                raise TimeoutError

            self._ahead, self._at = self._ahead[self._at :] + received, 0

        line = self._ahead[self._at : end].removesuffix(b"\r") if end >= 0 else b""
        if end < 0 or len(line) > limit:
            raise ValueError("a line that is too long")

        self._at = end + 1
        return line
