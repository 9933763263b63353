"""Keep credentials for a target from other hosts.

occystrap sends user name and password to any token service that a registry names, and its token to any address that an
upload is redirected to. A hook in every client it makes prevents both before the request is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
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
        client.event_hooks = {"request": [partial(_check, destination)]}
        return client, limiter

    util.create_client = make_guarded
    try:
        yield
    finally:
        util.create_client = make


def _check(destination: Destination, request: Any) -> None:
    """Refuse a request that would reveal a password."""
    scheme = "http" if destination.options.get("insecure") else "https"
    host = destination.host.lower().removesuffix(":443" if scheme == "https" else ":80")
    authorization = request.headers.get("Authorization", "")
    to = request.url.netloc.decode().lower()  # without a default port
    is_safe = request.url.scheme in ("https", scheme)
    if not authorization or (is_safe and to == host):
        return

    if not authorization.lower().startswith("basic "):
        # An upload redirected to a storage, whose address contains its own authorization.
        del request.headers["Authorization"]
    elif not is_safe:
        raise EmitFailed(f"{host} asks for credentials over plain HTTP, at {to}, which is blocked")
    elif not {to, request.url.host} & destination.realms:
        raise EmitFailed(
            f"{host} uses a token service on another host ({to}), which is blocked by default; "
            f"add --allow-realm {to} if you trust it"
        )
