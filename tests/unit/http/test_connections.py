"""Guarantees of the transport beyond those of aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from quaymirror.errors import TimedOut
from quaymirror.http.guard import AddressGuard
from quaymirror.http.timeouts import Timeouts
from quaymirror.http.transport import AiohttpTransport, _StallTimer

# More than is read ahead, but not much: its end is not read at first.
BODY = bytes(250_000)
STALL = 0.1


class Server:
    """A server that answers `/silent` never, `/half` with half of the announced bytes, and the other paths at once."""

    def __init__(self) -> None:
        self.peers: list[tuple[str, int]] = []
        self._answers = {
            b"/body": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY),
            b"/none": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"/small": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            b"/half": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (2 * len(BODY), BODY),
        }

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve, at this URL, until the context ends."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            yield f"http://{host}:{port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            while line := await reader.readline():
                if line.startswith(b"GET"):
                    self.peers.append(writer.get_extra_info("peername"))
                    writer.write(self._answers.get(line.split()[1], b""))


def transport() -> AiohttpTransport:
    timeouts = Timeouts(stall=STALL, headers=4 * STALL)
    return AiohttpTransport(socket_factory=AddressGuard().trusted_socket, timeouts=timeouts)


async def read(client: AiohttpTransport, url: str) -> bytes:
    with closing(await client.send("GET", url, {})) as answer:
        # A slow reader pauses the connection, with the rest in its buffer.
        for _ in range(100):
            await anyio.lowlevel.checkpoint()

        return b"".join([chunk async for chunk in answer.chunks()])


async def test_a_connection_that_was_idle_for_longer_than_a_stall_is_used_again() -> None:
    server = Server()
    async with server.listening() as url, transport() as client:
        assert await read(client, f"{url}/body") == BODY
        # As long as that takes, the first connection is idle.
        with pytest.raises(TimedOut):
            await client.send("GET", f"{url}/silent", {}, fresh=True)

        assert await read(client, f"{url}/body") == BODY

    first, _, second = server.peers
    assert first == second


@pytest.mark.parametrize(("path", "body"), [("none", b""), ("small", b"{}")])
async def test_a_body_that_came_with_its_head_is_read_without_waiting(path: str, body: bytes) -> None:
    server = Server()
    async with server.listening() as url, transport() as client:
        with closing(await client.send("GET", f"{url}/{path}", {})) as answer:
            assert answer.has_arrived
            with pytest.raises(StopIteration) as read:
                answer.read(2).send(None)

        assert read.value.value == body


async def test_a_body_of_which_a_part_is_to_come_has_not_arrived() -> None:
    server = Server()
    async with server.listening() as url, transport() as client:
        with closing(await client.send("GET", f"{url}/half", {})) as answer:
            assert not answer.has_arrived


async def test_a_body_that_stops_is_given_up_after_a_stall() -> None:
    server = Server()
    async with server.listening() as url, transport() as client:
        with pytest.raises(TimedOut, match="sent nothing for too long"):
            await read(client, f"{url}/half")


class Clock:
    """A substitute for the event loop: scheduled calls happen when the test advances the time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[tuple[float, Callable[[], None]]] = []
        self.errors: list[BaseException] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, function: Callable[[], None]) -> object:
        self.calls.append((self.now + delay, function))
        return object()

    def set_exception(self, error: BaseException) -> None:
        self.errors.append(error)

    def pass_until(self, moment: float) -> None:
        while self.calls and self.calls[0][0] <= moment:
            self.now, function = self.calls.pop(0)
            function()

        self.now = moment


async def test_each_wait_has_the_whole_of_the_patience_and_all_of_them_one_timer() -> None:
    clock = Clock()
    timer = _StallTimer(cast(Any, clock), 10.0)
    timer._loop = cast(Any, clock)
    for second in range(0, 100, 9):
        clock.pass_until(second)
        timer.start()
        clock.pass_until(second + 8)
        timer.suspend()
        assert len(clock.calls) <= 1

    clock.pass_until(200)
    assert not clock.errors, "no task waited"
    timer.start()
    clock.pass_until(209)
    assert not clock.errors
    clock.pass_until(210)
    assert [type(error) for error in clock.errors] == [TimeoutError]
