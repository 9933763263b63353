"""Layers with URLs outside of their registry (OCI image-spec, descriptor.md, "urls").

The author of the manifest chose the URLs, so they are untrusted: they are requested only if the user allows it, get no
credentials, reach no private address, and can only fail the image that names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from ..errors import NotFound, QuaymirrorError, Scope, UnsafeRedirect
from ..http.client import Client, Exchange
from ..http.exchange import Request
from ..http.origin import Origin, checked_url, request_target
from ..oci import Descriptor

# Without a limit, one manifest could send requests to any number of hosts.
_MAX_URLS = 5


class ForeignLayers:
    """The foreign layers of images of `registry`. `connect` returns a client of a host, without credentials.

    Without `connect` they are not fetched, and the error names the option that allows it.
    """

    def __init__(self, registry: Origin, connect: Callable[[Origin], Client] | None = None) -> None:
        self._registry = registry
        self._connect = connect

    async def send(self, blob: Descriptor, asked: Request, absent: NotFound) -> Exchange:
        """Request `blob` from its URLs until one has it; `absent` is the registry's answer to the request `asked`.

        :raises NotFound: `absent`, if the blob has no URLs, or they must not be requested.
        :raises QuaymirrorError: if none of the URLs has a usable answer.
        """
        if not blob.urls:
            raise absent

        urls = [*self._usable(blob)]
        if self._connect is None or not urls:
            raise _explained(absent, urls)

        return await self._first(self._connect, urls, asked)

    def _usable(self, blob: Descriptor) -> Iterator[str]:
        for url in blob.urls[:_MAX_URLS]:
            try:
                if Origin.of(checked_url(url)).is_secure or not self._registry.is_secure:
                    yield url
            except ValueError:
                continue

    async def _first(self, connect: Callable[[Origin], Client], urls: list[str], asked: Request) -> Exchange:
        errors: list[QuaymirrorError] = []
        for url in urls:
            request = replace(
                asked, path=request_target(url), scope=None, name=f"{Origin.of(url).netloc} (for a foreign layer)"
            )
            try:
                return await connect(Origin.of(url)).send(request)
            except QuaymirrorError as error:
                errors.append(error)

        raise _harmless(next((error for error in errors if error.scope is Scope.ATTEMPT), errors[-1]))


def _harmless(error: QuaymirrorError) -> QuaymirrorError:
    """Return `error` so that a host named by an image can't end the run."""
    scope = Scope.IMAGE if error.scope is Scope.RUN else error.scope
    message = f"a foreign layer: {error.message}" if isinstance(error, UnsafeRedirect) else error.message
    return error.replace(message, scope=scope)


def _explained(absent: NotFound, urls: list[str]) -> NotFound:
    hosts = ", ".join(dict.fromkeys(Origin.of(url).netloc for url in urls))
    where = f"at {hosts[:200]}: add --allow-foreign-layers to fetch it from there"
    return absent.replace(f"{absent.message}: a foreign layer {where if urls else 'without a usable URL'}")
