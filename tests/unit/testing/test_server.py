from __future__ import annotations

import asyncio
import ssl
import time

import aiohttp
import pytest
import trustme

import quaymirror.testing
from quaymirror.testing import (
    QUAY_NGINX_HTTP1,
    CutBody,
    Fault,
    QuayServer,
    Registry,
    RequestRecord,
    make_image,
    make_layer,
)

IMAGE = make_image([make_layer(1, 600_000)])
BLOB = IMAGE.blobs[1]
EVERY_TYPE = "application/vnd.oci.image.manifest.v1+json"


def registry_with_an_image() -> Registry:
    registry = Registry()
    registry.organization("kolla").repository("r").push("t", IMAGE)
    return registry


async def fetch(session: aiohttp.ClientSession, url: str, **headers: str) -> tuple[int, bytes]:
    async with session.get(url, headers=headers) as response:
        return response.status, await response.read()


async def fetch_blob(session: aiohttp.ClientSession, server: QuayServer, **headers: str) -> tuple[int, bytes]:
    return await fetch(session, f"{server.url}/v2/kolla/r/blobs/{BLOB.digest}", **headers)


def test_the_public_names_are_sorted_and_there() -> None:
    names = quaymirror.testing.__all__
    assert len(names) == len(set(names))
    assert all(hasattr(quaymirror.testing, name) for name in names)


async def test_every_request_is_recorded_in_order() -> None:
    seen: list[RequestRecord] = []
    async with (
        QuayServer(registry_with_an_image(), on_request=seen.append) as server,
        aiohttp.ClientSession() as session,
    ):
        await fetch(session, f"{server.url}/api/v1/repository?namespace=kolla&public=true", **{"X-Mark": "1"})
        await fetch_blob(session, server, Range="bytes=100-199")
        first, second, third = server.requests

    assert seen == [first, second, third]
    assert (first.listener, first.method, first.path, first.query, first.status, first.order) == (
        "quay",
        "GET",
        "/api/v1/repository",
        "namespace=kolla&public=true",
        200,
        0,
    )
    assert first.headers["x-mark"] == "1"
    assert first.body_bytes_sent > 100
    assert (second.status, third.status) == (302, 206)
    assert (third.listener, third.body_bytes_sent) == ("cdn", 100)
    assert third.peer != second.peer


async def test_records_are_counted_and_forgotten() -> None:
    async with QuayServer(registry_with_an_image()) as server, aiohttp.ClientSession() as session:
        await fetch_blob(session, server)
        await fetch(session, f"{server.url}/v2/")
        assert server.count("/blobs/") == 1
        assert server.count("blob") == 2
        assert server.count("blob", listener="cdn", method="GET") == 1
        assert server.count("", method="POST") == 0
        assert server.blob_bytes() == BLOB.size
        assert server.peak_in_flight == 1
        server.reset_records()
        assert server.requests == []
        assert server.blob_bytes() == 0


async def test_several_servers_run_side_by_side() -> None:
    registry = registry_with_an_image()
    async with QuayServer(registry) as one, QuayServer(registry) as two, aiohttp.ClientSession() as session:
        assert len({one.url, one.cdn_url, two.url, two.cdn_url}) == 4
        await fetch(session, f"{one.url}/v2/")
        assert (len(one.requests), len(two.requests)) == (1, 0)


async def test_limits_answer_with_nginxs_page() -> None:
    options = {"limits": QUAY_NGINX_HTTP1, "monotonic": lambda: 0.0}
    async with QuayServer(Registry(), **options) as server, aiohttp.ClientSession() as session:  # type: ignore[arg-type]
        url = f"{server.url}/api/v1/repository?namespace=kolla"
        replies = [await fetch(session, url) for _ in range(30)]
    assert [status for status, _ in replies] == [200] * 26 + [429] * 4
    assert len(replies[-1][1]) == 162


async def test_latency_delays_every_answer() -> None:
    async with QuayServer(Registry(), latency=0.05) as server, aiohttp.ClientSession() as session:
        start = time.monotonic()
        await fetch(session, f"{server.url}/v2/")
        assert time.monotonic() - start >= 0.05


async def test_bandwidth_limits_the_cdn() -> None:
    registry = registry_with_an_image()
    async with QuayServer(registry, bandwidth=6_000_000) as server, aiohttp.ClientSession() as session:
        start = time.monotonic()
        assert await fetch_blob(session, server) == (200, BLOB.data)
        assert time.monotonic() - start >= 0.08


async def test_connections_are_kept_open_if_so_wished() -> None:
    async with QuayServer(Registry(), close_connections=False) as server, aiohttp.ClientSession() as session:
        for _ in range(2):
            await fetch(session, f"{server.url}/api/v1/repository?public=true")
        assert server.requests[0].peer == server.requests[1].peer


