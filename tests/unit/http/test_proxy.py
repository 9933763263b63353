"""Which proxy the environment means for a URL."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import anyio.lowlevel
import pytest
from aiohttp import web

from quaymirror.errors import ConfigError, ConnectFailed
from quaymirror.http.guard import AddressGuard
from quaymirror.http.proxy import Proxies
from quaymirror.http.transport import AiohttpTransport

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("env", "url", "proxy"),
    [
        ({}, "https://quay.io/v2/", None),
        ({"HTTPS_PROXY": PROXY}, "https://quay.io/v2/", PROXY),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, "https://quay.io/v2/", PROXY),
        ({"HTTPS_PROXY": PROXY}, "http://quay.io/v2/", None),
        ({"ALL_PROXY": PROXY}, "http://quay.io/v2/", PROXY),
        ({"HTTPS_PROXY": "proxy.example:3128"}, "https://quay.io/", PROXY),
        ({"ALL_PROXY": PROXY}, "http://127.0.0.1:5000/", None),
        ({"ALL_PROXY": PROXY}, "http://[::1]:5000/", None),
        ({"ALL_PROXY": PROXY}, "http://localhost:5000/", None),
        ({"ALL_PROXY": PROXY, "NO_PROXY": "*"}, "https://quay.io/", None),
        ({"ALL_PROXY": PROXY, "NO_PROXY": "a.example, quay.io"}, "https://quay.io/", None),
        ({"ALL_PROXY": PROXY, "NO_PROXY": "quay.io"}, "https://cdn.quay.io/", None),
        ({"ALL_PROXY": PROXY, "NO_PROXY": ".quay.io"}, "https://cdn.quay.io/", None),
        ({"ALL_PROXY": PROXY, "NO_PROXY": "quay.io"}, "https://notquay.io/", PROXY),
        ({"ALL_PROXY": PROXY, "no_proxy": "quay.io:8443"}, "https://quay.io/", PROXY),
        ({"ALL_PROXY": PROXY, "no_proxy": "quay.io:8443"}, "https://quay.io:8443/", None),
        ({"ALL_PROXY": PROXY, "no_proxy": "10.0.0.0/8"}, "https://10.1.2.3/", None),
        ({"ALL_PROXY": PROXY, "no_proxy": "10.0.0.0/8,nonsense/99"}, "https://11.1.2.3/", PROXY),
    ],
)
def test_the_environment_names_the_proxy(env: dict[str, str], url: str, proxy: str | None) -> None:
    assert Proxies.of(env).find(url) == proxy


@pytest.mark.parametrize("text", ["socks5://proxy:1080", "https://", "http://[", "ftp://x"])
def test_a_proxy_of_another_kind_is_refused_and_its_password_not_told(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Proxies.of({"HTTPS_PROXY": text.replace("://", "://user:hunter2@")})

    assert "hunter2" not in caught.value.message


def test_a_proxys_password_is_in_no_representation() -> None:
    assert "hunter2" not in repr(Proxies.of({"HTTPS_PROXY": "http://user:hunter2@proxy.example:1"}))


async def test_requests_go_through_the_proxy_although_its_address_is_private() -> None:
    asked: list[tuple[str, str, str]] = []

    async def relay(request: web.BaseRequest) -> web.Response:
        asked.append((request.method, str(request.raw_path), request.headers.get("Proxy-Authorization", "")))
        return web.Response(status=407 if "refused" in request.host else 200, text="through")

    runner = web.ServerRunner(web.Server(relay, access_log=None), shutdown_timeout=0.02)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    proxies = Proxies.of({"HTTP_PROXY": f"http://user:hunter2@127.0.0.1:{port}"})
    guard = AddressGuard()
    async with AiohttpTransport(socket_factory=guard.guarded_socket, find_proxy=proxies.find) as transport:
        with closing(await transport.send("GET", "http://registry.example/v2/", {})) as response:
            assert await response.read(100) == b"through"

    await runner.cleanup()
    for _turn in range(3):
        await anyio.lowlevel.checkpoint()

    assert [(method, path) for method, path, _ in asked] == [("GET", "http://registry.example/v2/")]
    assert asked[0][2].startswith("Basic ")


async def test_a_proxy_that_is_not_there_is_called_a_proxy(tmp_path: Path) -> None:
    proxies = Proxies.of({"HTTPS_PROXY": "http://user:hunter2@127.0.0.1:1"})
    async with AiohttpTransport(socket_factory=AddressGuard().trusted_socket, find_proxy=proxies.find) as transport:
        with pytest.raises(ConnectFailed, match="proxy") as caught:
            await transport.send("GET", "https://registry.example/v2/", {})

    assert "hunter2" not in caught.value.message
