from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from quaymirror.testing import (
    Action,
    Call,
    CorruptBody,
    CutBody,
    Delay,
    DribbleBody,
    ExtraHeaders,
    Fault,
    IgnoreRange,
    QuayServer,
    Raw,
    Redirect,
    Registry,
    ReplaceBody,
    Reset,
    ShortBody,
    Stall,
    Status,
    WrongContentRange,
    bad_gateway,
    make_image,
    make_layer,
    too_many_requests,
)

IMAGE = make_image([make_layer(1, 600_000)])
BLOB = IMAGE.blobs[1]
PING = "/v2/"


class Client:
    """A session bound to a server with one blob."""

    def __init__(self, session: aiohttp.ClientSession, server: QuayServer) -> None:
        self.session = session
        self.server = server

    def provoke(self, action: Action, path: str = "/blob/") -> Fault:
        fault = Fault(path, action)
        self.server.faults[:] = [fault]
        return fault

    def blob(self, **headers: str) -> aiohttp.client._RequestContextManager:
        return self.session.get(f"{self.server.url}/v2/kolla/r/blobs/{BLOB.digest}", headers=headers)

    async def read(self, **headers: str) -> tuple[int, bytes]:
        async with self.blob(**headers) as response:
            return response.status, await response.read()

    async def status(self, path: str = PING) -> int:
        async with self.session.get(self.server.url + path) as response:
            return response.status


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    registry = Registry()
    registry.organization("kolla").repository("r").push("t", IMAGE)
    async with QuayServer(registry) as server, aiohttp.ClientSession() as session:
        yield Client(session, server)


async def test_a_status_replaces_the_answer(client: Client) -> None:
    client.provoke(Status(503, {"Retry-After": "7"}, b"later"))
    async with client.blob() as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "7")
        assert await response.read() == b"later"


async def test_too_many_requests_is_nginxs_page(client: Client) -> None:
    client.provoke(too_many_requests(), PING)
    async with client.session.get(client.server.url + PING) as response:
        page = await response.text()
        assert response.status == 429
        assert response.content_type == "text/html"
        assert response.headers["Content-Length"] == "162"
        assert "Retry-After" not in response.headers
        assert page.startswith("<html>\r\n<head><title>429 Too Many Requests</title></head>\r\n")


async def test_too_many_requests_can_say_when_to_come_back(client: Client) -> None:
    client.provoke(too_many_requests("120"), PING)
    async with client.session.get(client.server.url + PING) as response:
        assert response.headers["Retry-After"] == "120"
    client.provoke(bad_gateway(), PING)
    assert await client.status() == 502


@pytest.mark.parametrize("after", [0, 1000, 300_000])
async def test_a_cut_body_has_its_true_length_and_then_ends(client: Client, after: int) -> None:
    client.provoke(CutBody(after))
    async with client.blob() as response:
        assert response.headers["Content-Length"] == str(BLOB.size)
        assert await response.content.readexactly(after) == BLOB.data[:after]
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()
    assert client.server.blob_bytes() == after


async def test_a_short_body_looks_complete(client: Client) -> None:
    client.provoke(ShortBody(5000))
    async with client.blob() as response:
        assert "Content-Length" not in response.headers
        assert "Transfer-Encoding" not in response.headers
        assert await response.read() == BLOB.data[:5000]
    assert client.server.blob_bytes() == 5000


async def test_a_stalled_body_waits_until_the_client_leaves(client: Client) -> None:
    client.provoke(Stall(1000))
    async with client.blob() as response:
        assert await response.content.readexactly(1000) == BLOB.data[:1000]
        assert response.content.is_eof() is False
    record = client.server.requests[-1]
    assert (record.body_bytes_sent, record.is_finished) == (1000, False)


async def test_a_stall_can_end_by_itself(client: Client) -> None:
    client.provoke(Stall(1000, seconds=0.001))
    assert await client.read() == (200, BLOB.data)


async def test_a_stalled_answer_does_not_keep_the_server_from_closing() -> None:
    registry = Registry()
    registry.organization("kolla").repository("r").push("t", IMAGE)
    async with aiohttp.ClientSession() as session:
        async with QuayServer(registry) as server:
            client = Client(session, server)
            client.provoke(Stall())
            response = await client.blob()
        with pytest.raises(aiohttp.ClientError):
            await response.read()
        response.close()


async def test_a_reset_sends_nothing(client: Client) -> None:
    client.provoke(Reset(), PING)
    with pytest.raises(aiohttp.ClientOSError) as raised:
        await client.session.post(client.server.url + PING)
    assert raised.value.errno == 104
    assert client.server.requests[-1].status is None


async def test_a_corrupt_body_has_one_bit_flipped(client: Client) -> None:
    client.provoke(CorruptBody(-1))
    _, body = await client.read()
    assert body[:-1] == BLOB.data[:-1]
    assert body[-1] == BLOB.data[-1] ^ 1


async def test_an_empty_body_cannot_be_corrupted(client: Client) -> None:
    client.provoke(CorruptBody(), PING)
    async with client.session.head(client.server.url + PING) as response:
        assert response.status == 401


