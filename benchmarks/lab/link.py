"""A slow link where nginx has no Lua: a proxy that delays every byte by half a round trip each way.

    python -m lab.link ROUND_TRIP_SECONDS BYTES_A_SECOND LISTEN:TO [LISTEN:TO …]

It is a process of its own, and busy: measure on more than two cores. The kernel paces each of its connections.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from functools import partial

_MAX_PACING_RATE = 47  # of Linux; the socket module does not have it


class _Pipe(asyncio.Protocol):
    """One end of a connection; received bytes go to the other end after the delay."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.transport: asyncio.Transport | None = None
        self.other: _Pipe | None = None
        self.waiting: list[bytes] = []
        self.in_flight = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.in_flight += len(data)
        if self.in_flight > 8 * 1024 * 1024 and self.transport is not None:
            self.transport.pause_reading()

        asyncio.get_running_loop().call_later(self.delay, self._pass_on, data)

    def _pass_on(self, data: bytes) -> None:
        self.in_flight -= len(data)
        if self.in_flight < 4 * 1024 * 1024 and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

        if self.other is not None:
            self.other.send(data)

    def send(self, data: bytes) -> None:
        if self.transport is None:
            self.waiting.append(data)
        elif not self.transport.is_closing():
            self.transport.write(data)

    def connection_lost(self, _error: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            asyncio.get_running_loop().call_later(self.delay, self.other.transport.close)


class _Near(_Pipe):
    """The client's end: opens the far end, which the handshake's round trip delays."""

    def __init__(self, delay: float, port: int) -> None:
        super().__init__(delay)
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.other = far = _Pipe(self.delay)
        far.other = self
        asyncio.get_running_loop().create_task(self._open(far))

    async def _open(self, far: _Pipe) -> None:
        # A proxy accepts at once: the round trip of the handshake is made up for here.
        await asyncio.sleep(2 * self.delay)
        await asyncio.get_running_loop().create_connection(lambda: far, "127.0.0.1", self._port)
        for data in far.waiting:
            far.send(data)

        far.waiting.clear()


async def main(round_trip: float, rate: int, ports: list[tuple[int, int]]) -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    for listen, to in ports:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if rate:
            listener.setsockopt(socket.SOL_SOCKET, _MAX_PACING_RATE, rate)

        listener.bind(("127.0.0.1", listen))
        await loop.create_server(partial(_Near, round_trip / 2, to), sock=listener, backlog=1024)

    await asyncio.Event().wait()


if __name__ == "__main__":
    pairs = [(int(first), int(second)) for first, _, second in (word.partition(":") for word in sys.argv[3:])]
    asyncio.run(main(float(sys.argv[1]), int(sys.argv[2]), pairs))
