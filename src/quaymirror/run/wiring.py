"""Clients of source and target, wired as the options say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..auth.namespaces import ByNamespace
from ..auth.tokens import TokenAuth
from ..catalog.base import Discovery
from ..catalog.kinds import DEFAULT, Services, find_kind
from ..errors import ConfigError, Scope, Side, UnsafeRedirect
from ..events import Notice, Observer
from ..http.authorizer import Authorizer, Fixed
from ..http.budget import BudgetedClient, PullBudget
from ..http.client import Client
from ..http.exchange import Request, Transport
from ..http.guard import AddressGuard
from ..http.helper import Helper, Site
from ..http.limiter import HostLimiters, PauseSeen, Runtime, ignore_pause
from ..http.origin import Origin, request_target
from ..http.proxy import Proxies
from ..http.rate import Throttle
from ..http.retry import Attempts
from ..http.tls import Trust, certificate_directory, tls_context
from ..http.transport import AiohttpTransport
from ..registry.foreign import ForeignLayers
from ..registry.pull import RegistryPuller
from ..secret import Credentials, Secret
from ..selection.bucket import is_bucket
from ..selection.selection import Selection
from ..selection.source import SourceAddress, distinct
from ..settings import Options
from ..targets.bucket import locate_bucket
from ..values import dataclass

if TYPE_CHECKING:
    from ..auth.credentials import CredentialStore

_MAX_TOKEN_ANSWER = 64 * 1024

SideLimits = tuple[HostLimiters, Throttle | None]
"""The limits of all requests to one side, and of all its bytes."""


@dataclass(frozen=True, slots=True)
class Connection:
    """The shared parts of all clients of one server and its token service."""

    origin: Origin
    direct: Transport
    foreign: Transport
    limiters: HostLimiters
    isolated_limiters: HostLimiters
    options: Options
    observer: Observer
    side: Side

    def client(self, at: Origin, authorizer: Authorizer, budget: PullBudget | None = None) -> Client:
        """Return a client of `at`. Origins other than the server's own must have an address that servers may name."""
        make = Client if budget is None else BudgetedClient.of(budget)
        return make(
            at,
            direct=self.direct if at == self.origin else self.foreign,
            foreign=self.foreign,
            limiters=self.limiters,
            retries=replace(self.options.client.retry, retries=self.options.client.retries),
            timeouts=self.options.client.timeouts,
            authorizer=authorizer,
            observer=self.observer,
            side=self.side,
        )

    def untrusted_client(self, at: Origin) -> Client:
        """Return a client of an untrusted host: without credentials, only for addresses that servers may name."""
        return replace(self, direct=self.foreign, limiters=self.isolated_limiters).client(at, Fixed())

    def of_run(self, options: Options, observer: Observer) -> Connection:
        """Return the connection as a run with `options` uses it; `observer` gets its retries."""
        return replace(self, options=options, observer=observer)

    def token_auth(
        self, credentials: Credentials | None, namespace: str, realms: frozenset[str] = frozenset()
    ) -> TokenAuth:
        """Return the authorizer for the registry: with `credentials` or those that the user stored for `namespace`.

        Token services at the hosts `realms` are trusted, too.
        """
        return TokenAuth(
            self.origin,
            ask=self._ask_for_token,
            find_credentials=partial(self._find_credentials, credentials, namespace),
            allowed_realms=realms.union(self.options.client.allow_realms),
            # Public repositories of a source need no token, but every push does.
            asks_ahead=self.side is Side.TARGET,
            clock=self.options.client.retry.clock,
        )

    async def _find_credentials(self, given: Credentials | None, namespace: str) -> Credentials | None:
        if given is not None:
            return given

        source = self.options.source
        found = await _open_store(self.options).find(self.origin.netloc, namespace or None)
        if found is None and source.api_token is not None and self.origin == source.origin:
            # Quay accepts its API token as the password of this user: one credential serves both APIs.
            return Credentials("$oauthtoken", source.api_token)

        return found

    async def _ask_for_token(self, url: str, authorization: Secret | None, form: Secret | None) -> bytes:
        origin = Origin.of(url)
        request = Request(request_target(url), kind="token", name=f"the token service at {origin.netloc}")
        if form is not None:
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            request = replace(request, method="POST", headers=headers, body=form.reveal().encode())

        client = self.client(origin, Fixed(authorization))
        return await client.fetch_once(request, limit=_MAX_TOKEN_ANSWER, parse=lambda _, body: body)


