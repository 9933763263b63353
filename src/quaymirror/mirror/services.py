"""Everything that talks to the server, connected as the settings say. The stack of each client is written here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from ..errors import Side, UnsafeRedirect
from ..events import Observer
from ..net.auth import Authorizer, Fixed, TokenAuth
from ..net.client import Client, Request
from ..net.credentials import CredentialStore
from ..net.gate import Gate
from ..net.guard import AddressGuard
from ..net.origin import Origin
from ..net.proxy import Proxies
from ..net.retry import RetryPolicy
from ..net.secret import Credentials, Secret
from ..net.tls import Trust, certificate_directory, tls_context
from ..net.transport import AiohttpTransport, Transport
from ..quay.api import QuayAPI
from ..registry.pull import RemoteSource
from .settings import Settings

_MAX_TOKEN_ANSWER = 64 * 1024

# Where a gate's window starts, and how far it may grow. Quay allows few API calls a second, many manifests.
_WINDOWS = {"api": (4, 16), "token": (4, 8), "manifests": (16, 64), "blobs": (32, 1024), "uploads": (32, 1024)}


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


@dataclass(frozen=True, slots=True)
class _Stack:
    """What the clients of one server share, its token service included."""

    origin: Origin
    direct: Transport
    foreign: Transport
    gates: Gates
    settings: Settings
    observer: Observer
    side: Side

    def client(self, at: Origin, authorizer: Authorizer) -> Client:
        """Return a client of `at`: anywhere but at the origin it goes only where servers may send us."""
        return Client(
            at,
            direct=self.direct if at == self.origin else self.foreign,
            foreign=self.foreign,
            gates=self.gates,
            retries=RetryPolicy(retries=self.settings.retries),
            authorizer=authorizer,
            observer=self.observer,
            side=self.side,
        )

    def registry(self, credentials: Credentials | None, namespace: str) -> Client:
        """Return a client of the registry, with `credentials` or else those that the user keeps for `namespace`."""
        authorizer = TokenAuth(
            self.origin,
            ask=self._ask_for_token,
            find_credentials=partial(_find_credentials, self.settings, self.origin, credentials, namespace),
            allowed_realms=self.settings.allow_realms,
        )
        return self.client(self.origin, authorizer)

    async def _ask_for_token(self, url: str, authorization: Secret | None) -> bytes:
        parts = urlsplit(url)
        request = Request(f"{parts.path}?{parts.query}", kind="token")
        return await self.client(Origin.of(url), Fixed(authorization)).fetch_once(
            request, limit=_MAX_TOKEN_ANSWER, parse=lambda _, body: body
        )


@asynccontextmanager
async def _connected(origin: Origin, settings: Settings, observer: Observer, *, side: Side) -> AsyncIterator[_Stack]:
    guard = AddressGuard()
    trust = _trust(origin, settings, side)
    proxies = Proxies.of(settings.environment)

    def foreign_proxy(url: str) -> str | None:
        if not guard.allows(Origin.of(url).host):
            raise UnsafeRedirect(f"a server sent us to {Origin.of(url).netloc}, which is a private address: refused")

        return proxies.find(url)

    async with (
        AiohttpTransport(
            socket_factory=guard.trusted_socket,
            tls=tls_context(trust),
            find_proxy=proxies.find if proxies.by_scheme else None,
        ) as direct,
        AiohttpTransport(
            socket_factory=guard.guarded_socket,
            tls=tls_context(trust, is_own=False),
            find_proxy=foreign_proxy if proxies.by_scheme else None,
        ) as foreign,
    ):
        yield _Stack(origin, direct, foreign, Gates(observer), settings, observer, side)


@asynccontextmanager
async def connect(settings: Settings, observer: Observer, *, namespace: str = "") -> AsyncIterator[Services]:
    """Open what is needed to talk to the server of `settings`; connections are made when they are used.

    `namespace` is what the images' names begin with: credentials may be kept for it alone.

    :raises ConfigError: when a file of certificates makes no sense.
    """
    origin, token = settings.origin, settings.api_token
    async with _connected(origin, settings, observer, side=Side.SOURCE) as stack:
        credentials = settings.credentials
        api = Fixed(Secret(f"Bearer {token.reveal()}") if token is not None else None)
        yield Services(
            api=QuayAPI(stack.client(origin, api), has_token=token is not None),
            source=RemoteSource(stack.registry(credentials, namespace)),
        )


@asynccontextmanager
async def connect_target(
    origin: Origin, settings: Settings, observer: Observer, *, namespace: str = ""
) -> AsyncIterator[Client]:
    """Open what is needed to talk to the registry at `origin`, the target; see `connect`."""
    async with _connected(origin, settings, observer, side=Side.TARGET) as stack:
        yield stack.registry(settings.dest_credentials, namespace)


def _trust(origin: Origin, settings: Settings, side: Side) -> Trust:
    is_source = side is Side.SOURCE
    named = settings.src_cert_dir if is_source else settings.dest_cert_dir
    return Trust(
        cafile=settings.cafile,
        directory=named or certificate_directory(origin.netloc, settings.environment),
        verify=settings.src_tls_verify if is_source else settings.dest_tls_verify,
    )


async def _find_credentials(
    settings: Settings, origin: Origin, given: Credentials | None, namespace: str
) -> Credentials | None:
    if given is not None:
        return given

    store = CredentialStore(authfile=settings.authfile, env=settings.environment)
    found = await store.find(origin.netloc, namespace or None)
    if found is None and settings.api_token is not None and origin == settings.origin:
        # Quay takes its API token here as the password of this user: one credential serves both faces.
        return Credentials("$oauthtoken", settings.api_token)

    return found
