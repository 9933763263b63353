"""Everything that talks to the server, connected as the settings say. The stack of each client is written here."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import ConfigError
from ..events import Notice, Observer
from ..net.auth import Fixed, TokenAuth
from ..net.client import Client, Request
from ..net.credentials import CredentialStore
from ..net.gate import Gates
from ..net.guard import AddressGuard
from ..net.origin import Origin
from ..net.pace import Pace
from ..net.secret import Credentials, Secret
from ..net.transport import AiohttpTransport
from ..quay.api import QuayAPI
from ..quay.check import Discovery, TagChecker, make_checker
from ..quay.selection import Selection
from ..registry.pull import RemoteSource
from .settings import Settings

_MAX_TOKEN_ANSWER = 64 * 1024


@dataclass(frozen=True, slots=True)
class Services:
    """The server's two faces: its API and its registry."""

    api: QuayAPI
    source: RemoteSource
    discovery: Discovery = Discovery.AUTO

    def checker(self, selection: Selection) -> TagChecker:
        """Return how to find out what the tag of `selection` means."""
        return make_checker(self.discovery, selection, self.api, self.source)


@asynccontextmanager
async def connect(settings: Settings, observer: Observer) -> AsyncIterator[Services]:
    """Open what is needed to talk to the server of `settings`; connections are made when they are used.

    :raises ConfigError: when a file of certificates makes no sense.
    """
    origin = settings.origin
    guard = AddressGuard()
    tls = _tls(settings.cafile)
    retries = replace(settings.retry, retries=settings.retries)
    gates, bandwidth = _limits(settings, observer)

    def transport(socket_factory: Callable[[tuple[Any, ...]], socket.socket]) -> AiohttpTransport:
        return AiohttpTransport(socket_factory=socket_factory, timeouts=settings.timeouts, tls=tls, pace=bandwidth)

    async with transport(guard.trusted_socket) as direct, transport(guard.guarded_socket) as foreign:

        def client(at: Origin, authorizer: Fixed | TokenAuth) -> Client:
            return Client(
                at,
                direct=direct if at == origin else foreign,
                foreign=foreign,
                gates=gates,
                retries=retries,
                authorizer=authorizer,
                timeouts=settings.timeouts,
                observer=observer,
            )

        async def ask(url: str, authorization: Secret | None) -> bytes:
            parts = urlsplit(url)
            request = Request(f"{parts.path}?{parts.query}", kind="token")
            return await client(Origin.of(url), Fixed(authorization)).fetch_once(
                request, limit=_MAX_TOKEN_ANSWER, parse=lambda _, body: body
            )

        registry = TokenAuth(
            origin,
            ask=ask,
            find_credentials=_finder(settings, origin),
            allowed_realms=settings.allow_realms,
            clock=retries.clock,
        )
        token = settings.api_token
        api = Fixed(Secret(f"Bearer {token.reveal()}") if token is not None else None)
        yield Services(
            api=QuayAPI(client(origin, api), has_token=token is not None),
            source=RemoteSource(client(origin, registry)),
            discovery=settings.discovery,
        )


def _limits(settings: Settings, observer: Observer) -> tuple[Gates, Pace | None]:
    """Return the gates, and the pace of all bytes if there is a limit on them."""
    clock, sleep, total, bandwidth = settings.retry.clock, settings.retry.sleep, None, None
    if settings.max_requests_per_second is not None:
        observer(Notice(f"limited to {settings.max_requests_per_second:g} requests a second"))
        total = Pace(settings.max_requests_per_second, clock=clock, sleep=sleep)

    if settings.limit_rate is not None:
        observer(Notice(f"limited to {settings.limit_rate:,} bytes a second"))
        bandwidth = Pace(settings.limit_rate, clock=clock, sleep=sleep)

    return Gates(observer, total=total, patience=settings.retry.patience, clock=clock, sleep=sleep), bandwidth


def _finder(settings: Settings, origin: Origin) -> Callable[[], Awaitable[Credentials | None]]:
    async def find() -> Credentials | None:
        if settings.credentials is not None:
            return settings.credentials

        store = CredentialStore(authfile=settings.authfile, env=settings.environment)
        found = await store.find(origin.netloc)
        if found is None and settings.api_token is not None:
            # Quay takes its API token here as the password of this user: one credential serves both faces.
            return Credentials("$oauthtoken", settings.api_token)

        return found

    return find


def _tls(cafile: Path | None) -> ssl.SSLContext | None:
    if cafile is None:
        return None

    try:
        return ssl.create_default_context(cafile=cafile)
    except (OSError, ssl.SSLError):
        raise ConfigError(f"{cafile} holds no CA certificates in PEM form") from None