@asynccontextmanager
async def open_connection(
    origin: Origin,
    options: Options,
    observer: Observer,
    *,
    side: Side,
    limits: SideLimits | None = None,
    helper: Helper | None = None,
) -> AsyncIterator[Connection]:
    """Open the connection that several runs with the same `connection` options share; `observer` gets its pauses.

    Connections to several hosts of one side share the same `limits`, and the same `helper` for large bodies.

    :raises ConfigError: if a file of certificates is invalid.
    """
    guard = AddressGuard()
    trust = _trust(origin, options, side)
    proxies = Proxies.of(options.client.environment)
    limiters, bandwidth = limits or _limits(options, observer, side)
    limiters.trust(origin.netloc)

    def foreign_proxy(url: str) -> str | None:
        if not guard.allows(Origin.of(url).host):
            raise UnsafeRedirect(f"a server redirected to {Origin.of(url).netloc}, which is a private address: refused")

        return proxies.find(url)

    timeouts = options.client.timeouts
    transport = partial(AiohttpTransport, timeouts=timeouts, bandwidth=bandwidth)
    to_server, to_others = (proxies.find, foreign_proxy) if proxies.by_scheme else (None, None)
    trusted, guarded = tls_context(trust), tls_context(trust, is_own=False)

    def helping(*, is_guarded: bool) -> tuple[Helper, Site] | None:
        return None if helper is None else (helper, Site(guard, is_guarded, trust, timeouts))

    own = helping(is_guarded=False)
    others = helping(is_guarded=True)
    async with (
        transport(socket_factory=guard.trusted_socket, tls=trusted, find_proxy=to_server, helper=own) as direct,
        transport(socket_factory=guard.guarded_socket, tls=guarded, find_proxy=to_others, helper=others) as foreign,
    ):
        yield Connection(origin, direct, foreign, limiters, limiters.isolated(), options, observer, side)


class SourceConnections:
    """Connections to the hosts of sources, each opened when it is first used and kept as long as `stack` is open."""

    def __init__(
        self,
        options: Options,
        observer: Observer,
        stack: AsyncExitStack,
        pause_seen: PauseSeen = ignore_pause,
    ) -> None:
        self._options = options
        self._observer = observer
        self._stack = stack
        self._limits = _limits(options, observer, Side.SOURCE, pause_seen)
        self._open: dict[Origin, Connection] = {}
        self._helper = Helper()
        stack.push_async_callback(self._helper.close)

    @property
    def limiters(self) -> HostLimiters:
        """The limiters of all hosts of the sources."""
        return self._limits[0]

    @property
    def requests(self) -> float:
        """The requests to all hosts so far, counted if their number per second is limited."""
        return self.limiters.requests

    async def get(self, origin: Origin) -> Connection:
        """Return the connection to `origin`.

        :raises ConfigError: if a file of certificates is invalid.
        """
        if origin not in self._open:
            opening = open_connection(
                origin, self._options, self._observer, side=Side.SOURCE, limits=self._limits, helper=self._helper
            )
            self._open[origin] = await self._stack.enter_async_context(opening)

        return self._open[origin]


