"""Connections that threads use: they block while they connect, send a request and receive its answer.

This module and all that it imports start fast: the helper process has nothing else.
"""

from __future__ import annotations

import ipaddress
import os
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, zip_longest
from typing import Any

from ..errors.base import QuaymirrorError
from . import failures
from .framing import Answer
from .origin import Origin
from .timeouts import Timeouts
from .tls import system_context

# Servers close idle connections; aiohttp keeps its own as long.
_IDLE_SECONDS = 15.0
# Another address is tried after this time without a connection (RFC 8305, "Connection Attempt Delay").
_ATTEMPT_DELAY = 0.25


class Connections:
    """The idle connections of one kind, and the way to make new ones. Not safe for several threads, but `connect`."""

    def __init__(
        self,
        *,
        socket_factory: Callable[[tuple[Any, ...]], socket.socket],
        timeouts: Timeouts,
        tls: Callable[[], ssl.SSLContext] = system_context,
    ) -> None:
        self._socket_factory = socket_factory
        self._timeouts = timeouts
        self._tls = tls
        self._idle: dict[Origin, list[Connection]] = {}

    def close(self) -> None:
        """Close the idle connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()

        self._idle.clear()

    def give_back(self, connection: Connection) -> None:
        """Take back a connection: it is kept if its answer was received completely, otherwise closed."""
        if not connection.is_reusable:
            connection.close()
            return

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

    def take_idle(self, origin: Origin) -> Connection | None:
        """Return an idle connection to `origin`, if there is a usable one."""
        connections = self._idle.get(origin, [])
        while connections:
            connection = connections.pop()
            if connection.is_usable:
                return connection

            connection.close()

        return None

    def connect(self, origin: Origin) -> Connection:
        """Connect to the first address of `origin` that answers, and shake hands. It blocks.

        :raises OSError: if that fails.
        """
        connected = _connected(_resolved(origin), self._socket_factory, self._timeouts.connect)
        connected.settimeout(self._timeouts.headers)
        if not origin.is_secure:
            return Connection(origin, connected)

        try:
            return Connection(origin, self._tls().wrap_socket(connected, server_hostname=origin.host))
        except BaseException:
            connected.close()
            raise


class Connection:
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


class Opening:
    """The job of a thread: connect if necessary, send a request, read the head of its answer."""

    def __init__(
        self,
        origin: Origin,
        head: bytes,
        name: str,
        idle: Connection | None,
        connect: Callable[[Origin], Connection],
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

    def run(self) -> Connection | QuaymirrorError:
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

    def _run(self) -> Connection | QuaymirrorError:
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
        except QuaymirrorError as error:
            return error  # certificates that can't be read
        except (OSError, ValueError) as error:
            return failures.of_connection(error, self._origin)

        try:
            return self._asked()
        except (OSError, EOFError, ValueError) as error:
            return failures.of_exchange(error, self._origin, self._name)

    def _asked(self) -> Connection:
        assert self._connection is not None
        self._connection.ask(self._head)
        return self._connection

    def _replace(self, connection: Connection | None) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()

            self._connection = connection
            if connection is not None and self._is_abandoned:
                connection.shut_down()


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
