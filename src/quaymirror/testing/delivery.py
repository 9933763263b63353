"""Send answers, correctly or with a fault, and count the bytes sent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus

from aiohttp import ClientError, web

from quaymirror.testing.messages import Answer, Body
from quaymirror.testing.recording import RequestRecord

CHUNK_BYTES = 256 * 1024
_SMALL_BODY_BYTES = 64 * 1024
# With a bandwidth limit, pieces are small enough for a few dozen of them per second.
_PIECES_PER_SECOND = 40
_ABORTIVE_CLOSE = struct.pack("ii", 1, 0)


class _Cut(Exception):
    """The body ends here although there would be more."""


class Courier:
    """Delivers one listener's answers, each at up to *bandwidth* bytes per second; *closing* ends all waits."""

    def __init__(self, *, bandwidth: float | None, closing: asyncio.Event) -> None:
        self._bandwidth = bandwidth
        self._closing = closing

    async def deliver(self, source: web.BaseRequest, answer: Answer, record: RequestRecord) -> web.StreamResponse:
        """Send *answer*, record its status and body bytes, and return the response for aiohttp to finish."""
        plan = answer.delivery
        if plan.delay:
            await self.pause(plan.delay)
        if plan.hold is not None:
            await plan.hold.wait()
        if plan.reset:
            return _reset(source)
        if plan.raw is not None:
            return _write_raw(source, plan.raw, record)
        if plan.response is not None:
            return _foreign(plan.response, record)
        record.status = answer.status
        if plan.until_close:
            return _write_until_close(source, answer, record)
        if _is_plain(answer) and self._bandwidth is None:
            return _whole(answer, record)
        return await self._stream(source, answer, record)

    async def pause(self, seconds: float | None) -> None:
        """Wait for *seconds* (None: for ever).

        Raises:
            ConnectionAbortedError: the server closed meanwhile.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)
            raise ConnectionAbortedError("the server is closing")

    async def _stream(self, source: web.BaseRequest, answer: Answer, record: RequestRecord) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_length = answer.length
        if answer.close:
            response.force_close()
        await response.prepare(source)
        try:
            async for piece in self._pieces(answer):
                await _write(response, piece, record)
        except (_Cut, ConnectionError, ClientError):
            # The plan ends here, or the client has left, or the server closes, or the registry upstream failed.
            drop(source)
        return response

    async def _pieces(self, answer: Answer) -> AsyncIterator[bytes | memoryview]:
        """Yield the body as the plan has it, waiting where it says so."""
        plan = answer.delivery
        size = plan.chunk or self._piece_bytes()
        marks = {mark for mark in (plan.cut_after, plan.stall_after) if mark is not None}
        sent = 0
        await self._at_mark(answer, sent)
        async for piece in _split(answer.body, size, marks):
            yield piece
            sent += len(piece)
            await self._at_mark(answer, sent)
            if plan.interval:
                await self.pause(plan.interval)
            elif self._bandwidth:
                await self.pause(len(piece) / self._bandwidth)

    async def _at_mark(self, answer: Answer, sent: int) -> None:
        if sent == answer.delivery.stall_after:
            await self.pause(answer.delivery.stall_seconds)
        if sent == answer.delivery.cut_after:
            raise _Cut

    def _piece_bytes(self) -> int:
        if self._bandwidth is None:
            return CHUNK_BYTES
        return max(1, min(CHUNK_BYTES, int(self._bandwidth / _PIECES_PER_SECOND)))


async def _split(body: Body, size: int, marks: set[int]) -> AsyncIterator[bytes | memoryview]:
    """Yield *body* in pieces of at most *size* bytes, none of which crosses one of *marks*."""
    offset = 0
    if isinstance(body, bytes | memoryview):
        for piece in _slices(memoryview(body), offset, size, marks):
            yield piece
        return
    async for incoming in body:
        for piece in _slices(memoryview(incoming), offset, size, marks):
            yield piece
        offset += len(incoming)


def _slices(view: memoryview, offset: int, size: int, marks: set[int]) -> Iterator[memoryview]:
    start = 0
    while start < len(view):
        ends = [mark - offset for mark in marks if start < mark - offset < start + size]
        end = min([start + size, *ends])
        yield view[start:end]
        start = end


async def _write(response: web.StreamResponse, piece: bytes | memoryview, record: RequestRecord) -> None:
    # Counted before the wait for the socket: the client may have it all, and look at the record, before we wake.
    record.body_bytes_sent += len(piece)
    try:
        await response.write(piece)
    except ConnectionError:
        record.body_bytes_sent -= len(piece)
        raise


def _is_plain(answer: Answer) -> bool:
    """Return whether aiohttp can send the answer at once."""
    plan = answer.delivery
    undisturbed = plan.cut_after is None and plan.stall_after is None and plan.chunk is None
    small = isinstance(answer.body, bytes | memoryview) and len(answer.body) <= _SMALL_BODY_BYTES
    return undisturbed and small and answer.length is not None


def _whole(answer: Answer, record: RequestRecord) -> web.Response:
    body = bytes(answer.body) if isinstance(answer.body, bytes | memoryview) else b""
    record.body_bytes_sent += len(body)
    response = web.Response(status=answer.status, headers=answer.headers, body=body or None)
    if not body and answer.length is not None:
        response.headers["Content-Length"] = str(answer.length)
    if answer.close:
        response.force_close()
    return response


def _foreign(response: web.StreamResponse, record: RequestRecord) -> web.StreamResponse:
    record.status = response.status
    if isinstance(response, web.Response) and isinstance(response.body, bytes):
        record.body_bytes_sent += len(response.body)
    return response


def _write_raw(source: web.BaseRequest, payload: bytes, record: RequestRecord) -> web.StreamResponse:
    if source.transport is not None:
        source.transport.write(payload)
    record.body_bytes_sent += len(payload)
    return drop(source)


def _write_until_close(source: web.BaseRequest, answer: Answer, record: RequestRecord) -> web.StreamResponse:
    """Send the body with neither a length nor chunks (RFC 9112 section 6.3, case 8); aiohttp wouldn't."""
    body = bytes(answer.body)[: answer.delivery.cut_after] if isinstance(answer.body, bytes | memoryview) else b""
    head = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
    fields = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
    if source.transport is not None:
        source.transport.write(f"{head}{fields}Connection: close\r\n\r\n".encode() + body)
    record.body_bytes_sent += len(body)
    return drop(source)


def _reset(source: web.BaseRequest) -> web.StreamResponse:
    transport = source.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            # Closing without lingering makes the kernel send RST instead of FIN.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORTIVE_CLOSE)
        transport.abort()
    return web.Response()


def drop(source: web.BaseRequest) -> web.StreamResponse:
    """Close the connection after the bytes written so far, and return a response that aiohttp then can't send."""
    if source.transport is not None:
        source.transport.close()
    return web.Response()
