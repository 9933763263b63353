"""Requests whose large bodies are received by threads, over connections of their own.

The event loop sends each chunk through several layers. A thread receives into a buffer that is hashed and written at
once: it takes half of the CPU time, and all cores. A thread gets one connection to use, and gives back a result; the
loop decides everything else. It can break a connection at any time, which ends the thread.
"""

from __future__ import annotations

import ipaddress
import os
import selectors
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from itertools import chain, zip_longest
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from ..errors import QuaymirrorError, Scope, SizeMismatch, UnsafeRedirect
from . import failures
from .bodies import Fill, Read, ReceiveInThread
from .exchange import USER_AGENT
from .framing import Answer
from .origin import Origin, request_target, shown
from .timeouts import Timeouts
from .tls import system_context

T = TypeVar("T")

# Received bytes are counted this often.
_TICK_SECONDS = 0.25
# Servers close idle connections; aiohttp keeps its own as long.
_IDLE_SECONDS = 15.0
# Another address is tried after this time without a connection (RFC 8305, "Connection Attempt Delay").
_ATTEMPT_DELAY = 0.25
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
        self._socket_factory = socket_factory
        self._timeouts = timeouts
        self._tls = tls
        self._idle: dict[Origin, list[_Connection]] = {}
        self._threads = anyio.CapacityLimiter(_MAX_THREADS)

    def close(self) -> None:
        """Close the idle connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()

        self._idle.clear()

    async def open(
        self, url: str, headers: Mapping[str, str], *, name: str = "", fresh: bool = False
    ) -> ThreadResponse:
        """Request `url`, over a new connection if `fresh`; return the answer, whose body has not been received yet.

        :raises QuaymirrorError: as `Transport.send`.
        """
        name = name or shown(url)
        try:
            origin = Origin.of(url)
            head = _head(origin, url, headers)
        except ValueError:
            raise UnsafeRedirect(f"{shown(url).partition('/')[0]}: not a usable URL") from None

        idle = None if fresh else self._take_idle(origin)
        opening = _Opening(origin, head, name, idle, self._connect)
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

    def give_back(self, connection: _Connection) -> None:
        """Take back a connection after an answer was received completely."""
        self._close_expired()
        connection.idle_since = time.monotonic()
        self._idle.setdefault(connection.origin, []).append(connection)

    def _close_expired(self) -> None:
        """Close connections that were idle for too long: a registry may lead to another host for each blob."""
        for origin, connections in [*self._idle.items()]:
            for connection in connections:
                if connection.is_expired:
                    connection.close()

            self._idle[origin] = [connection for connection in connections if not connection.is_expired]
            if not self._idle[origin]:
                del self._idle[origin]

    def _take_idle(self, origin: Origin) -> _Connection | None:
        connections = self._idle.get(origin, [])
        while connections:
            connection = connections.pop()
            if connection.is_usable:
                return connection

            connection.close()

        return None

    def _connect(self, origin: Origin) -> _Connection:
        """Connect to the first address of `origin` that answers, and shake hands. It blocks."""
        connected = _connected(_resolved(origin), self._socket_factory, self._timeouts.connect)
        connected.settimeout(self._timeouts.headers)
        if not origin.is_secure:
            return _Connection(origin, connected)

        try:
            return _Connection(
                origin, (self._tls or system_context()).wrap_socket(connected, server_hostname=origin.host)
            )
        except BaseException:
            connected.close()
            raise


class _Connection:
    """A connection, and the answer that is read from it."""

    def __init__(self, origin: Origin, connected: socket.socket) -> None:
        self.origin = origin
        self.socket = connected
        self.answer: Answer | None = None
        self.idle_since: float = 0.0

    @property
    def is_expired(self) -> bool:
        """True if it was idle for so long that the server may be about to close it."""
        return time.monotonic() - self.idle_since > _IDLE_SECONDS

    @property
    def is_usable(self) -> bool:
        """True if the server has neither closed an idle connection nor sent anything."""
        if self.is_expired or (isinstance(self.socket, ssl.SSLSocket) and self.socket.pending()):
            return False

        with selectors.PollSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            return not selector.select(0)

    def ask(self, head: bytes) -> None:
        """Send a request and read the head of its answer. It blocks; for errors see `Answer`."""
        self.answer = None
        self.socket.sendall(head)
        self.answer = Answer(self.socket)

    @property
    def is_reusable(self) -> bool:
        """True if the answer was read to its end, and the server takes another request."""
        return self.answer is not None and self.answer.is_reusable

    def shut_down(self) -> None:
        """End reading and writing, from any thread: a thread that waits for bytes gets an error."""
        with suppress(OSError):
            # Not the method of SSLSocket: after that, another thread would read bytes that are still encrypted.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it, once no thread uses it any more."""
        self.socket.close()


