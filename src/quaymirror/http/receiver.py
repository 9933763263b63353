"""The program of the helper process: it requests bodies and writes them to files, as the messages of its parent say.

It decides nothing: answers go to the parent, which follows redirects, waits, tries again, and says where bytes go. Its
end of the socket is closed when the parent ends, however that happens; then this process ends at once, too.

    from the parent                                     answer
    site      how to connect for one transport
    open      request a URL                             head or failed
    fill      write the body to an open file            filled, and counts in between
    read      return the next bytes of the body         chunk
    break     end what goes on                          of that
    close     keep or close the connection
"""

from __future__ import annotations

import hashlib
import os
import pickle
import queue
import select
import signal
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors.base import Failure, QuaymirrorError
from . import failures
from .connections import Connection, Connections, Opening
from .frames import Decoder, encode
from .framing import Answer
from .guard import AddressGuard
from .origin import Origin
from .timeouts import Timeouts
from .tls import Trust, system_context, tls_context

# The parent is told this often how many bytes have arrived, and by that, that this process lives.
_TICK_SECONDS = 0.25
# It fits into the cache of a core, so that hashing finds the bytes there.
_BUFFER_BYTES = 256 * 1024
_READ_BYTES = 256 * 1024
_MAX_DESCRIPTORS = 64
# Without one that is dropped, the parent reads the file again.
_MAX_HASHES = 256


class _Site:
    """The connections of one transport of the parent; `trust` are its certificates, None for the system's."""

    def __init__(
        self, is_guarded: bool, trust: tuple[str, str, bool, bool] | None, timeouts: tuple[float, float, float]
    ) -> None:
        self.guard = AddressGuard()
        self.timeouts = Timeouts(*timeouts)
        self.lock = threading.Lock()
        self._trust = trust
        self._context: ssl.SSLContext | None = None
        self._making = threading.Lock()
        factory = self.guard.guarded_socket if is_guarded else self.guard.trusted_socket
        self.connections = Connections(socket_factory=factory, timeouts=self.timeouts, tls=self._tls)

    def _tls(self) -> ssl.SSLContext:
        with self._making:
            if self._context is None:
                self._context = self._made()

            return self._context

    def _made(self) -> ssl.SSLContext:
        if self._trust is None:
            return system_context()

        cafile, directory, verify, is_own = self._trust
        trust = Trust(Path(cafile) if cafile else None, Path(directory) if directory else None, verify)
        return tls_context(trust, is_own=is_own) or system_context()


class _Exchange:
    """A request and its answer."""

    def __init__(self, number: int, site: _Site, opening: Opening, name: str) -> None:
        self.number = number
        self.site = site
        self.opening = opening
        self.name = name
        self.connection: Connection | None = None
        self.received = 0
        self.is_filling = False

    @property
    def body(self) -> Answer:
        """The answer, which has begun."""
        assert self.connection is not None
        assert self.connection.answer is not None
        return self.connection.answer


