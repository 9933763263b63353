"""Manifests and blobs from a real registry, served through Quay's API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType

import aiohttp
from multidict import CIMultiDict

from quaymirror.testing.cdn import blob_url
from quaymirror.testing.messages import Answer, Request, nginx_page, redirect
from quaymirror.testing.site import Site

_CHUNK_BYTES = 256 * 1024
_PASSED_ON = ("Accept", "Range", "If-Range")
_PASSED_BACK = ("Content-Type", "Docker-Content-Digest", "Content-Range", "Accept-Ranges", "ETag")


class _Relay:
    """An upstream response's body."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._response.content.iter_chunked(_CHUNK_BYTES)

    def close(self) -> None:
        """Close the connection unless the body was read to its end."""
        self._response.close()


class Upstream:
    """A client of the real registry at *url*, which must ask for no credentials."""

    def __init__(self, site: Site, url: str) -> None:
        self._site = site
        self._url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Upstream:
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def blob_link(self, request: Request, name: str, digest: str) -> Answer:
        """Return the redirect to the CDN for a blob, or upstream's answer if it lacks the blob."""
        path = f"/v2/{name}/blobs/{digest}"
        if (await self.fetch("HEAD", path, request)).status != 200:
            return await self.fetch("GET", path, request)
        headers = {"Docker-Content-Digest": digest, "Cache-Control": "max-age=31536000"}
        return redirect(blob_url(self._site, digest, name)).with_headers(headers)

    async def fetch(self, method: str, path: str, request: Request) -> Answer:
        """Return upstream's answer to *path*, with its body unread; a 502 like nginx's if upstream does not answer."""
        if self._session is None:
            raise RuntimeError("the upstream client isn't open")
        passed = {name: ", ".join(values) for name in _PASSED_ON if (values := request.headers.getall(name, []))}
        passed["Accept-Encoding"] = "identity"
        try:
            response = await self._session.request(method, f"{self._url}{path}", headers=passed)
        except aiohttp.ClientError:
            return nginx_page(502, "Bad Gateway")
        headers = CIMultiDict({name: value for name in _PASSED_BACK if (value := response.headers.get(name))})
        if method == "HEAD":
            response.close()
            return Answer(response.status, headers, b"", response.content_length)
        return Answer(response.status, headers, _Relay(response), response.content_length)
