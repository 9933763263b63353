"""Which bodies a thread receives: it depends on their size, on the distance of the host, and on TLS."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping

import pytest

from quaymirror.http.client import Client
from quaymirror.http.exchange import Request, Response
from quaymirror.http.limiter import HostLimiters
from quaymirror.http.origin import Origin
from quaymirror.http.retry import RetryPolicy

MIB = 1024 * 1024


class Answer:
    """An empty answer, with status 200."""

    status = 200
    headers: Mapping[str, str] = {}
    name = url = "https://registry.example/"
    held = 0.0
    threaded = None
    has_arrived = True

    def all_headers(self, name: str) -> list[str]:
        return []

    def close(self) -> None:
        pass

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b""

    async def read(self, limit: int) -> bytes:
        return b""


class Recording:
    """A transport to a host whose answers take `latency` seconds; it notes which requests were for a thread."""

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.now = 0.0
        self.threaded: list[bool] = []

    def clock(self) -> float:
        return self.now

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | AsyncIterable[bytes] | None = None,
        *,
        name: str = "",
        fresh: bool = False,
    ) -> Response:
        return self._answer(threaded=False)

    async def send_large(
        self, url: str, headers: Mapping[str, str], *, name: str = "", fresh: bool = False
    ) -> Response:
        return self._answer(threaded=True)

    def _answer(self, *, threaded: bool) -> Response:
        self.now += self.latency
        self.threaded.append(threaded)
        return Answer()


@pytest.mark.parametrize(
    ("scheme", "latency", "size", "expected"),
    [
        ("http", 0.001, MIB - 1, False),
        ("http", 0.001, MIB, True),
        ("http", 0.1, 64 * 1024 - 1, False),
        ("http", 0.1, 64 * 1024, True),
        ("https", 0.001, 64 * 1024 - 1, False),
        ("https", 0.001, 64 * 1024, True),
        ("http", 0.001, 0, False),
    ],
)
async def test_a_thread_receives_what_it_receives_with_less(
    scheme: str, latency: float, size: int, expected: bool
) -> None:
    transport = Recording(latency)
    client = Client(
        Origin.of(f"{scheme}://registry.example"),
        direct=transport,
        foreign=transport,
        limiters=HostLimiters(),
        retries=RetryPolicy(clock=transport.clock),
    )
    known = Request("/v2/a/blobs/sha256:0", kind="blobs")
    for _ in range(8):  # so that the distance is known, and that the registry itself sends bodies
        (await client.send(known)).close(passed=True)

    learning = Request("/v2/a/blobs/sha256:1", kind="blobs", threaded_bytes=1)
    (await client.send(learning)).close(passed=True)
    (await client.send(Request("/v2/a/blobs/sha256:2", kind="blobs", threaded_bytes=size))).close(passed=True)

    assert transport.threaded == [*[False] * 9, expected]