class Receiver:
    """Carries out what arrives over `parent`: each request and each body in a thread that blocks."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        self._sites: dict[int, _Site] = {}
        self._exchanges: dict[int, _Exchange] = {}
        self._sending = threading.Lock()
        self._descriptors: deque[int] = deque()
        self._threads = _Threads()
        self._hashes = _Hashes()
        self._handlers: dict[str, Callable[..., None]] = {
            "site": self._add_site,
            "open": self._open,
            "fill": self._fill,
            "read": self._read,
            "break": self._break,
            "close": self._close,
        }

    def serve(self) -> None:
        """Serve until the parent closes its end, or ends."""
        self._send("ready", 0)
        decoder, told = Decoder(), 0.0
        poll = select.poll()
        poll.register(self._parent, select.POLLIN)
        while True:
            has_arrived = poll.poll(_TICK_SECONDS * 1000 if self._filling else None)
            if self._filling and time.monotonic() - told >= _TICK_SECONDS:
                told = time.monotonic()
                self._send("counts", 0, {each.number: each.received for each in self._filling})

            if has_arrived:
                chunk, descriptors, flags, _ = socket.recv_fds(self._parent, _READ_BYTES, _MAX_DESCRIPTORS)
                # Without a descriptor, the next ones would belong to other bodies.
                if not chunk or flags & socket.MSG_CTRUNC:
                    return

                self._descriptors.extend(descriptors)
                for kind, *arguments in decoder.feed(chunk):
                    self._handlers[kind](*arguments)

    @property
    def _filling(self) -> list[_Exchange]:
        return [exchange for exchange in [*self._exchanges.values()] if exchange.is_filling]

    def _send(self, *message: object) -> None:
        content = encode(message)
        # A parent that has ended is noticed by `serve`.
        with self._sending, suppress(OSError):
            self._parent.sendall(content)

    def _add_site(
        self,
        number: int,
        is_guarded: bool,
        trust: tuple[str, str, bool, bool] | None,
        timeouts: tuple[float, float, float],
    ) -> None:
        self._sites[number] = _Site(is_guarded, trust, timeouts)

    def _open(
        self,
        number: int,
        site: int,
        origin: tuple[str, str, int],
        head: bytes,
        name: str,
        is_fresh: bool,
        allows_private: bool,
    ) -> None:
        used, there = self._sites[site], Origin(*origin)
        if allows_private:
            used.guard.allow_private = True

        with used.lock:
            idle = None if is_fresh else used.connections.take_idle(there)

        exchange = _Exchange(number, used, Opening(there, head, name, idle, used.connections.connect), name)
        self._exchanges[number] = exchange
        self._threads.run(lambda: self._opened(exchange))

    def _opened(self, exchange: _Exchange) -> None:
        result = exchange.opening.run()
        if isinstance(result, QuaymirrorError):
            self._exchanges.pop(exchange.number, None)
            self._send("failed", exchange.number, _as_bytes(result))
            return

        assert result.answer is not None
        # It is closed if it was abandoned just now.
        with suppress(OSError):
            result.socket.settimeout(exchange.site.timeouts.stall)

        exchange.connection = result
        answer = result.answer
        fields = [(name, value) for name in answer.fields for value in answer.fields.all(name)]
        self._send("head", exchange.number, answer.status, fields, exchange.site.guard.allow_private)

    def _fill(self, number: int, offset: int, end: int, algorithm: str, key: int) -> None:
        descriptor = self._descriptors.popleft()
        exchange = self._exchanges[number]
        exchange.is_filling = True
        hasher = self._hashes.take(algorithm, key, offset)
        self._threads.run(lambda: self._filled(exchange, _File(descriptor, offset, end, hasher), key))

    def _filled(self, exchange: _Exchange, file: _File, key: int) -> None:
        try:
            failure = self._received(exchange, file)
        finally:
            os.close(file.descriptor)

        exchange.is_filling = False
        self._hashes.keep(key, file)
        connection = exchange.connection
        assert connection is not None
        is_over = connection.is_reusable
        if is_over:
            self._close(exchange.number)

        self._send(
            "filled", exchange.number, file.written, file.digest, file.error, file.has_too_many, failure, is_over
        )

    def _received(self, exchange: _Exchange, file: _File) -> bytes | None:
        """Receive a body; return the failure of the server or the network, None for any other end."""
        buffer, filled, counted = self._threads.buffer, 0, time.monotonic()
        try:
            while not file.is_over and (count := exchange.body.read_into(buffer[filled:])):
                filled += count
                # Slow bodies are counted as they arrive: the parent decides whether they are too slow.
                if filled >= _BUFFER_BYTES // 2 or time.monotonic() - counted >= _TICK_SECONDS:
                    file.write(buffer[:filled])
                    exchange.received, filled, counted = file.written, 0, time.monotonic()
        except (OSError, EOFError, ValueError) as error:
            return _as_bytes(failures.of_body(error, exchange.name))
        finally:
            if filled:
                file.write(buffer[:filled])

        return None

    def _read(self, number: int, limit: int) -> None:
        exchange = self._exchanges[number]
        self._threads.run(lambda: self._chunk(exchange, limit))

    def _chunk(self, exchange: _Exchange, limit: int) -> None:
        buffer, failure, count = memoryview(bytearray(limit)), None, 0
        try:
            count = exchange.body.read_into(buffer)
        except (OSError, EOFError, ValueError) as error:
            failure = _as_bytes(failures.of_body(error, exchange.name))

        self._send("chunk", exchange.number, bytes(buffer[:count]), failure)

    def _break(self, number: int) -> None:
        self._send("counts", 0, {})  # a sign of life
        exchange = self._exchanges.get(number)
        if exchange is None:
            return

        if exchange.connection is not None:
            exchange.connection.shut_down()
        else:
            self._exchanges.pop(number, None)
            exchange.opening.abandon()

    def _close(self, number: int) -> None:
        exchange = self._exchanges.pop(number, None)
        if exchange is not None and exchange.connection is not None:
            with exchange.site.lock:
                exchange.site.connections.give_back(exchange.connection)


class _File:
    """The part of a file that a body is written to, with the hash of the content, None if it is not wanted."""

    def __init__(self, descriptor: int, offset: int, end: int, hasher: hashlib._Hash | None) -> None:
        self.descriptor = descriptor
        self.written = 0
        self.error = 0
        self.has_too_many = False
        self._offset = offset
        self._end = end
        self.hasher = hasher

    @property
    def is_over(self) -> bool:
        """True if nothing more can be written."""
        return bool(self.error) or self.has_too_many

    @property
    def position(self) -> int:
        """The position after the last byte that was written."""
        return self._offset + self.written

    @property
    def digest(self) -> str:
        """The hash of the content so far, in hexadecimal digits, "" if it is not wanted."""
        return "" if self.hasher is None else self.hasher.hexdigest()

    def write(self, chunk: memoryview) -> None:
        """Write the next bytes, as far as the part of the file and the disk take them."""
        room = self._end - self._offset - self.written
        if len(chunk) > room:
            self.has_too_many, chunk = True, chunk[:room]

        while len(chunk):
            try:
                count = os.pwrite(self.descriptor, chunk, self._offset + self.written)
            except OSError as error:
                self.error = error.errno or 1
                return

            if self.hasher is not None:
                self.hasher.update(chunk[:count])

            self.written += count
            chunk = chunk[count:]


class _Hashes:
    """The hashes of contents of which more parts may come: the position after the last byte, and the hash up to it."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[int, hashlib._Hash]] = {}
        self._lock = threading.Lock()

    def take(self, algorithm: str, key: int, offset: int) -> hashlib._Hash | None:
        """Return the hash of the content up to `offset`, None if it is not wanted, or unknown."""
        if not algorithm:
            return None

        with self._lock:
            position, hasher = self._kept.pop(key, (0, None))

        if offset == 0:
            return hashlib.new(algorithm)

        return hasher if position == offset else None

    def keep(self, key: int, file: _File) -> None:
        """Keep the hash of the content so far; the oldest one is dropped if there are many."""
        if file.hasher is not None and file.position:
            with self._lock:
                self._kept[key] = file.position, file.hasher
                if len(self._kept) > _MAX_HASHES:
                    del self._kept[next(iter(self._kept))]


