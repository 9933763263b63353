"""Which requests of a client are for large bodies."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping

from quaymirror.http.client import Client
from quaymirror.http.exchange import Request, Response
from quaymirror.http.limiter import HostLimiters
from quaymirror.http.origin import Origin
from quaymirror.http.retry import RetryPolicy


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
    """A transport that notes the sizes of large bodies, and which of them go to a file."""

    def __init__(self) -> None:
        self.large: list[tuple[int, bool]] = []

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
        return Answer()

    async def send_large(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        size: int,
        to_file: bool = False,
        name: str = "",
        fresh: bool = False,
    ) -> Response:
        self.large.append((size, to_file))
        return Answer()


async def test_a_registry_that_sends_bodies_itself_is_asked_for_large_ones() -> None:
    transport = Recording()
    client = Client(
        Origin.of("https://registry.example"),
        direct=transport,
        foreign=transport,
        limiters=HostLimiters(),
        retries=RetryPolicy(),
    )
    for size in (0, 1, 5000):  # the answer to the second one shows that the registry itself sends bodies
        request = Request("/v2/a/blobs/sha256:1", kind="blobs", threaded_bytes=size, to_file=True)
        (await client.send(request)).close(passed=True)

    assert transport.large == [(5000, True)]
