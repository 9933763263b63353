"""Bearer tokens of a registry: fetched from its token service, shared by requests, and renewed in time.

Credentials are bound to one origin when they are found, and only used by the client of that origin.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import urlencode, urlsplit

import anyio

from ..errors import (
    AccessDenied,
    ConfigError,
    CredentialsRefused,
    QuaymirrorError,
    RealmRefused,
    ServiceError,
    Unavailable,
    UnsafeRedirect,
)
from ..http.origin import Origin
from ..secret import Credentials, Secret
from ..values import dataclass
from .challenge import Challenge, TokenAnswer, parse_challenges, parse_token, sort_by_grant

# A token that expires while a request is on its way is not worth sending.
_MARGIN_SECONDS = 15.0
# More make a header that Quay's nginx refuses.
_MAX_SCOPES = 30
_CLIENT_ID = "quaymirror"
# Token services on other hosts that belong to the registry.
_KNOWN_REALMS = {"registry-1.docker.io": {"auth.docker.io"}, "registry.gitlab.com": {"gitlab.com"}}


TokenService = Callable[[str, Secret | None, Secret | None], Awaitable[bytes]]
"""Called with a URL, the value of `Authorization`, and a form to POST: returns the body of the answer."""


@dataclass(frozen=True, slots=True)
class _Token:
    header: Secret
    expires: float
    scopes: frozenset[str]
    granted: frozenset[str]
    denied: frozenset[str]


class TokenAuth:
    """The authorizer for one registry: no token until it asks for one, then as few as possible.

    With `asks_ahead` every request gets a token once the registry has asked for one. `find_credentials` is called
    once, and only after a challenge: a public mirror never asks a keychain.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        ask: TokenService,
        find_credentials: Callable[[], Awaitable[Credentials | None]],
        allowed_realms: frozenset[str] = frozenset(),
        asks_ahead: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._origin = origin
        self._ask = ask
        self._find_credentials = find_credentials
        self._allowed_realms = allowed_realms
        self._asks_ahead = asks_ahead
        self._clock = clock
        self._tokens: dict[str, _Token] = {}
        self._bearer: Challenge | None = None
        self._basic: Secret | None = None
        self._credentials: Credentials | None = None
        self._looked_up = False
        self._lookup = anyio.Lock()
        self._fetching = anyio.Lock()
        self._is_refused = False
        # Scopes by their main one, and how many requests wait for a token.
        self._needs: dict[str, tuple[str, ...]] = {}
        self._waiting: Counter[str] = Counter()

    async def header(self, scope: str | None) -> Secret | None:
        """Return the token for `scope`, None without one that is still good and allows all of it.

        With `asks_ahead`, the token service, once it is known, is asked before the registry refuses a request.
        """
        header = self._header(scope)
        if header is None and self._asks_ahead and self._bearer is not None and scope:
            with self._waiting_for(_subject(scope), scope):
                async with self._fetching:
                    if self._header(scope) is None:
                        await self._renew(self._bearer, _subject(scope), (scope or "").split())

            header = self._header(scope)

        return header

    def _header(self, scope: str | None) -> Secret | None:
        token = self._good_token(_subject(scope), (scope or "").split())
        return token.header if token is not None else self._basic

    async def challenged(self, fields: Iterable[str], scope: str | None, refused: Secret | None) -> bool:
        """Fetch what the challenge asks for; see `Authorizer.challenged`.

        :raises RealmRefused: if the realm is not trusted with credentials.
        """
        challenges = {challenge.scheme: challenge for challenge in parse_challenges(fields)}
        subject = _subject(scope)
        with self._waiting_for(subject, scope):
            # Requests challenged while a token is being fetched wait and share the next token.
            async with self._fetching:
                current = self._header(scope)
                if current is not None and current is not refused:
                    return True  # another request got it in the meantime

                if bearer := challenges.get("bearer"):
                    self._bearer = bearer
                    await self._renew(bearer, subject, (scope or "").split())
                    return True

                return "basic" in challenges and await self._use_basic(refused)

    def allows(self, scope: str | None) -> bool:
        """Return True if the token for `scope` says that it allows that; see `Authorizer.allows`."""
        token = self._tokens.get(_subject(scope))
        return token is not None and bool(scope) and token.granted.issuperset((scope or "").split())

    def denial(self, scope: str | None) -> str:
        """Return the sentence about what the token for `scope` says that it does not allow; see `Authorizer.denial`."""
        token = self._tokens.get(_subject(scope))
        denied = next((one for one in (scope or "").split() if token is not None and one in token.denied), None)
        if denied is None or self._credentials is None:
            return ""

        account = "this account" if self._credentials.is_identity_token else f"the account {self._credentials.username}"
        name, _, actions = denied.partition(":")[2].rpartition(":")
        organization, slash, _ = name.rpartition("/")
        verb, missing = ("push to", "organization") if "push" in actions else ("pull from", "repository")
        place = organization if slash and verb == "push to" else name
        return f"{account} may not {verb} {self._origin.netloc}/{place}: no such {missing}, or no permission"

    @contextmanager
    def _waiting_for(self, subject: str, scope: str | None) -> Iterator[None]:
        """Request `scope` as well with tokens that are fetched while the context lasts.

        The earlier needs of `subject` are kept, otherwise two of them would take turns; but not those for which no
        token was given.
        """
        earlier = self._needs.get(subject, ())
        self._need(subject, (scope or "").split())
        self._waiting[subject] += 1
        try:
            yield
        except ServiceError:
            self._needs[subject] = earlier
            raise
        finally:
            self._waiting[subject] -= 1

    def _need(self, subject: str, scopes: list[str]) -> None:
        self._needs[subject] = tuple(dict.fromkeys([*scopes, *self._needs.get(subject, ())]))[:_MAX_SCOPES]

    async def _renew(self, challenge: Challenge, subject: str, own: list[str]) -> None:
        """Fetch a token for `subject`, and for as many other waiting ones as one token can hold.

        Some services reject all scopes because of one. The others must not fail for it, so a request that fails is
        repeated for `subject` alone, and then for the scopes of its request, `own`.
        """
        self._need(subject, own)  # another request for the same subject may have failed in between, and dropped them
        batch = [subject]
        for other in +self._waiting:
            is_served = self._good_token(other, self._needs[other]) is not None
            if other not in ("", subject) and not is_served and len(self._needed([*batch, other])) <= _MAX_SCOPES:
                batch.append(other)

        wanted = [(batch, self._needed(batch)), ([subject], self._needed([subject])), ([subject], own)]
        for number, (subjects, scopes) in enumerate(wanted, 1):
            is_last = all(set(scopes) == set(others) for _, others in wanted[number:])
            try:
                token = await self._fetch(challenge, scopes)
            except ServiceError:
                if is_last:
                    raise
            else:
                self._tokens.update(dict.fromkeys(subjects, token))
                return

    def _needed(self, subjects: Iterable[str]) -> list[str]:
        return list(dict.fromkeys(scope for subject in subjects for scope in self._needs[subject]))

    def _good_token(self, subject: str, scopes: Iterable[str]) -> _Token | None:
        token = self._tokens.get(subject)
        return token if token and token.scopes.issuperset(scopes) and self._clock() < token.expires else None

    async def _use_basic(self, refused: Secret | None) -> bool:
        credentials = await self._own_credentials()
        if credentials is None:
            return False

        if refused is not None:
            raise self._refusal(credentials)

        try:
            self._basic = credentials.basic()
        except ConfigError as error:
            raise ConfigError(f"{self._origin.netloc} wants a password: {error.message}") from None

        return True

    async def _fetch(self, challenge: Challenge, scopes: list[str]) -> _Token:
        realm = self._checked_realm(challenge.parameters.get("realm", ""))
        credentials = await self._own_credentials()
        if credentials is not None and self._is_refused:
            # Each further request with the same credentials brings the account closer to being locked.
            raise self._refusal(credentials)

        try:
            answer = await self._exchange(realm, challenge, scopes, credentials)
        except (ServiceError, UnsafeRedirect) as error:
            raise self._explained(error, credentials, scopes) from None

        granted, denied = sort_by_grant(answer.token, scopes)
        expires = self._clock() + answer.lifetime - _MARGIN_SECONDS
        return _Token(Secret(f"Bearer {answer.token}"), expires, frozenset(scopes), granted, denied)

    async def _exchange(
        self, realm: str, challenge: Challenge, scopes: list[str], credentials: Credentials | None
    ) -> TokenAnswer:
        service, offered = (challenge.parameters.get(key, "") for key in ("service", "scope"))
        wanted = scopes or [offered] * bool(offered)
        if credentials is not None and credentials.is_identity_token:
            form = _refresh_form(service, wanted, credentials)
            answer = parse_token(await self._ask(realm, None, form))
            if answer.refresh_token is not None:
                # The service may replace the identity token with each use (RFC 6749, section 6).
                self._credentials = Credentials.identity_token(Secret(answer.refresh_token), source=credentials.source)

            return answer

        # One parameter per scope: Quay takes no list in one (token specification: "scope" may be given several times).
        query = urlencode([*([("service", service)] * bool(service)), *(("scope", scope) for scope in wanted)])
        url = f"{realm}{'&' if urlsplit(realm).query else '?'}{query}" if query else realm
        return parse_token(await self._ask(url, credentials.basic() if credentials else None, None))

    def _explained(
        self, error: ServiceError | UnsafeRedirect, credentials: Credentials | None, scopes: list[str]
    ) -> QuaymirrorError:
        """Return the error to raise after one of the token service."""
        if isinstance(error, UnsafeRedirect):
            return RealmRefused(error.message)

        if isinstance(error, Unavailable) and not error.status:
            return error.replace(f"{self._origin.netloc}: {error.message}")

        is_token = credentials is not None and credentials.is_identity_token
        if credentials is not None and (isinstance(error, AccessDenied) or (is_token and error.status == 400)):
            # 403 may be about the requested scopes, and so may 401 if there were several. An identity token that is
            # not valid any more is answered with 400 (RFC 6749, section 5.2).
            self._is_refused = error.status in (400, 401) and len(scopes) <= 1
            return self._refusal(credentials)

        return error

    def _refusal(self, credentials: Credentials) -> CredentialsRefused:
        return CredentialsRefused(f"{self._origin.netloc} rejects {credentials}")

    def _checked_realm(self, realm: str) -> str:
        name = self._origin.netloc
        try:
            target = Origin.of(realm)
        except ValueError as error:
            raise RealmRefused(f"{name} names a token service with an unusable URL: {error}") from None

        if self._origin.is_secure and not target.is_secure:
            raise RealmRefused(f"{name} uses a token service over plain HTTP, which is refused")

        allowed = self._allowed_realms | _KNOWN_REALMS.get(name, set())
        if target.netloc != name and not {target.host, target.netloc} & allowed:
            raise RealmRefused(
                f"{name} uses a token service on another host ({target.netloc}), which is blocked by default: "
                f"add --allow-realm {target.netloc} if you trust it"
            )

        return realm

    async def _own_credentials(self) -> Credentials | None:
        async with self._lookup:
            if not self._looked_up:
                self._credentials = await self._find_credentials()
                self._looked_up = True

        return self._credentials


def _refresh_form(service: str, scopes: list[str], credentials: Credentials) -> Secret:
    """Return the form that exchanges an identity token (Docker registry token specification, "OAuth2")."""
    fields = {
        "grant_type": "refresh_token",
        "service": service,
        "client_id": _CLIENT_ID,
        "access_type": "online",
        "scope": " ".join(scopes),
        "refresh_token": credentials.secret.reveal(),
    }
    return Secret(urlencode({name: value for name, value in fields.items() if value}))


def _subject(scope: str | None) -> str:
    """Return the main one of the scopes of a request: the first."""
    return (scope or "").partition(" ")[0]