class _Threads:
    """Threads that are kept, each with a buffer. A thread that fails ends the process: its parent goes on alone."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle = 0
        self._lock = threading.Lock()
        self._local = threading.local()

    @property
    def buffer(self) -> memoryview:
        """The buffer of this thread."""
        if not hasattr(self._local, "buffer"):
            self._local.buffer = memoryview(bytearray(_BUFFER_BYTES))

        buffer: memoryview = self._local.buffer
        return buffer

    def run(self, job: Callable[[], None]) -> None:
        """Let a thread do `job`."""
        with self._lock:
            has_idle = self._idle > 0
            self._idle -= has_idle

        if has_idle:
            self._jobs.put(job)
        else:
            threading.Thread(target=self._work, args=(job,), daemon=True).start()

    def _work(self, job: Callable[[], None]) -> None:
        while True:
            try:
                job()
            except BaseException:
                os._exit(1)

            with self._lock:
                self._idle += 1

            job = self._jobs.get()


def _as_bytes(error: QuaymirrorError) -> bytes:
    return pickle.dumps(Failure.of(error))


def main(descriptor: int) -> None:
    """Serve the parent at the other end of a socket, which says when to stop: signals of the terminal do not."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

    try:
        Receiver(socket.socket(fileno=descriptor)).serve()
    finally:
        # At once, whatever threads do: another run may begin.
        os._exit(0)