class _Opening:
    """The job of a thread: connect if necessary, send a request, read the head of its answer."""

    def __init__(
        self,
        origin: Origin,
        head: bytes,
        name: str,
        idle: _Connection | None,
        connect: Callable[[Origin], _Connection],
    ) -> None:
        self._origin = origin
        self._head = head
        self._name = name
        self._connection = idle
        self._is_idle = idle is not None
        self._connect = connect
        self._lock = threading.Lock()
        self._is_running = False
        self._is_abandoned = False

    def run(self) -> _Connection | QuaymirrorError:
        """Return the connection with the answer, or an error."""
        with self._lock:
            self._is_running = not self._is_abandoned

        result = self._run() if self._is_running else failures.broken(self._name)
        with self._lock:
            self._is_running = False
            if self._connection is not None and (self._is_abandoned or isinstance(result, QuaymirrorError)):
                self._connection.close()

        return result

    def abandon(self) -> None:
        """End the job, whose result is not needed."""
        with self._lock:
            self._is_abandoned = True
            if self._connection is not None:
                if self._is_running:
                    self._connection.shut_down()
                else:
                    self._connection.close()

    def _run(self) -> _Connection | QuaymirrorError:
        if self._is_idle:
            try:
                return self._asked()
            except (ConnectionError, ssl.SSLError):
                # Closed by the server, which had been waiting for a request for too long.
                self._replace(None)
            except (OSError, EOFError, ValueError) as error:
                return failures.of_exchange(error, self._origin, self._name)

        try:
            self._replace(self._connect(self._origin))
        except (OSError, ValueError) as error:
            return failures.of_connection(error, self._origin)

        try:
            return self._asked()
        except (OSError, EOFError, ValueError) as error:
            return failures.of_exchange(error, self._origin, self._name)

    def _asked(self) -> _Connection:
        assert self._connection is not None
        self._connection.ask(self._head)
        return self._connection

    def _replace(self, connection: _Connection | None) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()

            self._connection = connection
            if connection is not None and self._is_abandoned:
                connection.shut_down()


class ThreadResponse:
    """An answer whose body a thread receives; see `Response`."""

    def __init__(self, connection: _Connection, url: str, name: str, transport: ThreadTransport) -> None:
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
        if self._connection.is_reusable:
            self._transport.give_back(self._connection)
        else:
            self._connection.close()

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


def _head(origin: Origin, url: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request.

    :raises ValueError: if a field can't be sent.
    """
    # Without identity Quay compresses blobs on the fly, and their bytes no longer match their digest.
    fields = {"Host": origin.netloc, "User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
    lines = [f"GET {request_target(url)} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in {**fields, **headers}.items()]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header field of several lines")

    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _resolved(origin: Origin) -> list[tuple[Any, ...]]:
    """Return the addresses of `origin`, those of IPv4 and IPv6 in turn (RFC 8305). It blocks."""
    try:
        ipaddress.ip_address(origin.host)
        flags = 0
    except ValueError:
        flags = socket.AI_ADDRCONFIG

    try:
        found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM, flags=flags)
    except OSError:
        # The lack of descriptors is reported as a name that the name service does not know.
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        raise

    first = [info for info in found if info[0] == found[0][0]]
    others = [info for info in found if info[0] != found[0][0]]
    return [info for info in chain.from_iterable(zip_longest(first, others)) if info is not None]


def _connected(
    addresses: list[tuple[Any, ...]], make: Callable[[tuple[Any, ...]], socket.socket], seconds: float
) -> socket.socket:
    """Return a socket that is connected to the first of `addresses` that answers. It blocks.

    :raises OSError: the first error, if none does.
    """
    waiting: dict[socket.socket, float] = {}
    errors: list[OSError] = []
    with selectors.PollSelector() as selector:
        try:
            while addresses or waiting:
                if addresses:
                    try:
                        _begin(addresses.pop(0), make, waiting, selector, time.monotonic() + seconds)
                    except OSError as error:
                        errors.append(error)

                if (connected := _first(waiting, selector, errors, more=bool(addresses))) is not None:
                    return connected
        finally:
            for left in waiting:
                left.close()

    raise errors[0]


def _begin(
    info: tuple[Any, ...],
    make: Callable[[tuple[Any, ...]], socket.socket],
    waiting: dict[socket.socket, float],
    selector: selectors.BaseSelector,
    deadline: float,
) -> None:
    opened = make(info)
    try:
        opened.setblocking(False)
        with suppress(BlockingIOError):
            opened.connect(info[4])

        selector.register(opened, selectors.EVENT_WRITE)
    except BaseException:
        opened.close()
        raise

    waiting[opened] = deadline


def _first(
    waiting: dict[socket.socket, float], selector: selectors.BaseSelector, errors: list[OSError], *, more: bool
) -> socket.socket | None:
    """Return the first connected socket, None if the next address is to be tried; failed ones are closed."""
    until = time.monotonic() + _ATTEMPT_DELAY
    while waiting:
        now = time.monotonic()
        end = min([until, *waiting.values()] if more else waiting.values())
        for key, _ in selector.select(max(0.0, end - now)):
            opened = key.fileobj
            assert isinstance(opened, socket.socket)
            selector.unregister(opened)
            del waiting[opened]
            if not (number := opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                return opened

            opened.close()
            errors.append(OSError(number, os.strerror(number)))
            if more:
                return None

        now = time.monotonic()
        for opened in [one for one, deadline in waiting.items() if deadline <= now]:
            selector.unregister(opened)
            del waiting[opened]
            opened.close()
            errors.append(TimeoutError())

        if more and now >= until:
            return None

    return None