async def test_manifests_keep_their_connection_and_api_answers_do_not() -> None:
    async with QuayServer(registry_with_an_image()) as server, aiohttp.ClientSession() as session:
        for path in ("/v2/kolla/r/manifests/t", "/v2/kolla/r/manifests/t", "/api/v1/user/", "/api/v1/user/"):
            await fetch(session, server.url + path)
        peers = [record.peer for record in server.requests]
    assert peers[0] == peers[1] == peers[2]
    assert peers[3] != peers[2]


async def test_the_registry_may_change_while_the_server_runs() -> None:
    registry = registry_with_an_image()
    async with QuayServer(registry) as server, aiohttp.ClientSession() as session:
        url = f"{server.url}/v2/kolla/r/manifests/new"
        assert (await fetch(session, url))[0] == 404
        registry.organization("kolla").repository("r").push("new", IMAGE)
        assert await fetch(session, url, Accept=EVERY_TYPE) == (200, IMAGE.raw)


async def test_an_outage_ends_on_the_same_ports() -> None:
    async with QuayServer(registry_with_an_image()) as server, aiohttp.ClientSession() as session:
        url = server.url
        await fetch(session, f"{url}/v2/")
        await server.close()
        with pytest.raises(aiohttp.ClientConnectionError):
            await fetch(session, f"{url}/v2/")
        await server.open()
        assert server.url == url
        assert (await fetch(session, f"{url}/v2/"))[0] == 401
        assert (await fetch_blob(session, server))[0] == 200


async def test_clients_that_are_still_reading_do_not_hinder_closing() -> None:
    registry = Registry()
    large = make_image([make_layer(2, 30_000_000)])
    registry.organization("kolla").repository("r").push("t", large)
    async with aiohttp.ClientSession(read_bufsize=1024) as session:
        async with QuayServer(registry) as server:
            response = await session.get(f"{server.url}/v2/kolla/r/blobs/{large.blobs[1].digest}")
            reader, writer = await asyncio.open_connection("127.0.0.1", int(server.host.rpartition(":")[2]))
        with pytest.raises(aiohttp.ClientError):
            await response.read()
        response.close()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_both_listeners_speak_tls() -> None:
    authority = trustme.CA()
    context, trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(trust)
    connector = aiohttp.TCPConnector(ssl=trust)
    async with (
        QuayServer(registry_with_an_image(), tls=context) as server,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        assert server.url.startswith("https://")
        assert server.cdn_url.startswith("https://")
        assert await fetch_blob(session, server) == (200, BLOB.data)


@pytest.mark.parametrize("redirect_blobs", [True, False])
async def test_content_can_come_from_a_registry_upstream(redirect_blobs: bool) -> None:
    real = registry_with_an_image()
    listed = Registry()
    listed.organization("kolla").repository("r")
    async with (
        QuayServer(real, redirect_blobs=False) as upstream,
        QuayServer(listed, upstream=upstream.url, redirect_blobs=redirect_blobs) as server,
        aiohttp.ClientSession() as session,
    ):
        manifest = f"{server.url}/v2/kolla/r/manifests/t"
        assert await fetch(session, manifest, Accept=EVERY_TYPE) == (200, IMAGE.raw)
        assert await fetch_blob(session, server) == (200, BLOB.data)
        assert (await fetch(session, f"{server.url}/v2/kolla/r/blobs/sha256:00"))[0] == 404
        assert (await fetch(session, f"{server.url}/v2/kolla/nope/manifests/t"))[0] == 401
        async with session.head(f"{server.url}/v2/kolla/r/blobs/{BLOB.digest}") as response:
            assert response.headers["Content-Length"] == str(BLOB.size)
        assert server.blob_bytes() == BLOB.size
        assert (await fetch(session, f"{server.url}/v2/kolla/r/tags/list"))[0] == 200


async def test_an_upstream_that_is_down_is_a_bad_gateway() -> None:
    registry = registry_with_an_image()
    async with QuayServer(Registry()) as gone:
        url = gone.url
    async with QuayServer(registry, upstream=url) as server, aiohttp.ClientSession() as session:
        assert (await fetch(session, f"{server.url}/v2/kolla/r/manifests/t"))[0] == 502
        assert (await fetch_blob(session, server))[0] == 502


async def test_an_upstream_that_breaks_off_breaks_the_transfer() -> None:
    registry = registry_with_an_image()
    async with (
        QuayServer(registry, redirect_blobs=False) as upstream,
        QuayServer(registry, upstream=upstream.url) as server,
        aiohttp.ClientSession() as session,
    ):
        upstream.faults.append(Fault("/blobs/", CutBody(300_000), method="GET"))
        with pytest.raises(aiohttp.ClientPayloadError):
            await fetch_blob(session, server)


def test_a_server_shows_its_state() -> None:
    assert repr(QuayServer(Registry())) == "<QuayServer not started 0 requests, 0 faults>"
