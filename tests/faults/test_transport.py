"""Networks, TLS and HTTP at their worst: a clear line, the right exit code, and the images that could be had."""

from __future__ import annotations

import gzip
import json
import os
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import layouts
import pytest
import trustme
from organizations import TAG, small_image
from trouble import GLANCE, NOVA, QUICK, Impatient, messages, mirror, resolving, two_images

from quaymirror.errors import ExitCode
from quaymirror.events import Event, HostPaused
from quaymirror.http.proxy import Proxies
from quaymirror.secret import Credentials, Secret
from quaymirror.testing import Delay, Fault, QuayServer, Raw, Registry, Reset, make_image, make_layer
from quaymirror.testing import Status as Answer

MANIFEST = "^/v2/kolla/nova/manifests/"
IMAGE = small_image("nova", 400_000)
TYPE = f"Content-Type: {IMAGE.media_type}\r\n".encode()
LENGTH = f"Content-Length: {len(IMAGE.raw)}\r\n".encode()
CHUNKS = b"%x\r\n%s\r\n" % (len(IMAGE.raw), IMAGE.raw)
CHUNKED = b"Transfer-Encoding: chunked\r\n"


# No connection


@contextmanager
def full(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A port that answers no connection: its queue is full, so that packets are dropped."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        clients = [socket.socket(family) for _ in range(3)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())

        yield listener.getsockname()[1]
        for client in clients:
            client.close()


async def test_a_refused_connection_is_retried_and_reported(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        report = await mirror(f"http://127.0.0.1:{free.getsockname()[1]}", tmp_path / "mirror")

    assert report.exit_code is ExitCode.UNAVAILABLE
    assert "connection refused" in messages(report)[0]


async def test_an_unknown_host_name_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, {"quay.example": socket.gaierror(socket.EAI_NONAME, "Name or service not known")})
    report = await mirror("https://quay.example", tmp_path / "mirror")
    assert report.exit_code is ExitCode.UNAVAILABLE
    assert "quay.example: cannot resolve the host name" in messages(report)[0]


async def test_a_host_that_drops_packets_is_given_up_in_time(tmp_path: Path) -> None:
    with full() as port:
        report = await mirror(f"http://127.0.0.1:{port}", tmp_path / "mirror", retries=1)

    assert report.exit_code is ExitCode.UNAVAILABLE
    assert "for too long" in messages(report)[0]


async def test_a_name_service_that_does_not_answer_is_given_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, honest = threading.Event(), socket.getaddrinfo

    def slow(host: Any, *args: Any, **options: Any) -> Any:
        if host == "quay.example":
            done.wait(20)

        return honest("127.0.0.1", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        with anyio.fail_after(15):
            report = await mirror("http://quay.example:1", tmp_path / "mirror", retries=1)
    finally:
        done.set()

    assert report.exit_code is ExitCode.UNAVAILABLE
    assert "for too long" in messages(report)[0]


# An outage


async def test_ten_minutes_without_an_answer_are_waited_out_with_few_questions(tmp_path: Path) -> None:
    clock, pauses = Impatient(), list[Event]()
    async with QuayServer(two_images()) as server:
        broken = Fault("", Reset())

        def watch(request: Any) -> None:
            if request.path.startswith("/v2/kolla") and not server.faults:
                server.faults.append(broken)
                outage.append(clock.now)
            elif outage and clock.now > outage[0] + 600:
                broken.times = 0

        outage: list[float] = []
        server.on_request = watch
        report = await mirror(
            server, tmp_path / "mirror", lambda event: pauses.append(event), retry=clock.policy(base=2.0), retries=5
        )

    assert report.exit_code is ExitCode.OK, messages(report)
    assert clock.now > 600
    assert 0 < broken.fired <= 60 * 2, "two hosts"
    assert any(isinstance(event, HostPaused) for event in pauses)


# Proxies


@asynccontextmanager
async def proxy(answer: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A proxy that gives the same answer to every request, and closes."""
    asked: list[bytes] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            with anyio.move_on_after(5):
                asked.append(await stream.receive())
                if answer:
                    await stream.send(answer)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        yield f"http://user:hunter2-of-the-proxy@127.0.0.1:{port}", asked
        tasks.cancel_scope.cancel()


REFUSES = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_rejects_the_credentials_is_reported_and_not_retried(scheme: str, tmp_path: Path) -> None:
    async with proxy(REFUSES) as (url, asked):
        environment = {f"{scheme}_proxy": url}
        report = await mirror(f"{scheme}://quay.example", tmp_path / "mirror", environment=environment)

    assert report.exit_code is ExitCode.UNAVAILABLE
    assert "proxy authentication failed" in messages(report)[0]
    assert "hunter2" not in json.dumps(report.to_json()) + repr(report)
    assert len(asked) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_failing_proxy_is_reported(scheme: str, tmp_path: Path) -> None:
    async with proxy(b"") as (url, asked):
        report = await mirror(f"{scheme}://quay.example", tmp_path / "mirror", environment={f"{scheme}_proxy": url})

    assert report.exit_code is ExitCode.UNAVAILABLE
    assert asked
    assert "hunter2" not in json.dumps(report.to_json()) + repr(report)


async def test_a_host_excepted_from_the_proxy_is_requested_directly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with QuayServer(two_images()) as server, proxy(REFUSES) as (url, asked):
        port = int(server.host.rpartition(":")[2])
        resolving(monkeypatch, {"quay.example": [("127.0.0.1", port)]})
        environment = {"http_proxy": url, "no_proxy": "localhost,.example"}
        report = await mirror(f"http://quay.example:{port}", tmp_path / "mirror", environment=environment)

    assert report.exit_code is ExitCode.OK, messages(report)
    assert not asked
    assert Proxies.of(environment).find("http://other.test/") == url


# Netrc


async def test_netrc_is_not_read(tmp_path: Path, home: Path) -> None:
    netrc = home / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password canary\ndefault login me password canary\n")
    netrc.chmod(0o600)
    try:
        async with QuayServer(two_images()) as server:
            report = await mirror(server, tmp_path / "mirror")
            told = [request.headers.get("authorization") for request in server.requests]
    finally:
        netrc.unlink()

    assert report.exit_code is ExitCode.OK, messages(report)
    assert set(told) == {None}


# Addresses that don't work


async def test_an_address_that_does_not_answer_beside_one_that_does_costs_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with QuayServer(two_images()) as server:
        port = int(server.host.rpartition(":")[2])
        with full("127.0.0.3") as dead:
            resolving(monkeypatch, {"quay.example": [("127.0.0.3", dead), ("127.0.0.1", port)]})
            report = await mirror(f"http://quay.example:{port}", tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)


async def test_a_registry_at_an_ipv6_address_is_a_registry(tmp_path: Path) -> None:
    try:
        async with QuayServer(two_images(), host="::1"):
            pass
    except OSError:
        pytest.skip("no IPv6 here")

    async with QuayServer(two_images(), host="::1") as server:
        port = server.host.rpartition(":")[2]
        server._site.host, server._site.url = f"[::1]:{port}", f"http://[::1]:{port}"
        cdn = server._sockets["cdn"].port
        server._site.cdn_url = f"http://[::1]:{cdn}"
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)
    assert {*layouts.names(tmp_path / "mirror")} == {NOVA, GLANCE}


# HTTP

GOOD = {
    "HTTP/1.0 without a length": b"HTTP/1.0 200 OK\r\n" + TYPE + b"\r\n" + IMAGE.raw,
    "HTTP/1.0 with a length": b"HTTP/1.0 200 OK\r\n" + TYPE + LENGTH + b"\r\n" + IMAGE.raw,
    "chunks with a trailer": b"HTTP/1.1 200 OK\r\n" + TYPE + CHUNKED + b"\r\n" + CHUNKS + b"0\r\nX-Sum: 1\r\n\r\n",
    "chunks with extensions": (
        b"HTTP/1.1 200 OK\r\n" + TYPE + CHUNKED + b"\r\n" + CHUNKS.replace(b"\r\n", b";a=b\r\n", 1) + b"0\r\n\r\n"
    ),
    "a connection that is kept, and closed": (
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=600\r\n"
        + TYPE
        + LENGTH
        + b"\r\n"
        + IMAGE.raw
    ),
    "an encoding in an encoding": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n" + TYPE + b"\r\n" + CHUNKS + b"0\r\n\r\n"
    ),
    "no reason": b"HTTP/1.1 200 \r\n" + TYPE + LENGTH + b"\r\n" + IMAGE.raw,
    "a few interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\n" + TYPE + LENGTH + b"\r\n" + IMAGE.raw
    ),
    "headers that are no ASCII": b"HTTP/1.1 200 OK\r\nX: \xff\xfe\xc3\xa4\r\n" + TYPE + LENGTH + b"\r\n" + IMAGE.raw,
}
BAD = {
    "a length that is too large": b"HTTP/1.1 200 OK\r\n" + TYPE + b"Content-Length: 999999\r\n\r\n" + IMAGE.raw,
    "a length that is too small": b"HTTP/1.1 200 OK\r\n" + TYPE + b"Content-Length: 9\r\n\r\n" + IMAGE.raw,
    "a length of exabytes": b"HTTP/1.1 200 OK\r\n" + TYPE + b"Content-Length: 9" + b"9" * 40 + b"\r\n\r\n" + IMAGE.raw,
    "a negative length": b"HTTP/1.1 200 OK\r\n" + TYPE + b"Content-Length: -1\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a chunk that is no number": b"HTTP/1.1 200 OK\r\n" + TYPE + CHUNKED + b"\r\nxyz\r\nabc\r\n0\r\n\r\n",
    "a chunk of exabytes": b"HTTP/1.1 200 OK\r\n" + TYPE + CHUNKED + b"\r\n" + b"F" * 40 + b"\r\nabc",
    "chunks that don't end": b"HTTP/1.1 200 OK\r\n" + TYPE + CHUNKED + b"\r\n" + CHUNKS,
    "a header of 20 KB": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
    "10,000 headers": b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 10_000 + b"\r\n",
    "half a header": b"HTTP/1.1 200 OK\r\nContent-Ty",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"HTTP/9.9 200 OK\r\n" + TYPE + LENGTH + b"\r\n",
    "status 0": b"HTTP/1.1 0 OK\r\n\r\n",
    "status 99999": b"HTTP/1.1 99999 OK\r\n\r\n",
    "NULs": b"\0" * 1000,
    "nothing": b"",
    "a bomb for an encoding": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n" + TYPE + b"\r\n" + gzip.compress(bytes(50_000_000))
    ),
    "a line that is folded": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n 6\r\n\r\nabcdefghijk",
    "no end of a line": b"HTTP/1.1 200 OK\nX" * 3000,
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "interim answers for ever": b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" * 5_000,
    "an unknown encoding": b"HTTP/1.1 200 OK\r\nContent-Encoding: \x1b[2J\r\n" + TYPE + LENGTH + b"\r\n",
}


@pytest.mark.parametrize("name", GOOD)
async def test_http_that_is_only_strange_is_understood(name: str, tmp_path: Path) -> None:
    async with QuayServer(two_images(IMAGE)) as server:
        server.faults.append(Fault(MANIFEST, Raw(GOOD[name])))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)


@pytest.mark.parametrize("name", BAD)
async def test_malformed_http_fails_that_image_alone(name: str, tmp_path: Path) -> None:
    async with QuayServer(two_images(IMAGE)) as server:
        server.faults.append(Fault(MANIFEST, Raw(BAD[name])))
        report = await mirror(server, tmp_path / "mirror", retries=1)

    assert report.exit_code is ExitCode.PARTIAL, messages(report)
    assert list(layouts.names(tmp_path / "mirror")) == [GLANCE]
    assert ": 400" not in messages(report)[0]
    assert "kolla/nova" in messages(report)[0] or "127.0.0.1" in messages(report)[0]


@pytest.mark.parametrize("path", ["^/api/v1/repository$", "/tag/$", MANIFEST], ids=["listing", "tags", "manifest"])
async def test_an_answer_that_does_not_come_is_given_up(path: str, tmp_path: Path) -> None:
    async with QuayServer(two_images(IMAGE)) as server:
        server.faults.append(Fault(path, Delay(30)))
        with anyio.fail_after(30):
            report = await mirror(server, tmp_path / "mirror", retries=1)

    assert report.exit_code in (ExitCode.PARTIAL, ExitCode.UNAVAILABLE)
    assert any("for too long" in message or "has been failing" in message for message in messages(report)), messages(
        report
    )


@pytest.mark.parametrize("status", [200, 201, 204, 206, 300, 304, 305, 400, 402, 451, 499, 600, 999])
async def test_no_status_of_a_manifest_makes_it_exist(status: int, tmp_path: Path) -> None:
    async with QuayServer(two_images(IMAGE)) as server:
        server.faults.append(Fault(MANIFEST, Answer(status)))
        report = await mirror(server, tmp_path / "mirror", retries=1)

    assert report.exit_code is ExitCode.PARTIAL, messages(report)
    assert list(layouts.names(tmp_path / "mirror")) == [GLANCE]


# Certificates


async def test_a_certificate_that_becomes_invalid_ends_the_run_and_complete_images_stay(tmp_path: Path) -> None:
    good, bad = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    good.issue_cert("127.0.0.1").configure_cert(context)
    good.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    registry = two_images()
    async with QuayServer(registry, tls=context) as server:
        options: dict[str, Any] = {"cafile": tmp_path / "ca.pem", "timeouts": QUICK}
        assert (await mirror(server, tmp_path / "mirror", **options)).exit_code is ExitCode.OK
        for number in range(8):
            registry.organization("kolla").repository(f"new-{number}").push(TAG, small_image(f"new {number}"))

        def turn(request: Any) -> None:
            if request.path.endswith("/tag/"):
                bad.issue_cert("127.0.0.1").configure_cert(context)

        server.on_request = turn
        report = await mirror(server, tmp_path / "mirror", **options)

    assert report.exit_code is ExitCode.UNAVAILABLE, messages(report)
    assert "the TLS certificate is not trusted" in str(report.fatal)
    assert {NOVA, GLANCE} <= {*layouts.names(tmp_path / "mirror")}


@pytest.mark.parametrize("is_known", [True, False])
async def test_the_command_trusts_the_authorities_of_the_system_and_no_others(is_known: bool, tmp_path: Path) -> None:
    known, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (known if is_known else other).issue_cert("127.0.0.1").configure_cert(context)
    known.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    registry = Registry()
    layer = make_layer("large", 200_000)  # threads receive it, over connections of their own
    registry.organization("kolla").repository("nova").push(TAG, make_image([layer]))
    async with QuayServer(registry, tls=context) as server:
        words = ["sync", "kolla", "*", TAG, "--server", server.url, "--to", "mirror", "--retries", "0"]
        command = [sys.executable, "-m", "quaymirror", *words]
        env = {**os.environ, "SSL_CERT_FILE": str(tmp_path / "ca.pem")}
        done = await anyio.run_process(command, cwd=tmp_path, env=env, check=False)

    assert done.returncode == (ExitCode.OK if is_known else ExitCode.UNAVAILABLE), done.stderr.decode()
    assert (b"the TLS certificate is not trusted" in done.stderr) is not is_known


async def test_a_certificate_for_another_host_is_refused_and_gets_no_credentials(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("quay.example").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with QuayServer(two_images(), tls=context) as server:
        credentials = Credentials("me", Secret("hunter2-for-quay"))
        report = await mirror(server, tmp_path / "mirror", cafile=tmp_path / "ca.pem", credentials=credentials)
        assert not server.requests

    assert report.exit_code is ExitCode.UNAVAILABLE
    assert "not trusted" in messages(report)[0]


NO_TLS = {
    "plain HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "a record that is too long": b"\x16\x03\x03\xff\xff" + bytes(70_000),
    "nothing": b"",
}


@pytest.mark.parametrize("name", NO_TLS)
async def test_a_server_without_tls_is_reported(name: str, tmp_path: Path) -> None:
    async with proxy(NO_TLS[name]) as (url, asked):
        report = await mirror(f"https://127.0.0.1:{url.rpartition(':')[2]}", tmp_path / "mirror", retries=1)

    assert asked
    assert report.exit_code is ExitCode.UNAVAILABLE
    assert "can't list 'kolla': 127.0.0.1:" in messages(report)[0]
    assert len(messages(report)[0]) < 300
