"""The helper process: it receives bodies into files while the event loop of this process does everything else.

Threads of this process would take turns with the loop for the interpreter, after each of its system calls. The helper
has an interpreter of its own, and starts once a run has fetched enough to be worth it. Without it, or if it ends,
threads and the loop receive all bodies. `receiver` is its program, and has the list of messages.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from ..errors import Failure, QuaymirrorError, ReadInterrupted, Scope, SizeMismatch, UnsafeRedirect
from ..values import dataclass
from . import failures
from .bodies import Fill, ReceiveInThread
from .exchange import request_head
from .files import FileFill, Written
from .frames import Decoder, Message, encode
from .framing import Fields
from .guard import AddressGuard
from .origin import Origin, shown
from .timeouts import Timeouts
from .tls import Trust

if TYPE_CHECKING:
    import subprocess

# The helper takes 0.06 s of CPU time to start: with less to fetch, this process is done before.
_WORTH_BYTES = 16 * 1024 * 1024
# Messages about a smaller body take more time than the body.
_LEAST_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024
_SOCKET_BYTES = 256 * 1024
# A helper that is asked to end something answers at once. One that receives bodies tells their progress all the time.
_ANSWER_SECONDS = 10.0
_SILENT_SECONDS = 30.0
_HOME = Path(__file__).resolve().parents[2]
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from quaymirror.http.receiver import main; main(int(sys.argv[2]))"
# The helper needs neither tokens nor passwords of this process: certificates, the name service, and the loader.
_VARIABLES = {"HOME", "HOSTALIASES", "LANG", "LOCALDOMAIN", "NIX_SSL_CERT_FILE", "PATH", "RES_OPTIONS", "TZ"}
_PREFIXES = ("LC_", "LD_", "DYLD_", "OPENSSL_", "SSL_CERT_")


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """The rules by which one transport connects, to addresses and with certificates, and its timeouts."""

    guard: AddressGuard
    is_guarded: bool
    trust: Trust
    timeouts: Timeouts

    def as_message(self) -> Message:
        """Return the values that the helper needs."""
        trust, timeouts = self.trust, self.timeouts
        files = str(trust.cafile or ""), str(trust.directory or "")
        # Client certificates are for the registry itself.
        certificates = None if trust == Trust() else (*files, trust.verify, not self.is_guarded)
        return self.is_guarded, certificates, (timeouts.connect, timeouts.headers, timeouts.stall)


class Helper:
    """The helper process of a run, started when it is worth it. It is closed after all exchanges are over."""

    def __init__(self) -> None:
        self.is_ready: bool = False
        """True while bodies can be requested from it."""
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._expected = 0
        self._numbers = count(1)
        self._sites: dict[Site, int] = {}
        self._replies: dict[int, _Reply] = {}
        self._decoder = Decoder()
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._heard = 0.0
        self._watch: asyncio.TimerHandle | None = None

    def takes(self, size: int) -> bool:
        """Return True if a body of `size` bytes should be requested here. Enough of them start the process."""
        if size < _LEAST_BYTES:
            return False

        self._expected += size
        if self._process is None and self._expected >= _WORTH_BYTES:
            self.start()

        return self.is_ready

    def start(self) -> None:
        """Start the process, unless that was tried before. If it can't be started, this process does without."""
        if self._process is not None or self._expected < 0:
            return

        try:
            self._process, self._socket = _started()
        except (OSError, TypeError, ValueError):  # an interpreter in another program may not know its file
            self._give_up()
            return

        asyncio.get_running_loop().add_reader(self._socket, self._readable)

    def _give_up(self) -> None:
        self._expected = -sys.maxsize

    async def close(self) -> None:
        """End the process."""
        self._lose()
        process, self._process = self._process, None
        if process is not None:
            self._give_up()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_end, process)

    def kill(self) -> None:
        """Kill a process that does not answer."""
        if self._process is not None:
            self._process.kill()

    async def open(
        self, site: Site, url: str, headers: Mapping[str, str], *, name: str = "", fresh: bool = False
    ) -> HelperResponse:
        """Request `url`; see `ThreadTransport.open`.

        :raises QuaymirrorError: as `Transport.send`.
        """
        name = name or shown(url)
        try:
            origin = Origin.of(url)
            head = request_head(origin, url, headers)
        except ValueError:
            raise UnsafeRedirect(f"{shown(url).partition('/')[0]}: not a usable URL") from None

        if site not in self._sites:
            self._sites[site] = next(self._numbers)
            self.send("site", self._sites[site], *site.as_message())

        number, where = next(self._numbers), (origin.scheme, origin.host, origin.port)
        with self.reply(number) as reply:
            allows = site.guard.allow_private
            self.send("open", number, self._sites[site], where, head, name, fresh, allows)
            try:
                with anyio.fail_after(site.timeouts.headers):
                    message = await reply.message(name)
            except TimeoutError:
                self._drop(number)
                raise failures.silent(name) from None
            except BaseException:
                self._drop(number)
                raise

        if message[0] == "failed":
            raise _error(message[2])

        _, _, status, fields, is_private = message
        if is_private and not site.is_guarded:
            site.guard.allow_private = True

        return HelperResponse(self, number, status, fields, url, name)

    def _drop(self, number: int) -> None:
        """End an exchange, whose answer may have come just now; kill a process that says nothing about it."""
        self.send("break", number)
        self.send("close", number)
        asyncio.get_running_loop().call_later(_ANSWER_SECONDS, self._check, time.monotonic())

    def _check(self, since: float) -> None:
        if self._socket is not None and self._heard < since:
            self.kill()

    def reply(self, number: int, count: Callable[[int], None] | None = None) -> _Reply:
        """Return the reply to a message about the exchange `number`, to be used as a context."""
        reply = _Reply(self._replies, number, count)
        if self._socket is None:
            reply.set(None)

        return reply

    def send(self, kind: str, number: int, *arguments: object, descriptors: tuple[int, ...] = ()) -> None:
        """Send a message, if the process lives; its end is noticed by those who wait for replies."""
        if self._socket is None:
            return

        self._unsent.append((encode((kind, number, *arguments)), descriptors))
        if len(self._unsent) == 1:
            self._write()

    def watch(self) -> None:
        """Kill the process if it tells nothing for too long while it receives a body."""
        if self._watch is None:
            self._heard = time.monotonic()
            self._watch = asyncio.get_running_loop().call_later(_SILENT_SECONDS, self._look, False)

    def _look(self, was_silent: bool) -> None:
        self._watch = None
        if not any(reply.count for reply in self._replies.values()):
            return

        # This process may have been suspended, together with the helper: what it says then is still to be read.
        is_silent = time.monotonic() - self._heard > _SILENT_SECONDS
        if is_silent and was_silent:
            self.kill()
        else:
            seconds = _ANSWER_SECONDS if is_silent else _SILENT_SECONDS
            self._watch = asyncio.get_running_loop().call_later(seconds, self._look, is_silent)

    def _write(self) -> None:
        assert self._socket is not None
        while self._unsent:
            content, descriptors = self._unsent[0]
            try:
                if descriptors:
                    sent = socket.send_fds(self._socket, [content], descriptors)
                else:
                    sent = self._socket.send(content)
            except BlockingIOError:
                asyncio.get_running_loop().add_writer(self._socket, self._write)
                return
            except OSError:
                self.kill()
                self._lose()
                return

            if sent < len(content):
                self._unsent[0] = content[sent:], ()
            else:
                self._unsent.popleft()

        asyncio.get_running_loop().remove_writer(self._socket)

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            chunk = self._socket.recv(_SOCKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.kill()
            chunk = b""

        if not chunk:
            self._lose()
            return

        self._heard = time.monotonic()
        for message in self._decoder.feed(chunk):
            self._handle(message)

    def _handle(self, message: Message) -> None:
        kind, number, *_ = message
        if kind == "ready":
            self.is_ready = True
        elif kind == "counts":
            for each, received in message[2].items():
                if (reply := self._replies.get(each)) is not None and reply.count is not None:
                    reply.count(received)
        elif (reply := self._replies.get(number)) is not None:
            reply.set(message)
        elif kind == "head":
            self.send("close", number)  # it was not waited for any longer

    def _lose(self) -> None:
        """Do without the process from now on. It closes its end when it ends, and all of its files before."""
        self.is_ready = False
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            self._socket.close()
            self._socket = None

        for reply in self._replies.values():
            reply.set(None)


class _Reply:
    """The reply of the helper to one message, a context; `count` gets the number of bytes received so far."""

    def __init__(self, replies: dict[int, _Reply], number: int, count: Callable[[int], None] | None) -> None:
        self.count = count
        self._replies = replies
        self._number = number
        self._message: Message | None = None
        self._event = anyio.Event()

    def __enter__(self) -> _Reply:
        self._replies[self._number] = self
        return self

    def __exit__(self, *_: object) -> None:
        del self._replies[self._number]

    def set(self, message: Message | None) -> None:
        """Set the reply, None if the helper has ended."""
        if not self._event.is_set():
            self._message = message
            self._event.set()

    async def wait(self) -> Message | None:
        """Return the reply, None if the helper has ended."""
        await self._event.wait()
        return self._message

    async def message(self, name: str) -> Message:
        """Return the reply.

        :raises ReadInterrupted: if the helper has ended, which breaks its connections.
        """
        if (message := await self.wait()) is None:
            raise failures.broken(name)

        return message


class HelperResponse:
    """An answer whose body the helper receives; see `Response`."""

    def __init__(
        self, helper: Helper, number: int, status: int, fields: list[tuple[str, str]], url: str, name: str
    ) -> None:
        self._helper = helper
        self._number = number
        self._is_closed = False
        self.held: float = 0.0
        self.has_arrived: bool = False
        self.status = status
        self._fields = Fields()
        for field, value in fields:
            self._fields.add(field, value)

        self.headers: Mapping[str, str] = self._fields
        self.url = url
        self.name = name

    @property
    def threaded(self) -> ReceiveInThread:
        """The function that has the helper receive the body."""
        return self.receive

    def all_headers(self, name: str) -> list[str]:
        """Return every field called `name`."""
        return self._fields.all(name)

    def close(self) -> None:
        """Let the helper keep the connection if the body was received to its end, otherwise close it."""
        if not self._is_closed:
            self._is_closed = True
            self._helper.send("close", self._number)

    async def receive(self, fill: Fill, count: Callable[[int], None]) -> None:
        """Have the helper write the body to the file of `fill`; see `ThreadResponse.receive`.

        Cancellation, or an error of `count`, breaks the connection and waits for the helper.

        :raises QuaymirrorError: as `Response.chunks`, or if `fill` or `count` raises it.
        """
        assert isinstance(fill, FileFill)
        part, counted = await fill.open(), 0
        failure: QuaymirrorError | None = None

        def report(received: int) -> None:
            nonlocal counted, failure
            new, counted = received - counted, received
            try:
                if new > 0 and failure is None:
                    count(new)
            except QuaymirrorError as error:
                failure = error
                self._helper.send("break", self._number)

        with self._helper.reply(self._number, report) as reply:
            place = part.offset, part.end, part.algorithm, part.key
            self._helper.send("fill", self._number, *place, descriptors=(part.descriptor,))
            self._helper.watch()
            try:
                message = await reply.wait()
            except BaseException:
                with anyio.CancelScope(shield=True), suppress(QuaymirrorError):
                    written, _ = self._result(await self._ended(reply), counted)
                    await fill.record(written)

                raise

        written, broken = self._result(message, counted)
        report(written.size)
        try:
            await fill.record(written)
        except ReadInterrupted:
            if failure is None and broken is None:
                raise

        if failure := failure or broken:
            # If it is because of the cancellation, that counts.
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise failure

    async def _ended(self, reply: _Reply) -> Message | None:
        """Break the connection, and return the reply once nothing is written any more."""
        self._helper.send("break", self._number)
        with anyio.move_on_after(_ANSWER_SECONDS):
            return await reply.wait()

        self._helper.kill()
        return await reply.wait()

    def _result(self, message: Message | None, counted: int) -> tuple[Written, QuaymirrorError | None]:
        """Return the bytes that were written, and the failure of the server or the network."""
        if message is None:
            return Written(counted), failures.broken(self.name)

        _, _, size, digest, error, has_too_many, failure, is_over = message
        self._is_closed = self._is_closed or is_over
        return Written(size, digest, error, has_too_many), None if failure is None else _error(failure)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the body as it arrives; see `Response.chunks`."""
        while True:
            with self._helper.reply(self._number) as reply:
                self._helper.send("read", self._number, _READ_BYTES)
                try:
                    _, _, chunk, failure = await reply.message(self.name)
                except BaseException:
                    # The connection must not be closed while a thread reads from it.
                    with anyio.CancelScope(shield=True):
                        await self._ended(reply)

                    raise

            if failure is not None:
                raise _error(failure)

            if not chunk:
                return

            yield chunk

    async def read(self, limit: int) -> bytes:
        """Return the whole body; see `Response.read`."""
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                raise SizeMismatch(f"{self.name}: answer of more than {limit:,} bytes", scope=Scope.IMAGE)

        return bytes(body)


def _error(failure: Any) -> QuaymirrorError:
    """Return the error that the helper has sent."""
    value: Failure = pickle.loads(failure)  # noqa: S301 - from a child process
    return value.error()


def _started() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the process; return it and the socket for messages.

    :raises OSError, TypeError, ValueError: if it can't be started.
    """
    import ssl
    import subprocess

    if ssl.SSLContext.__module__ != "ssl":
        raise ValueError("this interpreter was given other certificates, of which the helper would know nothing")

    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(  # noqa: S603 - this interpreter and its own program
                [sys.executable, "-I", "-S", "-c", _PROGRAM, str(_HOME), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if _is_passed(name)},
                # Ctrl-C in a terminal is for this process, which tells the helper what to end.
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise

    ours.setblocking(False)
    return process, ours


def _is_passed(variable: str) -> bool:
    return variable in _VARIABLES or variable.startswith(_PREFIXES)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process whose socket is closed. It blocks."""
    import subprocess

    try:
        process.wait(_ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
