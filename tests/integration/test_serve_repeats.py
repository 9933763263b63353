"""Requests that come again on open connections: each answer is as right as the first one."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest
from organizations import small_image
from serving import Client, served, write_layout

from quaymirror.serve import serving, site
from quaymirror.serve.messages import Answer, Request
from quaymirror.testing import SourceManifest

NAME = "kolla/nova-api"
MANIFEST = f"/v2/{NAME}/manifests/1"


@pytest.fixture
def image() -> SourceManifest:
    return small_image("one")


@pytest.fixture
def mirror(tmp_path: Path, image: SourceManifest) -> Path:
    return write_layout(tmp_path / "mirror", {f"{NAME}:1": image})


class Connection:
    """An open connection, with the raw bytes of requests and answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, *data: bytes, is_head: bool = False) -> tuple[bytes, Mapping[bytes, bytes], bytes]:
        """Send `data`, each in a packet of its own, and return the status line, the headers and the body."""
        for each in data:
            self.writer.write(each)
            await self.writer.drain()
            await anyio.sleep(0.01 if len(data) > 1 else 0)

        return await self.answer(is_head=is_head)

    async def answer(self, *, is_head: bool = False) -> tuple[bytes, Mapping[bytes, bytes], bytes]:
        """Return the next answer, without its date: a second may end between two answers that are otherwise equal."""
        with anyio.fail_after(20):
            head = await self.reader.readuntil(b"\r\n\r\n")
            status, *lines = head[:-4].split(b"\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
            headers.pop(b"date", None)
            length = 0 if is_head or b" 304 " in status else int(headers[b"content-length"])
            return status, headers, await self.reader.readexactly(length)


Connect = Callable[[Client], Awaitable[Connection]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Return a function that opens connections, which are closed at the end."""
    writers = []

    async def opened(client: Client) -> Connection:
        address = urlsplit(client.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writers.append(writer)
        return Connection(reader, writer)

    yield opened
    for writer in writers:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def get(path: str = MANIFEST, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/{version}", "Host: mirror", *headers, "", "")).encode()


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the paths that were answered anew. The moment of answers does not end by itself."""
    paths: list[str] = []
    answer = site.Site.answer

    async def noted(self: site.Site, request: Request) -> Answer:
        paths.append(request.path)
        return await answer(self, request)

    monkeypatch.setattr(site.Site, "answer", noted)
    monkeypatch.setattr(serving, "_REFRESH_SECONDS", 3600.0)
    monkeypatch.setattr("quaymirror.serve.server._REPEAT_SECONDS", 3600.0)
    return paths


@pytest.mark.parametrize(
    "request_",
    [
        get(),
        get(method="HEAD"),
        get("/v2/"),
        get(f"/v2/{NAME}/tags/list"),
        get(MANIFEST, "Connection: keep-alive", version="1.0"),
        get(MANIFEST, "Connection: Keep-Alive", version="1.0"),
    ],
)
async def test_a_repeated_request_has_the_same_answer_without_being_handled_again(
    connect: Connect, mirror: Path, handled: list[str], tmp_path: Path, request_: bytes
) -> None:
    log = tmp_path / "log"
    async with served(mirror, access_log=str(log)) as client:
        one, two = await connect(client), await connect(client)
        answers = [
            await connection.ask(request_, is_head=request_.startswith(b"HEAD")) for connection in (one, two) * 3
        ]
        metrics = (await client.get("/metrics")).body.decode()

    assert answers[1:] == answers[:1] * 5
    # Each connection has its first request handled.
    assert len(handled) == 2 + 1
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    [path] = {line["path"] for line in lines[:6]}
    assert [line["remote"] for line in lines[:6]] == ["127.0.0.1"] * 6
    assert {line["bytes"] for line in lines[:6]} == {len(answers[0][2])}
    assert 'status="200"} 6.0' in metrics
    assert path == handled[0]


async def test_a_known_manifest_is_answered_304_again(
    connect: Connect, mirror: Path, image: SourceManifest, handled: list[str]
) -> None:
    request = get(MANIFEST, f'If-None-Match: "{image.digest}"')
    async with served(mirror) as client:
        connection = await connect(client)
        assert {(await connection.ask(request))[0] for _ in range(3)} == {b"HTTP/1.1 304 Not Modified"}

    assert len(handled) == 1


async def test_a_request_in_several_packets_or_with_others_is_answered_in_order(
    connect: Connect, mirror: Path, image: SourceManifest
) -> None:
    whole, tags = get(), get(f"/v2/{NAME}/tags/list")
    async with served(mirror) as client:
        for packets in ((whole,), (whole[:30], whole[30:]), (whole[:-2], whole[-2:])):
            connection = await connect(client)
            for _ in range(3):
                assert (await connection.ask(*packets))[2] == image.raw
                assert (await connection.ask(whole))[2] == image.raw

        connection = await connect(client)
        assert (await connection.ask(whole))[2] == image.raw
        assert (await connection.ask(tags + whole))[2].startswith(b"{")
        assert (await connection.answer())[2] == image.raw
        assert (await connection.ask(whole + tags))[2] == image.raw
        assert (await connection.answer())[2].startswith(b'{"name"')


async def test_the_body_of_a_request_is_never_taken_for_another_request(
    connect: Connect, mirror: Path, image: SourceManifest
) -> None:
    whole = get()
    async with served(mirror) as client:
        connection = await connect(client)
        assert (await connection.ask(whole))[2] == image.raw
        smuggling = get("/v2/", f"Content-Length: {len(whole)}")
        assert (await connection.ask(smuggling, whole))[2] == b"{}"
        # One answer, not two: what follows is the answer to the next request.
        assert (await connection.ask(get("/v2/_catalog")))[2].startswith(b'{"repositories"')


async def test_a_new_image_and_a_wrong_password_are_never_answered_from_before(
    connect: Connect, mirror: Path, tmp_path: Path
) -> None:
    users = tmp_path / "users"
    users.write_text("u:$2b$04$abcdefghijklmnopqrstuuBnJBVk6rpHCuyfIkGXQRLOqUQ1cE3Qe\n")
    subprocess.run(["htpasswd", "-Bbc", "-C", "4", users, "u", "p"], check=True, capture_output=True)
    right, later = get(MANIFEST, "Authorization: Basic dTpw"), small_image("two")
    async with served(mirror, htpasswd=users) as client:
        connection = await connect(client)
        assert (await connection.ask(get()))[0].startswith(b"HTTP/1.1 401")
        first = (await connection.ask(right))[2]
        assert (await connection.ask(right))[2] == first
        assert (await connection.ask(get()))[0].startswith(b"HTTP/1.1 401")
        write_layout(mirror, {f"{NAME}:1": later})
        with anyio.fail_after(10):
            while (await connection.ask(right))[2] != later.raw:
                await anyio.sleep(0.02)

        subprocess.run(["htpasswd", "-Bbc", "-C", "4", users, "u", "other"], check=True, capture_output=True)
        with anyio.fail_after(10):
            while not (await connection.ask(right))[0].startswith(b"HTTP/1.1 401"):
                await anyio.sleep(0.02)


async def test_a_client_that_does_not_read_its_answers_is_not_answered_further(
    connect: Connect, tmp_path: Path, handled: list[str]
) -> None:
    """Unread answers must not pile up in the memory of the server."""
    image = small_image("one", 60_000)
    root = write_layout(tmp_path / "m", {f"{NAME}:1": image})
    layer = max(image.blobs, key=lambda each: each.size)
    request = get(f"/v2/{NAME}/blobs/{layer.digest}")
    async with served(root, stall_seconds=0.2) as client:
        connection = await connect(client)
        assert (await connection.ask(request))[2] == layer.data
        with pytest.raises(ConnectionError):
            await ask_without_reading(connection, request)


async def ask_without_reading(connection: Connection, request: bytes) -> None:
    with anyio.fail_after(30):
        while True:
            connection.writer.write(request)
            await connection.writer.drain()
            await anyio.sleep(0)
