"""Everything that talks to the server, connected as the settings say. The stack of each client is written here."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import ConfigError
from ..events import Observer
from ..net.auth import Fixed, TokenAuth
from ..net.client import Client, Request
from ..net.credentials import CredentialStore
from ..net.gate import Gate
from ..net.guard import AddressGuard
from ..net.origin import Origin
from ..net.retry import RetryPolicy
from ..net.secret import Credentials, Secret
from ..net.transport import AiohttpTransport
from ..quay.api import QuayAPI
from ..registry.pull import RemoteSource
from .settings import Settings

_MAX_TOKEN_ANSWER = 64 * 1024

# Where a gate's window starts, and how far it may grow. Quay allows few API calls a second, many manifests.
_WINDOWS = {"api": (4, 16), "token": (4, 8), "manifests": (16, 64), "blobs": (32, 1024)}


@dataclass(frozen=True, slots=True)
class Services:
    """The server's two faces: its API and its registry."""

    api: QuayAPI
    source: RemoteSource


class Gates:
    """The gate of each host and kind of endpoint, made when it is first asked for."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._gates: dict[tuple[str, str], Gate] = {}

    def __call__(self, host: str, kind: str) -> Gate:
        """Return the gate for `kind` of endpoints at `host`."""
        key = (host, kind)
        if key not in self._gates:
            start, most = _WINDOWS[kind]
            name = urlsplit(host).netloc
            self._gates[key] = Gate(f"{name} ({kind})", start=start, most=most, observer=self._observer)

        return self._gates[key]


@asynccontextmanager
async def connect(settings: Settings, observer: Observer) -> AsyncIterator[Services]:
    """Open what is needed to talk to the server of `settings`; connections are made when they are used.

    :raises ConfigError: when a file of certificates makes no sense.
    """
    origin = settings.origin
    guard = AddressGuard()
    tls = _tls(settings.cafile)
    async with (
        AiohttpTransport(socket_factory=guard.trusted_socket, tls=tls) as direct,
        AiohttpTransport(socket_factory=guard.guarded_socket, tls=tls) as foreign,
    ):
        gates = Gates(observer)
        retries = RetryPolicy(retries=settings.retries)

        def client(at: Origin, authorizer: Fixed | TokenAuth) -> Client:
            return Client(
                at,
                direct=direct if at == origin else foreign,
                foreign=foreign,
                gates=gates,
                retries=retries,
                authorizer=authorizer,
                observer=observer,
            )

        async def ask(url: str, authorization: Secret | None) -> bytes:
            parts = urlsplit(url)
            request = Request(f"{parts.path}?{parts.query}", kind="token")
            return await client(Origin.of(url), Fixed(authorization)).fetch_once(
                request, limit=_MAX_TOKEN_ANSWER, parse=lambda _, body: body
            )

        registry = TokenAuth(
            origin, ask=ask, find_credentials=_finder(settings, origin), allowed_realms=settings.allow_realms
        )
        token = settings.api_token
        api = Fixed(Secret(f"Bearer {token.reveal()}") if token is not None else None)
        yield Services(
            api=QuayAPI(client(origin, api), has_token=token is not None),
            source=RemoteSource(client(origin, registry)),
        )


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
