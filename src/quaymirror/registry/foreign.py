"""Layers that are kept elsewhere than their image (OCI image-spec, descriptor.md, "urls").

Whoever wrote the manifest chose the addresses, so nobody vouches for them: they are asked only if the user says so, get
no credentials, reach no private address, and can at worst fail the image that named them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from ..errors import NotFound, QuaymirrorError, Scope, UnsafeRedirect
from ..http.client import Client, Exchange
from ..http.exchange import Request
from ..http.origin import Origin, checked_url, request_target
from ..oci import Descriptor

# More would let one manifest send us to every host there is.
_MAX_URLS = 5


class ForeignLayers:
    """Where the layers of images of `registry` may be besides. `connect` makes a client without credentials of a host.

    Without `connect` they are not fetched, and the error says what would.
    """

    def __init__(self, registry: Origin, connect: Callable[[Origin], Client] | None = None) -> None:
        self._registry = registry
        self._connect = connect

    async def send(self, blob: Descriptor, asked: Request, absent: NotFound) -> Exchange:
        """Ask the places of `blob` until one has it; `absent` is what the registry `asked` said.

        :raises NotFound: `absent` where the blob is nowhere else, or may not be asked for there.
        :raises QuaymirrorError: when none of the places has a usable answer.
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
    where = f"kept at {hosts[:200]}; --allow-foreign-layers would fetch it from there"
    return absent.replace(f"{absent.message}: a foreign layer, {where if urls else 'kept nowhere that may be asked'}")