async def test_a_body_can_be_replaced(client: Client) -> None:
    client.provoke(ReplaceBody(b"<html>", "text/html"))
    async with client.blob() as response:
        assert (response.status, response.content_type) == (200, "text/html")
        assert await response.read() == b"<html>"


async def test_extra_headers_replace_and_may_repeat(client: Client) -> None:
    client.provoke(ExtraHeaders([("ETag", '"x"'), ("X-Two", "1"), ("X-Two", "2")]))
    async with client.blob() as response:
        assert response.headers.getall("ETag") == ['"x"']
        assert response.headers.getall("X-Two") == ["1", "2"]


async def test_a_redirect_goes_anywhere(client: Client) -> None:
    client.provoke(Redirect("http://192.0.2.1/", 307))
    async with client.session.get(client.server.cdn_url + "/blob/", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (307, "http://192.0.2.1/")


async def test_raw_bytes_go_out_as_they_are(client: Client) -> None:
    client.provoke(Raw(b"HTTP/1.1 banana\r\n\r\n"), PING)
    with pytest.raises(aiohttp.ClientResponseError):
        await client.status()


async def test_a_delay_and_a_dribble_change_no_byte(client: Client) -> None:
    client.server.faults[:] = [Fault("/blob/", Delay(0.001)), Fault("/blob/", DribbleBody(200_000, 0.001))]
    assert await client.read() == (200, BLOB.data)


async def test_a_range_can_be_ignored(client: Client) -> None:
    client.provoke(IgnoreRange())
    assert await client.read(Range="bytes=100-") == (200, BLOB.data)


@pytest.mark.parametrize("value", ["bytes 0-9/10", None])
async def test_a_content_range_can_lie(client: Client, value: str | None) -> None:
    client.provoke(WrongContentRange(value))
    async with client.blob(Range="bytes=100-") as response:
        assert (response.status, response.headers.get("Content-Range")) == (206, value)
    async with client.blob() as response:
        assert (response.status, response.headers.get("Content-Range")) == (200, None)


async def test_a_function_may_answer_or_leave_it(client: Client) -> None:
    def teapot(request: web.BaseRequest) -> web.StreamResponse | None:
        return web.Response(status=418, body=b"tea") if request.path == PING else None

    client.provoke(Call(teapot), "/v2/")
    assert await client.status() == 418
    assert client.server.requests[-1].body_bytes_sent == 3
    assert (await client.read())[0] == 200


async def test_faults_add_up_in_their_order(client: Client) -> None:
    client.server.faults[:] = [
        Fault("/blob/", Status(500, body=b"0123456789")),
        Fault("/blob/", ExtraHeaders({"X-Mark": "yes"})),
        Fault("/blob/", CutBody(4)),
    ]
    async with client.blob() as response:
        assert (response.status, response.headers["X-Mark"]) == (500, "yes")
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_a_fault_takes_the_nth_matching_request(client: Client) -> None:
    client.server.faults[:] = [Fault("^/v2/$", Status(500), nth=2), Fault("^/v2/$", Status(503), nth=[4, 5])]
    assert [await client.status() for _ in range(6)] == [401, 500, 401, 503, 503, 401]


async def test_a_fault_stops_after_so_many_times(client: Client) -> None:
    fault = Fault("^/v2/$", Status(500), times=2)
    client.server.faults.append(fault)
    assert [await client.status() for _ in range(4)] == [500, 500, 401, 401]
    assert (fault.matched, fault.fired) == (4, 2)


async def test_a_fault_looks_at_method_listener_and_query(client: Client) -> None:
    client.server.faults[:] = [
        Fault("", Status(500), method="POST"),
        Fault("", Status(500), listener="cdn"),
        Fault("", Status(500), query="page=2"),
    ]
    assert [await client.status(path) for path in ("/v2/", "/v2/?page=1", "/v2/?page=2")] == [401, 401, 500]


async def test_chance_is_the_same_for_the_same_seed() -> None:
    async def outcomes(seed: int) -> list[int]:
        async with QuayServer(Registry(), seed=seed) as server, aiohttp.ClientSession() as session:
            server.faults.append(Fault("^/v2/$", Status(500), probability=0.5))
            client = Client(session, server)
            return [await client.status() for _ in range(20)]

    first = await outcomes(1)
    assert first == await outcomes(1)
    assert {401, 500} == set(first)
    assert random.Random(1).random() < 0.5
    assert first[0] == 500


async def test_a_client_that_leaves_during_a_delay_leaves_no_status(client: Client) -> None:
    client.provoke(Delay(3600), PING)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.status()
    assert client.server.requests[-1].status is None


@pytest.mark.parametrize("action", [CutBody(10), ShortBody(10), Reset(), Raw(b"x"), Stall(10), Delay(3600)])
async def test_a_fault_leaves_nothing_in_the_log(
    client: Client, action: Action, caplog: pytest.LogCaptureFixture
) -> None:
    client.provoke(action)
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(0.05):
            await client.read()
    await client.server.close()
    assert caplog.records == []
