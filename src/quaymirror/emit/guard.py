"""Credentials for a target stay with it, whatever it answers.

occystrap sends user name and password to any token service that a registry names, and its token to any address that an
upload is sent on to. Both end here, in every client it makes, before the request is on its way.
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
    """Let clients that occystrap makes in this context send what is secret to `destination` and its realms only."""
    make: Callable[..., Any] = util.create_client

    def make_guarded(*arguments: Any, **options: Any) -> Any:
        client, limiter = make(*arguments, **options)
        # Hooks are called for every redirect, too, and after everything that adds a header.
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
        """Look at a request that is about to be sent.

        :raises EmitFailed: when it would give a password away.
        """
        authorization = request.headers.get("Authorization", "")
        to = request.url.netloc.decode().lower()  # without a default port
        is_safe = request.url.scheme in ("https", self._scheme)
        if not authorization or (is_safe and to == self._host):
            return

        if not authorization.lower().startswith("basic "):
            # An upload that goes on to some storage: that one's address holds what it wants to know.
            del request.headers["Authorization"]
        elif not is_safe:
            raise EmitFailed(f"{self._host} asks for credentials over plain HTTP, at {to}: refused")
        elif not {to, request.url.host} & self._realms:
            raise EmitFailed(
                f"{self._host} sends us to the token service of another host, {to}: refused; "
                f"--allow-realm {to} would trust it"
            )
