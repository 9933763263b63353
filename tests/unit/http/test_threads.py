"""Bodies that threads or the helper process receive: the guarantees of the transport, over connections of their own."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from bodies import BODY, SIZE, STALL, BodyFile, Server, answered, request_head

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
from quaymirror.http.helper import Helper, HelperResponse, Site
from quaymirror.http.rate import Throttle
from quaymirror.http.threads import ThreadResponse
from quaymirror.http.timeouts import Timeouts
from quaymirror.http.tls import Trust, tls_context
from quaymirror.http.transport import AiohttpTransport

MIB = 1024 * 1024

Open = Callable[..., AbstractAsyncContextManager[AiohttpTransport]]


async def ready(helper: Helper) -> Helper:
    """Return `helper` once it takes requests."""
    helper.start()
    with anyio.fail_after(30):
        while not helper.is_ready:
            await anyio.sleep(0)

    return helper


@asynccontextmanager
async def _opened(
    *,
    helps: bool,
    guard: AddressGuard | None = None,
    is_guarded: bool = False,
    timeouts: Timeouts | None = None,
    trust: Trust | None = None,
    **options: Any,
) -> AsyncIterator[AiohttpTransport]:
    guard, trust = guard or AddressGuard(), trust or Trust()
    timeouts = timeouts or Timeouts(connect=2.0, headers=2 * STALL, stall=STALL)
    helper = Helper()
    pair = (await ready(helper), Site(guard, is_guarded, trust, timeouts)) if helps else None
    factory = guard.guarded_socket if is_guarded else guard.trusted_socket
    try:
        async with AiohttpTransport(
            socket_factory=factory, timeouts=timeouts, tls=tls_context(trust), helper=pair, **options
        ) as client:
            yield client
    finally:
        await helper.close()


@pytest.fixture(params=["threads", "helper"])
def transport(request: pytest.FixtureRequest) -> Open:
    """The function that opens a transport whose large bodies are received by either."""

    def opened(**options: Any) -> AbstractAsyncContextManager[AiohttpTransport]:
        return _opened(helps=request.param == "helper", **options)

    return opened


@pytest.fixture
def threads() -> Open:
    """The function that opens a transport without a helper."""

    def opened(**options: Any) -> AbstractAsyncContextManager[AiohttpTransport]:
        return _opened(helps=False, **options)

    return opened


async def open_body(client: AiohttpTransport, url: str, *, fresh: bool = False, **headers: str) -> Response:
    answer = await client.send_large(url, headers, size=SIZE, to_file=True, name="the blob", fresh=fresh)
    assert isinstance(answer, ThreadResponse | HelperResponse)
    return answer


async def receive(answer: Response, counts: list[int] | None = None, file: BodyFile | None = None) -> bytes:
    """Return the body of `answer`, received outside of the event loop."""
    file = file or BodyFile()
    assert answer.threaded is not None
    with closing(answer):
        await answer.threaded(file, ([] if counts is None else counts).append)

    return file.content


async def get(client: AiohttpTransport, url: str) -> bytes:
    return await receive(await open_body(client, url))


@pytest.mark.parametrize("path", ["/body", "/chunked", "/until-closed", "/hints", "/mail"])
async def test_a_body_arrives_however_its_end_is_announced(transport: Open, path: str) -> None:
    async with Server().listening() as url, transport() as client:
        counts: list[int] = []
        answer = await open_body(client, f"{url}{path}")
        assert (answer.status, answer.url) == (200, f"{url}{path}")
        assert await receive(answer, counts) == BODY
        assert sum(counts) == len(BODY)


async def test_the_event_loop_can_receive_it_too_within_a_limit(transport: Open) -> None:
    async with Server().listening() as url, transport() as client:
        with closing(await open_body(client, f"{url}/chunked")) as answer:
            assert await answer.read(len(BODY)) == BODY

        with closing(await open_body(client, f"{url}/body")) as answer, pytest.raises(SizeMismatch):
            await answer.read(1000)

        with closing(await open_body(client, f"{url}/broken")) as answer, pytest.raises(ReadInterrupted):
            await answer.read(2 * len(BODY))


async def test_fields_are_sent_as_they_are_and_names_of_received_ones_ignore_case(transport: Open) -> None:
    server = Server()
    async with server.listening() as url, transport() as client:
        answer = await open_body(client, f"{url}/twice", Range="bytes=0-5")
        assert (answer.headers["X-NAME"], answer.headers.get("x-name")) == ("first", "first")
        assert answer.all_headers("X-Name") == ["first", "second"]
        assert "X-Other" not in answer.headers
        await receive(answer)

    [head] = server.heads
    lines = head.decode().split("\r\n")
    assert lines[0] == "GET /twice HTTP/1.1"
    assert {f"Host: {url.partition('//')[2]}", "Range: bytes=0-5", "Accept-Encoding: identity"} < set(lines)


async def test_a_field_of_several_lines_is_refused(transport: Open) -> None:
    server = Server()
    async with server.listening() as url, transport() as client:
        with pytest.raises(UnsafeRedirect):
            await client.send_large(f"{url}/body", {"If-Range": '"a"\r\nX: y'}, size=SIZE, to_file=True)

    assert server.heads == []


async def test_a_connection_is_used_again_after_a_complete_body_only(transport: Open) -> None:
    server = Server()
    async with server.listening() as url, transport() as client:
        for _ in range(2):
            await get(client, f"{url}/body")

        with closing(await open_body(client, f"{url}/body")):
            pass  # the body is not received

        await get(client, f"{url}/body")
        await receive(await open_body(client, f"{url}/body", fresh=True))

    assert len(server.peers) == 5
    assert server.peers[0] == server.peers[1] == server.peers[2]
    assert len(set(server.peers)) == 3


async def test_connections_to_hosts_that_are_not_used_any_more_are_closed(
    threads: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = anyio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            await request_head(reader)
            writer.write(answered(BODY))
            assert await reader.read() == b""
            ended.set()

    other = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with other, Server().listening() as url, threads() as client:
        await get(client, f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}/body")
        monkeypatch.setattr("quaymirror.http.connections._IDLE_SECONDS", -1.0)
        await get(client, f"{url}/body")
        with anyio.fail_after(5):
            await ended.wait()


async def test_a_connection_that_the_server_has_closed_is_replaced(transport: Open) -> None:
    async with Server().listening() as url, transport() as client:
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
    transport: Open, path: str, kind: type[QuaymirrorError], words: str
) -> None:
    async with Server().listening() as url, transport() as client:
        with pytest.raises(kind, match=words):
            await get(client, f"{url}{path}")


async def test_bytes_before_a_failure_are_passed_on_and_counted(transport: Open) -> None:
    async with Server().listening() as url, transport() as client:
        file, counts = BodyFile(2 * len(BODY)), list[int]()
        with pytest.raises(ReadInterrupted, match="the answer ended early"):
            await receive(await open_body(client, f"{url}/broken"), counts, file)

        assert file.content == BODY
        assert sum(counts) == len(BODY)


async def test_errors_of_the_receiver_pass_through(transport: Open) -> None:
    class Failing(BodyFile):
        def __call__(self, _: Callable[[memoryview], int]) -> None:
            raise StoreError("the disk is full")

    full = Failing()
    os.dup2(os.open("/dev/full", os.O_RDWR), full.descriptor)
    async with Server().listening() as url, transport() as client:
        answer = await open_body(client, f"{url}/body")
        assert answer.threaded is not None
        with closing(answer), pytest.raises(StoreError):
            await answer.threaded(full, lambda _: None)


async def test_cancellation_breaks_the_connection_and_nothing_is_written_afterwards(transport: Open) -> None:
    patient, file = Timeouts(stall=60.0, headers=60.0), BodyFile(2 * len(BODY))
    async with Server().listening() as url, transport(timeouts=patient) as client:
        answer = await open_body(client, f"{url}/half")
        assert answer.threaded is not None
        with closing(answer), anyio.move_on_after(STALL) as scope:
            await answer.threaded(file, lambda _: None)

        assert scope.cancelled_caught
        assert file.ended == [True]


async def test_a_complaint_about_the_speed_ends_the_transfer(transport: Open) -> None:
    def too_slow(_: int) -> None:
        raise TimedOut("too slow")

    patient = Timeouts(stall=60.0, headers=60.0)
    async with Server().listening() as url, transport(timeouts=patient) as client:
        answer = await open_body(client, f"{url}/half")
        assert answer.threaded is not None
        with closing(answer), anyio.fail_after(10), pytest.raises(TimedOut, match="too slow"):
            await answer.threaded(BodyFile(2 * len(BODY)), too_slow)


async def test_waiting_for_a_silent_server_can_be_cancelled(transport: Open) -> None:
    patient = Timeouts(stall=60.0, headers=60.0)
    async with Server().listening() as url, transport(timeouts=patient) as client:
        with anyio.move_on_after(STALL) as scope:
            await open_body(client, f"{url}/silent")

        assert scope.cancelled_caught


async def test_servers_may_not_lead_to_private_addresses(transport: Open) -> None:
    guard = AddressGuard()
    server = Server()
    async with server.listening() as url, transport(guard=guard, is_guarded=True) as client:
        with pytest.raises(UnsafeRedirect, match="which is a private address: refused"):
            await open_body(client, f"{url}/body")

        guard.allow_private = True
        assert await get(client, f"{url}/body") == BODY

    assert len(server.heads) == 1


async def test_the_users_own_server_at_a_private_address_may_lead_to_others(transport: Open) -> None:
    guard = AddressGuard()
    async with Server().listening() as url, transport(guard=guard) as client:
        assert await get(client, f"{url}/body") == BODY

    assert guard.allow_private


async def test_a_port_without_a_server_is_reported(transport: Open) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with transport() as client:
            with pytest.raises(ConnectFailed, match=f"127.0.0.1:{port}: cannot connect: connection refused"):
                await open_body(client, f"http://127.0.0.1:{port}/")


async def test_a_name_without_addresses_is_reported(threads: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with threads() as client:
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        with pytest.raises(NameUnknown, match="cannot resolve the host name"):
            await open_body(client, "http://nowhere.invalid/")


async def test_the_next_address_is_used_if_the_first_refuses(threads: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Server().listening() as url, threads() as client:
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


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def trust(authority: trustme.CA, tmp_path: Path) -> Trust:
    cafile = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(cafile)
    return Trust(cafile)


async def test_tls_is_verified(transport: Open, trust: Trust, tls: ssl.SSLContext) -> None:
    server, patient = Server(tls), Timeouts()
    async with (
        server.listening() as url,
        transport(trust=trust, timeouts=patient) as client,
        transport(timeouts=patient) as stranger,
    ):
        for _ in range(2):
            assert await get(client, f"{url}/body") == BODY

        with pytest.raises(CertificateRefused, match="the TLS certificate is not trusted: "):
            await open_body(stranger, f"{url}/body")

    assert len(set(server.peers)) == 1


async def test_bytes_after_a_body_over_tls_are_no_answer_to_the_next_request(
    transport: Open, trust: Trust, tls: ssl.SSLContext
) -> None:
    server = Server(tls)
    async with server.listening() as url, transport(trust=trust, timeouts=Timeouts()) as client:
        assert await get(client, f"{url}/more") == BODY
        assert await get(client, f"{url}/body") == BODY

    assert len(set(server.peers)) == 2


async def test_a_body_over_tls_can_be_cancelled(transport: Open, trust: Trust, tls: ssl.SSLContext) -> None:
    patient = Timeouts(stall=60.0, headers=60.0)
    async with Server(tls).listening() as url, transport(trust=trust, timeouts=patient) as client:
        answer = await open_body(client, f"{url}/half")
        assert answer.threaded is not None
        with closing(answer), anyio.move_on_after(STALL) as scope:
            await answer.threaded(BodyFile(2 * len(BODY)), lambda _: None)

        assert scope.cancelled_caught


async def test_a_server_without_tls_is_named(transport: Open) -> None:
    async with Server().listening() as url, transport() as client:
        with pytest.raises(HostUnusable, match="does not speak TLS as expected"):
            await open_body(client, f"https{url.removeprefix('http')}/body")


async def test_the_event_loop_receives_bodies_that_are_limited_or_come_through_a_proxy(transport: Open) -> None:
    server = Server()
    async with server.listening() as url:
        for options in ({"bandwidth": Throttle(100_000_000.0)}, {"find_proxy": lambda _: url}):
            server.answers[f"{url}/body"] = server.answers["/body"]
            async with transport(**options) as client:
                with closing(await client.send_large(f"{url}/body", {}, size=SIZE, to_file=True)) as answer:
                    assert answer.threaded is None
                    assert await answer.read(len(BODY)) == BODY


@pytest.mark.parametrize(
    ("is_secure", "size", "expected"),
    [(False, MIB - 1, False), (False, MIB, True), (True, 32 * MIB - 1, False), (True, 32 * MIB, True)],
)
async def test_a_thread_receives_what_it_receives_with_less(
    threads: Open, trust: Trust, tls: ssl.SSLContext, is_secure: bool, size: int, expected: bool
) -> None:
    patient = Timeouts()
    async with (
        Server(tls if is_secure else None).listening() as url,
        threads(trust=trust, timeouts=patient) as client,
    ):
        with closing(await client.send_large(f"{url}/body", {}, size=size, to_file=True)) as answer:
            assert isinstance(answer, ThreadResponse) == expected
