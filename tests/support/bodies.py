"""A server of bodies, each of which ends in another way, and a file that a body is received into."""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

from quaymirror.errors import ReadInterrupted, SizeMismatch, StoreError
from quaymirror.http.files import FileFill, FilePart, Written

BODY = bytes(range(256)) * 4000
STALL = 0.2
# As if each body were large: smaller ones are left to the event loop.
SIZE = 64 * 1024 * 1024


def answered(body: bytes, *fields: str, announced: int | None = None) -> bytes:
    """Return an answer with `body`, which announces its length, or another one."""
    length = len(body) if announced is None else announced
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {length}", *fields, "", ""]).encode() + body


def _chunked(body: bytes) -> bytes:
    parts = [body[start : start + 50_000] for start in range(0, len(body), 50_000)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


class Server:
    """A server with an answer for each path; it closes the connection after those in `closes`, silently."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.peers: list[tuple[str, int]] = []
        self.heads: list[bytes] = []
        self.answers = {
            "/body": answered(BODY),
            "/twice": answered(BODY, "X-Name: first", "x-name: second"),
            "/half": answered(BODY, announced=2 * len(BODY)),
            "/broken": answered(BODY, announced=2 * len(BODY)),
            "/chunked": _chunked(BODY),
            "/until-closed": b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
            "/nonsense": b"hello\r\n\r\n",
            "/closed": b"",
            "/silent": b"",
            "/last": answered(BODY),
            "/hints": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answered(BODY),
            "/mail": answered(BODY, "Content-Type: multipart/x; boundary*=a; boundary*0=b"),
            "/more": answered(BODY) + answered(b"abc"),
            "/unlimited": _chunked(b"")[:-2] + b"X: a\r\n" * 20_000,
        }
        self.closes = {"/broken", "/until-closed", "/closed", "/last"}
        self._tls = tls

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve, at this URL, until the context ends."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        async with server:
            port = server.sockets[0].getsockname()[1]
            yield f"http{'s' if self._tls else ''}://127.0.0.1:{port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            while head := await request_head(reader):
                path = head.split()[1].decode()
                self.peers.append(writer.get_extra_info("peername"))
                self.heads.append(head)
                writer.write(self.answers[path])
                if path in self.closes:
                    return


async def request_head(reader: asyncio.StreamReader) -> bytes:
    """Return the head of a request, nothing at the end, and one of HTTP for that of TLS."""
    try:
        first = await reader.readexactly(1)
        return b"GET /nonsense" if first == b"\x16" else first + await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


class BodyFile(FileFill):
    """Takes a body of at most `size` bytes into a file without a name."""

    def __init__(self, size: int = len(BODY), algorithm: str = "", *, offset: int = 0, key: int = 0) -> None:
        with tempfile.TemporaryFile() as file:
            self.descriptor = os.dup(file.fileno())

        weakref.finalize(self, os.close, self.descriptor)
        self.records: list[Written] = []
        self.ended: list[bool] = []
        self._size = size
        self._part = offset, offset + size, algorithm, key

    @property
    def content(self) -> bytes:
        """All that was written."""
        return os.pread(self.descriptor, 10 * len(BODY), 0)

    def __call__(self, read: Callable[[memoryview], int]) -> None:
        buffer, offset = memoryview(bytearray(100_000)), 0
        try:
            while count := read(buffer):
                offset += os.pwrite(self.descriptor, buffer[:count], offset)
        finally:
            self.ended.append(True)

    async def open(self) -> FilePart:
        return FilePart(self.descriptor, *self._part)

    async def record(self, written: Written) -> None:
        self.ended.append(True)
        self.records.append(written)
        if written.error:
            raise StoreError(os.strerror(written.error))

        if written.has_too_many:
            raise SizeMismatch("too many bytes")

        if written.size < self._size:
            raise ReadInterrupted("bytes are missing")
