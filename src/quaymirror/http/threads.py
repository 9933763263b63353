"""Requests whose large bodies are received by threads, over connections of their own.

The event loop sends each chunk through several layers. A thread receives into a buffer that is hashed and written at
once: it takes half of the CPU time, and all cores. A thread gets one connection to use, and gives back a result; the
loop decides everything else. It can break a connection at any time, which ends the thread.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from ..errors import QuaymirrorError, Scope, SizeMismatch, UnsafeRedirect
from . import failures
from .bodies import Fill, Read, ReceiveInThread
from .connections import Connection, Connections, Opening
from .exchange import request_head
from .origin import Origin, shown
from .timeouts import Timeouts
from .tls import system_context

T = TypeVar("T")

# Received bytes are counted this often.
_TICK_SECONDS = 0.25
_READ_BYTES = 64 * 1024
# Slots of blobs limit transfers long before.
_MAX_THREADS = 1024


class ThreadTransport:
    """Sends requests for large bodies. `socket_factory` and `tls` are those of the transport for other requests."""

    def __init__(
        self,
        *,
        socket_factory: Callable[[tuple[Any, ...]], socket.socket],
        timeouts: Timeouts,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._connections = Connections(
            socket_factory=socket_factory, timeouts=timeouts, tls=system_context if tls is None else lambda: tls
        )
        self._timeouts = timeouts
        self._threads = anyio.CapacityLimiter(_MAX_THREADS)

    def close(self) -> None:
        """Close the idle connections."""
        self._connections.close()

    async def open(
        self, url: str, headers: Mapping[str, str], *, name: str = "", fresh: bool = False
    ) -> ThreadResponse:
        """Request `url`, over a new connection if `fresh`; return the answer, whose body has not been received yet.

        :raises QuaymirrorError: as `Transport.send`.
        """
        name = name or shown(url)
        try:
            origin = Origin.of(url)
            head = request_head(origin, url, headers)
        except ValueError:
            raise UnsafeRedirect(f"{shown(url).partition('/')[0]}: not a usable URL") from None

        idle = None if fresh else self._connections.take_idle(origin)
        opening = Opening(origin, head, name, idle, self._connections.connect)
        try:
            with anyio.fail_after(self._timeouts.headers):
                result = await anyio.to_thread.run_sync(opening.run, abandon_on_cancel=True, limiter=self._threads)
        except TimeoutError:
            opening.abandon()
            raise failures.silent(name) from None
        except BaseException:
            opening.abandon()
            raise

        if isinstance(result, QuaymirrorError):
            raise result

        result.socket.settimeout(self._timeouts.stall)
        return ThreadResponse(result, url, name, self)

    async def in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Return the result of `function`, which has ended when this returns, even if it is cancelled."""
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._threads)

    def give_back(self, connection: Connection) -> None:
        """Take back a connection after its answer."""
        self._connections.give_back(connection)


class ThreadResponse:
    """An answer whose body a thread receives; see `Response`."""

    def __init__(self, connection: Connection, url: str, name: str, transport: ThreadTransport) -> None:
        assert connection.answer is not None
        self._connection = connection
        self._answer = connection.answer
        self._transport = transport
        self._received = 0
        self._is_closed = False
        self.held: float = 0.0
        self.has_arrived: bool = False
        self.status: int = connection.answer.status
        self.headers: Mapping[str, str] = connection.answer.fields
        self.url = url
        self.name = name

    @property
    def threaded(self) -> ReceiveInThread:
        """The function that receives the body in a thread."""
        return self.receive

    def all_headers(self, name: str) -> list[str]:
        """Return every field called `name`."""
        return self._answer.fields.all(name)

    def close(self) -> None:
        """Give the connection back if the body was received to its end, otherwise close it."""
        if self._is_closed:
            return

        self._is_closed = True
        self._transport.give_back(self._connection)

    async def receive(self, fill: Fill, count: Callable[[int], None]) -> None:
        """Have a thread pass the body to `fill`; `count` is told from time to time how many bytes are new.

        Cancellation, or an error of `count`, breaks the connection and waits for the thread.

        :raises QuaymirrorError: as `Response.chunks`, or if `fill` or `count` raises it.
        """
        counted, is_over = 0, False
        failure: Exception | None = None

        def report() -> None:
            nonlocal counted
            new, counted = self._received - counted, self._received
            if new:
                count(new)

        async def watch() -> None:
            nonlocal failure
            try:
                while True:
                    await anyio.sleep(_TICK_SECONDS)
                    report()
            except QuaymirrorError as error:
                failure = error
            finally:
                if not is_over:
                    self._connection.shut_down()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            try:
                error = await self._transport.in_thread(self._filled, fill)
                is_over = True
            finally:
                tasks.cancel_scope.cancel()

        if failure is None:
            report()

        if failure := failure or error:
            # If it is because of the cancellation, that counts.
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise failure

    def _filled(self, fill: Fill) -> Exception | None:
        try:
            fill(self._read_into)
        except Exception as error:
            return error

        return None

    def _read_into(self, view: memoryview) -> int:
        try:
            count = self._answer.read_into(view)
        except (OSError, EOFError, ValueError) as error:
            raise failures.of_body(error, self.name) from None

        self._received += count
        return count

    async def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the body as it arrives; see `Response.chunks`."""
        buffer = memoryview(bytearray(_READ_BYTES))
        while count := await self._read_some(buffer):
            yield bytes(buffer[:count])

    async def read(self, limit: int) -> bytes:
        """Return the whole body; see `Response.read`."""
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                raise SizeMismatch(f"{self.name}: answer of more than {limit:,} bytes", scope=Scope.IMAGE)

        return bytes(body)

    async def _read_some(self, buffer: memoryview) -> int:
        counts: list[int] = []

        def fill(read: Read) -> None:
            counts.append(read(buffer))

        await self.receive(fill, lambda _: None)
        return counts[0]
