"""Which bodies a thread receives: it depends on their size, and on TLS."""

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
    """A transport that notes which requests were for a thread."""

    def __init__(self) -> None:
        self.threaded: list[bool] = []

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
        self.threaded.append(threaded)
        return Answer()


@pytest.mark.parametrize(
    ("scheme", "size", "expected"),
    [
        ("http", 0, False),
        ("http", MIB - 1, False),
        ("http", MIB, True),
        ("https", 32 * MIB - 1, False),
        ("https", 32 * MIB, True),
    ],
)
async def test_a_thread_receives_what_it_receives_with_less(scheme: str, size: int, expected: bool) -> None:
    transport = Recording()
    client = Client(
        Origin.of(f"{scheme}://registry.example"),
        direct=transport,
        foreign=transport,
        limiters=HostLimiters(),
        retries=RetryPolicy(),
    )
    for threaded_bytes in (1, size):  # the first answer shows that the registry itself sends bodies
        request = Request("/v2/a/blobs/sha256:1", kind="blobs", threaded_bytes=threaded_bytes)
        (await client.send(request)).close(passed=True)

    assert transport.threaded == [False, expected]
