"""Bodies that threads receive: the guarantees of the transport, over connections of their own."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

from quaymirror.errors import (
    CertificateRefused,
    ConnectFailed,
    HostUnusable,
    NameUnknown,
    QuaymirrorError,
    ReadInterrupted,
    SizeMismatch,
    StoreError,
    TimedOut,
    UnsafeRedirect,
)
from quaymirror.http.exchange import Response
from quaymirror.http.guard import AddressGuard
from quaymirror.http.rate import Throttle
from quaymirror.http.threads import ThreadResponse
from quaymirror.http.timeouts import Timeouts
from quaymirror.http.transport import AiohttpTransport

BODY = bytes(range(256)) * 4000
STALL = 0.2


def _answer(body: bytes, *fields: str, announced: int | None = None) -> bytes:
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
            "/body": _answer(BODY),
            "/twice": _answer(BODY, "X-Name: first", "x-name: second"),
            "/half": _answer(BODY, announced=2 * len(BODY)),
            "/broken": _answer(BODY, announced=2 * len(BODY)),
            "/chunked": _chunked(BODY),
            "/until-closed": b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
            "/nonsense": b"hello\r\n\r\n",
            "/closed": b"",
            "/silent": b"",
            "/last": _answer(BODY),
            "/hints": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + _answer(BODY),
            "/mail": _answer(BODY, "Content-Type: multipart/x; boundary*=a; boundary*0=b"),
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
            while head := await _head(reader):
                path = head.split()[1].decode()
                self.peers.append(writer.get_extra_info("peername"))
                self.heads.append(head)
                writer.write(self.answers[path])
                if path in self.closes:
                    return


async def _head(reader: asyncio.StreamReader) -> bytes:
    """Return the head of a request, nothing at the end, and one of HTTP for that of TLS."""
    try:
        first = await reader.readexactly(1)
        return b"GET /nonsense" if first == b"\x16" else first + await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def transport(**options: Any) -> AiohttpTransport:
    factory = options.pop("socket_factory", AddressGuard().trusted_socket)
    timeouts = Timeouts(connect=2.0, headers=2 * STALL, stall=STALL)
    return AiohttpTransport(socket_factory=factory, timeouts=options.pop("timeouts", timeouts), **options)


async def receive(answer: Response, counts: list[int] | None = None) -> bytes:
    """Return the body of `answer`, received by a thread."""
    body = bytearray()

    def fill(read: Callable[[memoryview], int]) -> None:
        buffer = memoryview(bytearray(100_000))
        while count := read(buffer):
            body.extend(buffer[:count])

    assert answer.threaded is not None
    with closing(answer):
        await answer.threaded(fill, ([] if counts is None else counts).append)

    return bytes(body)


async def get(client: AiohttpTransport, url: str, **headers: str) -> bytes:
    return await receive(await client.send_large(url, headers, name="the blob"))


@pytest.mark.parametrize("path", ["/body", "/chunked", "/until-closed", "/hints", "/mail"])
async def test_a_body_arrives_however_its_end_is_announced(path: str) -> None:
    async with Server().listening() as url, transport() as client:
        counts: list[int] = []
        answer = await client.send_large(f"{url}{path}", {})
        assert (answer.status, answer.url) == (200, f"{url}{path}")
        assert await receive(answer, counts) == BODY
        assert sum(counts) == len(BODY)


async def test_the_event_loop_can_receive_it_too_within_a_limit() -> None:
    async with Server().listening() as url, transport() as client:
        with closing(await client.send_large(f"{url}/chunked", {})) as answer:
            assert await answer.read(len(BODY)) == BODY

        with closing(await client.send_large(f"{url}/body", {})) as answer, pytest.raises(SizeMismatch):
            await answer.read(1000)


async def test_fields_are_sent_as_they_are_and_names_of_received_ones_ignore_case() -> None:
    server = Server()
    async with server.listening() as url, transport() as client:
        answer = await client.send_large(f"{url}/twice", {"Range": "bytes=0-5"})
        assert (answer.headers["X-NAME"], answer.headers.get("x-name")) == ("first", "first")
        assert answer.all_headers("X-Name") == ["first", "second"]
        assert "X-Other" not in answer.headers
        await receive(answer)

    [head] = server.heads
    lines = head.decode().split("\r\n")
    assert lines[0] == "GET /twice HTTP/1.1"
    assert {f"Host: {url.partition('//')[2]}", "Range: bytes=0-5", "Accept-Encoding: identity"} < set(lines)


async def test_a_field_of_several_lines_is_refused() -> None:
    server = Server()
    async with server.listening() as url, transport() as client:
        with pytest.raises(UnsafeRedirect):
            await client.send_large(f"{url}/body", {"If-Range": '"a"\r\nX: y'})

    assert server.heads == []


async def test_a_connection_is_used_again_after_a_complete_body_only() -> None:
    server = Server()
    async with server.listening() as url, transport() as client:
        for _ in range(2):
            await get(client, f"{url}/body")

        with closing(await client.send_large(f"{url}/body", {})):
            pass  # the body is not received

        await get(client, f"{url}/body")
        await receive(await client.send_large(f"{url}/body", {}, fresh=True))

    assert len(server.peers) == 5
    assert server.peers[0] == server.peers[1] == server.peers[2]
    assert len(set(server.peers)) == 3


async def test_connections_to_hosts_that_are_not_used_any_more_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = anyio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            await _head(reader)
            writer.write(_answer(BODY))
            assert await reader.read() == b""
            ended.set()

    other = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with other, Server().listening() as url, transport() as client:
        await get(client, f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}/body")
        monkeypatch.setattr("quaymirror.http.threads._IDLE_SECONDS", -1.0)
        await get(client, f"{url}/body")
        with anyio.fail_after(5):
            await ended.wait()


async def test_a_connection_that_the_server_has_closed_is_replaced() -> None:
    server = Server()
    async with server.listening() as url, transport() as client:
        for _ in range(3):
            assert await get(client, f"{url}/last") == BODY


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/half", TimedOut, "the blob: the server sent nothing for too long"),
        ("/broken", ReadInterrupted, "the blob: the answer ended early"),
        ("/nonsense", ReadInterrupted, "the blob: the answer is not valid HTTP"),
        ("/unlimited", ReadInterrupted, "the blob: the answer is not valid HTTP"),
        ("/closed", ReadInterrupted, "the blob: the connection broke before an answer"),
        ("/silent", TimedOut, "the blob: the server sent nothing for too long"),
    ],
)
async def test_a_server_that_fails_is_reported_like_by_the_event_loop(
    path: str, kind: type[QuaymirrorError], words: str
) -> None:
    async with Server().listening() as url, transport() as client:
        with pytest.raises(kind, match=words):
            await get(client, f"{url}{path}")


async def test_bytes_before_a_failure_are_passed_on_and_counted() -> None:
    async with Server().listening() as url, transport() as client:
        received, counts = bytearray(), list[int]()

        def fill(read: Callable[[memoryview], int]) -> None:
            buffer = memoryview(bytearray(1000))
            while count := read(buffer):
                received.extend(buffer[:count])

        answer = await client.send_large(f"{url}/broken", {})
        assert answer.threaded is not None
        with closing(answer), pytest.raises(ReadInterrupted):
            await answer.threaded(fill, counts.append)

        assert bytes(received) == BODY
        assert sum(counts) == len(BODY)


async def test_errors_of_the_receiver_pass_through() -> None:
    def fill(_: Callable[[memoryview], int]) -> None:
        raise StoreError("the disk is full")

    async with Server().listening() as url, transport() as client:
        answer = await client.send_large(f"{url}/body", {})
        assert answer.threaded is not None
        with closing(answer), pytest.raises(StoreError):
            await answer.threaded(fill, lambda _: None)


async def test_cancellation_breaks_the_connection_and_the_thread_has_ended_afterwards() -> None:
    ended: list[bool] = []

    def fill(read: Callable[[memoryview], int]) -> None:
        try:
            _swallow(read)
        finally:
            ended.append(True)

    patient = Timeouts(stall=60.0, headers=60.0)
    async with Server().listening() as url, transport(timeouts=patient) as client:
        answer = await client.send_large(f"{url}/half", {})
        assert isinstance(answer, ThreadResponse)
        with closing(answer), anyio.move_on_after(STALL) as scope:
            await answer.receive(fill, lambda _: None)

        assert scope.cancelled_caught
        assert ended == [True]


async def test_a_complaint_about_the_speed_ends_the_transfer() -> None:
    def too_slow(_: int) -> None:
        raise TimedOut("too slow")

    patient = Timeouts(stall=60.0, headers=60.0)
    async with Server().listening() as url, transport(timeouts=patient) as client:
        answer = await client.send_large(f"{url}/half", {})
        assert answer.threaded is not None
        with closing(answer), anyio.fail_after(10), pytest.raises(TimedOut, match="too slow"):
            await answer.threaded(_swallow, too_slow)


def _swallow(read: Callable[[memoryview], int]) -> None:
    while read(memoryview(bytearray(1000))):
        pass


async def test_waiting_for_a_silent_server_can_be_cancelled() -> None:
    patient = Timeouts(stall=60.0, headers=60.0)
    async with Server().listening() as url, transport(timeouts=patient) as client:
        with anyio.move_on_after(STALL) as scope:
            await client.send_large(f"{url}/silent", {})

        assert scope.cancelled_caught


async def test_servers_may_not_lead_to_private_addresses() -> None:
    guard = AddressGuard()
    server = Server()
    async with server.listening() as url, transport(socket_factory=guard.guarded_socket) as client:
        with pytest.raises(UnsafeRedirect, match="which is a private address: refused"):
            await client.send_large(f"{url}/body", {})

        guard.allow_private = True
        assert await get(client, f"{url}/body") == BODY

    assert len(server.heads) == 1


async def test_a_name_without_addresses_and_a_port_without_server_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with transport() as client:
            with pytest.raises(ConnectFailed, match=f"127.0.0.1:{port}: cannot connect: connection refused"):
                await client.send_large(f"http://127.0.0.1:{port}/", {})

            monkeypatch.setattr(socket, "getaddrinfo", unknown)
            with pytest.raises(NameUnknown, match="cannot resolve the host name"):
                await client.send_large("http://nowhere.invalid/", {})


async def test_the_next_address_is_used_if_the_first_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Server().listening() as url, transport() as client:
        port = int(url.rpartition(":")[2])
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            places = [unused.getsockname(), ("127.0.0.1", port)]
            found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", place) for place in places]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
            assert await get(client, f"http://two.example:{port}/body") == BODY


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_tls_is_verified(authority: trustme.CA, tls: ssl.SSLContext, tmp_path: Path) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    server, patient = Server(tls), Timeouts()
    async with (
        server.listening() as url,
        transport(tls=trusting, timeouts=patient) as client,
        transport(timeouts=patient) as stranger,
    ):
        for _ in range(2):
            assert await get(client, f"{url}/body") == BODY

        with pytest.raises(CertificateRefused, match="the TLS certificate is not trusted: "):
            await stranger.send_large(f"{url}/body", {})

    assert len(set(server.peers)) == 1


async def test_bytes_after_a_body_over_tls_are_no_answer_to_the_next_request(
    authority: trustme.CA, tls: ssl.SSLContext
) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    server = Server(tls)
    server.answers["/more"] = _answer(BODY) + _answer(b"abc")
    async with server.listening() as url, transport(tls=trusting, timeouts=Timeouts()) as client:
        assert await get(client, f"{url}/more") == BODY
        assert await get(client, f"{url}/body") == BODY

    assert len(set(server.peers)) == 2


async def test_a_body_over_tls_can_be_cancelled(authority: trustme.CA, tls: ssl.SSLContext) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    patient = Timeouts(stall=60.0, headers=60.0)
    async with Server(tls).listening() as url, transport(tls=trusting, timeouts=patient) as client:
        answer = await client.send_large(f"{url}/half", {})
        assert isinstance(answer, ThreadResponse)
        with closing(answer), anyio.move_on_after(STALL) as scope:
            await answer.receive(_swallow, lambda _: None)

        assert scope.cancelled_caught


async def test_a_server_without_tls_is_named() -> None:
    async with Server().listening() as url, transport() as client:
        with pytest.raises(HostUnusable, match="does not speak TLS as expected"):
            await client.send_large(f"https{url.removeprefix('http')}/body", {})


async def test_the_event_loop_receives_bodies_that_are_limited_or_come_through_a_proxy() -> None:
    server = Server()
    async with server.listening() as url:
        for options in ({"bandwidth": Throttle(100_000_000.0)}, {"find_proxy": lambda _: url}):
            server.answers[f"{url}/body"] = server.answers["/body"]
            async with transport(**options) as client:
                with closing(await client.send_large(f"{url}/body", {})) as answer:
                    assert answer.threaded is None
                    assert await answer.read(len(BODY)) == BODY
