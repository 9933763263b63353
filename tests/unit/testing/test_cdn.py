from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from quaymirror.testing import QuayServer, Registry, make_image, make_layer

IMAGE = make_image([make_layer(1, 3_000_000)])
BLOB = IMAGE.blobs[1]


class Clock:
    """A clock that tests set."""

    now = 1_795_469_801.0

    def __call__(self) -> float:
        return self.now


class Client:
    """A session bound to a server, and a signed link to a blob."""

    def __init__(self, session: aiohttp.ClientSession, server: QuayServer, clock: Clock) -> None:
        self.session = session
        self.server = server
        self.clock = clock
        self.link = ""

    async def ask(self, link: str | None = None, method: str = "GET", **headers: str) -> tuple[int, bytes, Any]:
        async with self.session.request(method, link or self.link, headers=headers) as response:
            return response.status, await response.read(), response.headers


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    clock = Clock()
    registry = Registry(now=clock)
    registry.organization("kolla").repository("r").push("t", IMAGE)
    async with QuayServer(registry) as server, aiohttp.ClientSession() as session:
        client = Client(session, server, clock)
        url = f"{server.url}/v2/kolla/r/blobs/{BLOB.digest}"
        async with session.get(url, allow_redirects=False) as response:
            client.link = response.headers["Location"]
        yield client


async def test_a_link_gives_the_blob(client: Client) -> None:
    status, body, headers = await client.ask()
    assert (status, body) == (200, BLOB.data)
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Length"] == str(BLOB.size)
    assert headers["ETag"].startswith('"')
    assert "Connection" not in headers


async def test_head_is_answered_without_a_body(client: Client) -> None:
    status, body, headers = await client.ask(method="HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(BLOB.size))


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=100-199", 100, 199),
        ("bytes=100-", 100, BLOB.size - 1),
        ("bytes=-100", BLOB.size - 100, BLOB.size - 1),
        (f"bytes={BLOB.size - 1}-{BLOB.size + 50}", BLOB.size - 1, BLOB.size - 1),
    ],
)
async def test_a_range_is_honoured(client: Client, asked: str, first: int, last: int) -> None:
    status, body, headers = await client.ask(Range=asked)
    assert (status, body) == (206, BLOB.data[first : last + 1])
    assert headers["Content-Range"] == f"bytes {first}-{last}/{BLOB.size}"


@pytest.mark.parametrize("asked", [f"bytes={BLOB.size}-", "bytes=9-5", "bytes=-0"])
async def test_a_range_outside_cannot_be_satisfied(client: Client, asked: str) -> None:
    status, body, headers = await client.ask(Range=asked)
    assert status == 416
    assert headers["Content-Range"] == f"bytes */{BLOB.size}"
    assert b"InvalidRange" in body


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "bytes=-", "lines=1-2", "bytes=x-"])
async def test_a_range_of_another_kind_gives_everything(client: Client, asked: str) -> None:
    assert (await client.ask(Range=asked))[0] == 200


async def test_if_range_decides_whether_the_range_holds(client: Client) -> None:
    _, _, headers = await client.ask(method="HEAD")
    same, other = {"If-Range": headers["ETag"]}, {"If-Range": '"other"'}
    assert (await client.ask(Range="bytes=5-", **same))[0] == 206
    assert (await client.ask(Range="bytes=5-", **other))[0] == 200


async def test_a_link_lives_for_600_seconds(client: Client) -> None:
    client.clock.now += 600
    assert (await client.ask())[0] == 200
    client.clock.now += 1
    status, body, headers = await client.ask()
    assert (status, headers["Content-Type"]) == (403, "application/xml")
    assert b"<Code>AccessDenied</Code>" in body


async def test_a_forged_link_is_refused(client: Client) -> None:
    for forged in (client.link[:-4] + "zzzz", client.link.partition("?")[0], client.link.replace("exp=17", "exp=27")):
        status, body, _ = await client.ask(forged)
        assert status == 403
        assert b"<Code>SignatureDoesNotMatch</Code>" in body


async def test_a_transfer_under_way_outlives_its_link(client: Client) -> None:
    async with client.session.get(client.link) as response:
        client.clock.now += 1000
        assert await response.read() == BLOB.data


async def test_a_blob_missing_from_storage_is_not_found(client: Client) -> None:
    client.server.registry.organization("kolla").delete_repository("r")
    status, body, _ = await client.ask()
    assert status == 404
    assert b"NoSuchKey" in body


async def test_nothing_can_be_written(client: Client) -> None:
    assert (await client.ask(method="PUT"))[0] == 405


async def test_the_link_is_another_origin(client: Client) -> None:
    assert client.link.startswith(client.server.cdn_url)
    assert client.server.cdn_url != client.server.url
