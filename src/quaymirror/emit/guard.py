"""Keep credentials for a target from other hosts.

occystrap sends user name and password to any token service that a registry names, and its token to any address that an
upload is redirected to. A hook in every client it makes prevents both before the request is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from occystrap import util

from ..errors import EmitFailed
from .job import Destination


@contextmanager
def guarded(destination: Destination) -> Iterator[None]:
    """Let clients that occystrap makes in this context send secrets only to `destination` and its realms."""
    make: Callable[..., Any] = util.create_client

    def make_guarded(*arguments: Any, **options: Any) -> Any:
        client, limiter = make(*arguments, **options)
        # Hooks are also called for every redirect, after all headers were added.
        client.event_hooks = {"request": [_Check(destination)]}
        return client, limiter

    util.create_client = make_guarded
    try:
        yield
    finally:
        util.create_client = make


class _Check:
    def __init__(self, destination: Destination) -> None:
        self._scheme = "http" if destination.options.get("insecure") else "https"
        self._host = destination.host.lower().removesuffix(":443" if self._scheme == "https" else ":80")
        self._realms = destination.realms

    def __call__(self, request: Any) -> None:
        """Check a request before it is sent.

        :raises EmitFailed: if it would reveal a password.
        """
        authorization = request.headers.get("Authorization", "")
        to = request.url.netloc.decode().lower()  # without a default port
        is_safe = request.url.scheme in ("https", self._scheme)
        if not authorization or (is_safe and to == self._host):
            return

        if not authorization.lower().startswith("basic "):
            # An upload redirected to a storage, whose address contains its own authorization.
            del request.headers["Authorization"]
        elif not is_safe:
            raise EmitFailed(f"{self._host} asks for credentials over plain HTTP, at {to}, which is blocked")
        elif not {to, request.url.host} & self._realms:
            raise EmitFailed(
                f"{self._host} uses a token service on another host ({to}), which is blocked by default; "
                f"add --allow-realm {to} if you trust it"
            )