class Accounts:
    """The organizations of Quay of which an account of the registry may list private repositories.

    Without an API token, that is the account of `options`, or a robot account of the organization that the user stored.
    `observer` gets a notice about stored credentials that can't be read.
    """

    def __init__(self, options: Options, observer: Observer) -> None:
        self._options = options
        self._observer = observer
        self._known: dict[tuple[Origin, str], bool] = {}

    async def has(self, organization: str, origin: Origin | None = None) -> bool:
        """Return True if there is one for `organization` at `origin`, None for the server of the options."""
        origin = origin or self._options.source.origin
        if self._options.source.api_token is not None and origin == self._options.source.origin:
            return False

        if self._options.source.credentials is not None:
            return True

        if (origin, organization) not in self._known:
            self._known[origin, organization] = await self._has_robot(organization, origin)

        return self._known[origin, organization]

    async def _has_robot(self, organization: str, origin: Origin) -> bool:
        try:
            found = await _open_store(self._options).find(origin.netloc, organization)
        except ConfigError as error:
            # Public repositories need no account.
            message = f"the listing of {organization} has no private repositories: {error.message}"
            self._observer(Notice(message, lasting=True))
            return False

        return found is not None and found.username.startswith(f"{organization}+")


def _open_store(options: Options) -> CredentialStore:
    # Imported when it is needed: public mirrors of other registries than Quay need none.
    from ..auth.credentials import CredentialStore

    return CredentialStore(authfile=options.client.authfile, env=options.client.environment)


@dataclass(frozen=True, slots=True)
class RunAccess:
    """The means of one run to open the source at `address`; see `SourceAccess`."""

    address: SourceAddress
    options: Options
    observer: Observer
    connections: SourceConnections
    accounts: Accounts

    @property
    def discovery(self) -> Discovery:
        """The way of resolving tags that the user wants."""
        return self.options.discovery.discovery

    @property
    def api_token(self) -> Secret | None:
        """The API token, if this is the Quay server that it was given for."""
        is_its_own = self.address.kind == DEFAULT and self.address.origin == self.options.source.origin
        return self.options.source.api_token if is_its_own else None

    def attempts(self, host: str, what: str) -> Attempts:
        """Return the attempts of an operation; see `SourceAccess.attempts`."""
        policy = replace(self.options.client.retry, retries=self.options.client.retries)
        timeouts = self.options.client.timeouts.repeats
        return Attempts(policy, what, host=host, timeouts=timeouts, observer=self.observer)

    async def client(self, origin: Origin, authorizer: Authorizer) -> Client:
        """Return a client of `origin`; see `SourceAccess.client`."""
        connection = await self.connections.get(origin)
        return connection.of_run(self.options, self.observer).client(origin, authorizer)

    def home(self) -> Path:
        """Return the directory of the layout at `address`; see `SourceAccess.home`."""
        place = self.address.path
        return locate_bucket(place, self.options) if is_bucket(place) else Path(place)

    @property
    def clock(self) -> Callable[[], float]:
        """The clock of the run, in seconds."""
        return self.options.client.retry.clock

    async def has_account(self, organization: str) -> bool:
        """Return True if an account may read private repositories of `organization`; see `SourceAccess.has_account`."""
        return await self.accounts.has(organization, self.address.origin)

    async def api_credentials(self, namespace: str) -> Credentials | None:
        """Return the credentials for the API of this source; see `SourceAccess.api_credentials`."""
        if self.options.source.credentials is not None:
            return self.options.source.credentials

        api, store = Origin.of(self.address.api_url).netloc, _open_store(self.options)
        # The API at its usual host belongs to the registry; any other host gets the credentials stored under its name.
        hosts = [api] if self.address.api else [self.address.registry_name, api]
        for host in dict.fromkeys(hosts):
            if (found := await store.find(host, namespace or None)) is not None:
                return found

        return None

    async def registry_client(self, origin: Origin, budget: PullBudget | None = None, *, namespace: str = "") -> Client:
        """Return a client of the registry at `origin`; see `SourceAccess.registry_client`."""
        connection = (await self.connections.get(origin)).of_run(self.options, self.observer)
        # GitLab is the token service of its registry. The user named both hosts.
        realms = frozenset([Origin.of(self.address.api_url).netloc] if self.address.kind == "gitlab" else [])
        # Credentials may be stored for a single organization.
        make = partial(connection.token_auth, self.options.source.credentials, realms=realms)
        return connection.client(origin, make(namespace) if namespace else ByNamespace(make), budget)

    async def puller(self, origin: Origin, budget: PullBudget | None = None) -> RegistryPuller:
        """Return a client that pulls from the registry at `origin`; see `SourceAccess.puller`."""
        connection = (await self.connections.get(origin)).of_run(self.options, self.observer)
        untrusted = connection.untrusted_client if self.options.source.allow_foreign_layers else None
        client = await self.registry_client(origin, budget)
        return RegistryPuller(client, foreign=ForeignLayers(origin, untrusted))


class OpenSources:
    """The sources of one run, each opened when it is first used and kept as long as `stack` is open."""

    def __init__(
        self,
        options: Options,
        observer: Observer,
        connections: SourceConnections,
        stack: AsyncExitStack,
        accounts: Accounts,
    ) -> None:
        self._access = partial(
            RunAccess, options=options, observer=observer, connections=connections, accounts=accounts
        )
        self._stack = stack
        self._default = SourceAddress.of_origin(DEFAULT, options.source.origin)
        self._open: dict[SourceAddress, Services] = {}

    async def open(self, address: SourceAddress | None) -> Services:
        """Return the services of a source, None for the Quay server of the options.

        :raises ConfigError: if a file of certificates is invalid.
        :raises QuaymirrorError: if it can't be opened.
        """
        address = address or self._default
        if address not in self._open:
            opening = find_kind(address.kind).open(self._access(address))
            self._open[address] = await self._stack.enter_async_context(opening)

        return self._open[address]


@asynccontextmanager
async def connect(options: Options, observer: Observer) -> AsyncIterator[OpenSources]:
    """Provide the sources of a command; connections are made on first use."""
    async with AsyncExitStack() as stack:
        connections = SourceConnections(options, observer, stack)
        yield OpenSources(options, observer, connections, stack, Accounts(options, observer))


def check_credentials(selections: Iterable[Selection], options: Options) -> None:
    """Check that credentials given as options are for one host.

    :raises ConfigError: if the sources of `selections` are on several hosts.
    """
    addresses = distinct(options.source.address_of(selection) for selection in selections)
    hosts = sorted({address.host for address in addresses if address.host})
    if len(hosts) > 1 and options.source.credentials is not None:
        raise ConfigError(
            f"--username is for one host, but the sources are on {len(hosts)}: {', '.join(hosts)}; "
            "put the credentials of each into an auth file"
        )


@asynccontextmanager
async def connect_target(
    origin: Origin, options: Options, observer: Observer, *, namespace: str = ""
) -> AsyncIterator[Client]:
    """Open a client of the registry at `origin`, the target; see `connect`."""
    async with open_connection(origin, options, observer, side=Side.TARGET) as connection:
        yield connection.client(origin, connection.token_auth(options.target.dest_credentials, namespace))


def _limits(options: Options, observer: Observer, side: Side, pause_seen: PauseSeen = ignore_pause) -> SideLimits:
    """Return the limiters of requests, and the limit on all bytes, if any.

    The user's limits are for the source only: everything that is pushed comes from there. A run ends without its
    source; without the target each image that needs it fails on its own.
    """
    retry, limits = options.client.retry, options.limits
    runtime = Runtime(observer, retry.clock, retry.sleep, pause_seen=pause_seen)
    if side is Side.TARGET:
        return HostLimiters(runtime, patience=retry.patience, given_up=Scope.IMAGE, own=set()), None

    if limits.max_requests_per_second is not None:
        runtime = replace(runtime, total=Throttle(limits.max_requests_per_second, clock=retry.clock, sleep=retry.sleep))

    bandwidth = limits.limit_rate and Throttle(limits.limit_rate, clock=retry.clock, sleep=retry.sleep)
    return HostLimiters(runtime, patience=retry.patience, own=set()), bandwidth or None


def _trust(origin: Origin, options: Options, side: Side) -> Trust:
    is_source = side is Side.SOURCE
    named = options.source.src_cert_dir if is_source else options.target.dest_cert_dir
    return Trust(
        cafile=options.client.cafile,
        directory=named or certificate_directory(origin.netloc, options.client.environment),
        verify=options.source.src_tls_verify if is_source else options.target.dest_tls_verify,
    )
